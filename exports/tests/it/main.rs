//! Exports of a ledger in memory: whole, cut and resumed, added up, and read back by readers that are not ours.
#![expect(clippy::unwrap_used, reason = "a test that can not go on has failed")]

mod readers;
mod resume;
mod sums;
mod validator;
mod world;
