//! The data plane: listeners, routing, authentication, admission, relaying.
//!
//! One request, file by file: `listener` accepts and inspects, [`exchange`] opens the exchange, `normalize` reads its
//! host and path, `routing` finds the route, `filters` say who calls and whether it may, `ai` or `service` sends it
//! upstream and relays the answer, `record` writes what happened.
//!
//! What always holds: a request keeps the configuration it began with; what was matched is what is sent on; framing
//! and identity are never copied from a client; nothing that was reserved is forgotten, whoever hangs up.
//!
//! Not here: what a model's words mean (`llm`), what a limit holds (`quota`), where configuration comes from (`node`).

mod access_log;
mod accounts;
mod ai;
mod balance;
mod body;
mod clock;
mod compiled;
mod config;
mod error;
mod exchange;
mod filters;
mod gateway;
mod grpc;
mod headers;
mod hops;
mod listener;
mod metrics;
mod normalize;
mod overload;
mod peers;
mod pricing;
mod record;
mod request_id;
mod retry;
mod routing;
mod service;
mod timer;
mod tls;
mod trace_context;
mod tracked;
mod upstream;
mod websocket;

pub use access_log::{AccessLog, Field as AccessLogField};
pub use accounts::Accounts;
pub use config::{Bounds, DnsConfig, GatewayConfig};
pub use gateway::{Gateway, Shutdown};
pub use listener::Entrance;
pub use peers::{KeyIsWell, KeyPlace, KeyRests, UpstreamLoad, UpstreamsWord};
pub use routing::{Asked, Matcher};
pub use tls::{FileCertificate, TlsFileError, TlsFiles};
