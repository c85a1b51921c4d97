//! A configuration, and what the gateway derives from it once rather than with every request.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use http::HeaderValue;
use tollgate_billing::PriceBook;
use tollgate_model::{ConfigView, Kind, Name, Provider, ProviderKey, ProviderType, RouteAction};
use tracing::warn;

use crate::{
    metrics::{CallMeters, Label, OTHER},
    routing::{Plan, Table},
    tls::Hosts,
    upstream::{Endpoints, GivenKey, Place, Pool, ProviderUpstream, ServiceUpstream},
};

/// One configuration as exchanges read it. What did not change since the one before is shared with it, so that turns
/// go on where they were.
#[derive(Debug, Clone)]
pub(crate) struct Compiled {
    pub(crate) view: Arc<ConfigView>,
    /// With all versions that the view's prices ever had: what calls under the view are billed by.
    pub(crate) prices: Arc<PriceBook>,
    pub(crate) table: Arc<Table>,
    pub(crate) providers: HashMap<Name, Arc<ProviderUpstream>>,
    pub(crate) services: HashMap<Name, Arc<ServiceUpstream>>,
    /// What clients over TLS are served.
    pub(crate) certificates: Arc<Hosts>,
    plans: Arc<HashMap<Name, Arc<Plan>>>,
    /// The models that metrics may name.
    models: Arc<HashSet<Name>>,
    /// What they call any other.
    other: Name,
    /// What calls under it are measured by.
    pub(crate) meters: Arc<CallMeters>,
}

impl Compiled {
    /// Of a node at `place`, whose upstreams are reached by `pool`.
    pub(crate) fn new(
        view: Arc<ConfigView>,
        prices: Arc<PriceBook>,
        (place, pool): (Place<'_>, &Pool),
        previous: Option<&Self>,
    ) -> Self {
        let (plans, table) = routes(&view, previous);
        let providers = view.providers.values();
        let providers = providers.map(|it| (it.name.clone(), provider(&view, it, (place, pool), previous))).collect();
        let services = view.services.values().map(|service| {
            let known = previous.and_then(|previous| previous.services.get(&service.name));
            let before = known.map(|known| &**known);
            let wire = ServiceUpstream::wire(pool, service, view.shown_to(Kind::Service, &service.name), before);
            let same = known.filter(|known| Arc::ptr_eq(&known.service, service) && known.wire.is(&wire)).cloned();
            let new = || Arc::new(ServiceUpstream::new(Arc::clone(service), wire, place, before));
            (service.name.clone(), same.unwrap_or_else(new))
        });
        let services = services.collect();
        let (plans, models) = (Arc::new(plans), Arc::new(models(&view)));
        let certificates = Arc::new(Hosts::new(&view, previous.map(|previous| &*previous.certificates)));
        let (other, meters) = (Name::new(OTHER), Arc::default());
        Self { certificates, table, providers, services, plans, models, other, meters, prices, view }
    }

    /// The same, with one upstream as its names are known now. None where it is not there.
    pub(crate) fn renewed(&self, kind: Kind, name: &Name, place: Place<'_>) -> Option<Self> {
        let mut renewed = self.clone();
        if kind == Kind::Provider {
            let provider = renewed.providers.get_mut(name)?;
            *provider = Arc::new(provider.renewed(place));
        } else {
            let service = renewed.services.get_mut(name)?;
            *service = Arc::new(service.renewed(place));
        }
        Some(renewed)
    }

    /// Every upstream's kind and name, with its endpoints.
    pub(crate) fn upstreams(&self) -> impl Iterator<Item = ((Kind, Name), &Arc<Endpoints>)> {
        let providers = self.providers.iter().map(|(name, it)| ((Kind::Provider, name.clone()), &it.endpoints));
        providers.chain(self.services.iter().map(|(name, it)| ((Kind::Service, name.clone()), &it.endpoints)))
    }

    /// Those of every upstream.
    pub(crate) fn endpoints(&self) -> impl Iterator<Item = &Endpoints> {
        let providers = self.providers.values().map(|it| &*it.endpoints);
        providers.chain(self.services.values().map(|it| &*it.endpoints))
    }

    /// A model's name as a label: itself, if the configuration names it.
    pub(crate) fn model_label(&self, model: &str) -> Label {
        self.models.get(model).unwrap_or(&self.other).into()
    }
}

fn routes(view: &ConfigView, previous: Option<&Compiled>) -> (HashMap<Name, Arc<Plan>>, Arc<Table>) {
    let known = |name: &Name| previous.and_then(|previous| previous.plans.get(name));
    let mut kept = 0;
    let plans: HashMap<Name, Arc<Plan>> = view
        .routes
        .iter()
        .map(|(name, route)| match known(name).filter(|plan| Arc::ptr_eq(&plan.route, route)) {
            Some(plan) => {
                kept += 1;
                (name.clone(), Arc::clone(plan))
            }
            None => (name.clone(), Arc::new(Plan::new(Arc::clone(route)))),
        })
        .collect();
    let table = match previous {
        Some(previous) if kept == plans.len() && kept == previous.plans.len() => Arc::clone(&previous.table),
        _ => Arc::new(Table::new(plans.values())),
    };
    (plans, table)
}

fn provider(
    view: &ConfigView,
    provider: &Arc<Provider>,
    (place, pool): (Place<'_>, &Pool),
    previous: Option<&Compiled>,
) -> Arc<ProviderUpstream> {
    let keys = (0..provider.keys.len()).filter_map(|n| key(view, provider, n)).collect::<Vec<_>>();
    let known = previous.and_then(|previous| previous.providers.get(&provider.name));
    let before = known.map(|known| &**known);
    let wire = ProviderUpstream::wire(pool, provider, view.shown_to(Kind::Provider, &provider.name), before);
    let is_same = |known: &&Arc<ProviderUpstream>| {
        Arc::ptr_eq(&known.provider, provider) && known.keys.are(&keys) && known.wire.is(&wire)
    };
    match known.filter(is_same) {
        Some(known) => Arc::clone(known),
        None => Arc::new(ProviderUpstream::new(Arc::clone(provider), &keys, wire, place, before)),
    }
}

fn key(view: &ConfigView, provider: &Provider, n: usize) -> Option<GivenKey> {
    let key = view.provider_key(&provider.name, n)?;
    let text = match provider.dialect {
        ProviderType::OpenAi => format!("Bearer {}", key.expose()),
        ProviderType::Anthropic => key.expose().clone(),
    };
    let Ok(mut value) = HeaderValue::try_from(text) else {
        warn!(provider = %provider.name, n, "a provider's key can't be sent in a header, so it is not used");
        return None;
    };
    value.set_sensitive(true);
    let is_everywhere = matches!(provider.keys.get(n), Some(ProviderKey::Sealed(_)));
    let place = u32::try_from(n).ok().filter(|_| is_everywhere);
    Some(GivenKey { value, weight: provider.key_weights.get(n).copied().unwrap_or(1), place })
}

fn models(view: &ConfigView) -> HashSet<Name> {
    let mapped = view.providers.values().flat_map(|provider| provider.models.plain_names());
    let priced = view.prices.values().flat_map(|price| &price.models);
    let priced = priced.filter(|glob| glob.is_plain()).map(tollgate_model::Glob::as_str);
    let served = view.routes.values().flat_map(|route| match &route.action {
        RouteAction::Forward { backends, fallbacks } => {
            let models = backends.iter().map(|it| &it.model).chain(fallbacks.iter().map(|it| &it.model));
            models.flatten().map(Name::as_str).collect::<Vec<_>>()
        }
        RouteAction::Redirect { .. } | RouteAction::Respond { .. } => Vec::new(),
    });
    let resolved = view.providers.values().flat_map(|provider| {
        let names = provider.models.plain_names();
        names.map(|name| provider.models.resolve(name).into_owned()).collect::<Vec<_>>()
    });
    let known = mapped.chain(priced).chain(served).map(Name::new);
    known.chain(resolved.map(|model| Name::new(&model))).collect()
}
