//! What a service or a provider says of its endpoints together.

use std::{collections::BTreeSet, time::Duration};

use tollgate_proto::v1;

use super::context::{Context, Value::Is};
use crate::{
    Balancing, CircuitBreaker, ErrorRate, Field, HealthCheck, KeyFailover, KeyPart, OutlierDetection, Policy, Question,
    SlowAnswers, Spread, ZoneFailover, percent::hundredths,
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

/// Half of twenty requests is no accident, and what was ten seconds ago says little of now.
const RATE_PERCENT: u32 = 50;
const RATE_INTERVAL: Duration = Duration::from_secs(10);
const RATE_REQUESTS: u32 = 20;
/// Shorter ones hold too few requests, longer ones are no longer of late.
const INTERVALS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(10));
/// In hundredths. Requests differ, medians of them hardly by that much.
const FACTOR_PERCENT: u32 = 300;
const GREATEST_FACTOR: u32 = 100;
const PERCENTILE: u32 = 50;
const PEERS: u32 = 2;
/// Below that it is the network's jitter that differs.
const FAST_ENOUGH: Duration = Duration::from_millis(10);
/// So many requests there are in no interval that anybody means.
const MOST_REQUESTS: u32 = 1_000_000;

/// As the contract shows it.
const FAILURE_THRESHOLD: u32 = 3;
const SUCCESS_THRESHOLD: u32 = 1;
const PROBE_INTERVAL: Duration = Duration::from_secs(5);

/// A region has six at most; some are on more than one continent.
const MOST_ZONES: usize = 32;

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
    /// The zones that its endpoints are in.
    pub(super) zones: BTreeSet<&'a str>,
    /// Whether HTTP/2 can be spoken to all endpoints.
    pub(super) http2: bool,
}

impl Given<'_> {
    pub(super) fn check(&self, context: &mut Context, spec: &Field<'_>) -> Spread {
        let balancing =
            self.balancing.map(|given| balancing(context, &spec.field("loadBalancing"), given, &self.zones));
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

fn balancing(context: &mut Context, at: &Field<'_>, given: &v1::LoadBalancing, known: &BTreeSet<&str>) -> Balancing {
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
    let failover_at = at.field("failover");
    if !prefer_local && !given.failover.is_empty() {
        context.add(&failover_at, "is only for `zones: preferLocal`: `any` takes no notice of zones");
    }
    let failover = failover(context, &failover_at, &given.failover, known);
    Balancing { policy, prefer_local, failover, panic_threshold, slow_start }
}

fn failover(
    context: &mut Context,
    at: &Field<'_>,
    given: &[v1::ZoneFailover],
    known: &BTreeSet<&str>,
) -> Vec<ZoneFailover> {
    if given.len() > MOST_ZONES {
        context.add(at, format!("has {} items, more than {MOST_ZONES}", given.len()));
    }
    let mut seen = BTreeSet::new();
    let mut checked = Vec::new();
    for (n, it) in given.iter().enumerate().take(MOST_ZONES) {
        let (at, to) = (at.index(n), it.to.get(..MOST_ZONES).unwrap_or(&it.to));
        let (from_at, to_at) = (at.field("from"), at.field("to"));
        if !seen.insert(&it.from) {
            let which = if it.from.is_empty() { "one without `from`".to_owned() } else { format!("`{}`", it.from) };
            context.add(&from_at, format!("{which} is there twice"));
        }
        if it.to.is_empty() {
            context.add(&to_at, "is missing: the zones that come after a node's own, the next one first");
        }
        if it.to.len() > MOST_ZONES {
            context.add(&to_at, format!("has {} zones, more than {MOST_ZONES}", it.to.len()));
        }
        for (n, zone) in to.iter().enumerate() {
            if *zone == it.from {
                context.add(&to_at.index(n), "is the zone that requests come from: it is the first anyway");
            } else if !known.contains(zone.as_str()) {
                context.add(&to_at.index(n), format!("no endpoint is in `{zone}`"));
            }
        }
        let from = if it.from.is_empty() { None } else { context.name(&from_at, &it.from) };
        checked.push(ZoneFailover { from, to: context.names(&to_at, to) });
    }
    checked
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
    for (name, most) in [("maxRequests", given.max_requests), ("maxConnections", given.max_connections)] {
        if most == Some(0) {
            context.add(&at.field(name), "must be greater than 0: nothing could be sent");
        }
    }
    if given.max_pending.is_some() && given.max_connections.is_none() {
        context.add(&at.field("maxPending"), "needs `maxConnections`: without it no request waits for a connection");
    }
    let v1::CircuitBreaker { max_connections, max_requests, max_pending } = *given;
    CircuitBreaker { max_requests, max_connections, max_pending }
}

fn outliers(context: &mut Context, at: &Field<'_>, given: &v1::OutlierDetection) -> OutlierDetection {
    let error_rate = given.error_rate.as_ref().map(|given| error_rate(context, &at.field("errorRate"), given));
    let latency = given.latency.as_ref().map(|given| slow_answers(context, &at.field("latency"), given));
    let consecutive_errors = match given.consecutive_errors {
        Some(0) if error_rate.is_some() || latency.is_some() => None,
        Some(0) => {
            let message = format!("must be 1 to {MOST_IN_A_ROW}, or 0 where `errorRate` or `latency` is there");
            context.add(&at.field("consecutiveErrors"), message);
            None
        }
        given => Some(in_a_row(context, &at.field("consecutiveErrors"), given, CONSECUTIVE_ERRORS)),
    };
    let eject_for = duration(context, &at.field("ejectFor"), &given.eject_for).unwrap_or(EJECT_FOR);
    let max_ejected_percent = given.max_ejected_percent.unwrap_or(MAX_EJECTED_PERCENT);
    if !(1..=100).contains(&max_ejected_percent) {
        context.add(&at.field("maxEjectedPercent"), "must be 1 to 100; leave `outlierDetection` out for none");
    }
    OutlierDetection { consecutive_errors, error_rate, latency, eject_for, max_ejected_percent }
}

fn error_rate(context: &mut Context, at: &Field<'_>, given: &v1::ErrorRate) -> ErrorRate {
    let percent = given.percent.unwrap_or(RATE_PERCENT);
    if !(1..=100).contains(&percent) {
        context.add(&at.field("percent"), "must be 1 to 100; leave `errorRate` out for none");
    }
    let min_requests = min_requests(context, &at.field("minRequests"), given.min_requests);
    ErrorRate { percent, interval: interval(context, &at.field("interval"), &given.interval), min_requests }
}

fn slow_answers(context: &mut Context, at: &Field<'_>, given: &v1::SlowAnswers) -> SlowAnswers {
    let factor = context.keep(&at.field("factor"), factor_percent(&given.factor));
    let percentile = given.percentile.unwrap_or(PERCENTILE);
    if !(1..=100).contains(&percentile) {
        context.add(&at.field("percentile"), "must be 1 to 100: 50 is the median, 100 the slowest answer");
    }
    let min_peers = given.min_peers.unwrap_or(PEERS);
    if !(1..=MOST_IN_A_ROW).contains(&min_peers) {
        context.add(
            &at.field("minPeers"),
            format!("must be 1 to {MOST_IN_A_ROW}: who is alone is not slower than others"),
        );
    }
    SlowAnswers {
        factor_percent: factor.unwrap_or(FACTOR_PERCENT),
        percentile,
        interval: interval(context, &at.field("interval"), &given.interval),
        min_requests: min_requests(context, &at.field("minRequests"), given.min_requests),
        min_peers,
        min_latency: duration(context, &at.field("minLatency"), &given.min_latency).unwrap_or(FAST_ENOUGH),
    }
}

/// A number with up to two decimals, in hundredths.
fn factor_percent(text: &str) -> Result<u32, String> {
    if text.is_empty() {
        return Ok(FACTOR_PERCENT);
    }
    let factor = hundredths(text).filter(|it| (101..=GREATEST_FACTOR * 100).contains(it));
    factor.ok_or_else(|| format!("`{text}` is no factor: greater than 1, up to {GREATEST_FACTOR}, such as 3 or 2.5"))
}

fn interval(context: &mut Context, at: &Field<'_>, text: &str) -> Duration {
    let interval = context.duration(at, text).unwrap_or(RATE_INTERVAL);
    if !(INTERVALS.0..=INTERVALS.1).contains(&interval) {
        context.add(at, "must be 1s to 10m");
    }
    interval.clamp(INTERVALS.0, INTERVALS.1)
}

fn min_requests(context: &mut Context, at: &Field<'_>, given: Option<u32>) -> u32 {
    let count = given.unwrap_or(RATE_REQUESTS);
    if !(1..=MOST_REQUESTS).contains(&count) {
        context.add(at, format!("must be 1 to {MOST_REQUESTS}"));
    }
    count
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
