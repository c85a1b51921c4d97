//! The endpoints of one upstream, as requests meet them, and what is known of each.
//!
//! What is known outlives the configuration: an endpoint is known by its upstream and its address, so that an edit forgets
//! neither what is in flight nor who is left alone. Requests read a [`Lineup`] and count in atomics; it is made anew, by the
//! first request that sees that it has to be, when something seldom happens: an ejection, a check, a time that is over.

mod names;
mod parts;

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::time::Instant;
use tollgate_model::{self as model, Balancing, HealthCheck, KeyPart, Labels, Name, OutlierDetection, Spread};
use tracing::warn;

use super::{
    At, Origin,
    dns::Named,
    known::{By, Counts, Known, Totals},
    taken::{Again, Busy, Taken},
    watch::Watch,
};
use parts::Parts;

use crate::balance::{self, Draw, Fitness, Lineup, Load, Member, Tables, Terms, Tried, may_eject};

/// All endpoints of one upstream, by one configuration.
#[derive(Debug)]
pub(crate) struct Endpoints {
    pub(super) upstream: Name,
    endpoints: Vec<Endpoint>,
    /// The hosts that somebody has to be asked for.
    names: Vec<Arc<Named>>,
    spread: Spread,
    tables: Tables,
    made: ArcSwap<Made>,
    making: Mutex<()>,
    /// Those with the same labels, as far as somebody asked for them.
    parts: Mutex<Parts>,
    totals: Arc<Totals>,
    /// The part of an interval in which it was last looked who is slow.
    judged: AtomicU64,
}

#[derive(Debug, Clone)]
struct Endpoint {
    origin: Origin,
    weight: u32,
    zone: Option<Name>,
    tier: usize,
    labels: Labels,
    known: Arc<Known>,
    watch: Arc<Watch>,
}

/// A lineup, and what of it was known when it was made.
#[derive(Debug)]
struct Made {
    lineup: Lineup,
    version: u64,
}

/// Why there is no endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotTaken;

/// Where a node is, and which zones get no new requests.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) zone: &'a str,
    pub(crate) drained: &'a BTreeSet<Name>,
}

impl Endpoint {
    fn follow(&self, drained: &BTreeSet<Name>, now: Instant) -> bool {
        self.known.set_drained(self.zone.as_ref().is_some_and(|zone| drained.contains(zone)), now)
    }
}

impl Endpoints {
    /// Of a node at `place`. What `before` knew of the same addresses is known here.
    pub(crate) fn new(
        upstream: Name,
        endpoints: &[model::Endpoint],
        spread: Spread,
        place: Place<'_>,
        before: Option<&Self>,
    ) -> Self {
        let now = Instant::now();
        let totals = before.map_or_else(Arc::default, |before| Arc::clone(&before.totals));
        let known_names = before.map_or(&[][..], |before| &before.names);
        let (names, origins) = names::origins(&upstream, endpoints, &totals, known_names);
        let endpoints: Vec<Endpoint> = origins
            .into_iter()
            .map(|(endpoint, origin)| {
                let same = before.and_then(|before| before.same(&origin));
                let is_first = before.is_none_or(|before| before.knew_nothing_of(&origin));
                let new = || if is_first { Arc::default() } else { Known::new(now) };
                let known = same.map_or_else(new, |same| Arc::clone(&same.known));
                let watch = Watch::new(spread.outliers.as_ref(), same.map(|same| &same.watch));
                let tier = balance::tier(&spread.balancing, place.zone, endpoint.zone.as_deref());
                let (weight, zone, labels) = (endpoint.weight, endpoint.zone.clone(), Arc::clone(&endpoint.labels));
                Endpoint { origin, weight, zone, tier, labels, known, watch }
            })
            .collect();
        // What is new to this node comes as its zone is, not as one that was taken back.
        if endpoints.iter().filter(|it| it.follow(place.drained, now)).count() > 0 {
            totals.version.fetch_add(1, Ordering::Release);
        }
        Self { names, ..Self::with(upstream, endpoints, spread, totals, before) }
    }

    /// Of endpoints that are known, which go on with the turns of those `before`.
    fn with(
        upstream: Name,
        endpoints: Vec<Endpoint>,
        spread: Spread,
        totals: Arc<Totals>,
        before: Option<&Self>,
    ) -> Self {
        let identity = |it: &Endpoint| (balance::hash(it.origin.to_string().as_bytes()), it.weight, it.tier);
        let identities: Vec<_> = endpoints.iter().map(identity).collect();
        let tables = Tables::new(&spread.balancing.policy, &identities);
        let last = before.map(|before| before.made.load_full());
        let last = last.as_ref().map(|made| &made.lineup);
        let made = make(&endpoints, &spread, &tables, &totals, last, Instant::now());
        Self {
            upstream,
            endpoints,
            names: Vec::new(),
            spread,
            tables,
            made: ArcSwap::from_pointee(made),
            making: Mutex::default(),
            parts: Mutex::default(),
            totals,
            judged: AtomicU64::new(0),
        }
    }

    /// Other zones are drained from now on.
    pub(crate) fn follow(&self, drained: &BTreeSet<Name>) {
        let (_changing, now) = (self.totals.changing.lock(), Instant::now());
        let changed = self.endpoints.iter().filter(|it| it.follow(drained, now)).count();
        if changed > 0 {
            self.totals.version.fetch_add(1, Ordering::Release);
        }
        if is_nowhere_else(&self.endpoints) && changed > 0 {
            warn!(upstream = %self.upstream, "all endpoints are in drained zones: they get their requests still");
        }
    }

    fn same(&self, origin: &Origin) -> Option<&Endpoint> {
        self.endpoints.iter().find(|endpoint| endpoint.origin == *origin)
    }

    /// Whether its name was waited for: the first addresses have come to nobody who was there.
    fn knew_nothing_of(&self, origin: &Origin) -> bool {
        let waited = |it: &Endpoint| matches!(it.origin.at, At::Unknown(_)) && it.origin.is_but_for_its_place(origin);
        self.endpoints.iter().any(waited)
    }

    /// The hosts that somebody has to be asked for.
    pub(super) fn names(&self) -> &[Arc<Named>] {
        &self.names
    }

    /// Another address of the name of an endpoint that can't be reached, for the same request: one that was not tried and has requests.
    pub(super) fn take_sibling(self: &Arc<Self>, index: usize, tried: &mut Tried) -> Option<Taken> {
        let sibling = self.sibling(index, tried)?;
        tried.note(sibling);
        Some(Busy::new(self).at(sibling))
    }

    /// The next one in turn.
    pub(super) fn sibling(&self, index: usize, tried: &Tried) -> Option<usize> {
        let origin = self.origin(index).filter(|origin| matches!(origin.at, At::Address(_)))?;
        let made = self.current();
        let is_one = |&other: &usize| {
            let is_used = made.lineup.has(other) && !tried.contains(other);
            is_used && self.origin(other).is_some_and(|other| other.is_but_for_its_place(origin))
        };
        (index + 1..self.endpoints.len()).chain(0..index).find(is_one)
    }

    /// One endpoint for one request; another than those that were `tried`, where there is one.
    pub(crate) fn take(self: &Arc<Self>, draw: &Draw, tried: &mut Tried) -> Result<Taken, NotTaken> {
        let busy = Busy::new(self);
        let most = self.spread.breaker.max_requests;
        if most.is_some_and(|most| busy.before >= usize::try_from(most).unwrap_or(usize::MAX)) {
            self.totals.counts.refused.fetch_add(1, Ordering::Relaxed);
            return Err(NotTaken);
        }
        let load = |index: usize| self.endpoints.get(index).map_or(0, |it| it.known.in_flight.load(Ordering::Relaxed));
        let index = self.current().lineup.select(draw, tried, load).ok_or(NotTaken)?;
        tried.note(index);
        Ok(busy.at(index))
    }

    /// What this node has under way.
    pub(crate) fn own_load(&self) -> Load {
        let Totals { in_flight, again, .. } = &*self.totals;
        Load { in_flight: in_flight.load(Ordering::Relaxed), again: again.load(Ordering::Relaxed) }
    }

    /// Another node says that it has so much under way.
    pub(crate) fn hear(&self, node: u64, load: Load, now: Instant) {
        self.totals.peers.lock().hear(node, load, now);
    }

    /// What the others are told of it: with what this node may send again until its next interval.
    pub(crate) fn told_load(&self) -> Load {
        let own = self.own_load();
        self.totals.peers.lock().known.told(own)
    }

    /// This node may send more again, by what the others have said.
    pub(crate) fn begin_interval(&self, now: Instant) {
        let own = self.own_load();
        self.totals.peers.lock().begin_interval(own, now);
    }

    /// Leave to send one more request again, for as long as it is kept. None when too many are, here and on other nodes.
    pub(crate) fn again(&self) -> Option<Again> {
        let Totals { in_flight, counts, peers, .. } = &*self.totals;
        let (leave, again) = Again::new(&self.totals);
        let own = Load { in_flight: in_flight.load(Ordering::Relaxed), again };
        let others = peers.lock().known;
        if others.leave_budget(own) {
            counts.retries.fetch_add(1, Ordering::Relaxed);
            return Some(leave);
        }
        counts.over_budget.fetch_add(1, Ordering::Relaxed);
        None
    }

    /// The same, however many are: for what is seldom, and not the request's doing.
    pub(crate) fn again_anyway(&self) -> Again {
        self.totals.counts.retries.fetch_add(1, Ordering::Relaxed);
        Again::new(&self.totals).0
    }

    /// Whether one that has requests was not tried.
    pub(crate) fn has_others(&self, tried: &Tried) -> bool {
        self.current().lineup.has_others(tried)
    }

    /// What requests are told apart by, where they are.
    pub(crate) fn hash_on(&self) -> Option<&KeyPart> {
        self.spread.balancing.policy.hash_on()
    }

    fn current(&self) -> arc_swap::Guard<Arc<Made>> {
        let made = self.made.load();
        let is_old = made.version != self.totals.version.load(Ordering::Acquire);
        if !is_old && (!made.lineup.ages() || !made.lineup.is_stale(Instant::now())) {
            return made;
        }
        // Whoever does not make it takes the one before.
        let Some(_making) = self.making.try_lock() else { return made };
        let Self { endpoints, spread, tables, totals, .. } = self;
        self.made.store(Arc::new(make(endpoints, spread, tables, totals, Some(&made.lineup), Instant::now())));
        self.made.load()
    }

    pub(super) fn totals(&self) -> &Totals {
        &self.totals
    }

    /// What an endpoint has in flight, for whoever counts it.
    pub(super) fn load(&self, index: usize, count: impl FnOnce(&AtomicUsize) -> usize) {
        self.endpoints.get(index).map(|endpoint| count(&endpoint.known.in_flight));
    }

    pub(super) fn is_fine(&self, index: usize, took: impl FnOnce() -> Option<Duration>) {
        let Some(endpoint) = self.endpoints.get(index) else { return };
        if endpoint.known.errors.load(Ordering::Relaxed) > 0 {
            endpoint.known.errors.store(0, Ordering::Relaxed);
        }
        self.watch(endpoint, false, took);
    }

    pub(super) fn has_failed(&self, index: usize, took: impl FnOnce() -> Option<Duration>) {
        let (Some(endpoint), Some(terms)) = (self.endpoints.get(index), &self.spread.outliers) else { return };
        self.watch(endpoint, true, took);
        let in_a_row = endpoint.known.errors.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let by = match terms.consecutive_errors {
            Some(most) if in_a_row >= most => By::Errors,
            _ if self.fails_too_often(endpoint, terms) => By::ErrorRate,
            _ => return,
        };
        if endpoint.known.seldom.lock().ejection.until(Instant::now()).is_some() {
            // What was in flight there fails as well: it is not to be held against it once it is back.
            endpoint.known.errors.store(0, Ordering::Relaxed);
        } else if !self.totals.is_full() {
            self.eject(endpoint, terms, by);
        }
    }

    /// Counts what a request met, where somebody goes by that.
    fn watch(&self, endpoint: &Endpoint, failed: bool, took: impl FnOnce() -> Option<Duration>) {
        let watch = &endpoint.watch;
        if !watch.counts_failures() && !watch.counts_times() {
            return;
        }
        let passed = self.totals.passed(Instant::now());
        watch.note(passed, failed);
        if watch.counts_times()
            && let Some(number) = took().and_then(|took| watch.note_time(passed, took))
            && self.judged.load(Ordering::Relaxed) < number
            && self.judged.fetch_max(number, Ordering::Relaxed) < number
        {
            self.eject_slow(passed);
        }
    }

    fn fails_too_often(&self, endpoint: &Endpoint, terms: &OutlierDetection) -> bool {
        let Some(terms) = &terms.error_rate else { return false };
        let failures = endpoint.watch.failures(self.totals.passed(Instant::now()));
        failures.is_some_and(|(window, number)| balance::fails_too_often(window, number, terms))
    }

    /// Whoever begins a part of the interval looks at all: that is some ten times in it.
    fn eject_slow(&self, passed: Duration) {
        let Some(terms) = &self.spread.outliers else { return };
        let (Some(latency), now) = (&terms.latency, Instant::now()) else { return };
        // Of other zones answers come later, which nobody is to blame for.
        let tiers = self.endpoints.iter().map(|it| it.tier + 1).max().unwrap_or(0);
        for tier in 0..tiers {
            let is_peer = |it: &&Endpoint| it.tier == tier && it.weight > 0 && !it.known.is_drained();
            let fit = |it: &&Endpoint| is_peer(it) && it.known.fitness(&self.spread, now).is_fit();
            let taken = |(index, it): (usize, &Endpoint)| {
                let (window, number) = it.watch.times(passed).filter(|_| fit(&it))?;
                Some((index, balance::percentile(window, number, latency)?))
            };
            let taken: Vec<(usize, Duration)> = self.endpoints.iter().enumerate().filter_map(taken).collect();
            for index in balance::slow(&taken, latency) {
                if let Some(endpoint) = self.endpoints.get(index).filter(|_| !self.totals.is_full()) {
                    self.eject(endpoint, terms, By::Latency);
                }
            }
        }
    }

    /// Leaves an endpoint alone, unless too many are.
    fn eject(&self, endpoint: &Endpoint, terms: &OutlierDetection, by: By) {
        let now = Instant::now();
        let _changing = self.totals.changing.lock();
        let fitness = |it: &Endpoint| it.known.fitness(&self.spread, now);
        let nowhere_else = is_nowhere_else(&self.endpoints);
        let in_service = |it: &&Endpoint| it.weight > 0 && (nowhere_else || !it.known.is_drained());
        let with_weight = || self.endpoints.iter().filter(in_service);
        let ejected = with_weight().filter(|it| matches!(fitness(it), Fitness::Ejected(_))).count();
        let is_fit = |it: &&Endpoint| fitness(it).is_fit();
        let others = with_weight().filter(is_fit).filter(|it| !Arc::ptr_eq(&it.known, &endpoint.known)).count();
        let may = others > 0 && may_eject(with_weight().count(), ejected, terms.max_ejected_percent);
        if matches!(fitness(endpoint), Fitness::Ejected(_)) {
            return;
        }
        if !may {
            self.totals.was_full(now);
            return;
        }
        let until = endpoint.known.seldom.lock().ejection.begin(terms, now);
        endpoint.watch.forget_until(self.totals.passed(until));
        endpoint.known.errors.store(0, Ordering::Relaxed);
        self.totals.counts.ejections.note(by);
        self.totals.version.fetch_add(1, Ordering::Release);
        let (upstream, endpoint) = (&self.upstream, &endpoint.origin);
        match by {
            By::Errors => warn!(%upstream, %endpoint, "an endpoint fails and is left alone for a while"),
            By::ErrorRate => warn!(%upstream, %endpoint, "an endpoint fails too often and is left alone for a while"),
            By::Latency => {
                warn!(%upstream, %endpoint, "an endpoint is slower than its peers and is left alone for a while")
            }
        }
    }
}

/// Whether all that could have requests are in drained zones: these have them then, as the other choice is to answer nobody.
fn is_nowhere_else(endpoints: &[Endpoint]) -> bool {
    let mut with_weight = endpoints.iter().filter(|it| it.weight > 0).peekable();
    with_weight.peek().is_some() && with_weight.all(|it| it.known.is_drained())
}

fn make(
    endpoints: &[Endpoint],
    spread: &Spread,
    tables: &Tables,
    totals: &Totals,
    before: Option<&Lineup>,
    now: Instant,
) -> Made {
    // Before what it stands for, so that nothing that comes meanwhile is missed.
    let version = totals.version.load(Ordering::Acquire);
    let nowhere_else = is_nowhere_else(endpoints);
    let fitness = |it: &Endpoint| match it.known.is_drained() && !nowhere_else {
        true => Fitness::Drained,
        false => it.known.fitness(spread, now),
    };
    let member = |it: &Endpoint| Member { weight: it.weight, tier: it.tier, fitness: fitness(it) };
    let members: Vec<Member> = endpoints.iter().map(member).collect();
    let balancing: &Balancing = &spread.balancing;
    Made { lineup: Lineup::new(&members, Terms { balancing, tables, now }, before), version }
}

/// How the endpoints of an upstream stand, for metrics.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Standing {
    pub(super) fit: u64,
    pub(super) unwell: u64,
    pub(super) ejected: u64,
    /// In drained zones, whatever else they are.
    pub(super) drained: u64,
    /// Those are used, too, that are not fit.
    pub(super) is_panic: bool,
    /// The share that goes to other zones.
    pub(super) spill: f64,
    pub(super) in_flight: usize,
}

impl Endpoints {
    pub(super) fn standing(&self) -> Standing {
        let now = Instant::now();
        let made = self.current();
        let mut standing = Standing {
            is_panic: made.lineup.is_panic(),
            spill: spill_ratio(made.lineup.spill()),
            in_flight: self.totals.in_flight.load(Ordering::Relaxed),
            ..Standing::default()
        };
        for endpoint in &self.endpoints {
            if endpoint.known.is_drained() {
                standing.drained += 1;
                continue;
            }
            match endpoint.known.fitness(&self.spread, now) {
                Fitness::Unwell => standing.unwell += 1,
                Fitness::Ejected(_) => standing.ejected += 1,
                _ => standing.fit += 1,
            }
        }
        standing
    }

    /// Names whose addresses should have been confirmed, and could not be.
    pub(super) fn stale_names(&self) -> u64 {
        self.names.iter().map(|named| u64::from(named.is_stale())).sum()
    }

    pub(super) fn counts(&self) -> &Counts {
        &self.totals.counts
    }

    /// How they are asked whether they are well.
    pub(super) fn health_check(&self) -> Option<&HealthCheck> {
        self.spread.health_check.as_ref()
    }

    pub(super) fn origin(&self, index: usize) -> Option<&Origin> {
        self.endpoints.get(index).map(|endpoint| &endpoint.origin)
    }

    /// By index.
    pub(super) fn origins(&self) -> impl Iterator<Item = &Origin> {
        self.endpoints.iter().map(|endpoint| &endpoint.origin)
    }

    /// What an endpoint answered when it was asked whether it is well.
    pub(super) fn checked(&self, index: usize, is_good: bool) {
        let (Some(endpoint), Some(terms)) = (self.endpoints.get(index), self.health_check()) else { return };
        let counts = &self.totals.counts;
        if is_good { &counts.checks_good } else { &counts.checks_bad }.fetch_add(1, Ordering::Relaxed);
        let _changing = self.totals.changing.lock();
        let mut seldom = endpoint.known.seldom.lock();
        if !seldom.checks.note(is_good, terms) {
            return;
        }
        if is_good {
            seldom.since = Some(Instant::now());
        }
        drop(seldom);
        self.totals.version.fetch_add(1, Ordering::Release);
        let (upstream, endpoint) = (&self.upstream, &endpoint.origin);
        match is_good {
            true => tracing::info!(%upstream, %endpoint, "an endpoint is well again"),
            false => warn!(%upstream, %endpoint, "an endpoint is not well and gets no requests"),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "at most 65,536")]
fn spill_ratio(of_all: u64) -> f64 {
    of_all as f64 / 65_536.0
}

#[cfg(test)]
mod tests;
