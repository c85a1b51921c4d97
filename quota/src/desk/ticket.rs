//! One request's claim on the desk: whatever happens to it, the request ends exactly once.

use std::{fmt, sync::Arc, time::Duration};

use tokio::time::Instant;
use tollgate_model::{LogIndex, Name};
use tollgate_proto::{
    Shared as SharedMessage,
    state::v1::{self as wire, Attribution, HoldOutcome, Outcome, Refusal, Settle, ShadowCharge, Usage},
};

use super::{
    path::Taken,
    shared::{Shared, Word},
};
use crate::{
    Charge, Durability, Reservation, ReserveError, Shadow, Standing, Unavailable, Way, Written, book::Figures,
};

/// Ends its request when it is dropped: a hold is given back, or voided once it is granted.
pub(crate) struct Ticket {
    claim: Claim,
    open: bool,
    /// Up to where the journal must be durable before the request is sent out.
    position: u64,
    shadow: Shadow,
    /// Of its charges, those that nobody could decide on.
    unprotected: Vec<ShadowCharge>,
}

/// Who knows of the request.
enum Claim {
    /// The agent, by number.
    Agent { shared: Arc<Shared>, request: u64, held: bool, durability: Durability },
    /// Nobody: it has taken from pockets.
    Pockets(Taken),
}

impl Ticket {
    pub(super) fn held(shared: Arc<Shared>, request: u64, durability: Durability) -> Self {
        Self::of(Claim::Agent { shared, request, held: true, durability })
    }

    pub(super) fn unheld(shared: Arc<Shared>, request: u64, durability: Durability) -> Self {
        Self::of(Claim::Agent { shared, request, held: false, durability })
    }

    pub(super) fn taken(taken: Taken) -> Self {
        Self::of(Claim::Pockets(taken))
    }

    fn of(claim: Claim) -> Self {
        Self { claim, open: true, position: 0, shadow: Shadow::default(), unprotected: Vec::new() }
    }

    /// What it has taken from pockets.
    pub(crate) fn pockets(&self) -> Option<&Taken> {
        match &self.claim {
            Claim::Agent { .. } => None,
            Claim::Pockets(taken) => Some(taken),
        }
    }

    /// What is written down of it before it is sent out.
    pub(super) fn durability(&self) -> Durability {
        match &self.claim {
            Claim::Agent { durability, .. } => *durability,
            Claim::Pockets(_) => Durability::Memory,
        }
    }

    fn shared(&self) -> &Arc<Shared> {
        match &self.claim {
            Claim::Agent { shared, .. } => shared,
            Claim::Pockets(taken) => taken.shared(),
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open
    }

    /// The request is about to be sent out, for whom and to whom the journal is told.
    pub(crate) fn dispatch(&mut self, attribution: SharedMessage<Attribution>) {
        self.position = match &self.claim {
            Claim::Agent { shared, request, durability, .. } => shared.dispatch(*request, attribution, *durability),
            Claim::Pockets(taken) => taken.position(),
        };
    }

    /// Waits until what the journal was told is on the disk.
    pub(crate) async fn durable(&self, deadline: Instant) -> Result<(), Unavailable> {
        self.shared().durable(self.position, deadline).await
    }

    pub(crate) fn is_durable(&self) -> bool {
        self.position == 0 || self.shared().is_durable(self.position)
    }

    pub(crate) fn set_shadow(&mut self, shadow: Shadow) {
        self.shadow = shadow;
    }

    pub(super) fn set_unprotected(&mut self, charges: Vec<ShadowCharge>) {
        self.unprotected = charges;
    }

    pub(crate) fn unprotected(&self) -> &[ShadowCharge] {
        &self.unprotected
    }

    pub(crate) fn take_shadow(&mut self) -> Shadow {
        std::mem::take(&mut self.shadow)
    }

    /// Without an attribution it makes no usage record.
    pub(crate) fn settle(
        &mut self,
        usage: Usage,
        outcome: Outcome,
        attribution: Option<SharedMessage<Attribution>>,
    ) -> Written {
        if outcome == Outcome::Voided && attribution.is_none() {
            self.void();
            return Written::default();
        }
        if !std::mem::take(&mut self.open) {
            return Written::default();
        }
        // Whoever was present has gone once this is over.
        let Shadow { charges: shadow, presence: _gone } = std::mem::take(&mut self.shadow);
        let (shared, request, held) = match &self.claim {
            Claim::Agent { shared, request, held, .. } => (shared, *request, *held),
            Claim::Pockets(taken) => {
                taken.settle(usage, outcome, attribution, shadow);
                return Written::default();
            }
        };
        let position = shared.settle(Settle {
            request,
            outcome: outcome.into(),
            usage: Some(usage),
            attribution,
            unheld: !held,
            shadow,
            unprotected: std::mem::take(&mut self.unprotected),
            ..Settle::default()
        });
        shared.written(position)
    }

    pub(crate) fn void(&mut self) {
        if !std::mem::take(&mut self.open) {
            return;
        }
        match &self.claim {
            Claim::Agent { shared, request, held: true, .. } => shared.cancel(*request),
            Claim::Agent { shared, request, .. } => shared.release(*request),
            Claim::Pockets(taken) => taken.void(),
        }
    }

    /// The caller's answer when nothing more was said in time: what the log has said before, or that nothing is decided. Dropped
    /// here, the ticket lets go of what was asked for.
    pub(super) fn too_late(self, charges: Vec<Charge>) -> ReserveError {
        let said = match &self.claim {
            Claim::Agent { shared, request, .. } => shared.refused_before(*request),
            Claim::Pockets(_) => None,
        };
        said.map_or_else(|| self.shared().too_late(), |said| refusal(&said, charges))
    }

    /// Whether the log had it wait for others.
    fn was_parked(&self) -> bool {
        match &self.claim {
            Claim::Agent { shared, request, .. } => shared.was_parked(*request),
            Claim::Pockets(_) => false,
        }
    }

    /// Turns the log's word on this request into the caller's answer. What was not granted needs no end.
    pub(super) fn answered(mut self, word: Word, charges: Vec<Charge>) -> Result<Reservation, ReserveError> {
        match word {
            Some(said) if said.granted => {
                let standings = said.standings.iter().map(standing).collect();
                let way = if self.was_parked() { Way::Parked } else { Way::Central };
                Ok(Reservation::new(self, standings, way))
            }
            Some(said) => {
                self.open = false;
                Err(refusal(&said, charges))
            }
            None => {
                self.open = false;
                Err(ReserveError::Unavailable(Unavailable::Fenced))
            }
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.void();
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ticket = f.debug_struct("Ticket");
        match &self.claim {
            Claim::Agent { request, held, .. } => ticket.field("request", request).field("held", held),
            Claim::Pockets(taken) => ticket.field("amounts", &taken.amounts()),
        };
        ticket.finish_non_exhaustive()
    }
}

pub(super) fn standing(said: &wire::Standing) -> Standing {
    let &wire::Standing { capacity, remaining, window_end_us, resets_in_us, .. } = said;
    Standing::of(Name::new(&said.limit), Figures { capacity, remaining, window_end_us, resets_in_us })
}

fn refusal(said: &HoldOutcome, mut charges: Vec<Charge>) -> ReserveError {
    let by = usize::try_from(said.refused_by).unwrap_or(usize::MAX);
    if said.refusal() == Refusal::Overloaded {
        // That is of the node, and not of a limit: who holds nothing may hear it too.
        return ReserveError::Unavailable(Unavailable::Overloaded);
    }
    if by >= charges.len() {
        return ReserveError::Unavailable(Unavailable::Invalid);
    }
    let Charge { limit, amount, .. } = charges.swap_remove(by);
    let standings: Vec<Standing> = said.standings.iter().map(standing).collect();
    let blocked = standings.get(by).cloned();
    let capacity = blocked.as_ref().map_or(0, |blocked| blocked.capacity);
    match said.refusal() {
        Refusal::Exhausted => ReserveError::Exhausted {
            limit,
            capacity,
            remaining: blocked.as_ref().map_or(0, |blocked| blocked.remaining),
            retry_after: blocked.map_or(Duration::ZERO, |blocked| blocked.resets_in),
            standings,
        },
        Refusal::ExceedsLimit => ReserveError::ExceedsLimit { limit, capacity, amount },
        Refusal::Stale => ReserveError::Stale { limit, version: LogIndex(said.stale_until) },
        Refusal::Recalling | Refusal::Expired => ReserveError::Unavailable(Unavailable::Deadline),
        Refusal::Overloaded => ReserveError::Unavailable(Unavailable::Overloaded),
        Refusal::Unspecified | Refusal::Invalid | Refusal::Again => ReserveError::Unavailable(Unavailable::Invalid),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_charges_nothing_is_told_why_the_log_did_not_take_it() {
        let told = |refusal: Refusal, charges| {
            super::refusal(&HoldOutcome { refusal: refusal.into(), ..HoldOutcome::default() }, charges)
        };
        let why = |refusal, charges| match told(refusal, charges) {
            ReserveError::Unavailable(why) => why,
            other => panic!("{refusal:?} is told as {other:?}"),
        };
        assert_eq!(why(Refusal::Overloaded, Vec::new()), Unavailable::Overloaded);
        assert_eq!(why(Refusal::Invalid, Vec::new()), Unavailable::Invalid);
        assert_eq!(why(Refusal::Exhausted, Vec::new()), Unavailable::Invalid, "there is no limit to name");
    }
}
