//! Why a reservation was not made, in terms that a caller can act on.

use std::time::Duration;

use tollgate_model::{LogIndex, Name};

use crate::Standing;

/// A reservation that was not made. Nothing is held.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ReserveError {
    /// Not enough is left in an account until its window turns: the log said no (429).
    #[error("limit {limit} is exhausted")]
    Exhausted {
        /// The limit that stood in the way; of several, the one whose window ends last.
        limit: Name,
        /// What an account of it holds in all.
        capacity: u64,
        /// What is left in the account.
        remaining: u64,
        /// Until its window ends.
        retry_after: Duration,
        /// Every account on the path as it stood then, for the answer's headers.
        standings: Vec<Standing>,
    },
    /// Alone the amount is more than the whole capacity: it can never be admitted (400).
    #[error("the request alone exceeds limit {limit}")]
    ExceedsLimit {
        /// The limit.
        limit: Name,
        /// What an account of it holds in all.
        capacity: u64,
        /// What was asked for.
        amount: u64,
    },
    /// The limit was changed since the charges were computed: compute them again, from a configuration at least this new.
    #[error("limit {limit} was changed meanwhile")]
    Stale {
        /// The limit.
        limit: Name,
        /// The index that the configuration view must have reached.
        version: LogIndex,
    },
    /// It could not be decided (503, may be retried).
    #[error("quota is unavailable")]
    Unavailable(#[source] Unavailable),
}

/// Why a reservation could not be decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unavailable {
    /// The log did not answer by the deadline.
    #[error("no decision by the deadline")]
    Deadline,
    /// Too many requests are open or waiting on this node.
    #[error("too many open requests")]
    Overloaded,
    /// This node is stopping.
    #[error("the node is stopping")]
    Stopping,
    /// A newer process runs under this node's id: this one must end.
    #[error("this incarnation of the node was fenced")]
    Fenced,
    /// What has to be on this node's disk before the request is sent out is not: the disk is full, or too slow.
    #[error("the journal can't be written")]
    Journal,
    /// An account on the path does not add up: it is closed until its window turns, or somebody has looked at it.
    #[error("an account does not add up and is closed")]
    Quarantined,
    /// The charges are malformed: a limit twice, a key of the wrong shape, or too many.
    #[error("malformed charges")]
    Invalid,
}
