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
    standing::Roster,
};
use crate::Standing;

impl Ledger {
    /// What a request could still have of an account of this limit: what nodes have in hand and no request holds is as good as
    /// free.
    pub(super) fn remaining(&self, now: u64, id: u32, account: Option<u32>, key: &str) -> i128 {
        let rule = self.rules.get(id);
        let age = self.age().saturating_add(now.saturating_sub(self.meta.last_time_us));
        let account = account.and_then(|id| Some((id, self.accounts.get(id)?)));
        let untouched = || self.free_untouched(id, key) + i128::from(self.by_rule_untouched(id, key).leased);
        account.filter(|(_, account)| rule.is_open(account, now)).map_or_else(untouched, |(id, account)| {
            let open = self.leases.of_account(id).filter(|lease| self.is_open(lease));
            let taken: u64 = open.map(Lease::taken).sum();
            account.available(rule, age) + i128::from(account.leased_in_all(rule)) - i128::from(taken)
        })
    }

    /// The same, if every request in flight ended now and had used nothing.
    pub(super) fn remaining_once_ended(&self, now: u64, id: u32, account: Option<u32>, key: &str) -> i128 {
        let rule = self.rules.get(id);
        let known = account.and_then(|id| Some((id, self.accounts.get(id)?)));
        let held = known.filter(|(_, account)| rule.is_open(account, now)).map_or(0, |(id, account)| {
            let open = self.leases.of_account(id).filter(|lease| self.is_open(lease));
            u128::from(account.counts(rule, self.age()).held) + open.map(|lease| u128::from(lease.held)).sum::<u128>()
        });
        self.remaining(now, id, account, key).saturating_add_unsigned(held)
    }

    /// One account in the window that is open at `now`, as listings show it, whether anybody has used it or not. Without a key
    /// one that nobody has. None where the limit is not in force, or has no such account.
    #[must_use]
    pub fn account(&self, now: Timestamp, limit: &str, key: Option<&[String]>) -> Option<AccountView> {
        let id = self.rules.live(limit)?;
        let mut rule = self.rules.get(id).clone();
        let now = now.0.max(self.meta.last_time_us);
        let current = now < rule.window_end;
        if !current && rule.parted {
            rule.roster = Roster::default();
        } else if !current {
            (rule.window_start, rule.window_end) = window_around(now, &rule.rule);
            rule.roster = rule.next.take().filter(|next| now < next.end).map(|next| next.roster).unwrap_or_default();
        }
        let joined = match key {
            None => Cow::Borrowed(""),
            Some(key) => join(key).filter(|_| key.len() == rule.rule.per.len())?,
        };
        let named = key
            .filter(|_| current || rule.parted)
            .and_then(|_| self.find_account(id, &joined).or_else(|| self.would_overflow(id)));
        let found = named.and_then(|id| Some((id, self.accounts.get(id)?))).filter(|(_, it)| rule.is_open(it, now));
        let at = (now, self.age().saturating_add(now - self.meta.last_time_us));
        let mut view = match found {
            Some((id, account)) => {
                show::view(&rule, account, self.accounts.keys.text(account.key), &self.out_of(id), at)
            }
            None => show::view(&rule, &self.untouched(now, id, &joined), &joined, &Out::default(), at),
        };
        if key.is_none() {
            (view.account, view.key) = (String::new(), Vec::new());
        }
        Some(view)
    }

    /// A record as it would be if somebody made it now.
    fn untouched(&self, now: u64, id: u32, key: &str) -> Account {
        let rule = self.rules.get(id);
        if !rule.parted {
            return Account::new(id, rule.epoch, Key::NONE);
        }
        let window = self.own_window_at(now, id, key);
        let mut account = Account::new(id, if window.of_old { rule.epoch } else { u64::MAX }, Key::NONE);
        account.rare_mut().window = (window.start, window.end);
        account
    }

    /// From when to when the window of an account is that is open at `now`, as far as its key is known: what is not makes no
    /// difference to its zone. None where the limit is not in force, or none of its windows turns.
    #[must_use]
    pub fn window(&self, now: Timestamp, limit: &str, key: &[String]) -> Option<(Timestamp, Timestamp)> {
        let id = self.rules.live(limit).filter(|id| self.rules.get(*id).parted)?;
        let window = self.own_window_at(now.0.max(self.meta.last_time_us), id, &join(key)?);
        Some((Timestamp(window.start), Timestamp(window.end)))
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
        let account = known.filter(|(_, account)| rule.is_open(account, now));
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
        let (remaining, resets_in) = if now < rule.window_end || rule.parted {
            let account = self.find_account(id, &key).or_else(|| self.would_overflow(id));
            let remaining = self.remaining(now, id, account, &key);
            let account = account.and_then(|id| self.accounts.get(id)).filter(|it| rule.is_open(it, now));
            let turns_in = || self.window_end_of(now, id, account, &key).saturating_sub(now);
            (remaining, if rule.rule.turns() { turns_in() } else { self.resets_in(now, rule, account, None) })
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
