//! Whether an account is leased or central, and how what is out is called back (QUOTA.md 3.3, R11).

use tollgate_proto::state::v1::Hold;

#[cfg(any(test, feature = "seeded-bugs"))]
use super::bugs::Bug;
use super::{Ledger, accounts::Kind, apply::join, leases::Lease};
use crate::slide::Span;

/// How long a recall waits for nodes that say nothing, in log time: whoever is silent for longer can't be reached, and
/// what it has in hand can't be used.
const RECALL_US: u64 = 1_000_000;
/// Of a purse, the greatest request is forgotten after this long.
const ASKED_US: u64 = 60_000_000;

impl Ledger {
    pub(super) fn note_ask(&mut self, id: u32, amount: u64) {
        let age = self.age();
        let Some(account) = self.accounts.slab.get_mut(id) else { return };
        let rule = &self.rules.get(account.rule).rule;
        // Where no window turns, what was asked a window ago is forgotten.
        let lasts = rule.span().map(Span::longest).or_else(|| rule.is_purse().then_some(ASKED_US));
        let is_old = lasts.is_some_and(|lasts| account.rare().ask_at.saturating_add(lasts) <= age);
        if account.ask < amount || is_old {
            account.ask = amount;
            if !rule.turns() {
                account.rare_mut().ask_at = age;
            }
            self.dirty.accounts.push(id);
        }
        #[cfg(any(test, feature = "seeded-bugs"))]
        self.doubt_shares(id);
    }

    pub(super) fn free_of(&self, id: u32) -> i128 {
        let account = self.accounts.get(id);
        account.map_or(0, |account| account.available(self.rules.get(account.rule), self.age()))
    }

    /// Below this an account is too small to be divided.
    pub(super) fn floor(&self, id: u32) -> i128 {
        let ask = self.accounts.get(id).map_or(0, |account| account.ask);
        let (requests, units) = self.bounds.kept;
        let of_nodes = i128::from(ask) * i128::try_from(self.nodes.len()).unwrap_or(i128::MAX >> 66);
        i128::from(requests) * of_nodes + i128::from(units)
    }

    /// Turns an account central, unless it is.
    pub(super) fn recall(&mut self, now: u64, id: u32) {
        if self.accounts.get(id).is_some_and(|account| !account.rare().central) {
            self.recall_anew(now, id);
        }
    }

    /// More was used than there is: nobody has anything left to spend.
    pub(super) fn recall_if_over(&mut self, id: u32) {
        if self.free_of(id) < 0 {
            self.recall(self.meta.last_time_us, id);
        }
    }

    fn recall_anew(&mut self, now: u64, id: u32) {
        let Some(account) = self.accounts.slab.get_mut(id) else { return };
        let account = account.rare_mut();
        account.central = true;
        account.generation = account.generation.saturating_add(1);
        account.recall_until = now.saturating_add(RECALL_US);
        self.accounts.called.insert(id);
        self.dirty.accounts.push(id);
        self.meta.recalls += 1;
    }

    /// Turns a central account back, once there is enough to divide.
    pub(super) fn reconsider(&mut self, id: u32) {
        let Some(account) = self.accounts.get(id).filter(|account| account.rare().central) else { return };
        let state = self.rules.get(account.rule);
        let is_late = account.rare().kind == Kind::Late;
        if is_late || state.deleted_at.is_some() || state.rule.shadow || self.free_of(id) < 2 * self.floor(id) {
            return;
        }
        let account = self.accounts.slab.get_mut(id).expect("it was there a line ago").rare_mut();
        account.central = false;
        account.generation = account.generation.saturating_add(1);
        self.accounts.called.remove(&id);
        self.dirty.accounts.push(id);
    }

    /// Everyone who can be reached has given back what no request holds: what is not free now is not to be had.
    pub(super) fn is_recalled(&self, now: u64, id: u32) -> bool {
        #[cfg(any(test, feature = "seeded-bugs"))]
        if self.bug == Some(Bug::RefusesWhileRecalling) {
            return true;
        }
        let Some(account) = self.accounts.get(id).filter(|account| account.rare().central) else { return false };
        let told = |lease: &Lease| lease.generation == account.rare().generation || lease.outstanding() == 0;
        let by_rule = self.rules.get(account.rule).by_rule(account).leased;
        let open = || self.leases.of_account(id).filter(|lease| self.is_open(lease));
        now >= account.rare().recall_until || (by_rule == 0 && open().all(told))
    }

    /// Whether `amount` may still come together once everyone has given back.
    pub(super) fn may_be_recalled(&self, now: u64, id: u32, amount: u64) -> bool {
        let account = self.accounts.get(id);
        let leased = account.map_or(0, |account| account.leased_in_all(self.rules.get(account.rule)));
        leased > 0 && self.free_of(id) + i128::from(leased) >= i128::from(amount) && !self.is_recalled(now, id)
    }

    /// Calls back what a hold is short of.
    pub(super) fn recall_for(&mut self, now: u64, hold: &Hold) {
        for charge in &hold.charges {
            let Some(rule) = self.rules.live(&charge.limit) else { continue };
            let Some(key) = join(&charge.key) else { continue };
            let state = self.rules.get(rule);
            // Without a record there is something to call back all the same: what nodes have by rule.
            let known = self.accounts.find(rule, &key);
            let is_new = known.and_then(|id| self.accounts.get(id)).is_none_or(|it| !state.is_open(it, now));
            let by_rule = is_new && i128::from(charge.amount) > self.free_untouched(rule, &key);
            let id = if by_rule { Some(self.obtain_account(rule, &key)) } else { known };
            let Some(id) = id else { continue };
            self.note_ask(id, charge.amount);
            if self.free_of(id) < i128::from(charge.amount) {
                self.recall(now, id);
            }
        }
    }

    pub(super) fn leased_accounts(&self, rule: u32) -> Vec<u32> {
        let mut ids = self.leases.accounts();
        let state = self.rules.get(rule);
        ids.retain(|id| self.accounts.get(*id).is_some_and(|it| it.rule == rule && state.is_current(it.epoch)));
        ids
    }

    /// A limit was lowered or deleted: its accounts are called back, whatever was said before.
    pub(super) fn recall_rule(&mut self, now: u64, rule: u32) {
        let mut ids = self.over_by_rule(rule);
        ids.extend(self.leased_accounts(rule));
        ids.sort_unstable();
        ids.dedup();
        for id in ids {
            self.recall_anew(now, id);
        }
    }

    /// A limit was raised, or made again.
    pub(super) fn reconsider_rule(&mut self, rule: u32) {
        for id in self.leased_accounts(rule) {
            self.reconsider(id);
        }
    }
}
