//! Scripts of other origins (Fetch standard, "CORS protocol"): preflights are answered here, and every answer says whether
//! a script may read it.
//!
//! A preflight comes before the request that it asks about, and without its credentials, so nobody is asked who they are.
//! An origin that is not allowed is told nothing: the browser then refuses its script. Other clients are not kept out by
//! this; that is what authentication is for.

use http::{HeaderMap, HeaderName, HeaderValue, Method, header, request};
use tollgate_model::{AnyOr, Cors};

use crate::listener::is_token;

/// The method that a preflight asks about; none where the request is no preflight.
pub(crate) fn asked_method(head: &request::Parts) -> Option<Method> {
    if head.method != Method::OPTIONS || !head.headers.contains_key(header::ORIGIN) {
        return None;
    }
    Method::from_bytes(head.headers.get(header::ACCESS_CONTROL_REQUEST_METHOD)?.as_bytes()).ok()
}

/// The answer to a preflight, but for what [`dress`] says on every answer.
pub(crate) fn preflight(cors: &Cors, asked: &HeaderMap) -> HeaderMap {
    let mut told = HeaderMap::new();
    told.append(
        header::VARY,
        HeaderValue::from_static("access-control-request-method, access-control-request-headers"),
    );
    if !origin(asked).is_some_and(|origin| cors.allows(origin)) {
        return told;
    }
    let methods = match &cors.methods {
        AnyOr::Any => asked.get(header::ACCESS_CONTROL_REQUEST_METHOD).cloned(),
        AnyOr::Some(methods) => list(methods.iter().map(Method::as_str)),
    };
    // `*` would not cover `authorization`, and mean nothing beside credentials: what is asked for is named.
    let headers = match &cors.headers {
        AnyOr::Any => asked.get(header::ACCESS_CONTROL_REQUEST_HEADERS).filter(|names| are_names(names)).cloned(),
        AnyOr::Some(names) => list(names.iter().map(HeaderName::as_str)),
    };
    let max_age = cors.max_age.map(|age| HeaderValue::from(age.as_secs()));
    for (name, value) in [
        (header::ACCESS_CONTROL_ALLOW_METHODS, methods),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, headers),
        (header::ACCESS_CONTROL_MAX_AGE, max_age),
    ] {
        if let Some(value) = value {
            told.insert(name, value);
        }
    }
    told
}

/// Says on an answer whether scripts may read it. What an upstream said about that is replaced: there is one answer.
pub(crate) fn dress(cors: &Cors, asked: &HeaderMap, answer: &mut HeaderMap) {
    for name in [
        header::ACCESS_CONTROL_ALLOW_ORIGIN,
        header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
        header::ACCESS_CONTROL_EXPOSE_HEADERS,
    ] {
        answer.remove(name);
    }
    if cors.is_for_all() {
        answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    } else {
        // A cache must not give one origin's answer to another.
        vary_by_origin(answer);
        let Some(origin) = origin(asked).filter(|origin| cors.allows(origin)) else { return };
        let Ok(origin) = HeaderValue::from_str(origin) else { return };
        answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    }
    if cors.credentials {
        answer.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
    let exposed = match &cors.expose_headers {
        AnyOr::Any => Some(HeaderValue::from_static("*")),
        AnyOr::Some(names) => list(names.iter().map(HeaderName::as_str)),
    };
    if let Some(exposed) = exposed {
        answer.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
    }
}

/// The one origin of a request.
fn origin(headers: &HeaderMap) -> Option<&str> {
    let mut origins = headers.get_all(header::ORIGIN).iter();
    match (origins.next(), origins.next()) {
        (Some(origin), None) => origin.to_str().ok(),
        _ => None,
    }
}

fn vary_by_origin(answer: &mut HeaderMap) {
    let lines = answer.get_all(header::VARY).iter().filter_map(|line| line.to_str().ok());
    let mut names = lines.flat_map(|line| line.split(',')).map(str::trim);
    if !names.any(|name| name == "*" || name.eq_ignore_ascii_case("origin")) {
        answer.append(header::VARY, HeaderValue::from_static("origin"));
    }
}

fn are_names(value: &HeaderValue) -> bool {
    let mut names = value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    names.all(|name| !name.is_empty() && name.iter().copied().all(is_token))
}

/// None of no names: an empty header would say the same at more length.
fn list<'a>(names: impl Iterator<Item = &'a str>) -> Option<HeaderValue> {
    let names: Vec<&str> = names.collect();
    if names.is_empty() { None } else { HeaderValue::from_str(&names.join(", ")).ok() }
}

#[cfg(test)]
mod tests {
    use tollgate_model::OriginPattern;

    use super::*;
    use crate::headers::tests::map;

    fn cors(origins: Vec<OriginPattern>) -> Cors {
        Cors {
            origins,
            methods: AnyOr::Any,
            headers: AnyOr::Any,
            expose_headers: AnyOr::Some(Vec::new()),
            credentials: false,
            max_age: None,
        }
    }

    #[test]
    fn only_names_of_headers_are_given_back() {
        let cors = cors(vec![OriginPattern::Any]);
        for (asked, told) in [("x-a, authorization", true), ("x-a,,b", false), ("x a", false), ("x-a: b", false)] {
            let asked = map(&[("origin", "https://a"), ("access-control-request-headers", asked)]);
            assert_eq!(preflight(&cors, &asked).contains_key("access-control-allow-headers"), told, "{asked:?}");
        }
    }

    #[test]
    fn what_varies_is_said_once() {
        let cors = cors(vec![OriginPattern::Exact("https://a".into())]);
        for (vary, lines) in [("Accept, Origin", 1), ("*", 1), ("accept", 2)] {
            let mut answer = map(&[("vary", vary)]);
            dress(&cors, &map(&[]), &mut answer);
            assert_eq!(answer.get_all("vary").iter().count(), lines, "{vary}");
        }
    }

    #[test]
    fn two_origins_are_none() {
        let cors = cors(vec![OriginPattern::Exact("https://a".into())]);
        let mut asked = map(&[("origin", "https://a")]);
        asked.append("origin", HeaderValue::from_static("https://b"));
        let mut answer = HeaderMap::new();
        dress(&cors, &asked, &mut answer);
        assert!(!answer.contains_key("access-control-allow-origin"), "{answer:?}");
    }
}
