//! In which zones tenants live: whose days and months the windows of their limits are.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use tollgate_model::{Algorithm, Catalog, KeyPart, Kind, Limit, Name, TimeZone, Unit, Window, catalog::Change};
use tollgate_proto::v1::{Resource, resource};
use tollgate_quota::ledger::Zones;

/// Tenants of a catalog and where they live. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct CatalogZones {
    catalog: Catalog,
    /// Tenants that do not live in UTC.
    elsewhere: Arc<BTreeMap<Name, TimeZone>>,
}

/// Who lives in another zone than before, or may.
#[derive(Debug, Default)]
pub(super) struct Moved {
    tenants: BTreeSet<Name>,
    consumers: BTreeSet<Name>,
}

/// The windows of a limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Clock {
    /// Where they begin.
    pub(super) time_zone: TimeZone,
    /// Each account has those of its own tenant.
    pub(super) apart: bool,
}

impl CatalogZones {
    pub(super) fn of(catalog: &Catalog) -> Self {
        let tenants = catalog.kind(Kind::Tenant).iter();
        let elsewhere = tenants.filter_map(|(name, stored)| Some((name.clone(), zone_of(&stored.resource)?)));
        Self { catalog: catalog.clone(), elsewhere: Arc::new(elsewhere.collect()) }
    }

    /// Those of the catalog as it is now; none when nobody's zone can be another.
    pub(super) fn after(&self, catalog: &Catalog, changed: &[Change]) -> Option<Self> {
        let concerns = |change: &Change| matches!(change.kind, Kind::Tenant | Kind::Consumer);
        if !changed.iter().any(concerns) {
            return None;
        }
        let mut elsewhere = Arc::clone(&self.elsewhere);
        for change in changed.iter().filter(|change| change.kind == Kind::Tenant) {
            let zone = change.after.as_ref().and_then(|stored| zone_of(&stored.resource));
            if elsewhere.get(&change.name) != zone.as_ref() {
                let elsewhere = Arc::make_mut(&mut elsewhere);
                match zone {
                    Some(zone) => elsewhere.insert(change.name.clone(), zone),
                    None => elsewhere.remove(&change.name),
                };
            }
        }
        Some(Self { catalog: catalog.clone(), elsewhere })
    }

    /// By what clock a limit goes. Windows of one tenant, or of tenants that live in one zone, are theirs; where they live in
    /// several, and the key of an account tells whose it is, each account has its own; all else is of UTC.
    pub(super) fn clock(&self, limit: &Limit) -> Clock {
        let together = |time_zone: TimeZone| Clock { time_zone, apart: false };
        if let [tenant] = limit.tenants.as_slice() {
            return together(self.of_tenant(tenant).unwrap_or(TimeZone::UTC));
        }
        let by_the_clock = limit.unit != Unit::Concurrency && limit.algorithm == Algorithm::Fixed;
        let tells = limit.per.iter().any(|part| matches!(part, KeyPart::Tenant | KeyPart::Consumer));
        let named = self.named(limit);
        if !by_the_clock || matches!(limit.window, Window::Second | Window::Minute) || (!tells && named.is_none()) {
            return together(TimeZone::UTC);
        }
        let zones = named.unwrap_or_else(|| self.distinct());
        match zones.values().collect::<Vec<_>>().as_slice() {
            [one] => together((*one).clone()),
            [] => together(TimeZone::UTC),
            _ => Clock { time_zone: TimeZone::UTC, apart: tells },
        }
    }

    /// The zones of whom a limit names, by their names. None where it names nobody.
    fn named(&self, limit: &Limit) -> Option<BTreeMap<String, TimeZone>> {
        let tenant_of = |consumer: &Name| self.tenant_of(consumer).map(Name::new);
        let tenants: Vec<Name> = match (&limit.tenants[..], &limit.consumers[..]) {
            ([], []) => return None,
            ([], consumers) => consumers.iter().filter_map(tenant_of).collect(),
            (tenants, _) => tenants.to_vec(),
        };
        let zones = tenants.iter().map(|tenant| self.of_tenant(tenant).unwrap_or(TimeZone::UTC));
        Some(zones.map(|zone| (zone.name().to_owned(), zone)).collect())
    }

    /// Every zone that a tenant lives in, by its name.
    fn distinct(&self) -> BTreeMap<String, TimeZone> {
        let mut zones: BTreeMap<String, TimeZone> =
            self.elsewhere.values().map(|zone| (zone.name().to_owned(), zone.clone())).collect();
        if self.elsewhere.len() < self.catalog.kind(Kind::Tenant).len() {
            zones.insert(TimeZone::UTC.name().to_owned(), TimeZone::UTC);
        }
        zones
    }

    pub(super) fn of_tenant(&self, tenant: &str) -> Option<TimeZone> {
        let known = self.elsewhere.get(tenant).cloned();
        known.or_else(|| self.catalog.get(Kind::Tenant, tenant).map(|_| TimeZone::UTC))
    }

    fn tenant_of(&self, consumer: &str) -> Option<&str> {
        self.catalog.get(Kind::Consumer, consumer).and_then(|stored| payer_of(&stored.resource))
    }

    /// Who lives elsewhere from here on, of those that were there before and still are.
    pub(super) fn moved(&self, changed: &[Change]) -> Moved {
        let both = |change: &Change| Some((change.before.clone()?, change.after.clone()?));
        let mut moved = Moved::default();
        for change in changed {
            let Some((before, after)) = both(change) else { continue };
            let (before, after) = (&before.resource, &after.resource);
            match change.kind {
                Kind::Tenant if zone_of(before) != zone_of(after) => moved.tenants.insert(change.name.clone()),
                Kind::Consumer if payer_of(before) != payer_of(after) => moved.consumers.insert(change.name.clone()),
                _ => false,
            };
        }
        if !moved.tenants.is_empty() {
            let all = self.catalog.kind(Kind::Consumer).iter();
            let theirs = all.filter(|(_, it)| payer_of(&it.resource).is_some_and(|of| moved.tenants.contains(of)));
            let theirs: Vec<Name> = theirs.map(|(name, _)| name.clone()).collect();
            moved.consumers.extend(theirs);
        }
        moved
    }
}

impl Moved {
    pub(super) fn is_empty(&self) -> bool {
        self.tenants.is_empty() && self.consumers.is_empty()
    }

    pub(super) fn has(&self, per: &[KeyPart], key: &[&str]) -> bool {
        match whose(per, key) {
            Some(Whose::Tenant(tenant)) => self.tenants.contains(tenant),
            Some(Whose::Consumer(consumer)) => self.consumers.contains(consumer),
            None => false,
        }
    }
}

impl Zones for CatalogZones {
    fn zone(&self, per: &[KeyPart], key: &[&str]) -> Option<TimeZone> {
        match whose(per, key)? {
            Whose::Tenant(tenant) => self.of_tenant(tenant),
            Whose::Consumer(consumer) => self.of_tenant(self.tenant_of(consumer)?),
        }
    }

    fn all(&self) -> Vec<TimeZone> {
        self.distinct().into_values().collect()
    }
}

impl fmt::Debug for CatalogZones {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CatalogZones").field("elsewhere", &self.elsewhere.len()).finish_non_exhaustive()
    }
}

/// What tells the tenant of an account.
enum Whose<'a> {
    Tenant(&'a str),
    Consumer(&'a str),
}

fn whose<'a>(per: &[KeyPart], key: &[&'a str]) -> Option<Whose<'a>> {
    let value = |part: KeyPart| per.iter().position(|it| *it == part).and_then(|at| key.get(at).copied());
    value(KeyPart::Tenant).map(Whose::Tenant).or_else(|| value(KeyPart::Consumer).map(Whose::Consumer))
}

/// Where a tenant lives, if that is not UTC.
fn zone_of(resource: &Resource) -> Option<TimeZone> {
    let Some(resource::Kind::Tenant(tenant)) = &resource.kind else { return None };
    let name = tenant.spec.as_ref().map_or("", |spec| &spec.time_zone);
    if name.is_empty() {
        return None;
    }
    // What was committed names a zone that there is.
    TimeZone::parse(name).ok().filter(|zone| *zone != TimeZone::UTC)
}

/// Who pays for a consumer.
fn payer_of(resource: &Resource) -> Option<&str> {
    match &resource.kind {
        Some(resource::Kind::Consumer(consumer)) => consumer.spec.as_ref().map(|spec| spec.tenant.as_str()),
        _ => None,
    }
}
