//! One lease as its node knows it.

use tollgate_proto::state::v1::{Consumed, JournalSum};

use super::{Part, demand::Demand};
use crate::{
    journal::OWN_NUMBERS,
    ledger::LeaseView,
    slide::{Slide, Span},
};

/// A lease that no window ends is given back when nobody has asked for it for this long.
const IDLE_US: u64 = 10_000_000;
/// A ceiling is raised by so many requests of the size that met it, at least.
pub(super) const STEP: u64 = 16;
/// Of the slots of a sliding lease, an image of the journal tells so many sums at most: each ages with its newest slot.
const SUMS: usize = 8;

/// See [`Cell::counts`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Counts {
    pub(super) held: u64,
    pub(super) spent: u64,
}

/// One lease: what was granted, and what this incarnation has made of it.
#[derive(Debug, Default)]
#[cfg_attr(any(test, feature = "seeded-bugs"), derive(Clone))]
pub(super) struct Cell {
    pub(super) limit: Box<str>,
    pub(super) key: Vec<String>,
    pub(super) named: bool,
    pub(super) lease: Option<LeaseView>,
    /// Began with a standing share: what the journal calls it in that window. 0 where it has a number from the beginning.
    pub(super) own: u32,
    pub(super) own_epoch: u64,
    /// The journal knows that number.
    pub(super) is_told: bool,
    /// Had a lease in a window that is over.
    pub(super) was_bound: bool,
    pub(super) held: u64,
    /// Of `held`, what is in a pocket and no request held when somebody last looked.
    pub(super) idle: u64,
    /// Of `held`, what requests have drawn that have not gone out: they may yet be refused.
    pub(super) undecided: u64,
    pub(super) spent: u64,
    pub(super) returned: u64,
    pub(super) overrun: u64,
    /// Of `held` and `spent`, what is in no journal request by request, but below a ceiling that is. Of a sliding lease only
    /// what has not gone out: see `unjournaled_slide`.
    pub(super) unjournaled: u64,
    /// Of that, what is spent.
    pub(super) unjournaled_spent: u64,
    pub(super) ceiling: u64,
    /// Where the journal has it.
    pub(super) ceiling_at: u64,
    /// Of a sliding lease: what of `held` has gone out, and what was used, by its age; `spent` is in there.
    pub(super) slide: Slide,
    /// Of that, what is in no journal request by request.
    pub(super) unjournaled_slide: Slide,
    /// Of a sliding lease: what of `held` has not gone out, and does not age.
    pub(super) waiting: u64,
    /// The age at which it was last asked for.
    pub(super) asked_at: u64,
    /// The age at which there may be something to give back.
    pub(super) wake_at: Option<u64>,
    /// The generation that was last reported.
    pub(super) said: u32,
    pub(super) is_dirty: bool,
    pub(super) is_short: bool,
    pub(super) demand: Demand,
    pub(super) ask_after: u64,
    #[cfg(any(test, feature = "seeded-bugs"))]
    pub(super) missed: u64,
    /// What was last reported: spent, returned, overrun.
    #[cfg(any(test, feature = "seeded-bugs"))]
    pub(super) reported: (u64, u64, u64),
}

impl Cell {
    /// What may be drawn or given back: of a sliding lease, what is fresh.
    pub(super) fn balance(&self, age: u64) -> u64 {
        let granted = self.lease.map_or(0, |lease| lease.granted);
        let Counts { held, spent } = self.counts(age);
        granted.saturating_sub(held).saturating_sub(spent).saturating_sub(self.returned)
    }

    /// Of what was granted and not returned, what requests hold and what was used.
    pub(super) fn counts(&self, age: u64) -> Counts {
        let Some(span) = self.span() else { return Counts { held: self.held, spent: self.spent } };
        let live = self.slide.live(span, age);
        Counts { held: self.waiting.saturating_add(live.held), spent: live.used }
    }

    /// How long what is used counts here, where that is not until a window turns.
    pub(super) fn span(&self) -> Option<Span> {
        self.lease.and_then(|lease| lease.span).map(Span::by_any_clock)
    }

    /// No window gives back what nobody wants: the node does.
    pub(super) fn is_idle(&self, age: u64) -> bool {
        self.lease.is_some_and(|lease| !lease.turns()) && age >= self.asked_at.saturating_add(IDLE_US)
    }

    /// When there will be something to give back that nobody's request ends.
    pub(super) fn next_news(&self, age: u64, closed: bool) -> Option<u64> {
        let lease = self.lease.filter(|lease| !lease.turns() && lease.granted > self.returned)?;
        if !(closed || self.is_called_back() || self.is_idle(age)) {
            return Some(self.asked_at.saturating_add(IDLE_US));
        }
        lease.span.and_then(|span| self.slide.next_fresh(span.by_any_clock(), age))
    }

    /// What may be drawn: what was used beyond what was reserved has to be made up for first. In a sliding window the log ages
    /// that, and a purse pays it with what is billed.
    pub(super) fn spendable(&self, age: u64) -> u64 {
        let is_elsewhere = self.lease.is_some_and(|lease| lease.span.is_some() || lease.purse);
        let overrun = if is_elsewhere { 0 } else { self.overrun };
        self.balance(age).saturating_sub(overrun)
    }

    /// Whether this is the lease that a part was drawn from. Its window alone does not tell: where the log says nothing of a
    /// limit whose window is over, one lease of it may be let go, and another take its place.
    pub(super) fn is_of(&self, part: &Part) -> bool {
        self.lease.is_some_and(|lease| lease.epoch == part.epoch) && self.number() == part.account
    }

    /// Whether the lease may be drawn on for a charge of this version at this time.
    pub(super) fn serves(&self, version: u64, now: u64) -> bool {
        self.lease.is_some_and(|lease| {
            let (since, newest) = lease.versions;
            lease.in_force && !lease.central && now < lease.window_end.0 && (since.0..=newest.0).contains(&version)
        })
    }

    /// Counts what was just drawn without being journaled; true when the ceiling had to be raised for it, by `step` at least.
    pub(super) fn draw_unjournaled(&mut self, age: u64, amount: u64, step: u64) -> bool {
        self.unjournaled += amount;
        let aged = self.span().map(|span| self.unjournaled_slide.live(span, age));
        let all = self.unjournaled.saturating_add(aged.map_or(0, |live| live.held.saturating_add(live.used)));
        if all <= self.ceiling {
            return false;
        }
        let step = self.demand.target().max(step);
        let granted = self.lease.map_or(0, |lease| lease.granted);
        self.ceiling = all.saturating_add(step).min(granted);
        true
    }

    /// What was drawn of a sliding lease goes out, and ages from `at` on.
    pub(super) fn send_out(&mut self, span: Span, at: u64, amount: u64, below_ceiling: bool) {
        self.waiting = self.waiting.saturating_sub(amount);
        self.slide.hold(span, at, amount);
        if below_ceiling {
            self.unjournaled = self.unjournaled.saturating_sub(amount);
            self.unjournaled_slide.hold(span, at, amount);
        }
    }

    /// Of what was drawn of a sliding lease, and went out at `at` if it did, so much was used, and the rest is fresh.
    pub(super) fn end_aged(&mut self, span: Span, at: Option<u64>, drawn: u64, used: u64, below_ceiling: bool) {
        let Some(at) = at else {
            self.waiting = self.waiting.saturating_sub(drawn);
            self.unjournaled = self.unjournaled.saturating_sub(if below_ceiling { drawn } else { 0 });
            return;
        };
        self.slide.settle(span, at, drawn, used);
        if below_ceiling {
            self.unjournaled_slide.settle(span, at, drawn, used);
        }
    }

    /// What the journal has to know of this lease once it has forgotten the requests that have ended; nothing of permits,
    /// and nothing that has aged.
    pub(super) fn sums(&self, age: u64) -> Vec<JournalSum> {
        let Some(lease) = self.lease.filter(LeaseView::is_used_up) else { return Vec::new() };
        let all = Consumed { account: self.number(), epoch: lease.epoch, ..Consumed::default() };
        let Some(span) = self.span() else {
            let consumed = Consumed { spent: self.spent - self.unjournaled_spent, overrun: self.overrun, ..all };
            return vec![JournalSum { consumed: Some(consumed), ceiling: self.ceiling }];
        };
        let first = JournalSum { consumed: Some(Consumed { overrun: self.overrun, ..all }), ceiling: self.ceiling };
        let live: Vec<(u64, u64)> = self.slide.used_since(span, age, &self.unjournaled_slide).collect();
        let some = live.chunks(live.len().div_ceil(SUMS).max(1)).map(|slots| {
            let fresh_at_us = slots.last().map_or(0, |(at, _)| at.saturating_add(span.lasts()));
            let spent = slots.iter().map(|(_, used)| used).sum();
            JournalSum { consumed: Some(Consumed { spent, fresh_at_us, ..all }), ceiling: 0 }
        });
        std::iter::once(first).chain(some).collect()
    }

    /// What the journal calls its account.
    pub(super) fn number(&self) -> u32 {
        let own = self.lease.filter(|lease| self.own != 0 && lease.epoch == self.own_epoch).map(|_| self.own);
        own.or(self.lease.map(|lease| lease.account)).unwrap_or_default()
    }

    /// Whether its account has a number in the ledger, as far as is known.
    pub(super) fn has_number(&self) -> bool {
        self.lease.is_none_or(|lease| lease.account < OWN_NUMBERS)
    }

    /// What to have in hand: who has a share by rule asks for more once that is not enough for the next request.
    pub(super) fn wanted(&self) -> u64 {
        let by_rule = self.lease.is_some_and(|lease| lease.by_rule > 0);
        if by_rule { self.demand.largest.saturating_mul(2) } else { self.demand.target() }
    }

    pub(super) fn is_called_back(&self) -> bool {
        self.lease.is_some_and(|lease| lease.central || !lease.in_force)
    }

    pub(super) fn forget_sums(&mut self) {
        (self.held, self.spent, self.returned, self.overrun, self.said) = (0, 0, 0, 0, 0);
        (self.unjournaled, self.unjournaled_spent, self.ceiling, self.ceiling_at) = (0, 0, 0, 0);
        (self.slide, self.unjournaled_slide) = (Slide::default(), Slide::default());
        (self.waiting, self.idle, self.undecided) = (0, 0, 0);
        #[cfg(any(test, feature = "seeded-bugs"))]
        ((self.missed, self.reported) = (0, (0, 0, 0)));
        (self.own, self.own_epoch, self.is_told) = (0, 0, false);
        self.lease = None;
        self.was_bound = true;
    }
}
