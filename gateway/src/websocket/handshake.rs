//! The opening handshake.

use aws_lc_rs::digest;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header, request};
use hyper::ext::Protocol;

use crate::{error::Rejection, headers};

/// What the accepted key is made of, besides the key (RFC 6455 §1.3).
const ACCEPT_GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// The only version there is.
const VERSION: HeaderValue = HeaderValue::from_static("13");
const WEBSOCKET: &str = "websocket";
const KEY_BYTES: usize = 16;

/// What a request asks for beside an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    /// Nothing, or what may be ignored: many clients offer h2c (RFC 9110 §7.8).
    Nothing,
    WebSocket,
    Other,
}

impl Wish {
    pub(crate) fn of(head: &request::Parts) -> Self {
        if let Some(protocol) = head.extensions.get::<Protocol>() {
            return if protocol.as_str() == WEBSOCKET { Self::WebSocket } else { Self::Other };
        }
        let mut offers = head.headers.get_all(header::UPGRADE).iter().map(HeaderValue::as_bytes);
        match (offers.next(), offers.next()) {
            (None, _) => Self::Nothing,
            (Some(offer), None) if offer.eq_ignore_ascii_case(WEBSOCKET.as_bytes()) => Self::WebSocket,
            (Some(first), second) => {
                let ignored = |offer: &[u8]| offer.to_ascii_lowercase().starts_with(b"h2c");
                let all = ignored(first) && second.is_none_or(ignored) && offers.all(ignored);
                if all { Self::Nothing } else { Self::Other }
            }
        }
    }
}

/// Why a request for a WebSocket is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadHandshake {
    #[error("its method is not GET")]
    Method,
    #[error("it is not HTTP/1.1 without a body")]
    Framing,
    #[error("`connection` does not name `upgrade`")]
    Connection,
    #[error("`sec-websocket-key` is not 16 bytes in base64")]
    Key,
    #[error("`sec-websocket-version` is not 13")]
    Version,
}

impl From<BadHandshake> for Rejection {
    fn from(bad: BadHandshake) -> Self {
        let message = format!("The request for a WebSocket is malformed: {bad}.");
        match bad {
            // RFC 6455 §4.2.2. A 426 would have to come with an `upgrade`, which HTTP/2 has not.
            BadHandshake::Version => Self::invalid(message).with_header(header::SEC_WEBSOCKET_VERSION, VERSION),
            _ => Self::invalid(message),
        }
    }
}

/// A request for a WebSocket, as it is passed on.
#[derive(Debug)]
pub(crate) struct Handshake {
    /// Answered by the upstream: the caller's, or ours where its protocol has none.
    key: HeaderValue,
    over_http2: bool,
}

impl Handshake {
    /// `may_switch` says that nothing behind the request was read yet (HTTP/1.1).
    pub(crate) fn read(head: &request::Parts, may_switch: bool) -> Result<Self, BadHandshake> {
        let over_http2 = head.version == Version::HTTP_2;
        let headers = &head.headers;
        if !over_http2 {
            if head.method != Method::GET {
                return Err(BadHandshake::Method);
            }
            if head.version != Version::HTTP_11 || !may_switch {
                return Err(BadHandshake::Framing);
            }
            if !headers::lists(headers, &header::CONNECTION, "upgrade") {
                return Err(BadHandshake::Connection);
            }
        }
        if one(headers, &header::SEC_WEBSOCKET_VERSION) != Some(&VERSION) {
            return Err(BadHandshake::Version);
        }
        let key = if over_http2 { fresh_key() } else { given_key(headers).ok_or(BadHandshake::Key)? };
        Ok(Self { key, over_http2 })
    }

    /// Asks an upstream, by headers from which what belongs to the caller's connection was removed.
    pub(crate) fn ask(&self, headers: &mut HeaderMap) {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static(WEBSOCKET));
        headers.insert(header::SEC_WEBSOCKET_KEY, self.key.clone());
        headers.insert(header::SEC_WEBSOCKET_VERSION, VERSION);
    }

    /// Whether an upstream that switches means this handshake (RFC 6455 §4.1), and not whatever made it say 101.
    pub(crate) fn is_met(&self, answer: &HeaderMap) -> bool {
        let is_websocket = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(WEBSOCKET.as_bytes());
        one(answer, &header::UPGRADE).is_some_and(is_websocket)
            && headers::lists(answer, &header::CONNECTION, "upgrade")
            && one(answer, &header::SEC_WEBSOCKET_ACCEPT).is_some_and(|accept| *accept == *accepted(&self.key))
    }

    /// What of an answer that does not switch can't be passed on: in HTTP/2 success would mean that it did.
    pub(crate) fn misreads(&self, status: StatusCode) -> bool {
        self.over_http2 && status.is_success()
    }

    /// Tells the caller that its connection is switched, by the upstream's headers. What belongs to the upstream's connection was
    /// removed.
    pub(crate) fn tell(&self, headers: &mut HeaderMap) -> StatusCode {
        if self.over_http2 {
            headers.remove(header::SEC_WEBSOCKET_ACCEPT);
            return StatusCode::OK;
        }
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static(WEBSOCKET));
        StatusCode::SWITCHING_PROTOCOLS
    }
}

/// The only value of a header.
fn one<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

fn given_key(headers: &HeaderMap) -> Option<HeaderValue> {
    let key = one(headers, &header::SEC_WEBSOCKET_KEY)?;
    let bytes = BASE64_STANDARD.decode(key.as_bytes()).ok()?;
    (bytes.len() == KEY_BYTES).then(|| key.clone())
}

fn fresh_key() -> HeaderValue {
    let key = BASE64_STANDARD.encode(rand::random::<[u8; KEY_BYTES]>());
    HeaderValue::try_from(key).expect("base64 is text")
}

/// What whoever has read the key answers (RFC 6455 §4.2.2). SHA-1 protects nothing here: it only shows who understands.
fn accepted(key: &HeaderValue) -> String {
    let said = [key.as_bytes(), ACCEPT_GUID].concat();
    BASE64_STANDARD.encode(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &said))
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    /// RFC 6455 §1.3's own example.
    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
    const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
    const GOOD: [(&str, &str); 4] = [
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "WebSocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", KEY),
    ];

    fn head(method: &str, headers: &[(&str, &str)]) -> request::Parts {
        let request = Request::builder().method(method).uri("/");
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        request.body(()).unwrap().into_parts().0
    }

    fn with(name: &str, value: &str) -> Vec<(&'static str, String)> {
        let other = |(key, old): &(&'static str, &str)| (*key, if *key == name { value } else { *old }.to_owned());
        GOOD.iter().map(other).collect()
    }

    fn read(name: &str, value: &str) -> Result<(), BadHandshake> {
        let headers = with(name, value);
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        Handshake::read(&head("GET", &headers), true).map(drop)
    }

    #[test]
    fn what_is_asked_for_is_told_apart() {
        for (offers, wish) in [
            (&[][..], Wish::Nothing),
            (&["h2c"], Wish::Nothing),
            (&["H2C, x", "h2c"], Wish::Nothing),
            (&["websocket"], Wish::WebSocket),
            (&["WebSocket"], Wish::WebSocket),
            (&["websocket", "websocket"], Wish::Other),
            (&["h2c", "websocket"], Wish::Other),
            (&["websocket, h2c"], Wish::Other),
            (&["TLS/1.0"], Wish::Other),
            (&[""], Wish::Other),
        ] {
            let headers: Vec<_> = offers.iter().map(|offer| ("upgrade", *offer)).collect();
            assert_eq!(Wish::of(&head("GET", &headers)), wish, "{offers:?}");
        }
        let extended = |protocol| {
            let mut head = head("GET", &[]);
            head.extensions.insert(Protocol::from_static(protocol));
            Wish::of(&head)
        };
        assert_eq!((extended("websocket"), extended("connect-udp")), (Wish::WebSocket, Wish::Other));
    }

    #[test]
    fn a_handshake_has_all_its_parts() {
        assert_eq!(read("", ""), Ok(()));
        for (name, value, why) in [
            ("connection", "keep-alive", BadHandshake::Connection),
            ("connection", "xupgrade", BadHandshake::Connection),
            ("sec-websocket-version", "8", BadHandshake::Version),
            ("sec-websocket-version", "13, 8", BadHandshake::Version),
            ("sec-websocket-key", "", BadHandshake::Key),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ", BadHandshake::Key),
            ("sec-websocket-key", "dGhlIHNhbXBsZQ==", BadHandshake::Key),
        ] {
            assert_eq!(read(name, value), Err(why), "{name}: {value}");
        }
        assert_eq!(Handshake::read(&head("POST", &GOOD), true).map(drop), Err(BadHandshake::Method));
        assert_eq!(Handshake::read(&head("GET", &GOOD), false).map(drop), Err(BadHandshake::Framing));
        let twice = [&GOOD[..], &[("sec-websocket-key", KEY)]].concat();
        assert_eq!(Handshake::read(&head("GET", &twice), true).map(drop), Err(BadHandshake::Key));
    }

    #[test]
    fn only_who_has_read_the_key_has_agreed() {
        let handshake = Handshake::read(&head("GET", &GOOD), true).unwrap();
        let agreed = [("connection", "Upgrade"), ("upgrade", "websocket"), ("sec-websocket-accept", ACCEPT)];
        assert!(handshake.is_met(&head("GET", &agreed).headers));
        for (at, value) in [(0, "close"), (1, "h2c"), (2, KEY)] {
            let mut other = agreed;
            other[at].1 = value;
            assert!(!handshake.is_met(&head("GET", &other).headers), "{other:?}");
        }
        assert!(!handshake.is_met(&head("GET", &agreed[..2]).headers));
    }

    #[test]
    fn keys_of_our_own_are_keys() {
        let mut headers = HeaderMap::new();
        headers.insert(header::SEC_WEBSOCKET_KEY, fresh_key());
        assert!(given_key(&headers).is_some());
        assert_ne!(fresh_key(), fresh_key());
    }
}
