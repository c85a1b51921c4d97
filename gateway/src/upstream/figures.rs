//! How upstreams stand, told when it is asked for: what is not there any more has no figures.

use std::{
    fmt,
    sync::{Arc, Weak, atomic::Ordering},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeGaugeValue, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

use super::{
    Endpoints, Keys, Wire, breaker,
    endpoints::Standing,
    known::{By, Counts},
};
use crate::gateway::Shared;

const ENDPOINTS: &str = "tollgate_upstream_endpoints";
const IN_FLIGHT: &str = "tollgate_upstream_active_requests";
const SPILL: &str = "tollgate_upstream_spill_ratio";
const PANIC: &str = "tollgate_upstream_panic";
const EJECTIONS: &str = "tollgate_upstream_ejections";
const RETRIES: &str = "tollgate_upstream_retries";
const REFUSED: &str = "tollgate_upstream_breaker_refusals";
const CONNECTIONS: &str = "tollgate_upstream_connections";
const PENDING: &str = "tollgate_upstream_pending_requests";
const KEYS: &str = "tollgate_upstream_keys";
const KEY_RESTS: &str = "tollgate_upstream_key_rests";
const DROPPED: &str = "tollgate_access_log_dropped_lines";
const LOOKUPS: &str = "tollgate_upstream_dns_lookups";
const STALE_NAMES: &str = "tollgate_upstream_dns_stale_names";
const CHECKS: &str = "tollgate_upstream_health_checks";

/// Reads them of a gateway, while there is one.
pub(crate) struct Figures(pub(crate) Weak<Shared>);

impl fmt::Debug for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Figures").finish_non_exhaustive()
    }
}

/// One upstream.
struct Read {
    kind: &'static str,
    name: String,
    of: Arc<Endpoints>,
    standing: Standing,
    /// Where its connections are bounded.
    bounded: Option<breaker::Standing>,
}

type Labels<'a> = [(&'static str, &'a str); 3];

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(shared) = self.0.upgrade() else { return Ok(()) };
        let compiled = shared.current();
        let read = |kind, name: &str, of: &Arc<Endpoints>, wire: &Wire| Read {
            kind,
            name: name.to_owned(),
            of: Arc::clone(of),
            standing: of.standing(),
            bounded: wire.breaker().map(|breaker| breaker.standing()),
        };
        let providers = compiled.providers.iter().map(|(name, it)| read("provider", name, &it.endpoints, &it.wire));
        let services = compiled.services.iter().map(|(name, it)| read("service", name, &it.endpoints, &it.wire));
        let mut all: Vec<Read> = providers.chain(services).collect();
        all.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
        tell(&mut encoder, &all)?;
        let mut keys: Vec<_> = compiled.providers.iter().map(|(name, it)| (name.as_str(), &*it.keys)).collect();
        keys.sort_by_key(|(name, _)| *name);
        tell_keys(&mut encoder, &keys)?;
        let Some(log) = &shared.config.access_log else { return Ok(()) };
        let help = "Lines of the access log that there was no room for, or that could not be written";
        let family = encoder.encode_descriptor(DROPPED, help, None, MetricType::Counter)?;
        ConstCounter::new(log.dropped()).encode(family)
    }
}

/// How many, never which.
fn tell_keys(encoder: &mut DescriptorEncoder<'_>, all: &[(&str, &Keys)]) -> fmt::Result {
    let help = "Keys of a provider that are used, and that rest as they are refused";
    let mut family = encoder.encode_descriptor(KEYS, help, None, MetricType::Gauge)?;
    for (name, keys) in all {
        let (used, resting) = keys.standing();
        for (state, count) in [("used", used), ("resting", resting)] {
            ConstGauge::new(count).encode(family.encode_family(&[("upstream", *name), ("state", state)])?)?;
        }
    }
    let mut family =
        encoder.encode_descriptor(KEY_RESTS, "Keys rested as they were refused", None, MetricType::Counter)?;
    for (name, keys) in all {
        ConstCounter::new(keys.rests()).encode(family.encode_family(&[("upstream", *name)])?)?;
    }
    Ok(())
}

fn tell(encoder: &mut DescriptorEncoder<'_>, all: &[Read]) -> fmt::Result {
    let states: [State; 4] =
        [("fit", |it| it.fit), ("unwell", |it| it.unwell), ("ejected", |it| it.ejected), ("drained", |it| it.drained)];
    let help = "Endpoints by how they stand: fit, unwell (checks say so), ejected (requests failed there), drained (their zone is)";
    gauges(encoder, ENDPOINTS, help, "state", all, &states)?;
    gauge(encoder, IN_FLIGHT, "Requests of this node on their way", all, |it| {
        u64::try_from(it.in_flight).unwrap_or(u64::MAX)
    })?;
    let help = "The share of requests that goes to other zones, as too little of this node's own is fit";
    gauge(encoder, SPILL, help, all, |it| it.spill)?;
    let help = "1 while endpoints are used that are not fit, as too few are";
    gauge(encoder, PANIC, help, all, |it| u64::from(it.is_panic))?;
    let ejections: [Count; 3] = [
        ("errors", |it| it.ejections.of(By::Errors)),
        ("error_rate", |it| it.ejections.of(By::ErrorRate)),
        ("latency", |it| it.ejections.of(By::Latency)),
    ];
    counters(encoder, EJECTIONS, "Endpoints left alone for a while", "by", all, &ejections)?;
    let retries: [Count; 2] = [
        ("sent", |it| it.retries.load(Ordering::Relaxed)),
        ("over_budget", |it| it.over_budget.load(Ordering::Relaxed)),
    ];
    counters(encoder, RETRIES, "Requests sent again, or not, as too many were", "decision", all, &retries)?;
    refusals(encoder, all)?;
    let checks: [Count; 2] =
        [("good", |it| it.checks_good.load(Ordering::Relaxed)), ("bad", |it| it.checks_bad.load(Ordering::Relaxed))];
    counters(encoder, CHECKS, "Answers of endpoints asked whether they are well", "result", all, &checks)?;
    let lookups: [Count; 3] = [
        ("answered", |it| it.lookups_answered.load(Ordering::Relaxed)),
        ("empty", |it| it.lookups_empty.load(Ordering::Relaxed)),
        ("failed", |it| it.lookups_failed.load(Ordering::Relaxed)),
    ];
    counters(encoder, LOOKUPS, "Lookups of the names of endpoints", "result", all, &lookups)?;
    let help = "Names of endpoints whose addresses were not confirmed when they should have been: those known are kept";
    let mut family = encoder.encode_descriptor(STALE_NAMES, help, None, MetricType::Gauge)?;
    for read in all {
        let labels = [("upstream", read.name.as_str()), ("kind", read.kind)];
        ConstGauge::new(read.of.stale_names()).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

/// What bounds an upstream, and what came of it.
fn refusals(encoder: &mut DescriptorEncoder<'_>, all: &[Read]) -> fmt::Result {
    let help = "Requests not sent, as too many were on their way (max_requests), as too many waited for a connection (max_pending), or as none was free in time (max_connections)";
    let mut family = encoder.encode_descriptor(REFUSED, help, None, MetricType::Counter)?;
    for read in all {
        let by_requests = Some(("max_requests", read.of.counts().refused.load(Ordering::Relaxed)));
        let others = read.bounded.map(|it| [("max_pending", it.refused), ("max_connections", it.late)]);
        for (by, count) in by_requests.into_iter().chain(others.into_iter().flatten()) {
            ConstCounter::new(count).encode(family.encode_family(&labels(read, ("by", by)))?)?;
        }
    }
    let bounded: [(&str, &str, Bounded); 2] = [
        (CONNECTIONS, "Connections of this node to an upstream with maxConnections", |it| it.open),
        (PENDING, "Requests of this node that wait for one of them", |it| it.pending),
    ];
    for (name, help, value) in bounded {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (read, standing) in all.iter().filter_map(|read| Some((read, read.bounded.as_ref()?))) {
            let labels = [("upstream", read.name.as_str()), ("kind", read.kind)];
            let value = u64::try_from(value(standing)).unwrap_or(u64::MAX);
            ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

type Bounded = fn(&breaker::Standing) -> usize;
type State = (&'static str, fn(&Standing) -> u64);
type Count = (&'static str, fn(&Counts) -> u64);

fn labels<'a>(read: &'a Read, third: (&'static str, &'a str)) -> Labels<'a> {
    [("upstream", &read.name), ("kind", read.kind), third]
}

fn gauge<V: EncodeGaugeValue>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    all: &[Read],
    value: impl Fn(&Standing) -> V,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for read in all {
        let labels = [("upstream", read.name.as_str()), ("kind", read.kind)];
        ConstGauge::new(value(&read.standing)).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

fn gauges(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    label: &'static str,
    all: &[Read],
    values: &[State],
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for read in all {
        for (said, value) in values {
            let labels = labels(read, (label, said));
            ConstGauge::new(value(&read.standing)).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

fn counters(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    label: &'static str,
    all: &[Read],
    values: &[Count],
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for read in all {
        for (said, value) in values {
            let labels = labels(read, (label, said));
            ConstCounter::new(value(read.of.counts())).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}
