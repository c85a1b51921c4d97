//! The tokens of a request once more, as it is sent out once more: the provider that was asked before has brought no answer,
//! and may have used all that is held (QUOTA.md I4, 3.6).
//!
//! Only tokens: to its caller it stays one request, has one permit, and is billed once, for the answer.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tollgate_model::{ConfigView, Durability, Limit, Subject, Unit};
use tollgate_quota::{HeldPart, ReserveError};

use super::{
    admit::{Need, PATIENCE, charges},
    reserve::{Asking, Met, NotReserved},
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
        let Self { subject, need, at_least, hold_for, .. } = self;
        let deadline = self.deadline.min(Instant::now() + PATIENCE);
        let asking = Asking { subject, at_least, hold_for, deadline, whose: None };
        let wanted = |met: &Met| match met.limits.is_empty() && met.shadows.is_empty() {
            true => Err(NotReserved::Nothing),
            false => charges(&met.limits, &subject, need).map_err(NotReserved::Never),
        };
        let (met, reserved) = asking.reserve(shared, view, counts_tokens, wanted).await;
        let reservation = match reserved {
            Ok(reservation) => shadow::follow(shared, &met.shadows, &subject, need, reservation),
            Err(NotReserved::Nothing) => return Ok(None),
            Err(error) => {
                if let NotReserved::Quota(ReserveError::Exhausted { limit, .. }) = &error {
                    shared.metrics.decision(limit, "not_extended");
                }
                tracing::debug!(?error, "no fallback: its tokens can't be held");
                return Err(NotHeld);
            }
        };
        let part = reservation.dispatch_part();
        if let Err(error) = part.durable(deadline).await {
            part.void();
            tracing::debug!(%error, "no fallback: its tokens can't be held");
            return Err(NotHeld);
        }
        met.limits.iter().for_each(|limit| shared.metrics.decision(&limit.name, "extended"));
        Ok(Some(part))
    }
}
