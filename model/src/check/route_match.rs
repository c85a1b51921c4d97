//! Which requests a route takes.

use std::collections::BTreeMap;

use http::{HeaderName, Method};
use tollgate_proto::v1;

use super::{context::Context, text, upstream::globs};
use crate::{Field, HostPattern, PathMatch, RouteMatch, ValueMatch, When};

pub(super) fn hosts(context: &mut Context, at: &Field<'_>, given: &[String]) -> Vec<HostPattern> {
    let mut hosts = Vec::new();
    for (n, text) in given.iter().enumerate() {
        let Some(host) = context.keep(&at.index(n), host(text)) else { continue };
        if hosts.contains(&host) {
            context.add(&at.index(n), format!("`{text}` is there twice"));
        }
        hosts.push(host);
    }
    if given.is_empty() { vec![HostPattern::Any] } else { hosts }
}

fn host(text: &str) -> Result<HostPattern, String> {
    if text == "*" {
        return Err("`*`: leave `hosts` empty for any host".to_owned());
    }
    if let Some(suffix) = text.strip_prefix("*.") {
        return text::host(suffix).map(|suffix| HostPattern::Suffix(format!(".{suffix}")));
    }
    if text.contains('*') {
        return Err(format!("`{text}`: `*` can only stand for the first labels, as in `*.example.com`"));
    }
    text::host(text).map(HostPattern::Exact)
}

pub(super) fn matches(context: &mut Context, at: &Field<'_>, given: &[v1::RouteMatch], ai: bool) -> Vec<RouteMatch> {
    if given.is_empty() {
        return vec![RouteMatch {
            path: PathMatch::Any,
            methods: Vec::new(),
            headers: Vec::new(),
            query: Vec::new(),
            cookies: Vec::new(),
            models: Vec::new(),
        }];
    }
    given.iter().enumerate().map(|(n, given)| route_match(context, &at.index(n), given, ai)).collect()
}

fn route_match(context: &mut Context, at: &Field<'_>, given: &v1::RouteMatch, ai: bool) -> RouteMatch {
    if !given.models.is_empty() && !ai {
        context.add(&at.field("models"), "is only for routes with a provider: only there a request is read");
    }
    let (path, methods) = match &given.grpc {
        Some(grpc) => {
            for (name, is_given) in [("path", given.path.is_some()), ("methods", !given.methods.is_empty())] {
                if is_given {
                    context.add(&at.field(name), "is told by `grpc` already: leave one of the two out");
                }
            }
            (self::grpc(context, &at.field("grpc"), grpc), vec![Method::POST])
        }
        None => (
            path(context, &at.field("path"), given.path.as_ref()),
            methods(context, &at.field("methods"), &given.methods),
        ),
    };
    RouteMatch {
        path,
        methods,
        headers: headers(context, &at.field("headers"), &given.headers),
        query: values(context, &at.field("query"), &given.query, |name| !name.is_empty()),
        cookies: values(context, &at.field("cookies"), &given.cookies, is_token),
        models: globs(context, &at.field("models"), &given.models),
    }
}

/// A call of gRPC is a POST to /package.Service/Method.
fn grpc(context: &mut Context, at: &Field<'_>, given: &v1::GrpcMatch) -> PathMatch {
    let word = |word: &str| {
        word.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
            && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    let (service, method) = (given.service.as_str(), given.method.as_str());
    if !service.is_empty() && !service.split('.').all(word) {
        context.add(&at.field("service"), format!("`{service}` is no service such as shop.v1.Orders"));
    }
    if !method.is_empty() && !word(method) {
        context.add(&at.field("method"), format!("`{method}` is no method such as GetOrder"));
        return PathMatch::Any;
    }
    match (service, method) {
        ("", "") => {
            context.add(at, "must have `service`, `method` or both");
            PathMatch::Any
        }
        ("", method) => {
            let pattern = text::regex(&format!("/[^/]+/{method}"));
            context.keep(&at.field("method"), pattern).map_or(PathMatch::Any, PathMatch::Regex)
        }
        (service, "") => PathMatch::Prefix(format!("/{service}")),
        (service, method) => PathMatch::Exact(format!("/{service}/{method}")),
    }
}

pub(super) fn when(context: &mut Context, at: &Field<'_>, given: &v1::When) -> When {
    let conditions = given.headers.len() + given.query.len() + given.cookies.len() + given.consumers.len();
    if conditions == 0 {
        context.add(at, "must have `headers`, `query`, `cookies` or `consumers`");
    }
    When {
        headers: headers(context, &at.field("headers"), &given.headers),
        query: values(context, &at.field("query"), &given.query, |name| !name.is_empty()),
        cookies: values(context, &at.field("cookies"), &given.cookies, is_token),
        consumers: context.names(&at.field("consumers"), &given.consumers),
    }
}

fn path(context: &mut Context, at: &Field<'_>, given: Option<&v1::PathMatch>) -> PathMatch {
    let Some(given) = given else { return PathMatch::Any };
    match (given.exact.as_str(), given.prefix.as_str(), given.regex.as_str()) {
        (exact, "", "") if !exact.is_empty() => {
            context.keep(&at.field("exact"), text::path(exact));
            PathMatch::Exact(exact.to_owned())
        }
        ("", prefix, "") if !prefix.is_empty() => {
            context.keep(&at.field("prefix"), text::path(prefix));
            PathMatch::Prefix(prefix.strip_suffix('/').unwrap_or(prefix).to_owned())
        }
        ("", "", regex) if !regex.is_empty() => {
            context.keep(&at.field("regex"), text::regex(regex)).map_or(PathMatch::Any, PathMatch::Regex)
        }
        _ => {
            context.add(at, "must have exactly one of `exact`, `prefix` and `regex`");
            PathMatch::Any
        }
    }
}

pub(super) fn methods(context: &mut Context, at: &Field<'_>, given: &[String]) -> Vec<Method> {
    context.once(at, given);
    let mut methods = Vec::new();
    for (n, text) in given.iter().enumerate() {
        match Method::from_bytes(text.as_bytes()) {
            Ok(Method::CONNECT) => context.add(&at.index(n), "`CONNECT` is not supported yet"),
            Ok(_) if text.bytes().any(|b| b.is_ascii_lowercase()) => {
                let upper = text.to_ascii_uppercase();
                context.add(&at.index(n), format!("`{text}`: methods are in capitals (did you mean `{upper}`?)"));
            }
            Ok(method) => methods.push(method),
            Err(_) => context.add(&at.index(n), format!("`{text}` is no method")),
        }
    }
    methods
}

type Values = BTreeMap<String, v1::ValueMatch>;

fn headers(context: &mut Context, at: &Field<'_>, given: &Values) -> Vec<(HeaderName, ValueMatch)> {
    let mut headers: Vec<(HeaderName, ValueMatch)> = Vec::new();
    for (name, value) in given {
        let at = at.key(name);
        let value = value_match(context, &at, value);
        let Some(header) = context.keep(&at, name.parse::<HeaderName>().map_err(|_| "is no header name")) else {
            continue;
        };
        if headers.iter().any(|(known, _)| *known == header) {
            context.add(&at, "is there twice, in other letters");
        }
        headers.extend(value.map(|value| (header, value)));
    }
    headers
}

fn values(
    context: &mut Context,
    at: &Field<'_>,
    given: &Values,
    is_name: fn(&str) -> bool,
) -> Vec<(String, ValueMatch)> {
    let mut values = Vec::new();
    for (name, value) in given {
        let at = at.key(name);
        if !is_name(name) {
            context.add(&at, "is no such name");
        }
        values.extend(value_match(context, &at, value).map(|value| (name.clone(), value)));
    }
    values
}

/// RFC 6265 §4.1.1: a cookie's name is a token.
pub(super) fn is_token(name: &str) -> bool {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !name.is_empty() && name.bytes().all(token)
}

fn value_match(context: &mut Context, at: &Field<'_>, given: &v1::ValueMatch) -> Option<ValueMatch> {
    use ValueMatch::{Exact, Prefix, Present, Regex};
    match (&given.exact, &given.prefix, &given.regex, given.present) {
        (Some(exact), None, None, None) => Some(Exact(exact.clone())),
        (None, Some(prefix), None, None) => Some(Prefix(prefix.clone())),
        (None, None, Some(regex), None) => context.keep(&at.field("regex"), text::regex(regex)).map(Regex),
        (None, None, None, Some(present)) => Some(Present(present)),
        _ => {
            context.add(at, "must have exactly one of `exact`, `prefix`, `regex` and `present`");
            None
        }
    }
}
