//! What the crate does, seen from outside: recorded exchanges, bad input, and streams cut everywhere.
#![expect(clippy::unwrap_used, reason = "helpers of tests panic like tests")]

mod bounds;
mod golden;
mod refusals;
mod streams;
