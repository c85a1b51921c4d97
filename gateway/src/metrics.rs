//! The gateway's metrics. GenAI names follow the OpenTelemetry semantic conventions 1.38 ("Development" status there).
//!
//! Labels are bounded by the configuration: routes, providers and known models; everything else is `_OTHER`.

mod calls;

use std::{fmt, sync::atomic::AtomicU64, time::Duration};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};
use tollgate_model::{Name, tenant_of_purse};
use tollgate_quota::Way;

use crate::overload::Short;
pub(crate) use calls::{CallMeter, CallMeters};

/// What a label says when its value is not one of the configuration's.
pub(crate) const OTHER: &str = "_OTHER";

/// What ends a stream early: no more can be held for it, its caller has left, its time is over, others may be given its permit.
pub(crate) const CUT_BY_LIMIT: &str = "limit";
pub(crate) const CUT_BY_CALLER: &str = "caller";
pub(crate) const CUT_BY_TIME: &str = "timeout";
pub(crate) const CUT_BY_ISOLATION: &str = "iso";

/// From clients, and to them.
pub(crate) const RECEIVED: &str = "received";
pub(crate) const SENT: &str = "sent";

/// Seconds: from a local answer to the longest default timeout.
const SECONDS: [f64; 16] =
    [0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0];
/// Seconds: from a compare-and-swap to the longest that the log is waited for.
const WAITS: [f64; 20] = [
    0.000_001, 0.000_01, 0.000_1, 0.000_5, 0.001, 0.001_5, 0.002, 0.003, 0.004, 0.006, 0.008, 0.012, 0.016, 0.025,
    0.05, 0.1, 0.25, 0.5, 1.0, 5.0,
];
/// The conventions' own buckets for `gen_ai.client.token.usage`.
const TOKENS: [f64; 14] = [
    1.0,
    4.0,
    16.0,
    64.0,
    256.0,
    1024.0,
    4096.0,
    16384.0,
    65536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
];

/// Used tokens for each reserved one: fine at the end where an estimate is good, and beyond it where one was too low.
const RATIOS: [f64; 14] = [0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99, 1.0, 2.0];

/// A label's value that a resource has already: cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Label(Name);

impl From<&Name> for Label {
    fn from(name: &Name) -> Self {
        Self(name.clone())
    }
}

impl From<&str> for Label {
    fn from(text: &str) -> Self {
        Self(Name::new(text))
    }
}

impl EncodeLabelValue for Label {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        self.0.as_str().encode(encoder)
    }
}

/// One per gateway; handles to families in the node's registry.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) http: Family<HttpLabels, Histogram>,
    pub(crate) in_flight: Gauge,
    pub(crate) connections: Gauge,
    pub(crate) ai_duration: Family<AiLabels, Histogram>,
    pub(crate) ai_first_chunk: Family<AiLabels, Histogram>,
    pub(crate) ai_tokens: Family<TokenLabels, Histogram>,
    pub(crate) quota: Family<QuotaLabels, Counter>,
    pub(crate) quota_wait: Family<PathLabels, Histogram>,
    pub(crate) quota_unprotected: Family<LimitLabels, Counter>,
    pub(crate) attempts: Family<AttemptLabels, Counter>,
    pub(crate) clamped: Family<ProviderLabels, Counter>,
    pub(crate) estimates: Family<ModelLabels, Histogram>,
    pub(crate) streams_cut: Family<ByLabels, Counter>,
    pub(crate) usage_missing: Family<ProviderLabels, Counter>,
    pub(crate) false_refusals: Family<LimitLabels, Counter>,
    pub(crate) faults: Family<FaultLabels, Counter>,
    pub(crate) mirrored: Family<MirrorLabels, Counter>,
    pub(crate) handshakes: Family<HandshakeLabels, Counter>,
    pub(crate) proxy_headers_refused: Counter,
    pub(crate) websockets: Family<RouteLabels, Gauge>,
    pub(crate) websocket_bytes: Family<DirectionLabels, Counter>,
    pub(crate) shed: Family<ShedLabels, Counter>,
    pub(crate) delay: Gauge<f64, AtomicU64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct HttpLabels {
    pub(crate) method: &'static str,
    pub(crate) route: Label,
    pub(crate) status_code: u16,
    pub(crate) error_type: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct AiLabels {
    pub(crate) operation: &'static str,
    pub(crate) provider: Label,
    pub(crate) request_model: Label,
    pub(crate) response_model: Label,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct TokenLabels {
    pub(crate) operation: &'static str,
    pub(crate) provider: Label,
    pub(crate) request_model: Label,
    pub(crate) response_model: Label,
    pub(crate) gen_ai_token_type: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct QuotaLabels {
    pub(crate) limit: Label,
    pub(crate) decision: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct LimitLabels {
    pub(crate) limit: Label,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct PathLabels {
    pub(crate) path: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct AttemptLabels {
    pub(crate) upstream: Label,
    pub(crate) result: &'static str,
}

/// What was short, and whose request was turned away for it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ShedLabels {
    pub(crate) by: &'static str,
    pub(crate) priority: &'static str,
}

/// What ended a stream.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ByLabels {
    pub(crate) by: &'static str,
}

/// A failure on purpose.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct FaultLabels {
    pub(crate) fault: &'static str,
}

/// What became of a copy.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct MirrorLabels {
    pub(crate) route: Label,
    pub(crate) result: &'static str,
}

/// How a handshake ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct HandshakeLabels {
    pub(crate) result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RouteLabels {
    pub(crate) route: Label,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct DirectionLabels {
    pub(crate) route: Label,
    pub(crate) direction: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ProviderLabels {
    pub(crate) provider: Label,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ModelLabels {
    pub(crate) model: Label,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("tollgate");
        let metrics = Self {
            http: seconds_family(),
            in_flight: Gauge::default(),
            connections: Gauge::default(),
            ai_duration: seconds_family(),
            ai_first_chunk: seconds_family(),
            ai_tokens: Family::new_with_constructor((|| Histogram::new(TOKENS)) as fn() -> Histogram),
            quota: Family::default(),
            quota_unprotected: Family::default(),
            quota_wait: Family::new_with_constructor((|| Histogram::new(WAITS)) as fn() -> Histogram),
            attempts: Family::default(),
            clamped: Family::default(),
            estimates: Family::new_with_constructor((|| Histogram::new(RATIOS)) as fn() -> Histogram),
            streams_cut: Family::default(),
            usage_missing: Family::default(),
            false_refusals: Family::default(),
            faults: Family::default(),
            mirrored: Family::default(),
            handshakes: Family::default(),
            proxy_headers_refused: Counter::default(),
            websockets: Family::default(),
            websocket_bytes: Family::default(),
            shed: Family::default(),
            delay: Gauge::default(),
        };
        metrics.describe(registry);
        metrics
    }

    fn describe(&self, registry: &mut Registry) {
        let second = || Unit::Seconds;
        let help = "From a request's headers to its answer's last byte";
        registry.register_with_unit("http_server_request_duration", help, second(), self.http.clone());
        registry.register(
            "http_server_active_requests",
            "Requests whose answer is not out yet",
            self.in_flight.clone(),
        );
        registry.register("http_server_open_connections", "Client connections", self.connections.clone());
        let help = "One attempt at a provider, from dispatch to its answer's end";
        registry.register_with_unit("gen_ai_client_operation_duration", help, second(), self.ai_duration.clone());
        let help = "From dispatch to the first chunk of a provider's stream";
        let first = self.ai_first_chunk.clone();
        registry.register_with_unit("gen_ai_client_operation_time_to_first_chunk", help, second(), first);
        registry.register("gen_ai_client_token_usage", "Tokens used by one call", self.ai_tokens.clone());
        registry.register("quota_decisions", "Reservations granted and refused", self.quota.clone());
        let help = "Requests that went on without a limit that says `whenUnavailable: allow`, as nobody could decide";
        registry.register("quota_unprotected", help, self.quota_unprotected.clone());
        let help = "From asking for a reservation to its grant: from memory, by the log, or after others had given back or ended";
        registry.register_with_unit("quota_wait", help, second(), self.quota_wait.clone());
        registry.register("upstream_attempts", "Requests sent to upstreams, by what came back", self.attempts.clone());
        let help = "Answers whose usage was nonsense and was brought to sane values";
        registry.register("upstream_usage_clamped", help, self.clamped.clone());
        let help = "Tokens that a call used, for each token that was reserved for it";
        registry.register("ai_estimate_ratio", help, self.estimates.clone());
        let help = "Streams that ended early: no more could be held (limit), their caller left, their time was over, \
                    or this node was cut off (iso) and others may have their permit";
        registry.register("quota_streams_cut", help, self.streams_cut.clone());
        let help = "Whole answers whose provider did not say what they used: it was counted";
        registry.register("quota_usage_missing", help, self.usage_missing.clone());
        let help =
            "Refusals that fitted into what was not used, by this node's replica: others held it, or had it in hand";
        registry.register("quota_false_refusals_estimate", help, self.false_refusals.clone());
        let help = "Requests that were delayed or aborted on purpose, by a route's `faults`";
        registry.register("http_faults_injected", help, self.faults.clone());
        let help = "Copies of requests, by what became of them";
        registry.register("http_mirrored_requests", help, self.mirrored.clone());
        let help = "TLS handshakes with clients, by how they ended";
        registry.register("tls_handshakes", help, self.handshakes.clone());
        let help = "Connections of trusted proxies that did not begin with a good PROXY header";
        registry.register("proxy_headers_refused", help, self.proxy_headers_refused.clone());
        registry.register("http_websockets_open", "WebSockets that are open", self.websockets.clone());
        let help = "What WebSockets were sent: received from clients, sent to them";
        registry.register_with_unit("http_websocket", help, Unit::Bytes, self.websocket_bytes.clone());
        let help = "Connections and requests turned away as this node had all that it takes on of their priority, by what was short";
        registry.register("http_server_shed", help, self.shed.clone());
        for short in Short::ALL {
            for priority in short.priorities() {
                drop(self.shed.get_or_create(&ShedLabels { by: short.as_str(), priority }));
            }
        }
        let help = "How late tasks of the data plane get their turn, smoothed";
        registry.register_with_unit("data_plane_scheduling_delay", help, second(), self.delay.clone());
        for by in [CUT_BY_LIMIT, CUT_BY_CALLER, CUT_BY_TIME, CUT_BY_ISOLATION] {
            drop(self.streams_cut.get_or_create(&ByLabels { by })); // from the start, so that its first is seen as a rise
        }
    }

    /// A request is made to wait, or refused, on purpose.
    pub(crate) fn fault(&self, fault: &'static str) {
        self.faults.get_or_create(&FaultLabels { fault }).inc();
    }

    /// A copy of a request has ended, or was not made.
    pub(crate) fn mirrored(&self, route: &str, result: &'static str) {
        self.mirrored.get_or_create(&MirrorLabels { route: route.into(), result }).inc();
    }

    /// A client's handshake has ended.
    pub(crate) fn handshake(&self, result: &'static str) {
        self.handshakes.get_or_create(&HandshakeLabels { result }).inc();
    }

    /// How many WebSockets a route has open.
    pub(crate) fn websockets(&self, route: &str) -> Gauge {
        self.websockets.get_or_create(&RouteLabels { route: route.into() }).clone()
    }

    /// What its WebSockets carry one way.
    pub(crate) fn websocket_bytes(&self, route: &str, direction: &'static str) -> Counter {
        self.websocket_bytes.get_or_create(&DirectionLabels { route: route.into(), direction }).clone()
    }

    /// A stream ended early.
    pub(crate) fn stream_cut(&self, by: &'static str) {
        self.streams_cut.get_or_create(&ByLabels { by }).inc();
    }

    /// A provider did not say what a whole answer used.
    pub(crate) fn usage_missing(&self, provider: &str) {
        self.usage_missing.get_or_create(&ProviderLabels { provider: provider.into() }).inc();
    }

    /// A refusal that a counter of what is really used would probably not have made.
    pub(crate) fn false_refusal(&self, limit: &str) {
        self.false_refusals.get_or_create(&LimitLabels { limit: limit.into() }).inc();
    }

    pub(crate) fn attempt(&self, upstream: &Name, result: &'static str) {
        self.attempts.get_or_create(&AttemptLabels { upstream: upstream.into(), result }).inc();
    }

    pub(crate) fn usage_clamped(&self, provider: &str) {
        self.clamped.get_or_create(&ProviderLabels { provider: provider.into() }).inc();
    }

    pub(crate) fn decision(&self, limit: &Name, decision: &'static str) {
        // Tenants are no labels.
        let limit = if tenant_of_purse(limit).is_some() { "credits".into() } else { limit.into() };
        self.quota.get_or_create(&QuotaLabels { limit, decision }).inc();
    }

    /// A request went on without this limit.
    pub(crate) fn unprotected(&self, limit: &str) {
        self.quota_unprotected.get_or_create(&LimitLabels { limit: limit.into() }).inc();
    }

    /// A reservation that was granted after so long.
    pub(crate) fn waited(&self, way: Way, waited: Duration) {
        self.quota_wait.get_or_create(&PathLabels { path: way.as_str() }).observe(waited.as_secs_f64());
    }
}

fn seconds_family<L: Clone + std::hash::Hash + Eq>() -> Family<L, Histogram> {
    Family::new_with_constructor((|| Histogram::new(SECONDS)) as fn() -> Histogram)
}

#[expect(clippy::cast_precision_loss, reason = "a histogram's bucket, exact up to 2^53 tokens")]
fn to_f64(tokens: u64) -> f64 {
    tokens as f64
}

/// A method as a label.
pub(crate) fn method_label(method: &http::Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        "TRACE" => "TRACE",
        _ => OTHER,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_are_those_of_the_table() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let labels = HttpLabels { method: "GET", route: "r".into(), status_code: 200, error_type: "" };
        metrics.http.get_or_create(&labels).observe(0.1);
        metrics.decision(&"l".into(), "granted");
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for name in [
            "tollgate_http_server_request_duration_seconds_count{method=\"GET\"",
            "tollgate_quota_decisions_total{limit=\"l\"",
        ] {
            assert!(text.contains(name), "{name} is missing in\n{text}");
        }
    }
}
