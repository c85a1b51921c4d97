//! What a route does to its traffic besides sending it on: nothing, for most.

use std::{net::IpAddr, time::Duration};

use http::{HeaderName, Method};
use ipnet::IpNet;

use super::{HeaderEdit, Rewrite};
use crate::{Name, Percent};

/// All that most routes have none of, so that they pay for none of it.
#[derive(Debug, Clone, Default)]
pub struct Traffic {
    /// Of host and path, on the way to a service.
    pub rewrite: Option<Rewrite>,
    /// Of what an upstream is sent.
    pub request_headers: HeaderEdit,
    /// Of every answer.
    pub response_headers: HeaderEdit,
    /// Who is let in.
    pub ips: Option<IpFilter>,
    /// What scripts of other origins may do.
    pub cors: Option<Cors>,
    /// Failures on purpose.
    pub faults: Option<Faults>,
    /// By what a caller stays with its backend.
    pub sticky: Option<Sticky>,
    /// Where copies of requests go.
    pub mirror: Option<Mirror>,
}

impl Traffic {
    /// Whether it is all nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.rewrite.is_none()
            && self.request_headers.is_empty()
            && self.response_headers.is_empty()
            && self.ips.is_none()
            && self.cors.is_none()
            && self.faults.is_none()
            && self.sticky.is_none()
            && self.mirror.is_none()
    }
}

/// Networks whose requests are taken or not. An IPv4 network is never in its IPv6 form.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IpFilter {
    /// These alone; everybody when empty.
    pub allow: Vec<IpNet>,
    /// Not these, whatever `allow` says.
    pub deny: Vec<IpNet>,
}

impl IpFilter {
    /// Whether this address is let in; it is canonical.
    #[must_use]
    pub fn allows(&self, address: IpAddr) -> bool {
        let among = |networks: &[IpNet]| networks.iter().any(|network| network.contains(&address));
        !among(&self.deny) && (self.allow.is_empty() || among(&self.allow))
    }
}

/// What scripts of other origins may do with a route (the Fetch standard's CORS protocol).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cors {
    /// Whose scripts; never empty.
    pub origins: Vec<OriginPattern>,
    /// The methods that they may use.
    pub methods: AnyOr<Method>,
    /// The headers that they may send.
    pub headers: AnyOr<HeaderName>,
    /// The headers that they may read.
    pub expose_headers: AnyOr<HeaderName>,
    /// Whether a browser sends what it knows of its user. Not with [`OriginPattern::Any`].
    pub credentials: bool,
    /// How long a preflight's answer is kept, in whole seconds.
    pub max_age: Option<Duration>,
}

impl Cors {
    /// Whether scripts of this origin may do anything.
    #[must_use]
    pub fn allows(&self, origin: &str) -> bool {
        self.origins.iter().any(|pattern| pattern.matches(origin))
    }

    /// Whether it makes no difference where a script is from.
    #[must_use]
    pub fn is_for_all(&self) -> bool {
        self.origins.contains(&OriginPattern::Any)
    }
}

/// All, or some.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AnyOr<T> {
    /// `*`.
    Any,
    /// These.
    Some(Vec<T>),
}

/// Origins: scheme, host and port, in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OriginPattern {
    /// Every origin.
    Any,
    /// This one.
    Exact(String),
    /// Those of a scheme whose host and port end in this.
    Suffix {
        /// `https://`.
        scheme: String,
        /// `.example.com`, or `.example.com:8443`.
        suffix: String,
    },
}

impl OriginPattern {
    fn matches(&self, origin: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => origin.eq_ignore_ascii_case(exact),
            Self::Suffix { scheme, suffix } => {
                let origin = origin.to_ascii_lowercase();
                let labels = origin.strip_prefix(scheme.as_str()).and_then(|rest| rest.strip_suffix(suffix.as_str()));
                let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
                labels.is_some_and(|labels| !labels.is_empty() && labels.bytes().all(plain))
            }
        }
    }
}

/// By what a caller stays with its backend while weights stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sticky {
    /// A cookie that the gateway makes.
    Cookie {
        /// Its name, a token.
        name: String,
        /// How long a browser keeps it, in whole seconds.
        max_age: Option<Duration>,
    },
    /// The value of this header.
    Header(HeaderName),
    /// Who calls.
    Consumer,
    /// The client's address.
    Ip,
}

/// Where copies of requests go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// The service.
    pub service: Name,
    /// How many of them.
    pub percent: Percent,
}

/// Failures on purpose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults {
    /// Who waits, and how long.
    pub delay: Option<(Percent, Duration)>,
    /// Who is answered with this status at once.
    pub abort: Option<(Percent, u16)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deny_wins_and_an_empty_allow_lets_everybody_in() {
        let filter = |allow: &[&str], deny: &[&str]| IpFilter {
            allow: allow.iter().map(|net| net.parse().unwrap()).collect(),
            deny: deny.iter().map(|net| net.parse().unwrap()).collect(),
        };
        let both = filter(&["10.0.0.0/8", "2001:db8::/32"], &["10.1.0.0/16"]);
        for (address, allowed) in
            [("10.0.0.1", true), ("10.1.0.1", false), ("11.0.0.1", false), ("2001:db8::1", true), ("::1", false)]
        {
            assert_eq!(both.allows(address.parse().unwrap()), allowed, "{address}");
        }
        let deny = filter(&[], &["10.0.0.0/8"]);
        assert!(deny.allows("::1".parse().unwrap()) && !deny.allows("10.9.9.9".parse().unwrap()));
    }

    #[test]
    fn an_origin_is_matched_as_a_whole() {
        let suffix = OriginPattern::Suffix { scheme: "https://".into(), suffix: ".example.com".into() };
        for (origin, matches) in [
            ("https://a.example.com", true),
            ("https://A.b.Example.com", true),
            ("https://example.com", false),
            ("https://.example.com", false),
            ("http://a.example.com", false),
            ("https://a.example.com:8443", false),
            ("https://evil.com/.example.com", false),
            ("https://evil.com#.example.com", false),
            ("https://u@a.example.com", false),
            ("https://evilexample.com", false),
            ("null", false),
        ] {
            assert_eq!(suffix.matches(origin), matches, "{origin}");
        }
        let exact = OriginPattern::Exact("https://a.example.com".into());
        assert!(exact.matches("https://a.example.com") && !exact.matches("https://a.example.com.evil.com"));
    }
}
