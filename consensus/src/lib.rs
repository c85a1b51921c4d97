//! Raft: log, terms, snapshots, membership, peer transport and the state store; the state machine stays a trait.
//!
//! Commands are bytes and nothing of openraft is in the public API: openraft is generic, so that whoever names its
//! types compiles it.

mod config;
mod errors;
mod gate;
mod handle;
mod identity;
mod ids;
mod log;
mod machine;
mod node;
mod snapshot;
mod stamp;
mod state;
mod status;
mod transport;
mod types;

pub use config::{Clock, Config, FirstMember, Formation, Listen, OnFatal, PeerTls, SnapshotPolicy, Timing};
pub use errors::{CallError, ChangeError, ProposeError, ReadError, Removed, StartError};
pub use gate::{Gate, Passage};
pub use handle::{CallFuture, CallHandler, CallHandlers, Committed, Consensus};
pub use ids::{MAX_NODE_ID, incarnation_of, node_dns_name, node_of, raft_id};
pub use log::LogStats;
pub use machine::{Applied, Changes, Files, Fingerprint, Image, Row, StateMachine, fingerprint_of};
pub use node::{Change, CommitTimes, ShareStats};
pub use status::{Live, Local, Member, MemberStatus, Role, Status};
pub use types::Changed;
