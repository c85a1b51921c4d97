//! What a request is for: one host, one path, read once. What is matched here is what is sent on.

mod host;
mod path;

use std::borrow::Cow;

use http::{HeaderMap, HeaderValue, Uri, Version, header, request, uri::Scheme};

use crate::listener::Malformed;
pub(crate) use host::Host;
pub(crate) use path::normalize as normal_path;

/// A request's host and target, without ambiguity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) host: Host,
    /// Begins with a slash; no dot segments, no empty segments, unreserved characters plain, `%2F` upper case.
    pub(crate) path: String,
    /// As it came, without the question mark.
    pub(crate) query: Option<String>,
}

impl Target {
    /// Of a request that came by this scheme, whatever it says itself.
    pub(crate) fn read(head: &request::Parts, scheme: &Scheme) -> Result<Self, Malformed> {
        let host = one_host(head, if *scheme == Scheme::HTTPS { 443 } else { 80 })?;
        let (path, query) = match head.uri.path_and_query() {
            Some(target) => (target.path(), target.query()),
            None => return Err(Malformed::Target),
        };
        let path = match path {
            "" => Cow::Borrowed("/"), // absolute-form without a path
            "*" => return Err(Malformed::Target),
            path => path::normalize(path).ok_or(Malformed::Path)?,
        };
        Ok(Self { host, path: path.into_owned(), query: query.map(str::to_owned) })
    }

    /// Path and query as they are sent on.
    pub(crate) fn path_and_query(&self) -> String {
        self.with_query(&self.path)
    }

    /// Another path with the query that came.
    pub(crate) fn with_query(&self, path: &str) -> String {
        match &self.query {
            Some(query) => format!("{path}?{query}"),
            None => path.to_owned(),
        }
    }
}

/// The request's one host: from the target, from `host`, or the same from both.
fn one_host(head: &request::Parts, default_port: u16) -> Result<Host, Malformed> {
    let mut named = head.headers.get_all(header::HOST).iter();
    let (in_header, second) = (named.next(), named.next());
    if second.is_some() {
        return Err(Malformed::TwoHosts);
    }
    let in_header = in_header.map(|value| Host::parse(value.as_bytes(), default_port)).transpose()?;
    let in_target = in_target(&head.uri, head.version, default_port)?;
    match (in_target, in_header) {
        (Some(target), Some(header)) if target != header => Err(Malformed::HostMismatch),
        (Some(host), _) | (None, Some(host)) => Ok(host),
        (None, None) => Err(Malformed::NoHost),
    }
}

fn in_target(uri: &Uri, version: Version, default_port: u16) -> Result<Option<Host>, Malformed> {
    let Some(authority) = uri.authority() else { return Ok(None) };
    // RFC 9112 §3.2.2: the absolute form is for http URIs; what else could be meant is not served here.
    if version != Version::HTTP_2 && uri.scheme_str().is_some_and(|scheme| scheme != "http" && scheme != "https") {
        return Err(Malformed::Target);
    }
    Host::parse(authority.as_str().as_bytes(), default_port).map(Some)
}

/// Joins the cookie crumbs of HTTP/2 (RFC 9113 §8.2.3). HTTP/1 has one `cookie` line; more are joined the same way.
pub(crate) fn join_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(header::COOKIE).iter();
    let (Some(first), Some(_)) = (crumbs.next(), crumbs.next()) else { return };
    let rest = headers.get_all(header::COOKIE).iter().skip(1);
    let joined = rest.fold(first.as_bytes().to_vec(), |mut joined, crumb| {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(crumb.as_bytes());
        joined
    });
    let joined = HeaderValue::from_bytes(&joined).expect("valid values, joined by valid bytes");
    headers.insert(header::COOKIE, joined);
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn target(uri: &str, hosts: &[&str]) -> Result<Target, Malformed> {
        let mut request = Request::builder().uri(uri);
        for host in hosts {
            request = request.header(header::HOST, *host);
        }
        Target::read(&request.body(()).unwrap().into_parts().0, &Scheme::HTTP)
    }

    #[test]
    fn a_request_has_one_host() {
        let read = target("/a/../b?x=%2e", &["Example.com:80"]).unwrap();
        assert_eq!((read.host.name(), read.path_and_query().as_str()), ("example.com", "/b?x=%2e"));
        assert_eq!(target("/", &[]), Err(Malformed::NoHost));
        assert_eq!(target("/", &["a", "a"]), Err(Malformed::TwoHosts));
        assert_eq!(target("/", &["user@a"]), Err(Malformed::Host));
        assert_eq!(target("http://a/", &["b"]), Err(Malformed::HostMismatch));
        assert_eq!(target("http://a:81/", &["a"]), Err(Malformed::HostMismatch));
        assert_eq!(target("http://user@a/", &["a"]), Err(Malformed::Host));
        assert_eq!(target("ftp://a/", &["a"]), Err(Malformed::Target));
        assert_eq!(target("*", &["a"]), Err(Malformed::Target));
        assert_eq!(target("http://A", &["a"]).unwrap().path, "/");
    }

    #[test]
    fn cookie_crumbs_become_one_cookie() {
        let mut headers = HeaderMap::new();
        for crumb in ["a=1", "b=2", "c=3"] {
            headers.append(header::COOKIE, HeaderValue::from_static(crumb));
        }
        join_cookies(&mut headers);
        assert_eq!(headers.get_all(header::COOKIE).iter().collect::<Vec<_>>(), ["a=1; b=2; c=3"]);
    }
}
