//! Purses: what tenants have paid in, and have not spent.
//!
//! A purse is a limit with one account and no window. Its capacity is what is left of all that was granted; whoever knows that
//! sets it, in the entry that grants, and takes off it what requests are billed: so no sum grows for years, and what was ever
//! spent is nowhere here. What holds and nodes say to have spent (`used`, and beyond what was held `overrun`) and what is
//! billed come in different records, so each waits for the other:
//! `capacity + billed = free + held + used + leased + suspense`, where `billed` is off the capacity and nobody has said yet to
//! have spent. Both are lowered together, as far as they meet ([`Ledger::bill_purses`]).
//!
//! Of each incarnation it is known what it has said to have spent and was not billed for: `unbilled` of its lease, which is there
//! for what the log held, too. When nothing more will be heard of it (its journal's last word, or somebody gave the node
//! up) that is what requests may have used that nobody knows the end of. No tenant is billed for that, so it is free again; so
//! is what was left of its leases. Before that time frees nothing of a purse. A journal's last word may be in the entry of its first
//! one, so purses are closed at the end of that, when all of it is billed ([`Ledger::close_purses`]).

use std::collections::BTreeSet;

use tollgate_model::{Name, Timestamp};

use super::{Changes, Ledger, holds::Held, leases::Lease};
use crate::Rule;

/// What was written off: free again, and the operator's loss.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenOff {
    /// The purse.
    pub limit: Name,
    /// Whose it was.
    pub node: u64,
    /// In the purse's unit.
    pub amount: u64,
    /// Who gave the node up; empty where its own journal does not know.
    pub actor: String,
}

/// What is billed to a purse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PurseBill {
    /// The purse.
    pub limit: Name,
    /// Who has said, or will, to have spent it.
    pub by: Option<Bearer>,
    /// What was used.
    pub cost: u64,
    /// What of it, or of what was owed before, is off what was paid in.
    pub burnt: u64,
}

/// Who has spent of a purse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bearer {
    /// The node.
    pub node: u64,
    /// Which start of it.
    pub incarnation: u64,
}

/// How a purse stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PurseView {
    /// What was paid in and is not spent, as far as it is billed.
    pub capacity: u64,
    /// What may be held or taken off now: below zero where more was used than was held.
    pub free: i128,
    /// Held by requests, or used by them and not billed yet.
    pub held: u64,
    /// In the hands of nodes, and held by no request.
    pub leased: u64,
    /// Was in the hands of incarnations that are gone, or was used by them and is not billed.
    pub suspense: u64,
    /// Billed, and nobody has said yet to have spent it. `capacity + billed = free + overrun + held + leased + suspense`.
    pub billed: u64,
    /// Used beyond what was held, and not billed yet.
    pub overrun: u64,
}

/// `one - other`, as far as it is a sum that a purse can have.
pub(super) fn difference(one: u64, other: u64) -> i64 {
    let difference = i128::from(one) - i128::from(other);
    i64::try_from(difference).unwrap_or(if difference < 0 { i64::MIN } else { i64::MAX })
}

impl Lease {
    /// So much more was spent, where that is of a purse.
    pub(super) fn note_spent(&mut self, rule: &Rule, amount: u64) {
        if rule.is_purse() {
            self.unbilled = self.unbilled.saturating_add(difference(amount, 0));
        }
    }
}

impl Ledger {
    /// Puts a purse into force with this capacity, or changes it. A purse in another unit is another one.
    pub fn put_purse(&mut self, now: Timestamp, purse: Rule, changes: &mut Changes) {
        let now = self.begin(now);
        match self.purse_of(&purse.limit).filter(|(id, _)| self.rules.get(*id).rule.unit == purse.unit) {
            Some((id, account)) => self.set_capacity(id, account, purse.capacity),
            None => {
                let limit = purse.limit.clone();
                self.put_rule(now, purse);
                if let Some(id) = self.rules.live(&limit) {
                    self.obtain_account(id, "");
                }
            }
        }
        self.finish(now, changes);
    }

    /// Requests were billed: what they cost is off what was paid in.
    pub fn bill_purses(&mut self, now: Timestamp, bills: &[PurseBill], changes: &mut Changes) {
        let now = self.begin(now);
        for bill in bills {
            let Some((id, account)) = self.purse_of(&bill.limit) else { continue };
            let capacity = self.rules.get(id).rule.capacity;
            let burnt = bill.burnt.min(capacity);
            let it = self.accounts.slab.get_mut(account).expect("a purse has its account").rare_mut();
            it.billed = it.billed.saturating_add(burnt);
            if let Some(by) = bill.by {
                self.note_spent(account, (by.node, by.incarnation), difference(0, bill.cost));
            }
            self.set_capacity(id, account, capacity - burnt);
        }
        self.finish(now, changes);
    }

    /// Calls back what nodes have of a purse: some of it is to be taken off.
    pub fn recall_purse(&mut self, now: Timestamp, limit: &str, changes: &mut Changes) {
        let now = self.begin(now);
        if let Some((_, account)) = self.purse_of(limit)
            && self.accounts.get(account).is_some_and(|it| it.leased > 0)
        {
            self.recall(now, account);
        }
        self.finish(now, changes);
    }

    /// Closes what incarnations have of purses of whom this entry has brought the last word: once all that they have said is
    /// billed, as what is not by then nobody will be billed for.
    pub fn close_purses(&mut self, now: Timestamp, changes: &mut Changes) {
        let now = self.begin(now);
        for (node, incarnation) in std::mem::take(&mut self.closing) {
            self.forgive_unknown(node, incarnation);
            for id in self.leases.of_incarnation(node, incarnation) {
                if self.is_of_a_purse(id) {
                    self.close_lease(id);
                }
            }
        }
        self.finish(now, changes);
    }

    /// Whether there is anything to close.
    #[must_use]
    pub fn is_closing_purses(&self) -> bool {
        !self.closing.is_empty()
    }

    /// How a purse stands; none if there is no such.
    #[must_use]
    pub fn purse(&self, limit: &str) -> Option<PurseView> {
        self.purse_without(limit, &[])
    }

    /// The same, should these nodes be away: what they have of it is in suspense.
    #[must_use]
    pub fn purse_without(&self, limit: &str, away: &[u64]) -> Option<PurseView> {
        let (id, account) = self.purse_of(limit)?;
        let (rule, it) = (self.rules.get(id), self.accounts.get(account)?);
        let is_there = |lease: &&Lease| self.is_open(lease) && !away.contains(&lease.node);
        let of_account = || self.leases.of_account(account);
        let unexplained = of_account().filter(|it| !is_there(it)).map(|it| u64::try_from(it.unbilled).unwrap_or(0));
        let unexplained = unexplained.sum::<u64>().min(it.used);
        let held_by_leases: u64 = of_account().filter(is_there).map(|lease| lease.held).sum();
        // What is open and away is leased, as far as the log knows.
        let leased_away = of_account().filter(|it| self.is_open(it) && !is_there(it)).map(Lease::outstanding).sum();
        let held_away = if away.is_empty() { 0 } else { self.held_of((account, it.epoch), away) };
        Some(PurseView {
            capacity: rule.rule.capacity,
            free: it.available(rule, self.age()),
            held: (it.held - held_away).saturating_add(held_by_leases).saturating_add(it.used - unexplained),
            leased: it.leased.saturating_sub(leased_away).saturating_sub(held_by_leases),
            suspense: it.rare().suspense.saturating_add(unexplained).saturating_add(leased_away + held_away),
            billed: it.rare().billed,
            overrun: it.rare().overrun,
        })
    }

    /// What the log holds of an account for requests of these nodes.
    fn held_of(&self, (account, epoch): (u32, u64), nodes: &[u64]) -> u64 {
        let holds = self.holds.slab.iter().filter(|(_, hold)| !hold.expired && nodes.contains(&hold.node));
        let charges = holds.flat_map(|(_, hold)| &hold.charges);
        let charges = charges.filter(|held| (held.account, held.epoch) == (account, epoch));
        charges.map(|held| held.amount).sum()
    }

    /// The nodes that have some of a purse in hand, or requests that hold some, as far as the log knows.
    #[must_use]
    pub fn holders_of_purse(&self, limit: &str) -> Vec<u64> {
        let Some((_, account)) = self.purse_of(limit) else { return Vec::new() };
        let leases = self.leases.of_account(account).filter(|it| it.outstanding() > 0 || it.unbilled > 0);
        let is_of = |held: &Held| held.account == account && held.amount > 0;
        let holds = self.holds.slab.iter().filter(|(_, hold)| !hold.expired && hold.charges.iter().any(is_of));
        let nodes: BTreeSet<u64> = leases.map(|it| it.node).chain(holds.map(|(_, hold)| hold.node)).collect();
        nodes.into_iter().collect()
    }

    /// What was written off since this was last called.
    #[must_use]
    pub fn take_written_off(&mut self) -> Vec<WrittenOff> {
        std::mem::take(&mut self.written_off)
    }

    /// Whether anything was.
    #[must_use]
    pub fn has_written_off(&self) -> bool {
        !self.written_off.is_empty()
    }

    /// Rule and account of a purse.
    fn purse_of(&self, limit: &str) -> Option<(u32, u32)> {
        let id = self.rules.live(limit).filter(|id| self.rules.get(*id).rule.is_purse())?;
        Some((id, self.accounts.find(id, "")?))
    }

    fn set_capacity(&mut self, id: u32, account: u32, capacity: u64) {
        let state = self.rules.slab.get_mut(id).expect("it was just found");
        state.rule.capacity = capacity;
        self.dirty.purses.push(id);
        self.dirty.accounts.push(account);
        self.fold(account);
        self.recall_if_over(account);
        self.reconsider(account);
    }

    /// Lowers what was spent and what was billed together, as far as they meet: nothing that is free changes.
    pub(super) fn fold(&mut self, account: u32) {
        let Some(it) = self.accounts.slab.get_mut(account).filter(|it| it.rare().billed > 0) else { return };
        let spent = it.rare().billed.min(it.used);
        it.used -= spent;
        it.give(spent);
        let rare = it.rare_mut();
        rare.billed -= spent;
        let over = rare.billed.min(rare.overrun);
        rare.billed -= over;
        rare.overrun -= over;
        self.dirty.accounts.push(account);
    }

    /// An incarnation has spent so much more of a purse than it was billed for, or less.
    pub(super) fn note_spent(&mut self, account: u32, (node, incarnation): (u64, u64), more: i64) {
        let known = self.leases.find(account, node, incarnation);
        let id = known.unwrap_or_else(|| self.new_lease(account, node, incarnation));
        let lease = self.leases.slab.get_mut(id).expect("it was just found or made");
        lease.unbilled = lease.unbilled.saturating_add(more);
        self.dirty.leases.push(id);
        self.fold(account);
    }

    /// Nothing more will be heard of an incarnation: what it may have used of purses, and nobody was billed for, is free again.
    pub(super) fn forgive_unknown(&mut self, node: u64, incarnation: u64) {
        for id in self.leases.of_incarnation(node, incarnation) {
            if self.is_of_a_purse(id) {
                self.forgive_lease(id);
            }
        }
    }

    fn forgive_lease(&mut self, id: u32) {
        #[cfg(any(test, feature = "seeded-bugs"))]
        if self.bug == Some(super::bugs::Bug::PurseKeepsTheUnknown) {
            return;
        }
        let Some(lease) = self.leases.slab.get_mut(id) else { return };
        let (account, node, incarnation) = (lease.account, lease.node, lease.incarnation);
        let unbilled = std::mem::take(&mut lease.unbilled);
        let (beyond, unbilled) = (unbilled.min(0).unsigned_abs(), unbilled.max(0).unsigned_abs());
        let Some(it) = self.accounts.slab.get_mut(account) else { return };
        // Billed, and nobody will ever say to have spent it: it is spent all the same.
        if beyond > 0 {
            it.spend(beyond);
        }
        let of_overrun = unbilled.saturating_sub(it.used).min(it.rare().overrun);
        if of_overrun > 0 {
            it.rare_mut().overrun -= of_overrun;
        }
        it.unspend(unbilled - of_overrun);
        self.dirty.leases.push(id);
        self.dirty.accounts.push(account);
        self.empty_holds(node, incarnation);
        self.fold(account);
        self.tell_written_off(account, node, unbilled);
        self.reconsider(account);
    }

    pub(super) fn is_of_a_purse(&self, lease: u32) -> bool {
        let account = self.leases.slab.get(lease).and_then(|lease| self.accounts.get(lease.account));
        account.is_some_and(|it| self.rules.get(it.rule).rule.is_purse())
    }

    /// A node was given up: all that it had in hand is the tenant's again.
    pub(super) fn write_off_purse(&mut self, id: u32) {
        self.forgive_lease(id);
        let lease = self.leases.slab.get_mut(id).expect("it was there a line ago");
        let (account, node, units) = (lease.account, lease.node, lease.outstanding());
        lease.lost = false;
        lease.returned += units;
        lease.released += units;
        self.meta.released_units = self.meta.released_units.saturating_add(units);
        if let Some(it) = self.accounts.slab.get_mut(account) {
            it.rare_mut().suspense -= units;
            it.give(units);
        }
        self.dirty.leases.push(id);
        self.dirty.accounts.push(account);
        self.tell_written_off(account, node, units);
        self.reconsider(account);
    }

    fn tell_written_off(&mut self, account: u32, node: u64, amount: u64) {
        let limit = self.accounts.get(account).map(|it| self.rules.get(it.rule).rule.limit.clone());
        let lost = self.nodes.get(node).and_then(|state| state.lost.as_ref());
        let actor = lost.map(|lost| lost.actor.clone()).unwrap_or_default();
        if let Some(limit) = limit.filter(|_| amount > 0) {
            self.written_off.push(WrittenOff { limit, node, amount, actor });
        }
    }
}
