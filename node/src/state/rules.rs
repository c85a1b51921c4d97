//! Keeps the ledger's rules equal to the limits in the catalog, in the very log entry that changes them.

use std::sync::Arc;

use tollgate_model::{Catalog, Checked, Kind, Limit, LogIndex, Name, TimeZone, Timestamp, catalog::Change};
use tollgate_quota::{Changes, Ledger, Rule};

/// The entry that changes them: where it is, its log time, and what the ledger ages by.
#[derive(Debug, Clone, Copy)]
pub(super) struct When {
    pub(super) at: LogIndex,
    pub(super) now: Timestamp,
    pub(super) stamp: u64,
}

/// Puts limits into force, changes them and takes them out, as `changed` says.
pub(super) fn follow(ledger: &mut Ledger, catalog: &Catalog, changed: &[Change], when: When, rows: &mut Changes) {
    for change in changed.iter().filter(|change| change.kind == Kind::Limit) {
        match &change.after {
            Some(_) => put(ledger, catalog, &change.name, when, rows),
            None => {
                ledger.stamp(when.stamp);
                ledger.remove_rule(when.at, when.now, &change.name, rows);
            }
        }
    }
    for tenant in changed.iter().filter(|change| change.kind == Kind::Tenant && change.after.is_some()) {
        for limit in limits_of(catalog, &tenant.name) {
            put(ledger, catalog, &limit, when, rows);
        }
    }
}

fn put(ledger: &mut Ledger, catalog: &Catalog, name: &Name, when: When, rows: &mut Changes) {
    let Some(limit) = limit(catalog, name) else { return };
    ledger.stamp(when.stamp);
    ledger.set_rule(when.now, Rule::of(&limit, time_zone(catalog, &limit)), rows);
}

/// The limits whose days and months follow this tenant's clock.
fn limits_of(catalog: &Catalog, tenant: &Name) -> Vec<Name> {
    let of_tenant = |name: &&Name| limit(catalog, name).is_some_and(|limit| limit.tenants == [tenant.clone()]);
    catalog.kind(Kind::Limit).keys().filter(of_tenant).cloned().collect()
}

/// # Panics
/// When a committed limit does not check: the node that took it ran a version that this one can't follow.
fn limit(catalog: &Catalog, name: &Name) -> Option<Arc<Limit>> {
    match tollgate_model::check(&catalog.get(Kind::Limit, name)?.resource) {
        Ok(Checked::Limit(limit)) => Some(limit),
        Ok(_) => None,
        Err(problems) => {
            panic!("limit {name} was committed by a version that allows more than this one does: {problems}")
        }
    }
}

/// A limit of one tenant has its days; any other has UTC's.
fn time_zone(catalog: &Catalog, limit: &Limit) -> TimeZone {
    let [tenant] = limit.tenants.as_slice() else { return TimeZone::UTC };
    let Some(stored) = catalog.get(Kind::Tenant, tenant) else { return TimeZone::UTC };
    match tollgate_model::check(&stored.resource) {
        Ok(Checked::Tenant(tenant)) => tenant.time_zone.clone(),
        _ => TimeZone::UTC,
    }
}
