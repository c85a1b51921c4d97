//! One attempt at something that only the leader can do, and how attempts follow one another.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Between attempts: right after an election the leader has no lease for a few ms; an election takes a second.
const FIRST_PAUSE: Duration = Duration::from_millis(3);
const MAX_PAUSE: Duration = Duration::from_millis(100);

/// What one attempt came to.
#[derive(Debug)]
pub(crate) enum Attempt<T, E> {
    Done(T),
    /// For good.
    Refused(E),
    /// Surely not done: whoever was asked does not lead, or does not know yet that it does.
    NotLeader,
    /// May or may not be done.
    Unknown(String),
}

/// Grows from attempt to attempt, with jitter.
pub(super) struct Pause(Duration);

impl Pause {
    pub(super) fn new() -> Self {
        Self(FIRST_PAUSE)
    }

    /// Waits, at most until `deadline`.
    pub(super) async fn wait(&mut self, deadline: Instant) {
        let jittered = self.0.mul_f64(rand::random_range(0.5..1.0));
        sleep_until(deadline.min(Instant::now() + jittered)).await;
        self.0 = (self.0 * 2).min(MAX_PAUSE);
    }
}

/// What is left until `deadline`, for a peer.
pub(super) fn timeout_ms(deadline: Instant) -> u64 {
    let left = deadline.saturating_duration_since(Instant::now());
    u64::try_from(left.as_millis()).unwrap_or(u64::MAX)
}
