//! Keeps budgets equal to those of the tenants in the catalog, and counts what tenants are billed by the months that their bills have.

use std::collections::{BTreeMap, HashMap};

use tollgate_billing::{AlertBook, BudgetTerms, Came, Changes, ledger::Keeper, period::Span};
use tollgate_model::{Catalog, Checked, Currency, Kind, Money, Timestamp, catalog::Change};
use tollgate_proto::v1::Resource;

/// A tenant's budget, if it has one.
fn terms(tenant: &Resource) -> Option<BudgetTerms> {
    let Ok(Checked::Tenant(tenant)) = tollgate_model::check(tenant) else { return None };
    let (budget, currency) = (tenant.budget.as_ref()?, tenant.billing.currency?);
    let (monthly, thresholds) = (budget.monthly, budget.thresholds.clone());
    Some(BudgetTerms { currency, monthly, thresholds, webhook: budget.webhook.is_some() })
}

/// Budgets are as `changed` says from this entry on, which the months of their tenants have followed already.
pub(super) fn follow(
    book: &mut AlertBook,
    (catalog, bills): (&Catalog, &Keeper),
    changed: &[Change],
    came: Came,
    rows: &mut Changes,
) {
    for change in changed.iter().filter(|change| change.kind == Kind::Tenant) {
        let terms = catalog.get(Kind::Tenant, &change.name).and_then(|stored| terms(&stored.resource));
        let month = month_at(bills, &change.name, came.now).month.number();
        book.follow(came, (&change.name, month), terms, rows);
    }
}

/// Tells the book what budgets there are, after a restart.
pub(super) fn set(book: &mut AlertBook, catalog: &Catalog) {
    for (name, stored) in catalog.kind(Kind::Tenant) {
        book.set(name, terms(&stored.resource));
    }
}

fn month_at(bills: &Keeper, tenant: &str, at: Timestamp) -> Span {
    bills.look(|state| state.periods().month_at(tenant, at))
}

/// What tenants are billed in one entry, by month. The entry's rows are in the ledger already, so their months are begun.
pub(super) struct Months<'a> {
    bills: &'a Keeper,
    /// The last month that each was billed in. Never iterated.
    known: HashMap<&'a str, Span>,
    sums: BTreeMap<(&'a str, u32, Currency), Money>,
}

impl<'a> Months<'a> {
    pub(super) fn new(bills: &'a Keeper) -> Self {
        Self { bills, known: HashMap::new(), sums: BTreeMap::new() }
    }

    /// Counts the bill of a request that was admitted at `at`.
    pub(super) fn add(&mut self, tenant: &'a str, at: Timestamp, (currency, cost): (Currency, Money)) {
        let span = match self.known.get(tenant) {
            Some(span) if span.has(at) => *span,
            _ => {
                let span = month_at(self.bills, tenant, at);
                self.known.insert(tenant, span);
                span
            }
        };
        let sum = self.sums.entry((tenant, span.month.number(), currency)).or_default();
        sum.0 = sum.0.saturating_add(cost.0);
    }

    pub(super) fn sums(self) -> BTreeMap<(&'a str, u32, Currency), Money> {
        self.sums
    }
}
