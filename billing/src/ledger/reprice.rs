//! A month of a tenant, priced again: each row by the version of the price that it names, as the ledger itself has it.

use std::{collections::BTreeMap, io};

use tollgate_model::{Currency, Money, Month};
use tollgate_proto::state::v1::LedgerRow;

use super::{
    Keeper,
    priced::{Priced, Tariffs, called, tell},
};
use crate::export::Source;

/// Rows of the ledger in memory at a time.
const READ_ROWS: usize = 1_024;

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
        tell(&mut self.problems, what);
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
                self.learn(&Priced::row(row), &mut tariffs)?;
                found.take(row, &tariffs);
            }
        }
        found.compare(period.tree.leaves());
        Ok(Some(found))
    }

    /// The price of a row, from the ledger.
    fn learn(&self, of: &Priced<'_>, tariffs: &mut Tariffs) -> io::Result<()> {
        let Some((price, version)) = of.price().filter(|(price, version)| !tariffs.knows(price, *version)) else {
            return Ok(());
        };
        if let Some(Err(why)) = self.price(price, version)?.map(|row| tariffs.add(&row)) {
            tariffs.add_none(price, version, why);
        }
        Ok(())
    }
}

impl Repriced {
    fn take(&mut self, row: &LedgerRow, tariffs: &Tariffs) {
        self.rows += 1;
        let priced = Priced::row(row);
        if let Some(wrong) = tariffs.wrong(&priced) {
            self.problem(format!("{} {wrong}", called(row)));
        }
        if let (Ok(right), Ok(currency)) = (tariffs.right(&priced), Currency::parse(&row.currency)) {
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
