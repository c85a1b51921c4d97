//! What an AI request can cost at most, and the reservation of it.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use http::HeaderMap;
use tollgate_llm::{AiRequest, MaxTokens};
use tollgate_model::{Backend, Durability, Fallback, Name, RouteAction, Subject, UpstreamRef};
use tollgate_quota::Reservation;

use crate::{
    error::Rejection,
    exchange::Exchange,
    filters::admit::{self, Need},
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
    let input = input_bound(exchange, request, &candidates).await;
    // Limits per provider are charged for the one that is tried first, whichever serves in the end.
    let provider = candidates.first().map(|first| first.upstream.name().as_str());
    let subject = Subject { provider, ..exchange.subject(Some(request.model())) };
    let view = &exchange.compiled.view;
    let room = admit::output_room(view, subject, input);
    let (max_tokens, output) = bound_output(exchange, request, room);
    let timeouts = exchange.plan.route.timeouts;
    let deadline = exchange.record.started() + timeouts.request;
    let longest = if request.stream() { timeouts.stream.unwrap_or(LONGEST_STREAM) } else { timeouts.request };
    let need = Need { input, output };
    let admitted =
        admit::admit(&exchange.shared, view, subject, need, Durability::Journal, longest + HOLD_SLACK, deadline)
            .await?;
    Ok(Admitted {
        reservation: admitted.reservation,
        reserved: need,
        headers: admitted.headers,
        max_tokens,
        candidates,
    })
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

/// The most input that any of the candidates can bill: which of them will serve is not known yet.
async fn input_bound(exchange: &Exchange, request: &AiRequest, candidates: &[Candidate]) -> u64 {
    let models: BTreeSet<String> =
        candidates.iter().map(|candidate| served_model(exchange, candidate, request.model())).collect();
    let (long, short): (Vec<String>, Vec<String>) = models.into_iter().partition(|model| request.needs_blocking(model));
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

/// The bound on output that the provider is sent, for each choice, and what it comes to in all.
///
/// The caller's own, at most the route's; the route's default where the caller names none, or what the limits can hold
/// if that is less.
fn bound_output(exchange: &Exchange, request: &AiRequest, room: u64) -> (MaxTokens, u64) {
    if !request.has_output() {
        return (MaxTokens::Keep, 0);
    }
    let policy = exchange.plan.route.tokens;
    let most = policy.max.unwrap_or(u64::MAX);
    let (max_tokens, value) = match request.max_tokens() {
        Some(asked) if asked <= most => (MaxTokens::Keep, asked),
        Some(_) => (MaxTokens::Set(most), most),
        None => {
            let default = policy.default.min(most).min(request.max_tokens_within(room));
            (MaxTokens::Set(default), default)
        }
    };
    (max_tokens, request.output_bound_with(value))
}
