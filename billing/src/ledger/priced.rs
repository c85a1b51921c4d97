//! What amounts of the ledger should be, by the prices that they name: for whoever reads it through, and whoever prices a month
//! again. What is wrong is told in the same words by both.

use std::collections::BTreeMap;

use tollgate_model::Money;
use tollgate_proto::state::v1::{LedgerRow, PriceVersionRow};

use super::{Attempt, amount_of, cost_of};
use crate::price::{Quantities, Tariff};

/// What is wrong is told so often; beyond it there is only more.
const MAX_PROBLEMS: usize = 100;

/// Tells of something wrong.
pub(super) fn tell(problems: &mut Vec<String>, what: String) {
    if problems.len() < MAX_PROBLEMS {
        problems.push(what);
    }
}

/// What a row is called where something is wrong with it.
pub(super) fn called(row: &LedgerRow) -> String {
    format!("row {} (request {})", row.seq, row.request_id)
}

/// An amount, and what it is made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Priced<'a> {
    price: &'a str,
    version: u64,
    used: Quantities,
    /// None: the bytes are no amount.
    amount: Option<Money>,
}

impl<'a> Priced<'a> {
    /// What a row's tenant is billed.
    pub(super) fn row(row: &'a LedgerRow) -> Self {
        let (price, version) = priced_by(row, &row.price, row.price_version);
        Self { price, version, used: row.into(), amount: amount_of(row) }
    }

    /// What an upstream bills for an attempt of a row.
    pub(super) fn attempt(row: &LedgerRow, attempt: &Attempt<'a>) -> Self {
        let cost = attempt.cost;
        let (price, version) = priced_by(row, &cost.price, cost.price_version);
        Self { price, version, used: Quantities::from(&attempt.usage), amount: cost_of(cost) }
    }

    /// The version of the price that makes it up. None: it is what it says.
    pub(super) fn price(&self) -> Option<(&'a str, u64)> {
        (!self.price.is_empty()).then_some((self.price, self.version))
    }
}

/// A correction's amount is none of its own quantities.
fn priced_by<'a>(row: &LedgerRow, price: &'a str, version: u64) -> (&'a str, u64) {
    if row.corrects == 0 { (price, version) } else { ("", 0) }
}

/// Versions of prices that are known, or why one of them is none.
#[derive(Debug, Default)]
pub(super) struct Tariffs(BTreeMap<(String, u64), Result<Tariff, String>>);

impl Tariffs {
    /// One more.
    ///
    /// # Errors
    /// Why it is none.
    pub(super) fn add(&mut self, version: &PriceVersionRow) -> Result<(), String> {
        let tariff = Tariff::of(version)?;
        self.0.insert((tariff.name.to_string(), tariff.version.0), Ok(tariff));
        Ok(())
    }

    /// One that is none.
    pub(super) fn add_none(&mut self, price: &str, version: u64, why: String) {
        self.0.insert((price.to_owned(), version), Err(why));
    }

    /// Whether it is there.
    pub(super) fn knows(&self, price: &str, version: u64) -> bool {
        self.0.contains_key(&(price.to_owned(), version))
    }

    /// What an amount should be.
    ///
    /// # Errors
    /// Why nobody can say.
    pub(super) fn right(&self, of: &Priced<'_>) -> Result<Money, String> {
        let amount = of.amount.ok_or("has no amount that can be read")?;
        let Some((price, version)) = of.price() else { return Ok(amount) };
        match self.0.get(&(price.to_owned(), version)) {
            Some(Ok(tariff)) => Ok(tariff.amount(of.used)),
            Some(Err(why)) => Err(format!("names the price {price}@{version}, which is none: {why}")),
            None => Err(unknown(price, version)),
        }
    }

    /// What is wrong with an amount, if anything.
    pub(super) fn wrong(&self, of: &Priced<'_>) -> Option<String> {
        match (self.right(of), of.amount) {
            (Err(why), _) => Some(why),
            (Ok(right), Some(amount)) if right != amount => {
                let (price, version) = of.price().unwrap_or_default();
                Some(format!("amounts to {amount}, and by its price {price}@{version} it is {right}"))
            }
            (Ok(_), _) => None,
        }
    }
}

/// That something names a price which nobody has seen.
pub(super) fn unknown(price: &str, version: u64) -> String {
    format!("names the price {price}@{version}, which is not in the ledger before it")
}
