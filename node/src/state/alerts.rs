//! Keeps budgets equal to those of the tenants in the catalog, and counts what tenants are billed by the months of their zones.

use std::collections::{BTreeMap, HashMap};

use tollgate_billing::{AlertBook, BudgetTerms, Came, Changes};
use tollgate_model::{Catalog, Checked, Currency, Kind, Money, TimeZone, Timestamp, Window, catalog::Change, month_of};
use tollgate_proto::v1::Resource;

use super::zones::CatalogZones;

/// A tenant's budget, if it has one.
fn terms(tenant: &Resource) -> Option<BudgetTerms> {
    let Ok(Checked::Tenant(tenant)) = tollgate_model::check(tenant) else { return None };
    let (budget, currency) = (tenant.budget.as_ref()?, tenant.billing.currency?);
    let (monthly, thresholds) = (budget.monthly, budget.thresholds.clone());
    Some(BudgetTerms { currency, monthly, thresholds, webhook: budget.webhook.is_some() })
}

/// Budgets are as `changed` says from this entry on.
pub(super) fn follow(
    book: &mut AlertBook,
    (catalog, zones): (&Catalog, &CatalogZones),
    changed: &[Change],
    came: Came,
    rows: &mut Changes,
) {
    for change in changed.iter().filter(|change| change.kind == Kind::Tenant) {
        let terms = catalog.get(Kind::Tenant, &change.name).and_then(|stored| terms(&stored.resource));
        let month = month_of(came.now, &zones.of_tenant(&change.name).unwrap_or(TimeZone::UTC));
        book.follow(came, (&change.name, month), terms, rows);
    }
}

/// Tells the book what budgets there are, after a restart.
pub(super) fn set(book: &mut AlertBook, catalog: &Catalog) {
    for (name, stored) in catalog.kind(Kind::Tenant) {
        book.set(name, terms(&stored.resource));
    }
}

/// What tenants are billed in one entry, by month.
pub(super) struct Months<'a> {
    zones: &'a CatalogZones,
    /// The last month that each was billed in: begin, end, and which one it is. Never iterated.
    known: HashMap<&'a str, (Timestamp, Timestamp, u32)>,
    sums: BTreeMap<(&'a str, u32, Currency), Money>,
}

impl<'a> Months<'a> {
    pub(super) fn new(zones: &'a CatalogZones) -> Self {
        Self { zones, known: HashMap::new(), sums: BTreeMap::new() }
    }

    /// Counts the bill of a request that was admitted at `at`.
    pub(super) fn add(&mut self, tenant: &'a str, at: Timestamp, (currency, cost): (Currency, Money)) {
        let month = match self.known.get(tenant) {
            Some((start, end, month)) if (*start..*end).contains(&at) => *month,
            _ => {
                let zone = self.zones.of_tenant(tenant).unwrap_or(TimeZone::UTC);
                let (start, end) = Window::Month.bounds(at, &zone);
                let month = month_of(at, &zone);
                self.known.insert(tenant, (start, end, month));
                month
            }
        };
        let sum = self.sums.entry((tenant, month, currency)).or_default();
        sum.0 = sum.0.saturating_add(cost.0);
    }

    pub(super) fn sums(self) -> BTreeMap<(&'a str, u32, Currency), Money> {
        self.sums
    }
}
