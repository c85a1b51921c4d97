//! How requests are spread over an upstream's endpoints, and which of them are left alone.

use std::time::Duration;

use crate::{Failure, FailureSet, KeyPart, Name};

/// What an upstream says of its endpoints together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Spread {
    /// Which endpoint has a request.
    pub balancing: Balancing,
    /// Asked whether they are well; none where nobody asks.
    pub health_check: Option<HealthCheck>,
    /// Left alone for a while when they fail; none where they never are.
    pub outliers: Option<OutlierDetection>,
    /// What is too much.
    pub breaker: CircuitBreaker,
}

/// Which endpoint has a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Balancing {
    /// By what it is selected.
    pub policy: Policy,
    /// Endpoints of a node's own zone, and those without a zone, come first.
    pub prefer_local: bool,
    /// Which zones come after a node's own.
    pub failover: Vec<ZoneFailover>,
    /// With less than this percent of the weight usable all endpoints are used.
    pub panic_threshold: u32,
    /// How long an endpoint that has come back takes to get its whole share.
    pub slow_start: Option<Duration>,
}

impl Balancing {
    /// Two of three zones may be gone, and the third still knows what is well.
    pub(crate) const PANIC_THRESHOLD: u32 = 30;

    /// The zones that come after a node's own, the next one first. What is not among them comes after these.
    #[must_use]
    pub fn zones_after(&self, own: &str) -> &[Name] {
        let for_it = self.failover.iter().find(|it| it.from.as_deref() == Some(own));
        let for_it = for_it.or_else(|| self.failover.iter().find(|it| it.from.is_none()));
        for_it.map_or(&[], |it| &it.to)
    }
}

/// Where requests go that a zone can't serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZoneFailover {
    /// The zone of the nodes that have them. None: any that no other one is for.
    pub from: Option<Name>,
    /// The next one first.
    pub to: Vec<Name>,
}

impl Default for Balancing {
    fn default() -> Self {
        let panic_threshold = Self::PANIC_THRESHOLD;
        Self { policy: Policy::RoundRobin, prefer_local: true, failover: Vec::new(), panic_threshold, slow_start: None }
    }
}

/// By what an endpoint is selected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Policy {
    /// In turn, by weight.
    RoundRobin,
    /// Of two that are drawn by weight, the one with less to do.
    LeastRequest,
    /// Drawn by weight.
    Random,
    /// The next one on a ring: what has the same value goes to the same endpoint.
    RingHash(KeyPart),
    /// As a table says: the same, evener, and faster.
    Maglev(KeyPart),
}

impl Policy {
    /// What requests are told apart by.
    #[must_use]
    pub fn hash_on(&self) -> Option<&KeyPart> {
        match self {
            Self::RingHash(part) | Self::Maglev(part) => Some(part),
            Self::RoundRobin | Self::LeastRequest | Self::Random => None,
        }
    }
}

/// How endpoints are asked whether they are well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// What is asked.
    pub question: Question,
    /// From one question to the next, to each endpoint.
    pub interval: Duration,
    /// How long an answer is waited for.
    pub timeout: Duration,
    /// Failures in a row after which a well one is not.
    pub unhealthy_after: u32,
    /// Good answers in a row after which it is again.
    pub healthy_after: u32,
}

/// What an endpoint is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// GET, from the origin, whatever the endpoint's own path: 200 to 299 is well.
    Http(http::uri::PathAndQuery),
    /// Whether it takes a connection.
    Tcp,
    /// `grpc.health.v1.Health/Check` of the whole server: `SERVING` is well.
    Grpc,
}

/// When an endpoint is left alone because of what requests met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutlierDetection {
    /// Failures in a row, where these are gone by.
    pub consecutive_errors: Option<u32>,
    /// The share of requests that failed, where it is.
    pub error_rate: Option<ErrorRate>,
    /// How long answers take, where that is.
    pub latency: Option<SlowAnswers>,
    /// For so long the first time.
    pub eject_for: Duration,
    /// Of all endpoints; one may always be, where there is another.
    pub max_ejected_percent: u32,
}

/// From which share of failures on an endpoint is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorRate {
    /// Of its requests.
    pub percent: u32,
    /// Of late.
    pub interval: Duration,
    /// With fewer in the interval there is no share.
    pub min_requests: u32,
}

/// How much slower than its peers an endpoint is that is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlowAnswers {
    /// In hundredths of what is usual among the peers.
    pub factor_percent: u32,
    /// Which of its answers says how slow it is.
    pub percentile: u32,
    /// Of late.
    pub interval: Duration,
    /// With fewer in the interval nothing is known of it.
    pub min_requests: u32,
    /// With fewer others of whom something is known nothing is usual.
    pub min_peers: u32,
    /// What is faster is fast enough.
    pub min_latency: Duration,
}

/// What is refused at once, as more would only wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CircuitBreaker {
    /// Requests in flight to all endpoints, of one node.
    pub max_requests: Option<u32>,
    /// Connections of one node to all endpoints; requests beyond them wait for one that comes free.
    pub max_connections: Option<u32>,
    /// Requests that wait for that at once.
    pub max_pending: Option<u32>,
}

/// When a provider's key is rested because it is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyFailover {
    /// Refusals in a row.
    pub failure_threshold: u32,
    /// Requests that it takes, one at a time, to take it back.
    pub success_threshold: u32,
    /// From a rest, or such a request, to the next.
    pub probe_interval: Duration,
}

/// When a request is sent once more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retries {
    /// How often at most.
    pub attempts: u32,
    /// After what.
    pub on: FailureSet,
    /// When it is sent to one more while it is not answered.
    pub hedge: Option<Hedge>,
}

/// When a request that may be done twice is sent to another endpoint as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hedge {
    /// No answer has begun for so long.
    pub after: Duration,
    /// How often at most.
    pub max: u32,
}

impl Retries {
    /// Whether a request that failed so is sent once more. One that the upstream `may_have_begun` to work on, and that does
    /// something else when it is done twice, is so only where the route names `reset`.
    #[must_use]
    pub fn allow(&self, failure: Failure, may_have_begun: bool, is_idempotent: bool) -> bool {
        let is_harmless = is_idempotent || !may_have_begun || self.on.contains(Failure::Reset);
        self.on.contains(failure) && is_harmless
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_have_begun_is_repeated_where_that_is_harmless_or_reset_is_named() {
        let retries = |on: FailureSet| Retries { attempts: 1, on, hedge: None };
        let timeout = retries(FailureSet { timeout: true, ..FailureSet::default() });
        let both = retries(FailureSet { timeout: true, reset: true, ..FailureSet::default() });
        for (retries, begun, idempotent, allowed) in [
            (&timeout, true, true, true),
            (&timeout, true, false, false),
            (&timeout, false, false, true),
            (&both, true, false, true),
        ] {
            assert_eq!(retries.allow(Failure::Timeout, begun, idempotent), allowed, "{retries:?} {begun} {idempotent}");
        }
        assert!(!timeout.allow(Failure::Reset, false, true), "what is not named is not repeated");
    }
}
