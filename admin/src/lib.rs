//! The admin plane: one port that speaks gRPC, gRPC-Web and plain HTTP for probes and metrics.
//!
//! A call passes `server/` (a connection, a route), `auth/` (who calls, may they: by headers alone, before a byte of the
//! message is read) and then a service: `config/`, `cluster`, `credits`, `limits`, `money`, `usage`. What a service needs of the node is the
//! trait [`Backplane`]: this crate knows neither Raft nor the ledger. [`TokenTable`] and [`DrainedZones`] are the
//! replicated state that lives here.
//!
//! Always: writes are validated here, decided by the log, and forwarded to the leader by the backplane; an outcome that
//! is not known is reported as such; every refusal says why in words and in [`details`].

mod alerts;
mod auth;
pub mod backplane;
mod bill;
mod call;
mod cluster;
mod config;
mod credits;
pub mod details;
mod health;
mod ledger;
mod limits;
mod metrics;
mod money;
mod periods;
mod reconcile;
mod server;
pub mod tokens;
mod usage;
pub mod zones;

pub use auth::{Access, METHODS, READING};
pub use backplane::Backplane;
pub use metrics::AdminMetrics;
pub use server::{AdminState, MAX_ANSWER_BYTES, MAX_APPLY_BYTES, Shutdown, serve};
pub use tokens::{Role, TokenTable};
pub use zones::DrainedZones;
