//! A look at one account without touching it: for whoever tells how a limit stands and reserves nothing.

use std::{borrow::Cow, time::Duration};

use tollgate_model::{Name, Timestamp};

use super::{
    Ledger,
    accounts::Account,
    apply::join,
    keys::Key,
    leases::Lease,
    rules::window_around,
    show::{self, AccountView, Out},
};
use crate::Standing;

impl Ledger {
    /// What a request could still have of an account of this limit: what nodes have in hand and no request holds is as good as
    /// free.
    pub(super) fn remaining(&self, rule: u32, account: Option<u32>, age: u64) -> i128 {
        let rule = self.rules.get(rule);
        let account = account.and_then(|id| Some((id, self.accounts.get(id)?)));
        let untouched = rule.free_untouched(age) + i128::from(rule.by_rule_untouched().leased);
        account.filter(|(_, account)| rule.is_current(account.epoch)).map_or(untouched, |(id, account)| {
            let open = self.leases.of_account(id).filter(|lease| self.is_open(lease));
            let taken: u64 = open.map(Lease::taken).sum();
            account.available(rule, age) + i128::from(account.leased_in_all(rule)) - i128::from(taken)
        })
    }

    /// The same, if every request in flight ended now and had used nothing.
    pub(super) fn remaining_once_ended(&self, rule: u32, account: Option<u32>, age: u64) -> i128 {
        let state = self.rules.get(rule);
        let known = account.and_then(|id| Some((id, self.accounts.get(id)?)));
        let held = known.filter(|(_, account)| state.is_current(account.epoch)).map_or(0, |(id, account)| {
            let open = self.leases.of_account(id).filter(|lease| self.is_open(lease));
            u128::from(account.counts(state, age).held) + open.map(|lease| u128::from(lease.held)).sum::<u128>()
        });
        self.remaining(rule, account, age).saturating_add_unsigned(held)
    }

    /// One account in the window that is open at `now`, as listings show it, whether anybody has used it or not. Without a key
    /// one that nobody has. None where the limit is not in force, or has no such account.
    #[must_use]
    pub fn account(&self, now: Timestamp, limit: &str, key: Option<&[String]>) -> Option<AccountView> {
        let id = self.rules.live(limit)?;
        let mut rule = self.rules.get(id).clone();
        let now = now.0.max(self.meta.last_time_us);
        let current = now < rule.window_end;
        if !current {
            (rule.window_start, rule.window_end) = window_around(now, &rule.rule);
            rule.roster = rule.next.take().filter(|next| now < next.end).map(|next| next.roster).unwrap_or_default();
        }
        let joined = match key {
            None => Cow::Borrowed(""),
            Some(key) => join(key).filter(|_| key.len() == rule.rule.per.len())?,
        };
        let named =
            key.filter(|_| current).and_then(|_| self.find_account(id, &joined).or_else(|| self.would_overflow(id)));
        let found = named.and_then(|id| Some((id, self.accounts.get(id)?))).filter(|(_, it)| rule.is_current(it.epoch));
        let at = (now, self.age().saturating_add(now - self.meta.last_time_us));
        let mut view = match found {
            Some((id, account)) => {
                show::view(&rule, account, self.accounts.keys.text(account.key), &self.out_of(id), at)
            }
            None => show::view(&rule, &Account::new(id, rule.epoch, Key::NONE), &joined, &Out::default(), at),
        };
        if key.is_none() {
            (view.account, view.key) = (String::new(), Vec::new());
        }
        Some(view)
    }

    /// How long a request for `amount` units of this account would be told to wait, if it were short of them now. None where
    /// the limit is not in force, or has no such account.
    #[must_use]
    pub fn told_to_wait(&self, now: Timestamp, limit: &str, key: &[String], amount: u64) -> Option<Duration> {
        let id = self.rules.live(limit)?;
        let rule = self.rules.get(id);
        let key = join(key).filter(|_| key.len() == rule.rule.per.len())?;
        let now = now.0.max(self.meta.last_time_us);
        let account = self.find_account(id, &key).or_else(|| self.would_overflow(id));
        let known = account.and_then(|id| Some((id, self.accounts.get(id)?)));
        let account = known.filter(|(_, account)| rule.is_current(account.epoch));
        Some(Duration::from_micros(account.map_or(0, |account| self.retry_in(now, rule, account, amount))))
    }

    pub(super) fn out_of(&self, account: u32) -> Out {
        let mut out = Out::default();
        self.leases.of_account(account).for_each(|lease| out.take_in(lease, self.is_open(lease)));
        out
    }

    /// How the account of `key` under `limit` stands at `now` or at the last entry, whichever is later. None where the
    /// limit is not in force, or has no such account.
    #[must_use]
    pub fn peek(&self, now: Timestamp, limit: &str, key: &[String]) -> Option<Standing> {
        let id = self.rules.live(limit)?;
        let rule = self.rules.get(id);
        let key = join(key).filter(|_| key.len() == rule.rule.per.len())?;
        let now = now.0.max(self.meta.last_time_us);
        let capacity = rule.rule.capacity;
        let (remaining, resets_in) = if now < rule.window_end {
            let account = self.find_account(id, &key).or_else(|| self.would_overflow(id));
            let age = self.age().saturating_add(now - self.meta.last_time_us);
            let remaining = self.remaining(id, account, age);
            let account = account.and_then(|id| self.accounts.get(id)).filter(|it| rule.is_current(it.epoch));
            (remaining, self.resets_in(now, rule, account, None))
        } else {
            // The window turns with the next entry; whoever comes now meets a new one.
            let next = rule.next.as_ref().filter(|next| now < next.end);
            let kept = next.map_or(0, |next| next.roster.kept_back());
            (i128::from(capacity) - i128::from(kept), window_around(now, &rule.rule).1 - now)
        };
        Some(Standing {
            limit: Name::new(limit),
            capacity,
            remaining: u64::try_from(remaining.max(0)).unwrap_or(u64::MAX),
            window_end: Timestamp(now.saturating_add(resets_in)),
            resets_in: Duration::from_micros(resets_in),
        })
    }
}
