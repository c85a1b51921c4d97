//! What an account has used is forgiven, on somebody's word.
//!
//! `free` grows by exactly what was used. What requests hold and what is with nodes stays, and counts when it ends; so
//! does what nodes used of their sliding shares, which they let age themselves: it is not in `free` before. A hold
//! that was consumed at its deadline is forgiven with the rest, so a late settlement of it corrects nothing any more: else
//! it would give back what the reset gave already.

use tollgate_model::{Timestamp, Unit};
use tollgate_proto::state::v1::{AccountFigures, LimitReset, LimitResetOutcome};

use super::{Changes, Ledger, accounts::overflow_key, apply::join, leases::Lease};

impl Ledger {
    /// Sets what an account has used in the window that is open, and what was overrun, to nothing.
    pub fn reset(&mut self, now: Timestamp, reset: &LimitReset, changes: &mut Changes) -> LimitResetOutcome {
        let now = self.begin(now);
        let outcome = match self.account_to_reset(now, reset) {
            Ok(id) => self.forgive(id),
            Err(problem) => LimitResetOutcome { problem, ..LimitResetOutcome::default() },
        };
        self.finish(now, changes);
        outcome
    }

    fn account_to_reset(&mut self, now: u64, reset: &LimitReset) -> Result<u32, String> {
        let LimitReset { limit, key, overflow, .. } = reset;
        let rule = self.rules.live(limit).ok_or_else(|| format!("there is no limit {limit}"))?;
        self.roll(now, rule);
        let state = self.rules.get(rule);
        let parts = state.rule.per.len();
        let shape = |wrong: usize| format!("an account of limit {limit} has {parts} values, and {wrong} were given");
        let joined = match overflow {
            true => overflow_key(parts),
            false if key.len() != parts => return Err(shape(key.len())),
            false => join(key).ok_or("the values are too long, or hold a NUL")?,
        };
        let current = |id: &u32| self.accounts.get(*id).is_some_and(|account| state.is_open(account, now));
        self.accounts
            .find(rule, &joined)
            .filter(current)
            .ok_or_else(|| format!("limit {limit} has no account {} in its window: nobody has used it", key.join("/")))
    }

    fn forgive(&mut self, id: u32) -> LimitResetOutcome {
        let before = self.account_figures(id);
        self.mend(id);
        let account = self.accounts.slab.get_mut(id).expect("it was just found");
        account.forget_use();
        let (epoch, rule) = (account.epoch, account.rule);
        self.dirty.accounts.push(id);
        if self.rules.get(rule).rule.unit != Unit::Concurrency {
            self.forget_expired(id, epoch);
        }
        self.reconsider(id);
        LimitResetOutcome { problem: String::new(), before: Some(before), after: Some(self.account_figures(id)) }
    }

    /// What is held and out of an account is what holds and leases say, whatever its own record said: so it adds up
    /// again on a node where it did not, and nothing changes on all others.
    fn mend(&mut self, id: u32) {
        let Some(account) = self.accounts.get(id) else { return };
        let state = self.rules.get(account.rule);
        let (span, epoch) = (state.rule.span(), account.epoch);
        let of_account = self.open_charges().filter(|(_, held)| (held.account, held.epoch) == (id, epoch));
        let holds: Vec<(u64, u64)> = of_account.map(|(at, held)| (at, held.amount)).collect();
        let (open, gone): (Vec<&Lease>, Vec<_>) = self.leases.of_account(id).partition(|lease| self.is_open(lease));
        let sum = |leases: &[&Lease]| leases.iter().fold(0_u64, |sum, lease| sum.saturating_add(lease.outstanding()));
        let (leased, suspense) = (sum(&open), sum(&gone));
        let account = self.accounts.slab.get_mut(id).expect("it was there a line ago");
        account.held = holds.iter().fold(0, |sum, (_, amount)| sum.saturating_add(*amount));
        account.leased = leased;
        if account.rare().suspense != suspense {
            account.rare_mut().suspense = suspense;
        }
        if let Some(span) = span {
            account.rare_mut().slide.hold_anew(span, &holds);
        }
        account.count_anew();
    }

    /// Whatever comes of holds that were consumed at their deadline: of this account it is forgiven.
    fn forget_expired(&mut self, account: u32, epoch: u64) {
        let concerns =
            |charges: &[super::holds::Held]| charges.iter().any(|it| (it.account, it.epoch) == (account, epoch));
        let expired = self.holds.slab.iter().filter(|(_, hold)| hold.expired && concerns(&hold.charges));
        for id in expired.map(|(id, _)| id).collect::<Vec<u32>>() {
            if let Some(hold) = self.holds.slab.get_mut(id) {
                hold.charges.retain(|it| (it.account, it.epoch) != (account, epoch));
                self.dirty.holds.push(id);
            }
        }
    }

    fn account_figures(&self, id: u32) -> AccountFigures {
        let account = self.accounts.get(id).expect("it was just found");
        let (rule, age) = (self.rules.get(account.rule), self.age());
        // As `limits show` has it: what requests hold of leases is held, and what nodes used of them lately is used.
        let (counts, out, free) = (account.counts(rule, age), self.out_of(id), account.free(rule, age));
        AccountFigures {
            capacity: rule.rule.capacity,
            used: counts.used + out.used,
            held: counts.held + out.held,
            leased: account.leased_in_all(rule) - out.held - out.used,
            suspense: account.suspense_in_all(rule),
            overrun: counts.overrun,
            free: i64::try_from(free).unwrap_or(if free < 0 { i64::MIN } else { i64::MAX }),
        }
    }
}
