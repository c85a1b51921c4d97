//! What an AI request can cost at most, and the reservation of it.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use http::HeaderMap;
use tollgate_llm::{AiRequest, MaxTokens};
use tollgate_model::{Backend, Durability, Fallback, Name, RouteAction, Subject, UpstreamRef};
use tollgate_quota::Reservation;

use super::fit;
use crate::{
    error::Rejection,
    exchange::Exchange,
    filters::admit::{self, Admission, Need, Refused},
};

/// The longest that a stream may last whose route names no time: its hold counts as used after that.
pub(super) const LONGEST_STREAM: Duration = Duration::from_secs(2 * 3_600);
/// A hold outlives its request's time by this before it counts as used.
const HOLD_SLACK: Duration = Duration::from_secs(60);

/// A request that may be sent, and to whom.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) reservation: Reservation,
    /// The most that it can use.
    pub(super) reserved: Need,
    pub(super) headers: HeaderMap,
    pub(super) max_tokens: MaxTokens,
    /// In the order in which they are tried.
    pub(super) candidates: Vec<Candidate>,
}

/// One provider that may serve the request.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    pub(super) upstream: UpstreamRef,
    /// Served instead of what was asked for.
    pub(super) model: Option<Name>,
    /// Of a fallback: its place among the route's.
    pub(super) fallback: Option<usize>,
}

pub(super) async fn admit(exchange: &mut Exchange, request: &AiRequest) -> Result<Admitted, Rejection> {
    let candidates = candidates(exchange)?;
    let models = served_models(exchange, request, &candidates);
    let input = input_bound(request, &models).await;
    // Limits per provider are charged for the one that is tried first, whichever serves in the end.
    let provider = candidates.first().map(|first| first.upstream.name().as_str());
    let subject = Subject { provider, ..exchange.subject(Some(request.model())) };
    let view = &exchange.compiled.view;
    let room = admit::output_room(view, subject, input);
    let (max_tokens, bound) = bound_output(exchange, request, room);
    let asking = Asking { exchange, request, subject, input };
    let (admission, reserved, max_tokens) = match asking.ask(bound).await {
        Ok(admission) => (admission, asking.need(bound), max_tokens),
        Err(refused) if fit::may_fit(request, &models) => {
            let (admission, bound) = asking.fit(refused, bound).await?;
            (admission, asking.need(bound), MaxTokens::Set(bound))
        }
        Err(refused) => return Err(refused.tell(&exchange.shared)),
    };
    let Admission { reservation, headers } = admission;
    Ok(Admitted { reservation, reserved, headers, max_tokens, candidates })
}

/// What stays the same however much output is asked for.
struct Asking<'a> {
    exchange: &'a Exchange,
    request: &'a AiRequest,
    subject: Subject<'a>,
    input: u64,
}

impl Asking<'_> {
    /// With this bound for each choice.
    fn need(&self, bound: u64) -> Need {
        Need { input: self.input, output: self.request.output_bound_with(bound) }
    }

    async fn ask(&self, bound: u64) -> Result<Admission, Refused> {
        let Exchange { shared, compiled, plan, record, .. } = self.exchange;
        let timeouts = plan.route.timeouts;
        let deadline = record.started() + timeouts.request;
        let longest = if self.request.stream() { timeouts.stream.unwrap_or(LONGEST_STREAM) } else { timeouts.request };
        let hold_for = longest + HOLD_SLACK;
        let need = self.need(bound);
        admit::ask(shared, &compiled.view, self.subject, need, Durability::Journal, hold_for, deadline).await
    }

    /// Asks for less, where `bound` was `refused`; with the bound that was admitted. The refusal is the first one: it says
    /// when all that was asked for may be had.
    async fn fit(&self, refused: Refused, mut bound: u64) -> Result<(Admission, u64), Rejection> {
        let mut left = refused.output_left(self.need(bound));
        for _ in 0..fit::TRIES {
            let Some(next) = left.and_then(|left| fit::next_bound(self.request, bound, left)) else { break };
            bound = next;
            match self.ask(bound).await {
                Ok(admission) => return Ok((admission, bound)),
                Err(refused) => left = refused.output_left(self.need(bound)),
            }
        }
        Err(refused.tell(&self.exchange.shared))
    }
}

/// The backend whose turn it is, then all fallbacks.
fn candidates(exchange: &Exchange) -> Result<Vec<Candidate>, Rejection> {
    let plan = &exchange.plan;
    let Backend { upstream, model, .. } = plan.next_backend().ok_or_else(Rejection::no_healthy_upstream)?;
    let first = Candidate { upstream: upstream.clone(), model: model.clone(), fallback: None };
    let RouteAction::Forward { fallbacks, .. } = &plan.route.action else { return Ok(vec![first]) };
    let fallback = |(index, Fallback { upstream, model, .. }): (usize, &Fallback)| Candidate {
        upstream: upstream.clone(),
        model: model.clone(),
        fallback: Some(index),
    };
    Ok(std::iter::once(first).chain(fallbacks.iter().enumerate().map(fallback)).collect())
}

/// The name under which a provider is asked for the model.
pub(super) fn served_model(exchange: &Exchange, candidate: &Candidate, asked: &str) -> String {
    if let Some(model) = &candidate.model {
        return model.to_string();
    }
    let provider = exchange.compiled.providers.get(candidate.upstream.name());
    provider.map_or_else(|| asked.to_owned(), |it| it.provider.models.resolve(asked).into_owned())
}

/// Under which names the candidates are asked for the model.
fn served_models(exchange: &Exchange, request: &AiRequest, candidates: &[Candidate]) -> Vec<String> {
    let models: BTreeSet<String> =
        candidates.iter().map(|candidate| served_model(exchange, candidate, request.model())).collect();
    models.into_iter().collect()
}

/// The most input that any of the models can bill: which of them will serve is not known yet.
async fn input_bound(request: &AiRequest, models: &[String]) -> u64 {
    let (long, short): (Vec<String>, Vec<String>) =
        models.iter().cloned().partition(|model| request.needs_blocking(model));
    let most = short.iter().map(|model| request.input_bound(model)).max().unwrap_or(0);
    if long.is_empty() {
        return most;
    }
    // Loading a vocabulary and counting a long text take milliseconds: not on a thread that serves others.
    let counted = {
        let (request, models) = (request.clone(), Arc::new(long));
        let counting = Arc::clone(&models);
        let count = move || counting.iter().map(|model| request.input_bound(model)).max().unwrap_or(0);
        tokio::task::spawn_blocking(count).await
    };
    most.max(counted.unwrap_or(u64::MAX)) // a count that failed bounds nothing: refused where there is a limit
}

/// The bound on output that the provider is sent, for each choice.
///
/// The caller's own, at most the route's; the route's default where the caller names none, or what the limits can hold
/// if that is less.
fn bound_output(exchange: &Exchange, request: &AiRequest, room: u64) -> (MaxTokens, u64) {
    if !request.has_output() {
        return (MaxTokens::Keep, 0);
    }
    let policy = exchange.plan.route.tokens;
    let most = policy.max.unwrap_or(u64::MAX);
    match request.max_tokens() {
        Some(asked) if asked <= most => (MaxTokens::Keep, asked),
        Some(_) => (MaxTokens::Set(most), most),
        None => {
            let default = policy.default.min(most).min(request.max_tokens_within(room));
            (MaxTokens::Set(default), default)
        }
    }
}
