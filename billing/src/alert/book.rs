//! The months of all tenants, and what was raised in them.

use std::collections::BTreeMap;

use tollgate_model::{Currency, Money};
use tollgate_proto::state::v1::{BudgetAlertRow, BudgetAlertState};

use super::{message, outbox::Outbox, rows};
use crate::{Came, Changes, RestoreError, amount::bytes};

/// Months that bills are still counted in. What is billed of an older one passes no threshold: nobody waits for that any more.
const MONTHS: u32 = 3;

/// A tenant's budget, and whether anybody is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BudgetTerms {
    /// What it is in.
    pub currency: Currency,
    /// For a month.
    pub monthly: Money,
    /// Percent of it.
    pub thresholds: Vec<u32>,
    /// Whether there is a webhook.
    pub webhook: bool,
}

/// Whose month it is, which one, and what its sum is in.
pub(super) type Key = (String, u32, Currency);

/// What was billed in a month.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Month {
    pub(super) billed: i128,
    /// By percentage: the greatest budget of which it was raised.
    pub(super) raised: BTreeMap<u32, i128>,
}

/// The budgets of all tenants: a part of the replicated state.
#[derive(Debug, Clone, Default)]
pub struct AlertBook {
    /// As the configuration says: no rows.
    terms: BTreeMap<String, BudgetTerms>,
    months: BTreeMap<Key, Month>,
    outbox: Outbox,
    /// The last month that anything was billed in.
    newest: u32,
}

impl AlertBook {
    /// Counts what tenants were billed in this entry, by month, and raises what that passes.
    pub fn bill(&mut self, came: Came, billed: BTreeMap<(&str, u32, Currency), Money>, changes: &mut Changes) {
        for ((tenant, month, currency), amount) in billed {
            if amount.0 <= 0 || month.saturating_add(MONTHS) <= self.newest {
                continue;
            }
            if month > self.newest {
                self.begin(month, changes);
            }
            let key = (tenant.to_owned(), month, currency);
            let sum = self.months.entry(key.clone()).or_default();
            sum.billed = sum.billed.saturating_add(amount.0);
            changes.push(rows::month(&key, Some(sum)));
            self.raise(came, tenant, month, changes);
        }
    }

    /// A tenant has this budget from now on, or none. What the month has passed already is raised at once.
    pub fn follow(
        &mut self,
        came: Came,
        (tenant, month): (&str, u32),
        terms: Option<BudgetTerms>,
        changes: &mut Changes,
    ) {
        if terms.as_ref().is_none_or(|terms| !terms.webhook) {
            self.outbox.give_up(tenant, "the tenant's budget has no webhook any more", changes);
        }
        self.set(tenant, terms);
        self.raise(came, tenant, month, changes);
    }

    /// As [`Self::follow`], of a configuration that has been followed before: after a restart.
    pub fn set(&mut self, tenant: &str, terms: Option<BudgetTerms>) {
        match terms {
            Some(terms) => drop(self.terms.insert(tenant.to_owned(), terms)),
            None => drop(self.terms.remove(tenant)),
        }
    }

    /// Alerts and what becomes of them.
    #[must_use]
    pub fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// To change what becomes of alerts.
    pub fn outbox_mut(&mut self) -> &mut Outbox {
        &mut self.outbox
    }

    /// Raises what a month has passed, in the currency of the budget.
    fn raise(&mut self, came: Came, tenant: &str, month: u32, changes: &mut Changes) {
        let Some(terms) = self.terms.get(tenant) else { return };
        let key = (tenant.to_owned(), month, terms.currency);
        let Some(sum) = self.months.get_mut(&key) else { return };
        let budget = terms.monthly.0;
        let is_passed = |percent: u32| sum.billed.saturating_mul(100) >= budget.saturating_mul(percent.into());
        let is_new = |percent: &u32| sum.raised.get(percent).is_none_or(|before| budget > *before);
        let passed: Vec<u32> = terms.thresholds.iter().copied().filter(|it| is_passed(*it) && is_new(it)).collect();
        for percent in &passed {
            sum.raised.insert(*percent, budget);
            let state = if terms.webhook { BudgetAlertState::Pending } else { BudgetAlertState::Listed };
            let alert = BudgetAlertRow {
                seq: self.outbox.next_seq(came.at),
                tenant: tenant.to_owned(),
                month,
                currency: terms.currency.to_string(),
                percent: *percent,
                budget: bytes(budget),
                billed: bytes(sum.billed),
                raised_us: came.now.0,
                state: state.into(),
                ..BudgetAlertRow::default()
            };
            self.outbox.add(BudgetAlertRow { id: message::id(&alert), ..alert }, changes);
        }
        if !passed.is_empty() {
            changes.push(rows::month(&key, Some(sum)));
        }
    }

    /// A month begins, and what is too old to be billed ends.
    fn begin(&mut self, month: u32, changes: &mut Changes) {
        self.newest = month;
        let outdated = |key: &Key| key.1.saturating_add(MONTHS) <= month;
        let old: Vec<Key> = self.months.keys().filter(|key| outdated(key)).cloned().collect();
        for key in old {
            self.months.remove(&key);
            changes.push(rows::month(&key, None));
        }
        self.outbox.forget(month, changes);
    }

    /// Every row, in order of the keys.
    pub fn rows(&self) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> + Send + 'static {
        rows::all(self.outbox.clone(), self.months.clone())
    }

    /// The book that these rows are of, without budgets.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn restore<E>(rows: impl IntoIterator<Item = Result<(Vec<u8>, Vec<u8>), E>>) -> Result<Self, RestoreError>
    where
        RestoreError: From<E>,
    {
        let (outbox, months) = rows::read(rows)?;
        let newest = months.keys().map(|key| key.1).max().unwrap_or(0);
        Ok(Self { terms: BTreeMap::new(), months, outbox, newest })
    }
}

#[cfg(test)]
mod tests;
