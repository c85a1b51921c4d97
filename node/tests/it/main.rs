//! Tests of the whole program and of the workspace's own rules.

mod ledger;
mod usage;
mod workspace;
