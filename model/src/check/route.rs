//! Routes: what happens to a request that matched.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use tollgate_proto::v1;

use super::{
    context::{
        Context, Value,
        Value::{Is, NotYet},
    },
    rewrite::{self, Way},
    route_match, traffic as traffic_of,
    upstream::{served_model, subset},
};
use crate::{
    Auth, Backend, Checked, FailureSet, Fallback, Field, Hedge, Kind, Priority, Problems, Retries, Route, RouteAction,
    RouteMatch, Timeouts, TokenPolicy, Traffic, UpstreamRef, When, nearest::hint,
};

/// Long enough for the slowest answer of a model, short enough to notice what hangs.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);

/// Longer than providers think between two events.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// The contract's default: images as parts of a request fit.
const BODY_LIMIT_BYTES: u64 = 10 << 20;

/// The contract's default, and what most models give at the most.
const DEFAULT_OUTPUT_TOKENS: u64 = 4096;

/// More than that an answer that is late is not worth.
const MAX_HEDGES: u32 = 3;

/// More would only make what is overloaded worse.
const MAX_RETRIES: u32 = 10;

/// Of routes and consumers.
pub(super) const PRIORITIES: [(&str, Value<Priority>); 3] = [
    ("critical", Is(Priority::Critical)),
    ("standard", Is(Priority::Standard)),
    ("sheddable", Is(Priority::Sheddable)),
];

pub(super) fn route(raw: &v1::Route) -> Result<Checked, Problems> {
    let mut context = Context::new(Kind::Route, &raw.api_version, &raw.kind, raw.metadata.as_ref());
    let none = v1::RouteSpec::default();
    let given = raw.spec.as_ref().unwrap_or(&none);
    let spec = Field::root("spec");
    let ai = given.backends.iter().any(|backend| !backend.provider.is_empty());
    let hosts = route_match::hosts(&mut context, &spec.field("hosts"), &given.hosts);
    let matches = route_match::matches(&mut context, &spec.field("match"), &given.r#match, ai);
    let action = action(&mut context, &spec, given, &matches);
    let timeouts = timeouts(&mut context, &spec.field("timeouts"), given.timeouts.as_ref());
    let retries = retries(&mut context, &spec.field("retries"), given, (ai, &timeouts));
    let auth = auth(&mut context, &spec.field("auth"), given.auth.as_ref(), ai);
    let tokens = tokens(&mut context, &spec.field("tokens"), given.tokens.as_ref(), ai);
    let body_limit_bytes = context.size(&spec.field("bodyLimit"), &given.body_limit).unwrap_or(BODY_LIMIT_BYTES);
    context.word(&spec.field("onAbort"), &given.on_abort, &[("cut", Is(())), ("drain", NotYet)]);
    let priority = context.word(&spec.field("priority"), &given.priority, &PRIORITIES).unwrap_or_default();
    let traffic = traffic(&mut context, &spec, given, (ai, &matches, &timeouts));
    let (name, version) = (context.name.clone(), context.version);
    let checked = |action| Route {
        name,
        version,
        hosts,
        matches,
        action,
        timeouts,
        retries,
        auth,
        tokens,
        body_limit_bytes,
        priority,
        traffic,
    };
    let route = action.map(checked);
    context.finish(route).map(|route| Checked::Route(Arc::new(route.expect("a route without an action is a problem"))))
}

/// Exactly one thing is done; `None` only with a problem.
fn action(
    context: &mut Context,
    spec: &Field<'_>,
    given: &v1::RouteSpec,
    matches: &[RouteMatch],
) -> Option<RouteAction> {
    let forward = !given.backends.is_empty();
    if !forward && !given.fallbacks.is_empty() {
        context.add(&spec.field("fallbacks"), "need `backends`: they are tried when a backend has failed");
    }
    let given_actions = [forward, given.redirect.is_some(), given.response.is_some()];
    match given_actions.iter().filter(|given| **given).count() {
        0 => context.add(spec, "must have one of `backends`, `redirect` and `response`"),
        1 => {}
        _ => context.add(spec, "must have only one of `backends`, `redirect` and `response`"),
    }
    if forward {
        return Some(self::forward(context, spec, given));
    }
    if let Some(redirect) = &given.redirect {
        return Some(rewrite::redirect(context, &spec.field("redirect"), redirect, matches));
    }
    given.response.as_ref().map(|response| respond(context, &spec.field("response"), response))
}

fn forward(context: &mut Context, spec: &Field<'_>, given: &v1::RouteSpec) -> RouteAction {
    let (list, fallback_list) = (spec.field("backends"), spec.field("fallbacks"));
    let before = given.backends.len();
    let mut backends = Vec::new();
    for (n, raw) in given.backends.iter().enumerate() {
        let at = list.index(n);
        let (weight, when) = share(context, &at, raw);
        let model = served_model(context, &at.field("model"), &raw.model, raw.service.is_empty());
        let subset = subset(context, &at, &raw.subset, &raw.subset_fallback);
        let upstream = upstream(context, &at, &raw.provider, &raw.service);
        backends.extend(upstream.map(|upstream| Backend { upstream, weight, when, model, subset }));
    }
    let mut fallbacks = Vec::new();
    for (n, raw) in given.fallbacks.iter().enumerate() {
        let at = fallback_list.index(n);
        let on = failures(context, &at.field("on"), &raw.on);
        let model = served_model(context, &at.field("model"), &raw.model, raw.service.is_empty());
        let subset = subset(context, &at, &raw.subset, &raw.subset_fallback);
        let upstream = upstream(context, &at, &raw.provider, &raw.service);
        fallbacks.extend(upstream.map(|upstream| Fallback { upstream, model, subset, on }));
    }
    if backends.len() == before {
        if backends.iter().all(|backend| backend.when.is_some()) {
            context.add(&list, "every one has `when`, so other requests could not be sent anywhere: add one without");
        } else if backends.iter().all(|backend| backend.weight == 0) {
            context.add(&list, "every weight is 0, so no request could be sent anywhere");
        }
        twice(context, &list, &backends);
    }
    mixed(context, spec, &backends, &fallbacks);
    RouteAction::Forward { backends, fallbacks }
}

/// By what a backend gets its requests: its share, or those that it is for.
fn share(context: &mut Context, at: &Field<'_>, given: &v1::Backend) -> (u32, Option<Box<When>>) {
    let Some(when) = &given.when else { return (context.weight(&at.field("weight"), given.weight), None) };
    if given.weight.is_some() {
        context.add(&at.field("weight"), "is for backends without `when`: this one takes all that it is for");
    }
    (0, Some(Box::new(route_match::when(context, &at.field("when"), when))))
}

fn twice(context: &mut Context, at: &Field<'_>, backends: &[Backend]) {
    for (n, backend) in backends.iter().enumerate() {
        let same = |other: &Backend| {
            let meant = |it: &Backend| (it.upstream.clone(), it.model.clone(), it.subset.clone());
            other.when.is_none() && meant(other) == meant(backend)
        };
        if backend.when.is_none() && backends[..n].iter().any(same) {
            context.add(&at.index(n), "is there twice: add the weights up");
        }
    }
}

/// A request is either an AI request, read and translated, or passed on as it is.
fn mixed(context: &mut Context, spec: &Field<'_>, backends: &[Backend], fallbacks: &[Fallback]) {
    let upstreams = || backends.iter().map(|it| &it.upstream).chain(fallbacks.iter().map(|it| &it.upstream));
    let provider = |upstream: &UpstreamRef| matches!(upstream, UpstreamRef::Provider(_));
    if upstreams().any(provider) && !upstreams().all(provider) {
        context.add(&spec.field("backends"), "providers and services in one route are not supported yet");
    }
}

fn upstream(context: &mut Context, at: &Field<'_>, provider: &str, service: &str) -> Option<UpstreamRef> {
    match (provider, service) {
        ("", "") => {
            context.add(at, "must have `provider` or `service`");
            None
        }
        (provider, "") => context.name(&at.field("provider"), provider).map(UpstreamRef::Provider),
        ("", service) => context.name(&at.field("service"), service).map(UpstreamRef::Service),
        _ => {
            context.add(at, "must have only one of `provider` and `service`");
            None
        }
    }
}

fn failures(context: &mut Context, at: &Field<'_>, words: &[String]) -> FailureSet {
    const WORDS: [&str; 4] = ["connectFailure", "reset", "timeout", "5xx"];
    if words.is_empty() {
        context.add(at, "is missing: connectFailure | reset | timeout | 5xx | a status such as 429");
    }
    context.once(at, words);
    let mut set = FailureSet::default();
    for (n, word) in words.iter().enumerate() {
        match word.as_str() {
            "connectFailure" => set.connect = true,
            "reset" => set.reset = true,
            "timeout" => set.timeout = true,
            "5xx" => set.server_errors = true,
            other => match other.parse::<u16>() {
                Ok(status) if (400..600).contains(&status) && other.len() == 3 => set.statuses.push(status),
                Ok(_) => context.add(&at.index(n), format!("`{other}` is no failure: a status is 400 to 599")),
                Err(_) => {
                    let hint = hint(other, WORDS);
                    let all = "connectFailure | reset | timeout | 5xx | a status such as 429";
                    context.add(&at.index(n), format!("`{other}` is unknown{hint}: {all}"));
                }
            },
        }
    }
    set
}

fn respond(context: &mut Context, at: &Field<'_>, given: &v1::DirectResponse) -> RouteAction {
    /// These frame the message or belong to the connection: the server sets them itself.
    const FRAMING: [&str; 8] = [
        "connection",
        "content-length",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    let status = given.status.unwrap_or(200);
    if !(200..600).contains(&status) {
        context.add(&at.field("status"), format!("{status} is no final status: 200 to 599"));
    }
    if matches!(status, 204 | 205 | 304) && !given.body.is_empty() {
        context.add(&at.field("body"), format!("an answer with status {status} has no body"));
    }
    let mut headers = HeaderMap::new();
    let list = at.field("headers");
    for (name, value) in &given.headers {
        let at = list.key(name);
        let header = context.keep(&at, name.parse::<HeaderName>().map_err(|_| "is no header name"));
        let value = context.keep(&at, HeaderValue::from_str(value).map_err(|_| "is no header value"));
        let (Some(header), Some(value)) = (header, value) else { continue };
        if FRAMING.contains(&header.as_str()) {
            context.add(&at, "is set by the server itself");
        }
        if headers.insert(header, value).is_some() {
            context.add(&at, "is there twice, in other letters");
        }
    }
    let status = u16::try_from(status).unwrap_or(200);
    RouteAction::Respond { status, body: Bytes::from(given.body.clone()), headers }
}

/// What else is done to the route's traffic.
fn traffic(
    context: &mut Context,
    spec: &Field<'_>,
    given: &v1::RouteSpec,
    (ai, matches, timeouts): (bool, &[RouteMatch], &Timeouts),
) -> Option<Box<Traffic>> {
    let forward = !given.backends.is_empty();
    let rewrite = given.rewrite.as_ref().and_then(|given| {
        let at = spec.field("rewrite");
        if ai || !forward {
            context.add(&at, "is only for routes with services: a provider is asked under its own URL");
        }
        rewrite::rewrite(context, &at, given, matches)
    });
    if given.request_headers.is_some() && !forward {
        context.add(&spec.field("requestHeaders"), "needs `backends`: nothing else is sent the request");
    }
    let to = if ai { Way::ToProvider } else { Way::ToService };
    let traffic = Traffic {
        rewrite,
        request_headers: rewrite::header_edit(
            context,
            &spec.field("requestHeaders"),
            given.request_headers.as_ref(),
            to,
        ),
        response_headers: rewrite::header_edit(
            context,
            &spec.field("responseHeaders"),
            given.response_headers.as_ref(),
            Way::Back,
        ),
        ips: given.ips.as_ref().map(|given| traffic_of::ips(context, &spec.field("ips"), given)),
        cors: given.cors.as_ref().map(|given| traffic_of::cors(context, &spec.field("cors"), given)),
        faults: given
            .faults
            .as_ref()
            .map(|given| traffic_of::faults(context, &spec.field("faults"), given, timeouts.request)),
        sticky: given.sticky.as_ref().and_then(|sticky| {
            let shares = given.backends.iter().filter(|it| it.when.is_none() && it.weight != Some(0)).count();
            traffic_of::sticky(context, &spec.field("sticky"), sticky, shares)
        }),
        mirror: given.mirror.as_ref().and_then(|mirror| {
            let at = spec.field("mirror");
            if ai || !forward {
                context.add(&at, "is only for routes with services: calls of a provider are not copied yet");
            }
            traffic_of::mirror(context, &at, mirror)
        }),
    };
    (!traffic.is_empty()).then(|| Box::new(traffic))
}

fn timeouts(context: &mut Context, at: &Field<'_>, given: Option<&v1::Timeouts>) -> Timeouts {
    let none = v1::Timeouts::default();
    let given = given.unwrap_or(&none);
    let stream = context.duration(&at.field("request"), &given.request);
    let request = stream.unwrap_or(REQUEST_TIMEOUT);
    let first_byte = context.duration(&at.field("firstByte"), &given.first_byte);
    let idle = context.duration(&at.field("idle"), &given.idle).unwrap_or(IDLE_TIMEOUT);
    if first_byte.is_some_and(|first| first > request) {
        context.add(&at.field("firstByte"), "is longer than `request`, so it could never fire");
    }
    Timeouts { request, stream, first_byte, idle }
}

fn retries(
    context: &mut Context,
    at: &Field<'_>,
    route: &v1::RouteSpec,
    (ai, timeouts): (bool, &Timeouts),
) -> Option<Retries> {
    let given = route.retries.as_ref()?;
    if route.backends.is_empty() {
        context.add(at, "need `backends`: nothing is sent without one");
    }
    let hedge = given.hedge.as_ref().map(|given| hedge(context, &at.field("hedge"), given, (ai, timeouts)));
    if hedge.is_some() && given.on.is_empty() && given.attempts.is_none() {
        return Some(Retries { attempts: 0, on: FailureSet::default(), hedge });
    }
    let on = failures(context, &at.field("on"), &given.on);
    let attempts = given.attempts.unwrap_or(1);
    if !(1..=MAX_RETRIES).contains(&attempts) {
        context.add(&at.field("attempts"), format!("must be 1 to {MAX_RETRIES}; leave `retries` out for none"));
    }
    Some(Retries { attempts, on, hedge })
}

fn hedge(context: &mut Context, at: &Field<'_>, given: &v1::Hedge, (ai, timeouts): (bool, &Timeouts)) -> Hedge {
    if ai {
        context.add(at, "is only for routes with services: a provider would do, and bill, a call twice");
    }
    let after_at = at.field("after");
    if given.after.is_empty() {
        context.add(&after_at, "is missing: how long no answer has begun, such as 50ms");
    }
    let after = context.duration(&after_at, &given.after).unwrap_or(timeouts.request);
    if !given.after.is_empty() && after >= timeouts.first_byte.unwrap_or(timeouts.request) {
        context.add(&after_at, "is no shorter than an answer is waited for (`timeouts`), so it could never be over");
    }
    let max = given.max.unwrap_or(1);
    if !(1..=MAX_HEDGES).contains(&max) {
        context.add(&at.field("max"), format!("must be 1 to {MAX_HEDGES}; leave `hedge` out for none"));
    }
    Hedge { after, max }
}

fn auth(context: &mut Context, at: &Field<'_>, given: Option<&v1::Auth>, ai: bool) -> Auth {
    let required = given.and_then(|auth| auth.required).unwrap_or(ai);
    let none = v1::Allow::default();
    let allow = given.and_then(|auth| auth.allow.as_ref());
    let list = at.field("allow");
    if allow.is_some() && !required {
        context.add(&list, "means nothing where nobody must say who they are: set `required: true`");
    }
    let allow = allow.unwrap_or(&none);
    Auth {
        required,
        allow_tenants: context.names(&list.field("tenants"), &allow.tenants),
        allow_consumers: context.names(&list.field("consumers"), &allow.consumers),
    }
}

fn tokens(context: &mut Context, at: &Field<'_>, given: Option<&v1::TokenPolicy>, ai: bool) -> TokenPolicy {
    let (default, max) = given.map_or((None, None), |given| (given.default, given.max));
    if given.is_some() && !ai {
        context.add(at, "is only for routes with a provider");
    }
    if default == Some(0) {
        context.add(&at.field("default"), "must be greater than 0");
    }
    if max == Some(0) {
        context.add(&at.field("max"), "must be greater than 0");
    }
    if let (Some(default), Some(max)) = (default, max)
        && default > max
    {
        context.add(&at.field("default"), "is more than `max`");
    }
    let most = max.unwrap_or(u64::MAX);
    TokenPolicy { default: default.unwrap_or(DEFAULT_OUTPUT_TOKENS).min(most), max }
}
