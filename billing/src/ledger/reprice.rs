//! A month of a tenant, priced again: each row by the version of the price that it names, as the ledger itself has it.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    io,
};

use tollgate_model::{Currency, Money, Month};
use tollgate_proto::state::v1::LedgerRow;

use super::{Keeper, amount_of};
use crate::{export::Source, price::Tariff};

/// Rows of the ledger in memory at a time.
const READ_ROWS: usize = 1_024;
/// What is wrong is told so often; beyond it there is only more.
const MAX_PROBLEMS: usize = 100;

/// What a month comes to when it is priced again.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Repriced {
    /// Rows that were read.
    pub rows: u64,
    /// By currency: what the month says, and what its rows come to.
    pub sums: BTreeMap<Currency, Sums>,
    /// What is wrong, the first of it first; nothing where all is well.
    pub problems: Vec<String>,
}

/// A sum, from two sides.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Sums {
    /// As it was added up when the rows came.
    pub billed: Money,
    /// By the prices that the rows name.
    pub repriced: Money,
}

impl Repriced {
    fn problem(&mut self, what: String) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(what);
        }
    }
}

/// The prices that rows name, each made once.
#[derive(Default)]
struct Tariffs(BTreeMap<(String, u64), Tariff>);

impl Tariffs {
    /// What a row comes to by its price. What no price was for, and what corrects another row, is what it says.
    fn amount(&mut self, row: &LedgerRow, from: &Keeper) -> io::Result<Result<Money, String>> {
        let id = || format!("{}@{}", row.price, row.price_version);
        if row.price.is_empty() || row.corrects != 0 {
            return Ok(amount_of(row).ok_or_else(|| "has no amount that can be read".to_owned()));
        }
        let tariff = match self.0.entry((row.price.clone(), row.price_version)) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => match from.price(&row.price, row.price_version)?.map(|price| Tariff::of(&price)) {
                Some(Ok(tariff)) => new.insert(tariff),
                Some(Err(why)) => return Ok(Err(format!("names the price {}, which is none: {why}", id()))),
                None => return Ok(Err(format!("names the price {}, which is not in the ledger", id()))),
            },
        };
        Ok(Ok(tariff.amount(row.into())))
    }
}

impl Keeper {
    /// Prices a month of a tenant again, from its rows. None where there is no such month. Takes as long as reading them.
    ///
    /// # Errors
    /// As for [`Source::rows`].
    pub fn reprice(&self, tenant: &str, month: Month) -> io::Result<Option<Repriced>> {
        let Some(period) = self.look(|state| state.periods().get(tenant, month).cloned()) else { return Ok(None) };
        let (mut found, mut tariffs) = (Repriced::default(), Tariffs::default());
        for (currency, total) in period.totals() {
            found.sums.entry(currency).or_default().billed = total.exact;
        }
        let mut after = period.first_seq.saturating_sub(1);
        while after < period.last_seq {
            let rows = self.rows(after, READ_ROWS)?;
            let Some(last) = rows.last() else { break };
            after = last.seq;
            let is_of =
                |row: &&LedgerRow| row.seq <= period.last_seq && row.tenant == tenant && row.month == month.number();
            for row in rows.iter().filter(is_of) {
                let right = tariffs.amount(row, self)?;
                found.take(row, right);
            }
        }
        found.compare(period.tree.leaves());
        Ok(Some(found))
    }
}

impl Repriced {
    fn take(&mut self, row: &LedgerRow, right: Result<Money, String>) {
        self.rows += 1;
        let whose = format!("row {} (request {})", row.seq, row.request_id);
        let right = match right {
            Ok(right) => right,
            Err(why) => return self.problem(format!("{whose} {why}")),
        };
        let amount = amount_of(row).unwrap_or_default();
        if amount != right {
            self.problem(format!("{whose} amounts to {amount}, and by its price it is {right}"));
        }
        if let Ok(currency) = Currency::parse(&row.currency) {
            let sum = self.sums.entry(currency).or_default();
            sum.repriced = Money(sum.repriced.0.saturating_add(right.0));
        }
    }

    fn compare(&mut self, rows: u64) {
        if self.rows != rows {
            self.problem(format!("there are {} rows, and should be {rows}", self.rows));
        }
        for (currency, sums) in self.sums.clone() {
            if sums.billed != sums.repriced {
                let (billed, repriced) = (sums.billed, sums.repriced);
                self.problem(format!("the month says {billed} {currency}, and its rows come to {repriced}"));
            }
        }
    }
}
