//! The state behind the log: what is applied, how it is kept for a fast start, and openraft's view of it.

mod adapter;
mod dedup;
mod digest;
mod replicated;
mod rows;
mod rows_db;
mod store;

pub(crate) use adapter::{Machine, Progress};
pub(crate) use dedup::WINDOW_US;
pub(crate) use replicated::{Begun, Replicated};
pub(crate) use store::{Found, StateStore};
