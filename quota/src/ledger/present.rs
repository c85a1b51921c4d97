//! Requests in flight under shadow limits on concurrency.
//!
//! Nobody is held up there, so nobody asks for a permit: nodes tell how many they have, some times a second. What a process
//! has in flight of one account is one hold, of as many permits, so all that is true of permits is true of it: it is held for as
//! long as the process says so, and in suspense after a crash until nothing of it can be in flight; and once the limit is put
//! into force, what began before is in the way of what comes after. The hold knows its account: whatever becomes of the limit
//! meanwhile, those who go are found where they came in.

use tollgate_model::Unit;
use tollgate_proto::state::v1::{Present, ShadowCharge};

use super::{
    Ledger,
    apply::{MAX_HOLD_US, join},
    holds::{Held, HoldState, tally_of},
};

impl Ledger {
    /// Takes in how many there are. Those of a limit that is gone when they are told of first are nobody's.
    pub(super) fn count_present(&mut self, now: u64, node: u64, incarnation: u64, said: &Present) {
        let name = tally_of(incarnation, said.seat);
        match self.holds.find(node, name) {
            Some(hold) => self.go_on_tallying(hold, node, said.count),
            None if said.count > 0 => self.begin_tally(now, (node, name), said),
            None => {}
        }
    }

    fn go_on_tallying(&mut self, hold: u32, node: u64, count: u64) {
        let Some(held) = self.tallied(hold) else { return };
        self.dirty.holds.push(hold);
        if count == 0 {
            self.holds.remove(hold);
            self.release_place(node);
        } else if let Some(held) = self.holds.slab.get_mut(hold).and_then(|hold| hold.charges.first_mut()) {
            held.amount = count;
        }
        let account = self.accounts.slab.get_mut(held.account).filter(|it| it.epoch == held.epoch);
        let Some(account) = account else { return };
        account.held = account.held.saturating_sub(held.amount).saturating_add(count);
        account.give(held.amount);
        account.take(count);
        self.dirty.accounts.push(held.account);
    }

    /// Not where the node has too many holds already: then those are not counted before there is room.
    fn begin_tally(&mut self, now: u64, (node, request): (u64, u64), said: &Present) {
        let has_room = self.nodes.get(node).is_some_and(|state| state.holds < self.bounds.holds);
        let Some(id) = said.account.as_ref().filter(|_| has_room).and_then(|it| self.account_present(it)) else {
            return;
        };
        let at = self.age();
        let Some(account) = self.accounts.slab.get_mut(id) else { return };
        let held = Held { account: id, epoch: account.epoch, amount: said.count };
        account.held = account.held.saturating_add(said.count);
        account.take(said.count);
        let deadline_us = now.saturating_add(MAX_HOLD_US);
        let charges = [held].into_iter().collect();
        let hold = HoldState {
            node,
            request,
            deadline_us,
            at,
            expired: false,
            journaled: false,
            attribution: None,
            orphaned_in: 0,
            closed: false,
            charges,
        };
        let hold = self.holds.insert(hold);
        self.dirty.holds.push(hold);
        self.dirty.accounts.push(id);
        if let Some(state) = self.nodes.get_mut(node) {
            state.holds += 1;
        }
    }

    fn account_present(&mut self, charge: &ShadowCharge) -> Option<u32> {
        let rule = self.rules.form_at(&charge.limit, charge.limit_version)?;
        let state = self.rules.get(rule);
        let fits = state.rule.unit == Unit::Concurrency && state.rule.per.len() == charge.key.len();
        let key = join(&charge.key).filter(|_| fits && state.deleted_at.is_none())?;
        Some(self.obtain_account(rule, &key))
    }

    fn tallied(&self, hold: u32) -> Option<Held> {
        self.holds.slab.get(hold)?.charges.first().copied()
    }

    /// What others than this seat of a process hold of an account.
    #[must_use]
    pub fn held_elsewhere(
        &self,
        (node, incarnation): (u64, u64),
        seat: Option<u32>,
        limit: &str,
        key: &[String],
    ) -> u64 {
        let id = self.rules.live(limit).and_then(|rule| self.find_account(rule, &join(key)?));
        let Some((id, account)) = id.and_then(|id| Some((id, self.accounts.get(id)?))) else { return 0 };
        let own = seat.and_then(|seat| self.tallied(self.holds.find(node, tally_of(incarnation, seat))?));
        let own = own.filter(|held| (held.account, held.epoch) == (id, account.epoch));
        account.held.saturating_sub(own.map_or(0, |held| held.amount))
    }
}
