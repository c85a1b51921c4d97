//! What a node takes on at once: connections, requests, bytes of bodies, files. Whoever comes beyond that is told so at once, in a
//! few bytes, and nothing queues: a queue only makes everybody late. Before that, calls are refused by their priority (`share`), and
//! so they are while tasks wait to be run (`delay`).
//!
//! Not here: what an upstream takes (`upstream::endpoints`), what a caller may (`filters`).

mod delay;
mod share;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use prometheus_client::metrics::{counter::Counter, family::Family, gauge::Gauge};
use tokio::{runtime::Handle, sync::Semaphore, time::Instant};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tollgate_model::Priority;
use tracing::warn;

use self::share::Most;
use crate::{
    body::BodyFault,
    config::Bounds,
    metrics::{Metrics, ShedLabels},
};

pub(crate) use self::share::Rank;

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
    /// Time of the data plane's threads.
    Delay,
}

impl Short {
    pub(crate) const ALL: [Self; 5] = [Self::Connections, Self::Files, Self::Requests, Self::Buffers, Self::Delay];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Files => "files",
            Self::Requests => "requests",
            Self::Buffers => "buffers",
            Self::Delay => "delay",
        }
    }

    /// Whose requests can be turned away for it.
    pub(crate) fn priorities(self) -> &'static [&'static str] {
        match self {
            Self::Connections => &[ANY, "sheddable", "standard"],
            Self::Files => &[ANY],
            Self::Requests => &[ANY, "sheddable", "standard", "critical"],
            Self::Buffers => &["sheddable", "standard", "critical"],
            Self::Delay => &["sheddable", "standard"],
        }
    }
}

/// The priority of what was refused before anybody knew it.
pub(crate) const ANY: &str = "any";

/// What one gateway has taken on, and may.
#[derive(Debug)]
pub(crate) struct Overload {
    bounds: Bounds,
    /// For connections.
    pub(crate) places: Arc<Semaphore>,
    /// How many these are.
    max_connections: usize,
    /// Requests that were let in and have not ended. Those that are being refused are none of them: else a flood of these would
    /// keep others out.
    requests: AtomicUsize,
    buffered: AtomicUsize,
    most_connections: Most,
    most_requests: Most,
    most_buffered: Most,
    /// Which share of whom is refused as tasks are late; see `delay`.
    level: AtomicU32,
    /// How late they are, in seconds.
    delay: Gauge<f64, AtomicU64>,
    /// Those that were turned away.
    counts: Family<ShedLabels, Counter>,
    /// Turned away since the log told of it last, and when that was.
    untold: AtomicU64,
    told: Mutex<Option<Instant>>,
}

impl Overload {
    pub(crate) fn new(bounds: Bounds, metrics: &Metrics) -> Arc<Self> {
        let places = bounds.max_connections.min(Semaphore::MAX_PERMITS);
        Arc::new(Self {
            bounds,
            places: Arc::new(Semaphore::new(places)),
            max_connections: places,
            requests: AtomicUsize::new(0),
            buffered: AtomicUsize::new(0),
            most_connections: Most::of(places),
            most_requests: Most::of(bounds.max_requests),
            most_buffered: Most::of(bounds.max_buffered_bytes),
            level: AtomicU32::new(0),
            delay: metrics.delay.clone(),
            counts: metrics.shed.clone(),
            untold: AtomicU64::new(0),
            told: Mutex::default(),
        })
    }

    /// Begins to look how late tasks of this runtime are, until what is returned is dropped.
    pub(crate) fn watch(self: &Arc<Self>, runtime: &Handle) -> AbortOnDropHandle<()> {
        AbortOnDropHandle::new(TaskTracker::new().spawn_on(delay::watch(Arc::downgrade(self)), runtime))
    }

    /// Whether no request at all is let in, whatever it is.
    pub(crate) fn is_full(&self) -> bool {
        self.requests.load(Ordering::Relaxed) >= self.bounds.max_requests
    }

    /// Lets a request in, unless there is too much for its rank. One that was `let_in` by another rank stays, or not. `closes` says that its
    /// connection ends with a refusal.
    ///
    /// # Errors
    /// What is short. Nothing is kept for it.
    pub(crate) fn admit(&self, rank: Rank, let_in: bool, closes: bool) -> Result<(), Short> {
        if self.is_late_for(rank) {
            return Err(Short::Delay);
        }
        // Only whoever gives a place back by going is refused for it.
        let connections = self.max_connections.saturating_sub(self.places.available_permits());
        if closes && connections > self.most_connections.for_rank(rank) {
            return Err(Short::Connections);
        }
        let most = self.most_requests.for_rank(rank);
        if let_in {
            return if self.requests.load(Ordering::Relaxed) <= most { Ok(()) } else { Err(Short::Requests) };
        }
        let one_more = |requests: usize| (requests < most).then_some(requests + 1);
        let taken = self.requests.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        taken.map(|_| ()).map_err(|_| Short::Requests)
    }

    /// A request that was let in has ended.
    pub(crate) fn ended(&self) {
        self.requests.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether what nobody waits for is left undone.
    pub(crate) fn spares(&self) -> bool {
        let rank = Rank::new(Priority::Sheddable, true);
        self.is_late_for(rank) || self.requests.load(Ordering::Relaxed) > self.most_requests.for_rank(rank)
    }

    fn is_late_for(&self, rank: Rank) -> bool {
        let level = if self.bounds.sheds_when_late { self.level.load(Ordering::Relaxed) } else { 0 };
        level > 0 && rand::random_range(0..100) < delay::refused(level, rank)
    }

    /// Whether a new connection has come so far up in the table of files that the log and the journal could lack some. The kernel gives
    /// the lowest number that is free: all below it are taken.
    pub(crate) fn is_short_of_files(&self, number: i32) -> bool {
        self.bounds.max_file.is_some_and(|most| u64::try_from(number).is_ok_and(|number| number >= most))
    }

    /// Room for one body of a request of this rank, none taken yet.
    pub(crate) fn room(self: &Arc<Self>, rank: Rank) -> Room {
        Room { of: Arc::clone(self), rank, taken: 0 }
    }

    /// Somebody was turned away, before its priority was known.
    pub(crate) fn shed(&self, short: Short) {
        self.shed_of(short, ANY);
    }

    /// A request of this rank was turned away.
    pub(crate) fn shed_by(&self, short: Short, rank: Rank) {
        self.shed_of(short, rank.priority.as_str());
    }

    fn shed_of(&self, short: Short, priority: &'static str) {
        self.counts.get_or_create(&ShedLabels { by: short.as_str(), priority }).inc();
        let untold = self.untold.fetch_add(1, Ordering::Relaxed) + 1;
        let Some(mut told) = self.told.try_lock() else { return };
        if told.is_some_and(|told| told.elapsed() < TELL_AGAIN) {
            return;
        }
        *told = Some(Instant::now());
        self.untold.fetch_sub(untold, Ordering::Relaxed);
        warn!(short = short.as_str(), priority, turned_away = untold, "more comes than this node takes on");
    }
}

/// Memory that the bodies of one exchange take; free again when it is dropped.
#[derive(Debug)]
pub(crate) struct Room {
    of: Arc<Overload>,
    rank: Rank,
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
        if before.saturating_add(bytes) <= self.of.most_buffered.for_rank(self.rank) {
            return Ok(());
        }
        // At once, so that no flood of those that are refused takes what is kept for others.
        self.of.buffered.fetch_sub(bytes, Ordering::Relaxed);
        self.taken -= bytes;
        self.of.shed_by(Short::Buffers, self.rank);
        Err(BodyFault::NoRoom)
    }

    /// Its request turned out to be of this rank. What it has taken already may be too much for that.
    pub(crate) fn is_of(&mut self, rank: Rank) -> Result<(), BodyFault> {
        self.rank = rank;
        self.take(0)
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
    use prometheus_client::registry::Registry;

    use super::*;

    const SHEDDABLE: Rank = Rank::new(Priority::Sheddable, true);
    const CRITICAL: Rank = Rank::new(Priority::Critical, true);

    fn with(max_file: Option<u64>) -> Arc<Overload> {
        let bounds =
            Bounds { max_connections: 10, max_requests: 10, max_buffered_bytes: 10, max_file, ..Bounds::default() };
        Overload::new(bounds, &Metrics::register(&mut Registry::default()))
    }

    fn overload() -> Arc<Overload> {
        with(Some(100))
    }

    #[test]
    fn room_is_shared_bounded_and_given_back() {
        let overload = overload();
        let (mut one, mut other) = (overload.room(CRITICAL), overload.room(CRITICAL));
        assert!(one.take(6).is_ok() && other.take(4).is_ok());
        assert_eq!(other.take(1), Err(BodyFault::NoRoom));
        drop(other);
        assert!(one.take(4).is_ok(), "what was refused takes nothing once it is gone");
        let mut paid = overload.room(CRITICAL);
        paid.take_anyway(5);
        drop(one);
        assert_eq!(overload.room(CRITICAL).take(6), Err(BodyFault::NoRoom));
        drop(paid);
        assert!(overload.room(CRITICAL).take(10).is_ok());
    }

    #[test]
    fn room_is_kept_for_those_of_higher_rank() {
        let overload = overload();
        let (mut low, mut high) = (overload.room(SHEDDABLE), overload.room(CRITICAL));
        assert_eq!((low.take(7), low.take(1)), (Ok(()), Err(BodyFault::NoRoom)));
        assert!(high.take(2).is_ok());
        assert_eq!(high.is_of(SHEDDABLE), Err(BodyFault::NoRoom), "it was not what it seemed to be");
        drop(low);
        assert!(high.is_of(SHEDDABLE).is_ok());
    }

    #[test]
    fn the_last_that_fits_is_taken_and_those_that_are_refused_take_nothing() {
        let overload = overload();
        for request in 0..7 {
            assert_eq!(overload.admit(SHEDDABLE, false, true), Ok(()), "{request}");
        }
        for _ in 0..100 {
            assert_eq!(overload.admit(SHEDDABLE, false, true), Err(Short::Requests));
        }
        assert_eq!(overload.admit(SHEDDABLE, true, true), Ok(()), "it is one of the seven");
        for _ in 7..10 {
            assert!(!overload.is_full() && overload.admit(CRITICAL, false, true).is_ok());
        }
        assert_eq!(overload.admit(SHEDDABLE, true, true), Err(Short::Requests), "it was let in by a higher rank");
        assert!(overload.is_full() && overload.admit(CRITICAL, false, true) == Err(Short::Requests));
        overload.ended();
        assert!(overload.admit(CRITICAL, false, true).is_ok());
        assert_eq!([0, 99, 100, -1].map(|number| overload.is_short_of_files(number)), [false, false, true, false]);
        assert!(!with(None).is_short_of_files(i32::MAX));
    }

    #[test]
    fn connections_are_given_back_by_those_whose_refusal_ends_one() {
        let overload = overload();
        let _taken = overload.places.try_acquire_many(8).unwrap();
        assert_eq!(overload.admit(SHEDDABLE, false, true), Err(Short::Connections));
        assert!(overload.admit(SHEDDABLE, false, false).is_ok() && overload.admit(CRITICAL, false, true).is_ok());
    }

    #[test]
    fn who_is_refused_as_tasks_are_late_depends_on_the_rank() {
        let overload = overload();
        overload.level.store(100, Ordering::Relaxed);
        assert_eq!(overload.admit(SHEDDABLE, false, false), Err(Short::Delay));
        assert!(overload.spares() && overload.admit(CRITICAL, false, false).is_ok());
        overload.level.store(0, Ordering::Relaxed);
        assert!(!overload.spares() && overload.admit(SHEDDABLE, false, false).is_ok());
        let bounds = Bounds { sheds_when_late: false, ..Bounds::default() };
        let never = Overload::new(bounds, &Metrics::register(&mut Registry::default()));
        never.level.store(200, Ordering::Relaxed);
        assert!(!never.spares() && never.admit(SHEDDABLE, false, false).is_ok(), "where that is said so");
    }
}
