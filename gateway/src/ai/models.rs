//! `/v1/models`: the models that a caller of this route can ask for.
//!
//! The union of the providers' own lists (asked for, and kept for a while), the plain names in their `models`, and
//! those in prices for them; of these, what the route takes.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use http::{HeaderValue, Method, Request, Response, header};
use http_body_util::{BodyExt as _, Limited};
use tokio::time::timeout;
use tollgate_llm::{Dialect, Operation, model_answer, models_answer};
use tollgate_model::{Glob, LogIndex, Name, RouteAction, UpstreamRef};
use tracing::debug;

use super::provider;
use crate::{
    balance::{Draw, Tried},
    body::{ResponseBody, UpstreamRequestBody},
    error::Rejection,
    exchange::Exchange,
    gateway::Shared,
    routing::decode,
    upstream::ProviderUpstream,
};

/// A provider's list is asked for again after this, also when it could not be had.
const KEPT: Duration = Duration::from_secs(300);
/// A provider is waited for this long; without its list the answer is the rest.
const PATIENCE: Duration = Duration::from_secs(3);
/// OpenAI's own list is some 10 KB.
const MAX_LIST_BYTES: usize = 4 * 1024 * 1024;
/// Providers whose lists are kept.
const MAX_KEPT: u64 = 1_000;

/// The providers' own lists, kept for a while.
#[derive(Debug)]
pub(crate) struct ModelLists(moka::sync::Cache<(Name, LogIndex), Arc<Vec<String>>>);

impl ModelLists {
    pub(crate) fn new() -> Self {
        Self(moka::sync::Cache::builder().max_capacity(MAX_KEPT).time_to_live(KEPT).build())
    }

    async fn of(&self, shared: &Shared, provider: &ProviderUpstream) -> Arc<Vec<String>> {
        let key = (provider.provider.name.clone(), provider.provider.version);
        if let Some(known) = self.0.get(&key) {
            return known;
        }
        let fetched = timeout(PATIENCE, fetch(shared, provider)).await.ok().flatten();
        if fetched.is_none() {
            debug!(provider = %provider.provider.name, "the provider's list of models could not be had");
        }
        let list = Arc::new(fetched.unwrap_or_default());
        self.0.insert(key, Arc::clone(&list));
        list
    }
}

pub(super) async fn list(exchange: &Exchange) -> Result<Response<ResponseBody>, Rejection> {
    let names = names(exchange).await;
    Ok(json(models_answer(dialect(exchange), names.iter().map(String::as_str))))
}

pub(super) async fn one(exchange: &Exchange) -> Result<Response<ResponseBody>, Rejection> {
    let asked = Operation::model_in_path(&exchange.target.path).map(decode).unwrap_or_default();
    if names(exchange).await.contains(&*asked) {
        Ok(json(model_answer(dialect(exchange), &asked)))
    } else {
        Err(Rejection::model_not_found(&asked))
    }
}

fn dialect(exchange: &Exchange) -> Dialect {
    if exchange.head.headers.contains_key("anthropic-version") { Dialect::Anthropic } else { Dialect::OpenAi }
}

fn json(body: bytes::Bytes) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::full(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Everything that the route's providers have and the route takes, sorted.
async fn names(exchange: &Exchange) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for provider in providers(exchange) {
        let own = exchange.shared.model_lists.of(&exchange.shared, &provider).await;
        names.extend(own.iter().cloned());
        names.extend(provider.provider.models.plain_names().map(str::to_owned));
        names.extend(priced(exchange, &provider.provider.name).map(str::to_owned));
    }
    let taken = |name: &String| {
        exchange
            .plan
            .route
            .matches
            .iter()
            .any(|it| it.models.is_empty() || it.models.iter().any(|glob| glob.matches(name)))
    };
    names.retain(taken);
    names
}

fn providers(exchange: &Exchange) -> Vec<Arc<ProviderUpstream>> {
    let RouteAction::Forward { backends, fallbacks } = &exchange.plan.route.action else { return Vec::new() };
    let upstreams = backends.iter().map(|it| &it.upstream).chain(fallbacks.iter().map(|it| &it.upstream));
    let names: BTreeSet<&Name> = upstreams
        .filter_map(|upstream| match upstream {
            UpstreamRef::Provider(name) => Some(name),
            UpstreamRef::Service(_) => None,
        })
        .collect();
    names.into_iter().filter_map(|name| exchange.compiled.providers.get(name).cloned()).collect()
}

fn priced<'a>(exchange: &'a Exchange, provider: &'a str) -> impl Iterator<Item = &'a str> {
    let prices = exchange.compiled.view.prices.values();
    let prices =
        prices.filter(move |price| price.providers.is_empty() || price.providers.iter().any(|it| *it == *provider));
    prices.flat_map(|price| &price.models).filter(|glob| glob.is_plain()).map(Glob::as_str)
}

/// Both dialects list models as `{"data": [{"id": …}, …]}`.
async fn fetch(shared: &Shared, provider: &ProviderUpstream) -> Option<Vec<String>> {
    let mut request = Request::new(UpstreamRequestBody::Whole(None));
    *request.method_mut() = Method::GET;
    let draw = Draw { hash: None, random: rand::random() };
    let taken = provider.endpoints.take(&draw, &mut Tried::default()).ok()?;
    *request.uri_mut() = taken.uri(Operation::Models.provider_path())?;
    *request.headers_mut() = provider::plain_headers(provider, &shared.hop);
    let place = shared.pool.place(&provider.wire, request.uri(), taken.at());
    let answer = shared.pool.send(place, request).await.ok()?;
    if !answer.status().is_success() {
        return None;
    }
    let body = Limited::new(answer.into_body(), MAX_LIST_BYTES).collect().await.ok()?.to_bytes();
    let list: serde_json::Value = serde_json::from_slice(&body).ok()?;
    let ids = list.get("data")?.as_array()?.iter().filter_map(|model| model.get("id")?.as_str());
    Some(ids.map(str::to_owned).collect())
}
