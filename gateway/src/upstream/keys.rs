//! A provider's keys: in turn by weight, but for those that rest because they are refused.
//!
//! As with endpoints, what is known of a key outlives the configuration, for as long as its provider has it. Each node finds
//! out for itself.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use http::HeaderValue;
use parking_lot::Mutex;
use tokio::time::Instant;
use tollgate_model::{KeyFailover, Name};
use tracing::{info, warn};

use crate::balance::{Probed, Resting, Rotation, Tried};

/// So many other keys are tried for one request: a provider that refuses them all is not asked with each.
const MOST_OTHERS: usize = 3;

/// All keys of a provider that are to be had on this node.
#[derive(Debug)]
pub(crate) struct Keys {
    provider: Name,
    keys: Vec<Key>,
    terms: Option<KeyFailover>,
    turns: ArcSwap<Turns>,
    totals: Arc<Totals>,
}

#[derive(Debug)]
struct Key {
    /// As it is sent: a whole header's value.
    value: HeaderValue,
    weight: u32,
    known: Arc<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// In a row.
    refusals: AtomicU32,
    resting: Mutex<Resting>,
}

#[derive(Debug, Default)]
struct Totals {
    /// Goes up with every rest, probe and end of one.
    version: AtomicU64,
    changing: Mutex<()>,
    rests: AtomicU64,
}

/// The keys that don't rest, by index.
#[derive(Debug)]
struct Turns {
    rotation: Rotation,
    version: u64,
    /// When the first of those that rest is to be tried.
    probe_at: Option<Instant>,
}

impl Keys {
    /// Of header values and weights. What `before` knew of the same keys is known here.
    pub(super) fn new(
        provider: Name,
        keys: &[(HeaderValue, u32)],
        terms: Option<KeyFailover>,
        before: Option<&Self>,
    ) -> Self {
        let known = |value: &HeaderValue| {
            let same = before.and_then(|before| before.keys.iter().find(|key| key.value == *value));
            same.map(|key| Arc::clone(&key.known)).unwrap_or_default()
        };
        let key =
            |(value, weight): &(HeaderValue, u32)| Key { value: value.clone(), weight: *weight, known: known(value) };
        let keys: Vec<Key> = keys.iter().map(key).collect();
        let totals = before.map_or_else(Arc::default, |before| Arc::clone(&before.totals));
        let turns = ArcSwap::from_pointee(turns(&keys, terms.is_some(), &totals));
        Self { provider, keys, terms, turns, totals }
    }

    /// Whether these are they.
    pub(crate) fn are(&self, keys: &[(HeaderValue, u32)]) -> bool {
        self.keys.iter().map(|key| (&key.value, key.weight)).eq(keys.iter().map(|(value, weight)| (value, *weight)))
    }

    /// The key for one request; another than those that were `tried`, where there is one. None where there are no keys.
    pub(crate) fn take(self: &Arc<Self>, tried: &mut Tried) -> Option<KeyTaken> {
        let turns = self.turns();
        // What was refused is not tried with one more key that may be.
        let is_due = |at| tried.count() == 0 && at <= Instant::now();
        let probe = if turns.probe_at.is_some_and(is_due) { self.probe() } else { None };
        let index = match probe {
            Some(index) => index,
            None => self.next(&turns, tried)?,
        };
        tried.note(index);
        Some(KeyTaken { keys: Arc::clone(self), index, is_probe: probe.is_some() })
    }

    /// Any key, for what nobody waits for.
    pub(crate) fn any(&self) -> Option<&HeaderValue> {
        let index = self.turns().rotation.next()?;
        self.keys.get(index).map(|key| &key.value)
    }

    /// Whether one that doesn't rest was not tried, and may be.
    pub(crate) fn has_others(&self, tried: &Tried) -> bool {
        self.terms.is_some() && tried.count() <= MOST_OTHERS && self.in_use().any(|(index, _)| !tried.contains(index))
    }

    fn in_use(&self) -> impl Iterator<Item = (usize, &Key)> {
        self.keys.iter().enumerate().filter(|(_, key)| key.weight > 0 && !self.is_resting(key))
    }

    fn is_resting(&self, key: &Key) -> bool {
        self.terms.is_some() && key.known.resting.lock().is_resting()
    }

    fn next(&self, turns: &Turns, tried: &Tried) -> Option<usize> {
        let first = turns.rotation.next()?;
        if !tried.contains(first) {
            return Some(first);
        }
        let other = self.in_use().map(|(index, _)| index).find(|&index| !tried.contains(index));
        Some(other.unwrap_or(first))
    }

    fn turns(&self) -> arc_swap::Guard<Arc<Turns>> {
        let turns = self.turns.load();
        if turns.version == self.totals.version.load(Ordering::Acquire) {
            return turns;
        }
        self.turns.store(Arc::new(self::turns(&self.keys, self.terms.is_some(), &self.totals)));
        self.turns.load()
    }

    /// One that rests and whose time it is to be tried.
    fn probe(&self) -> Option<usize> {
        let now = Instant::now();
        let due = |key: &Key| key.weight > 0 && key.known.resting.lock().probe(now);
        let index = self.keys.iter().position(due)?;
        self.totals.version.fetch_add(1, Ordering::Release);
        Some(index)
    }

    fn was_refused(&self, index: usize, asks: Duration) {
        let (Some(key), Some(terms)) = (self.keys.get(index), &self.terms) else { return };
        let refusals = key.known.refusals.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if refusals < terms.failure_threshold {
            return;
        }
        let _changing = self.totals.changing.lock();
        let is_last = !self.in_use().any(|(other, _)| other != index);
        let mut resting = key.known.resting.lock();
        if is_last || resting.is_resting() {
            return;
        }
        resting.begin(asks, terms, Instant::now());
        key.known.refusals.store(0, Ordering::Relaxed);
        self.totals.rests.fetch_add(1, Ordering::Relaxed);
        self.totals.version.fetch_add(1, Ordering::Release);
        warn!(provider = %self.provider, key = index, "a provider refuses a key, which is rested");
    }

    fn was_taken(&self, index: usize) {
        if let Some(key) = self.keys.get(index).filter(|key| key.known.refusals.load(Ordering::Relaxed) > 0) {
            key.known.refusals.store(0, Ordering::Relaxed);
        }
    }

    fn probed(&self, index: usize, came: Probed) {
        let (Some(key), Some(terms)) = (self.keys.get(index), &self.terms) else { return };
        let mut resting = key.known.resting.lock();
        resting.probed(came, terms, Instant::now());
        if !resting.is_resting() {
            info!(provider = %self.provider, key = index, "a provider takes a key again");
        }
        drop(resting);
        self.totals.version.fetch_add(1, Ordering::Release);
    }

    /// Keys in use and keys that rest.
    pub(super) fn standing(&self) -> (u64, u64) {
        let resting = self.keys.iter().filter(|key| key.weight > 0 && self.is_resting(key)).count();
        (self.in_use().count() as u64, resting as u64)
    }

    pub(super) fn rests(&self) -> u64 {
        self.totals.rests.load(Ordering::Relaxed)
    }
}

/// `rests` says that any may rest at all.
fn turns(keys: &[Key], rests: bool, totals: &Totals) -> Turns {
    // Before what it stands for, so that nothing that comes meanwhile is missed.
    let version = totals.version.load(Ordering::Acquire);
    let resting: Vec<Resting> = keys.iter().map(|key| *key.known.resting.lock()).collect();
    let weight = |(key, resting): (&Key, &Resting)| if rests && resting.is_resting() { 0 } else { key.weight };
    let mut weights: Vec<u32> = keys.iter().zip(&resting).map(weight).collect();
    // All that are left may rest where keys were taken out of the configuration.
    if weights.iter().all(|&weight| weight == 0) {
        weights = keys.iter().map(|key| key.weight).collect();
    }
    let probe_at = resting.iter().filter(|_| rests).filter_map(Resting::probe_at).min();
    Turns { rotation: Rotation::new(&weights), version, probe_at }
}

/// A key that a request is sent with.
#[derive(Debug)]
pub(crate) struct KeyTaken {
    keys: Arc<Keys>,
    index: usize,
    /// It rests, and this request is to see whether it still has to.
    is_probe: bool,
}

impl KeyTaken {
    pub(crate) fn value(&self) -> Option<&HeaderValue> {
        self.keys.keys.get(self.index).map(|key| &key.value)
    }

    /// It rests, and is sent to see whether it still has to.
    pub(crate) fn is_probe(&self) -> bool {
        self.is_probe
    }

    /// The provider doesn't take it, or not now, and `asks` to be left alone for so long.
    pub(crate) fn was_refused(mut self, asks: Duration) {
        if std::mem::take(&mut self.is_probe) {
            self.keys.probed(self.index, Probed::Refused(asks));
        } else {
            self.keys.was_refused(self.index, asks);
        }
    }

    /// The provider has taken it, whatever it thinks of the rest.
    pub(crate) fn was_taken(mut self) {
        if std::mem::take(&mut self.is_probe) {
            self.keys.probed(self.index, Probed::Taken);
        }
        self.keys.was_taken(self.index);
    }
}

impl Drop for KeyTaken {
    fn drop(&mut self) {
        if self.is_probe {
            self.keys.probed(self.index, Probed::Unknown);
        }
    }
}
