//! Shadow limits: what was used is counted, nothing is held, nobody is refused.
//!
//! A settlement carries the accounts of shadow limits that its request met. What it really used goes into `used`, which may
//! so exceed the capacity: I3 is not promised of a shadow account, I1 is, with a `free` below zero. There are no leases of
//! it. What is counted is labelled by the settlement's time, as there was no hold to label it.
//!
//! **Edits of the mode** hold from their entry on. Into shadow: what is held settles as ever, leases are called back, and a hold
//! computed before is `Stale`. Into force: what was counted is used. A request that was under way settles after that, beyond
//! anybody's control: what still fits is used, the rest is overrun, so that an enforced account keeps I3.

use tollgate_proto::state::v1::{Outcome, Settle, ShadowCharge, Usage};

use super::{Ledger, MAX_CHARGES, apply::join, holds::actual};

/// More is counted as overrun: so that no sum of a count and what is held overflows.
const MOST: u64 = u64::MAX / 2;

impl Ledger {
    /// Counts what a request has used in the shadow accounts that it met.
    pub(super) fn count_shadows(&mut self, now: u64, settle: &Settle) {
        let (usage, outcome) = (settle.usage.unwrap_or_default(), settle.outcome());
        let charges = &settle.shadow[..settle.shadow.len().min(MAX_CHARGES)];
        for (at, charge) in charges.iter().enumerate() {
            let again = charges[..at].iter().any(|earlier| earlier.limit == charge.limit);
            if !again {
                self.count_shadow(now, charge, &usage, outcome);
            }
        }
    }

    fn count_shadow(&mut self, now: u64, charge: &ShadowCharge, usage: &Usage, outcome: Outcome) {
        let Some(rule) = self.rules.form_at(&charge.limit, charge.limit_version) else { return };
        let parts = self.rules.get(rule).rule.per.len();
        let Some(key) = join(&charge.key).filter(|_| charge.key.len() == parts) else { return };
        let account = self.accounts.find(rule, &key).and_then(|id| self.accounts.get(id));
        if self.rules.get(rule).deleted_at.is_some() && now >= self.window_end_of(now, rule, account, &key) {
            return; // it goes as soon as its accounts have gone
        }
        self.roll(now, rule);
        let id = self.obtain_account(rule, &key);
        let state = self.rules.get(rule);
        let (actual, age) = (actual(state.rule.unit, usage, outcome), self.age());
        let account = self.accounts.slab.get_mut(id).expect("it was just obtained");
        let room = if state.rule.shadow {
            MOST.saturating_sub(account.counts(state, age).used)
        } else {
            u64::try_from(account.available(state, age).max(0)).unwrap_or(u64::MAX)
        };
        let within = actual.min(room);
        if let Some(span) = state.rule.span() {
            let slide = &mut account.rare_mut().slide;
            slide.overrun(span, age, actual - within);
            slide.count(span, age, within);
        } else {
            account.used += within;
            account.take(within);
            account.add_overrun(actual - within);
        }
        self.reconsider(id);
    }
}
