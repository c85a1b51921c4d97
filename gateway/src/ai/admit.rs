//! What an AI request can cost at most, and the reservation of it.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use http::HeaderMap;
use tokio::time::Instant;
use tollgate_llm::{AiRequest, MaxTokens, has_vocabulary};
use tollgate_model::{Backend, Durability, Fallback, Name, RouteAction, Subject, Subset, UpstreamRef};
use tollgate_quota::{Attribution, Reservation, Touch};

use super::{fit, growing::Growth, holding};
use crate::{
    clock,
    error::Rejection,
    exchange::Exchange,
    filters::{
        admit::{self, Admission, Need, Refused, Terms},
        output::OutputPath,
    },
    gateway::Shared,
    pricing::Pricing,
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
    /// Whom it is for, and by what it is billed: whoever serves it.
    pub(super) attribution: Attribution,
    pub(super) pricing: Arc<Pricing>,
    pub(super) headers: HeaderMap,
    pub(super) max_tokens: MaxTokens,
    /// In the order in which they are tried.
    pub(super) candidates: Vec<Candidate>,
    /// Where what is reserved is the beginning of what it may use.
    pub(super) growing: Option<Growing>,
    /// How long it can last at most.
    pub(super) hold_for: Duration,
    /// It ends when that is lost.
    pub(super) permit: Option<Arc<Touch>>,
}

/// A hold that grows with its stream.
#[derive(Debug)]
pub(super) struct Growing {
    /// What the call is recorded with.
    pub(super) record: Option<Reservation>,
    path: OutputPath,
    /// The output that is held at first, and the most that the provider may write.
    pub(super) held: u64,
    bound: u64,
    hold_for: Duration,
}

impl Growing {
    /// How it grows while this provider writes. None where that is too fast, or may be.
    pub(super) fn with(&self, shared: &Arc<Shared>, provider: &str, model: &str) -> Option<Growth> {
        let margin = shared.paces.margin(provider, model)?;
        let holding = holding::Holding::new(self.bound, self.held, margin);
        Some(Growth::new(Arc::clone(shared), holding, self.path.clone(), self.hold_for))
    }
}

/// One provider that may serve the request.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    pub(super) upstream: UpstreamRef,
    /// Served instead of what was asked for.
    pub(super) model: Option<Name>,
    /// The endpoints that are meant.
    pub(super) subset: Option<Subset>,
    /// Of a fallback: its place among the route's.
    pub(super) fallback: Option<usize>,
}

pub(super) async fn admit(exchange: &mut Exchange, request: &AiRequest) -> Result<Admitted, Rejection> {
    let mut candidates = candidates(exchange)?;
    let models = served_models(exchange, request, &candidates);
    let mut attribution = attribution(exchange, request);
    let pricing = Arc::new(pricing(exchange, request, &candidates, &attribution));
    only_priced(exchange, request, &mut candidates, &pricing)?;
    let input = input_bound(request, &models).await;
    let subject = subject(exchange, request, &candidates);
    let view = &exchange.compiled.view;
    let room = admit::output_room(view, subject, input, &pricing);
    let (max_tokens, bound) = bound_output(exchange, request, room);
    let may_fit = fit::may_fit(request, &models);
    let asking = Asking { exchange, request, subject, input, pricing: &pricing };
    // What can never be held whole is refused, however little of it would be used.
    let may_grow = may_fit && request.output_bound_with(bound) <= room;
    let growing = if may_grow { asking.growing(bound, &candidates).await? } else { None };
    let first = growing.as_ref().map_or(bound, |growing| growing.held);
    // Whoever holds it in parts is recorded apart from them.
    let (admission, held) = match asking.ask(first, Some(&attribution).filter(|_| growing.is_none())).await {
        Ok(admission) => (admission, first),
        Err(refused) if may_fit => asking.fit(refused, first, asking.usual(bound, &candidates), &attribution).await?,
        Err(refused) => return Err(refused.tell(&exchange.shared)),
    };
    let reserved = asking.need(held);
    attribution.prepaid = admission.prepaid;
    // What does not even begin as it should is fitted: its provider ends by itself.
    let mut growing = growing.filter(|_| held == first);
    if let Some(growing) = growing.as_mut().filter(|_| !admission.reservation.is_local()) {
        growing.record = Some(asking.record_in_log(&attribution).await?);
    }
    let max_tokens = if held == first { max_tokens } else { MaxTokens::Set(held) };
    let Admission { reservation, headers, permit, .. } = admission;
    let hold_for = asking.hold_for();
    Ok(Admitted {
        reservation,
        reserved,
        attribution,
        pricing: Arc::clone(&pricing),
        headers,
        max_tokens,
        candidates,
        growing,
        hold_for,
        permit,
    })
}

/// As far as it is known before anybody is asked. When it is admitted is told by log time, as that is what prices come into
/// effect by.
fn attribution(exchange: &Exchange, request: &AiRequest) -> Attribution {
    let subject = exchange.subject(Some(request.model()));
    let now = exchange.shared.accounts.log_time().unwrap_or_else(clock::now);
    Attribution {
        request_id: exchange.record.request_id.as_str().to_owned(),
        tenant: subject.tenant.unwrap_or_default().to_owned(),
        consumer: subject.consumer.unwrap_or_default().to_owned(),
        route: subject.route.to_owned(),
        model: request.model().to_owned(),
        admitted_us: now.0,
        config_index: exchange.compiled.view.index.0,
        currency: subject.currency.map(|currency| currency.to_string()).unwrap_or_default(),
        // The log is told whose it is with what is held of the purse, which is met by the same configuration.
        prepaid: exchange.prepaid_tenant().is_some(),
        ..Attribution::default()
    }
}

/// What it is billed by, whichever candidate serves it.
fn pricing(exchange: &Exchange, request: &AiRequest, candidates: &[Candidate], attribution: &Attribution) -> Pricing {
    let served =
        |candidate: &Candidate| (candidate.upstream.name().clone(), served_model(exchange, candidate, request.model()));
    Pricing::of(&exchange.compiled.prices, attribution, candidates.iter().map(served))
}

/// Whoever pays in advance is served by those only whose price is known: nothing is ever free for want of one.
fn only_priced(
    exchange: &Exchange,
    request: &AiRequest,
    candidates: &mut Vec<Candidate>,
    pricing: &Pricing,
) -> Result<(), Rejection> {
    let Some(tenant) = exchange.prepaid_tenant() else { return Ok(()) };
    let has_price = |candidate: &Candidate| {
        pricing.has_price(candidate.upstream.name(), &served_model(exchange, candidate, request.model()))
    };
    let first = candidates.first().map(|first| (first.upstream.name().clone(), request.model().to_owned()));
    candidates.retain(has_price);
    match first.filter(|_| candidates.is_empty()) {
        Some((provider, model)) => Err(Rejection::no_price(tenant, &provider, &model)),
        None => Ok(()),
    }
}

/// Limits per provider are charged for the one that is tried first, whichever serves in the end.
pub(super) fn subject<'a>(exchange: &'a Exchange, request: &'a AiRequest, candidates: &'a [Candidate]) -> Subject<'a> {
    let provider = candidates.first().map(|first| first.upstream.name().as_str());
    Subject { provider, ..exchange.subject(Some(request.model())) }
}

/// What stays the same however much output is asked for.
struct Asking<'a> {
    exchange: &'a Exchange,
    request: &'a AiRequest,
    subject: Subject<'a>,
    input: u64,
    pricing: &'a Arc<Pricing>,
}

impl Asking<'_> {
    /// With this bound for each choice.
    fn need(&self, bound: u64) -> Need {
        Need::priced(self.input, self.request.output_bound_with(bound), self.pricing)
    }

    /// How long the request can last at most.
    fn hold_for(&self) -> Duration {
        let timeouts = self.exchange.plan.route.timeouts;
        let longest = if self.request.stream() { timeouts.stream.unwrap_or(LONGEST_STREAM) } else { timeouts.request };
        longest + HOLD_SLACK
    }

    fn deadline(&self) -> Instant {
        self.exchange.record.started() + self.exchange.plan.route.timeouts.request
    }

    async fn ask(&self, bound: u64, whose: Option<&Attribution>) -> Result<Admission, Refused> {
        let Exchange { shared, compiled, .. } = self.exchange;
        let (hold_for, deadline) = (self.hold_for(), self.deadline());
        let terms = Terms { at_least: Durability::Journal, hold_for, deadline, whose };
        admit::ask(shared, &compiled.view, self.subject, self.need(bound), terms).await
    }

    /// Whether to begin with less than `bound` and to hold more as the stream goes: where little is left, and the provider
    /// that is tried first is known to be slow enough to be stopped. Not for several choices, or a prediction.
    async fn growing(&self, bound: u64, candidates: &[Candidate]) -> Result<Option<Growing>, Rejection> {
        let Exchange { shared, compiled, .. } = self.exchange;
        let one = self.request.choices() == 1 && self.request.output_bound_with(0) == 0;
        let Some(first) = candidates.first().filter(|_| one) else { return Ok(None) };
        let model = served_model(self.exchange, first, self.request.model());
        let Some(slow) = shared.paces.slow(first.upstream.name(), &model) else { return Ok(None) };
        let path = OutputPath::of(&compiled.view, self.subject, Durability::Journal, self.input, self.pricing);
        let Some(path) = path else { return Ok(None) };
        let count = if has_vocabulary(&model) { holding::Count::Tokens } else { holding::Count::Bytes };
        let free = path.free(shared).map(|free| free.saturating_sub(self.input));
        let held = free.and_then(|free| holding::first(bound, free, slow, count));
        let Some(held) = held else { return Ok(None) };
        let record = Some(admit::record_apart(shared, self.deadline()).await?);
        Ok(Some(Growing { record, path, held, bound, hold_for: self.hold_for() }))
    }

    /// A place for its record, in the log as what it holds is.
    async fn record_in_log(&self, whose: &Attribution) -> Result<Reservation, Rejection> {
        admit::record_in_log(&self.exchange.shared, whose, self.deadline(), self.hold_for()).await
    }

    /// What an answer takes at most, by those of late that were seen here; 0 where none was.
    fn usual(&self, bound: u64, candidates: &[Candidate]) -> u64 {
        let paces = &self.exchange.shared.paces;
        let longest = |candidate: &Candidate| {
            let model = served_model(self.exchange, candidate, self.request.model());
            paces.longest(candidate.upstream.name(), &model)
        };
        candidates.first().and_then(longest).map_or(0, |longest| longest.min(bound))
    }

    /// Asks for less, where `bound` was `refused`; with the bound that was admitted. The refusal is the first one: it says
    /// when all that was asked for may be had.
    async fn fit(
        &self,
        refused: Refused,
        mut bound: u64,
        usual: u64,
        whose: &Attribution,
    ) -> Result<(Admission, u64), Rejection> {
        let shared = &self.exchange.shared;
        let mut left = refused.output_left(self.need(bound), self.pricing);
        for _ in 0..fit::TRIES {
            let Some(next) = left.and_then(|left| fit::next_bound(self.request, bound, left)) else { break };
            let later = fit::worth_waiting_for(next, usual);
            if later.is_some_and(|later| refused.may_have(shared, &self.subject, self.need(later))) {
                break;
            }
            bound = next;
            match self.ask(bound, Some(whose)).await {
                Ok(admission) => return Ok((admission, bound)),
                Err(refused) => left = refused.output_left(self.need(bound), self.pricing),
            }
        }
        Err(refused.tell(shared))
    }
}

/// The backend whose turn it is, then all fallbacks.
pub(super) fn candidates(exchange: &mut Exchange) -> Result<Vec<Candidate>, Rejection> {
    let plan = Arc::clone(&exchange.plan);
    let Backend { upstream, model, subset, .. } = exchange.select(&plan).ok_or_else(Rejection::no_healthy_upstream)?;
    let first = Candidate { upstream: upstream.clone(), model: model.clone(), subset: subset.clone(), fallback: None };
    let RouteAction::Forward { fallbacks, .. } = &plan.route.action else { return Ok(vec![first]) };
    let fallback = |(index, Fallback { upstream, model, subset, .. }): (usize, &Fallback)| Candidate {
        upstream: upstream.clone(),
        model: model.clone(),
        subset: subset.clone(),
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
