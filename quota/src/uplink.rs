//! The way up: how a frame gets to the leader and into the log, stated here and implemented where consensus is known.

use std::{error::Error, future::Future, pin::Pin};

use tokio::time::Instant;
use tollgate_proto::state::v1::{Frame, FrameOutcome};

/// A boxed future that may move between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Carries a frame to the leader and brings back what the log made of it.
pub trait Uplink: Send + Sync + 'static {
    /// Proposes `frame` and answers with its outcome once it is committed and applied by whoever answers.
    ///
    /// A frame may arrive twice, or after a later one was sent: the sequence numbers in it make that harmless, so no
    /// request id is needed. Whatever error comes back, the same frame is proposed again.
    fn propose(&self, frame: Frame, deadline: Instant) -> BoxFuture<'_, Result<FrameOutcome, UplinkError>>;
}

/// Why a proposal brought no outcome. The frame is sent again either way.
#[derive(Debug, thiserror::Error)]
pub enum UplinkError {
    /// Who leads was there, and did not take it.
    #[error("the log did not take it")]
    Refused(#[source] Box<dyn Error + Send + Sync>),
    /// It did not happen and will not: no leader, no quorum, no connection.
    #[error("the log cannot be reached")]
    NotDone(#[source] Box<dyn Error + Send + Sync>),
    /// It may or may not be in the log.
    #[error("the outcome of a proposal is unknown")]
    Unknown(#[source] Box<dyn Error + Send + Sync>),
}
