//! Upstreams: their endpoints, the connections to them, how they are asked whether they are well, and how sending can fail.

mod body;
mod breaker;
mod checks;
mod counted;
mod detour;
mod dns;
mod endpoints;
mod error;
mod figures;
mod http1;
mod http2;
mod keys;
mod known;
mod lane;
mod lanes;
mod means;
mod own;
mod peer;
mod place;
mod pool;
mod taken;
mod watch;
mod within;

#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc};

use http::{
    Uri,
    uri::{Authority, PathAndQuery, Scheme},
};
use tokio::net::TcpStream;
use tollgate_model::{self as model, CircuitBreaker, Protocol, Provider, Service, Shown, Subset};

pub(crate) use body::UpstreamBody;
pub(crate) use checks::Checkers;
pub(crate) use detour::Detour;
use dns::At;
pub(crate) use dns::Resolvers;
pub(crate) use endpoints::{Endpoints, NotTaken, Place};
pub(crate) use error::SendError;
pub(crate) use figures::Figures;
pub(crate) use http1::Made;
pub(crate) use keys::{GivenKey, KeyTaken, Keys};
pub(crate) use means::Means;
use means::NoFile;
use own::{Speaks, Wanted};
pub(crate) use pool::{Pool, Wire};
pub(crate) use taken::{Again, Report, Taken};
pub(crate) use within::Within;

use crate::overload::Overload;

/// Where a request's path is appended.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Origin {
    scheme: Scheme,
    authority: Authority,
    base: String,
    at: At,
}

impl Origin {
    fn new(endpoint: &model::Endpoint) -> Option<Self> {
        let url = &endpoint.url;
        let base = url.path().trim_end_matches('/').to_owned();
        Some(Self { scheme: url.scheme()?.clone(), authority: url.authority()?.clone(), base, at: At::Itself })
    }

    /// Whether it is the same, wherever connections to it go.
    fn is_but_for_its_place(&self, other: &Self) -> bool {
        (&self.scheme, &self.authority, &self.base) == (&other.scheme, &other.authority, &other.base)
    }

    fn uri(&self, path: &str) -> Option<Uri> {
        let target = if self.base.is_empty() {
            PathAndQuery::try_from(path)
        } else {
            [self.base.as_str(), path].concat().try_into()
        };
        self.at(target.ok()?)
    }

    fn uri_of(&self, target: PathAndQuery) -> Option<Uri> {
        if self.base.is_empty() { self.at(target) } else { self.uri(target.as_str()) }
    }

    /// From its origin, whatever its own path.
    fn at(&self, target: PathAndQuery) -> Option<Uri> {
        let uri = Uri::builder().scheme(self.scheme.clone()).authority(self.authority.clone());
        uri.path_and_query(target).build().ok()
    }
}

impl Origin {
    /// Whether it does, within the files that are for connections.
    async fn takes_connections(&self, overload: &Overload) -> Result<bool, SendError> {
        let port = self.authority.port_u16().unwrap_or(if self.scheme == Scheme::HTTPS { 443 } else { 80 });
        let Ok(addresses) = self.at.addresses(self.authority.host(), port).await else { return Ok(false) };
        match means::within_files(TcpStream::connect(&*addresses).await, overload) {
            Ok(_) => Ok(true),
            Err(error) if error.is::<NoFile>() => Err(SendError::NoFile),
            Err(_) => Ok(false),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}{}", self.scheme, self.authority, self.base, self.at)
    }
}

/// An ordinary upstream, ready to be sent to.
#[derive(Debug)]
pub(crate) struct ServiceUpstream {
    pub(crate) service: Arc<Service>,
    pub(crate) endpoints: Arc<Endpoints>,
    pub(crate) wire: Wire,
}

impl ServiceUpstream {
    /// The same, by what is known of its names now.
    pub(crate) fn renewed(&self, place: Place<'_>) -> Self {
        Self::new(Arc::clone(&self.service), self.wire.clone(), place, Some(self))
    }

    pub(crate) fn new(service: Arc<Service>, wire: Wire, place: Place<'_>, before: Option<&Self>) -> Self {
        let before = before.map(|before| &*before.endpoints);
        let (name, spread) = (service.name.clone(), service.spread.clone());
        Self { endpoints: Arc::new(Endpoints::new(name, &service.endpoints, spread, place, before)), service, wire }
    }

    /// With those of its endpoints that are meant. None where there are none that have requests.
    pub(crate) fn part(self: &Arc<Self>, subset: Option<&Subset>) -> Option<Arc<Self>> {
        let Some(subset) = subset else { return Some(Arc::clone(self)) };
        let endpoints = self.endpoints.of(subset)?;
        Some(Arc::new(Self { service: Arc::clone(&self.service), endpoints, wire: self.wire.clone() }))
    }

    /// How a service is spoken to that is shown this.
    pub(crate) fn wire(pool: &Pool, service: &Service, shown: Option<&Arc<Shown>>, before: Option<&Self>) -> Wire {
        let (terms, before) = (service.spread.breaker, before.map(|before| &before.wire));
        let own = |speaks| pool.own(Wanted::new(service.tls.as_ref(), shown, speaks), terms, before);
        let is_bounded = follow(terms, before);
        match service.protocol {
            Protocol::H2 => own(Speaks::Http2),
            Protocol::Https if service.tls.is_some() => own(Speaks::Negotiated),
            Protocol::Http | Protocol::Https if is_bounded => own(Speaks::Negotiated),
            Protocol::H2c | Protocol::Grpc if is_bounded => own(Speaks::ClearHttp2),
            Protocol::Http | Protocol::Https => Wire::Negotiated,
            Protocol::H2c | Protocol::Grpc => Wire::Http2,
        }
    }
}

/// Whether an upstream's connections are bounded. Those who wait by what was said before hear of it.
fn follow(terms: CircuitBreaker, before: Option<&Wire>) -> bool {
    before.and_then(Wire::breaker).iter().for_each(|breaker| breaker.follow(terms));
    terms.max_connections.is_some()
}

/// An LLM upstream, ready to be sent to.
#[derive(Debug)]
pub(crate) struct ProviderUpstream {
    pub(crate) provider: Arc<Provider>,
    pub(crate) endpoints: Arc<Endpoints>,
    pub(crate) keys: Arc<Keys>,
    pub(crate) wire: Wire,
}

impl ProviderUpstream {
    /// `keys` are of the provider's dialect.
    pub(crate) fn new(
        provider: Arc<Provider>,
        keys: &[GivenKey],
        wire: Wire,
        place: Place<'_>,
        before: Option<&Self>,
    ) -> Self {
        let (name, spread) = (provider.name.clone(), provider.spread.clone());
        let known = before.map(|before| &*before.keys);
        let keys = Arc::new(Keys::new(name.clone(), provider.version, keys, provider.key_failover, known));
        let before = before.map(|before| &*before.endpoints);
        let endpoints = Arc::new(Endpoints::new(name, &provider.endpoints, spread, place, before));
        Self { endpoints, provider, keys, wire }
    }

    /// The same, by what is known of its names now.
    pub(crate) fn renewed(&self, place: Place<'_>) -> Self {
        let (provider, keys, wire) = (Arc::clone(&self.provider), Arc::clone(&self.keys), self.wire.clone());
        let (name, spread) = (provider.name.clone(), provider.spread.clone());
        let endpoints = Endpoints::new(name, &provider.endpoints, spread, place, Some(&self.endpoints));
        Self { endpoints: Arc::new(endpoints), provider, keys, wire }
    }

    /// With those of its endpoints that are meant. None where there are none that have requests.
    pub(crate) fn part(self: &Arc<Self>, subset: Option<&Subset>) -> Option<Arc<Self>> {
        let Some(subset) = subset else { return Some(Arc::clone(self)) };
        let (provider, keys) = (Arc::clone(&self.provider), Arc::clone(&self.keys));
        Some(Arc::new(Self { endpoints: self.endpoints.of(subset)?, provider, keys, wire: self.wire.clone() }))
    }

    /// How a provider is spoken to that is shown this.
    pub(crate) fn wire(pool: &Pool, provider: &Provider, shown: Option<&Arc<Shown>>, before: Option<&Self>) -> Wire {
        let (terms, tls) = (provider.spread.breaker, provider.tls.as_ref());
        let before = before.map(|before| &before.wire);
        if !follow(terms, before) && tls.is_none() {
            return Wire::Negotiated;
        }
        pool.own(Wanted::new(tls, shown, Speaks::Negotiated), terms, before)
    }
}
