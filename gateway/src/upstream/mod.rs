//! Upstreams: their endpoints, the connections to them, how they are asked whether they are well, and how sending can fail.

mod body;
mod checks;
mod counted;
mod endpoints;
mod error;
mod figures;
mod http1;
mod keys;
mod known;
mod lane;
mod lanes;
mod means;
mod own;
mod pool;
mod taken;
mod watch;

#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc};

use http::{
    Uri,
    uri::{Authority, PathAndQuery, Scheme},
};
use tokio::net::TcpStream;
use tollgate_model::{self as model, Protocol, Provider, Service, Shown};

pub(crate) use body::UpstreamBody;
pub(crate) use checks::Checkers;
pub(crate) use endpoints::{Endpoints, NotTaken, Place};
pub(crate) use error::SendError;
pub(crate) use figures::Figures;
pub(crate) use http1::Made;
pub(crate) use keys::{GivenKey, KeyTaken, Keys};
pub(crate) use means::Means;
use means::NoFile;
use own::Wanted;
pub(crate) use pool::{Pool, Wire};
pub(crate) use taken::{Again, Report, Taken};

use crate::overload::Overload;

/// Where a request's path is appended.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Origin {
    scheme: Scheme,
    authority: Authority,
    base: String,
}

impl Origin {
    fn new(endpoint: &model::Endpoint) -> Option<Self> {
        let url = &endpoint.url;
        let base = url.path().trim_end_matches('/').to_owned();
        Some(Self { scheme: url.scheme()?.clone(), authority: url.authority()?.clone(), base })
    }

    fn uri(&self, path: &str) -> Option<Uri> {
        let target =
            if self.base.is_empty() { PathAndQuery::try_from(path) } else { format!("{}{path}", self.base).try_into() };
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
        let host = self.authority.host().trim_start_matches('[').trim_end_matches(']');
        match means::within_files(TcpStream::connect((host, port)).await, overload) {
            Ok(_) => Ok(true),
            Err(error) if error.is::<NoFile>() => Err(SendError::NoFile),
            Err(_) => Ok(false),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme, self.authority, self.base)
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
    pub(crate) fn new(service: Arc<Service>, wire: Wire, place: Place<'_>, before: Option<&Self>) -> Self {
        let before = before.map(|before| &*before.endpoints);
        let (name, spread) = (service.name.clone(), service.spread.clone());
        Self { endpoints: Arc::new(Endpoints::new(name, &service.endpoints, spread, place, before)), service, wire }
    }

    /// How a service is spoken to that is shown this.
    pub(crate) fn wire(pool: &Pool, service: &Service, shown: Option<&Arc<Shown>>, before: Option<&Self>) -> Wire {
        let own = |http2| pool.own(Wanted::new(service.tls.as_ref(), shown, http2), before.map(|before| &before.wire));
        match service.protocol {
            Protocol::H2 => own(true),
            Protocol::Https if service.tls.is_some() => own(false),
            Protocol::Http | Protocol::Https => Wire::Negotiated,
            Protocol::H2c | Protocol::Grpc => Wire::Http2,
        }
    }
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

    /// How a provider is spoken to that is shown this.
    pub(crate) fn wire(pool: &Pool, provider: &Provider, shown: Option<&Arc<Shown>>, before: Option<&Self>) -> Wire {
        let Some(tls) = &provider.tls else { return Wire::Negotiated };
        pool.own(Wanted::new(Some(tls), shown, false), before.map(|before| &before.wire))
    }
}
