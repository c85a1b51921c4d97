//! Three nodes in one process, each with its own directory, port and certificate.
#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod bootstrap;
mod changes;
mod clocks;
mod cluster;
mod failover;
#[cfg(feature = "failpoints")]
mod failpoints;
mod membership;
mod peers;
mod raw;
mod refusals;
mod shares;
mod snapshots;
mod stale;
mod store;
mod writes;
