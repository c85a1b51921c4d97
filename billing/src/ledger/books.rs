//! Double entry: whatever a row moves comes from one account and goes to another.

use std::collections::BTreeMap;

use prost::Message;
use smallvec::{SmallVec, smallvec};
use tollgate_model::{Currency, Money};
use tollgate_proto::state::v1::{BalanceRow, LedgerLoss, LedgerRow};

use super::attempts;
use crate::{Changes, RestoreError, amount::pico};

/// An account of the books. Its balance is what was posted to it, less what was posted from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Account<Name = String> {
    /// What a tenant has used, and owes or has paid for in advance.
    Consumed(Name),
    /// What was given back to a tenant of what nobody knows the use of, which is less than nothing.
    Forgiven(Name),
    /// What that was of all tenants: at the operator's expense.
    Loss,
    /// What was earned.
    Revenue,
    /// What was spent on upstreams.
    Cost,
    /// What an upstream is owed, which is less than nothing.
    Owed(Name),
}

/// What is added to an account.
type Move<Name = String> = (Account<Name>, Currency, Money);
/// Most rows have two of what is billed, and two of one attempt.
type Moves<'a> = SmallVec<[Move<&'a str>; 4]>;

impl From<Account<&str>> for Account {
    fn from(account: Account<&str>) -> Self {
        match account {
            Account::Consumed(tenant) => Self::Consumed(tenant.to_owned()),
            Account::Forgiven(tenant) => Self::Forgiven(tenant.to_owned()),
            Account::Loss => Self::Loss,
            Account::Revenue => Self::Revenue,
            Account::Cost => Self::Cost,
            Account::Owed(upstream) => Self::Owed(upstream.to_owned()),
        }
    }
}

impl std::fmt::Display for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&self.key())
    }
}

impl Account {
    fn key(&self) -> String {
        match self {
            Self::Consumed(tenant) => format!("tenant:{tenant}:consumed"),
            Self::Forgiven(tenant) => format!("tenant:{tenant}:forgiven"),
            Self::Loss => "provider:loss".to_owned(),
            Self::Revenue => "provider:revenue".to_owned(),
            Self::Cost => "provider:cost".to_owned(),
            Self::Owed(upstream) => format!("upstream:{upstream}:owed"),
        }
    }

    fn parse(key: &str) -> Option<Self> {
        let named = |kind, what| key.strip_prefix(kind)?.strip_suffix(what).map(str::to_owned);
        match key {
            "provider:revenue" => Some(Self::Revenue),
            "provider:cost" => Some(Self::Cost),
            "provider:loss" => Some(Self::Loss),
            _ if key.starts_with("upstream:") => named("upstream:", ":owed").map(Self::Owed),
            _ if key.ends_with(":forgiven") => named("tenant:", ":forgiven").map(Self::Forgiven),
            _ => named("tenant:", ":consumed").map(Self::Consumed),
        }
    }
}

/// The balances of all accounts, a currency each for itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Books {
    balances: BTreeMap<(Account, Currency), i128>,
}

impl Books {
    /// Posts what the rows of one entry move: from what was earned to what their tenants have used, and from what their upstreams are
    /// owed to what was spent. An account that many of them move changes once.
    pub fn post<'a>(&mut self, rows: impl IntoIterator<Item = &'a LedgerRow>, changes: &mut Changes) {
        self.add_up(rows.into_iter().flat_map(moves_of), changes);
    }

    /// Posts what one entry writes off: from what tenants were forgiven to what was lost.
    pub fn post_losses(&mut self, losses: &[LedgerLoss], changes: &mut Changes) {
        let of = |loss| {
            let LedgerLoss { tenant, currency, amount, .. }: &LedgerLoss = loss;
            moved(Account::Loss, Account::Forgiven(tenant), currency, pico(amount).map(Money))
        };
        self.add_up(losses.iter().flat_map(of), changes);
    }

    fn add_up<'a>(&mut self, moves: impl IntoIterator<Item = Move<&'a str>>, changes: &mut Changes) {
        let mut sums: BTreeMap<(Account<&str>, Currency), i128> = BTreeMap::new();
        for (account, currency, amount) in moves {
            let sum = sums.entry((account, currency)).or_default();
            *sum = sum.saturating_add(amount.0);
        }
        for ((account, currency), sum) in sums {
            let key = (account.into(), currency);
            let before = self.balances.get(&key).copied().unwrap_or(0);
            let balance = before.saturating_add(sum);
            changes.push((row_key(&key), Some(row(&key, balance))));
            self.balances.insert(key, balance);
        }
        debug_assert_eq!(self.trial(), Ok(()), "what was posted came from somewhere");
    }

    /// What is on each account, in order.
    pub fn balances(&self) -> impl Iterator<Item = (&Account, Currency, Money)> {
        self.balances.iter().map(|((account, currency), balance)| (account, *currency, Money(*balance)))
    }

    /// What is on an account.
    #[must_use]
    pub fn balance(&self, account: &Account, currency: Currency) -> Money {
        Money(self.balances.get(&(account.clone(), currency)).copied().unwrap_or(0))
    }

    /// The trial balance: in each currency all accounts together have nothing.
    ///
    /// # Errors
    /// The first currency in which they have something, and how much.
    pub fn trial(&self) -> Result<(), (Currency, Money)> {
        let mut sums: BTreeMap<Currency, i128> = BTreeMap::new();
        for ((_, currency), balance) in &self.balances {
            let sum = sums.entry(*currency).or_default();
            *sum = sum.saturating_add(*balance);
        }
        match sums.into_iter().find(|(_, sum)| *sum != 0) {
            Some((currency, sum)) => Err((currency, Money(sum))),
            None => Ok(()),
        }
    }

    /// Every row of the state, in order of the keys.
    pub fn rows(&self) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> + Send + use<> {
        let rows: BTreeMap<_, _> =
            self.balances.iter().map(|(key, balance)| (row_key(key), row(key, *balance))).collect();
        rows.into_iter()
    }

    /// The books that these rows are of.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn restore<E>(rows: impl IntoIterator<Item = Result<(Vec<u8>, Vec<u8>), E>>) -> Result<Self, RestoreError>
    where
        RestoreError: From<E>,
    {
        let mut books = Self::default();
        for read in rows {
            let (key, value) = read?;
            let (balance_of, balance) = from_row(&value).ok_or(RestoreError::Value { key })?;
            books.balances.insert(balance_of, balance);
        }
        Ok(books)
    }
}

/// What a row moves: what is added to each account, together nothing in each currency.
#[must_use]
pub fn moves(row: &LedgerRow) -> Vec<Move> {
    owned(moves_of(row))
}

/// Of what a row moves, that which concerns its tenant.
#[must_use]
pub fn billed(row: &LedgerRow) -> Vec<Move> {
    owned(billed_of(row))
}

fn owned(moves: Moves<'_>) -> Vec<Move> {
    moves.into_iter().map(|(account, currency, amount)| (account.into(), currency, amount)).collect()
}

fn moves_of(row: &LedgerRow) -> Moves<'_> {
    let mut all = billed_of(row);
    for attempt in attempts(row) {
        let (to, from) = (Account::Cost, Account::Owed(attempt.provider));
        all.extend(moved(to, from, &attempt.cost.currency, attempt.amount()));
    }
    all
}

fn billed_of(row: &LedgerRow) -> Moves<'_> {
    moved(Account::Consumed(&row.tenant), Account::Revenue, &row.currency, amount_of(row))
}

fn moved<'a>(to: Account<&'a str>, from: Account<&'a str>, currency: &str, amount: Option<Money>) -> Moves<'a> {
    let Some(amount) = amount.filter(|amount| amount.0 != 0) else { return Moves::new() };
    match Currency::parse(currency) {
        Ok(currency) => smallvec![(to, currency, amount), (from, currency, Money(amount.0.saturating_neg()))],
        Err(_) => Moves::new(),
    }
}

/// What a row says it amounts to; none where the bytes are no amount.
#[must_use]
pub fn amount_of(row: &LedgerRow) -> Option<Money> {
    pico(&row.amount).map(Money)
}

fn row_key((account, currency): &(Account, Currency)) -> Vec<u8> {
    format!("{}\0{currency}", account.key()).into_bytes()
}

fn row((account, currency): &(Account, Currency), balance: i128) -> Vec<u8> {
    let amount = balance.to_be_bytes().to_vec();
    BalanceRow { account: account.key(), currency: currency.to_string(), amount }.encode_to_vec()
}

fn from_row(value: &[u8]) -> Option<((Account, Currency), i128)> {
    let row = BalanceRow::decode(value).ok()?;
    let key = (Account::parse(&row.account)?, Currency::parse(&row.currency).ok()?);
    Some((key, pico(&row.amount)?))
}

#[cfg(test)]
mod tests;
