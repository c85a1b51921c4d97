//! Services and providers.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use tollgate_proto::v1;

use super::{
    context::{
        Context,
        Value::{Is, NotYet},
    },
    spread, text, upstream_tls,
};
use crate::{
    Checked, Endpoint, Field, Glob, Kind, Labels, ModelMap, Name, Problems, Protocol, Provider, ProviderKey,
    ProviderType, Service, Subset, secret,
};

/// No real key is as long; a whole file pasted by mistake is.
const MAX_KEY_BYTES: usize = 4096;

/// So that each still has a fair share of the tables that requests are spread by.
const MAX_ENDPOINTS: usize = 1_000;

/// Of an endpoint, and of a subset.
const MAX_LABELS: usize = 16;

/// As long as a model's name may be, here and in what callers ask for.
pub(super) const MAX_MODEL_BYTES: usize = 256;

pub(super) fn service(raw: &v1::Service) -> Result<Checked, Problems> {
    let mut context = Context::new(Kind::Service, &raw.api_version, &raw.kind, raw.metadata.as_ref());
    let none = v1::ServiceSpec::default();
    let given = raw.spec.as_ref().unwrap_or(&none);
    let spec = Field::root("spec");
    let words = [
        ("http", Is(Protocol::Http)),
        ("https", Is(Protocol::Https)),
        ("h2c", Is(Protocol::H2c)),
        ("h2", Is(Protocol::H2)),
        ("grpc", Is(Protocol::Grpc)),
    ];
    let protocol = context.word(&spec.field("protocol"), &given.protocol, &words).unwrap_or(Protocol::Http);
    let is_tls = matches!(protocol, Protocol::Https | Protocol::H2);
    let scheme = if is_tls { "https" } else { "http" };
    let mut endpoints = Vec::new();
    for (n, endpoint) in given.endpoints.iter().enumerate() {
        let (list, zone) = (spec.field("endpoints"), &endpoint.zone);
        let at = list.index(n);
        let url = required(&mut context, &at.field("address"), &endpoint.address)
            .and_then(|address| context.keep(&at.field("address"), text::address(address)))
            .and_then(|address| {
                context.keep(&at.field("address"), format!("{scheme}://{address}/").parse::<http::Uri>())
            });
        endpoints.extend(self::endpoint(&mut context, &at, url, (zone, endpoint.weight, &endpoint.labels)));
    }
    self::endpoints(&mut context, &spec.field("endpoints"), given.endpoints.len(), &endpoints);
    let tls = upstream_tls::tls(&mut context, &spec.field("tls"), given.tls.as_ref(), is_tls);
    let given = spread::Given {
        balancing: given.load_balancing.as_ref(),
        health_check: given.health_check.as_ref(),
        outliers: given.outlier_detection.as_ref(),
        breaker: given.circuit_breaker.as_ref(),
        zones: endpoints.iter().filter_map(|endpoint| endpoint.zone.as_deref()).collect(),
        http2: matches!(protocol, Protocol::Https | Protocol::H2c | Protocol::H2 | Protocol::Grpc),
    };
    let spread = given.check(&mut context, &spec);
    let (name, version) = (context.name.clone(), context.version);
    context.finish(Checked::Service(Arc::new(Service { name, version, protocol, endpoints, tls, spread })))
}

pub(super) fn provider(raw: &v1::Provider) -> Result<Checked, Problems> {
    let mut context = Context::new(Kind::Provider, &raw.api_version, &raw.kind, raw.metadata.as_ref());
    let none = v1::ProviderSpec::default();
    let given = raw.spec.as_ref().unwrap_or(&none);
    let spec = Field::root("spec");
    let words = [
        ("openai", Is(ProviderType::OpenAi)),
        ("anthropic", Is(ProviderType::Anthropic)),
        ("azureOpenai", NotYet),
        ("gemini", NotYet),
        ("bedrock", NotYet),
        ("qwen", NotYet),
        ("deepseek", NotYet),
    ];
    let dialect = context.required_word(&spec.field("type"), &given.r#type, &words).unwrap_or(ProviderType::OpenAi);
    let mut endpoints = Vec::new();
    for (n, endpoint) in given.endpoints.iter().enumerate() {
        let (list, zone) = (spec.field("endpoints"), &endpoint.zone);
        let at = list.index(n);
        let url = required(&mut context, &at.field("url"), &endpoint.url)
            .and_then(|url| context.keep(&at.field("url"), text::base_url(url)));
        endpoints.extend(self::endpoint(&mut context, &at, url, (zone, endpoint.weight, &endpoint.labels)));
    }
    self::endpoints(&mut context, &spec.field("endpoints"), given.endpoints.len(), &endpoints);
    let (keys, key_weights) = keys(&mut context, &spec.field("keys"), &given.keys);
    let models = models(&mut context, &spec.field("models"), &given.models);
    let is_tls = endpoints.iter().any(|endpoint| endpoint.url.scheme_str() == Some("https"));
    let tls = upstream_tls::tls(&mut context, &spec.field("tls"), given.tls.as_ref(), is_tls || endpoints.is_empty());
    let key_failover = &given.key_failover;
    let key_failover =
        key_failover.as_ref().map(|given| spread::key_failover(&mut context, &spec.field("keyFailover"), given));
    let given = spread::Given {
        balancing: given.load_balancing.as_ref(),
        health_check: given.health_check.as_ref(),
        outliers: given.outlier_detection.as_ref(),
        breaker: given.circuit_breaker.as_ref(),
        zones: endpoints.iter().filter_map(|endpoint| endpoint.zone.as_deref()).collect(),
        http2: endpoints.iter().all(|endpoint| endpoint.url.scheme_str() == Some("https")),
    };
    let spread = given.check(&mut context, &spec);
    let (name, version) = (context.name.clone(), context.version);
    let provider = Provider { name, version, dialect, endpoints, tls, spread, keys, key_weights, key_failover, models };
    context.finish(Checked::Provider(Arc::new(provider)))
}

fn required<'a>(context: &mut Context, at: &Field<'_>, text: &'a str) -> Option<&'a str> {
    if text.is_empty() {
        context.add(at, "is missing");
        return None;
    }
    Some(text)
}

fn endpoint(
    context: &mut Context,
    at: &Field<'_>,
    url: Option<http::Uri>,
    (zone, weight, labels): (&str, Option<u32>, &BTreeMap<String, String>),
) -> Option<Endpoint> {
    let weight = context.weight(&at.field("weight"), weight);
    let zone = if zone.is_empty() { None } else { context.name(&at.field("zone"), zone) };
    let labels = self::labels(context, &at.field("labels"), labels);
    Some(Endpoint { url: url?, zone, weight, labels })
}

fn labels(context: &mut Context, at: &Field<'_>, given: &BTreeMap<String, String>) -> Labels {
    if given.len() > MAX_LABELS {
        context.add(at, format!("has {} labels, more than {MAX_LABELS}", given.len()));
    }
    context.labels(given, at);
    Arc::new(given.clone())
}

/// The part of an upstream's endpoints that a route means.
pub(super) fn subset(
    context: &mut Context,
    at: &Field<'_>,
    given: &BTreeMap<String, String>,
    fallback: &str,
) -> Option<Subset> {
    let or_any = context.word(&at.field("subsetFallback"), fallback, &[("none", Is(false)), ("any", Is(true))]);
    if given.is_empty() {
        if !fallback.is_empty() {
            context.add(&at.field("subsetFallback"), "is given without `subset`: all endpoints are meant");
        }
        return None;
    }
    let labels = labels(context, &at.field("subset"), given);
    Some(Subset { labels, or_any: or_any.unwrap_or(false) })
}

/// What must hold of all endpoints together.
fn endpoints(context: &mut Context, at: &Field<'_>, given: usize, endpoints: &[Endpoint]) {
    if given == 0 {
        context.add(at, "is missing: an upstream has at least one endpoint");
    }
    if given > MAX_ENDPOINTS {
        context.add(at, format!("has {given} endpoints, more than {MAX_ENDPOINTS}: put them into several upstreams"));
    }
    let urls: Vec<String> = endpoints.iter().map(|endpoint| endpoint.url.to_string()).collect();
    if urls.len() == given {
        context.once(at, &urls);
        if given > 0 && endpoints.iter().all(|endpoint| endpoint.weight == 0) {
            context.add(at, "every weight is 0, so no request could be sent anywhere");
        }
    }
}

/// And their weights.
fn keys(context: &mut Context, at: &Field<'_>, given: &[v1::ProviderKey]) -> (Vec<ProviderKey>, Vec<u32>) {
    let mut keys = Vec::new();
    for (n, raw) in given.iter().enumerate() {
        let at = at.index(n);
        let weight = context.weight(&at.field("weight"), raw.weight);
        keys.extend(provider_key(context, &at, raw).map(|key| (key, weight)));
    }
    if !given.is_empty() && given.iter().all(|key| key.weight == Some(0)) {
        context.add(at, "every weight is 0, so no request could be sent with any of them");
    }
    keys.into_iter().unzip()
}

pub(super) fn provider_key(context: &mut Context, at: &Field<'_>, key: &v1::ProviderKey) -> Option<ProviderKey> {
    let place = key_place(context, at, key);
    if !key.value.is_empty() {
        context.keep(&at.field("value"), text::visible(&key.value, MAX_KEY_BYTES));
    }
    place
}

/// Where a key is that is not given itself.
pub(super) fn key_place(context: &mut Context, at: &Field<'_>, key: &v1::ProviderKey) -> Option<ProviderKey> {
    let forms = [&key.value, &key.env, &key.file, &key.sealed];
    if forms.iter().filter(|form| !form.is_empty()).count() != 1 {
        context.add(at, "must have exactly one of `value`, `env` and `file`");
        return None;
    }
    if !key.env.is_empty() {
        let plain =
            key.env.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && !key.env.as_bytes()[0].is_ascii_digit();
        if !plain {
            // Not shown: a key itself is easily written here.
            context.add(&at.field("env"), "is no name of an environment variable such as OPENAI_API_KEY");
        }
        return Some(ProviderKey::Env(key.env.clone()));
    }
    if !key.file.is_empty() {
        if !key.file.starts_with('/') || key.file.contains('\0') {
            context.add(&at.field("file"), "must be an absolute path, as every node reads it from where it runs");
        }
        return Some(ProviderKey::File(PathBuf::from(&key.file)));
    }
    if !key.sealed.is_empty() {
        context.keep(&at.field("sealed"), secret::parse_sealed(&key.sealed).map(|_| ()));
        return Some(ProviderKey::Sealed(key.sealed.clone()));
    }
    None
}

fn models(context: &mut Context, at: &Field<'_>, given: &std::collections::BTreeMap<String, String>) -> ModelMap {
    for (asked, own) in given {
        if let Err(message) = text::visible(asked, MAX_MODEL_BYTES) {
            context.add(&at.key(asked), format!("the model asked for {message}"));
        }
        if own.contains('*') {
            context.add(&at.key(asked), "`*` stands for something only in what is asked for");
        }
        if let Err(message) = text::visible(own, MAX_MODEL_BYTES) {
            context.add(&at.key(asked), format!("the provider's own name {message}"));
        }
    }
    ModelMap::new(given.iter().map(|(asked, own)| (Glob::new(asked), own.clone())))
}

/// A model that is served in place of what was asked for.
pub(super) fn served_model(context: &mut Context, at: &Field<'_>, model: &str, provider: bool) -> Option<Name> {
    if model.is_empty() {
        return None;
    }
    if !provider {
        context.add(at, "is only for providers");
    }
    context.keep(at, text::visible(model, MAX_MODEL_BYTES));
    Some(Name::new(model))
}

/// Patterns for the model asked for.
pub(super) fn globs(context: &mut Context, at: &Field<'_>, texts: &[String]) -> Vec<Glob> {
    context.once(at, texts);
    for (n, text) in texts.iter().enumerate() {
        context.keep(&at.index(n), text::visible(text, MAX_MODEL_BYTES));
    }
    texts.iter().map(|text| Glob::new(text)).collect()
}
