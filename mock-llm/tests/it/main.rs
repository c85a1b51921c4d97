//! The mock provider over real sockets.
#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod answers;
mod client;
mod failures;
mod streams;
mod witness;
