//! One response of a session to limits, credit and ledger: a request of its own.

use std::{net::IpAddr, sync::Arc, time::Duration};

use http::HeaderMap;
use tokio::time::{Instant, timeout};
use tollgate_llm::code;
use tollgate_model::{BillingMode, Caller, ConfigView, Durability, Name, Sent, Subject};
use tollgate_quota::{Attribution, InFlight, Outcome, Touch, Usage, Written};

use super::{events::Reported, session::Want};
use crate::{
    clock,
    compiled::Compiled,
    error::Rejection,
    filters::admit::{self, Need, Terms},
    gateway::Shared,
    metrics::{AiLabels, Label},
    pricing::Pricing,
    request_id::RequestId,
    routing::Plan,
};

/// The log decides in milliseconds; a leader that died is replaced within two seconds.
const DECIDED_WITHIN: Duration = Duration::from_secs(5);
/// The last event of a response waits so long for its settlement to be written down.
const WRITTEN_WITHIN: Duration = Duration::from_secs(5);
/// A hold outlives its session by this before it counts as used.
const HOLD_SLACK: Duration = Duration::from_secs(60);

/// Who has a session, and with whom: what each of its responses is admitted and billed by.
#[derive(Clone)]
pub(super) struct Whose {
    pub(super) shared: Arc<Shared>,
    pub(super) caller: Option<Caller>,
    pub(super) plan: Arc<Plan>,
    pub(super) model: String,
    pub(super) provider: Name,
    /// As the provider calls it.
    pub(super) served: String,
    pub(super) address: IpAddr,
    /// As limits may ask for them.
    pub(super) headers: HeaderMap,
    pub(super) credentials: Option<Box<HeaderMap>>,
    pub(super) query: Option<String>,
    /// When the session ends at the latest.
    pub(super) ends_by: Instant,
}

/// A response that may begin.
pub(super) struct Held {
    /// Until it is ended.
    in_flight: Option<InFlight>,
    need: Need,
    pricing: Pricing,
    compiled: Arc<Compiled>,
    whose: Arc<Whose>,
    pub(super) permit: Option<Arc<Touch>>,
    /// What its input probably is.
    input: u64,
    /// What it can begin may have begun.
    is_sent: bool,
    began: Instant,
    first_chunk: Option<Duration>,
}

impl Whose {
    fn subject(&self) -> Subject<'_> {
        let caller = self.caller.as_ref();
        let billing = caller.map(|caller| &caller.tenant.billing).filter(|billing| billing.mode != BillingMode::None);
        Subject {
            tenant: caller.map(|caller| caller.tenant.name.as_str()),
            consumer: caller.map(|caller| caller.consumer.name.as_str()),
            route: &self.plan.route.name,
            model: Some(&self.model),
            provider: Some(&self.provider),
            currency: billing.and_then(|billing| billing.currency),
            ip: Some(self.address),
            sent: Some(Sent {
                headers: Some(&self.headers),
                credentials: self.credentials.as_deref(),
                query: self.query.as_deref(),
            }),
        }
    }

    /// By the prices and the configuration of this moment, as a session is long.
    pub(super) fn attribution(&self, compiled: &Compiled) -> Attribution {
        let subject = self.subject();
        Attribution {
            request_id: RequestId::generate().as_str().to_owned(),
            tenant: subject.tenant.unwrap_or_default().to_owned(),
            consumer: subject.consumer.unwrap_or_default().to_owned(),
            route: subject.route.to_owned(),
            provider: self.provider.to_string(),
            model: self.model.clone(),
            provider_model: self.served.clone(),
            admitted_us: self.shared.accounts.log_time().unwrap_or_else(clock::now).0,
            config_index: compiled.view.index.0,
            currency: subject.currency.map(|currency| currency.to_string()).unwrap_or_default(),
            prepaid: self.prepaid_tenant().is_some(),
            ..Attribution::default()
        }
    }

    pub(super) fn pricing(&self, compiled: &Compiled, attribution: &Attribution) -> Pricing {
        Pricing::of(&compiled.prices, attribution, [(self.provider.clone(), self.served.clone())])
    }

    fn prepaid_tenant(&self) -> Option<&str> {
        let tenant = &self.caller.as_ref()?.tenant;
        (tenant.billing.mode == BillingMode::Prepaid).then_some(tenant.name.as_str())
    }

    /// Whoever pays in advance is served only what has a price.
    pub(super) fn is_priced(&self, pricing: &Pricing) -> Result<(), Rejection> {
        match self.prepaid_tenant() {
            Some(tenant) if !pricing.has_price(&self.provider, &self.served) => {
                Err(Rejection::no_price(tenant, &self.provider, &self.model))
            }
            _ => Ok(()),
        }
    }

    /// Holds what one response may use in all limits that it meets, or in none. Durable: what begins it may be sent.
    pub(super) async fn hold(self: Arc<Self>, want: Want) -> Result<Held, Rejection> {
        let compiled = self.shared.current();
        let whose = self.as_of_now(&compiled.view)?;
        whose.hold_under(compiled, want).await
    }

    /// By who its caller is now: a session is long, and nobody begins a response who could not begin a session.
    fn as_of_now(self: Arc<Self>, view: &ConfigView) -> Result<Arc<Self>, Rejection> {
        let gone =
            |what: &str| Rejection::new(401, code::INVALID_API_KEY, format!("This session can't go on: {what}."));
        let route = view.routes.get(&self.plan.route.name).ok_or_else(|| gone("its route is gone"))?;
        let Some(before) = &self.caller else { return Ok(self) };
        let consumer = view.consumers.get(&before.consumer.name).filter(|consumer| !consumer.credentials.is_empty());
        let tenant = consumer.and_then(|consumer| view.tenants.get(&consumer.tenant));
        let (Some(consumer), Some(tenant)) = (consumer, tenant) else { return Err(gone("its caller is gone")) };
        if !route.auth.allows(&tenant.name, &consumer.name) {
            return Err(gone("its route is for others"));
        }
        if Arc::ptr_eq(consumer, &before.consumer) && Arc::ptr_eq(tenant, &before.tenant) {
            return Ok(self);
        }
        let caller = Caller { consumer: Arc::clone(consumer), tenant: Arc::clone(tenant) };
        Ok(Arc::new(Self { caller: Some(caller), ..Self::clone(&self) }))
    }

    async fn hold_under(self: Arc<Self>, compiled: Arc<Compiled>, want: Want) -> Result<Held, Rejection> {
        let mut attribution = self.attribution(&compiled);
        let pricing = self.pricing(&compiled, &attribution);
        self.is_priced(&pricing)?;
        let need = Need::priced(want.input, want.output, &pricing);
        let (deadline, left) =
            (Instant::now() + DECIDED_WITHIN, self.ends_by.saturating_duration_since(Instant::now()));
        let terms =
            Terms { at_least: Durability::Journal, hold_for: left + HOLD_SLACK, deadline, whose: Some(&attribution) };
        let admission = admit::admit(&self.shared, &compiled.view, self.subject(), need, terms).await?;
        attribution.prepaid = admission.prepaid;
        let in_flight = Some(admission.reservation.dispatch(attribution));
        let (permit, input) = (admission.permit, want.probably);
        let (is_sent, began, first_chunk) = (false, Instant::now(), None);
        // From here on it is given back should nobody wait for it any more.
        let held = Held { in_flight, need, pricing, compiled, whose: self, permit, input, is_sent, began, first_chunk };
        match &held.in_flight {
            Some(in_flight) => admit::durable(in_flight, deadline).await.map(|()| held),
            None => Ok(held),
        }
    }
}

impl Whose {
    /// A response that has begun and was stopped though nothing was held for it: its provider may bill it, so it is charged as far
    /// as limits hold it now, and a row in any case.
    pub(super) async fn record_unheld(self: Arc<Self>, want: Want) {
        let probably = Reported { input: want.probably, ..Reported::default() };
        if let Ok(mut held) = Arc::clone(&self).hold(want).await {
            held.is_sent();
            return held.cut(probably).await;
        }
        let compiled = self.shared.current();
        let attribution = Attribution { status: 200, prepaid: false, ..self.attribution(&compiled) };
        let placed = admit::record_apart(&self.shared, Instant::now() + DECIDED_WITHIN).await;
        let Ok(reservation) = placed else { return };
        let used = Usage { counted: true, ..usage(probably) };
        let used = Usage { cost: self.pricing(&compiled, &attribution).cost(&attribution, &used), ..used };
        written(reservation.dispatch(attribution.clone()).settle(used, Outcome::Partial, attribution)).await;
    }
}

impl Held {
    /// From here on it may have begun: should nobody come to settle, it probably has used its input.
    pub(super) fn is_sent(&mut self) {
        if !std::mem::replace(&mut self.is_sent, true) {
            self.began = Instant::now();
            self.count(Reported { input: self.input, ..Reported::default() });
        }
    }

    /// What has probably gone by so far.
    pub(super) fn count(&mut self, so_far: Reported) {
        if so_far.output > 0 {
            self.first_chunk.get_or_insert(self.began.elapsed());
        }
        let usage = self.probably(so_far);
        self.in_flight.iter_mut().for_each(|in_flight| in_flight.count(usage));
    }

    /// Of one that nobody tells of: limits are charged what it can have been.
    fn probably(&self, so_far: Reported) -> Usage {
        let most = (self.need.input, self.need.output);
        self.priced(Usage { counted: true, input_at_most: most.0, output_at_most: most.1, ..usage(so_far) })
    }

    fn priced(&self, usage: Usage) -> Usage {
        let cost = |in_flight: &InFlight| self.pricing.cost(in_flight.attribution(), &usage);
        Usage { cost: self.in_flight.as_ref().map_or(0, cost), ..usage }
    }

    /// It is over, with what the provider says of it.
    pub(super) async fn settle(self, told: Reported) {
        self.end(usage(told), Outcome::Settled, 200).await;
    }

    /// It is over, and the provider does not say what it used, or can't any more.
    pub(super) async fn cut(self, probably: Reported) {
        let usage = self.probably(probably);
        self.end(usage, Outcome::Partial, 200).await;
    }

    /// The provider has failed before it did any work: that is recorded, for nothing.
    pub(super) async fn failed(mut self) {
        let Some(mut in_flight) = self.in_flight.take() else { return };
        self.whose.shared.metrics.attempt(&self.whose.provider, "failed");
        in_flight.attribution_mut().status = 502;
        let whose = in_flight.whose();
        written(in_flight.refused(whose)).await;
    }

    /// Nothing has begun under it.
    pub(super) fn void(mut self) {
        self.in_flight.take().into_iter().for_each(InFlight::void);
    }

    async fn end(mut self, usage: Usage, outcome: Outcome, status: u32) {
        let usage = self.priced(usage);
        let Some(mut in_flight) = self.in_flight.take() else { return };
        let metrics = &self.whose.shared.metrics;
        let labels = AiLabels {
            operation: "realtime",
            provider: Label::from(&self.whose.provider),
            request_model: self.compiled.model_label(&self.whose.model),
            response_model: self.compiled.model_label(&self.whose.served),
        };
        let meter = self.compiled.meters.of(metrics, labels);
        let (input, output) = (usage.input_tokens, usage.output_tokens);
        meter.ended(metrics, self.began.elapsed(), self.first_chunk, (input, output));
        match outcome {
            Outcome::Settled => meter.answered(metrics),
            _ => metrics.attempt(&self.whose.provider, "cut"),
        }
        meter.estimated(metrics, input.saturating_add(output), self.need.input.saturating_add(self.need.output));
        in_flight.attribution_mut().status = status;
        let whose = in_flight.whose();
        written(in_flight.settle(usage, outcome, whose)).await;
    }
}

/// Whoever has heard the end of a response finds it in the ledger, whatever becomes of this node.
async fn written(written: Written) {
    if timeout(WRITTEN_WITHIN, written).await.is_err() {
        tracing::warn!(code = code::QUOTA_UNAVAILABLE, "the settlement of a realtime response waits for the disk");
    }
}

fn usage(told: Reported) -> Usage {
    Usage {
        input_tokens: told.input,
        cached_input_tokens: told.cached_input,
        output_tokens: told.output,
        audio_input_tokens: told.audio_input,
        audio_output_tokens: told.audio_output,
        ..Usage::default()
    }
}

impl Drop for Held {
    /// One that was sent is settled at what was counted, by being dropped.
    fn drop(&mut self) {
        if !self.is_sent {
            self.in_flight.take().into_iter().for_each(InFlight::void);
        }
    }
}
