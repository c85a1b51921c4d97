//! What attempts at providers are measured by: looked up once for each kind of them, and not for each figure of each.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use foldhash::HashMap;
use parking_lot::RwLock;
use prometheus_client::metrics::{counter::Counter, histogram::Histogram};

use super::{AiLabels, AttemptLabels, Metrics, ModelLabels, TokenLabels, to_f64};

/// Of one configuration, so bounded by what it names. The next one looks them up anew.
#[derive(Debug, Default)]
pub(crate) struct CallMeters(RwLock<HashMap<AiLabels, Arc<CallMeter>>>);

/// Of attempts that have all labels in common.
#[derive(Debug)]
pub(crate) struct CallMeter {
    labels: AiLabels,
    took: Histogram,
    input: Histogram,
    output: Histogram,
    // What is not seen of every kind of attempt is no series before it is.
    first_chunk: OnceLock<Histogram>,
    answered: OnceLock<Counter>,
    estimate: OnceLock<Histogram>,
}

impl CallMeters {
    pub(crate) fn of(&self, metrics: &Metrics, labels: AiLabels) -> Arc<CallMeter> {
        if let Some(known) = self.0.read().get(&labels) {
            return Arc::clone(known);
        }
        let mut meters = self.0.write();
        let new = || Arc::new(CallMeter::new(metrics, labels.clone()));
        Arc::clone(meters.entry(labels.clone()).or_insert_with(new))
    }
}

impl CallMeter {
    fn new(metrics: &Metrics, labels: AiLabels) -> Self {
        let tokens = |gen_ai_token_type| {
            let AiLabels { operation, provider, request_model, response_model } = labels.clone();
            let labels = TokenLabels { operation, provider, request_model, response_model, gen_ai_token_type };
            metrics.ai_tokens.get_or_create(&labels).clone()
        };
        Self {
            took: metrics.ai_duration.get_or_create(&labels).clone(),
            input: tokens("input"),
            output: tokens("output"),
            first_chunk: OnceLock::new(),
            answered: OnceLock::new(),
            estimate: OnceLock::new(),
            labels,
        }
    }

    /// The end of one attempt.
    pub(crate) fn ended(
        &self,
        metrics: &Metrics,
        took: Duration,
        first_chunk: Option<Duration>,
        (input, output): (u64, u64),
    ) {
        self.took.observe(took.as_secs_f64());
        if let Some(first) = first_chunk {
            let known = self.first_chunk.get_or_init(|| metrics.ai_first_chunk.get_or_create(&self.labels).clone());
            known.observe(first.as_secs_f64());
        }
        self.input.observe(to_f64(input));
        self.output.observe(to_f64(output));
    }

    /// That brought the whole answer.
    pub(crate) fn answered(&self, metrics: &Metrics) {
        let labels = || AttemptLabels { upstream: self.labels.provider.clone(), result: "answered" };
        self.answered.get_or_init(|| metrics.attempts.get_or_create(&labels()).clone()).inc();
    }

    /// What a call used of what was reserved for it. A call for which nothing was reserved says nothing.
    pub(crate) fn estimated(&self, metrics: &Metrics, used: u64, reserved: u64) {
        if reserved > 0 {
            let labels = || ModelLabels { model: self.labels.request_model.clone() };
            let known = self.estimate.get_or_init(|| metrics.estimates.get_or_create(&labels()).clone());
            known.observe(to_f64(used) / to_f64(reserved));
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::*;

    #[test]
    fn calls_of_one_kind_share_what_they_are_measured_by_and_no_others() {
        let mut registry = Registry::default();
        let (metrics, meters) = (Metrics::register(&mut registry), CallMeters::default());
        let labels = |model: &str| AiLabels {
            operation: "chat",
            provider: "p".into(),
            request_model: model.into(),
            response_model: "m".into(),
        };
        for (model, input) in [("a", 3), ("a", 4), ("b", 5)] {
            let meter = meters.of(&metrics, labels(model));
            meter.ended(&metrics, Duration::from_millis(1), None, (input, 1));
            meter.answered(&metrics);
            meter.estimated(&metrics, 1, 0);
        }
        let (one, other) = (meters.of(&metrics, labels("a")), CallMeters::default().of(&metrics, labels("a")));
        assert!(Arc::ptr_eq(&one, &meters.of(&metrics, labels("a"))));
        other.ended(&metrics, Duration::from_millis(1), Some(Duration::ZERO), (1, 1));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let sum = |model: &str, sum: &str| {
            format!(
                "gen_ai_client_token_usage_sum{{operation=\"chat\",provider=\"p\",request_model=\"{model}\",\
                 response_model=\"m\",gen_ai_token_type=\"input\"}} {sum}"
            )
        };
        for told in [sum("a", "8.0"), sum("b", "5.0"), "upstream=\"p\",result=\"answered\"} 3".to_owned()] {
            assert!(text.contains(&told), "{told} is missing in\n{text}");
        }
        assert!(text.contains("time_to_first_chunk_seconds_count{operation=\"chat\""), "{text}");
        assert!(!text.contains("ai_estimate_ratio_count"), "nothing was reserved:\n{text}");
    }
}
