//! Checked resources: what a resource means, once nothing in it can be wrong.
//!
//! Only [`crate::check()`] makes them. They hold plain text where the hot path compares text, and secrets only sealed.

mod account_key;
mod certificate;
mod header_edit;
mod limit;
mod payer;
mod price;
mod rewrite;
mod route;
mod route_match;
mod spread;
mod subject;
mod traffic;
mod upstream;

use std::sync::Arc;

pub use account_key::{KEY_BYTES, KeyPart, MAX_KEY_PARTS};
pub use certificate::{Certificate, ClientAuth, TlsVersion};
pub use header_edit::HeaderEdit;
pub(crate) use limit::MAX_LIMIT;
pub use limit::{Algorithm, Durability, Limit, Mode, Reserve, Unit, WhenUnavailable};
pub use payer::{Billing, BillingMode, Budget, Consumer, Credential, Tenant, Webhook, purse_of, tenant_of_purse};
pub use price::{Price, PriceTable, PriceTier, Rates};
pub use rewrite::{MAX_REWRITTEN_BYTES, PathRewrite, RedirectTo, Rewrite, Template};
pub use route::{
    Auth, Backend, Failure, FailureSet, Fallback, Priority, Route, RouteAction, Timeouts, TokenPolicy, UpstreamRef,
};
pub use route_match::{HostPattern, PathMatch, RouteMatch, ValueMatch, When};
pub use spread::{
    Balancing, CircuitBreaker, ErrorRate, HealthCheck, Hedge, KeyFailover, OutlierDetection, Policy, Question, Retries,
    SlowAnswers, Spread, ZoneFailover,
};
pub use subject::{Sent, Subject, percent_decode};
pub use traffic::{AnyOr, Cors, Faults, IpFilter, Mirror, OriginPattern, Sticky, Traffic};
pub(crate) use upstream::MAX_WEIGHT;
pub use upstream::{
    Endpoint, Labels, ModelMap, Protocol, Provider, ProviderKey, ProviderType, Service, Subset, UpstreamCertificate,
    UpstreamTls,
};

use crate::{Kind, Name};

/// A checked resource of any kind.
#[derive(Debug, Clone)]
pub enum Checked {
    /// An ordinary upstream.
    Service(Arc<Service>),
    /// An LLM upstream.
    Provider(Arc<Provider>),
    /// Match and backends.
    Route(Arc<Route>),
    /// Who pays.
    Tenant(Arc<Tenant>),
    /// Who calls.
    Consumer(Arc<Consumer>),
    /// What may be used.
    Limit(Arc<Limit>),
    /// What it costs.
    Price(Arc<Price>),
    /// What clients over TLS are served.
    Certificate(Arc<Certificate>),
}

impl Checked {
    /// What it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Service(_) => Kind::Service,
            Self::Provider(_) => Kind::Provider,
            Self::Route(_) => Kind::Route,
            Self::Tenant(_) => Kind::Tenant,
            Self::Consumer(_) => Kind::Consumer,
            Self::Limit(_) => Kind::Limit,
            Self::Price(_) => Kind::Price,
            Self::Certificate(_) => Kind::Certificate,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &Name {
        match self {
            Self::Service(it) => &it.name,
            Self::Provider(it) => &it.name,
            Self::Route(it) => &it.name,
            Self::Tenant(it) => &it.name,
            Self::Consumer(it) => &it.name,
            Self::Limit(it) => &it.name,
            Self::Price(it) => &it.name,
            Self::Certificate(it) => &it.name,
        }
    }
}
