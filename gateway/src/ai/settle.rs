//! What a call used, told to quota and metrics once it has ended, whichever way.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tollgate_llm::{AiRequest, Operation, Usage, UsageSource};
use tollgate_quota::{self as quota, InFlight, Outcome};

use crate::{
    compiled::Compiled,
    exchange::Exchange,
    gateway::Shared,
    metrics::{AiLabels, OTHER},
    upstream::ProviderUpstream,
};

/// A call on its way: the hold on its limits, and what is known of it for the record.
pub(super) struct Call {
    in_flight: InFlight,
    operation: Operation,
    /// Asked for. Not the whole request: a stream outlives its prompt.
    model: String,
    /// Tokens that were reserved for it.
    reserved: u64,
    /// What the input probably is, to the provider that was asked last.
    input: u64,
    shared: Arc<Shared>,
    compiled: Arc<Compiled>,
    attempt: Option<Attempt>,
}

/// The attempt that is going on.
struct Attempt {
    provider: String,
    model: String,
    started: Instant,
    first_chunk: Option<Duration>,
}

impl Call {
    pub(super) fn new(exchange: &Exchange, request: &AiRequest, in_flight: InFlight, reserved: u64) -> Self {
        let (shared, compiled) = (Arc::clone(&exchange.shared), Arc::clone(&exchange.compiled));
        let (operation, model) = (request.operation(), request.model().to_owned());
        Self { in_flight, operation, model, reserved, input: 0, shared, compiled, attempt: None }
    }

    /// One more attempt: from here on this provider may bill us for the input, which is probably so long.
    pub(super) fn begin(&mut self, provider: &ProviderUpstream, model: &str, input: u64) {
        let attribution = self.in_flight.attribution_mut();
        attribution.provider = provider.provider.name.to_string();
        attribution.provider_model = model.to_owned();
        let (provider, started) = (provider.provider.name.to_string(), Instant::now());
        self.input = input;
        self.attempt = Some(Attempt { provider, model: model.to_owned(), started, first_chunk: None });
        self.in_flight.count(to_quota(self.unanswered()));
    }

    pub(super) fn first_chunk(&mut self) {
        if let Some(attempt) = &mut self.attempt {
            attempt.first_chunk = Some(attempt.started.elapsed());
        }
    }

    /// The usage of a call of which nothing came back.
    pub(super) fn unanswered(&self) -> Usage {
        Usage { input: self.input, source: UsageSource::Counted, ..Usage::default() }
    }

    /// What has gone by so far, should nobody come to settle.
    pub(super) fn count(&mut self, usage: Usage) {
        self.in_flight.count(to_quota(usage));
    }

    /// The attempt ended without an answer; another may follow.
    pub(super) fn attempt_failed(&mut self, result: &'static str) {
        let Some(attempt) = self.attempt.take() else { return };
        self.shared.metrics.attempt(&attempt.provider, result);
        self.observe(&attempt, Usage::default());
    }

    /// Ends the call with what it used.
    pub(super) fn settle(mut self, usage: Usage, outcome: Outcome, status: u16) {
        if let Some(attempt) = self.attempt.take() {
            let result = if outcome == Outcome::Settled { "answered" } else { "cut" };
            self.shared.metrics.attempt(&attempt.provider, result);
            if usage.clamped {
                self.shared.metrics.usage_clamped(&attempt.provider);
            }
            self.observe(&attempt, usage);
            let used = usage.input.saturating_add(usage.output);
            self.shared.metrics.estimated(self.compiled.model_label(&self.model), used, self.reserved);
        }
        let mut attribution = self.in_flight.attribution().clone();
        attribution.status = status.into();
        self.in_flight.settle(to_quota(usage), outcome, attribution);
    }

    /// Ends a call that no provider did any work for.
    pub(super) fn void(self) {
        self.in_flight.void();
    }

    fn observe(&self, attempt: &Attempt, usage: Usage) {
        let asked = self.compiled.model_label(&self.model);
        let served = self.compiled.model_label(&attempt.model);
        let served = if served == OTHER && attempt.model == self.model { asked.clone() } else { served };
        let labels = AiLabels {
            operation: self.operation.name(),
            provider: attempt.provider.clone(),
            request_model: asked,
            response_model: served,
        };
        let took = attempt.started.elapsed();
        self.shared.metrics.ai_ended(labels, took, attempt.first_chunk, usage.input, usage.output);
    }
}

impl std::fmt::Debug for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Call").field("model", &self.model).finish_non_exhaustive()
    }
}

fn to_quota(usage: Usage) -> quota::Usage {
    quota::Usage {
        input_tokens: usage.input,
        cached_input_tokens: usage.cached_input,
        output_tokens: usage.output,
        reasoning_tokens: usage.reasoning,
        cache_write_tokens: usage.cache_write,
        counted: usage.source == UsageSource::Counted,
    }
}
