//! When what is said, and when the next frame goes out.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    DeskConfig,
    locked::Locked,
    shared::{Shared, State},
};
use crate::agent::MAX_FRAME_RECORDS;

/// What requests have drawn is told to the log within this time, should nothing else be: for whoever looks at the accounts.
pub(super) const DRAWS_WITHIN: Duration = Duration::from_millis(200);

/// What the task does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing is queued.
    Sleep,
    /// Something is queued; it goes out at this time.
    At(Instant),
    /// All is said, or the time for it is over.
    End,
}

impl Next {
    fn is_before(self, other: Self) -> bool {
        match (self, other) {
            (_, Next::End) | (Next::Sleep, _) => false,
            (Next::End, _) | (Next::At(_), Next::Sleep) => true,
            (Next::At(at), Next::At(other)) => at < other,
        }
    }
}

impl State {
    pub(super) fn say_draws(&mut self) {
        if self.draws_at.is_none() && self.agent.has_unsaid_draws() {
            self.draws_at = Some(Instant::now() + DRAWS_WITHIN);
        }
    }

    /// How long an end waits for company.
    pub(super) fn end_delay(&self, config: &DeskConfig) -> Duration {
        let is_waited_for = self.agent.has_urgent_lease_news() || self.agent.has_ends_in_log();
        if is_waited_for { config.settle_delay } else { config.end_delay }
    }

    /// Has news of leases said, within the time that ends have.
    pub(super) fn say_leases(&mut self, config: &DeskConfig) {
        self.say_leases_within(self.end_delay(config));
    }

    /// The same, at once where somebody waits for them.
    pub(super) fn say_urgent_leases(&mut self, config: &DeskConfig) {
        let is_urgent = self.agent.has_urgent_lease_news();
        self.say_leases_within(if is_urgent { config.hold_delay } else { self.end_delay(config) });
    }

    fn say_leases_within(&mut self, delay: Duration) {
        if self.agent.has_lease_news() {
            let at = Instant::now() + delay;
            self.leases_at = Some(self.leases_at.map_or(at, |known| known.min(at)));
        }
    }
}

impl Shared {
    /// When the next frame goes out. The task looks again then, or when it is woken.
    pub(super) fn next(&self) -> Next {
        let mut state = self.lock();
        let next = self.next_in(&mut state);
        state.plan = next;
        next
    }

    /// Gives the lock back, and wakes the task where there is something to do before it looks by itself: most of what happens
    /// changes nothing about that, and to wake it takes longer than what happened.
    pub(super) fn unlock(&self, mut state: Locked<'_>) {
        let next = self.next_in(&mut state);
        let is_sooner = next.is_before(state.plan);
        if is_sooner {
            state.plan = next;
        }
        drop(state);
        if is_sooner {
            self.wake.notify_one();
        }
    }

    fn next_in(&self, state: &mut State) -> Next {
        let sweep_at = self.sweep_at(state);
        let (holds, settles) = state.agent.queued();
        if let Some(by) = state.stop_by {
            let is_behind = self.presences.due().is_some() || state.agent.has_present();
            let leases = state.agent.has_lease_news() || self.front.seen().ended || is_behind;
            let load = state.agent.load() + self.front.open();
            let said = load == 0 && !leases && !state.agent.is_sending();
            let over = said || state.agent.is_fenced() || Instant::now() >= by;
            return match (over, holds + settles > 0 || leases || state.agent.is_sending()) {
                (true, _) => Next::End,
                (false, true) => Next::At(Instant::now()),
                (false, false) => {
                    Next::At(state.retry_at.filter(|_| state.agent.is_waiting()).map_or(by, |at| at.min(by)))
                }
            };
        }
        let is_full = holds + settles >= MAX_FRAME_RECORDS || state.agent.has_present();
        if state.agent.is_sending() || state.agent.has_to_recover() || is_full {
            return Next::At(Instant::now());
        }
        let hold_at = state.holds_since.filter(|_| holds > 0).map(|since| since + self.config.hold_delay);
        let ends_within = state.end_delay(&self.config);
        let settle_at = state.settles_since.filter(|_| settles > 0).map(|since| since + ends_within);
        let retry_at = state.retry_at.filter(|_| state.agent.is_waiting());
        let at = |us: u64| self.config.opened.checked_add(Duration::from_micros(us));
        let renew_at = state.agent.renew_at().and_then(at);
        let aged_at = state.agent.next_lease_news().and_then(at);
        let leases_at = [state.leases_at, state.draws_at, aged_at, sweep_at, self.presences.due()];
        let others = leases_at.into_iter().chain([settle_at, retry_at, renew_at]).flatten();
        hold_at.into_iter().chain(others).min().map_or(Next::Sleep, Next::At)
    }
}
