//! A provider's keys: in turn by weight, but for those that rest because they are refused.
//!
//! As with endpoints, what is known of a key outlives the configuration, for as long as its provider has it. What a node finds out
//! of keys that all nodes have alike it tells the others (`peers`).

use std::{
    sync::{
        Arc,
        atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use http::HeaderValue;
use parking_lot::Mutex;
use tokio::time::Instant;
use tollgate_model::{KeyFailover, LogIndex, Name};
use tracing::{info, warn};

use crate::{
    balance::{Probed, Resting, Rotation, Said, Tried},
    peers::{KeyIsWell, KeyPlace, KeyRests, UpstreamsWord},
};

/// So many other keys are tried for one request: a provider that refuses them all is not asked with each.
const MOST_OTHERS: usize = 3;

/// All keys of a provider that are to be had on this node.
#[derive(Debug)]
pub(crate) struct Keys {
    provider: Name,
    /// Of the resource that they are of.
    version: LogIndex,
    keys: Vec<Key>,
    terms: Option<KeyFailover>,
    turns: ArcSwap<Turns>,
    totals: Arc<Totals>,
}

/// One of them, as the configuration has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GivenKey {
    /// As it is sent: a whole header's value.
    pub(crate) value: HeaderValue,
    pub(crate) weight: u32,
    /// Its place in the resource, where every node has the same key there: not one of each node's own environment or files.
    pub(crate) place: Option<u32>,
}

#[derive(Debug)]
struct Key {
    given: GivenKey,
    known: Arc<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// In a row.
    refusals: AtomicU32,
    /// With which it was refused last, here or on the node that told of it.
    status: AtomicU16,
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
    /// What `before` knew of the same keys is known here.
    pub(super) fn new(
        provider: Name,
        version: LogIndex,
        keys: &[GivenKey],
        terms: Option<KeyFailover>,
        before: Option<&Self>,
    ) -> Self {
        let known = |value: &HeaderValue| {
            let same = before.and_then(|before| before.keys.iter().find(|key| key.given.value == *value));
            same.map(|key| Arc::clone(&key.known)).unwrap_or_default()
        };
        let keys: Vec<Key> =
            keys.iter().map(|given| Key { given: given.clone(), known: known(&given.value) }).collect();
        let totals = before.map_or_else(Arc::default, |before| Arc::clone(&before.totals));
        let turns = ArcSwap::from_pointee(turns(&keys, terms.is_some(), &totals));
        Self { provider, version, keys, terms, turns, totals }
    }

    /// Whether these are they.
    pub(crate) fn are(&self, keys: &[GivenKey]) -> bool {
        self.keys.iter().map(|key| &key.given).eq(keys)
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
        self.keys.get(index).map(|key| &key.given.value)
    }

    /// Whether one that doesn't rest was not tried, and may be.
    pub(crate) fn has_others(&self, tried: &Tried) -> bool {
        self.terms.is_some() && tried.count() <= MOST_OTHERS && self.in_use().any(|(index, _)| !tried.contains(index))
    }

    fn in_use(&self) -> impl Iterator<Item = (usize, &Key)> {
        self.keys.iter().enumerate().filter(|(_, key)| key.given.weight > 0 && !self.is_resting(key))
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
        let due = |key: &Key| key.given.weight > 0 && key.known.resting.lock().probe(now);
        let index = self.keys.iter().position(due)?;
        self.totals.version.fetch_add(1, Ordering::Release);
        Some(index)
    }

    /// What others are told of its keys: those that this node has rested, and those that it has found well within `recent`.
    pub(crate) fn tell(&self, recent: Duration, now: Instant, word: &mut UpstreamsWord) {
        if self.terms.is_none() {
            return;
        }
        for key in &self.keys {
            let Some(key_index) = key.given.place else { continue };
            let place = || KeyPlace { provider: self.provider.clone(), version: self.version, key: key_index };
            let resting = *key.known.resting.lock();
            if let Some(Said { left, age }) = resting.said(now) {
                let status = key.known.status.load(Ordering::Relaxed);
                word.resting.push(KeyRests { place: place(), left, age, status });
            } else if let Some(age) = resting.well_for(now).filter(|age| *age < recent) {
                word.well.push(KeyIsWell { place: place(), age });
            }
        }
    }

    /// What another node says of all keys that it knows.
    pub(crate) fn hear(&self, peer: u64, word: &UpstreamsWord, now: Instant) {
        let Some(terms) = &self.terms else { return };
        let is_this = |place: &KeyPlace, key: u32| {
            place.key == key && place.version == self.version && *place.provider == *self.provider
        };
        for (index, key) in self.keys.iter().enumerate() {
            let Some(place) = key.given.place else { continue };
            let rests = word.resting.iter().find(|it| is_this(&it.place, place));
            let well = word.well.iter().find(|it| is_this(&it.place, place));
            if rests.is_none() && well.is_none() && !self.is_resting(key) {
                continue; // as most are, most of the time
            }
            let _changing = self.totals.changing.lock();
            let is_last = !self.in_use().any(|(other, _)| other != index);
            let mut resting = key.known.resting.lock();
            let before = resting.is_resting();
            let changed = match (rests, well) {
                (Some(_), _) if is_last && !before => false,
                (Some(rests), _) => resting.hear(peer, Said { left: rests.left, age: rests.age }, terms, now),
                (None, Some(well)) => resting.is_well(well.age, now) | resting.unsaid(peer),
                (None, None) => resting.unsaid(peer),
            };
            let after = resting.is_resting();
            drop(resting);
            if changed {
                self.totals.version.fetch_add(1, Ordering::Release);
            }
            match (before, after) {
                (false, true) => {
                    let status = rests.map(|rests| rests.status).unwrap_or_default();
                    key.known.status.store(status, Ordering::Relaxed);
                    key.known.refusals.store(0, Ordering::Relaxed);
                    self.totals.rests.fetch_add(1, Ordering::Relaxed);
                    info!(provider = %self.provider, key = place, peer, status, "a key is rested that a provider refuses another node");
                }
                (true, false) => {
                    info!(provider = %self.provider, key = place, peer, "a provider takes a key again, from another node")
                }
                _ => {}
            }
        }
    }

    fn was_refused(&self, index: usize, asks: Duration) {
        let (Some(key), Some(terms)) = (self.keys.get(index), &self.terms) else { return };
        let refusals = key.known.refusals.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if refusals >= terms.failure_threshold {
            self.rest(index, asks);
        }
    }

    /// Leaves a key alone, unless it is left alone already, or is the last one.
    fn rest(&self, index: usize, asks: Duration) {
        let (Some(key), Some(terms)) = (self.keys.get(index), &self.terms) else { return };
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
        let before = resting.is_resting();
        resting.probed(came, terms, Instant::now());
        if before && !resting.is_resting() {
            info!(provider = %self.provider, key = index, "a provider takes a key again");
        }
        drop(resting);
        self.totals.version.fetch_add(1, Ordering::Release);
        // Another node has found it well while it was tried here. The refusal came later, and the next request need not find it out.
        if let Probed::Refused(asks) = came
            && !before
        {
            self.rest(index, asks);
        }
    }

    /// Keys in use and keys that rest.
    pub(super) fn standing(&self) -> (u64, u64) {
        let resting = self.keys.iter().filter(|key| key.given.weight > 0 && self.is_resting(key)).count();
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
    let weight = |(key, resting): (&Key, &Resting)| if rests && resting.is_resting() { 0 } else { key.given.weight };
    let mut weights: Vec<u32> = keys.iter().zip(&resting).map(weight).collect();
    // All that are left may rest where keys were taken out of the configuration.
    if weights.iter().all(|&weight| weight == 0) {
        weights = keys.iter().map(|key| key.given.weight).collect();
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
        self.keys.keys.get(self.index).map(|key| &key.given.value)
    }

    /// It rests, and is sent to see whether it still has to.
    pub(crate) fn is_probe(&self) -> bool {
        self.is_probe
    }

    /// The provider doesn't take it, or not now, and `asks` to be left alone for so long.
    pub(crate) fn was_refused(mut self, status: u16, asks: Duration) {
        if let Some(key) = self.keys.keys.get(self.index) {
            key.known.status.store(status, Ordering::Relaxed);
        }
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
