//! One node's part in the cluster: openraft, and what is around it.

mod add;
mod ask;
mod attempt;
mod change;
mod clocks;
mod commits;
mod core;
mod disk;
mod form;
mod join;
mod keeper;
mod members;
mod memory;
mod papers;
mod propose;
mod reach;
mod read;
mod share;
mod shared;
mod standing;
mod start;
mod status;
mod stop;
mod wire;

pub(crate) use self::core::{Core, Raft};
pub(crate) use attempt::Attempt;
pub use change::Change;
pub use commits::CommitTimes;
pub use share::ShareStats;
pub(crate) use shared::Shared;
pub(crate) use start::start;
