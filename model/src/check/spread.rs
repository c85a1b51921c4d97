//! What a service or a provider says of its endpoints together.

use std::time::Duration;

use tollgate_proto::v1;

use super::context::{Context, Value::Is};
use crate::{
    Balancing, CircuitBreaker, Field, HealthCheck, KeyFailover, KeyPart, OutlierDetection, Policy, Question, Spread,
};

/// As the contract shows it: a dead endpoint is found within seconds, for a few requests a minute.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);
const CHECK_TIMEOUT: Duration = Duration::from_millis(500);
const UNHEALTHY_AFTER: u32 = 3;
const HEALTHY_AFTER: u32 = 2;
/// What is asked more often does little else.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);

/// As the contract shows it.
const CONSECUTIVE_ERRORS: u32 = 5;
const EJECT_FOR: Duration = Duration::from_secs(30);
const MAX_EJECTED_PERCENT: u32 = 50;

/// As the contract shows it.
const FAILURE_THRESHOLD: u32 = 3;
const SUCCESS_THRESHOLD: u32 = 1;
const PROBE_INTERVAL: Duration = Duration::from_secs(5);

/// Longer than that nothing is waited for here: a mistake.
const LONGEST: Duration = Duration::from_hours(1);
/// In a row: more is a mistake, too.
const MOST_IN_A_ROW: u32 = 1_000;

/// The parts as they were given.
pub(super) struct Given<'a> {
    pub(super) balancing: Option<&'a v1::LoadBalancing>,
    pub(super) health_check: Option<&'a v1::HealthCheck>,
    pub(super) outliers: Option<&'a v1::OutlierDetection>,
    pub(super) breaker: Option<&'a v1::CircuitBreaker>,
    /// Whether HTTP/2 can be spoken to all endpoints.
    pub(super) http2: bool,
}

impl Given<'_> {
    pub(super) fn check(&self, context: &mut Context, spec: &Field<'_>) -> Spread {
        let balancing = self.balancing.map(|given| balancing(context, &spec.field("loadBalancing"), given));
        let health_check =
            self.health_check.and_then(|given| health_check(context, &spec.field("healthCheck"), given, self.http2));
        let outliers = self.outliers.map(|given| outliers(context, &spec.field("outlierDetection"), given));
        let breaker = self.breaker.map(|given| breaker(context, &spec.field("circuitBreaker"), given));
        let (balancing, breaker) = (balancing.unwrap_or_default(), breaker.unwrap_or_default());
        Spread { balancing, health_check, outliers, breaker }
    }
}

/// The names of the policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    RoundRobin,
    LeastRequest,
    Random,
    RingHash,
    Maglev,
}

fn balancing(context: &mut Context, at: &Field<'_>, given: &v1::LoadBalancing) -> Balancing {
    let policies = [
        ("roundRobin", Is(Word::RoundRobin)),
        ("leastRequest", Is(Word::LeastRequest)),
        ("random", Is(Word::Random)),
        ("ringHash", Is(Word::RingHash)),
        ("maglev", Is(Word::Maglev)),
    ];
    let word = context.word(&at.field("policy"), &given.policy, &policies).unwrap_or(Word::RoundRobin);
    let zones = [("preferLocal", Is(true)), ("any", Is(false))];
    let prefer_local = context.word(&at.field("zones"), &given.zones, &zones).unwrap_or(true);
    let slow_start = duration(context, &at.field("slowStart"), &given.slow_start);
    let panic_threshold = given.panic_threshold.unwrap_or(Balancing::PANIC_THRESHOLD);
    if panic_threshold > 100 {
        context.add(&at.field("panicThreshold"), "is a percentage: 0 to 100");
    }
    let policy = policy(context, at, word, given);
    if slow_start.is_some() && policy.hash_on().is_some() {
        let message = "is not for ringHash and maglev: what has a value goes to its endpoint from the first request on";
        context.add(&at.field("slowStart"), message);
    }
    Balancing { policy, prefer_local, panic_threshold, slow_start }
}

fn policy(context: &mut Context, at: &Field<'_>, word: Word, given: &v1::LoadBalancing) -> Policy {
    let hashes = matches!(word, Word::RingHash | Word::Maglev);
    let field = at.field("hashOn");
    if !hashes && !given.hash_on.is_empty() {
        context.add(&field, "is only for the policies ringHash and maglev");
    }
    let part = if hashes { hash_on(context, &field, &given.hash_on) } else { None };
    match (word, part) {
        (Word::LeastRequest, _) => Policy::LeastRequest,
        (Word::Random, _) => Policy::Random,
        (Word::RingHash, Some(part)) => Policy::RingHash(part),
        (Word::Maglev, Some(part)) => Policy::Maglev(part),
        // A hash of nothing is a problem that was told.
        (Word::RoundRobin | Word::RingHash | Word::Maglev, _) => Policy::RoundRobin,
    }
}

fn hash_on(context: &mut Context, at: &Field<'_>, text: &str) -> Option<KeyPart> {
    const WORDS: &str = "header:NAME | cookie:NAME | query:NAME | ip | consumer";
    if text.is_empty() {
        context.add(at, format!("is missing: what requests are told apart by, {WORDS}"));
        return None;
    }
    let part = context.keep(at, KeyPart::parse(text))?;
    match part {
        KeyPart::Tenant | KeyPart::Route | KeyPart::Model | KeyPart::Provider => {
            context.add(at, format!("`{text}` tells too few requests apart: {WORDS}"));
        }
        _ if part.is_credential() => context.add(at, "may hold a credential, which is gone by then: use `consumer`"),
        KeyPart::Consumer | KeyPart::Ip | KeyPart::Header(_) | KeyPart::Cookie(_) | KeyPart::Query(_) => {}
    }
    Some(part)
}

fn health_check(context: &mut Context, at: &Field<'_>, given: &v1::HealthCheck, http2: bool) -> Option<HealthCheck> {
    let question = question(context, at, given, http2);
    let interval = duration(context, &at.field("interval"), &given.interval).unwrap_or(CHECK_INTERVAL);
    if interval < SHORTEST_INTERVAL {
        context.add(&at.field("interval"), "must be 100ms at least");
    }
    let timeout = duration(context, &at.field("timeout"), &given.timeout);
    if timeout.is_some_and(|timeout| timeout > interval) {
        context.add(&at.field("timeout"), "is longer than `interval`, so questions would pile up");
    }
    let unhealthy_after = in_a_row(context, &at.field("unhealthyAfter"), given.unhealthy_after, UNHEALTHY_AFTER);
    let healthy_after = in_a_row(context, &at.field("healthyAfter"), given.healthy_after, HEALTHY_AFTER);
    let timeout = timeout.unwrap_or(CHECK_TIMEOUT.min(interval));
    Some(HealthCheck { question: question?, interval, timeout, unhealthy_after, healthy_after })
}

/// None only with a problem.
fn question(context: &mut Context, at: &Field<'_>, given: &v1::HealthCheck, http2: bool) -> Option<Question> {
    let words = [("http", Is("http")), ("tcp", Is("tcp")), ("grpc", Is("grpc"))];
    let kind = match context.word(&at.field("type"), &given.r#type, &words) {
        None if !given.r#type.is_empty() => return None,
        kind => kind.unwrap_or("http"),
    };
    let field = at.field("path");
    if kind != "http" && !given.path.is_empty() {
        context.add(&field, "is only for `type: http`");
    }
    match kind {
        "tcp" => return Some(Question::Tcp),
        "grpc" => {
            if !http2 {
                context.add(&at.field("type"), "is spoken over HTTP/2: `grpc` needs `protocol: grpc`, h2c or https");
            }
            return Some(Question::Grpc);
        }
        _ => {}
    }
    if given.path.is_empty() {
        context.add(&field, "is missing: a path from the origin, such as /healthz");
        return None;
    }
    let path = given.path.parse().ok().filter(|_| given.path.starts_with('/'));
    if path.is_none() {
        context.add(&field, "is no path: it begins with `/`, and what no path has is percent-encoded");
    }
    path.map(Question::Http)
}

fn breaker(context: &mut Context, at: &Field<'_>, given: &v1::CircuitBreaker) -> CircuitBreaker {
    context.not_yet(&at.field("maxConnections"), given.max_connections.is_some());
    context.not_yet(&at.field("maxPending"), given.max_pending.is_some());
    if given.max_requests == Some(0) {
        context.add(&at.field("maxRequests"), "must be greater than 0: nothing could be sent");
    }
    CircuitBreaker { max_requests: given.max_requests }
}

fn outliers(context: &mut Context, at: &Field<'_>, given: &v1::OutlierDetection) -> OutlierDetection {
    let consecutive_errors =
        in_a_row(context, &at.field("consecutiveErrors"), given.consecutive_errors, CONSECUTIVE_ERRORS);
    let eject_for = duration(context, &at.field("ejectFor"), &given.eject_for).unwrap_or(EJECT_FOR);
    let max_ejected_percent = given.max_ejected_percent.unwrap_or(MAX_EJECTED_PERCENT);
    if !(1..=100).contains(&max_ejected_percent) {
        context.add(&at.field("maxEjectedPercent"), "must be 1 to 100; leave `outlierDetection` out for none");
    }
    OutlierDetection { consecutive_errors, eject_for, max_ejected_percent }
}

pub(super) fn key_failover(context: &mut Context, at: &Field<'_>, given: &v1::KeyFailover) -> KeyFailover {
    let failures = in_a_row(context, &at.field("failureThreshold"), given.failure_threshold, FAILURE_THRESHOLD);
    let successes = in_a_row(context, &at.field("successThreshold"), given.success_threshold, SUCCESS_THRESHOLD);
    let probe_interval = duration(context, &at.field("probeInterval"), &given.probe_interval);
    KeyFailover {
        failure_threshold: failures,
        success_threshold: successes,
        probe_interval: probe_interval.unwrap_or(PROBE_INTERVAL),
    }
}

fn in_a_row(context: &mut Context, at: &Field<'_>, given: Option<u32>, default: u32) -> u32 {
    let count = given.unwrap_or(default);
    if !(1..=MOST_IN_A_ROW).contains(&count) {
        context.add(at, format!("must be 1 to {MOST_IN_A_ROW}"));
    }
    count
}

fn duration(context: &mut Context, at: &Field<'_>, text: &str) -> Option<Duration> {
    let duration = context.duration(at, text)?;
    if duration > LONGEST {
        context.add(at, "must be an hour at most");
    }
    Some(duration.min(LONGEST))
}
