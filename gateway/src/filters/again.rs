//! The tokens of a request once more, as it is sent out once more: the provider that was asked before has brought no answer,
//! and may have used all that is held (QUOTA.md I4, 3.6).
//!
//! Only tokens: to its caller it stays one request, and has one permit.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tollgate_model::{ConfigView, Durability, Limit, Mode, Subject, Unit, WhenUnavailable};
use tollgate_quota::{HeldPart, ReserveError};

use super::{
    admit::{Need, PATIENCE, charges, newer_view, quota_durability},
    shadow,
};
use crate::gateway::Shared;

/// Nothing that is not held is sent out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotHeld;

/// Whose tokens are held again, and for how long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Again<'a> {
    pub(crate) subject: Subject<'a>,
    pub(crate) need: Need,
    pub(crate) at_least: Durability,
    pub(crate) hold_for: Duration,
    pub(crate) deadline: Instant,
}

fn counts_tokens(limit: &Limit) -> bool {
    matches!(limit.unit, Unit::Tokens | Unit::InputTokens | Unit::OutputTokens)
}

impl Again<'_> {
    /// Holds them in all limits that count tokens, or in none. What is given may be drawn on: it is durable. None where no
    /// limit counts tokens.
    pub(crate) async fn hold(self, shared: &Shared, view: &Arc<ConfigView>) -> Result<Option<HeldPart>, NotHeld> {
        let mut view = Arc::clone(view);
        loop {
            let met = view.limits_for(self.subject).filter(|limit| counts_tokens(limit)).cloned();
            let (limits, shadows): (Vec<Arc<Limit>>, Vec<_>) = met.partition(|limit| limit.mode == Mode::Enforce);
            if limits.is_empty() && shadows.is_empty() {
                return Ok(None);
            }
            match self.reserve(shared, &limits, &shadows).await {
                Ok(part) => {
                    limits.iter().for_each(|limit| shared.metrics.decision(&limit.name, "extended"));
                    return Ok(Some(part));
                }
                Err(Some(ReserveError::Stale { version, .. })) => {
                    view = newer_view(shared, version, self.deadline).await.ok_or(NotHeld)?;
                }
                Err(error) => {
                    if let Some(ReserveError::Exhausted { limit, .. }) = &error {
                        shared.metrics.decision(limit, "not_extended");
                    }
                    tracing::debug!(?error, "no fallback: its tokens can't be held");
                    return Err(NotHeld);
                }
            }
        }
    }

    async fn reserve(
        &self,
        shared: &Shared,
        limits: &[Arc<Limit>],
        shadows: &[Arc<Limit>],
    ) -> Result<HeldPart, Option<ReserveError>> {
        let charges = charges(limits, &self.subject, self.need).map_err(|_exceeds| None)?;
        let allowed: Vec<bool> = limits.iter().map(|it| it.when_unavailable == WhenUnavailable::Allow).collect();
        let durability = limits.iter().map(|limit| limit.durability).fold(self.at_least, Durability::max);
        let (durability, deadline) = (quota_durability(durability), self.deadline.min(Instant::now() + PATIENCE));
        let asked = shared.desk.reserve_or_allow(charges, &allowed, durability, deadline, self.hold_for).await;
        let reservation = shadow::follow(shared, shadows, &self.subject, self.need, asked.map_err(Some)?);
        let part = reservation.dispatch_part();
        if let Err(error) = part.durable(deadline).await {
            part.void();
            return Err(Some(ReserveError::Unavailable(error)));
        }
        Ok(part)
    }
}
