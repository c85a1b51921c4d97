//! Upstreams: their endpoints in turn, the connections to them, and how sending can fail.

mod ahead;
mod error;
mod pool;

use std::sync::Arc;

use http::{
    HeaderValue, Uri,
    uri::{Authority, PathAndQuery, Scheme},
};
use tollgate_model::{Endpoint, Protocol, Provider, Service};

use crate::balance::Rotation;
pub(crate) use ahead::UpstreamBody;
pub(crate) use error::SendError;
pub(crate) use pool::{Pool, Wire};

/// The endpoints of one upstream.
#[derive(Debug)]
pub(crate) struct Origins {
    origins: Vec<Origin>,
    rotation: Rotation,
}

/// One endpoint: where a request's path is appended.
#[derive(Debug, Clone)]
struct Origin {
    scheme: Scheme,
    authority: Authority,
    base: String,
}

impl Origins {
    fn new(endpoints: &[Endpoint]) -> Self {
        let weights: Vec<u32> = endpoints.iter().map(|endpoint| endpoint.weight).collect();
        Self { origins: endpoints.iter().filter_map(Origin::new).collect(), rotation: Rotation::new(&weights) }
    }

    /// The next endpoint's URI for `path` (and query).
    pub(crate) fn next(&self, path: &str) -> Option<Uri> {
        self.origins.get(self.rotation.next()?)?.uri(path)
    }
}

impl Origin {
    fn new(endpoint: &Endpoint) -> Option<Self> {
        let url = &endpoint.url;
        let base = url.path().trim_end_matches('/').to_owned();
        Some(Self { scheme: url.scheme()?.clone(), authority: url.authority()?.clone(), base })
    }

    fn uri(&self, path: &str) -> Option<Uri> {
        let target =
            if self.base.is_empty() { PathAndQuery::try_from(path) } else { format!("{}{path}", self.base).try_into() };
        let uri = Uri::builder().scheme(self.scheme.clone()).authority(self.authority.clone());
        uri.path_and_query(target.ok()?).build().ok()
    }
}

/// An ordinary upstream, ready to be sent to.
#[derive(Debug)]
pub(crate) struct ServiceUpstream {
    pub(crate) service: Arc<Service>,
    pub(crate) origins: Origins,
}

impl ServiceUpstream {
    pub(crate) fn new(service: Arc<Service>) -> Self {
        Self { origins: Origins::new(&service.endpoints), service }
    }

    pub(crate) fn wire(&self) -> Wire {
        match self.service.protocol {
            Protocol::Http | Protocol::Https => Wire::Negotiated,
            Protocol::H2c => Wire::Http2,
        }
    }
}

/// An LLM upstream, ready to be sent to. Several keys are used in turn.
#[derive(Debug)]
pub(crate) struct ProviderUpstream {
    pub(crate) provider: Arc<Provider>,
    pub(crate) origins: Origins,
    keys: Vec<HeaderValue>,
    key_rotation: Rotation,
}

impl ProviderUpstream {
    /// `keys` are whole header values of the provider's dialect.
    pub(crate) fn new(provider: Arc<Provider>, keys: Vec<HeaderValue>) -> Self {
        let key_rotation = Rotation::new(&vec![1; keys.len()]);
        Self { origins: Origins::new(&provider.endpoints), provider, keys, key_rotation }
    }

    pub(crate) fn keys(&self) -> &[HeaderValue] {
        &self.keys
    }

    pub(crate) fn next_key(&self) -> Option<&HeaderValue> {
        self.keys.get(self.key_rotation.next()?)
    }
}
