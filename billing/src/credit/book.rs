//! The credit of all tenants.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tollgate_model::{Currency, LogIndex, Money, Timestamp};
use tollgate_proto::state::v1::{CreditEventKind, CreditEventRow, CreditGrant, CreditGrantOutcome};

use super::{
    account::{Account, MAX_BALANCE, OpenGrant, Sums, Touched},
    rows,
};
use crate::{
    Changes, RestoreError,
    amount::{bytes, pico},
};

const DAY_US: u64 = 24 * 3_600 * 1_000_000;
/// Grants of one tenant of which something is left. Whoever spends goes through them in order.
const MAX_OPEN: usize = 1_024;
/// Events of one tenant: grants beyond them are refused, as keys are remembered for ever.
const MAX_EVENTS: u64 = 1_000_000;
const MAX_KEY_BYTES: usize = 200;
const MAX_REASON_BYTES: usize = 1_000;

/// When and where something comes off or is added.
#[derive(Debug, Clone, Copy)]
pub struct Came {
    /// The entry.
    pub at: LogIndex,
    /// Its log time.
    pub now: Timestamp,
}

/// How a tenant's credit stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreditView {
    /// What all of it is in.
    pub currency: Currency,
    /// All grants, less what corrections have taken off and what has expired.
    pub granted: Money,
    /// What requests have cost.
    pub spent: Money,
    /// What has expired.
    pub expired: Money,
    /// Corrections that are accepted, and wait until it is free.
    pub pending: Money,
    /// Used beyond what there was.
    pub owed: Money,
    /// Grants of which something is left, in the order in which they are spent.
    pub grants: Vec<OpenGrant>,
}

/// The credit of all tenants: a part of the replicated state.
#[derive(Debug, Clone, Default)]
pub struct CreditBook {
    tenants: BTreeMap<String, Arc<Account>>,
    /// When the next grant of a tenant ends.
    ends: BTreeSet<(u64, String)>,
    /// Tenants of whom corrections wait.
    waiting: BTreeSet<String>,
}

impl CreditBook {
    /// Grants, once for each key; what is granted first pays what is owed.
    pub fn grant(
        &mut self,
        came: Came,
        currency: Currency,
        grant: &CreditGrant,
        changes: &mut Changes,
    ) -> CreditGrantOutcome {
        if let Some(known) = self.known(grant) {
            let same = known.amount == grant.amount && known.expires_us == grant.expires_us;
            let problem = if same { String::new() } else { conflict(&known) };
            return CreditGrantOutcome { problem, known: true, event: Some((*known).clone()) };
        }
        let amount = match self.check(came.now, currency, grant) {
            Ok(amount) => amount,
            Err(problem) => return CreditGrantOutcome { problem, ..CreditGrantOutcome::default() },
        };
        let event = self.change(&grant.tenant, currency, changes, |account, touched| {
            if account.sums.currency != currency {
                account.sums = Sums::new(currency);
            }
            let kind = if amount < 0 { CreditEventKind::Corrected } else { CreditEventKind::Granted };
            let event = CreditEventRow {
                key: grant.key.clone(),
                reason: grant.reason.clone(),
                expires_us: grant.expires_us,
                actor: grant.actor.clone(),
                ..event(account, came, kind, amount)
            };
            account.record(CreditEventRow { tenant: grant.tenant.clone(), ..event.clone() }, touched);
            if amount < 0 {
                account.sums.pending -= amount;
            } else {
                account.add(event.event, amount, grant.expires_us, touched);
                let paid = account.draw(account.sums.owed, touched);
                account.sums.owed -= paid;
            }
            CreditEventRow { tenant: grant.tenant.clone(), ..event }
        });
        CreditGrantOutcome { event: Some(event), ..CreditGrantOutcome::default() }
    }

    fn known(&self, grant: &CreditGrant) -> Option<Arc<CreditEventRow>> {
        let account = self.tenants.get(&grant.tenant)?;
        account.events.get(account.keys.get(&grant.key)?).cloned()
    }

    /// Whether a grant may be made; its amount.
    fn check(&self, now: Timestamp, currency: Currency, grant: &CreditGrant) -> Result<i128, String> {
        let amount = pico(&grant.amount).ok_or("amount: is no amount")?;
        text("key", &grant.key, MAX_KEY_BYTES)?;
        if !grant.reason.is_empty() {
            text("reason", &grant.reason, MAX_REASON_BYTES)?;
        }
        if amount == 0 {
            return Err("amount: is 0: a grant gives something, a correction takes something off".into());
        }
        if amount < 0 && grant.reason.is_empty() {
            return Err("reason: is missing: a correction has one".into());
        }
        if amount < 0 && grant.expires_us != 0 {
            return Err("expires: a correction has no end: leave it out".into());
        }
        if grant.expires_us != 0 && grant.expires_us <= now.0 {
            return Err(format!("expires: {} has passed: it is {now}", Timestamp(grant.expires_us)));
        }
        let account = self.tenants.get(&grant.tenant);
        let rest = account.map_or(0, |account| account.rest());
        if let Some(account) = account {
            let (is, tenant) = (account.sums.currency, &grant.tenant);
            if is != currency && account.is_bound() {
                return Err(format!("tenant {tenant} has {} {is}, and is billed in {currency}", Money(rest)));
            }
            if account.rests.len() >= MAX_OPEN && amount > 0 {
                return Err(format!(
                    "tenant {tenant} has {MAX_OPEN} grants of which something is left: no more are kept"
                ));
            }
            if account.last_event() >= MAX_EVENTS {
                return Err(format!("tenant {tenant} has a history of {MAX_EVENTS} events: no more are kept"));
            }
        }
        let off = account.map_or(0, |account| account.sums.pending);
        if amount < 0 && -amount > rest - off {
            let most = Money((rest - off).max(0));
            return Err(format!("amount: {} {currency} are there: a correction takes off no more", most));
        }
        if rest + amount > MAX_BALANCE.0 {
            let (has, most) = (Money(rest), MAX_BALANCE);
            return Err(format!(
                "amount: with the {has} {currency} that are there it is more than {most}, the most that a tenant can have"
            ));
        }
        Ok(amount)
    }

    /// What a request has cost, off the grants; how much of it they had. The rest is owed where `in_advance`, as nothing else
    /// will ever pay it.
    pub fn spend(
        &mut self,
        came: Came,
        tenant: &str,
        (currency, amount): (Currency, Money),
        in_advance: bool,
        changes: &mut Changes,
    ) -> Money {
        let known = self.tenants.get(tenant).filter(|account| account.sums.currency == currency);
        if amount.0 <= 0 || (known.is_none_or(|account| account.rests.is_empty()) && !in_advance) {
            return Money(0);
        }
        if self.tenants.get(tenant).is_some_and(|account| account.sums.currency != currency) {
            return Money(0); // it was admitted when the tenant paid in another
        }
        self.change(tenant, currency, changes, |account, touched| {
            let drawn = account.draw(amount.0, touched);
            let owed = if in_advance { amount.0 - drawn } else { 0 };
            account.sums.owed += owed;
            account.sums.spent += drawn + owed;
            spent(account, came, tenant, drawn + owed, touched);
            Money(drawn)
        })
    }

    /// Tenants of whom something is to be taken off by now.
    #[must_use]
    pub fn due(&self, now: Timestamp) -> Vec<String> {
        let ended = self.ends.iter().take_while(|(end, _)| *end <= now.0).map(|(_, tenant)| tenant);
        let mut due: Vec<String> = ended.chain(&self.waiting).cloned().collect();
        due.sort_unstable();
        due.dedup();
        due
    }

    /// Whether there are any.
    #[must_use]
    pub fn is_due(&self, now: Timestamp) -> bool {
        !self.waiting.is_empty() || self.ends.first().is_some_and(|(end, _)| *end <= now.0)
    }

    /// When something is to be taken off next, should nobody do anything.
    #[must_use]
    pub fn next_end(&self) -> Option<Timestamp> {
        self.ends.first().map(|(end, _)| Timestamp(*end))
    }

    /// Takes off what has ended, and what corrections have to, up to what is free; how much.
    pub fn take(&mut self, came: Came, tenant: &str, free: Money, changes: &mut Changes) -> Money {
        let Some(account) = self.tenants.get(tenant).filter(|_| free.0 > 0) else { return Money(0) };
        let has_ended = account.first_end().is_some_and(|end| end <= came.now.0);
        if !has_ended && account.sums.pending == 0 {
            return Money(0);
        }
        let currency = account.sums.currency;
        self.change(tenant, currency, changes, |account, touched| {
            let mut taken = 0;
            for (grant, amount) in account.expire(came.now.0, free.0, touched) {
                taken += amount;
                let of = account.events.get(&grant).cloned().unwrap_or_default();
                let event = CreditEventRow {
                    tenant: tenant.to_owned(),
                    key: of.key.clone(),
                    expires_us: of.expires_us,
                    ..event(account, came, CreditEventKind::Expired, -amount)
                };
                account.record(event, touched);
            }
            taken += account.correct(free.0 - taken, touched);
            Money(taken)
        })
    }

    /// Tells of what a node that is gone may have spent, and nobody will ever know: it is free again, and no tenant's loss. Why, and
    /// on whose word, if on anybody's. None if the tenant never had any credit.
    pub fn write_off(
        &mut self,
        came: Came,
        tenant: &str,
        amount: Money,
        (why, actor): (String, String),
        changes: &mut Changes,
    ) -> Option<CreditEventRow> {
        let currency = self.tenants.get(tenant).map(|account| account.sums.currency)?;
        Some(self.change(tenant, currency, changes, |account, touched| {
            let told = event(account, came, CreditEventKind::WrittenOff, amount.0);
            let told = CreditEventRow { tenant: tenant.to_owned(), reason: why, actor, ..told };
            account.record(told.clone(), touched);
            told
        }))
    }

    /// What is left of all grants of a tenant.
    #[must_use]
    pub fn rest(&self, tenant: &str) -> Money {
        Money(self.tenants.get(tenant).map_or(0, |account| account.rest()))
    }

    /// What a tenant owes, beyond what there was.
    #[must_use]
    pub fn owed(&self, tenant: &str) -> Money {
        Money(self.tenants.get(tenant).map_or(0, |account| account.sums.owed))
    }

    /// What a tenant's credit is in, while some is there or is owed: that can't change meanwhile.
    #[must_use]
    pub fn bound_to(&self, tenant: &str) -> Option<(Currency, Money)> {
        let account = self.tenants.get(tenant).filter(|it| it.is_bound())?;
        Some((account.sums.currency, Money(account.rest())))
    }

    /// How a tenant's credit stands; none if it never had any.
    #[must_use]
    pub fn view(&self, tenant: &str) -> Option<CreditView> {
        let account = self.tenants.get(tenant)?;
        let Sums { currency, granted, spent, expired, pending, owed, .. } = account.sums;
        let grants = account.open().collect();
        let [granted, spent, expired, pending, owed] = [granted, spent, expired, pending, owed].map(Money);
        Some(CreditView { currency, granted, spent, expired, pending, owed, grants })
    }

    /// All events of a tenant, or of all in their order, from then on and before then; each tenant's in order.
    #[must_use]
    pub fn events(&self, tenant: Option<&str>, from: Timestamp, to: Timestamp) -> Vec<Arc<CreditEventRow>> {
        let accounts = self.tenants.iter().filter(|(name, _)| tenant.is_none_or(|tenant| tenant == **name));
        let events = accounts.flat_map(|(_, account)| account.events.values());
        events.filter(|event| (from.0..to.0).contains(&event.time_us)).cloned().collect()
    }

    /// Events of a tenant, the newest first: those before this one, or from the newest on.
    #[must_use]
    pub fn history(&self, tenant: &str, before: Option<u64>, max: usize) -> Vec<Arc<CreditEventRow>> {
        let Some(account) = self.tenants.get(tenant) else { return Vec::new() };
        let events = account.events.range(..before.unwrap_or(u64::MAX)).rev();
        events.take(max).map(|(_, event)| Arc::clone(event)).collect()
    }

    /// Changes an account, and hands out its rows.
    fn change<T>(
        &mut self,
        tenant: &str,
        currency: Currency,
        changes: &mut Changes,
        change: impl FnOnce(&mut Account, &mut Touched) -> T,
    ) -> T {
        let account = self.tenants.entry(tenant.to_owned()).or_insert_with(|| Arc::new(Account::new(currency)));
        let account = Arc::make_mut(account);
        let (before, mut touched) = (account.first_end(), Touched::default());
        let changed = change(account, &mut touched);
        rows::put(tenant, account, &mut touched, changes);
        let (after, waits) = (account.first_end(), account.sums.pending > 0);
        debug_assert_eq!(account.sums.granted, account.sums.spent - account.sums.owed + account.rest(), "{tenant}");
        if before != after {
            before.map(|end| self.ends.remove(&(end, tenant.to_owned())));
            after.map(|end| self.ends.insert((end, tenant.to_owned())));
        }
        if waits {
            self.waiting.insert(tenant.to_owned());
        } else {
            self.waiting.remove(tenant);
        }
        changed
    }

    /// Every row, in order of the keys.
    pub fn rows(&self) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> + Send + use<> {
        rows::all(self.tenants.clone())
    }

    /// The book that these rows are of.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn restore<E>(rows: impl IntoIterator<Item = Result<(Vec<u8>, Vec<u8>), E>>) -> Result<Self, RestoreError>
    where
        RestoreError: From<E>,
    {
        let tenants = rows::read(rows)?;
        let of_each = |(tenant, account): (&String, &Account)| Some((account.first_end()?, tenant.clone()));
        let ends = tenants.iter().filter_map(of_each).collect();
        let waiting = tenants.iter().filter(|(_, it)| it.sums.pending > 0).map(|(tenant, _)| tenant.clone()).collect();
        let tenants = tenants.into_iter().map(|(tenant, account)| (tenant, Arc::new(account))).collect();
        Ok(Self { tenants, ends, waiting })
    }
}

fn event(account: &Account, came: Came, kind: CreditEventKind, amount: i128) -> CreditEventRow {
    CreditEventRow {
        event: account.last_event() + 1,
        time_us: came.now.0,
        kind: kind.into(),
        amount: bytes(amount),
        currency: account.sums.currency.to_string(),
        log_index: came.at.0,
        ..CreditEventRow::default()
    }
}

/// Adds to what was spent on this day.
fn spent(account: &mut Account, came: Came, tenant: &str, amount: i128, touched: &mut Touched) {
    let day = account
        .events
        .get(&account.day)
        .filter(|day| day.time_us / DAY_US == came.now.0 / DAY_US && day.currency == account.sums.currency.as_str());
    let next = match day {
        Some(day) => {
            let so_far = pico(&day.amount).unwrap_or(0);
            CreditEventRow { amount: bytes(so_far - amount), log_index: came.at.0, ..(**day).clone() }
        }
        None => CreditEventRow { tenant: tenant.to_owned(), ..event(account, came, CreditEventKind::Spent, -amount) },
    };
    account.record(next, touched);
}

fn text(field: &str, text: &str, most: usize) -> Result<(), String> {
    match text {
        "" => Err(format!("{field}: is missing")),
        long if long.len() > most => Err(format!("{field}: has more than {most} bytes")),
        text if text.chars().any(char::is_control) => Err(format!("{field}: has characters that can't be seen")),
        _ => Ok(()),
    }
}

fn conflict(first: &CreditEventRow) -> String {
    let amount = Money(pico(&first.amount).unwrap_or(0));
    let CreditEventRow { key, currency, time_us, actor, .. } = first;
    let when = Timestamp(*time_us);
    let until = match first.expires_us {
        0 => String::new(),
        expires => format!(" that expire at {}", Timestamp(expires)),
    };
    format!(
        "key: `{key}` was used before, for {amount} {currency}{until}, at {when} by token {actor}: take another key for another grant"
    )
}

#[cfg(test)]
mod tests;
