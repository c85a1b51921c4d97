//! What limits know of a request: borrowed from it, so that what no limit asks for costs nothing.

use std::{borrow::Cow, net::IpAddr};

use http::{HeaderMap, header};

use super::account_key::{KeyPart, fit};
use crate::Currency;

/// What limits know of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subject<'a> {
    /// Who pays; absent without authentication.
    pub tenant: Option<&'a str>,
    /// Who calls; absent without authentication.
    pub consumer: Option<&'a str>,
    /// The matched route.
    pub route: &'a str,
    /// The model asked for; absent where the request names none.
    pub model: Option<&'a str>,
    /// The provider that is tried first; absent before it is selected, and where none is asked.
    pub provider: Option<&'a str>,
    /// What its tenant is billed in for it; absent where nothing is billed.
    pub currency: Option<Currency>,
    /// The client's address, canonical: an IPv4 address is never in its IPv6 form.
    pub ip: Option<IpAddr>,
    /// What else the client sent; absent where it is not known.
    pub sent: Option<Sent<'a>>,
}

impl<'a> Subject<'a> {
    /// A request to this route, of which nothing else is known.
    #[must_use]
    pub const fn of_route(route: &'a str) -> Self {
        Self { tenant: None, consumer: None, route, model: None, provider: None, currency: None, ip: None, sent: None }
    }

    pub(super) fn has(&self, part: &KeyPart) -> bool {
        match part {
            KeyPart::Tenant => self.tenant.is_some(),
            KeyPart::Consumer => self.consumer.is_some(),
            KeyPart::Provider => self.provider.is_some(),
            KeyPart::Ip => self.ip.is_some(),
            KeyPart::Route | KeyPart::Model | KeyPart::Header(_) | KeyPart::Cookie(_) | KeyPart::Query(_) => true,
        }
    }

    pub(super) fn value(&self, part: &KeyPart, parts: usize) -> String {
        fit(&self.sent_value(part), part.is_secret(), parts)
    }

    /// The value as it came, secrets included; empty where there is none.
    #[must_use]
    pub fn sent_value(&self, part: &KeyPart) -> Cow<'a, [u8]> {
        let sent = self.sent.unwrap_or_default();
        match part {
            KeyPart::Tenant => of(self.tenant),
            KeyPart::Consumer => of(self.consumer),
            KeyPart::Route => of(Some(self.route)),
            KeyPart::Model => of(self.model),
            KeyPart::Provider => of(self.provider),
            KeyPart::Ip => self.ip.map_or_else(Cow::default, |ip| ip.to_string().into_bytes().into()),
            KeyPart::Header(name) => sent.header(name),
            KeyPart::Cookie(name) => sent.cookie(name),
            KeyPart::Query(name) => sent.parameter(name),
        }
    }
}

fn of(text: Option<&str>) -> Cow<'_, [u8]> {
    text.unwrap_or_default().as_bytes().into()
}

/// What a client sent, as far as limits may ask for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sent<'a> {
    /// The request's headers.
    pub headers: Option<&'a HeaderMap>,
    /// Credentials among the headers, where they are not in `headers` any more.
    pub credentials: Option<&'a HeaderMap>,
    /// The query, without the question mark.
    pub query: Option<&'a str>,
}

impl<'a> Sent<'a> {
    fn header(self, name: &str) -> Cow<'a, [u8]> {
        let within = |headers: Option<&'a HeaderMap>| {
            let mut values = headers?.get_all(name).iter();
            let first = values.next()?.as_bytes();
            let mut all = Cow::Borrowed(first);
            for value in values {
                all.to_mut().extend_from_slice(b", ");
                all.to_mut().extend_from_slice(value.as_bytes());
            }
            Some(all)
        };
        within(self.credentials).or_else(|| within(self.headers)).unwrap_or_default()
    }

    fn cookie(self, name: &str) -> Cow<'a, [u8]> {
        let lines = self.headers.into_iter().flat_map(|headers| headers.get_all(header::COOKIE));
        let pairs = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
        let found = pairs.map(<[u8]>::trim_ascii).find_map(|pair| {
            let at = pair.iter().position(|byte| *byte == b'=')?;
            (&pair[..at] == name.as_bytes()).then(|| &pair[at + 1..])
        });
        found.unwrap_or_default().into()
    }

    fn parameter(self, name: &str) -> Cow<'a, [u8]> {
        let pairs = self.query.into_iter().flat_map(|query| query.split('&'));
        let found = pairs
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .find_map(|(key, value)| (*percent_decode(key) == *name.as_bytes()).then(|| percent_decode(value)));
        found.unwrap_or_default()
    }
}

/// Percent-decoding and `+` for a space; what is no escape stays as it is.
#[must_use]
pub fn percent_decode(text: &str) -> Cow<'_, [u8]> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text.as_bytes());
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let escaped = after.get(..2).filter(|_| byte == b'%').and_then(|hex| hex_byte(hex[0], hex[1]));
        decoded.push(escaped.unwrap_or(if byte == b'+' { b' ' } else { byte }));
        rest = if escaped.is_some() { &after[2..] } else { after };
    }
    Cow::Owned(decoded)
}

fn hex_byte(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(high)? * 16 + digit(low)?)
}
