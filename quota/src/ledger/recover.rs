//! What a process says of an earlier incarnation of its node, out of that one's journal (QUOTA.md R5, R6).
//!
//! The fence holds: the earlier one is never heard itself. Its ends are numbered, so that those it had said are not said
//! twice, whoever repeats them: a process may die while it recovers, and the next begins anew. What it made of its leases
//! is said in all, never as a difference, and can only be more than the log has heard. With the last record the
//! incarnation is closed: what is left of its leases is free again, as everything was journaled before it was sent out.
//! Of a sliding lease what was used counts as used now, however long ago it was: when the earlier one did it, no clock that others
//! have can tell. Permits are free in their own time.

use tollgate_proto::state::v1::{Consumed, Outcome, Recover};

#[cfg(any(test, feature = "seeded-bugs"))]
use super::bugs::Bug;
use super::{
    Ledger, Told, Used,
    apply::{NOTHING, used_by},
    leases::Lease,
};
use tollgate_model::Unit;

impl Ledger {
    pub(super) fn recover<'a>(&mut self, now: u64, node: u64, recover: &'a Recover, used: &mut Vec<Used<'a>>) {
        let incarnation = recover.incarnation;
        let Some(mut last) = self.last_terminal(node, incarnation) else { return };
        #[cfg(any(test, feature = "seeded-bugs"))]
        if self.bug == Some(Bug::RecoversTwice) {
            last = 0;
        }
        for settle in &recover.settles {
            if settle.terminal > last {
                last = settle.terminal;
                if let Some(counted) = self.settle(now, node, settle) {
                    let told = Told::Journal;
                    used.extend(used_by((node, incarnation), settle, counted).map(|used| Used { told, ..used }));
                }
            }
        }
        self.set_last_terminal(node, incarnation, last);
        self.tell_orphans(node, recover, used);
        for request in &recover.undispatched {
            self.void_undispatched(now, node, incarnation, *request);
        }
        for named in &recover.named {
            self.recover_share(now, node, incarnation, named);
        }
        for consumed in &recover.consumed {
            self.recover_lease(node, incarnation, consumed);
        }
        if recover.done {
            self.close_incarnation(node, incarnation);
        }
    }

    /// Requests without an end, each once: they come in the order of their numbers. What is held for them counts as used. What the
    /// log has said whose it is may have been told before (`unknown.rs`): then it is no more to be found there.
    fn tell_orphans<'a>(&mut self, node: u64, recover: &'a Recover, used: &mut Vec<Used<'a>>) {
        let earlier = self.nodes.get_mut(node).into_iter().flat_map(|state| &mut state.earlier);
        for it in earlier.filter(|it| it.incarnation == recover.incarnation) {
            for orphan in recover.orphans.iter().filter(|orphan| orphan.attribution.is_some()) {
                if orphan.request > it.last_orphan {
                    it.last_orphan = orphan.request;
                    let held = self.holds.find(node, orphan.request);
                    let untold = held.and_then(|id| self.holds.slab.get_mut(id)).and_then(|it| it.attribution.take());
                    if orphan.in_log && untold.is_none() {
                        continue;
                    }
                    self.dirty.holds.extend(held);
                    let (outcome, told) = (Outcome::Partial, Told::Nobody);
                    let attribution = orphan.attribution.iter();
                    used.extend(attribution.map(|attribution| Used {
                        node,
                        incarnation: recover.incarnation,
                        attribution,
                        usage: &NOTHING,
                        outcome,
                        told,
                        corrects: 0,
                    }));
                }
            }
        }
    }

    fn last_terminal(&self, node: u64, incarnation: u64) -> Option<u64> {
        let earlier = &self.nodes.get(node)?.earlier;
        earlier.iter().find(|it| it.incarnation == incarnation).map(|it| it.last_terminal)
    }

    fn set_last_terminal(&mut self, node: u64, incarnation: u64, last: u64) {
        let earlier = self.nodes.get_mut(node).into_iter().flat_map(|state| &mut state.earlier);
        earlier.filter(|it| it.incarnation == incarnation).for_each(|it| it.last_terminal = last);
        self.dirty.nodes.push(node);
    }

    /// Moves what an incarnation made of a lease out of suspense: never more than it can have had. Of permits nothing has to be
    /// known, as only time frees them.
    pub(super) fn recover_lease(&mut self, node: u64, incarnation: u64, consumed: &Consumed) {
        if self.accounts.get(consumed.account).is_none_or(|account| account.epoch != consumed.epoch) {
            return;
        }
        let age = self.age();
        let Some(id) = self.lease_on(consumed.account, node, incarnation) else { return };
        let lease = self.leases.slab.get_mut(id).expect("the index knows only what there is");
        let account = self.accounts.slab.get_mut(consumed.account).filter(|it| it.epoch == lease.epoch);
        let Some(account) = account.filter(|_| lease.epoch == consumed.epoch) else { return };
        let rule = &self.rules.get(account.rule).rule;
        if rule.unit == Unit::Concurrency {
            return;
        }
        let within = lease.granted - lease.returned;
        let all = consumed.spent.clamp(lease.spent, within + lease.released);
        // What was given to others meanwhile (`lost.rs`) was used twice.
        let (spent, beyond) = (all.min(within), all.saturating_sub(within));
        let overrun = consumed.overrun.saturating_add(beyond).max(lease.overrun);
        let (more, more_overrun) = (spent - lease.spent, overrun - lease.overrun);
        account.rare_mut().suspense -= more;
        let span = rule.span();
        #[cfg(any(test, feature = "seeded-bugs"))]
        let span = span.filter(|_| self.bug != Some(Bug::RecoversWhatSlides));
        match span {
            Some(span) => {
                account.give(more);
                #[cfg(any(test, feature = "seeded-bugs"))]
                let (age, more) = match self.bug {
                    Some(Bug::RecoveredIsFresh) => (age, 0),
                    Some(Bug::RecoveredIsOld) => (age.saturating_sub(span.lasts() / 10 * 9), more),
                    _ => (age, more),
                };
                let slide = &mut account.rare_mut().slide;
                slide.count(span, age, more);
                slide.overrun(span, age, more_overrun);
            }
            None => {
                account.used += more;
                account.add_overrun(more_overrun);
                lease.note_spent(rule, more.saturating_add(more_overrun));
            }
        }
        #[cfg(any(test, feature = "seeded-bugs"))]
        if self.bug == Some(Bug::CeilingBesideReturns) {
            account.used += consumed.spent.saturating_sub(all);
        }
        (lease.spent, lease.overrun) = (spent, overrun);
        self.dirty.leases.push(id);
        self.dirty.accounts.push(consumed.account);
        self.fold(consumed.account);
    }

    fn is_of_permits(&self, lease: &Lease) -> bool {
        let account = self.accounts.get(lease.account).filter(|it| it.epoch == lease.epoch);
        account.is_some_and(|it| self.rules.get(it.rule).rule.unit == Unit::Concurrency)
    }

    /// Of purses this waits until what it has said is billed ([`Ledger::close_purses`]).
    fn close_incarnation(&mut self, node: u64, incarnation: u64) {
        for id in self.leases.of_incarnation(node, incarnation) {
            if !self.is_of_a_purse(id) {
                self.close_lease(id);
            }
        }
        self.closing.push((node, incarnation));
        self.return_shares(node, incarnation);
        self.close_holds(node, incarnation);
        if let Some(state) = self.nodes.get_mut(node) {
            state.earlier.retain(|it| it.incarnation != incarnation);
        }
        self.dirty.nodes.push(node);
    }

    /// What is left of a lease is free again. Permits are in their own time.
    pub(super) fn close_lease(&mut self, id: u32) {
        let Some(lease) = self.leases.slab.get(id).copied().filter(|lease| !self.is_of_permits(lease)) else { return };
        if let Some(account) = self.accounts.slab.get_mut(lease.account).filter(|it| it.epoch == lease.epoch) {
            account.rare_mut().suspense -= lease.outstanding();
            account.give(lease.outstanding());
            self.dirty.accounts.push(lease.account);
        }
        self.leases.remove(id);
        self.dirty.leases.push(id);
        self.reconsider(lease.account);
    }
}
