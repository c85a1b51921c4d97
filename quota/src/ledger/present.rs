//! Requests in flight under shadow limits on concurrency.
//!
//! Nobody is held up there, so nobody asks for a permit: nodes tell how their numbers change, some times a second. What a process
//! has in flight of one account is one hold, of as many permits, so all that is true of permits is true of it: it is held for as
//! long as the process says so, and in suspense after a crash until nothing of it can be in flight; and once the limit is put
//! into force, what began before is in the way of what comes after.

use tollgate_model::Unit;
use tollgate_proto::state::v1::Present;

use super::{
    Ledger,
    apply::{MAX_HOLD_US, join},
    holds::{Held, HoldState, tally_of},
};

impl Ledger {
    /// Takes in by how much a number has changed. What is not counted any more, as its limit is gone, is nobody's.
    pub(super) fn count_present(&mut self, now: u64, node: u64, incarnation: u64, said: &Present) {
        let Some(id) = self.account_present(said) else { return };
        let (epoch, name) = (self.accounts.get(id).map_or(0, |it| it.epoch), tally_of(incarnation, id));
        let known = self.holds.find(node, name);
        let was = known.map_or(0, |hold| self.tallied(hold));
        let is = was.saturating_add_signed(said.change);
        match known {
            Some(hold) => self.go_on_tallying(hold, node, is),
            None if is > 0 && self.begin_tally(now, (node, name), Held { account: id, epoch, amount: is }) => {}
            None => return,
        }
        let Some(account) = self.accounts.slab.get_mut(id) else { return };
        account.held = account.held - was + is;
        account.give(was);
        account.take(is);
        self.dirty.accounts.push(id);
    }

    /// The account that it is about: made where somebody comes, not where somebody goes.
    fn account_present(&mut self, said: &Present) -> Option<u32> {
        let charge = said.account.as_ref()?;
        let rule = self.rules.form_at(&charge.limit, charge.limit_version)?;
        let state = self.rules.get(rule);
        let fits = state.rule.unit == Unit::Concurrency && state.rule.per.len() == charge.key.len();
        let key = join(&charge.key).filter(|_| fits)?;
        let may_come = said.change > 0 && state.deleted_at.is_none();
        self.find_account(rule, &key).or_else(|| may_come.then(|| self.obtain_account(rule, &key)))
    }

    fn tallied(&self, hold: u32) -> u64 {
        self.holds.slab.get(hold).and_then(|hold| hold.charges.first()).map_or(0, |held| held.amount)
    }

    fn go_on_tallying(&mut self, hold: u32, node: u64, amount: u64) {
        self.dirty.holds.push(hold);
        if amount == 0 {
            self.holds.remove(hold);
            return self.release_place(node);
        }
        if let Some(held) = self.holds.slab.get_mut(hold).and_then(|hold| hold.charges.first_mut()) {
            held.amount = amount;
        }
    }

    /// False where the node has too many holds already: then it is not counted.
    fn begin_tally(&mut self, now: u64, (node, request): (u64, u64), held: Held) -> bool {
        let at = self.age();
        let Some(state) = self.nodes.get_mut(node).filter(|state| state.holds < self.bounds.holds) else {
            return false;
        };
        state.holds += 1;
        let deadline_us = now.saturating_add(MAX_HOLD_US);
        let charges = [held].into_iter().collect();
        let hold = HoldState { node, request, deadline_us, at, expired: false, journaled: false, charges };
        let id = self.holds.insert(hold);
        self.dirty.holds.push(id);
        true
    }

    /// What others than this process hold of an account.
    #[must_use]
    pub fn held_elsewhere(&self, (node, incarnation): (u64, u64), limit: &str, key: &[String]) -> u64 {
        let id = self.rules.live(limit).and_then(|rule| self.find_account(rule, &join(key)?));
        let Some((id, account)) = id.and_then(|id| Some((id, self.accounts.get(id)?))) else { return 0 };
        let own = self.holds.find(node, tally_of(incarnation, id)).map_or(0, |hold| self.tallied(hold));
        account.held.saturating_sub(own)
    }
}
