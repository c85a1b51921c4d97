//! Where requests go.

use std::{borrow::Cow, collections::BTreeMap, fmt, path::PathBuf, sync::Arc};

use rustls_pki_types::ServerName;

use crate::{
    Glob, KeyFailover, LogIndex, Name, Spread,
    tls::{Authorities, Chain},
};

/// An ordinary upstream.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Service {
    /// Unique among services.
    pub name: Name,
    /// The last change.
    pub version: LogIndex,
    /// How it is spoken to.
    pub protocol: Protocol,
    /// Never empty; the weights' sum is greater than zero.
    pub endpoints: Vec<Endpoint>,
    /// How they are met over TLS, where not as usual.
    pub tls: Option<UpstreamTls>,
    /// Which of them has a request.
    pub spread: Spread,
}

/// How an ordinary upstream is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.1 in clear text.
    Http,
    /// HTTP/1.1 or HTTP/2 over TLS, by ALPN.
    Https,
    /// HTTP/2 in clear text, by prior knowledge.
    H2c,
    /// The same, and gRPC alone: what asks by gRPC-Web is translated.
    Grpc,
    /// HTTP/2 over TLS, and nothing else.
    H2,
}

/// How an upstream is met over TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamTls {
    /// Who vouches for it; the system's authorities and the node's own where this is absent.
    pub authorities: Option<Authorities>,
    /// What it is called; as its endpoint's host where this is absent.
    pub server_name: Option<ServerName<'static>>,
    /// What it is shown.
    pub certificate: Option<UpstreamCertificate>,
}

/// What an upstream is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamCertificate {
    /// Our own first.
    pub chain: Chain,
    /// Where its key is; none while it is only being checked.
    pub key: Option<ProviderKey>,
}

/// Of an endpoint or a backend: so that the sum of thousands still fits.
pub(crate) const MAX_WEIGHT: u32 = 1_000_000;

/// One address of an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Scheme, authority and base path. The base path has no slash at its end but where it is nothing else: a
    /// request's own path is appended to it.
    pub url: http::Uri,
    /// Where it is.
    pub zone: Option<Name>,
    /// The share of requests; 0 takes none.
    pub weight: u32,
    /// What subsets go by.
    pub labels: Labels,
}

/// Names and their values.
pub type Labels = Arc<BTreeMap<String, String>>;

/// A part of an upstream's endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subset {
    /// Those that have all of these; never empty.
    pub labels: Labels,
    /// Whether all endpoints are meant where none of those that have requests has them.
    pub or_any: bool,
}

/// An LLM upstream.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Provider {
    /// Unique among providers.
    pub name: Name,
    /// The last change.
    pub version: LogIndex,
    /// What it speaks.
    pub dialect: ProviderType,
    /// Never empty; the weights' sum is greater than zero. Their paths carry the version: `/v1`.
    pub endpoints: Vec<Endpoint>,
    /// How they are met over TLS, where not as usual.
    pub tls: Option<UpstreamTls>,
    /// Which of them has a request.
    pub spread: Spread,
    /// Any number; none for a provider that asks for none. [`crate::ConfigView::provider_key`] has the keys themselves.
    pub keys: Vec<ProviderKey>,
    /// In the order of the keys, each one's share of requests; 0 takes none.
    pub key_weights: Vec<u32>,
    /// When a key is rested; none where none ever is.
    pub key_failover: Option<KeyFailover>,
    /// What its models are called there.
    pub models: ModelMap,
}

/// What a provider speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProviderType {
    /// The OpenAI API.
    OpenAi,
    /// The Anthropic API.
    Anthropic,
}

impl ProviderType {
    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::Anthropic => "anthropic",
        }
    }
}

/// Where a provider's key is found.
#[derive(Clone, PartialEq, Eq)]
pub enum ProviderKey {
    /// Sealed under the cluster key.
    Sealed(String),
    /// In this environment variable of each node.
    Env(String),
    /// In this file on each node.
    File(PathBuf),
}

impl ProviderKey {
    /// The field that it stands in.
    #[must_use]
    pub fn field(&self) -> &'static str {
        match self {
            Self::Sealed(_) => "sealed",
            Self::Env(_) => "env",
            Self::File(_) => "file",
        }
    }
}

impl fmt::Debug for ProviderKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sealed(_) => f.write_str("Sealed(…)"),
            Self::Env(name) => write!(f, "Env({name})"),
            Self::File(path) => write!(f, "File({})", path.display()),
        }
    }
}

/// From the model asked for to the provider's own name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ModelMap {
    /// The most specific pattern first.
    entries: Vec<(Glob, String)>,
}

impl ModelMap {
    /// Takes the pairs in any order; of two patterns that match, the one without `*`, then the longer one counts.
    pub(crate) fn new(pairs: impl IntoIterator<Item = (Glob, String)>) -> Self {
        let mut entries: Vec<_> = pairs.into_iter().collect();
        entries.sort_by(|(a, _), (b, _)| {
            let rank = |glob: &Glob| (glob.is_plain(), glob.literal_len());
            rank(b).cmp(&rank(a)).then_with(|| a.cmp(b))
        });
        Self { entries }
    }

    /// The provider's own name for the model asked for; what no pattern matches passes unchanged.
    #[must_use]
    pub fn resolve<'a>(&'a self, asked: &'a str) -> Cow<'a, str> {
        let found = self.entries.iter().find(|(pattern, _)| pattern.matches(asked));
        Cow::Borrowed(found.map_or(asked, |(_, own)| own))
    }

    /// The names that can be asked for as they stand, sorted by length and text: those without `*`.
    pub fn plain_names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().filter(|(pattern, _)| pattern.is_plain()).map(|(pattern, _)| pattern.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_specific_model_pattern_counts() {
        let map = ModelMap::new(
            [("*", "any"), ("gpt-*", "gpt"), ("gpt-4*", "four"), ("gpt-4o", "exact")]
                .map(|(from, to)| (Glob::new(from), to.to_owned())),
        );
        for (asked, own) in [("gpt-4o", "exact"), ("gpt-4o-mini", "four"), ("gpt-3", "gpt"), ("claude", "any")] {
            assert_eq!(map.resolve(asked), own);
        }
        assert_eq!(ModelMap::default().resolve("claude"), "claude");
        assert_eq!(map.plain_names().collect::<Vec<_>>(), ["gpt-4o"]);
    }

    #[test]
    fn a_sealed_key_is_not_shown() {
        assert_eq!(format!("{:?}", ProviderKey::Sealed("abc".into())), "Sealed(…)");
    }
}
