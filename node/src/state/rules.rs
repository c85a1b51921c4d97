//! Keeps the ledger's rules equal to the limits in the catalog, in the very log entry that changes them.

use std::{collections::BTreeSet, sync::Arc};

use tollgate_model::{
    Catalog, Checked, Kind, Limit, LogIndex, Name, Timestamp,
    catalog::{Change, Stored},
};
use tollgate_proto::v1::resource;
use tollgate_quota::{Changes, Ledger, Rule};

use super::zones::{CatalogZones, Clock};

/// The entry that changes them: where it is, its log time, and what the ledger ages by.
#[derive(Debug, Clone, Copy)]
pub(super) struct When {
    pub(super) at: LogIndex,
    pub(super) now: Timestamp,
    pub(super) stamp: u64,
}

/// Puts limits into force, changes them and takes them out, as `changed` says; `zones` are those of the catalog after it.
pub(super) fn follow(
    ledger: &mut Ledger,
    (catalog, zones): (&Catalog, &CatalogZones),
    changed: &[Change],
    when: When,
    rows: &mut Changes,
) {
    if changed.iter().any(|change| matches!(change.kind, Kind::Tenant | Kind::Consumer)) {
        let moved = zones.moved(changed);
        ledger.live_in(Arc::new(zones.clone()));
        if !moved.is_empty() {
            ledger.stamp(when.stamp);
            ledger.move_accounts(when.now, &|per, key| moved.has(per, key), rows);
        }
    }
    for change in changed.iter().filter(|change| change.kind == Kind::Limit) {
        match &change.after {
            Some(_) => put(ledger, catalog, zones, &change.name, when, rows),
            None => {
                ledger.stamp(when.stamp);
                ledger.remove_rule(when.at, when.now, &change.name, rows);
            }
        }
    }
    for limit in limits_of(catalog, changed) {
        put(ledger, catalog, zones, &limit, when, rows);
    }
}

fn put(ledger: &mut Ledger, catalog: &Catalog, zones: &CatalogZones, name: &Name, when: When, rows: &mut Changes) {
    let Some(limit) = limit(catalog, name) else { return };
    let Clock { time_zone, apart } = zones.clock(&limit);
    let rule = Rule { apart, ..Rule::of(&limit, time_zone) };
    if ledger.rule(name) != Some(&rule) {
        ledger.stamp(when.stamp);
        ledger.set_rule(when.now, rule, rows);
    }
}

/// The limits whose days and months may follow another clock, as whom they concern has come, gone or moved.
fn limits_of(catalog: &Catalog, changed: &[Change]) -> Vec<Name> {
    let tenants = changed.iter().any(|change| change.kind == Kind::Tenant);
    let consumers: BTreeSet<&str> =
        changed.iter().filter(|change| change.kind == Kind::Consumer).map(|change| change.name.as_str()).collect();
    if !tenants && consumers.is_empty() {
        return Vec::new();
    }
    let names_one = |stored: &Stored| match &stored.resource.kind {
        Some(resource::Kind::Limit(limit)) => {
            let matched = limit.spec.as_ref().and_then(|spec| spec.r#match.as_ref());
            matched.is_some_and(|it| it.consumers.iter().any(|name| consumers.contains(name.as_str())))
        }
        _ => false,
    };
    let of = catalog.kind(Kind::Limit).iter().filter(|(_, stored)| tenants || names_one(stored));
    of.map(|(name, _)| name.clone()).collect()
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
