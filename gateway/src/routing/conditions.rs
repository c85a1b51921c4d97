//! What a route asks of a request besides host and path.

use std::borrow::Cow;

use http::{HeaderMap, HeaderValue, Method, header};
use tollgate_model::{Name, RouteMatch, ValueMatch, When, percent_decode};

use super::split::Asker;

/// What routes are matched by, all of it normalised.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts<'a> {
    pub(crate) host: &'a str,
    pub(crate) path: &'a str,
    pub(crate) method: &'a Method,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) query: Option<&'a str>,
    pub(crate) model: Model<'a>,
}

/// The model asked for, which stands in the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Model<'a> {
    /// The body has not been read.
    Unread,
    /// It has; there may be none in it.
    Read(Option<&'a str>),
}

/// Whether a route's conditions hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holds {
    Yes,
    No,
    /// All but those on the model, which is not known yet.
    DependsOnModel,
}

/// Whether everything but host and path is as the route wants it.
pub(super) fn hold(wanted: &RouteMatch, facts: &Facts<'_>) -> Holds {
    let rest = (wanted.methods.is_empty() || wanted.methods.contains(facts.method))
        && values_match((&wanted.headers, &wanted.query, &wanted.cookies), facts.headers, facts.query);
    if !rest {
        return Holds::No;
    }
    match facts.model {
        _ if wanted.models.is_empty() => Holds::Yes,
        Model::Unread => Holds::DependsOnModel,
        Model::Read(Some(model)) if wanted.models.iter().any(|glob| glob.matches(model)) => Holds::Yes,
        Model::Read(_) => Holds::No,
    }
}

/// Whether a backend is for this request.
pub(super) fn meets(when: &When, asker: &Asker<'_>) -> bool {
    let among = |names: &[Name]| asker.consumer.is_some_and(|consumer| names.iter().any(|name| **name == *consumer));
    (when.consumers.is_empty() || among(&when.consumers))
        && values_match((&when.headers, &when.query, &when.cookies), asker.headers, asker.query)
}

type Named<T> = [(T, ValueMatch)];

fn values_match(
    (in_headers, in_query, in_cookies): (&Named<header::HeaderName>, &Named<String>, &Named<String>),
    headers: &HeaderMap,
    query: Option<&str>,
) -> bool {
    in_headers.iter().all(|(name, value)| header_matches(value, headers, name))
        && in_query.iter().all(|(name, value)| value.matches(parameter(query, name).as_deref()))
        && in_cookies.iter().all(|(name, value)| cookie_matches(value, headers, name))
}

/// Of a header that came several times the first value counts.
fn header_matches(wanted: &ValueMatch, headers: &HeaderMap, name: &header::HeaderName) -> bool {
    bytes_match(wanted, headers.get(name).map(HeaderValue::as_bytes))
}

fn cookie_matches(wanted: &ValueMatch, headers: &HeaderMap, name: &str) -> bool {
    bytes_match(wanted, cookie(headers, name))
}

/// What is not text is only there.
fn bytes_match(wanted: &ValueMatch, value: Option<&[u8]>) -> bool {
    match (wanted, value) {
        (ValueMatch::Present(present), value) => *present == value.is_some(),
        (_, None) => false,
        (_, Some(value)) => std::str::from_utf8(value).is_ok_and(|value| wanted.matches(Some(value))),
    }
}

/// The first parameter of that name, decoded.
fn parameter<'a>(query: Option<&'a str>, name: &str) -> Option<Cow<'a, str>> {
    query?.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(key) == name).then(|| decode(value))
    })
}

/// As [`percent_decode`], where text is wanted.
pub(crate) fn decode(text: &str) -> Cow<'_, str> {
    match percent_decode(text) {
        Cow::Borrowed(_) => Cow::Borrowed(text),
        Cow::Owned(decoded) => Cow::Owned(String::from_utf8_lossy(&decoded).into_owned()),
    }
}

/// Among others that need not be text.
pub(super) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let cookies = headers.get(header::COOKIE)?.as_bytes();
    let pairs = cookies.split(|&byte| byte == b';').map(<[u8]>::trim_ascii);
    pairs.filter_map(|pair| pair.strip_prefix(name.as_bytes())).find_map(|rest| rest.strip_prefix(b"="))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded_and_the_first_counts() {
        let query = Some("a=1&b=x%20y+z&a=2&c&%64=%zz");
        assert_eq!(parameter(query, "a").as_deref(), Some("1"));
        assert_eq!(parameter(query, "b").as_deref(), Some("x y z"));
        assert_eq!(parameter(query, "c").as_deref(), Some(""));
        assert_eq!(parameter(query, "d").as_deref(), Some("%zz"));
        assert_eq!(parameter(query, "e"), None);
    }

    #[test]
    fn cookies_are_found_by_their_whole_name() {
        let mut headers = HeaderMap::new();
        headers.insert(header::COOKIE, "aa=1; a=2;b=3=4".parse().unwrap());
        assert_eq!(cookie(&headers, "a"), Some(&b"2"[..]));
        assert_eq!(cookie(&headers, "b"), Some(&b"3=4"[..]));
        assert_eq!(cookie(&headers, "c"), None);
    }

    #[test]
    fn a_cookie_that_is_no_text_hides_no_other_one() {
        let mut headers = HeaderMap::new();
        headers.insert(header::COOKIE, HeaderValue::from_bytes(b"x=\xff; y=\xc3\xa9;a=2").unwrap());
        assert_eq!(cookie(&headers, "a"), Some(&b"2"[..]));
        assert!(cookie_matches(&ValueMatch::Exact("2".into()), &headers, "a"));
        assert!(cookie_matches(&ValueMatch::Exact("\u{e9}".into()), &headers, "y"));
        assert!(cookie_matches(&ValueMatch::Present(true), &headers, "x"));
        assert!(!cookie_matches(&ValueMatch::Prefix(String::new()), &headers, "x"), "it is only there");
    }
}
