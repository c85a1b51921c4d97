//! Limits that say `whenUnavailable: allow`, once nobody is there to decide.
//!
//! The log counts as out of reach when a frame was proposed and nothing came back for [`crate::DeskConfig::silence`], however
//! often it was sent again: a frame is on its way for as long as that lasts, so whoever comes meanwhile is answered at once, and
//! the first answer of any leader ends it. That a leader refuses, has others give back first, or that this node's own disk
//! is slow, is no silence.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use tokio::{
    sync::oneshot,
    time::{Instant, timeout_at},
};
use tollgate_proto::state::v1::ShadowCharge;
use tracing::{info, warn};

use super::{
    Ticket,
    shared::{Shared, Word},
    ticket::standing,
};
use crate::{Charge, Durability, Reservation, ReserveError, Unavailable, Way, agent::Allowed};

impl Shared {
    /// The log is asked.
    pub(super) fn asks(&self) {
        self.lock().asked_since.get_or_insert_with(Instant::now);
    }

    /// Somebody who leads has answered.
    pub(super) fn is_heard(&self) {
        let mut state = self.lock();
        state.asked_since = None;
        if std::mem::take(&mut state.is_unprotected) {
            info!("limits are decided on again");
        }
    }

    /// When nobody is there, should nobody answer before.
    fn silent_at(&self) -> Instant {
        self.lock().asked_since.unwrap_or_else(Instant::now) + self.config.silence
    }

    /// Lets a request through without the limits that allow it, if nobody is there to decide on them and leases cover all
    /// others.
    pub(super) fn allow(
        &self,
        this: &Arc<Self>,
        charges: &[Charge],
        allowed: &[bool],
        durability: Durability,
    ) -> Result<Option<Reservation>, ReserveError> {
        let mut state = self.lock();
        let silent = state.asked_since.is_some_and(|since| since.elapsed() >= self.config.silence);
        if !silent {
            return Ok(None);
        }
        if self.quarantine.refuses(charges) {
            return Err(self.undecided(Unavailable::Quarantined));
        }
        self.refuse_when_closed(&state, durability)?;
        self.pass(&mut state);
        let now = state.log_time();
        let known = &mut *state;
        known.pockets.make_room(&mut known.agent, now, charges);
        let let_through = state.agent.allow(charges, allowed, durability, now);
        self.write_down(&mut state);
        state.say_urgent_leases(&self.config);
        state.say_draws();
        let unnumbered = let_through.as_ref().map(|it| state.agent.unnumbered(it.request)).unwrap_or_default();
        let is_first = let_through.as_ref().is_some_and(|it| !it.unprotected.is_empty())
            && !std::mem::replace(&mut state.is_unprotected, true);
        drop(state);
        self.wake.notify_one();
        let Some(Allowed { request, standings, unprotected }) = let_through else { return Ok(None) };
        let mut ticket = Ticket::held(Arc::clone(this), request, durability);
        if unprotected.is_empty() {
            self.counters.local.fetch_add(1, Relaxed);
        } else {
            self.counters.unprotected.fetch_add(1, Relaxed);
            if is_first {
                warn!("nobody to decide on limits, requests go on without those that allow it");
            }
        }
        ticket.set_unprotected(unprotected.iter().map(|at| named(&charges[*at])).collect());
        let drawn = (0..charges.len()).filter(|at| !unprotected.contains(at)).map(|at| charges[at].clone());
        let mut standings: Vec<_> = standings.iter().map(standing).collect();
        self.count_others(&drawn.collect::<Vec<_>>(), &unnumbered, &mut standings);
        Ok(Some(Reservation::new(ticket, standings, Way::Local)))
    }

    /// Waits for the log's word, or until nobody is there to say it.
    pub(super) async fn decided_or_allowed(
        &self,
        this: &Arc<Self>,
        (ticket, mut answer): (Ticket, oneshot::Receiver<Word>),
        charges: Vec<Charge>,
        allowed: &[bool],
        deadline: Instant,
    ) -> Result<Reservation, ReserveError> {
        let durability = ticket.durability();
        let mut may_allow = true;
        loop {
            let until = if may_allow { deadline.min(self.silent_at()) } else { deadline };
            match timeout_at(until, &mut answer).await {
                Ok(Ok(word)) => return ticket.answered(word, charges),
                Ok(Err(_)) => return Err(self.undecided(Unavailable::Stopping)),
                Err(_) => {}
            }
            if may_allow && let Some(reservation) = self.allow(this, &charges, allowed, durability)? {
                return Ok(reservation); // the ticket, dropped, lets go of what was asked for
            }
            if Instant::now() >= deadline {
                return Err(ticket.too_late(charges));
            }
            // Somebody has answered meanwhile, or something is short that must not be gone without.
            may_allow &= self.silent_at() > Instant::now();
        }
    }
}

fn named(charge: &Charge) -> ShadowCharge {
    ShadowCharge { limit: charge.limit.to_string(), key: charge.key.clone(), limit_version: charge.version.0 }
}
