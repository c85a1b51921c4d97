//! Ids, units, resources, their validation, and the compiled configuration.
//!
//! A resource goes through three steps. *Raw* ([`tollgate_proto::v1`]) mirrors what was written and trusts nothing;
//! [`yaml`] reads it and knows where each field stood. *Checked* ([`check()`]) cannot be wrong: [`Route`],
//! [`Provider`], … . *Compiled* ([`ConfigView`]) is what the hot path reads, swapped whole. Between them sits
//! [`catalog`], the replicated set of raw resources, which is pure, and [`secret`], which replaces what must not be
//! stored as it is. Every step reports all of its problems at once.
//!
//! Not here: sockets, files (but for keys), clocks, and anything that decides about a request.

pub mod catalog;
pub mod check;
mod glob;
mod ids;
mod kind;
mod month;
mod name;
mod nearest;
mod network;
mod percent;
mod problem;
mod resource;
pub mod secret;
mod time;
pub mod tls;
mod units;
mod view;
mod window;
pub mod yaml;

pub use catalog::Catalog;
pub use check::{check, kind_and_name, signing_key};
pub use glob::Glob;
pub use ids::{LogIndex, NodeId};
pub use kind::Kind;
pub use month::Month;
pub use name::Name;
pub use nearest::nearest;
pub use network::{NetworkError, parse_network};
pub use percent::Percent;
pub use problem::{Field, Location, Problem, Problems};
pub use resource::{
    Algorithm, AnyOr, Auth, Backend, Balancing, Billing, BillingMode, Budget, Certificate, Checked, CircuitBreaker,
    ClientAuth, Consumer, Cors, Credential, Durability, Endpoint, ErrorRate, Failure, FailureSet, Fallback, Faults,
    HeaderEdit, HealthCheck, Hedge, HostPattern, IpFilter, KEY_BYTES, KeyFailover, KeyPart, Labels, Limit,
    MAX_KEY_PARTS, MAX_REWRITTEN_BYTES, Mirror, Mode, ModelMap, OriginPattern, OutlierDetection, PathMatch,
    PathRewrite, Policy, Price, PriceTable, PriceTier, Priority, Protocol, Provider, ProviderKey, ProviderType,
    Question, Rates, RedirectTo, Reserve, Retries, Rewrite, Route, RouteAction, RouteMatch, Sent, Service, SlowAnswers,
    Spread, Sticky, Subject, Subset, Template, Tenant, Timeouts, TlsVersion, TokenPolicy, Traffic, Unit,
    UpstreamCertificate, UpstreamRef, UpstreamTls, ValueMatch, Webhook, When, WhenUnavailable, ZoneFailover,
    percent_decode, purse_of, tenant_of_purse,
};
pub use secret::Secret;
pub use time::{TimeZone, Timestamp, format_duration, parse_duration};
pub use units::{Currency, Money, Tokens, format_size, parse_size};
pub use view::{Caller, Certified, ConfigView, Shown, key_here, keys_missing_here};
pub use window::{Window, month_name};
