//! Holds: what requests in flight have reserved, until they end, their deadline passes, or their node starts anew.

use std::{
    collections::{BTreeSet, HashMap},
    hash::BuildHasherDefault,
};

use smallvec::SmallVec;
use tollgate_proto::{
    Shared,
    state::v1::{Attribution, Outcome, Settle, Usage},
};

#[cfg(any(test, feature = "seeded-bugs"))]
use super::bugs::Bug;
use super::{Ledger, leases::Gone, purse::difference, slab::Slab, spread::Spread};
use tollgate_model::Unit;

/// How long an expired hold can still be corrected by a late settlement (QUOTA.md R12), in log time.
const CORRECTABLE_US: u64 = 72 * 3_600 * 1_000_000;
/// The deadline of what was forgotten but for its permits: time does nothing more to it.
const FORGOTTEN_US: u64 = u64::MAX;
/// Holds consumed by their deadlines in one entry; the rest follows with the next. Expiry frees nothing, so it may wait.
const EXPIRED_PER_ENTRY: usize = 1_024;

/// Bits of a request's number that count within its incarnation; the incarnation is above them.
const REQUEST_BITS: u32 = 40;

/// The number before the first request of an incarnation: no two requests of a node ever have the same.
#[must_use]
pub(crate) fn requests_of(incarnation: u64) -> u64 {
    incarnation << REQUEST_BITS
}

/// The last numbers of an incarnation are those of its tallies (`present.rs`): its requests do not come that far.
const FIRST_TALLY: u64 = (1 << REQUEST_BITS) - (1 << u32::BITS);

/// What one incarnation has in flight of an account, at this seat, where nobody asks for permits.
pub(super) fn tally_of(incarnation: u64, seat: u32) -> u64 {
    requests_of(incarnation) + FIRST_TALLY + u64::from(seat)
}

/// Whether a hold is of no single request.
pub(super) fn is_tally(request: u64) -> bool {
    request - requests_of(incarnation_of(request)) >= FIRST_TALLY
}

pub(super) fn incarnation_of(request: u64) -> u64 {
    request >> REQUEST_BITS
}

/// How the usage of a request counts.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counted {
    /// The row that said that nobody knows.
    pub(super) corrects: u64,
}

/// What one hold took of one account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) account: u32,
    pub(super) epoch: u64,
    pub(super) amount: u64,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct HoldState {
    pub(super) node: u64,
    pub(super) request: u64,
    pub(super) deadline_us: u64,
    /// The age at which it was granted.
    pub(super) at: u64,
    /// Consumed at its deadline.
    pub(super) expired: bool,
    /// A journal has its request before that goes out.
    pub(super) journaled: bool,
    /// Whose it is, until somebody was told what became of it.
    pub(super) attribution: Option<Shared<Attribution>>,
    /// The row of the billing ledger that says that nobody knows.
    pub(super) orphaned_in: u64,
    /// It is over but for that: nobody will say more of it.
    pub(super) closed: bool,
    pub(super) charges: SmallVec<[Held; 4]>,
}

impl HoldState {
    /// When time does something to it next.
    fn due(&self) -> u64 {
        if self.expired { self.deadline_us.saturating_add(CORRECTABLE_US) } else { self.deadline_us }
    }
}

#[derive(Debug, Default)]
#[cfg_attr(any(test, feature = "seeded-bugs"), derive(Clone))]
pub(super) struct Holds {
    pub(super) slab: Slab<HoldState>,
    /// By node and request. Never iterated.
    index: HashMap<(u64, u64), u32, BuildHasherDefault<Spread>>,
    due: BTreeSet<(u64, u32)>,
    /// Those that go once it was told that nobody knows.
    closed: BTreeSet<u32>,
}

impl Holds {
    pub(super) fn len(&self) -> usize {
        self.slab.len()
    }

    pub(super) fn find(&self, node: u64, request: u64) -> Option<u32> {
        self.index.get(&(node, request)).copied()
    }

    pub(super) fn insert(&mut self, hold: HoldState) -> u32 {
        let (name, due) = ((hold.node, hold.request), hold.due());
        let id = self.slab.insert(hold);
        self.index.insert(name, id);
        self.due.insert((due, id));
        id
    }

    pub(super) fn restore(&mut self, id: u32, hold: HoldState) {
        self.index.insert((hold.node, hold.request), id);
        if hold.closed {
            self.closed.insert(id);
        } else {
            self.due.insert((hold.due(), id));
        }
        self.slab.put(id, hold);
    }

    pub(super) fn remove(&mut self, id: u32) -> Option<HoldState> {
        let hold = self.slab.remove(id)?;
        self.index.remove(&(hold.node, hold.request));
        self.due.remove(&(hold.due(), id));
        self.closed.remove(&id);
        Some(hold)
    }

    /// Time does nothing to it any more.
    fn close(&mut self, id: u32) {
        let Some(hold) = self.slab.get_mut(id) else { return };
        self.due.remove(&(hold.due(), id));
        hold.closed = true;
        self.closed.insert(id);
    }

    fn first_due(&self, now: u64) -> Option<u32> {
        self.due.first().filter(|(due, _)| *due <= now).map(|(_, id)| *id)
    }

    fn mark_expired(&mut self, id: u32) {
        let Some(hold) = self.slab.get_mut(id) else { return };
        self.due.remove(&(hold.due(), id));
        hold.expired = true;
        self.due.insert((hold.due(), id));
    }

    /// Those that go once it was told that nobody knows, in order of their places.
    pub(super) fn closed(&self) -> impl Iterator<Item = u32> {
        self.closed.iter().copied()
    }

    /// The holds of one node, in order of their numbers.
    pub(super) fn of_node(&self, node: u64) -> Vec<u32> {
        self.slab.iter().filter(|(_, hold)| hold.node == node).map(|(id, _)| id).collect()
    }
}

/// What a request really used, in the unit of a limit: where nobody but us has counted it, what it can have been at most,
/// as a limit that counts less gives others what is used already. What it costs is what will be billed for it.
pub(crate) fn actual(unit: Unit, usage: &Usage, outcome: Outcome) -> u64 {
    if outcome == Outcome::Voided {
        return 0;
    }
    let input = usage.input_tokens.max(usage.input_at_most);
    let output = usage.output_tokens.max(usage.output_at_most);
    match unit {
        Unit::Tokens => input.saturating_add(output),
        Unit::InputTokens => input,
        Unit::OutputTokens => output,
        Unit::Requests => 1,
        Unit::Cost(_) => usage.cost,
        Unit::Concurrency => 0,
    }
}

impl Ledger {
    /// Ends a request. How its usage counts, if it does: once for each request that was dispatched.
    pub(super) fn settle(&mut self, now: u64, node: u64, settle: &Settle) -> Option<Counted> {
        let outcome = settle.outcome();
        let ended = if settle.unheld { Some(Counted::default()) } else { self.end_hold(node, settle, outcome) };
        if ended.is_none() {
            self.meta.second_terminals += 1;
            return None;
        }
        if outcome == Outcome::Voided {
            self.meta.voided += 1;
            return ended.filter(|_| settle.attribution.is_some());
        }
        self.meta.settled += 1;
        self.count_shadows(now, settle);
        self.count_unprotected(settle);
        ended.filter(|_| settle.attribution.is_some())
    }

    /// None when there is no such hold: it has ended before.
    fn end_hold(&mut self, node: u64, settle: &Settle, outcome: Outcome) -> Option<Counted> {
        let id = self.holds.find(node, settle.request)?;
        #[cfg(any(test, feature = "seeded-bugs"))]
        if self.bug == Some(Bug::LateSettlesAreLost) && self.holds.slab.get(id).is_some_and(|hold| hold.expired) {
            return None;
        }
        let hold = self.holds.remove(id).expect("the index knows only what there is");
        self.dirty.holds.push(id);
        self.meta.late_settles += u64::from(hold.expired);
        let usage = settle.usage.unwrap_or_default();
        for held in &hold.charges {
            self.settle_charge(*held, &hold, &usage, outcome);
        }
        self.release_place(node);
        Some(Counted { corrects: hold.orphaned_in })
    }

    /// Moves what was used from `held` to `used`, what was used beyond that to `overrun`, and frees the rest. What was
    /// consumed at the deadline is corrected instead. A permit is free again.
    fn settle_charge(&mut self, held: Held, hold: &HoldState, usage: &Usage, outcome: Outcome) {
        let age = self.age();
        let Some(account) = self.accounts.slab.get_mut(held.account) else { return };
        let over = account.epoch != held.epoch;
        #[cfg(any(test, feature = "seeded-bugs"))]
        let over = over && self.bug != Some(Bug::SettlesIntoWhatIsOpen);
        if over {
            return; // the window has turned: nothing of it is left to move
        }
        let rule = &self.rules.get(account.rule).rule;
        let actual = actual(rule.unit, usage, outcome);
        #[cfg(any(test, feature = "seeded-bugs"))]
        let actual = if self.bug == Some(Bug::ClampsTruth) { actual.min(held.amount) } else { actual };
        #[cfg(any(test, feature = "seeded-bugs"))]
        if self.bug == Some(Bug::VoidLosesUnits) && outcome == Outcome::Voided {
            account.held += u64::from(account.held > held.amount);
        }
        let within = actual.min(held.amount);
        let expired = hold.expired && rule.unit != Unit::Concurrency;
        if !expired {
            account.held = account.held.saturating_sub(held.amount);
            account.give(held.amount);
        }
        match rule.span() {
            #[cfg(any(test, feature = "seeded-bugs"))]
            Some(_) if self.bug == Some(Bug::VoidKeepsItsSlot) && outcome == Outcome::Voided => {}
            Some(span) => {
                let slide = &mut account.rare_mut().slide;
                if expired {
                    slide.correct(span, hold.at, held.amount - within);
                } else {
                    slide.settle(span, hold.at, held.amount, within);
                }
                slide.overrun(span, age, actual - within);
            }
            None if expired && rule.is_purse() => account.unspend(held.amount - within),
            None if expired => {
                account.used = account.used.saturating_sub(held.amount - within);
                account.give(held.amount - within);
            }
            None => {
                account.used += within;
                account.take(within);
            }
        }
        if rule.span().is_none() {
            account.add_overrun(actual - within);
        }
        if rule.is_purse() {
            let by = (hold.node, incarnation_of(hold.request));
            let was = if expired { held.amount } else { 0 };
            self.note_spent(held.account, by, difference(actual, was));
        }
        self.dirty.accounts.push(held.account);
        self.recall_if_over(held.account);
        self.reconsider(held.account);
    }

    /// Counts the whole of a hold as used: nobody can say what became of it. Permits stay held, or are in suspense once
    /// the incarnation is gone: a deadline says nothing of what is still in flight (R12).
    fn consume(&mut self, id: u32, orphaned_by: Option<Gone>) {
        let Some(hold) = self.holds.slab.get(id) else { return };
        let (node, request, at, expired) = (hold.node, hold.request, hold.at, hold.expired);
        let charges = hold.charges.clone();
        for held in charges {
            let Some(account) = self.accounts.slab.get_mut(held.account).filter(|it| it.epoch == held.epoch) else {
                continue;
            };
            let rule = &self.rules.get(account.rule).rule;
            let is_permit = rule.unit == Unit::Concurrency;
            #[cfg(any(test, feature = "seeded-bugs"))]
            if self.bug == Some(Bug::PermitExpires) && is_permit && !expired {
                account.held = account.held.saturating_sub(held.amount);
                account.give(held.amount);
                self.dirty.accounts.push(held.account);
                self.drop_permits(id);
                continue;
            }
            if (is_permit && orphaned_by.is_none()) || (!is_permit && expired) {
                continue;
            }
            account.held = account.held.saturating_sub(held.amount);
            account.give(held.amount);
            match rule.span() {
                _ if is_permit => {}
                Some(span) => account.rare_mut().slide.settle(span, at, held.amount, held.amount),
                None => {
                    account.used += held.amount;
                    account.take(held.amount);
                }
            }
            let is_purse = rule.is_purse();
            self.dirty.accounts.push(held.account);
            if is_purse {
                self.note_spent(held.account, (node, incarnation_of(request)), difference(held.amount, 0));
            }
            if let Some(gone) = orphaned_by.filter(|_| is_permit) {
                self.suspend_permit(node, gone, held);
            }
        }
    }

    /// Consumes holds whose deadline has passed, and forgets those that can no longer be corrected.
    pub(super) fn expire_holds(&mut self, now: u64) {
        for _ in 0..EXPIRED_PER_ENTRY {
            let Some(id) = self.holds.first_due(now) else { return };
            self.dirty.holds.push(id);
            if self.holds.slab.get(id).is_some_and(|hold| hold.expired) {
                self.forget_hold(id);
            } else {
                #[cfg(any(test, feature = "seeded-bugs"))]
                if self.bug == Some(Bug::ExpiryFrees) {
                    self.free_instead(id);
                    continue;
                }
                self.consume(id, None);
                self.holds.mark_expired(id);
                self.meta.expired += 1;
            }
        }
    }

    /// Forgets a hold that can't be corrected any more, but for its permits: those stay until somebody ends them. Where it is known
    /// whose it is, it is first told that nobody knows what became of it.
    pub(super) fn forget_hold(&mut self, id: u32) {
        if self.holds.slab.get(id).is_some_and(|hold| hold.attribution.is_some()) {
            self.dirty.holds.push(id);
            return self.holds.close(id);
        }
        let Some(mut hold) = self.holds.remove(id) else { return };
        self.dirty.holds.push(id);
        hold.charges.retain(|held| self.is_permit(*held));
        if hold.charges.is_empty() {
            return self.release_place(hold.node);
        }
        hold.deadline_us = FORGOTTEN_US;
        // It was told of, if it had to be.
        hold.closed = false;
        self.holds.restore(id, hold);
    }

    fn is_permit(&self, held: Held) -> bool {
        let account = self.accounts.get(held.account).filter(|it| it.epoch == held.epoch);
        account.is_some_and(|it| self.rules.get(it.rule).rule.unit == Unit::Concurrency)
    }

    /// Consumes all holds of a node: its older incarnations cannot speak any more. They are kept while a journal may still
    /// correct them, but for their permits: those are with a lease from here on. How many were open.
    pub(super) fn orphan_holds(&mut self, node: u64, keep: bool, gone: Gone) -> u64 {
        let mut orphaned = 0;
        #[cfg(any(test, feature = "seeded-bugs"))]
        if self.bug == Some(Bug::ForgetsOrphans) {
            return orphaned;
        }
        for id in self.holds.of_node(node) {
            let expired = self.holds.slab.get(id).is_some_and(|hold| hold.expired);
            self.consume(id, Some(gone));
            #[cfg(any(test, feature = "seeded-bugs"))]
            if self.bug == Some(Bug::OrphansTwice) && !expired {
                self.consume(id, None);
            }
            self.drop_permits(id);
            if !expired {
                self.holds.mark_expired(id);
                orphaned += 1;
            }
            // What was forgotten but for its permits has nothing left to be kept for.
            let is_over = self.holds.slab.get(id).is_some_and(|hold| hold.expired && hold.deadline_us == FORGOTTEN_US);
            if !keep || is_over {
                self.forget_hold(id);
            }
            self.dirty.holds.push(id);
        }
        self.meta.orphaned += orphaned;
        orphaned
    }

    fn drop_permits(&mut self, id: u32) {
        let Some(mut charges) = self.holds.slab.get(id).map(|hold| hold.charges.clone()) else { return };
        charges.retain(|held| !self.is_permit(*held));
        if let Some(hold) = self.holds.slab.get_mut(id) {
            hold.charges = charges;
        }
    }

    /// Requests of an earlier incarnation that the log holds something for, in order, and that its journal has if they ever went
    /// out: they count as used, as nobody has said so.
    #[must_use]
    pub fn orphans_of(&self, node: u64, incarnation: u64) -> Vec<u64> {
        let of_it = |hold: &HoldState| hold.node == node && incarnation_of(hold.request) == incarnation;
        let orphans = self.holds.slab.iter().filter(|(_, hold)| of_it(hold) && self.is_known_if_sent(hold));
        let mut requests: Vec<u64> = orphans.map(|(_, hold)| hold.request).collect();
        requests.sort_unstable();
        requests
    }

    /// Gives back what was held for a request that its journal does not know, although it would have it on the disk before
    /// the request went out: whatever was torn off its end, that is there.
    pub(super) fn void_undispatched(&mut self, now: u64, node: u64, incarnation: u64, request: u64) {
        let hold = self.holds.find(node, request).and_then(|id| self.holds.slab.get(id));
        if incarnation_of(request) == incarnation && hold.is_some_and(|hold| self.is_known_if_sent(hold)) {
            self.settle(now, node, &Settle { request, outcome: Outcome::Voided.into(), ..Settle::default() });
        }
    }

    /// It was consumed, and its journal would have its request.
    fn is_known_if_sent(&self, hold: &HoldState) -> bool {
        #[cfg(any(test, feature = "seeded-bugs"))]
        if self.bug == Some(Bug::VoidsWhatIsNotJournaled) {
            return hold.expired;
        }
        hold.expired && hold.journaled
    }

    /// What an incarnation's holds have consumed of a purse is free again: should one end after all, all of it is beyond.
    pub(super) fn empty_holds(&mut self, node: u64, incarnation: u64) {
        for id in self.holds.of_node(node) {
            let Some(mut hold) = self.holds.slab.get(id).filter(|it| it.expired).cloned() else { continue };
            if incarnation_of(hold.request) != incarnation {
                continue;
            }
            for held in &mut hold.charges {
                let account = self.accounts.get(held.account).filter(|it| it.epoch == held.epoch);
                if account.is_some_and(|it| self.rules.get(it.rule).rule.is_purse()) {
                    held.amount = 0;
                }
            }
            if let Some(known) = self.holds.slab.get_mut(id) {
                *known = hold;
            }
            self.dirty.holds.push(id);
        }
    }

    /// What is left of the holds of one incarnation stays used: nothing more will be known of them.
    pub(super) fn close_holds(&mut self, node: u64, incarnation: u64) {
        let of_it = |hold: &HoldState| incarnation_of(hold.request) == incarnation;
        for id in self.holds.of_node(node) {
            if self.holds.slab.get(id).is_some_and(of_it) {
                self.forget_hold(id);
            }
        }
    }
}
