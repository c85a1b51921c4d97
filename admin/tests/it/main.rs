//! The admin plane as its callers see it: a real port, a node in memory.
#![expect(clippy::unwrap_used, reason = "a test that can not go on has failed")]

mod alerts;
mod auth;
mod bill;
mod config;
mod credits;
mod fake;
mod http;
mod ledger;
mod limits;
mod reconcile;
mod server;
mod tokens;
mod zones;
