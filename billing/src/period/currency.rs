//! A tenant's currency can't change while something is billed in a month that goes on: a bill is in one currency.
//!
//! A call in flight at a change is billed in the currency in which it was admitted, so a month may come to have both all the same.
//! What keeps the currency that is in force changes nothing, and is never refused for that.

use tollgate_model::{Catalog, Currency, Kind, Money};
use tollgate_proto::{
    state::v1::{ConfigChange, ConfigProblem},
    v1::{Tenant, resource::Kind as Raw},
};

use super::{Period, Periods};
use crate::credit::{other_currency, tenants_put};

impl Periods {
    /// What is wrong with a change of the configuration in force, for what is billed in months that are not closed.
    #[must_use]
    pub fn problems(&self, in_force: &Catalog, change: &ConfigChange) -> Vec<ConfigProblem> {
        tenants_put(change).filter_map(|tenant| self.problem(in_force, tenant)).collect()
    }

    fn problem(&self, in_force: &Catalog, tenant: &Tenant) -> Option<ConfigProblem> {
        // Whoever is billed nothing may say any: what comes later is looked at again.
        let pays = pays_in(tenant)?;
        let name = &tenant.metadata.as_ref()?.name;
        let paid = in_force.get(Kind::Tenant, name).and_then(|stored| match stored.resource.kind.as_ref()? {
            Raw::Tenant(tenant) => pays_in(tenant),
            _ => None,
        });
        if paid == Some(pays) {
            return None;
        }
        let open = self.list(Some(name), None).map(|(_, period)| period).filter(|period| period.closed.is_none());
        let (month, (currency, billed)) = open.filter_map(|it| Some((it.month, it.billed_but_in(pays)?))).next()?;
        let message = format!(
            "{billed} {currency} is billed in {month}, which is not closed, and a bill is in one currency: it can change while no \
             month that is open or closing has anything billed; to bill in {pays} now, declare another tenant"
        );
        Some(other_currency(name, message))
    }
}

/// The currency that a tenant is billed in, if it is.
fn pays_in(tenant: &Tenant) -> Option<&str> {
    let billing = tenant.spec.as_ref()?.billing.as_ref()?;
    Some(&*billing.currency).filter(|_| matches!(&*billing.mode, "prepaid" | "postpaid"))
}

impl Period {
    /// What it bills in another currency than this, and how much.
    fn billed_but_in(&self, currency: &str) -> Option<(Currency, Money)> {
        let others = self.lines.iter().filter(|(key, sums)| sums.amount.0 != 0 && key.currency != currency);
        let first = others.filter_map(|(key, _)| key.currency()).next()?;
        self.totals().get(&first).map(|total| (first, total.exact))
    }
}
