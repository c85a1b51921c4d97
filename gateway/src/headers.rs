//! Headers that end here, and headers that begin here.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue, header, uri::Scheme};
use smallvec::SmallVec;

use tollgate_model::tls::Described;

use crate::{
    listener::is_token,
    request_id::{RequestId, X_REQUEST_ID},
    trace_context::Trace,
};

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static X_FORWARDED_CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
static X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
static X_CONSUMER: HeaderName = HeaderName::from_static("x-consumer");
static X_TENANT: HeaderName = HeaderName::from_static("x-tenant");

/// For one connection only (RFC 9110 §7.6.1), besides what `connection` names.
fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "te"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// What `connection` names besides that.
fn named_by_connection(headers: &HeaderMap) -> SmallVec<[HeaderName; 2]> {
    let named =
        headers.get_all(header::CONNECTION).iter().flat_map(|value| value.as_bytes().split(|&byte| byte == b','));
    named
        .map(<[u8]>::trim_ascii)
        .filter(|name| !name.is_empty() && name.iter().copied().all(is_token))
        .filter(|name| !name.eq_ignore_ascii_case(b"keep-alive")) // goes anyway, and is said by nearly everybody
        .filter_map(|name| HeaderName::from_bytes(name).ok())
        .collect()
}

/// Removes what `goes`.
pub(crate) fn remove_where(headers: &mut HeaderMap, goes: impl Fn(&HeaderName) -> bool) {
    let names: SmallVec<[HeaderName; 4]> = headers.keys().filter(|name| goes(name)).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

/// Removes what concerns one connection only, as framing is made anew on the next one, and what also `goes`.
pub(crate) fn remove_hop_by_hop_and(headers: &mut HeaderMap, goes: impl Fn(&str) -> bool) {
    let named = named_by_connection(headers);
    let goes = |name: &HeaderName| is_hop_by_hop(name.as_str()) || goes(name.as_str()) || named.contains(name);
    remove_where(headers, goes);
}

/// Removes what concerns one connection only.
pub(crate) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    remove_hop_by_hop_and(headers, |_| false);
}

/// Whether `te` says that trailers are wanted (RFC 9110 §10.1.4).
pub(crate) fn takes_trailers(headers: &HeaderMap) -> bool {
    lists(headers, &header::TE, "trailers")
}

/// Whether a header that is a list has this item, in whatever case.
pub(crate) fn lists(headers: &HeaderMap, name: &HeaderName, item: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|it| it.trim().eq_ignore_ascii_case(item))
}

/// So many headers are added to those of a client, or more by its route.
const ADDED: usize = 8;

/// What a client's headers become before anything is sent on: nothing of one connection, no expectation (it is met
/// here), no identity but ours, and our span of its trace.
pub(crate) fn sanitized_request(of: &HeaderMap, request_id: &RequestId, trace: &Trace) -> HeaderMap {
    let named = named_by_connection(of);
    let mut headers = HeaderMap::with_capacity(of.len() + ADDED);
    for (name, value) in of {
        let text = name.as_str();
        if !(is_hop_by_hop(text) || is_ours_to_say(text) || is_lookalike(text) || named.contains(name)) {
            headers.append(name, value.clone());
        }
    }
    headers.insert(&X_REQUEST_ID, request_id.header());
    trace.pass_on(&mut headers);
    headers
}

/// What only we say: how a request is framed, to whom it goes, and who calls.
fn is_ours_to_say(name: &str) -> bool {
    matches!(name, "expect" | "content-length" | "host" | "x-consumer" | "x-tenant") || name.starts_with("x-tollgate-")
}

/// CGI and its heirs read `x_consumer` as `x-consumer`: a name that becomes one of ours when its underscores are read as
/// hyphens goes no further either, nor does a credential in such a spelling.
fn is_lookalike(name: &str) -> bool {
    const OURS: [&str; 5] = ["x-consumer", "x-tenant", "x-real-ip", "x-api-key", "api-key"];
    const OUR_PREFIXES: [&str; 2] = ["x-tollgate-", "x-forwarded-"];
    if !name.contains('_') {
        return false;
    }
    let read_as = name.replace('_', "-");
    OURS.contains(&read_as.as_str()) || OUR_PREFIXES.iter().any(|prefix| read_as.starts_with(prefix))
}

/// Says who calls, to an upstream of ours.
pub(crate) fn add_identity(headers: &mut HeaderMap, consumer: &str, tenant: &str) {
    for (name, value) in [(&X_CONSUMER, consumer), (&X_TENANT, tenant)] {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    }
}

pub(crate) fn remove_prefixed(headers: &mut HeaderMap, prefixes: &[&str]) {
    remove_where(headers, |name| prefixes.iter().any(|prefix| name.as_str().starts_with(prefix)));
}

/// Whom a request comes from: the peer, or where that is a trusted proxy whoever it says, and so on back to the first that
/// is not trusted. Canonical: never an IPv4 address in its IPv6 form.
pub(crate) fn client_address(headers: &HeaderMap, peer: IpAddr, trusts: impl Fn(IpAddr) -> bool) -> IpAddr {
    let mut client = peer.to_canonical();
    if !trusts(client) {
        return client;
    }
    let lines = headers.get_all(&X_FORWARDED_FOR).iter().rev();
    for said in lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b',')) {
        let Some(address) = forwarded_address(said) else { return client };
        client = address;
        if !trusts(client) {
            return client;
        }
    }
    client
}

/// An address as proxies write it: some add the port.
fn forwarded_address(said: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(said).ok()?.trim();
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|it| it.ip()));
    address.map(|address: IpAddr| address.to_canonical())
}

/// An address as a header names it. Canonical: never an IPv4 address in its IPv6 form.
pub(crate) fn address(peer: IpAddr) -> HeaderValue {
    HeaderValue::try_from(peer.to_canonical().to_string()).expect("an address is visible ASCII")
}

/// Tells an upstream where a request came from: the [`address`] of the peer, the host, and the scheme. What an untrusted peer
/// said about it is replaced.
pub(crate) fn set_forwarded(
    headers: &mut HeaderMap,
    peer: &HeaderValue,
    trusted: bool,
    host: &HeaderValue,
    scheme: &Scheme,
) {
    if !trusted {
        remove_forwarded(headers);
    }
    let mut through = Vec::new();
    for said in headers.get_all(&X_FORWARDED_FOR).iter().filter(|value| value.to_str().is_ok()) {
        through.extend_from_slice(said.as_bytes());
        through.extend_from_slice(b", ");
    }
    let through = if through.is_empty() {
        peer.clone()
    } else {
        through.extend_from_slice(peer.as_bytes());
        HeaderValue::try_from(through).expect("text from headers, and an address")
    };
    headers.insert(&X_FORWARDED_FOR, through);
    let scheme = if *scheme == Scheme::HTTPS { "https" } else { "http" };
    headers.entry(&X_FORWARDED_HOST).or_insert_with(|| host.clone());
    headers.entry(&X_FORWARDED_PROTO).or_insert_with(|| HeaderValue::from_static(scheme));
    headers.entry(&X_REAL_IP).or_insert_with(|| peer.clone());
}

/// Tells an upstream whose certificate was verified. What an untrusted peer says of that is gone by now; what a trusted one
/// says stands before what we have seen of itself.
pub(crate) fn add_client_certificate(headers: &mut HeaderMap, client: &Described) {
    let said = headers.get_all(&X_FORWARDED_CLIENT_CERT).iter().filter_map(|value| value.to_str().ok());
    let ours = client.forwarded();
    let all: Vec<&str> = said.chain([ours.as_str()]).collect();
    let all = HeaderValue::try_from(all.join(",")).expect("text from headers, and visible ASCII");
    headers.insert(&X_FORWARDED_CLIENT_CERT, all);
}

pub(crate) fn remove_forwarded(headers: &mut HeaderMap) {
    let is_said = |name: &str| name.starts_with("x-forwarded-") || matches!(name, "forwarded" | "x-real-ip");
    remove_where(headers, |name| is_said(name.as_str()));
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn what_connection_names_goes_no_further() {
        let mut headers =
            map(&[("connection", "close, X-Secret ,,a b"), ("x-secret", "1"), ("te", "trailers"), ("x-kept", "1")]);
        remove_hop_by_hop(&mut headers);
        assert_eq!(headers, map(&[("x-kept", "1")]));
    }

    #[test]
    fn trailers_are_for_whoever_says_so() {
        for (te, takes) in [("trailers", true), ("gzip, Trailers", true), ("gzip;q=0.5", false), ("xtrailers", false)] {
            assert_eq!(takes_trailers(&map(&[("te", te)])), takes, "{te}");
        }
        assert!(!takes_trailers(&map(&[])));
    }

    #[test]
    fn identity_of_a_client_does_not_survive() {
        let headers =
            map(&[("x-consumer", "a"), ("x-tenant", "b"), ("x-tollgate-provider", "c"), ("x-request-id", "d")]);
        let id = RequestId::generate();
        let trace = Trace::of(&headers, 0.0);
        let mut headers = sanitized_request(&headers, &id, &trace);
        assert!(headers.remove("traceparent").is_some());
        assert_eq!((headers.len(), headers.get("x-request-id").cloned()), (1, Some(id.header())));
    }

    #[test]
    fn an_underscore_does_not_smuggle_an_identity_or_a_key() {
        let headers = map(&[
            ("x_consumer", "admin"),
            ("x-tollgate_provider", "a"),
            ("x_forwarded_for", "6.6.6.6"),
            ("x_api_key", "sk-1"),
            ("x_own", "kept"),
        ]);
        let id = RequestId::generate();
        let headers = sanitized_request(&headers, &id, &Trace::of(&headers, 0.0));
        assert!(headers.contains_key("x-request-id") && headers.contains_key("traceparent"));
        assert_eq!((headers.len(), headers.get("x_own")), (3, Some(&HeaderValue::from_static("kept"))));
    }

    #[test]
    fn the_client_is_whom_the_last_trusted_proxy_names() {
        let trusted = |ip: IpAddr| ip.to_string().starts_with("10.") || ip.to_string() == "fd00::1";
        let client = |peer: &str, lines: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(&X_FORWARDED_FOR, HeaderValue::from_static(line));
            }
            client_address(&headers, peer.parse().unwrap(), trusted).to_string()
        };
        assert_eq!(client("9.9.9.9", &["1.1.1.1"]), "9.9.9.9", "nobody believes a stranger");
        assert_eq!(client("::ffff:9.9.9.9", &[]), "9.9.9.9");
        assert_eq!(client("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &["6.6.6.6, 1.1.1.1, 10.0.0.2"]), "1.1.1.1", "what comes before was only said");
        assert_eq!(client("10.0.0.1", &["6.6.6.6", "1.1.1.1"]), "1.1.1.1");
        assert_eq!(client("::ffff:10.0.0.1", &["::ffff:1.1.1.1"]), "1.1.1.1");
        assert_eq!(client("10.0.0.1", &["10.0.0.3, 10.0.0.2"]), "10.0.0.3");
        assert_eq!(client("10.0.0.1", &["1.1.1.1:80"]), "1.1.1.1");
        assert_eq!(client("fd00::1", &["[2001:db8::1]:80"]), "2001:db8::1");
        assert_eq!(client("fd00::1", &["[2001:db8::1]"]), "2001:db8::1");
        assert_eq!(client("10.0.0.1", &["1.1.1.1, unknown, 10.0.0.2"]), "10.0.0.2", "as far as it can be read");
    }

    #[test]
    fn only_a_trusted_peer_may_say_where_a_request_came_from() {
        let said = [
            ("x-forwarded-for", "9.9.9.9"),
            ("x-forwarded-proto", "https"),
            ("forwarded", "for=9.9.9.9"),
            ("x-forwarded-port", "1"),
        ];
        let (host, peer) = (HeaderValue::from_static("a:8080"), address("::ffff:10.0.0.1".parse().unwrap()));
        let mut headers = map(&said);
        set_forwarded(&mut headers, &peer, false, &host, &Scheme::HTTP);
        assert_eq!(
            headers,
            map(&[
                ("x-forwarded-for", "10.0.0.1"),
                ("x-forwarded-proto", "http"),
                ("x-forwarded-host", "a:8080"),
                ("x-real-ip", "10.0.0.1")
            ])
        );
        let mut headers = map(&said);
        set_forwarded(&mut headers, &peer, true, &host, &Scheme::HTTP);
        assert_eq!(
            (&headers["x-forwarded-for"], &headers["x-forwarded-proto"]),
            (&HeaderValue::from_static("9.9.9.9, 10.0.0.1"), &HeaderValue::from_static("https"))
        );
    }
}
