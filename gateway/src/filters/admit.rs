//! Admission: what a request may use at most is reserved in every account it meets, all or none, before it is sent on.

use std::{sync::Arc, time::Duration};

use http::HeaderMap;
use tokio::time::Instant;
use tollgate_llm::code;
use tollgate_model::{
    ConfigView, Durability, KeyPart, Limit, Mode, Name, Reserve, Subject, Unit, WhenUnavailable, tenant_of_purse,
};
use tollgate_quota::{Attribution, Charge, InFlight, Reservation, ReserveError, Standing, Touch, Unavailable};

use super::{
    rate_headers::{Figures, rate_headers},
    reserve::{Asking, Met, NotReserved},
    shadow,
};
use crate::{error::Rejection, gateway::Shared, pricing::Pricing};

/// The log is waited for this long: a leader that died is replaced within two seconds, and the request need not know.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// Where the log could not be asked, it is worth coming again after this.
const RETRY_UNAVAILABLE: Duration = Duration::from_secs(1);

/// The most that a request can use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Need {
    pub(crate) input: u64,
    pub(crate) output: u64,
    /// What that can cost at most, in pico-units, and what its prompt can.
    pub(crate) cost: u64,
    pub(crate) prompt_cost: u64,
}

impl Need {
    /// With what it can cost by these prices.
    pub(crate) fn priced(input: u64, output: u64, pricing: &Pricing) -> Self {
        let (cost, prompt_cost) = (pricing.most(input, output), pricing.most(input, output.min(1)));
        Self { input, output, cost, prompt_cost }
    }

    /// What can cost nothing is not asked for money, not even by an account that owes some.
    fn meets(self, limit: &Limit) -> bool {
        self.cost > 0 || limit.unit.currency().is_none()
    }

    /// What a limit holds of it. A prompt's worth is never nothing where there will be output: an account of which nothing
    /// is left admits nobody.
    pub(super) fn held_by(self, limit: &Limit) -> u64 {
        match (limit.reserve, limit.unit) {
            (Reserve::Prompt, Unit::Cost(_)) => self.prompt_cost,
            (Reserve::Prompt, Unit::Tokens) => self.input.max(self.output.min(1)),
            (Reserve::Prompt, Unit::OutputTokens) => self.output.min(1),
            _ => self.of(limit.unit),
        }
    }

    fn of(self, unit: Unit) -> u64 {
        match unit {
            Unit::Tokens => self.input.saturating_add(self.output),
            Unit::InputTokens => self.input,
            Unit::OutputTokens => self.output,
            Unit::Requests | Unit::Concurrency => 1,
            Unit::Cost(_) => self.cost,
        }
    }
}

/// The limits that a request goes on without, for its line in the access log.
pub(crate) fn unprotected(reservation: &Reservation) -> Option<String> {
    let names: Vec<&str> = reservation.unprotected().collect();
    (!names.is_empty()).then(|| names.join(","))
}

/// A request that may go on.
#[derive(Debug)]
pub(crate) struct Admission {
    pub(crate) reservation: Reservation,
    /// How the limits stand with it, for the answer, whatever that is.
    pub(crate) headers: HeaderMap,
    /// Where it has a permit that may be given to others once this node is out of touch: it ends before.
    pub(crate) permit: Option<Arc<Touch>>,
    /// What it can cost at most is held of its tenant's credit.
    pub(crate) prepaid: bool,
}

/// Resolves when the permit may soon be given to others; never, where there is none.
pub(crate) async fn permit_lost(permit: Option<&Touch>) {
    match permit {
        Some(permit) => permit.lost().await,
        None => std::future::pending().await,
    }
}

/// What a caller is told then.
pub(crate) const PERMIT_LOST: &str =
    "This node is out of touch with the cluster, so its permit may be given to others.";

/// Whether others may be given a permit of this limit while this node believes to have it.
fn is_permit(limit: &Limit) -> bool {
    limit.unit == Unit::Concurrency && limit.when_unavailable == WhenUnavailable::Deny
}

/// A request that may not go on.
#[derive(Debug)]
pub(crate) struct Refused {
    why: Why,
    /// That it meets.
    limits: Vec<Arc<Limit>>,
    /// It asks for no more than is not used.
    is_false: bool,
}

#[derive(Debug)]
enum Why {
    Quota(ReserveError),
    Told(Rejection),
}

impl Refused {
    /// How much output there was room, and money, for beside the input of `need`. None where less output would not have
    /// helped.
    pub(crate) fn output_left(&self, need: Need, pricing: &Pricing) -> Option<u64> {
        let Why::Quota(ReserveError::Exhausted { standings, .. }) = &self.why else { return None };
        let left = |limit: &Arc<Limit>| {
            let left = standing_of(standings, &limit.name)?.remaining;
            match (limit.reserve, limit.unit) {
                (Reserve::Full, Unit::Tokens) => left.checked_sub(need.input),
                (Reserve::Full, Unit::OutputTokens) => Some(left),
                (Reserve::Full, Unit::Cost(_)) => pricing.output_within(need.input, left),
                _ => (need.held_by(limit) <= left).then_some(u64::MAX),
            }
        };
        self.limits.iter().map(left).try_fold(u64::MAX, |least, left| Some(least.min(left?)))
    }

    /// Whether there would be room for `need` if all that are in flight came to their ends, and used nothing.
    pub(crate) fn may_have(&self, shared: &Shared, subject: &Subject<'_>, need: Need) -> bool {
        let unused = |limit: &Arc<Limit>| shared.accounts.unused(&limit.name, &limit.key(subject));
        self.limits.iter().all(|limit| unused(limit).is_none_or(|unused| need.held_by(limit) <= unused))
    }

    /// What the caller is told.
    pub(crate) fn tell(self, shared: &Shared) -> Rejection {
        match self.why {
            Why::Quota(error) => {
                if let (true, ReserveError::Exhausted { limit, .. }) = (self.is_false, &error) {
                    shared.metrics.false_refusal(limit);
                }
                refusal(shared, error, &Figures::of(&self.limits))
            }
            Why::Told(rejection) => rejection,
        }
    }
}

/// Waits until what has to be written down of the request is: nothing may be sent to an upstream before.
pub(crate) async fn durable(in_flight: &InFlight, deadline: Instant) -> Result<(), Rejection> {
    let deadline = deadline.min(Instant::now() + PATIENCE);
    in_flight.durable(deadline).await.map_err(|error| {
        tracing::debug!(%error, "a request can't be journaled");
        let message = "Usage can't be written down at the moment: the disk is full or too slow.";
        Rejection::new(503, code::QUOTA_UNAVAILABLE, message).retry_after(RETRY_UNAVAILABLE)
    })
}

/// How a request asks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms<'a> {
    /// What is written down of it is what the strongest of its limits asks for, and this.
    pub(crate) at_least: Durability,
    /// How long it can last at most.
    pub(crate) hold_for: Duration,
    pub(crate) deadline: Instant,
    /// Whose it is, where it will make a row of the ledger by this hold.
    pub(crate) whose: Option<&'a Attribution>,
}

/// Reserves `need` in all limits that concern the subject. Should a limit have changed meanwhile, the newest configuration's limits
/// count.
pub(crate) async fn ask(
    shared: &Shared,
    view: &Arc<ConfigView>,
    subject: Subject<'_>,
    need: Need,
    terms: Terms<'_>,
) -> Result<Admission, Refused> {
    let Terms { at_least, hold_for, deadline, whose } = terms;
    let deadline = deadline.min(Instant::now() + PATIENCE);
    let asking = Asking { subject, at_least, hold_for, deadline, whose };
    let wanted = |met: &Met| charges(&met.limits, &subject, need).map_err(NotReserved::Never);
    let (met, reserved) = asking.reserve(shared, view, |limit| need.meets(limit), wanted).await;
    let why = match reserved {
        Ok(reservation) => return Ok(admission(shared, met, subject, need, reservation)),
        Err(NotReserved::Quota(error)) => Why::Quota(error),
        Err(NotReserved::Never(rejection)) => Why::Told(rejection),
        Err(NotReserved::Outdated | NotReserved::Nothing) => Why::Told(unavailable(&Figures::of(&met.limits))),
    };
    let is_false = matches!(&why, Why::Quota(error) if could_be_false(shared, error, &met.limits, &subject, need));
    Err(Refused { why, limits: met.limits, is_false })
}

fn admission(shared: &Shared, met: Met, subject: Subject<'_>, need: Need, reservation: Reservation) -> Admission {
    let Met { limits, shadows, asked } = met;
    let asked = (!limits.is_empty()).then_some(asked);
    if let Some(asked) = asked {
        shared.metrics.waited(reservation.way(), asked.elapsed());
    }
    let without: Vec<&str> = reservation.unprotected().collect();
    for limit in &limits {
        let unprotected = without.contains(&limit.name.as_str());
        shared.metrics.decision(&limit.name, if unprotected { "unprotected" } else { "granted" });
    }
    without.iter().for_each(|limit| shared.metrics.unprotected(limit));
    let granted = asked.filter(|_| !reservation.is_local());
    let has_permit = limits.iter().any(|limit| is_permit(limit));
    let permit = has_permit.then(|| Arc::new(shared.desk.touch(granted)));
    let headers = rate_headers(&Figures::of(&limits).with(&reservation.standings()));
    let reservation = shadow::follow(shared, &shadows, &subject, need, reservation);
    let prepaid = limits.iter().any(|limit| tenant_of_purse(&limit.name).is_some());
    Admission { reservation, headers, permit, prepaid }
}

/// Whether a counter of what is really used could have said yes: what was asked for fits into what is not used.
fn could_be_false(
    shared: &Shared,
    error: &ReserveError,
    limits: &[Arc<Limit>],
    subject: &Subject<'_>,
    need: Need,
) -> bool {
    let ReserveError::Exhausted { limit, .. } = error else { return false };
    let Some(limit) = limits.iter().find(|it| it.name == *limit) else { return false };
    let unused = shared.accounts.unused(&limit.name, &limit.key(subject));
    unused.is_some_and(|unused| need.held_by(limit) <= unused)
}

/// A place for what a call has used to be recorded, should its holds be apart from it.
pub(crate) async fn record_apart(shared: &Shared, deadline: Instant) -> Result<Reservation, Rejection> {
    let placed = shared.desk.reserve(Vec::new(), tollgate_quota::Durability::Journal, deadline, Duration::ZERO).await;
    placed.map_err(|error| refusal(shared, error, &Figures::of([])))
}

/// The same in the log.
pub(crate) async fn record_in_log(
    shared: &Shared,
    whose: &Attribution,
    deadline: Instant,
    hold_for: Duration,
) -> Result<Reservation, Rejection> {
    let placed = shared.desk.record_in_log(whose, deadline.min(Instant::now() + PATIENCE), hold_for).await;
    placed.map_err(|error| refusal(shared, error, &Figures::of([])))
}

/// The same for a request that is admitted as it is or not at all.
pub(crate) async fn admit(
    shared: &Shared,
    view: &Arc<ConfigView>,
    subject: Subject<'_>,
    need: Need,
    terms: Terms<'_>,
) -> Result<Admission, Rejection> {
    let asked = ask(shared, view, subject, need, terms).await;
    asked.map_err(|refused| refused.tell(shared))
}

/// What of a subject is final. Who calls is not before authentication, nor the model before the request was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Knows {
    pub(crate) caller: bool,
    pub(crate) model: bool,
}

/// How the limits of a request stand that reserves nothing, as headers: by what this node knows.
///
/// Of an unknown model the limits are unknown that depend on it. A caller that is not known meets the limits that every
/// caller meets, with what one has who has used nothing: the account without a name is nobody's.
pub(crate) fn peek(shared: &Shared, view: &ConfigView, subject: Subject<'_>, knows: Knows) -> HeaderMap {
    let anybody = if knows.caller { subject } else { Subject { tenant: Some(""), consumer: Some(""), ..subject } };
    let known = |limit: &&Arc<Limit>| knows.model || !limit.per.contains(&KeyPart::Model);
    let told = |limit: &&Arc<Limit>| limit.mode == Mode::Enforce && known(limit);
    let limits: Vec<&Arc<Limit>> = view.limits_for(anybody).filter(told).collect();
    if limits.is_empty() {
        return HeaderMap::new();
    }
    let accounts: Vec<_> = limits.iter().map(|limit| (limit.name.clone(), limit.key(&subject))).collect();
    rate_headers(&Figures::of(limits).with(&shared.accounts.standings(&accounts)))
}

/// How much output a request may still ask for so that it fits into the limits at all, with this much input.
pub(crate) fn output_room(view: &ConfigView, subject: Subject<'_>, input: u64, pricing: &Pricing) -> u64 {
    let in_full = |limit: &&Arc<Limit>| limit.mode == Mode::Enforce && limit.reserve == Reserve::Full;
    let room = view.limits_for(subject).filter(in_full).filter_map(|limit| match limit.unit {
        Unit::Tokens => Some(limit.limit.saturating_sub(input)),
        Unit::OutputTokens => Some(limit.limit),
        Unit::Cost(_) => Some(pricing.output_within(input, limit.limit).unwrap_or(0)),
        Unit::InputTokens | Unit::Requests | Unit::Concurrency => None,
    });
    room.min().unwrap_or(u64::MAX)
}

pub(super) fn charges(limits: &[Arc<Limit>], subject: &Subject<'_>, need: Need) -> Result<Vec<Charge>, Rejection> {
    let charge = |limit: &Arc<Limit>| {
        let amount = need.held_by(limit);
        if amount > limit.limit {
            return Err(exceeds(&limit.name, Some(limit.unit), limit.limit, amount));
        }
        Ok(Charge { limit: limit.name.clone(), version: limit.version, key: limit.key(subject), amount })
    };
    limits.iter().map(charge).collect()
}

fn refusal(shared: &Shared, error: ReserveError, figures: &Figures<'_>) -> Rejection {
    match error {
        ReserveError::Exhausted { limit, capacity, remaining, retry_after, standings } => {
            shared.metrics.decision(&limit, "refused");
            if let Some(tenant) = tenant_of_purse(&limit) {
                return no_credit(tenant, figures.unit(&limit), remaining);
            }
            let unit = figures.unit(&limit);
            let (noun, left, all) = (noun(&unit), written(unit, remaining), written(unit, capacity));
            let message = format!("Limit `{limit}` is exhausted: {left} of {all} {noun} are left.");
            Rejection::new(429, code::RATE_LIMIT_EXCEEDED, message)
                .with_headers(&rate_headers(&figures.clone().with(&standings)))
                .retry_after(retry_after)
        }
        ReserveError::ExceedsLimit { limit, capacity, amount } => {
            exceeds(&limit, figures.unit(&limit), capacity, amount)
        }
        ReserveError::Unavailable(Unavailable::Quarantined) => {
            figures.names().for_each(|limit| shared.metrics.decision(limit, "unavailable"));
            let names: Vec<&str> = figures.names().map(Name::as_str).collect();
            let message =
                format!("An account of limit `{}` does not add up and is closed for now.", names.join("`, `"));
            Rejection::new(503, code::QUOTA_UNAVAILABLE, message).retry_after(RETRY_UNAVAILABLE)
        }
        _ => {
            figures.undecided().for_each(|limit| shared.metrics.decision(limit, "unavailable"));
            tracing::debug!(%error, "quota is unavailable");
            unavailable(figures)
        }
    }
}

/// When there will be more nobody knows.
fn no_credit(tenant: &str, unit: Option<Unit>, remaining: u64) -> Rejection {
    let (noun, left) = (noun(&unit), written(unit, remaining));
    let message = format!("The credit of tenant `{tenant}` does not pay for this request: {left} {noun} are left.");
    Rejection::new(429, code::INSUFFICIENT_QUOTA, message)
}

/// So much of a limit's unit, as callers are told. The limit may be gone by now.
fn written(unit: Option<Unit>, units: u64) -> String {
    unit.map_or_else(|| units.to_string(), |unit| unit.amount(units))
}

fn noun(unit: &Option<Unit>) -> &str {
    unit.as_ref().map_or("units", Unit::noun)
}

fn exceeds(limit: &str, unit: Option<Unit>, capacity: u64, amount: u64) -> Rejection {
    let (noun, capacity, amount) = (noun(&unit), written(unit, capacity), written(unit, amount));
    let message = format!("Limit `{limit}` holds {capacity} {noun} in all, and this request alone needs {amount}.");
    Rejection::new(400, code::REQUEST_EXCEEDS_LIMIT, message)
}

fn unavailable(figures: &Figures<'_>) -> Rejection {
    let names: Vec<&str> = figures.undecided().map(Name::as_str).collect();
    let message = match names.as_slice() {
        [] => "Usage can't be recorded at the moment.".to_owned(),
        names => format!("Limit `{}` can't be asked at the moment.", names.join("`, `")),
    };
    Rejection::new(503, code::QUOTA_UNAVAILABLE, message).retry_after(RETRY_UNAVAILABLE)
}

/// For the answer's headers and messages: [`Figures::with`] matches standings to limits by name.
pub(crate) fn standing_of<'a>(standings: &'a [Standing], limit: &str) -> Option<&'a Standing> {
    standings.iter().find(|standing| *standing.limit == *limit)
}
