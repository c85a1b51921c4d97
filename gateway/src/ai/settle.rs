//! What a call used, told to quota and metrics once it has ended, whichever way.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tollgate_llm::{AiRequest, AtMost, Operation, Usage, UsageSource};
use tollgate_quota::{self as quota, InFlight, Outcome, Written};

use crate::{
    compiled::Compiled,
    error::Rejection,
    exchange::Exchange,
    filters::admit::{Need, durable},
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
    /// What was reserved for it.
    reserved: Need,
    /// Should nothing be known of it but that the provider that was asked last may have worked for it.
    unanswered: Used,
    shared: Arc<Shared>,
    compiled: Arc<Compiled>,
    attempt: Option<Attempt>,
}

/// What a call used: what rows and bills say, and the most that it can have been, which limits are charged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Used {
    pub(super) usage: Usage,
    pub(super) at_most: AtMost,
}

/// The attempt that is going on.
struct Attempt {
    provider: String,
    model: String,
    started: Instant,
    first_chunk: Option<Duration>,
}

impl Call {
    pub(super) fn new(exchange: &Exchange, request: &AiRequest, in_flight: InFlight, reserved: Need) -> Self {
        let (shared, compiled) = (Arc::clone(&exchange.shared), Arc::clone(&exchange.compiled));
        let (operation, model) = (request.operation(), request.model().to_owned());
        Self { in_flight, operation, model, reserved, unanswered: Used::default(), shared, compiled, attempt: None }
    }

    /// Whether it may be sent out.
    pub(super) fn is_durable(&self) -> bool {
        self.in_flight.is_durable()
    }

    /// Waits until it may.
    pub(super) async fn durable(&self, deadline: Instant) -> Result<(), Rejection> {
        durable(&self.in_flight, deadline).await
    }

    /// One more attempt: from here on this provider may bill us for the input.
    pub(super) fn begin(&mut self, provider: &ProviderUpstream, model: &str, request: &AiRequest) {
        let attribution = self.in_flight.attribution_mut();
        attribution.provider = provider.provider.name.to_string();
        attribution.provider_model = model.to_owned();
        let (provider, started) = (provider.provider.name.to_string(), Instant::now());
        self.unanswered = Used {
            usage: Usage { input: request.input_estimate(model), source: UsageSource::Counted, ..Usage::default() },
            at_most: AtMost { input: request.most_input(model), output: self.reserved.output },
        };
        self.attempt = Some(Attempt { provider, model: model.to_owned(), started, first_chunk: None });
        self.in_flight.count(self.unanswered.to_quota(self.reserved));
    }

    pub(super) fn first_chunk(&mut self) {
        if let Some(attempt) = &mut self.attempt {
            attempt.first_chunk = Some(attempt.started.elapsed());
        }
    }

    /// The usage of a call of which nothing came back: probably the input alone. But a provider that has the request may
    /// have worked all of it out by the time it sees that nobody waits, whole answers above all, so it may have been as much
    /// output as was reserved.
    pub(super) fn unanswered(&self) -> Used {
        self.unanswered
    }

    /// What is done for it once its caller is gone.
    pub(super) fn last_words(&self) -> &TaskTracker {
        &self.shared.last_words
    }

    /// The attempt ended without an answer; another may follow.
    pub(super) fn attempt_failed(&mut self, result: &'static str) {
        let Some(attempt) = self.attempt.take() else { return };
        self.shared.metrics.attempt(&attempt.provider, result);
        self.observe(&attempt, Usage::default());
    }

    /// Ends the call with what it used. The answer's last bytes wait until that is written.
    pub(super) fn settle(mut self, used: Used, outcome: Outcome, status: u16) -> Written {
        let usage = used.usage;
        if let Some(attempt) = self.attempt.take() {
            let result = if outcome == Outcome::Settled { "answered" } else { "cut" };
            self.shared.metrics.attempt(&attempt.provider, result);
            if usage.clamped {
                self.shared.metrics.usage_clamped(&attempt.provider);
            }
            self.observe(&attempt, usage);
            let total = usage.input.saturating_add(usage.output);
            let reserved = self.reserved.input.saturating_add(self.reserved.output);
            self.shared.metrics.estimated(self.compiled.model_label(&self.model), total, reserved);
        }
        let mut attribution = self.in_flight.attribution().clone();
        attribution.status = status.into();
        self.in_flight.settle(used.to_quota(self.reserved), outcome, attribution)
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

impl Used {
    /// What is known at most is known within what was reserved: that bounds all that the call can use.
    fn to_quota(self, reserved: Need) -> quota::Usage {
        let Self { usage, at_most } = self;
        quota::Usage {
            input_tokens: usage.input,
            cached_input_tokens: usage.cached_input,
            output_tokens: usage.output,
            reasoning_tokens: usage.reasoning,
            cache_write_tokens: usage.cache_write,
            counted: usage.source == UsageSource::Counted,
            input_at_most: at_most.input.min(reserved.input),
            output_at_most: at_most.output.min(reserved.output),
        }
    }
}
