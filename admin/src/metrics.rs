//! The admin plane's own metrics, and `/metrics`: one registry, written in the format that the scraper asks for.

mod classic;

use std::time::Duration;

use http::{HeaderMap, Response, header::ACCEPT};
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::Registry,
};
use tonic::{Code, Status};

use crate::auth::{Rule, rule};

const CALLS: &str = "tollgate_admin_calls";
const CALL_DURATION: &str = "tollgate_admin_call_duration_seconds";
/// From a read in memory to a write that waits out its deadline.
const BUCKETS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 5.0, 10.0];
/// The label of a method that there is not: labels are bounded, paths are not.
const OTHER: &str = "_OTHER";

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Call {
    method: String,
    code: String,
}

/// Counts calls. Cheap to clone.
#[derive(Debug, Clone)]
pub struct AdminMetrics {
    calls: Family<Call, Counter>,
    duration: Histogram,
}

impl AdminMetrics {
    /// Registers the instruments.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self { calls: Family::default(), duration: Histogram::new(BUCKETS) };
        registry.register(CALLS, "Calls of the admin API by method and gRPC status", metrics.calls.clone());
        registry.register(CALL_DURATION, "Time until the answer of an admin call begins", metrics.duration.clone());
        metrics
    }

    pub(crate) fn called<B>(&self, path: &str, response: &Response<B>, took: Duration) {
        let method = if rule(path) == Rule::Unknown { OTHER } else { path.trim_start_matches('/') };
        let code = Status::from_header_map(response.headers()).map_or(Code::Ok, |status| status.code());
        self.calls.get_or_create(&Call { method: bounded(method), code: format!("{code:?}") }).inc();
        self.duration.observe(took.as_secs_f64());
    }
}

/// Health and reflection are open by service: what follows the service in the path is the caller's own text.
fn bounded(method: &str) -> String {
    match method.strip_prefix("grpc.") {
        Some(_) => method.split('/').next().unwrap_or(OTHER).to_owned(),
        None => method.to_owned(),
    }
}

/// The body of `/metrics` and its content type.
pub(crate) struct Exposition {
    pub(crate) content_type: &'static str,
    pub(crate) body: String,
}

const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Writes the registry: classic text, or OpenMetrics for who asks for it.
pub(crate) fn expose(registry: &Registry, headers: &HeaderMap) -> Result<Exposition, std::fmt::Error> {
    let mut body = String::new();
    text::encode(&mut body, registry)?;
    if wants_open_metrics(headers) {
        return Ok(Exposition { content_type: OPEN_METRICS, body });
    }
    Ok(Exposition { content_type: CLASSIC, body: classic::from_open_metrics(&body) })
}

/// Whether `Accept` names OpenMetrics with a weight above nothing.
fn wants_open_metrics(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|choice| {
        let mut parts = choice.split(';').map(str::trim);
        let named = parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case("application/openmetrics-text"));
        named && !parts.any(|part| part.strip_prefix("q=").is_some_and(|q| q.trim_end_matches(['0', '.']).is_empty()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_metrics_is_for_those_who_ask_for_it() {
        let wants = |accept: &str| wants_open_metrics(&HeaderMap::from_iter([(ACCEPT, accept.parse().unwrap())]));
        assert!(wants("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"));
        assert!(wants("text/plain, application/openmetrics-text; q=0.2"));
        for not in ["*/*", "text/plain", "application/openmetrics-text;q=0", "application/openmetrics-text; q=0.0"] {
            assert!(!wants(not), "{not}");
        }
        assert!(!wants_open_metrics(&HeaderMap::new()));
    }

    #[test]
    fn what_a_stranger_writes_into_a_path_is_no_label() {
        let mut registry = Registry::default();
        let metrics = AdminMetrics::register(&mut registry);
        for path in ["/x/1", "/x/2", "/grpc.health.v1.Health/a", "/grpc.health.v1.Health/b"] {
            metrics.called(path, &Status::not_found("no").into_http::<()>(), Duration::from_millis(2));
        }
        let body = expose(&registry, &HeaderMap::new()).unwrap().body;
        assert!(body.contains("tollgate_admin_calls_total{method=\"_OTHER\",code=\"NotFound\"} 2\n"), "{body}");
        assert!(
            body.contains("tollgate_admin_calls_total{method=\"grpc.health.v1.Health\",code=\"NotFound\"} 2\n"),
            "{body}"
        );
    }
}
