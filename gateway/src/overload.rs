//! What a node takes on at once: connections, requests, bytes of bodies, files. Whoever comes beyond that is told so at once, in a
//! few bytes, and nothing queues: a queue only makes everybody late.
//!
//! Not here: what an upstream takes (`upstream::endpoints`), what a caller may (`filters`).

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use prometheus_client::metrics::{counter::Counter, family::Family};
use tokio::{sync::Semaphore, time::Instant};
use tracing::warn;

use crate::{body::BodyFault, config::Bounds, metrics::ByLabels};

/// When to come again: by then what is short may be free.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(1);
/// The log tells of it once in so long.
const TELL_AGAIN: Duration = Duration::from_secs(10);

/// What is short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Short {
    Connections,
    /// Files that the process may still open: some are kept back for the log and the journal.
    Files,
    Requests,
    /// Memory for bodies that are read whole.
    Buffers,
}

impl Short {
    pub(crate) const ALL: [Self; 4] = [Self::Connections, Self::Files, Self::Requests, Self::Buffers];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Files => "files",
            Self::Requests => "requests",
            Self::Buffers => "buffers",
        }
    }
}

/// What one gateway has taken on, and may.
#[derive(Debug)]
pub(crate) struct Overload {
    bounds: Bounds,
    /// For connections.
    pub(crate) places: Arc<Semaphore>,
    buffered: AtomicUsize,
    /// Those that were turned away.
    counts: Family<ByLabels, Counter>,
    /// Turned away since the log told of it last, and when that was.
    untold: AtomicU64,
    told: Mutex<Option<Instant>>,
}

impl Overload {
    pub(crate) fn new(bounds: Bounds, counts: Family<ByLabels, Counter>) -> Arc<Self> {
        let places = Arc::new(Semaphore::new(bounds.max_connections.min(Semaphore::MAX_PERMITS)));
        let (buffered, untold, told) = (AtomicUsize::new(0), AtomicU64::new(0), Mutex::default());
        Arc::new(Self { bounds, places, buffered, counts, untold, told })
    }

    /// Whether so many requests, the last one among them, are too many.
    pub(crate) fn is_over(&self, requests: usize) -> bool {
        requests > self.bounds.max_requests
    }

    /// Whether a new connection has come so far up in the table of files that the log and the journal could lack some. The kernel gives
    /// the lowest number that is free: all below it are taken.
    pub(crate) fn is_short_of_files(&self, number: i32) -> bool {
        self.bounds.max_file.is_some_and(|most| u64::try_from(number).is_ok_and(|number| number >= most))
    }

    /// Room for one body, none taken yet.
    pub(crate) fn room(self: &Arc<Self>) -> Room {
        Room { of: Arc::clone(self), taken: 0 }
    }

    /// Somebody was turned away.
    pub(crate) fn shed(&self, short: Short) {
        self.counts.get_or_create(&ByLabels { by: short.as_str() }).inc();
        let untold = self.untold.fetch_add(1, Ordering::Relaxed) + 1;
        let Some(mut told) = self.told.try_lock() else { return };
        if told.is_some_and(|told| told.elapsed() < TELL_AGAIN) {
            return;
        }
        *told = Some(Instant::now());
        self.untold.fetch_sub(untold, Ordering::Relaxed);
        warn!(short = short.as_str(), turned_away = untold, "more comes than this node takes on");
    }
}

/// Memory that the bodies of one exchange take; free again when it is dropped.
#[derive(Debug)]
pub(crate) struct Room {
    of: Arc<Overload>,
    taken: usize,
}

impl Room {
    /// So many bytes more.
    ///
    /// # Errors
    /// All bodies together would be more than there may be.
    pub(crate) fn take(&mut self, bytes: usize) -> Result<(), BodyFault> {
        let before = self.of.buffered.fetch_add(bytes, Ordering::Relaxed);
        self.taken += bytes;
        if before.saturating_add(bytes) <= self.of.bounds.max_buffered_bytes {
            return Ok(());
        }
        self.of.shed(Short::Buffers);
        Err(BodyFault::NoRoom)
    }

    /// The same for what is paid for already: it is counted, and whoever comes next finds less.
    pub(crate) fn take_anyway(&mut self, bytes: usize) {
        self.of.buffered.fetch_add(bytes, Ordering::Relaxed);
        self.taken += bytes;
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.of.buffered.fetch_sub(self.taken, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(max_file: Option<u64>) -> Arc<Overload> {
        let bounds =
            Bounds { max_connections: 1, max_requests: 2, max_buffered_bytes: 10, max_file, ..Bounds::default() };
        Overload::new(bounds, Family::default())
    }

    fn overload() -> Arc<Overload> {
        with(Some(100))
    }

    #[test]
    fn room_is_shared_bounded_and_given_back() {
        let overload = overload();
        let (mut one, mut other) = (overload.room(), overload.room());
        assert!(one.take(6).is_ok() && other.take(4).is_ok());
        assert_eq!(other.take(1), Err(BodyFault::NoRoom));
        drop(other);
        assert!(one.take(4).is_ok(), "what was refused takes nothing once it is gone");
        let mut paid = overload.room();
        paid.take_anyway(5);
        drop(one);
        assert_eq!(overload.room().take(6), Err(BodyFault::NoRoom));
        drop(paid);
        assert!(overload.room().take(10).is_ok());
    }

    #[test]
    fn the_last_that_fits_is_taken() {
        let overload = overload();
        assert_eq!([1, 2, 3].map(|requests| overload.is_over(requests)), [false, false, true]);
        assert_eq!([0, 99, 100, -1].map(|number| overload.is_short_of_files(number)), [false, false, true, false]);
        assert!(!with(None).is_short_of_files(i32::MAX));
    }
}
