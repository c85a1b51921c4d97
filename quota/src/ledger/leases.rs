//! Leases: the part of an account that one incarnation of a node may spend alone (QUOTA.md 3.3, R2, R11, R17).
//!
//! A lease is three sums that only grow: `granted` is written here and nowhere else, `returned` and `spent` are what the
//! node says of itself. What it has in hand is their difference; it is in `leased` of its account while its incarnation is
//! open, and in `suspense` once a newer one is. Suspense is given to nobody until the window turns: only the
//! process that is gone knew what became of it, and its journal may tell (`recover.rs`). Where no window turns, it is free at the
//! latest once that process can't spend any more, and the last that it may have spent has aged.
//!
//! What is spent of a *sliding* lease ages in the hands of its node, and is never moved to the log: the whole share stays in
//! `leased`, `spent` only tells how much of it counts now, and the node gives back nothing that is not fresh.
//!
//! An account is *leased* or *central*. While it is central nothing is granted, and everyone gives back what is unspent. It
//! turns central when too little is free to be divided, when a hold finds its units in other hands, and when the limit is
//! lowered or deleted; it turns back once twice as much is free. Each turn is a new *generation*: a report that names it was
//! made by a node that knew of it, so that what is still out then is held by requests.

use std::collections::{BTreeMap, BTreeSet};

use tollgate_model::{LogIndex, Timestamp, Unit};
use tollgate_proto::state::v1::{Report, Want};

#[cfg(any(test, feature = "seeded-bugs"))]
use super::bugs::Bug;
use super::{Ledger, apply::join, holds::Held, slab::Slab};
use crate::slide::{Slot, Span};

/// Leases in suspense freed by time in one entry; the rest follows with the next.
const FREED_PER_ENTRY: usize = 1_024;

/// An incarnation that is over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gone {
    pub(super) incarnation: u64,
    /// The age from which on it spends nothing any more.
    pub(super) at: u64,
}

/// What one incarnation was granted of an account in one window, and what it has said of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Lease {
    pub(super) account: u32,
    pub(super) epoch: u64,
    pub(super) node: u64,
    pub(super) incarnation: u64,
    pub(super) granted: u64,
    pub(super) returned: u64,
    pub(super) spent: u64,
    pub(super) overrun: u64,
    /// Of what is outstanding, what its requests held when it last spoke.
    pub(super) held: u64,
    /// The generation of the account that it had applied when it last spoke.
    pub(super) generation: u32,
    /// Of an incarnation that is gone, where no window turns: the age at which what it had in hand is free.
    pub(super) free_at: u64,
    /// `spent` is not moved to the account: it ages with its node, as long as that incarnation is open. After that `spent` is
    /// what its journal has told, and the account's.
    pub(super) slides: bool,
    /// Its node is lost, and what it had in hand counts as used.
    pub(super) lost: bool,
    /// Of `returned`, what a lost node never gave back.
    pub(super) released: u64,
    /// Of a purse: what its incarnation has said to have spent, whoever held it, less what it was billed for (`purse.rs`).
    pub(super) unbilled: i64,
}

impl Lease {
    /// What the node has in hand, as far as it has said.
    pub(super) fn outstanding(&self) -> u64 {
        self.granted - self.returned - if self.slides { 0 } else { self.spent }
    }

    /// What of that it may still spend, or its requests hold: not what it has used and is ageing with it.
    pub(super) fn unused(&self) -> u64 {
        self.granted - self.returned - self.spent
    }

    /// What of that its requests held or had used when it last spoke.
    pub(super) fn taken(&self) -> u64 {
        self.held + if self.slides { self.spent } else { 0 }
    }
}

#[derive(Debug, Default)]
#[cfg_attr(any(test, feature = "seeded-bugs"), derive(Clone))]
pub(super) struct Leases {
    pub(super) slab: Slab<Lease>,
    /// By account, node and incarnation.
    index: BTreeMap<(u32, u64, u64), u32>,
    /// Those in suspense that time frees, by when.
    due: BTreeSet<(u64, u32)>,
}

impl Leases {
    pub(super) fn find(&self, account: u32, node: u64, incarnation: u64) -> Option<u32> {
        self.index.get(&(account, node, incarnation)).copied()
    }

    pub(super) fn insert(&mut self, lease: Lease) -> u32 {
        let id = self.slab.insert(lease);
        self.index.insert((lease.account, lease.node, lease.incarnation), id);
        id
    }

    pub(super) fn restore(&mut self, id: u32, lease: Lease) {
        self.index.insert((lease.account, lease.node, lease.incarnation), id);
        if lease.free_at > 0 {
            self.due.insert((lease.free_at, id));
        }
        self.slab.put(id, lease);
    }

    pub(super) fn remove(&mut self, id: u32) {
        if let Some(lease) = self.slab.remove(id) {
            self.index.remove(&(lease.account, lease.node, lease.incarnation));
            self.due.remove(&(lease.free_at, id));
        }
    }

    fn free_later(&mut self, id: u32, at: u64) {
        if let Some(lease) = self.slab.get_mut(id).filter(|lease| lease.free_at == 0) {
            lease.free_at = at.max(1);
            self.due.insert((lease.free_at, id));
        }
    }

    #[cfg(any(test, feature = "seeded-bugs"))]
    pub(super) fn forget(&mut self, lease: &Lease) {
        if let Some(id) = self.find(lease.account, lease.node, lease.incarnation) {
            self.remove(id);
        }
    }

    fn ids_of(&self, account: u32) -> impl Iterator<Item = u32> {
        self.index.range((account, 0, 0)..=(account, u64::MAX, u64::MAX)).map(|(_, id)| *id)
    }

    /// Accounts that somebody has a lease of, each once and in order.
    pub(super) fn accounts(&self) -> Vec<u32> {
        let mut ids: Vec<u32> = self.index.keys().map(|(account, ..)| *account).collect();
        ids.dedup();
        ids
    }

    /// The leases of one incarnation of a node, in order of their numbers.
    pub(super) fn of_incarnation(&self, node: u64, incarnation: u64) -> Vec<u32> {
        let of_it = |lease: &Lease| (lease.node, lease.incarnation) == (node, incarnation);
        self.slab.iter().filter(|(_, lease)| of_it(lease)).map(|(id, _)| id).collect()
    }

    pub(super) fn of_account(&self, account: u32) -> impl Iterator<Item = &Lease> {
        self.ids_of(account).filter_map(|id| self.slab.get(id))
    }
}

/// A lease as the node that holds it needs to know it, read from its own replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseView {
    /// Number of the account.
    pub account: u32,
    /// Its window: no other window of any account has the same.
    pub epoch: u64,
    /// The oldest and the newest version of the limit that a charge may be computed for.
    pub versions: (LogIndex, LogIndex),
    /// What is counted.
    pub unit: Unit,
    /// What the account holds in all.
    pub capacity: u64,
    /// When the window ends, in log time.
    pub window_end: Timestamp,
    /// How long what is used counts, where that is not until the window ends.
    pub span: Option<Span>,
    /// What is used is gone for good.
    pub purse: bool,
    /// The limit is not deleted.
    pub in_force: bool,
    /// Nothing may be drawn, and all that is unspent goes back.
    pub central: bool,
    /// The generation of the account.
    pub generation: u32,
    /// Granted to this incarnation in all.
    pub granted: u64,
    /// What others have used or hold, or nobody can account for.
    pub elsewhere: u64,
    /// Of what was granted, what this incarnation has by rule: it need not be given back unless it is called back.
    pub by_rule: u64,
}

impl LeaseView {
    /// A window ends, and everything begins anew.
    pub(crate) fn turns(&self) -> bool {
        self.window_end.0 < u64::MAX
    }

    /// What is used of it is not there again with the end of its request, as a permit is.
    pub(crate) fn is_used_up(&self) -> bool {
        self.turns() || self.span.is_some() || self.purse
    }
}

impl Ledger {
    /// What `node` was granted of an account, should the account have a record in the window that is open.
    #[must_use]
    pub fn lease(&self, node: u64, incarnation: u64, account: u32) -> Option<LeaseView> {
        let it = self.accounts.get(account)?;
        let rule = self.rules.get(it.rule);
        if !rule.is_current(it.epoch) {
            return None;
        }
        let own = self.leases.find(account, node, incarnation).and_then(|id| self.leases.slab.get(id));
        let own = own.copied().unwrap_or_default();
        let taken: u64 = self.leases.of_account(account).filter(|it| self.is_open(it)).map(Lease::taken).sum();
        let Slot { used, held, overrun, .. } = it.counts(rule, self.age());
        let busy = u128::from(used) + u128::from(held) + u128::from(overrun) + u128::from(it.suspense_in_all(rule));
        let share = self.share_by_rule(it, node, incarnation);
        // In a sliding window the log ages what was overrun.
        let overrun = if own.slides { 0 } else { own.overrun };
        let said = u128::from(own.spent) + u128::from(own.held) + u128::from(overrun);
        let elsewhere = (busy + u128::from(taken)).saturating_sub(said);
        Some(LeaseView {
            account,
            epoch: it.epoch,
            versions: match rule.rule.is_purse() {
                true => (LogIndex(0), LogIndex(u64::MAX)),
                false => (LogIndex(rule.oldest()), rule.rule.version),
            },
            purse: rule.rule.is_purse(),
            unit: rule.rule.unit,
            capacity: rule.rule.capacity,
            window_end: Timestamp(rule.window_of(it).1),
            span: rule.rule.span(),
            in_force: rule.deleted_at.is_none(),
            central: it.rare().central || rule.changing.is_some(),
            generation: it.rare().generation,
            granted: own.granted + share,
            by_rule: rule
                .roster
                .position(node, incarnation)
                .filter(|_| it.epoch == rule.epoch)
                .map_or(0, |_| rule.roster.share),
            elsewhere: u64::try_from(elsewhere).unwrap_or(u64::MAX),
        })
    }

    /// As [`Ledger::lease`], by limit and key values. An account that keys share has no leases.
    #[must_use]
    pub fn lease_of(&self, node: u64, incarnation: u64, limit: &str, key: &[String]) -> Option<LeaseView> {
        let account = self.accounts.find(self.rules.live(limit)?, &join(key)?)?;
        self.lease(node, incarnation, account)
    }

    /// Accounts of which an incarnation has something in hand, as far as it has said.
    pub(crate) fn accounts_in_hand(&self, node: u64, incarnation: u64) -> impl Iterator<Item = u32> {
        let own = move |lease: &&Lease| (lease.node, lease.incarnation) == (node, incarnation);
        let leases = self.leases.slab.iter().map(|(_, lease)| lease).filter(own);
        let leased = leases.filter(|lease| lease.outstanding() > 0).map(|lease| lease.account);
        leased.chain(self.called_by_rule(node, incarnation))
    }

    /// Limit and key of an account, should an incarnation have something of it in hand in the window that is open.
    pub(crate) fn in_hand(&self, node: u64, incarnation: u64, account: u32) -> Option<(String, Vec<String>)> {
        let it = self.accounts.get(account)?;
        let lease = self.leases.find(account, node, incarnation).and_then(|id| self.leases.slab.get(id));
        let leased = lease.is_some_and(|lease| it.epoch == lease.epoch && lease.outstanding() > 0);
        let called = it.rare().central && self.share_by_rule(it, node, incarnation) > 0;
        if !leased && !called {
            return None;
        }
        let rule = &self.rules.get(it.rule).rule;
        let text = self.accounts.keys.text(it.key);
        let key = if rule.per.is_empty() { Vec::new() } else { text.split('\0').map(str::to_owned).collect() };
        Some((rule.limit.to_string(), key))
    }

    pub(super) fn is_open(&self, lease: &Lease) -> bool {
        self.nodes.get(lease.node).is_some_and(|node| node.is_open(lease.incarnation))
    }

    /// Grants what can be spared: not more than the node's share of what is free, and never what central holds will need.
    pub(super) fn want(&mut self, at: LogIndex, now: u64, node: u64, incarnation: u64, want: &Want) {
        let Some(id) = self.wanted_account(at, now, want) else { return };
        self.note_ask(id, want.need);
        self.reconsider(id);
        let (free, floor) = (self.free_of(id), self.floor(id));
        if self.accounts.get(id).is_some_and(|account| account.rare().central) {
            return;
        }
        if free < floor {
            return self.recall(now, id);
        }
        let nodes = i128::try_from(self.nodes.len().max(1)).unwrap_or(i128::MAX);
        let spare = u64::try_from((free / nodes).min(free - floor)).unwrap_or(u64::MAX);
        self.grant_lease(id, node, incarnation, want.target, spare);
    }

    fn wanted_account(&mut self, at: LogIndex, now: u64, want: &Want) -> Option<u32> {
        let rule =
            self.rule_of(at, 0, &want.limit, want.limit_version).ok().filter(|id| !self.rules.get(*id).rule.shadow)?;
        if self.rules.get(rule).changing.is_some() {
            return None;
        }
        self.roll(now, rule);
        let key = join(&want.key).filter(|_| want.key.len() == self.rules.get(rule).rule.per.len())?;
        let id = self.obtain_account(rule, &key);
        self.accounts.get(id).filter(|account| self.accounts.keys.text(account.key) == key).map(|_| id)
    }

    pub(super) fn new_lease(&mut self, account: u32, node: u64, incarnation: u64) -> u32 {
        let it = self.accounts.get(account).expect("it was just obtained");
        let (epoch, slides) = (it.epoch, self.rules.get(it.rule).rule.span().is_some());
        self.leases.insert(Lease { account, epoch, node, incarnation, slides, ..Lease::default() })
    }

    fn grant_lease(&mut self, account: u32, node: u64, incarnation: u64, target: u64, spare: u64) {
        let known = self.lease_on(account, node, incarnation);
        if spare == 0 || (known.is_none() && self.leases.slab.len() >= self.bounds.leases) {
            return;
        }
        let id = known.unwrap_or_else(|| self.new_lease(account, node, incarnation));
        let lease = self.leases.slab.get_mut(id).expect("it was just found or made");
        let more = target.saturating_sub(lease.unused()).min(spare).min(u64::MAX - lease.granted);
        lease.granted += more;
        self.dirty.leases.push(id);
        let account = self.accounts.slab.get_mut(account).expect("it was just obtained");
        account.leased += more;
        account.take(more);
        self.meta.leased = self.meta.leased.saturating_add(more);
    }

    /// Takes in what a node says of its lease. What says less than was known, or more than can be, changes nothing.
    pub(super) fn report(&mut self, node: u64, incarnation: u64, report: &Report) {
        let age = self.age();
        let is_of = |account: &super::accounts::Account| account.epoch == report.epoch;
        let Some(rule) = self.accounts.get(report.account).filter(|it| is_of(it)).map(|it| it.rule) else { return };
        self.freeze_ahead(self.meta.last_time_us, rule);
        let Some(id) = self.lease_on(report.account, node, incarnation) else { return };
        let lease = self.leases.slab.get_mut(id).expect("the index knows only what there is");
        let Some(account) = self.accounts.slab.get_mut(report.account).filter(|it| it.epoch == lease.epoch) else {
            return;
        };
        #[cfg(any(test, feature = "seeded-bugs"))]
        let report = &match self.bug {
            Some(Bug::ReportsAdd) => lease.plus(report),
            Some(Bug::AddsDeltas) => lease.and(report),
            _ => *report,
        };
        let spent = if lease.slides { report.spent } else { report.spent.max(lease.spent) };
        let (returned, overrun) = (report.returned.max(lease.returned), report.overrun.max(lease.overrun));
        if lease.epoch != report.epoch || spent.checked_add(returned).is_none_or(|sum| sum > lease.granted) {
            return;
        }
        account.give(returned - lease.returned);
        if let Some(span) = self.rules.get(account.rule).rule.span() {
            account.leased -= returned - lease.returned;
            if overrun > lease.overrun {
                account.rare_mut().slide.overrun(span, age, overrun - lease.overrun);
            }
        } else {
            account.leased -= (spent - lease.spent) + (returned - lease.returned);
            account.used += spent - lease.spent;
            account.add_overrun(overrun - lease.overrun);
            let rule = &self.rules.get(account.rule).rule;
            lease.note_spent(rule, (spent - lease.spent).saturating_add(overrun - lease.overrun));
        }
        (lease.spent, lease.returned, lease.overrun) = (spent, returned, overrun);
        lease.held = report.held.min(lease.outstanding() - if lease.slides { spent } else { 0 });
        lease.generation = lease.generation.max(report.generation);
        self.dirty.leases.push(id);
        self.dirty.accounts.push(report.account);
        self.fold(report.account);
        self.recall_if_over(report.account);
        self.reconsider(report.account);
    }

    /// Leases of older incarnations of a node: what they had in hand is in suspense from here on.
    pub(super) fn suspend_leases(&mut self, node: u64, gone: Gone) {
        self.suspend_shares(node);
        let of_node: Vec<u32> =
            self.leases.slab.iter().filter(|(_, lease)| lease.node == node).map(|(id, _)| id).collect();
        let mut suspended = Vec::new();
        for id in of_node {
            let kept = self.leases.slab.get_mut(id).expect("it was there a line ago");
            kept.held = 0;
            let lease = *kept;
            let account = self.accounts.slab.get_mut(lease.account).filter(|it| it.epoch == lease.epoch);
            self.dirty.leases.push(id);
            match account {
                Some(account) if lease.outstanding() > 0 || lease.released > 0 || lease.unbilled != 0 => {
                    if self.nodes.get(node).is_some_and(|state| state.is_open(lease.incarnation)) {
                        if kept.slides {
                            (kept.spent, kept.slides) = (0, false);
                        }
                        account.leased -= lease.outstanding();
                        account.rare_mut().suspense += lease.outstanding();
                        self.dirty.accounts.push(lease.account);
                        suspended.push(id);
                    }
                    #[cfg(any(test, feature = "seeded-bugs"))]
                    if self.bug == Some(Bug::OpenFreesLeases) {
                        account.rare_mut().suspense -= lease.outstanding();
                        account.give(lease.outstanding());
                        self.leases.remove(id);
                    }
                }
                _ => self.leases.remove(id),
            }
        }
        suspended.into_iter().for_each(|id| self.free_in_time(id, gone));
    }

    /// A permit of an incarnation that is gone is with its lease from here on: only time tells when it is free.
    pub(super) fn suspend_permit(&mut self, node: u64, gone: Gone, held: Held) {
        let known = self.leases.find(held.account, node, gone.incarnation);
        let id = known.unwrap_or_else(|| self.new_lease(held.account, node, gone.incarnation));
        let lease = self.leases.slab.get_mut(id).expect("it was just found or made");
        lease.granted = lease.granted.saturating_add(held.amount);
        let account = self.accounts.slab.get_mut(held.account).expect("it holds the permit");
        account.leased += held.amount;
        account.take(held.amount);
        self.dirty.leases.push(id);
    }

    /// Where no window turns, what is in suspense is free once its incarnation can't spend it, and what it spent has aged.
    fn free_in_time(&mut self, id: u32, gone: Gone) {
        let account = self.leases.slab.get(id).and_then(|lease| self.accounts.get(lease.account));
        let of = account.map(|account| &self.rules.get(account.rule).rule);
        let is_purse = |rule: &crate::Rule| rule.is_purse();
        #[cfg(any(test, feature = "seeded-bugs"))]
        let is_purse = |rule: &crate::Rule| is_purse(rule) && self.bug != Some(Bug::PurseTimesOut);
        let Some(rule) = of.filter(|rule| !rule.turns() && !is_purse(rule)) else {
            return;
        };
        let aged = rule.span().map_or(0, |span| span.by_any_clock().longest());
        #[cfg(any(test, feature = "seeded-bugs"))]
        let (gone, aged) =
            if self.bug == Some(Bug::SuspenseAtOnce) { (Gone { at: 0, ..gone }, 0) } else { (gone, aged) };
        self.leases.free_later(id, gone.at.saturating_add(aged));
    }

    /// Frees what has been in suspense for long enough.
    pub(super) fn free_suspense(&mut self) {
        let age = self.age();
        for _ in 0..FREED_PER_ENTRY {
            let Some(id) = self.leases.due.first().filter(|(at, _)| *at <= age).map(|(_, id)| *id) else { return };
            let lease = *self.leases.slab.get(id).expect("what is due is there");
            self.leases.remove(id);
            self.dirty.leases.push(id);
            if let Some(account) = self.accounts.slab.get_mut(lease.account).filter(|it| it.epoch == lease.epoch) {
                account.rare_mut().suspense -= lease.outstanding();
                account.give(lease.outstanding());
                self.dirty.accounts.push(lease.account);
                self.reconsider(lease.account);
            }
        }
    }

    /// The window has turned, or the account goes: its leases mean nothing any more.
    pub(super) fn drop_leases(&mut self, account: u32) {
        for id in self.leases.ids_of(account).collect::<Vec<_>>() {
            self.leases.remove(id);
            self.dirty.leases.push(id);
        }
    }
}
