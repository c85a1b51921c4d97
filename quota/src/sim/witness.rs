//! Counts what was really sent out, in the plainest words.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::world::{FLIPS, PERMITS, PURSE, SLIDING};
use crate::invariants::{Terminals, Violation, require, safe};

/// Limit, key, and where the window began.
pub(super) type Place = (String, String, u64);
/// Account, window, amount: as the log or a lease labels a charge.
pub(super) type Label = (u32, u64, u64);

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Figures {
    /// In flight, or was when its process died: it may have used all of it.
    pub(super) held: u64,
    pub(super) settled: u64,
    pub(super) overrun: u64,
    /// What an operator had given to others, although a lost node may have spent it.
    pub(super) lost: u64,
    /// What may be dispatched: the greatest capacity that was in force; after a lower, no more than what was out by then.
    pub(super) most: u64,
    capacity: u64,
}

/// What one request took at one time; what it did not use is taken off when it ends.
#[derive(Debug, Clone, Copy)]
struct Taken {
    at: u64,
    request: Request,
    amount: u64,
    ended: bool,
}

/// Process and number.
pub(super) type Request = (usize, u64);

/// The length of all windows that slide.
const WINDOW: u64 = 1_000_000;
/// What is older than this is forgotten: no request goes out so long after it was granted.
const KEPT: u64 = 8 * WINDOW;
/// Up to this age a sliding limit may count what was taken: a window, a slot, the way out, and clocks that are wrong.
const COUNTED: u64 = WINDOW * 115 / 100;

#[derive(Debug, Default)]
pub(super) struct Witness {
    places: BTreeMap<(u32, u64), Place>,
    pub(super) figures: BTreeMap<Place, Figures>,
    /// Of sliding limits, in order of time.
    taken: BTreeMap<Place, VecDeque<Taken>>,
    /// What was used of them beyond what was reserved, and since when.
    beyond: BTreeMap<Place, VecDeque<(u64, u64)>>,
    /// What was free again lately, and since when.
    freed: BTreeMap<Place, VecDeque<(u64, u64)>>,
    /// Of these, until when how much was to be had before it was lowered: a request may go out after that.
    before: BTreeMap<Place, VecDeque<(u64, u64)>>,
    pub(super) terminals: Terminals,
}

impl Witness {
    /// An account was seen in a window, with this capacity in force and so much of it used, held or with nodes; and so much
    /// of each account of its limit with nodes by rule.
    pub(super) fn see(
        &mut self,
        now: u64,
        (account, epoch): (u32, u64),
        place: &Place,
        capacity: u64,
        taken: u64,
        by_rule: u64,
    ) {
        if self.places.get(&(account, epoch)) != Some(place) {
            self.places.insert((account, epoch), place.clone());
        }
        if !self.figures.contains_key(place) {
            // A limit that was lowered meanwhile: what is out by rule is what was out then.
            self.figures.insert(place.clone(), Figures { most: by_rule, ..Figures::default() });
        }
        let figures = self.figures.get_mut(place).expect("it was just put there");
        let lowered = capacity < figures.capacity;
        if lowered && place.0 == SLIDING {
            let before = self.before.entry(place.clone()).or_default();
            before.retain(|(until, _)| until + KEPT > now);
            before.push_back((now, figures.most));
        }
        figures.most = if lowered { capacity.max(taken) } else { figures.most.max(capacity) };
        figures.capacity = capacity;
    }

    /// So much of an account was given to others by an operator's order.
    pub(super) fn may_lose(&mut self, window: (u32, u64), released: u64) {
        let figures = self.places.get(&window).and_then(|place| self.figures.get_mut(place));
        figures.into_iter().for_each(|figures| figures.lost += released);
    }

    pub(super) fn place(&self, account: u32, epoch: u64) -> Option<&Place> {
        self.places.get(&(account, epoch))
    }

    /// A request goes out: each of its charges counts from a time on.
    pub(super) fn dispatch(
        &mut self,
        request: Request,
        labels: &[Label],
        times: impl Iterator<Item = u64>,
    ) -> Result<(), Violation> {
        for (&(account, epoch, amount), at) in labels.iter().zip(times) {
            let place = &self.places[&(account, epoch)];
            let figures = self.figures.get_mut(place).expect("it was seen");
            match &*place.0 {
                PERMITS | PURSE | FLIPS => {}
                SLIDING => {
                    let taken = self.taken.entry(place.clone()).or_default();
                    take(taken, Taken { at, request, amount, ended: false });
                    let most = greatest(taken, at);
                    let mut before = self.before.get(place).into_iter().flatten();
                    let limit = before.find(|(until, _)| at < *until).map_or(figures.most, |(_, most)| *most);
                    require(safe(limit, most, 0), "I3", || {
                        format!("{place:?}: {most} in a window around {at}, and {figures:?}")
                    })?;
                }
                _ => {
                    figures.held += amount;
                    let holds = safe(figures.most + figures.lost, figures.held, figures.settled);
                    require(holds, "I3", || format!("{place:?}: {figures:?}"))?;
                }
            }
        }
        Ok(())
    }

    /// A request is over, having used `used` of each unit that it is charged for.
    pub(super) fn settle(&mut self, now: u64, request: Request, labels: &[Label], used: impl Fn(&Place) -> u64) {
        for &(account, epoch, amount) in labels {
            let place = &self.places[&(account, epoch)];
            let used = used(place);
            note(self.freed.entry(place.clone()).or_default(), now, amount.saturating_sub(used));
            if let Some(taken) = self.taken.get_mut(place) {
                let open = |taken: &&mut Taken| taken.request == request && !taken.ended;
                if let Some(taken) = taken.iter_mut().rev().find(open) {
                    (taken.amount, taken.ended) = (used.min(amount), true);
                }
                note(self.beyond.entry(place.clone()).or_default(), now, used.saturating_sub(amount));
                continue;
            }
            if [PERMITS, PURSE, FLIPS].contains(&&*place.0) {
                continue;
            }
            let figures = self.figures.get_mut(place).expect("it was seen");
            figures.held -= amount;
            let (within, beyond) = used_within(used, amount);
            figures.settled += within;
            figures.overrun += beyond;
        }
    }

    /// What of an account was free again after `start`.
    pub(super) fn freed_since(&self, place: &Place, start: u64) -> u64 {
        since(self.freed.get(place), start)
    }

    /// These were granted, and nobody took them.
    pub(super) fn let_go(&mut self, now: u64, labels: &[Label]) {
        for (account, epoch, amount) in labels {
            if let Some(place) = self.places.get(&(*account, *epoch)) {
                note(self.freed.entry(place.clone()).or_default(), now, *amount);
            }
        }
    }

    /// What was taken of a sliding limit within a window that ends now, by each request once.
    pub(super) fn within(&self, place: &Place, now: u64) -> u64 {
        let taken = self.taken.get(place).into_iter().flatten().rev().take_while(|it| it.at + WINDOW > now);
        let mut seen = BTreeSet::new();
        taken.filter(|it| seen.insert(it.request)).map(|it| it.amount).sum()
    }

    /// What of an account counts now.
    pub(super) fn counts(&self, place: &Place, now: u64) -> u64 {
        match self.taken.get(place) {
            Some(taken) => {
                let taken = taken.iter().rev().take_while(|it| it.at + COUNTED > now).map(|it| it.amount);
                taken.sum::<u64>() + since(self.beyond.get(place), now.saturating_sub(COUNTED))
            }
            None => self.figures.get(place).map_or(0, |it| it.held + it.settled + it.overrun),
        }
    }
}

fn note(noted: &mut VecDeque<(u64, u64)>, now: u64, amount: u64) {
    if amount > 0 {
        while noted.front().is_some_and(|(at, _)| at + KEPT < now) {
            noted.pop_front();
        }
        noted.push_back((now, amount));
    }
}

/// What was noted after `start`.
fn since(noted: Option<&VecDeque<(u64, u64)>>, start: u64) -> u64 {
    let noted = noted.into_iter().flat_map(|noted| noted.iter().rev());
    noted.take_while(|(at, _)| *at > start).map(|(_, amount)| amount).sum()
}

fn take(taken: &mut VecDeque<Taken>, next: Taken) {
    while taken.front().is_some_and(|oldest| oldest.at + KEPT < next.at) {
        taken.pop_front();
    }
    let place = taken.partition_point(|it| it.at <= next.at);
    taken.insert(place, next);
}

/// The most that any window has in it of those that `at` is in. Each of them, or one with more, begins with a charge.
fn greatest(taken: &VecDeque<Taken>, at: u64) -> u64 {
    let begin = taken.partition_point(|it| it.at + WINDOW <= at);
    let (mut end, mut sum, mut most) = (begin, 0, 0);
    for first in begin..taken.len() {
        if taken[first].at > at {
            break;
        }
        while end < taken.len() && taken[end].at < taken[first].at + WINDOW {
            sum += taken[end].amount;
            end += 1;
        }
        most = most.max(sum);
        sum -= taken[first].amount;
    }
    most
}

/// What was used of what was reserved, and what beyond it.
pub(super) fn used_within(used: u64, reserved: u64) -> (u64, u64) {
    (used.min(reserved), used.saturating_sub(reserved))
}
