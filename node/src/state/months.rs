//! By what the months of tenants go: their time zones, graces and labels, as the catalog has them.

use std::{collections::BTreeMap, sync::Arc};

use tollgate_billing::{
    ledger::Keeper,
    period::{Labels, Terms},
};
use tollgate_model::{Catalog, Checked, Kind, catalog::Change};
use tollgate_proto::v1::{Resource, resource::Kind as Raw};

/// The terms of all tenants that are declared.
pub(super) fn terms(catalog: &Catalog) -> BTreeMap<String, Terms> {
    let tenants = catalog.kind(Kind::Tenant).iter();
    tenants.map(|(name, stored)| (name.to_string(), of(name, &stored.resource))).collect()
}

/// Goes by the terms of tenants that have changed.
pub(super) fn follow(books: &Keeper, changed: &[Change]) {
    for change in changed.iter().filter(|change| change.kind == Kind::Tenant) {
        books.change_terms(&change.name, change.after.as_ref().map(|stored| of(&change.name, &stored.resource)));
    }
}

/// # Panics
/// When a committed tenant does not check: the node that took it ran a version that this one can't follow.
fn of(name: &str, resource: &Resource) -> Terms {
    match tollgate_model::check(resource) {
        Ok(Checked::Tenant(tenant)) => {
            let (zone, grace) = (tenant.time_zone.clone(), tenant.billing.grace);
            Terms { zone, grace, labels: labels(resource) }
        }
        Ok(_) => Terms::default(),
        Err(problems) => {
            panic!("tenant {name} was committed by a version that allows more than this one does: {problems}")
        }
    }
}

/// The labels of a tenant.
pub(crate) fn labels(resource: &Resource) -> Labels {
    match &resource.kind {
        Some(Raw::Tenant(raw)) => Arc::new(raw.metadata.as_ref().map(|it| it.labels.clone()).unwrap_or_default()),
        _ => Labels::default(),
    }
}

#[cfg(test)]
mod tests;
