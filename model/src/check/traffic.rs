//! Who is let in, what scripts of other origins may do, and failures on purpose.

use std::time::Duration;

use http::{HeaderName, Method};
use tollgate_proto::v1;

use super::{
    context::Context,
    limit::cidrs,
    route_match::{is_token, methods},
    text,
};
use crate::{AnyOr, Cors, Faults, Field, IpFilter, Mirror, OriginPattern, Percent, Sticky};

/// Each request is compared with each network.
const MAX_NETWORKS: usize = 1_000;
/// Each request of a script is compared with each origin.
const MAX_ORIGINS: usize = 200;
/// Longer is no test of patience: it only keeps connections.
const MAX_DELAY: Duration = Duration::from_secs(60);
/// Browsers keep a preflight's answer for a day at most.
const MAX_PREFLIGHT_AGE: Duration = Duration::from_secs(86_400);
/// Browsers keep a cookie for 400 days at most.
const MAX_COOKIE_AGE: Duration = Duration::from_secs(400 * 86_400);
/// A name comes back with every request.
const MAX_COOKIE_NAME_BYTES: usize = 64;

pub(super) fn ips(context: &mut Context, at: &Field<'_>, given: &v1::IpFilter) -> IpFilter {
    if given.allow.is_empty() && given.deny.is_empty() {
        context.add(at, "must have `allow` or `deny`");
    }
    let mut list = |name, texts: &[String]| {
        let at = at.field(name);
        if texts.len() > MAX_NETWORKS {
            context.add(&at, format!("has {} networks: {MAX_NETWORKS} are the most", texts.len()));
        }
        cidrs(context, &at, texts)
    };
    IpFilter { allow: list("allow", &given.allow), deny: list("deny", &given.deny) }
}

pub(super) fn cors(context: &mut Context, at: &Field<'_>, given: &v1::Cors) -> Cors {
    let credentials = given.credentials.unwrap_or(false);
    let origins = origins(context, &at.field("origins"), &given.origins);
    if credentials && origins.contains(&OriginPattern::Any) {
        let wrong = "`*` would let every site act as its visitors: with `credentials: true` name the origins";
        context.add(&at.field("origins"), wrong);
    }
    let cors_methods = match given.methods.as_slice() {
        [] => AnyOr::Some(vec![Method::GET, Method::HEAD, Method::POST]),
        [any] if any == "*" => AnyOr::Any,
        some => {
            if let Some(n) = some.iter().position(|method| method == "*") {
                context.add(&at.field("methods").index(n), "`*` stands alone: it includes the others");
            }
            AnyOr::Some(methods(context, &at.field("methods"), some))
        }
    };
    let headers = header_names(context, &at.field("headers"), &given.headers);
    let expose = at.field("exposeHeaders");
    let expose_headers = header_names(context, &expose, &given.expose_headers);
    if credentials && expose_headers == AnyOr::Any {
        context.add(&expose, "`*` means nothing to browsers beside `credentials: true`: name the headers");
    }
    let longest = (MAX_PREFLIGHT_AGE, "24h");
    let max_age = max_age(context, &at.field("maxAge"), &given.max_age, longest);
    Cors { origins, methods: cors_methods, headers, expose_headers, credentials, max_age }
}

/// In whole seconds, as browsers count it.
fn max_age(context: &mut Context, at: &Field<'_>, text: &str, (most, named): (Duration, &str)) -> Option<Duration> {
    let age = context.duration(at, text)?;
    if age.subsec_nanos() != 0 {
        context.add(at, "must be whole seconds");
    }
    if age > most {
        context.add(at, format!("is longer than browsers keep it: at most {named}"));
    }
    Some(age)
}

fn origins(context: &mut Context, at: &Field<'_>, given: &[String]) -> Vec<OriginPattern> {
    if given.is_empty() {
        context.add(at, "is missing: https://app.example.com, https://*.example.com or *");
    }
    if given.len() > MAX_ORIGINS {
        context.add(at, format!("has {} origins: {MAX_ORIGINS} are the most", given.len()));
    }
    let mut origins = Vec::new();
    for (n, text) in given.iter().enumerate() {
        let Some(origin) = context.keep(&at.index(n), origin(text)) else { continue };
        if origins.contains(&origin) {
            context.add(&at.index(n), format!("`{text}` is there twice"));
        }
        origins.push(origin);
    }
    if origins.len() > 1 && origins.contains(&OriginPattern::Any) {
        context.add(at, "has `*` beside others, which it includes");
    }
    origins
}

/// RFC 6454 §6.2: scheme, host and a port that is not the scheme's own; no path.
fn origin(text: &str) -> Result<OriginPattern, String> {
    if text == "*" {
        return Ok(OriginPattern::Any);
    }
    let wrong = || format!("`{text}` is no origin such as https://app.example.com or https://*.example.com");
    let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
    let default = match scheme {
        "https" => ":443",
        "http" => ":80",
        _ => return Err(format!("`{text}` has no scheme that a page comes by: http | https")),
    };
    if rest.ends_with('/') || rest.contains('/') {
        return Err(format!("`{text}` has a path: an origin ends with its host or port"));
    }
    let (wild, host) = rest.strip_prefix("*.").map_or((false, rest), |host| (true, host));
    let host = text::authority(host).map_err(|_| wrong())?;
    let host = host.strip_suffix(default).unwrap_or(&host);
    Ok(match wild {
        true => OriginPattern::Suffix { scheme: format!("{scheme}://"), suffix: format!(".{host}") },
        false => OriginPattern::Exact(format!("{scheme}://{host}")),
    })
}

fn header_names(context: &mut Context, at: &Field<'_>, given: &[String]) -> AnyOr<HeaderName> {
    if given == ["*"] {
        return AnyOr::Any;
    }
    let mut names = Vec::new();
    for (n, text) in given.iter().enumerate() {
        let name = text.parse::<HeaderName>().ok().filter(|name| name != "*");
        let wrong = || format!("`{text}` is no header name, and `*` stands alone");
        let Some(name) = context.keep(&at.index(n), name.ok_or_else(wrong)) else { continue };
        if names.contains(&name) {
            context.add(&at.index(n), format!("`{name}` is there twice"));
        }
        names.push(name);
    }
    AnyOr::Some(names)
}

/// `shares` is how many backends there are to stay with.
pub(super) fn sticky(context: &mut Context, at: &Field<'_>, given: &v1::Sticky, shares: usize) -> Option<Sticky> {
    if shares < 2 {
        context.add(at, "needs two `backends` with a share: there is nothing to stay with");
    }
    for (name, wanted) in [("consumer", given.consumer), ("ip", given.ip)] {
        if wanted == Some(false) {
            context.add(&at.field(name), "means something only as `true`: leave it out");
        }
    }
    let age = at.field("maxAge");
    let max_age = max_age(context, &age, &given.max_age, (MAX_COOKIE_AGE, "400d"));
    if !given.max_age.is_empty() && given.cookie.is_empty() {
        context.add(&age, "is only for `cookie`");
    }
    match (given.cookie.as_str(), given.header.as_str(), given.consumer, given.ip) {
        (name, "", None, None) if !name.is_empty() => {
            context.keep(&at.field("cookie"), cookie_name(name));
            Some(Sticky::Cookie { name: name.to_owned(), max_age })
        }
        ("", name, None, None) if !name.is_empty() => {
            context.keep(&at.field("header"), sticky_header(name)).map(Sticky::Header)
        }
        ("", "", Some(_), None) => Some(Sticky::Consumer),
        ("", "", None, Some(_)) => Some(Sticky::Ip),
        _ => {
            context.add(at, "must have exactly one of `cookie`, `header`, `consumer: true` and `ip: true`");
            None
        }
    }
}

fn cookie_name(name: &str) -> Result<(), String> {
    if !is_token(name) || name.len() > MAX_COOKIE_NAME_BYTES {
        return Err(format!("`{name}` is no cookie's name of up to {MAX_COOKIE_NAME_BYTES} bytes"));
    }
    if name.starts_with("__") {
        return Err(format!("`{name}`: browsers take names such as __Host-… only over TLS: choose another one"));
    }
    Ok(())
}

fn sticky_header(name: &str) -> Result<HeaderName, String> {
    let header = name.parse::<HeaderName>().map_err(|_| format!("`{name}` is no header name"))?;
    match header.as_str() {
        "authorization" | "x-api-key" | "api-key" => Err("holds credentials: use `consumer: true`".to_owned()),
        "cookie" => Err("holds many cookies: use `cookie: NAME`".to_owned()),
        _ => Ok(header),
    }
}

/// `within` is what a request may take in all.
pub(super) fn faults(context: &mut Context, at: &Field<'_>, given: &v1::Faults, within: Duration) -> Faults {
    if given.delay.is_none() && given.abort.is_none() {
        context.add(at, "must have `delay` or `abort`");
    }
    let delay = given.delay.as_ref().and_then(|delay| {
        let at = at.field("delay");
        let percent = percent(context, &at.field("percent"), &delay.percent);
        let at = at.field("for");
        if delay.r#for.is_empty() {
            context.add(&at, "is missing");
        }
        let long = context.duration(&at, &delay.r#for);
        if long.is_some_and(|long| long > MAX_DELAY) {
            context.add(&at, "must be at most 1m");
        } else if long.is_some_and(|long| long >= within) {
            context.add(&at, "must be less than `timeouts.request`, or nobody would be answered");
        }
        percent.zip(long)
    });
    let abort = given.abort.as_ref().and_then(|abort| {
        let at = at.field("abort");
        let percent = percent(context, &at.field("percent"), &abort.percent);
        let at = at.field("status");
        let status = abort.status.and_then(|status| u16::try_from(status).ok());
        let status = status.filter(|status| (400..600).contains(status));
        match (abort.status, status) {
            (None, _) => context.add(&at, "is missing: 400 to 599"),
            (Some(given), None) => context.add(&at, format!("{given} is no failure: 400 to 599")),
            _ => {}
        }
        percent.zip(status)
    });
    Faults { delay, abort }
}

pub(super) fn mirror(context: &mut Context, at: &Field<'_>, given: &v1::Mirror) -> Option<Mirror> {
    let (service_at, percent_at) = (at.field("service"), at.field("percent"));
    if given.service.is_empty() {
        context.add(&service_at, "is missing: the service that gets the copies");
        return None;
    }
    let all = given.percent.is_empty();
    let percent = if all { Some(Percent::ALL) } else { self::percent(context, &percent_at, &given.percent) };
    let service = context.name(&service_at, &given.service);
    service.zip(percent).map(|(service, percent)| Mirror { service, percent })
}

pub(super) fn percent(context: &mut Context, at: &Field<'_>, text: &str) -> Option<Percent> {
    if text.is_empty() {
        context.add(at, "is missing: 0 to 100");
        return None;
    }
    context.keep(at, Percent::parse(text))
}
