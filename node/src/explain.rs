//! `limits explain`: which limits a consumer's calls meet, and what each says now.
//!
//! What a call brings along is not known here: its address, headers, cookies, query, and without `--model` its model. A limit
//! that asks for one of these is listed with what it depends on; where that is a part of its account, the account can't be
//! named, and nothing is said of what it holds.

use std::{collections::BTreeMap, sync::Arc};

use tollgate_admin::backplane::ExplainQuery;
use tollgate_model::{
    BillingMode, Catalog, Checked, Consumer, Currency, KeyPart, Kind, Limit, Mode, Name, Route, RouteAction, Subject,
    Timestamp, UpstreamRef, catalog::missing, check,
};
use tollgate_proto::admin::v1::LimitVerdict;
use tollgate_quota::ledger::AccountView;

use crate::{accounts, state::Shared};

/// Stands for a part of an account that is not known.
const UNKNOWN: &str = "?";
/// Routes that are named one by one.
const MAX_ROUTES: usize = 5;

/// Every limit that a call could meet, in order of name and account.
///
/// # Errors
/// What there is not.
pub(crate) fn explain(state: &Shared, now: Timestamp, query: &ExplainQuery) -> Result<Vec<LimitVerdict>, String> {
    let catalog = state.config().borrow().catalog.clone();
    let consumer = consumer(&catalog, &query.consumer)?;
    let routes = routes(&catalog, &consumer, query.route.as_deref())?;
    let currency = currency(&catalog, &consumer.tenant);
    let mut verdicts = Vec::new();
    for limit in limits(&catalog) {
        let mut met: BTreeMap<Vec<Option<String>>, Vec<&str>> = BTreeMap::new();
        for route in &routes {
            let subject = Subject { currency, ..subject(&consumer, route, query.model.as_deref()) };
            if could_concern(&limit, &subject, route) {
                met.entry(key(&limit, &subject)).or_default().push(&route.name);
            }
        }
        for (key, on) in met {
            let route = if on.len() == routes.len() { String::new() } else { named(&on) };
            verdicts.extend(verdict(state, now, &limit, &key, query).map(|it| LimitVerdict { route, ..it }));
        }
    }
    Ok(verdicts)
}

fn consumer(catalog: &Catalog, name: &str) -> Result<Arc<Consumer>, String> {
    let consumers = catalog.kind(Kind::Consumer);
    match consumers.get(name).map(|stored| check(&stored.resource)) {
        Some(Ok(Checked::Consumer(consumer))) => Ok(consumer),
        _ => Err(missing(Kind::Consumer, name, consumers.keys().map(Name::as_str))),
    }
}

/// What its calls of models are billed in.
fn currency(catalog: &Catalog, tenant: &str) -> Option<Currency> {
    match check(&catalog.get(Kind::Tenant, tenant)?.resource) {
        Ok(Checked::Tenant(tenant)) => tenant.billing.currency.filter(|_| tenant.billing.mode != BillingMode::None),
        _ => None,
    }
}

/// The routes that the consumer may call.
fn routes(catalog: &Catalog, consumer: &Consumer, only: Option<&str>) -> Result<Vec<Arc<Route>>, String> {
    let all = catalog.kind(Kind::Route);
    if let Some(name) = only.filter(|name| !all.contains_key(*name)) {
        return Err(missing(Kind::Route, name, all.keys().map(Name::as_str)));
    }
    let wanted = all.iter().filter(|(name, _)| only.is_none_or(|only| only == name.as_str()));
    let routes = wanted.filter_map(|(_, stored)| match check(&stored.resource) {
        Ok(Checked::Route(route)) => Some(route),
        _ => None,
    });
    Ok(routes.filter(|route| route.auth.allows(&consumer.tenant, &consumer.name)).collect())
}

fn limits(catalog: &Catalog) -> impl Iterator<Item = Arc<Limit>> {
    catalog.kind(Kind::Limit).values().filter_map(|stored| match check(&stored.resource) {
        Ok(Checked::Limit(limit)) => Some(limit),
        _ => None,
    })
}

fn subject<'a>(consumer: &'a Consumer, route: &'a Route, model: Option<&'a str>) -> Subject<'a> {
    Subject {
        tenant: Some(&consumer.tenant),
        consumer: Some(&consumer.name),
        model,
        provider: only_provider(route),
        ..Subject::of_route(&route.name)
    }
}

/// The provider that is tried first, where there is no choice.
fn only_provider(route: &Route) -> Option<&str> {
    match &route.action {
        RouteAction::Forward { backends, .. } => match backends.as_slice() {
            [backend] => match &backend.upstream {
                UpstreamRef::Provider(name) => Some(name),
                UpstreamRef::Service(_) => None,
            },
            _ => None,
        },
        RouteAction::Redirect { .. } | RouteAction::Respond { .. } => None,
    }
}

/// Whether some call like this meets the limit, whatever it brings along.
fn could_concern(limit: &Limit, subject: &Subject<'_>, route: &Route) -> bool {
    let among = |names: &[Name], name: Option<&str>| {
        names.is_empty() || name.is_some_and(|name| names.iter().any(|known| known.as_str() == name))
    };
    let model = |asked: &str| limit.models.iter().any(|glob| glob.matches(asked));
    among(&limit.tenants, subject.tenant)
        && among(&limit.consumers, subject.consumer)
        && among(&limit.routes, Some(subject.route))
        && (limit.models.is_empty() || route.is_ai() && subject.model.is_none_or(model))
        && (!limit.per.contains(&KeyPart::Provider) || route.is_ai())
        && limit.unit.currency().is_none_or(|currency| route.is_ai() && subject.currency == Some(currency))
}

/// The values of the account, as far as they are known.
fn key(limit: &Limit, subject: &Subject<'_>) -> Vec<Option<String>> {
    let known = |part: &KeyPart| match part {
        KeyPart::Tenant | KeyPart::Consumer | KeyPart::Route => true,
        KeyPart::Model => subject.model.is_some(),
        KeyPart::Provider => subject.provider.is_some(),
        KeyPart::Ip | KeyPart::Header(_) | KeyPart::Cookie(_) | KeyPart::Query(_) => false,
    };
    limit.per.iter().zip(limit.key(subject)).map(|(part, value)| known(part).then_some(value)).collect()
}

fn named(routes: &[&str]) -> String {
    let first = routes[..routes.len().min(MAX_ROUTES)].join(", ");
    match routes.len().saturating_sub(MAX_ROUTES) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

fn verdict(
    state: &Shared,
    now: Timestamp,
    limit: &Limit,
    key: &[Option<String>],
    query: &ExplainQuery,
) -> Option<LimitVerdict> {
    let whole: Option<Vec<String>> = key.iter().cloned().collect();
    let mut account = state.ledger(|ledger| ledger.account(now, &limit.name, whole.as_deref()))?;
    if whole.is_none() {
        let values = key.iter().map(|value| value.as_deref().unwrap_or(UNKNOWN));
        let values: Vec<String> = values.map(str::to_owned).collect();
        // Whose it is, is known, and so by what clock it turns.
        if let Some(window) = state.ledger(|ledger| ledger.window(now, &limit.name, &values)) {
            (account.window_start, account.window_end) = window;
        }
        account.account = values.join("/");
    }
    let wait = || {
        let wait =
            state.ledger(|ledger| ledger.told_to_wait(now, &limit.name, whole.as_deref().unwrap_or_default(), 1));
        wait.map_or(0, |wait| u64::try_from(wait.as_micros().div_ceil(1_000)).unwrap_or(u64::MAX))
    };
    let (verdict, retry_after_ms) = if whole.is_some() { says(&account, limit.mode, wait) } else { ("unknown", None) };
    Some(LimitVerdict {
        account: Some(accounts::shown(account)),
        route: String::new(),
        verdict: verdict.to_owned(),
        retry_after_ms,
        depends_on: depends_on(limit, key, query.model.is_some()),
    })
}

/// What it would say to a request that needs one unit, and how long it is told to `wait`. What nodes have in hand is as good as
/// free.
fn says(account: &AccountView, mode: Mode, wait: impl FnOnce() -> u64) -> (&'static str, Option<u64>) {
    let left = account.free + i128::from(account.leased) - i128::from(account.overrun);
    match mode {
        _ if left > 0 => ("admits", None),
        // It never has room: no window helps.
        Mode::Enforce if account.capacity == 0 => ("refuses", None),
        Mode::Enforce => ("refuses", Some(wait())),
        Mode::Shadow => ("wouldRefuse", None),
    }
}

fn depends_on(limit: &Limit, key: &[Option<String>], knows_model: bool) -> Vec<String> {
    let parts = limit.per.iter().zip(key).filter(|(_, value)| value.is_none()).map(|(part, _)| part.to_string());
    let models: Vec<&str> = limit.models.iter().map(tollgate_model::Glob::as_str).collect();
    let model = (!models.is_empty() && !knows_model).then(|| format!("model: {}", models.join(" | ")));
    let cidrs: Vec<String> = limit.cidrs.iter().map(ToString::to_string).collect();
    let cidr = (!cidrs.is_empty()).then(|| format!("cidr: {}", cidrs.join(" | ")));
    model.into_iter().chain(cidr).chain(parts).collect()
}

#[cfg(test)]
mod tests;
