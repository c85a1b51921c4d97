//! How long commits take, as the leader sees it.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Microseconds: from a fast disk to a leader that lost its quorum for a while.
const BOUNDS_US: [u64; 21] = [
    100, 200, 300, 500, 750, 1_000, 1_500, 2_000, 3_000, 4_000, 6_000, 8_000, 12_000, 16_000, 25_000, 50_000, 100_000,
    250_000, 500_000, 1_000_000, 5_000_000,
];

/// Of the entries that this node has proposed as leader: from handing them to the log until they were applied here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitTimes {
    /// How many took no longer than this, and longer than the bound before; the last is everything else.
    pub buckets: Vec<(Duration, u64)>,
    /// All of them together.
    pub sum: Duration,
}

#[derive(Debug, Default)]
pub(super) struct CommitClock {
    buckets: [AtomicU64; BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

impl CommitClock {
    pub(super) fn note(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_US.partition_point(|bound| *bound < us);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    pub(super) fn times(&self) -> CommitTimes {
        let bounds = BOUNDS_US.into_iter().map(Duration::from_micros).chain([Duration::MAX]);
        let counts = self.buckets.iter().map(|count| count.load(Ordering::Relaxed));
        let sum = Duration::from_micros(self.sum_us.load(Ordering::Relaxed));
        CommitTimes { buckets: bounds.zip(counts).collect(), sum }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_time_is_counted_once_under_the_first_bound_that_holds_it() {
        let clock = CommitClock::default();
        for us in [1, 100, 101, 5_000_000, 5_000_001] {
            clock.note(Duration::from_micros(us));
        }
        let CommitTimes { buckets, sum } = clock.times();
        let counted: Vec<u64> = buckets.iter().map(|(_, count)| *count).filter(|count| *count > 0).collect();
        assert_eq!((buckets[0].1, buckets[1].1), (2, 1));
        assert_eq!((counted, sum), (vec![2, 1, 1, 1], Duration::from_micros(10_000_203)));
        assert_eq!(buckets.last().map(|(bound, _)| *bound), Some(Duration::MAX));
    }
}
