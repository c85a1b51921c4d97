//! When the keeper looks at the pockets, and what follows for the desk.
//!
//! What requests have drawn is known to the log as soon as ever: the marks that they leave (`front.rs`) are looked at
//! within the delay that a settlement has, or a draw. And before each frame, so that what a frame says is new.

use std::time::Duration;

use smallvec::SmallVec;
use tokio::time::Instant;
use tollgate_model::Timestamp;

use super::{
    due::DRAWS_WITHIN,
    front::Seen,
    shared::{Shared, State},
};
use crate::{Charge, Durability};

impl Shared {
    /// A request was granted from leases: where more such come, they find pockets.
    pub(super) fn serve(
        &self,
        state: &mut State,
        request: u64,
        charges: &[Charge],
        durability: Durability,
        now: Timestamp,
    ) {
        let State { agent, pockets, .. } = state;
        let leases: SmallVec<[u32; 4]> = agent.drawn_on(request).collect();
        let before = pockets.len();
        if durability == Durability::Memory && leases.len() == charges.len() && !self.quarantine.refuses(charges) {
            pockets.serve(agent, &self.front.index, now, &leases);
        }
        pockets.tell(agent, &leases);
        if pockets.len() > before {
            self.sweep_later(state);
            self.wake.notify_one();
        }
    }

    /// Looks at the pockets of these accounts, now.
    pub(super) fn look_at(&self, accounts: impl Iterator<Item = u32>) {
        let mut state = self.lock();
        self.pass(&mut state);
        let now = state.log_time();
        let State { agent, pockets, .. } = &mut *state;
        accounts.for_each(|account| pockets.tend_one(agent, &self.front.index, now, account));
        self.write_down(&mut state);
        state.say_leases(&self.config);
        drop(state);
        self.wake.notify_one();
    }

    /// Looks at all pockets, and takes in what is to be told to the log.
    pub(super) fn sweep_state(&self, state: &mut State) {
        self.front.unmark();
        let now = state.log_time();
        let State { agent, pockets, spare, .. } = state;
        let said = self.front.take_said(spare, |settle| agent.say(settle));
        self.front.moved(said, agent.load());
        pockets.tend(agent, &self.front.index, now);
        self.write_down(state);
        state.sweep_at = None;
        self.sweep_later(state);
        if said > 0 {
            // They have waited as long as they should.
            let now = Instant::now();
            state.settles_since.get_or_insert(now.checked_sub(self.config.end_delay).unwrap_or(now));
            state.unsaid_since.get_or_insert(now);
        }
    }

    fn sweep_later(&self, state: &mut State) {
        let at = |age| self.config.opened.checked_add(Duration::from_micros(age));
        state.sweep_at = state.sweep_at.into_iter().chain(state.pockets.next().and_then(at)).min();
    }

    /// When the pockets have to be looked at next, by what requests have marked too.
    pub(super) fn sweep_at(&self, state: &mut State) -> Option<Instant> {
        let Seen { drawn, ended, urgent } = self.front.seen();
        let within =
            [urgent.then_some(Duration::ZERO), ended.then_some(self.config.end_delay), drawn.then_some(DRAWS_WITHIN)];
        let marked = within.into_iter().flatten().min().map(|within| Instant::now() + within);
        state.sweep_at = state.sweep_at.into_iter().chain(marked).min();
        state.sweep_at
    }

    /// Closes all pockets: the desk admits nothing any more.
    pub(super) fn close_pockets(&self, state: &mut State) {
        let now = state.log_time();
        let State { agent, pockets, .. } = state;
        pockets.close_where(agent, &self.front.index, now, |_, _| true);
    }

    /// See [`super::Desk::quarantine`].
    pub(super) fn quarantine(&self, limit: &str, key: Option<&[String]>, until: Instant) {
        self.quarantine.close(limit, key, until);
        let mut state = self.lock();
        self.pass(&mut state);
        let now = state.log_time();
        let State { agent, pockets, .. } = &mut *state;
        pockets.close_where(agent, &self.front.index, now, |limit, key| self.quarantine.closes(limit, key));
        state.say_leases(&self.config);
        drop(state);
        self.wake.notify_one();
    }
}
