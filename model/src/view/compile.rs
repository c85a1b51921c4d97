//! One view after another.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    ConfigView, callers::Callers, certificate_keys::CertificateKeys, fit::other_key, keys::Keys, limits::LimitIndex,
    upstream_keys::UpstreamKeys,
};
use crate::{
    Catalog, Certificate, Checked, Consumer, Kind, Limit, LogIndex, Name, Price, Priority, Problems, Provider, Route,
    Service, Tenant, check, secret::ClusterKey,
};

pub(super) fn compile(
    index: LogIndex,
    catalog: &Catalog,
    previous: Option<&ConfigView>,
    key: Option<&ClusterKey>,
) -> (ConfigView, Problems) {
    let none = ConfigView::default();
    let old = previous.unwrap_or(&none);
    let mut problems = Problems::default();
    let routes = kind(catalog, &old.routes, &mut problems);
    let providers = kind(catalog, &old.providers, &mut problems);
    let services = kind(catalog, &old.services, &mut problems);
    let tenants = kind(catalog, &old.tenants, &mut problems);
    let consumers = kind(catalog, &old.consumers, &mut problems);
    let limits = kind(catalog, &old.limits, &mut problems);
    let prices = kind(catalog, &old.prices, &mut problems);
    let certificates = kind(catalog, &old.certificates, &mut problems);

    let fresh = previous.is_none();
    let callers = if fresh || consumers.changed || tenants.changed || !old.callers.is_under(key) {
        Arc::new(Callers::new(&consumers.now, &tenants.now, key, &mut problems))
    } else {
        Arc::clone(&old.callers)
    };
    let limit_index = if fresh || limits.changed || tenants.changed {
        let purses: Vec<_> = tenants.now.values().filter_map(|tenant| tenant.purse()).map(Arc::new).collect();
        Arc::new(LimitIndex::new(limits.now.values().chain(&purses)))
    } else {
        Arc::clone(&old.limit_index)
    };
    let keys = Keys::resolve(&providers.now, old, key, &mut problems);
    let certificate_keys = CertificateKeys::resolve(&certificates.now, old, key, &mut problems);
    let upstream_keys = UpstreamKeys::resolve(&services.now, &providers.now, old, key, &mut problems);
    let other_key = other_key(&consumers.now, &providers.now, &certificates.now, key);
    let (has_critical, has_priorities) = if fresh || routes.changed || consumers.changed {
        let said = consumers.now.values().filter_map(|consumer| consumer.priority);
        priorities(routes.now.values().map(|route| route.priority).chain(said))
    } else {
        (old.has_critical, old.has_priorities)
    };
    let view = ConfigView {
        index,
        routes: routes.now,
        providers: providers.now,
        services: services.now,
        tenants: tenants.now,
        consumers: consumers.now,
        limits: limits.now,
        prices: prices.now,
        certificates: certificates.now,
        callers,
        keys,
        certificate_keys,
        upstream_keys,
        limit_index,
        has_critical,
        has_priorities,
        other_key,
    };
    (view, problems)
}

/// Whether some are critical, and whether some are not standard.
fn priorities(said: impl Iterator<Item = Priority>) -> (bool, bool) {
    said.fold((false, false), |(critical, any), it| {
        (critical || it == Priority::Critical, any || it != Priority::Standard)
    })
}

struct Compiled<T> {
    now: BTreeMap<Name, Arc<T>>,
    changed: bool,
}

/// Compiles what is new or has another version; takes the rest from before.
fn kind<T: Compile>(catalog: &Catalog, old: &BTreeMap<Name, Arc<T>>, problems: &mut Problems) -> Compiled<T> {
    let mut before = old.iter().peekable();
    let mut kept = 0;
    let mut now = Vec::with_capacity(catalog.kind(T::KIND).len());
    for (name, stored) in catalog.kind(T::KIND) {
        while before.next_if(|(known, _)| *known < name).is_some() {}
        if let Some((name, same)) = before.next_if(|(known, it)| *known == name && it.version() == stored.version) {
            kept += 1;
            now.push((name.clone(), Arc::clone(same)));
            continue;
        }
        match check(&stored.resource) {
            Ok(checked) => now.extend(T::of(checked).map(|resource| (name.clone(), resource))),
            Err(wrong) => problems.extend(wrong),
        }
    }
    let changed = kept != now.len() || kept != old.len();
    Compiled { now: now.into_iter().collect(), changed }
}

trait Compile: Sized {
    const KIND: Kind;

    fn version(&self) -> LogIndex;

    fn of(checked: Checked) -> Option<Arc<Self>>;
}

macro_rules! compile {
    ($($kind:ident),*) => {$(
        impl Compile for $kind {
            const KIND: Kind = Kind::$kind;

            fn version(&self) -> LogIndex {
                self.version
            }

            fn of(checked: Checked) -> Option<Arc<Self>> {
                match checked {
                    Checked::$kind(resource) => Some(resource),
                    _ => None,
                }
            }
        }
    )*};
}

compile!(Service, Provider, Route, Tenant, Consumer, Limit, Price, Certificate);
