//! What a call used, told to quota and metrics once it has ended, whichever way.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tollgate_llm::{AiRequest, AtMost, Operation, Usage, UsageSource};
use tollgate_model::Name;
use tollgate_quota::{self as quota, HeldPart, InFlight, Outcome, Written};

use super::{attempt::Failed, holding::distribute, pace::Pace};
use crate::{
    compiled::Compiled,
    error::Rejection,
    exchange::Exchange,
    filters::admit::{Need, durable},
    gateway::Shared,
    metrics::{AiLabels, CallMeter, Label},
    pricing::Pricing,
    upstream::ProviderUpstream,
};

/// Attempts of one request that an upstream may bill: some 10 KB of its settlement at the most, and more than any route needs.
const MAX_BILLED: usize = 16;

/// A call on its way: the hold on its limits, and what is known of it for the record.
pub(super) struct Call {
    /// What its usage is recorded with. Holds what was reserved, unless there are `parts`: then it holds nothing.
    in_flight: InFlight,
    /// What is held for it, in the order in which it is used up, and how much output each holds.
    parts: Vec<(HeldPart, u64)>,
    operation: Operation,
    /// Asked for. Not the whole request: a stream outlives its prompt.
    model: String,
    /// What was reserved for it, in all.
    reserved: Need,
    /// What it is billed by.
    pricing: Arc<Pricing>,
    /// Should nothing be known of it but that the provider that was asked last may have worked for it.
    unanswered: Used,
    /// What is held may have been used by a provider that brought no answer.
    is_owed: bool,
    /// Attempts that brought no answer and that their provider may bill, each with what it may have used.
    billed: Vec<(quota::Attempt, Used)>,
    /// A provider has refused it, or failed before it did any work.
    is_refused: bool,
    /// For that, once another is asked.
    again: Again,
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

/// What is held beside the call's own for an attempt that brought no answer: that one's own is the next attempt's then.
#[derive(Debug, Default)]
enum Again {
    #[default]
    Nothing,
    /// Nobody has been asked since.
    Spare(HeldPart),
    /// Somebody has; this may have been used before.
    Used(HeldPart),
}

/// The attempt that is going on.
struct Attempt {
    provider: Name,
    model: String,
    started: Instant,
    first_chunk: Option<Duration>,
    /// What the provider calls it; empty while that has not said.
    upstream_id: String,
}

impl Call {
    /// `held` is apart from `in_flight` where it will grow; it was dispatched before that.
    pub(super) fn new(
        exchange: &Exchange,
        request: &AiRequest,
        in_flight: InFlight,
        held: Option<HeldPart>,
        (reserved, pricing): (Need, Arc<Pricing>),
    ) -> Self {
        let (shared, compiled) = (Arc::clone(&exchange.shared), Arc::clone(&exchange.compiled));
        let (operation, model) = (request.operation(), request.model().to_owned());
        let parts = held.into_iter().map(|part| (part, reserved.output)).collect();
        let (unanswered, again) = (Used::default(), Again::default());
        Self {
            in_flight,
            parts,
            operation,
            model,
            reserved,
            pricing,
            unanswered,
            is_owed: false,
            billed: Vec::new(),
            is_refused: false,
            again,
            shared,
            compiled,
            attempt: None,
        }
    }

    /// What has to be held once more before another provider may be asked. None where nothing has.
    pub(super) fn owes(&self) -> Option<Need> {
        (self.is_owed && matches!(self.again, Again::Nothing)).then_some(self.reserved)
    }

    /// So much more is held.
    pub(super) fn hold_again(&mut self, part: HeldPart) {
        self.again = Again::Spare(part);
    }

    /// Whether somebody is being asked.
    pub(super) fn is_under_way(&self) -> bool {
        self.attempt.is_some()
    }

    /// Whether a provider may have worked that brought no answer.
    pub(super) fn is_owed(&self) -> bool {
        self.is_owed
    }

    /// Whether as many attempts may be billed as its settlement has room for: nobody else is asked then.
    pub(super) fn is_full(&self) -> bool {
        self.billed.len() >= MAX_BILLED
    }

    /// Whether it may be sent out.
    pub(super) fn is_durable(&self) -> bool {
        self.in_flight.is_durable()
    }

    /// Waits until it may.
    pub(super) async fn durable(&self, deadline: Instant) -> Result<(), Rejection> {
        durable(&self.in_flight, deadline).await
    }

    /// So much more output is held for it.
    pub(super) fn grow(&mut self, mut part: HeldPart, output: u64) {
        // Should nobody come to settle, it may all have been used; what is billed then is known without it.
        part.count(quota::Usage { output_tokens: output, counted: true, ..quota::Usage::default() });
        let all = self.reserved.output.saturating_add(output);
        self.reserved = Need::priced(self.reserved.input, all, &self.pricing);
        self.parts.push((part, output));
    }

    /// One more attempt: from here on this provider may bill us for the input.
    pub(super) fn begin(&mut self, provider: &ProviderUpstream, model: &str, request: &AiRequest) {
        let earlier = self.billed.iter().map(|(attempt, _)| attempt.clone()).collect();
        let attribution = self.in_flight.attribution_mut();
        attribution.earlier = earlier;
        attribution.provider = provider.provider.name.to_string();
        attribution.provider_model = model.to_owned();
        let (provider, started) = (provider.provider.name.clone(), Instant::now());
        if let Again::Spare(mut part) = std::mem::take(&mut self.again) {
            // Of its tokens alone: what is not answered is not billed.
            part.count(self.unanswered.to_quota(self.reserved));
            self.again = Again::Used(part);
        }
        self.unanswered = Used {
            usage: Usage { input: request.input_estimate(model), source: UsageSource::Counted, ..Usage::default() },
            at_most: AtMost { input: request.most_input(model), output: self.reserved.output },
        };
        let (model, first_chunk, upstream_id) = (model.to_owned(), None, String::new());
        self.attempt = Some(Attempt { provider, model, started, first_chunk, upstream_id });
        self.count_unanswered();
    }

    /// From here on, should nobody come to settle, it is settled at that.
    fn count_unanswered(&mut self) {
        let so_far = self.priced(self.unanswered);
        self.in_flight.count(so_far);
        let shares = self.shares(&so_far);
        self.parts.iter_mut().zip(shares).for_each(|((part, _), share)| part.count(share));
    }

    /// The head of an answer has come: in it the provider may say what it calls this attempt.
    pub(super) fn is_called(&mut self, upstream_id: Option<String>) {
        if let Some(attempt) = &mut self.attempt {
            attempt.upstream_id = upstream_id.unwrap_or_default();
        }
    }

    /// What limits are told of it: with what whoever was asked last will bill.
    fn priced(&self, used: Used) -> quota::Usage {
        let usage = used.to_quota(self.reserved);
        quota::Usage { cost: self.pricing.cost(self.in_flight.attribution(), &usage), ..usage }
    }

    /// What each part used of it: the input is the first one's, output and money are used up in their order.
    fn shares(&self, whole: &quota::Usage) -> Vec<quota::Usage> {
        let held: Vec<u64> = self.parts.iter().map(|(_, output)| *output).collect();
        let output = distribute(whole.output_tokens, &held);
        let at_most = distribute(whole.output_at_most, &held);
        let cost = distribute(whole.cost, &self.held_costs());
        let share = |(at, ((output_tokens, output_at_most), cost)): (usize, ((u64, u64), u64))| match at {
            0 => quota::Usage { output_tokens, output_at_most, cost, ..*whole },
            _ => {
                quota::Usage { output_tokens, output_at_most, cost, counted: whole.counted, ..quota::Usage::default() }
            }
        };
        output.into_iter().zip(at_most).zip(cost).enumerate().map(share).collect()
    }

    /// What each part holds in money: what its output makes the whole dearer.
    fn held_costs(&self) -> Vec<u64> {
        let (mut output, mut before) = (0_u64, 0);
        let more = |(_, held): &(HeldPart, u64)| {
            output = output.saturating_add(*held);
            let all = self.pricing.most(self.reserved.input, output);
            all - std::mem::replace(&mut before, all)
        };
        self.parts.iter().map(more).collect()
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

    /// How fast its provider has written, and how much at `most`.
    pub(super) fn learn(&self, pace: &Pace, most: u64) {
        if let Some(attempt) = &self.attempt {
            self.shared.paces.learn(&attempt.provider, &attempt.model, pace, most);
        }
    }

    /// Its answer has come to its end, with so much output.
    pub(super) fn learn_length(&self, output: u64) {
        if let Some(attempt) = &self.attempt {
            self.shared.paces.ended(&attempt.provider, &attempt.model, output);
        }
    }

    /// Whether what its provider writes comes slowly enough to be read as it comes.
    pub(super) fn is_known_to_be_slow(&self) -> bool {
        let margin = |it: &Attempt| self.shared.paces.margin(&it.provider, &it.model);
        self.attempt.as_ref().and_then(margin).is_some()
    }

    /// Its stream ends early.
    pub(super) fn cut(&self, by: &'static str) {
        self.shared.metrics.stream_cut(by);
    }

    /// What is done for it once its caller is gone.
    pub(super) fn last_words(&self) -> &TaskTracker {
        &self.shared.last_words
    }

    /// The attempt ended without an answer; another may follow. What it may have used is owed, if the provider may bill it.
    pub(super) fn attempt_failed(&mut self, failed: &Failed) {
        let (result, billable) = (failed.label, failed.billable);
        self.is_refused |= failed.refused;
        match std::mem::take(&mut self.again) {
            again @ Again::Spare(_) => self.again = again,
            Again::Used(part) if !billable => part.void(),
            // A part that is dropped is settled at what was counted.
            Again::Used(..) | Again::Nothing => {}
        }
        self.is_owed |= billable;
        let Some(attempt) = self.attempt.take() else { return };
        self.shared.metrics.attempt(&attempt.provider, result);
        self.observe(&attempt, Usage::default());
        if billable {
            let used = self.unanswered;
            self.billed.push((attempt.billed(used.to_quota(self.reserved)), used));
        } else {
            self.is_about_the_last_billed();
        }
    }

    /// The attempt that just failed bills nothing: what is known is that of the last one before it that may.
    fn is_about_the_last_billed(&mut self) {
        let Some(((last, used), earlier)) = self.billed.split_last() else { return };
        let earlier = earlier.iter().map(|(attempt, _)| attempt.clone()).collect();
        let attribution = self.in_flight.attribution_mut();
        attribution.earlier = earlier;
        attribution.provider.clone_from(&last.provider);
        attribution.provider_model.clone_from(&last.provider_model);
        self.unanswered = *used;
        self.count_unanswered();
    }

    /// Ends the call with what it used. The answer's last bytes wait until that is written.
    pub(super) fn settle(mut self, used: Used, outcome: Outcome, status: u16) -> Written {
        let usage = used.usage;
        if let Some(attempt) = self.attempt.take() {
            if usage.clamped {
                self.shared.metrics.usage_clamped(&attempt.provider);
            }
            if outcome == Outcome::Settled && usage.source == UsageSource::Counted {
                self.shared.metrics.usage_missing(&attempt.provider);
            }
            let meter = self.observe(&attempt, usage);
            match outcome {
                Outcome::Settled => meter.answered(&self.shared.metrics),
                _ => self.shared.metrics.attempt(&attempt.provider, "cut"),
            }
            let total = usage.input.saturating_add(usage.output);
            let reserved = self.reserved.input.saturating_add(self.reserved.output);
            meter.estimated(&self.shared.metrics, total, reserved);
        }
        self.in_flight.attribution_mut().status = status.into();
        let used = self.priced(used);
        let shares = self.shares(&used);
        for (at, ((part, _), share)) in self.parts.into_iter().zip(shares).enumerate() {
            if at > 0 && share.output_tokens.max(share.output_at_most).max(share.cost) == 0 {
                part.void();
                continue;
            }
            // Who waits for the end of the call, which is written down after them, need not wait for theirs.
            drop(part.settle(share, outcome));
        }
        let whose = self.in_flight.whose();
        self.in_flight.settle(used, outcome, whose)
    }

    /// Ends a call that no provider did any work for. That one was asked is recorded, for nothing.
    pub(super) fn void(mut self, status: u16) {
        debug_assert!(!self.is_owed, "what is owed is not given back");
        self.parts.into_iter().for_each(|(part, _)| part.void());
        if !self.is_refused {
            return self.in_flight.void();
        }
        self.in_flight.attribution_mut().status = status.into();
        let whose = self.in_flight.whose();
        drop(self.in_flight.refused(whose));
    }

    fn observe(&self, attempt: &Attempt, usage: Usage) -> Arc<CallMeter> {
        let labels = AiLabels {
            operation: self.operation.name(),
            provider: Label::from(&attempt.provider),
            request_model: self.compiled.model_label(&self.model),
            response_model: self.compiled.model_label(&attempt.model),
        };
        let metrics = &self.shared.metrics;
        let meter = self.compiled.meters.of(metrics, labels);
        meter.ended(metrics, attempt.started.elapsed(), attempt.first_chunk, (usage.input, usage.output));
        meter
    }
}

impl Attempt {
    /// As its provider may bill it.
    fn billed(self, usage: quota::Usage) -> quota::Attempt {
        let Self { provider, model, upstream_id, .. } = self;
        quota::Attempt {
            provider: provider.to_string(),
            provider_model: model,
            usage: Some(usage),
            upstream_request_id: upstream_id,
        }
    }
}

impl std::fmt::Debug for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Call").field("model", &self.model).finish_non_exhaustive()
    }
}

impl Used {
    /// What is known at most is known within what was reserved: that bounds all that the call can use. Without its cost.
    fn to_quota(self, reserved: Need) -> quota::Usage {
        let Self { usage, at_most } = self;
        quota::Usage {
            input_tokens: usage.input,
            cached_input_tokens: usage.cached_input,
            output_tokens: usage.output,
            reasoning_tokens: usage.reasoning,
            cache_write_tokens: usage.cache_write,
            audio_input_tokens: usage.audio_input,
            audio_output_tokens: usage.audio_output,
            counted: usage.source == UsageSource::Counted,
            input_at_most: at_most.input.min(reserved.input),
            output_at_most: at_most.output.min(reserved.output),
            cost: 0,
        }
    }
}
