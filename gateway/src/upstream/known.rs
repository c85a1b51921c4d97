//! What is known of endpoints, and of an upstream as a whole, whatever the configuration.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;
use tollgate_model::Spread;

use crate::balance::{Checks, Ejection, Fitness, Load, Others};

/// Where too many endpoints are left alone, it is looked so much later whether one more may be.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// What is known of an endpoint.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) in_flight: AtomicUsize,
    /// In a row.
    pub(super) errors: AtomicU32,
    /// Its zone is.
    drained: AtomicBool,
    pub(super) seldom: Mutex<Seldom>,
}

/// What changes seldom.
#[derive(Debug, Default)]
pub(super) struct Seldom {
    pub(super) checks: Checks,
    pub(super) ejection: Ejection,
    /// When it came, or was well again.
    pub(super) since: Option<Instant>,
    /// When its zone was taken back.
    pub(super) back: Option<Instant>,
}

/// What is known of an upstream as a whole.
#[derive(Debug, Default)]
pub(super) struct Totals {
    /// Goes up with every change of what is seldom.
    pub(super) version: AtomicU64,
    pub(super) changing: Mutex<()>,
    pub(super) in_flight: AtomicUsize,
    /// Of these, sent again.
    pub(super) again: AtomicUsize,
    /// What other nodes have.
    pub(super) peers: Mutex<Peers>,
    pub(super) counts: Counts,
    /// When it was first found that no more endpoints may be left alone, and how many milliseconds later it was last.
    full_first: OnceLock<Instant>,
    full_last: AtomicU64,
    /// When something was first counted by time.
    began: OnceLock<Instant>,
}

impl Totals {
    /// What counters by time call now.
    pub(super) fn passed(&self, now: Instant) -> Duration {
        now.saturating_duration_since(*self.began.get_or_init(|| now))
    }

    /// No more endpoints may be left alone now.
    pub(super) fn was_full(&self, now: Instant) {
        let after = now.saturating_duration_since(*self.full_first.get_or_init(|| now));
        self.full_last.store(u64::try_from(after.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Whether that was found just now: it costs a look at all of them.
    pub(super) fn is_full(&self) -> bool {
        let last = Duration::from_millis(self.full_last.load(Ordering::Relaxed));
        self.full_first.get().is_some_and(|first| first.elapsed() < last + LOOK_AGAIN)
    }
}

/// A node that has said nothing for so long has gone, or can't be heard.
const SILENT: Duration = Duration::from_secs(2);

/// What other nodes have said of an upstream: one word each of those that are members.
#[derive(Debug, Default)]
pub(super) struct Peers {
    words: BTreeMap<u64, (Load, Instant)>,
    pub(super) known: Others,
}

impl Peers {
    pub(super) fn hear(&mut self, node: u64, load: Load, now: Instant) {
        self.words.insert(node, (load, now));
        self.known.load = self.load();
    }

    /// What this node may do in the interval that begins, with so much under way itself.
    pub(super) fn begin_interval(&mut self, own: Load, now: Instant) {
        self.words.retain(|_, (_, at)| now.saturating_duration_since(*at) < SILENT);
        self.known = self.known.next(self.load(), self.words.len(), own);
    }

    fn load(&self) -> Load {
        self.words.values().fold(Load::default(), |all, (load, _)| all.and(*load))
    }
}

/// What an endpoint is left alone for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    /// In a row.
    Errors,
    ErrorRate,
    Latency,
}

/// How many there were, by what they were for.
#[derive(Debug, Default)]
pub(super) struct Ejections([AtomicU64; 3]);

impl Ejections {
    fn counter(&self, by: By) -> &AtomicU64 {
        let [errors, error_rate, latency] = &self.0;
        match by {
            By::Errors => errors,
            By::ErrorRate => error_rate,
            By::Latency => latency,
        }
    }

    pub(super) fn note(&self, by: By) {
        self.counter(by).fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn of(&self, by: By) -> u64 {
        self.counter(by).load(Ordering::Relaxed)
    }
}

/// For metrics.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) ejections: Ejections,
    pub(super) retries: AtomicU64,
    /// Not sent again, as too many were.
    pub(super) over_budget: AtomicU64,
    /// Not sent, as too many were in flight.
    pub(super) refused: AtomicU64,
    pub(super) checks_good: AtomicU64,
    pub(super) checks_bad: AtomicU64,
    pub(super) lookups_answered: AtomicU64,
    pub(super) lookups_empty: AtomicU64,
    pub(super) lookups_failed: AtomicU64,
}

impl Known {
    /// Of an endpoint that came then, to others that were there.
    pub(super) fn new(now: Instant) -> Arc<Self> {
        Arc::new(Self { seldom: Mutex::new(Seldom { since: Some(now), ..Seldom::default() }), ..Self::default() })
    }

    /// Its zone is drained, or is not. Whether that was not known.
    pub(super) fn set_drained(&self, drained: bool, now: Instant) -> bool {
        if self.drained.swap(drained, Ordering::Relaxed) == drained {
            return false;
        }
        if !drained {
            self.seldom.lock().back = Some(now);
        }
        true
    }

    pub(super) fn is_drained(&self) -> bool {
        self.drained.load(Ordering::Relaxed)
    }

    /// Whatever its zone is.
    pub(super) fn fitness(&self, spread: &Spread, now: Instant) -> Fitness {
        let Seldom { checks, ejection, since, back } = &*self.seldom.lock();
        if spread.health_check.is_some() && !checks.is_well() {
            return Fitness::Unwell;
        }
        let mut since = *since;
        if spread.outliers.is_some() {
            if let Some(until) = ejection.until(now) {
                return Fitness::Ejected(until);
            }
            since = since.max(ejection.ended(now));
        }
        match *back {
            Some(back) if since <= Some(back) => Fitness::TakenBack(back),
            _ => since.map_or(Fitness::Fit, Fitness::Since),
        }
    }
}
