//! One AI request, sent to one provider after another until one answers as it should.

use std::{ops::ControlFlow, sync::Arc, time::Duration};

use http::{HeaderValue, Response};
use tokio::time::Instant;
use tollgate_llm::{AiRequest, MaxTokens, code};
use tollgate_model::{Durability, Failure, RouteAction, UpstreamRef};
use tollgate_quota::{Outcome, Touch};

use super::{
    X_TOLLGATE_MAX_TOKENS,
    admit::{self, Admitted, Candidate, Growing, served_model},
    answer,
    growing::Growth,
    provider,
    settle::Call,
};
use crate::{
    balance::Tried,
    body::ResponseBody,
    error::Rejection,
    exchange::Exchange,
    filters::{
        admit::{PERMIT_LOST, permit_lost},
        again::{Again, NotHeld},
    },
    retry::{self, Left, Met},
    upstream::{Again as Leave, Detour, KeyTaken, NotTaken, ProviderUpstream, Report, SendError, UpstreamBody, Within},
};

/// An attempt that brought no answer for the caller.
pub(super) struct Failed {
    /// As a fallback's `on` names it; none where no other provider could do better.
    pub(super) failure: Option<Failure>,
    /// What the caller is told if nobody else answers.
    pub(super) rejection: Rejection,
    /// The provider may have worked, and bill for it.
    pub(super) billable: bool,
    /// The provider has answered, and says that it did no work.
    pub(super) refused: bool,
    /// How long it asks to be left alone.
    pub(super) retry_after: Option<Duration>,
    /// What it says of the key that it was sent with.
    pub(super) key: KeyFault,
    /// For metrics.
    pub(super) label: &'static str,
}

/// What a failure says of the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyFault {
    /// Nothing: it may be fine.
    None,
    /// Another one may do better, but it may as well be the request that is refused.
    Perhaps,
    /// It is not taken, or not now.
    Refused,
}

/// One attempt as its answer is read.
pub(super) struct Sent<'a> {
    pub(super) request: &'a AiRequest,
    pub(super) provider: &'a ProviderUpstream,
    pub(super) model: &'a str,
    pub(super) max_tokens: MaxTokens,
    /// For the whole answer.
    pub(super) deadline: Instant,
    /// For the first byte of it.
    pub(super) first_byte: Instant,
    /// Where what is held for it grows with its stream.
    pub(super) growth: Option<Growth>,
    /// It ends when that is lost.
    pub(super) permit: Option<Arc<Touch>>,
}

/// What a provider is allowed: how much output, and for how long.
#[derive(Clone, Copy)]
struct Bound<'a> {
    max_tokens: MaxTokens,
    growing: Option<&'a Growing>,
    permit: Option<&'a Arc<Touch>>,
}

impl Bound<'_> {
    /// Of one provider: what is held alone where that will not grow, as it could not be stopped in time.
    fn with(&self, growth: Option<&Growth>) -> MaxTokens {
        match self.growing {
            Some(growing) if growth.is_none() => MaxTokens::Set(growing.held),
            _ => self.max_tokens,
        }
    }
}

/// Tries the candidates in their order. Ends the call: settled by the answer's end, here if there is none.
pub(super) async fn send(
    exchange: &mut Exchange,
    request: &AiRequest,
    admitted: Admitted,
) -> Result<Response<ResponseBody>, Rejection> {
    let plan = Arc::clone(&exchange.plan);
    let RouteAction::Forward { fallbacks, .. } = &plan.route.action else { return Err(Rejection::route_not_found()) };
    let Admitted { mut reservation, reserved, pricing, attribution, max_tokens, candidates, .. } = admitted;
    let Admitted { mut growing, hold_for, permit, .. } = admitted;
    let (in_flight, held) = match growing.as_mut().and_then(|growing| growing.record.take()) {
        None => (reservation.dispatch(attribution), None),
        Some(record) => {
            let record = record.with_shadow(reservation.take_shadow());
            let held = reservation.dispatch_part();
            (record.dispatch(attribution), Some(held))
        }
    };
    let mut call = Some(Call::new(exchange, request, in_flight, held, (reserved, pricing)));
    let bound = Bound { max_tokens, growing: growing.as_ref(), permit: permit.as_ref() };
    let left = Left::of(&plan.route);
    let mut asking = Asking { request, candidates: &candidates, hold_for, bound, left, last: None };
    for candidate in &candidates {
        let failure = asking.last.as_ref().and_then(|failed| failed.failure);
        let wanted = candidate.fallback.is_none_or(|at| failure.is_some_and(|it| fallbacks[at].on.contains(it)));
        if !wanted {
            continue;
        }
        if asking.last.is_some() && is_over(exchange) {
            break; // nobody could answer any more
        }
        match asking.ask(exchange, candidate, &mut call).await {
            ControlFlow::Continue(()) => {}
            ControlFlow::Break(Some(answer)) => return Ok(answer),
            ControlFlow::Break(None) => break, // the caller is told of the failure before
        }
    }
    let failed = asking.last.expect("the first candidate is always tried");
    end(call, failed.rejection.error().status);
    Err(failed.rejection)
}

/// A call on its way from one provider to the next.
struct Asking<'a> {
    request: &'a AiRequest,
    candidates: &'a [Candidate],
    hold_for: Duration,
    bound: Bound<'a>,
    left: Left<'a>,
    last: Option<Failed>,
}

impl Asking<'_> {
    /// One provider, as often as may be. Ends with its answer, or where nobody else may be asked.
    async fn ask(
        &mut self,
        exchange: &mut Exchange,
        candidate: &Candidate,
        call: &mut Option<Call>,
    ) -> ControlFlow<Option<Response<ResponseBody>>> {
        let provider = match upstream(exchange, candidate) {
            Ok(provider) => provider,
            Err(failed) => {
                self.note(failed);
                return ControlFlow::Continue(());
            }
        };
        let permit = self.bound.permit.map(|permit| &**permit);
        let mut tried = TriedThere::default();
        let mut leave = None;
        loop {
            if call.as_ref().is_some_and(Call::is_full) {
                return ControlFlow::Break(None);
            }
            if hold_again(exchange, self.request, self.candidates, self.hold_for, call).await.is_err() {
                return ControlFlow::Break(None);
            }
            if self.last.is_some() && is_over(exchange) {
                return ControlFlow::Break(None);
            }
            let asked = (candidate, &*provider);
            let attempted = tokio::select! {
                biased;
                () = permit_lost(permit) => Err(Failed::out_of_touch(call.as_ref())),
                attempted = attempt(exchange, self.request, asked, &mut tried, self.bound, call) => attempted,
            };
            drop(leave.take()); // kept until an answer was there
            let failed = match attempted {
                Ok(answer) => return ControlFlow::Break(Some(answer)),
                Err(failed) => failed,
            };
            if let Some(call) = call {
                call.attempt_failed(&failed);
            }
            leave = self.may_ask_again(exchange, &provider, &mut tried, &failed).await;
            self.note(failed);
            if leave.is_none() {
                return ControlFlow::Continue(());
            }
        }
    }

    /// Waits until the same provider may be asked once more, if it may.
    async fn may_ask_again(
        &mut self,
        exchange: &Exchange,
        provider: &ProviderUpstream,
        tried: &mut TriedThere,
        failed: &Failed,
    ) -> Option<Leave> {
        let met = failed.met()?;
        // Nothing was begun (RFC 9113 §8.7).
        if failed.was_not_taken() && tried.refusals < REFUSALS && !is_over(exchange) {
            tried.refusals += 1;
            return match tried.refusals {
                1 => Some(provider.endpoints.again_anyway()),
                _ => provider.endpoints.again(),
            };
        }
        // Nothing was used, and another key may be taken.
        if failed.key != KeyFault::None && provider.keys.has_others(&tried.keys) && !is_over(exchange) {
            // Its caller hears nothing of a key that was only tried: there is one at a time.
            return match tried.with_a_probe {
                true => Some(provider.endpoints.again_anyway()),
                false => provider.endpoints.again(),
            };
        }
        let deadline = deadline(exchange);
        self.left.wait(&provider.endpoints, &tried.endpoints, met, deadline).await
    }

    /// What can't be asked at all says nothing about the failure before it.
    fn note(&mut self, failed: Failed) {
        if self.last.is_none() || failed.failure.is_some() && failed.label != UNASKED {
            self.last = Some(failed);
        }
    }
}

/// By when somebody has to have answered.
fn deadline(exchange: &Exchange) -> Instant {
    exchange.record.started() + exchange.plan.route.timeouts.request
}

fn is_over(exchange: &Exchange) -> bool {
    Instant::now() >= deadline(exchange)
}

/// What a request was sent to and with, at one provider.
#[derive(Debug, Default)]
struct TriedThere {
    endpoints: Tried,
    keys: Tried,
    /// The last key rests, and was only sent to see.
    with_a_probe: bool,
    /// Sent again, as it was not taken.
    refusals: u32,
}

/// So often that is done, beside what a route says.
const REFUSALS: u32 = 2;

/// Before another provider is asked, the tokens that the one before may have used are held beside what this one may use.
async fn hold_again(
    exchange: &Exchange,
    request: &AiRequest,
    candidates: &[Candidate],
    hold_for: Duration,
    call: &mut Option<Call>,
) -> Result<(), NotHeld> {
    let Some((call, need)) = call.as_mut().and_then(|call| call.owes().map(|need| (call, need))) else { return Ok(()) };
    let subject = admit::subject(exchange, request, candidates);
    let deadline = deadline(exchange);
    let again = Again { subject, need, at_least: Durability::Journal, hold_for, deadline };
    if let Some(part) = again.hold(&exchange.shared, &exchange.compiled.view).await? {
        call.hold_again(part);
    }
    Ok(())
}

/// Nobody answered: what a provider may have worked for is settled as [`Call::unanswered`]; else nothing was used.
fn end(call: Option<Call>, status: u16) {
    let Some(call) = call else { return };
    if call.is_owed() {
        let used = call.unanswered();
        call.settle(used, Outcome::Partial, status);
    } else {
        call.void(status);
    }
}

async fn attempt(
    exchange: &mut Exchange,
    request: &AiRequest,
    (candidate, provider): (&Candidate, &ProviderUpstream),
    tried: &mut TriedThere,
    bound: Bound<'_>,
    call: &mut Option<Call>,
) -> Result<Response<ResponseBody>, Failed> {
    let draw = retry::draw(exchange, &provider.endpoints);
    let mut taken = provider.endpoints.take(&draw, &mut tried.endpoints).map_err(|NotTaken| Failed::not_there())?;
    let key = provider.keys.take(&mut tried.keys);
    tried.with_a_probe = key.as_ref().is_some_and(KeyTaken::is_probe);
    let model = served_model(exchange, candidate, request.model());
    let growth = bound.growing.and_then(|growing| growing.with(&exchange.shared, &provider.provider.name, &model));
    let max_tokens = bound.with(growth.as_ref());
    let outgoing = provider::request(exchange, provider, (&taken, key.as_ref()), request, &model, max_tokens);
    let outgoing = outgoing.map_err(|error| Failed::unasked(error.into()))?;
    let outgoing = outgoing.ok_or_else(|| Failed::unasked(Rejection::no_healthy_upstream()))?;
    exchange.record.upstream = Some(provider.provider.name.clone());
    let timeouts = exchange.plan.route.timeouts;
    let deadline = deadline(exchange);
    let pool = &exchange.shared.pool;
    let place = pool.place(&provider.wire, outgoing.uri(), taken.at());
    if let Some(call) = call {
        if !call.is_durable() {
            pool.connect_ahead(place.as_ref());
        }
        call.durable(deadline).await.map_err(Failed::unasked)?;
        call.begin(provider, &model, request);
    }
    exchange.record.is_sent_on();
    let mut within = Within::new(timeouts.first_byte, deadline);
    let mut sent = Sent {
        request,
        provider,
        model: &model,
        max_tokens,
        deadline,
        first_byte: within.by(),
        growth,
        permit: bound.permit.cloned(),
    };
    let mut report = taken.report();
    let mut began = None;
    let answered = async {
        let detour = Detour::new(&mut taken, &mut tried.endpoints, &provider.wire);
        let head = pool.send_by(&mut within, place, outgoing, detour).await;
        sent.first_byte = within.by();
        report = taken.report();
        let head: Response<UpstreamBody> = head.map_err(Failed::from)?;
        exchange.record.came_over(head.body().connection());
        began = Some(Instant::now());
        if let Some(call) = call {
            call.is_called(provider::upstream_id(head.headers()));
        }
        answer::read(exchange, sent, head.map(|body| body.of(taken)), call).await
    };
    let answered = answered.await;
    let asked = within.since();
    let had_time = retry::had_time(asked, deadline, timeouts.request);
    let took = || began.unwrap_or_else(Instant::now).saturating_duration_since(asked);
    tell(answered.as_ref().err(), (&report, had_time, &took), tried.refusals > 0, key);
    let mut answer = answered?;
    if let MaxTokens::Set(max) = max_tokens {
        answer.headers_mut().insert(&X_TOLLGATE_MAX_TOKENS, HeaderValue::from(max));
    }
    Ok(answer)
}

/// Whose fault it was, if anybody's.
fn tell(
    failed: Option<&Failed>,
    (endpoint, had_time, took): (&Report, bool, &dyn Fn() -> Duration),
    is_blamed: bool,
    key: Option<KeyTaken>,
) {
    match failed {
        // Nobody was asked, or did not take it.
        Some(failed) if failed.label == UNASKED || failed.label == SendError::NoFile.label() => return,
        Some(failed) if failed.was_not_taken() && !is_blamed => return,
        Some(failed) if failed.is_the_endpoints() && !(had_time || failed.refused) => return,
        Some(failed) if failed.is_the_endpoints() => {
            return endpoint.has_failed(|| (failed.failure == Some(Failure::Timeout)).then(took));
        }
        Some(Failed { key: KeyFault::Refused, retry_after, failure, .. }) => {
            let status = if let Some(Failure::Status(status)) = failure { *status } else { 0 };
            // A time of day is not read here, and an hour would be long for it.
            let asks = retry_after.filter(|asks| *asks < Duration::MAX).unwrap_or_default();
            key.into_iter().for_each(|key| key.was_refused(status, asks));
        }
        Some(Failed { key: KeyFault::Perhaps, .. }) => {}
        _ => key.into_iter().for_each(KeyTaken::was_taken),
    }
    // What is refused is so at once: that says nothing of how long answers take.
    endpoint.is_fine(|| failed.is_none().then(took));
}

fn upstream(exchange: &Exchange, candidate: &Candidate) -> Result<Arc<ProviderUpstream>, Failed> {
    let known = match &candidate.upstream {
        UpstreamRef::Provider(name) => exchange.compiled.providers.get(name),
        UpstreamRef::Service(_) => None, // speaks no dialect that could be read or counted
    };
    known.and_then(|known| known.part(candidate.subset.as_ref())).ok_or_else(Failed::not_there)
}

/// Nothing was sent.
const UNASKED: &str = "unasked";

impl Failed {
    /// Nothing was sent.
    fn unasked(rejection: Rejection) -> Self {
        Self {
            failure: None,
            rejection,
            billable: false,
            refused: false,
            retry_after: None,
            key: KeyFault::None,
            label: UNASKED,
        }
    }

    /// There is nobody to be asked.
    fn not_there() -> Self {
        Self { failure: Some(Failure::Connect), ..Self::unasked(Rejection::no_healthy_upstream()) }
    }

    /// As a route's retries see it. None where nothing was sent.
    fn met(&self) -> Option<Met> {
        let failure = self.failure.filter(|_| self.label != UNASKED)?;
        // An answer costs something each time, and is another one each time.
        Some(Met { failure, may_have_begun: self.billable, is_idempotent: false, retry_after: self.retry_after })
    }

    /// Whether its endpoint is to blame, and not the request.
    fn is_the_endpoints(&self) -> bool {
        self.failure.is_some_and(|failure| !matches!(failure, Failure::Status(..500)))
    }

    /// Its permit may soon be given to others, so it is not waited for.
    fn out_of_touch(call: Option<&Call>) -> Self {
        let rejection = Rejection::new(503, code::QUOTA_UNAVAILABLE, PERMIT_LOST);
        let billable = call.is_some_and(Call::is_under_way);
        Self {
            failure: None,
            rejection,
            billable,
            refused: false,
            retry_after: None,
            key: KeyFault::None,
            label: "out_of_touch",
        }
    }

    /// The provider says that it has not begun to work on it.
    fn was_not_taken(&self) -> bool {
        self.label == SendError::Refused.label()
    }

    /// An answer that is none.
    pub(super) fn garbage(rejection: Rejection) -> Self {
        let failure = Some(Failure::Status(502));
        Self {
            failure,
            rejection,
            billable: true,
            refused: false,
            retry_after: None,
            key: KeyFault::None,
            label: "garbage",
        }
    }
}

impl From<SendError> for Failed {
    fn from(error: SendError) -> Self {
        if error == SendError::Full {
            return Self::not_there();
        }
        let (billable, label) = (error.is_billable(), error.label());
        Self {
            failure: error.failure(),
            rejection: error.into(),
            billable,
            refused: false,
            retry_after: None,
            key: KeyFault::None,
            label,
        }
    }
}
