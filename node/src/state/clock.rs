//! Log time between entries: of the last one, and what has passed since.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use tollgate_model::Timestamp;

/// Log time as far as this node knows. Late by as much as the replica is, never early: not even where this node's clock runs
/// fast by one in a hundred.
#[derive(Debug)]
pub(super) struct LogClock {
    begun: Instant,
    /// What log time is ahead of this node's own clock; wraps. 0 before anything was applied.
    ahead: AtomicU64,
}

impl Default for LogClock {
    fn default() -> Self {
        Self { begun: Instant::now(), ahead: AtomicU64::new(0) }
    }
}

impl LogClock {
    /// An entry of this log time is applied.
    pub(super) fn set(&self, log_time: Timestamp) {
        self.ahead.store(log_time.0.wrapping_sub(passed(self.begun.elapsed())), Relaxed);
    }

    /// None before any entry.
    pub(super) fn now(&self) -> Option<Timestamp> {
        match self.ahead.load(Relaxed) {
            0 => None,
            ahead => Some(Timestamp(ahead.wrapping_add(passed(self.begun.elapsed())))),
        }
    }
}

fn passed(elapsed: Duration) -> u64 {
    super::unhurried(u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_on_from_the_last_entry() {
        let clock = LogClock::default();
        assert_eq!(clock.now(), None);
        for at in [1_800_000_000_000_000, 1_700_000_000_000_000] {
            clock.set(Timestamp(at));
            let (now, later) = (clock.now().unwrap(), clock.now().unwrap());
            assert!(now.0 >= at && later >= now && later.0 < at + 60_000_000, "{now} {later}");
        }
    }
}
