//! Routes: what happens to a request that matched.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;

use super::{RedirectTo, Traffic, When};
use crate::{HostPattern, LogIndex, Name, Retries, RouteMatch, Subset};

/// Which requests, and what happens to them.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Route {
    /// Unique among routes.
    pub name: Name,
    /// The last change.
    pub version: LogIndex,
    /// Never empty: [`HostPattern::Any`] where none was given.
    pub hosts: Vec<HostPattern>,
    /// Any of these; never empty.
    pub matches: Vec<RouteMatch>,
    /// What is done.
    pub action: RouteAction,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// When a request is sent once more.
    pub retries: Option<Retries>,
    /// Who may call.
    pub auth: Auth,
    /// Output tokens.
    pub tokens: TokenPolicy,
    /// The largest request body.
    pub body_limit_bytes: u64,
    /// What a node that has much to do refuses last.
    pub priority: Priority,
    /// What else is done to its traffic; absent where that is nothing.
    pub traffic: Option<Box<Traffic>>,
}

/// What a node refuses first when it has much to do, the least first. The words are those of criticality in the Gateway API
/// Inference Extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Priority {
    /// Work that can be done later, or not at all.
    Sheddable,
    /// What most calls are.
    #[default]
    Standard,
    /// Refused only by a node that has all that it takes on.
    Critical,
}

impl Priority {
    /// As resources and metrics say it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sheddable => "sheddable",
            Self::Standard => "standard",
            Self::Critical => "critical",
        }
    }
}

impl Route {
    /// Whether a backend or a fallback is a provider: only then is the request read as an AI request.
    #[must_use]
    pub fn is_ai(&self) -> bool {
        match &self.action {
            RouteAction::Forward { backends, fallbacks } => backends
                .iter()
                .map(|backend| &backend.upstream)
                .chain(fallbacks.iter().map(|fallback| &fallback.upstream))
                .any(|upstream| matches!(upstream, UpstreamRef::Provider(_))),
            RouteAction::Redirect { .. } | RouteAction::Respond { .. } => false,
        }
    }
}

/// What is done with a request.
#[derive(Debug, Clone)]
pub enum RouteAction {
    /// Sent on. The weights' sum is greater than zero.
    Forward {
        /// The first whose `when` holds, or one of those without, by weight; never empty.
        backends: Vec<Backend>,
        /// Tried in order when that failed, before the first byte has gone to the caller.
        fallbacks: Vec<Fallback>,
    },
    /// Answered with a `location`.
    Redirect {
        /// Where to.
        to: RedirectTo,
        /// 301, 302, 303, 307 or 308.
        status: u16,
    },
    /// Answered as it stands here.
    Respond {
        /// 200 to 599.
        status: u16,
        /// The whole body.
        body: Bytes,
        /// None that frame the message.
        headers: HeaderMap,
    },
}

/// A weighted reference to an upstream.
#[derive(Debug, Clone)]
pub struct Backend {
    /// Where to.
    pub upstream: UpstreamRef,
    /// The share of requests; 0 takes none.
    pub weight: u32,
    /// The requests that it takes, with a weight of 0; absent where it takes its share of all others.
    pub when: Option<Box<When>>,
    /// Served in place of what the caller asked for; providers only. The provider's model map does not apply to it.
    /// A `Name` only for its cheap clone: it is any text that a provider takes for a model.
    pub model: Option<Name>,
    /// The part of its endpoints that is meant; all where this is absent.
    pub subset: Option<Subset>,
}

/// Where a request is sent.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UpstreamRef {
    /// An ordinary upstream.
    Service(Name),
    /// An LLM upstream.
    Provider(Name),
}

impl UpstreamRef {
    /// The upstream's name.
    #[must_use]
    pub fn name(&self) -> &Name {
        let (Self::Service(name) | Self::Provider(name)) = self;
        name
    }
}

/// An upstream to try when an earlier one failed.
#[derive(Debug, Clone)]
pub struct Fallback {
    /// Where to.
    pub upstream: UpstreamRef,
    /// As in [`Backend::model`].
    pub model: Option<Name>,
    /// As in [`Backend::subset`].
    pub subset: Option<Subset>,
    /// What must have happened before; never empty.
    pub on: FailureSet,
}

/// How an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Failure {
    /// No connection.
    Connect,
    /// Closed before the first byte of an answer.
    Reset,
    /// No first byte in time.
    Timeout,
    /// An answer with this status.
    Status(u16),
}

/// A set of failures.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FailureSet {
    pub(crate) connect: bool,
    pub(crate) reset: bool,
    pub(crate) timeout: bool,
    pub(crate) server_errors: bool,
    pub(crate) statuses: Vec<u16>,
}

impl FailureSet {
    /// Whether this failure is one of them.
    #[must_use]
    pub fn contains(&self, failure: Failure) -> bool {
        match failure {
            Failure::Connect => self.connect,
            Failure::Reset => self.reset,
            Failure::Timeout => self.timeout,
            Failure::Status(status) => {
                self.server_errors && (500..600).contains(&status) || self.statuses.contains(&status)
            }
        }
    }
}

/// How long things may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// From the request's headers to the answer's last byte; of an event stream or a service's body to the answer's head.
    pub request: Duration,
    /// From the request's headers to the last byte of an event stream or a service's body: `request`, where the route names
    /// it. Where it does not, a stream that lives is not cut for its length, and `idle` alone rules.
    pub stream: Option<Duration>,
    /// From the request's end to the answer's first byte, for each attempt.
    pub first_byte: Option<Duration>,
    /// Without a byte in either direction.
    pub idle: Duration,
}

/// Who may call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Auth {
    /// Resolved: what the route says, or whether a backend is a provider.
    pub required: bool,
    /// With `allow_consumers`, whoever is in one of them; everyone when both are empty.
    pub allow_tenants: Vec<Name>,
    /// See `allow_tenants`.
    pub allow_consumers: Vec<Name>,
}

impl Auth {
    /// Whether this caller may.
    #[must_use]
    pub fn allows(&self, tenant: &str, consumer: &str) -> bool {
        let all = self.allow_tenants.is_empty() && self.allow_consumers.is_empty();
        let among = |names: &[Name], name: &str| names.iter().any(|known| &**known == name);
        all || among(&self.allow_tenants, tenant) || among(&self.allow_consumers, consumer)
    }

    /// Whether somebody without a known credential may.
    #[must_use]
    pub fn takes_strangers(&self) -> bool {
        !self.required && self.allows("", "")
    }
}

/// Output tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenPolicy {
    /// Injected when the caller names none; never more than `max`.
    pub default: u64,
    /// The most that a caller may ask for.
    pub max: Option<u64>,
}
