//! The endpoints that have requests, as things stand: who is well, who is near, and how much goes elsewhere.
//!
//! **Near and far.** What is near has all requests while seven tenths of its weight are fit. Below that the share that goes
//! far rises evenly, up to everything when nothing near is left: no request waits for a cliff, and no cliff waits for
//! requests. What has just come back counts for less, so a zone is taken back as gently. Where zones come in an order, each is
//! a tier and takes of what comes to it what it can in the same way; what all of them together can't is for those beyond
//! the first, by what of them is fit.
//!
//! **Panic.** When too little is fit in all, those that are not are used as well: what is left would only drown, and more
//! likely it is the checks that are wrong. So the last endpoint always has requests.
//!
//! **Drained.** What is in a drained zone has none, in panic neither: somebody said so, who may be about to switch it off. Its
//! weight is one that is missing, so what goes far is what went there. Whoever makes a lineup leaves one in that has nothing else.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;
use tollgate_model::{Balancing, Policy};

use super::{
    Draw, Rotation, Tables, Tried,
    hash::{below, mix},
    table::Table,
};

/// All requests, of the share that goes far.
const ALL: u64 = 1 << 16;
/// While as much of the near weight is fit, nothing goes far.
const ENOUGH: (u64, u64) = (7, 10);
/// A share that grows does so in as many steps.
const STEPS: u32 = 10;
/// What is taken back from a drained zone gets its share within this time, where nothing else is said: connections, caches and
/// whatever grows by load are new there.
const TAKEN_BACK: Duration = Duration::from_secs(10);
/// Drawn again so often where who was drawn is not accepted; then whoever is.
const DRAWS: u64 = 4;

/// What is known of one endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fitness {
    Fit,
    /// It came, or came back, then.
    Since(Instant),
    /// It was drained until then.
    TakenBack(Instant),
    /// It does not answer as it should when it is asked.
    Unwell,
    /// It is left alone until then.
    Ejected(Instant),
    /// Its zone is drained.
    Drained,
}

impl Fitness {
    /// Whether nothing speaks against a request.
    pub(crate) fn is_fit(self) -> bool {
        matches!(self, Self::Fit | Self::Since(_) | Self::TakenBack(_))
    }
}

/// One endpoint.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Member {
    pub(crate) weight: u32,
    /// 0 is near; each greater one has what those before it can't take.
    pub(crate) tier: usize,
    pub(crate) fitness: Fitness,
}

/// What a lineup is made by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms<'a> {
    pub(crate) balancing: &'a Balancing,
    pub(crate) tables: &'a Tables,
    pub(crate) now: Instant,
}

/// Who has requests.
#[derive(Debug)]
pub(crate) struct Lineup {
    /// The nearest first.
    tiers: Box<[Tier]>,
    /// By index.
    used: Box<[bool]>,
    is_panic: bool,
    stale_at: Option<Instant>,
}

#[derive(Debug)]
struct Tier {
    members: Box<[u32]>,
    way: Way,
    /// What goes on to those beyond it of what comes to it, of [`ALL`].
    onward: u64,
    turn: AtomicU64,
}

#[derive(Debug)]
enum Way {
    Turns(Rotation),
    /// The sums of the weights, up to each and with it.
    Chance {
        sums: Box<[u64]>,
        least: bool,
    },
    Table(Arc<Table>),
}

impl Member {
    fn is_fit(&self) -> bool {
        self.weight > 0 && self.fitness.is_fit()
    }

    fn is_drained(&self) -> bool {
        self.fitness == Fitness::Drained
    }

    /// Since when its share grows, and how long that takes.
    fn grows(&self, balancing: &Balancing) -> Option<(Instant, Duration)> {
        match self.fitness {
            Fitness::Since(since) => Some((since, balancing.slow_start?)),
            Fitness::TakenBack(since) => Some((since, balancing.slow_start.unwrap_or(TAKEN_BACK))),
            _ => None,
        }
    }

    /// In [`STEPS`]ths of a weight of one.
    fn share(&self, Terms { balancing, now, .. }: Terms<'_>) -> u32 {
        let grown = |(since, whole)| step(now.saturating_duration_since(since), whole);
        self.weight.saturating_mul(self.grows(balancing).map_or(STEPS, grown))
    }

    /// When it is another one by itself.
    fn changes_at(&self, Terms { balancing, now, .. }: Terms<'_>) -> Option<Instant> {
        if let Fitness::Ejected(until) = self.fitness {
            return Some(until);
        }
        let (since, whole) = self.grows(balancing)?;
        let step = step(now.saturating_duration_since(since), whole);
        (step < STEPS).then(|| since + whole * step / STEPS)
    }
}

/// From 1 to [`STEPS`].
fn step(since: Duration, whole: Duration) -> u32 {
    let passed = since.as_nanos() * u128::from(STEPS) / whole.as_nanos().max(1);
    u32::try_from(passed).unwrap_or(STEPS).saturating_add(1).min(STEPS)
}

impl Lineup {
    /// `before` is the one that this one follows, whose turns are gone on with.
    pub(crate) fn new(members: &[Member], terms: Terms<'_>, before: Option<&Self>) -> Self {
        let sum = |of: &dyn Fn(&Member) -> bool| -> u64 {
            members.iter().filter(|member| of(member)).map(|member| u64::from(member.weight)).sum()
        };
        let (total, fit) = (sum(&|member| !member.is_drained()), sum(&Member::is_fit));
        let is_panic = fit == 0 || fit * 100 < total * u64::from(terms.balancing.panic_threshold);
        let is_used = |it: &Member| it.weight > 0 && !it.is_drained() && (is_panic || it.is_fit());
        let used: Box<[bool]> = members.iter().map(is_used).collect();
        let tiers = onward(&shares(members, terms)).into_iter().enumerate();
        let tiers = tiers.map(|(tier, onward)| {
            let before = before.and_then(|before| before.tiers.get(tier));
            Tier { onward, ..Tier::new(members, &used, tier, terms, before) }
        });
        Self {
            tiers: tiers.collect(),
            is_panic,
            stale_at: members.iter().filter_map(|member| member.changes_at(terms)).min(),
            used,
        }
    }

    /// One endpoint, if any has a weight: one that was not tried, where there is one. `load` says how much one has to do.
    pub(crate) fn select(&self, draw: &Draw, tried: &Tried, load: impl Fn(usize) -> usize) -> Option<usize> {
        let first = self.tiers.iter().zip(0..).position(|(tier, n)| !tier.passes_on(draw, n)).unwrap_or(0);
        let (chosen, others) = (self.tiers.get(first), self.tiers.iter().enumerate());
        let others = others.filter(|(n, _)| *n != first).map(|(_, tier)| tier);
        let mut tiers = chosen.into_iter().chain(others);
        let is_used = |index: usize| self.has(index);
        let fresh = |index: usize| is_used(index) && !tried.contains(index);
        let untried = tiers.clone().find_map(|tier| tier.select(draw, fresh, &load));
        untried.or_else(|| tiers.find_map(|tier| tier.select(draw, is_used, &load)))
    }

    /// Whether it has requests.
    pub(crate) fn has(&self, index: usize) -> bool {
        self.used.get(index).is_some_and(|used| *used)
    }

    /// Whether one that is used was not tried.
    pub(crate) fn has_others(&self, tried: &Tried) -> bool {
        self.used.iter().enumerate().any(|(index, used)| *used && !tried.contains(index))
    }

    /// When it has to be made anew, whatever happens.
    pub(crate) fn is_stale(&self, now: Instant) -> bool {
        self.stale_at.is_some_and(|at| at <= now)
    }

    /// Whether the clock has anything to say.
    pub(crate) fn ages(&self) -> bool {
        self.stale_at.is_some()
    }

    /// Whether those are used, too, that are not fit.
    pub(crate) fn is_panic(&self) -> bool {
        self.is_panic
    }

    /// The share of requests that goes far, of 65,536.
    pub(crate) fn spill(&self) -> u64 {
        self.tiers.first().map_or(0, |near| near.onward)
    }
}

/// What each tier has of all requests, of [`ALL`].
fn shares(members: &[Member], terms: Terms<'_>) -> Vec<u64> {
    let count = members.iter().map(|member| member.tier + 1).max().unwrap_or(1);
    let mut weights = vec![(0_u64, 0_u64); count];
    for member in members {
        let Some((fit, total)) = weights.get_mut(member.tier) else { continue };
        *total += u64::from(member.weight);
        if member.is_fit() {
            *fit += u64::from(member.share(terms));
        }
    }
    let mut left = ALL;
    let take = |&(fit, total): &(u64, u64)| {
        let enough = total * u64::from(STEPS) * ENOUGH.0;
        // Rounded up: zones that have just enough together leave nothing to the next one.
        let takes = if enough == 0 { 0 } else { (fit * ENOUGH.1 * ALL).div_ceil(enough).min(left) };
        left -= takes;
        takes
    };
    let mut shares: Vec<u64> = weights.iter().map(take).collect();
    let mut beyond: u64 = weights.iter().skip(1).map(|(fit, _)| fit).sum();
    if beyond == 0 {
        let only = weights.iter().position(|(_, total)| *total > 0).unwrap_or(0);
        shares.iter_mut().skip(only).take(1).for_each(|share| *share += left);
        return shares;
    }
    for (share, (fit, _)) in shares.iter_mut().zip(&weights).skip(1) {
        let more = (left * fit).checked_div(beyond).unwrap_or(0);
        *share += more;
        (left, beyond) = (left - more, beyond - fit);
    }
    shares
}

/// What goes on from each tier to those beyond it of what comes to it, of [`ALL`].
fn onward(shares: &[u64]) -> Vec<u64> {
    let mut comes = ALL;
    let onward = |share: &u64| {
        let before = comes;
        comes -= share;
        (comes * ALL).checked_div(before).unwrap_or(0)
    };
    shares.iter().map(onward).collect()
}

impl Tier {
    fn new(members: &[Member], used: &[bool], tier: usize, terms: Terms<'_>, before: Option<&Self>) -> Self {
        let here = |(index, member): &(u32, &Member)| member.tier == tier && used[*index as usize];
        let chosen: Vec<(u32, &Member)> = (0_u32..).zip(members).filter(here).collect();
        let shares: Vec<u32> = chosen.iter().map(|(_, member)| member.share(terms)).collect();
        let way = match (&terms.balancing.policy, terms.tables.of(tier)) {
            (_, Some(table)) => Way::Table(Arc::clone(table)),
            (Policy::LeastRequest, _) => Way::Chance { sums: sums(&shares), least: true },
            (Policy::Random, _) => Way::Chance { sums: sums(&shares), least: false },
            _ => Way::Turns(Rotation::resumed(&shares, before.map_or(0, Self::had))),
        };
        let turn = AtomicU64::new(before.map_or(0, |before| before.turn.load(Ordering::Relaxed)));
        Self { members: chosen.iter().map(|(index, _)| *index).collect(), way, onward: 0, turn }
    }

    /// Whether a request that has come to it, as the `n`th tier, goes on.
    fn passes_on(&self, draw: &Draw, n: u64) -> bool {
        match (self.onward, &self.way) {
            (0, _) => false,
            (ALL.., _) => true,
            (onward, Way::Turns(_)) => {
                let turn = self.turn.fetch_add(1, Ordering::Relaxed);
                turn.wrapping_mul(onward) % ALL >= ALL - onward
            }
            (onward, Way::Chance { .. }) => {
                below(draw.number(if n == 0 { 0 } else { 2 * DRAWS + 1 + n }), ALL) < onward
            }
            (onward, Way::Table(_)) => below(mix(draw.key().wrapping_add(n)), ALL) < onward,
        }
    }

    fn had(&self) -> usize {
        match &self.way {
            Way::Turns(rotation) => rotation.had(),
            Way::Chance { .. } | Way::Table(_) => 0,
        }
    }

    fn select(&self, draw: &Draw, accept: impl Fn(usize) -> bool, load: &impl Fn(usize) -> usize) -> Option<usize> {
        match &self.way {
            Way::Table(table) => table.find(draw.key(), accept),
            Way::Turns(rotation) => {
                let drawn = (0..DRAWS).filter_map(|_| self.member(rotation.next()?)).find(|&index| accept(index));
                drawn.or_else(|| self.any(draw, accept))
            }
            Way::Chance { sums, least } => {
                let draw_one = |n: u64| drawn(sums, draw.number(n)).filter(|&at| self.member(at).is_some_and(&accept));
                let found = (1..=DRAWS).find_map(|n| {
                    let (one, other) = (draw_one(2 * n), if *least { draw_one(2 * n + 1) } else { None });
                    match (one, other) {
                        (Some(one), Some(other)) if self.is_lighter(other, one, sums, load) => Some(other),
                        (one, other) => one.or(other),
                    }
                });
                found.and_then(|at| self.member(at)).or_else(|| self.any(draw, accept))
            }
        }
    }

    fn member(&self, at: usize) -> Option<usize> {
        self.members.get(at).map(|&index| index as usize)
    }

    /// Whether the one at this place has less to do than another, for what each can take.
    fn is_lighter(&self, one: usize, other: usize, sums: &[u64], load: &impl Fn(usize) -> usize) -> bool {
        let sum = |at: usize| u128::from(sums.get(at).copied().unwrap_or(0));
        let weight = |at: usize| sum(at) - at.checked_sub(1).map_or(0, sum);
        let load = |at: usize| self.member(at).map_or(0, load) as u128;
        load(one) * weight(other) < load(other) * weight(one)
    }

    /// The first that is accepted, from some place on.
    fn any(&self, draw: &Draw, accept: impl Fn(usize) -> bool) -> Option<usize> {
        let count = self.members.len() as u64;
        let from = usize::try_from(below(draw.number(1), count.max(1))).unwrap_or(0);
        let (before, after) = self.members.split_at(from.min(self.members.len()));
        after.iter().chain(before).map(|&index| index as usize).find(|&index| accept(index))
    }
}

fn sums(shares: &[u32]) -> Box<[u64]> {
    let mut sum = 0;
    let add = |&share: &u32| {
        sum += u64::from(share);
        sum
    };
    shares.iter().map(add).collect()
}

/// The place of the share that a number falls into.
fn drawn(sums: &[u64], number: u64) -> Option<usize> {
    let whole = *sums.last().filter(|&&sum| sum > 0)?;
    let at = below(number, whole);
    Some(sums.partition_point(|&sum| sum <= at))
}
