//! Frames: the next one to send, and whom the log's words on it are for.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use tokio::time::Instant;
use tollgate_proto::state::v1::{Frame, FrameOutcome, HoldOutcome};

use super::shared::{Shared, State};
use crate::{agent::Answer, journal::Progress};

/// Between two attempts of a request that waits for others to give back, or to end: about what a recall takes.
const RETRY_AFTER: Duration = Duration::from_millis(20);

impl Shared {
    /// The frame to send, and up to where the journal must be durable before.
    pub(super) fn next_frame(&self) -> Option<(Frame, u64)> {
        let mut state = self.lock();
        let log_time = state.log_time();
        self.pass(&mut state);
        let Progress { is_long, durable, .. } = self.progress.now();
        if is_long && durable >= state.restated {
            state.agent.restate();
            state.restated = state.agent.journaled();
        }
        if state.retry_at.take_if(|at| *at <= Instant::now()).is_some() {
            let answers = state.agent.retry(log_time);
            self.tell(&mut state, answers);
        }
        self.sweep_state(&mut state);
        (state.leases_at, state.draws_at) = (None, None);
        if !state.agent.has_present() {
            let by = state.stop_by.unwrap_or_else(Instant::now);
            state.agent.say_present(self.presences.take(by));
        }
        let frame = state.agent.next_frame(log_time);
        self.write_down(&mut state);
        let after = state.agent.sends_after();
        state.say_leases(&self.config);
        // What did not fit has waited already.
        let (holds, settles) = state.agent.queued();
        let now = Instant::now();
        state.holds_since = (holds > 0).then_some(now);
        state.settles_since = (settles > 0).then_some(now);
        self.counters.proposals.fetch_add(u64::from(frame.is_some()), Relaxed);
        frame.map(|frame| (frame, after))
    }

    /// Hands the log's words to those who wait for them. Whether the frame is confirmed.
    pub(super) fn applied(&self, outcome: &FrameOutcome) -> bool {
        let mut state = self.lock();
        let log_time = state.log_time();
        self.pass(&mut state);
        let answers = state.agent.applied(outcome, log_time);
        let confirmed = !state.agent.is_sending();
        let fenced = state.agent.is_fenced();
        if confirmed {
            // What was queued while the frame was on its way waits since then.
            state.unsaid_since = state.settles_since.filter(|_| state.agent.queued().1 > 0);
            if !state.agent.has_to_recover() {
                state.recovered_in.get_or_insert_with(|| self.config.opened.elapsed());
            }
        }
        if state.agent.queued().0 > 0 {
            state.holds_since.get_or_insert_with(Instant::now);
        }
        if state.agent.queued().1 > 0 {
            state.settles_since.get_or_insert_with(Instant::now);
        }
        if state.agent.is_waiting() {
            state.retry_at.get_or_insert_with(|| Instant::now() + RETRY_AFTER);
        }
        state.say_leases(&self.config);
        self.tell(&mut state, answers);
        if fenced {
            self.close_pockets(&mut state);
        }
        drop(state);
        if fenced {
            self.fenced().cancel();
        }
        confirmed
    }

    /// What the log has said of a request that asks once more.
    pub(super) fn refused_before(&self, request: u64) -> Option<HoldOutcome> {
        let said = self.lock().agent.refused_before(request).cloned();
        self.counters.refused.fetch_add(u64::from(said.is_some()), Relaxed);
        said
    }

    /// Whether a request waited for others to give back, or to end.
    pub(super) fn was_parked(&self, request: u64) -> bool {
        self.lock().agent.was_parked(request)
    }

    fn tell(&self, state: &mut State, answers: Vec<Answer>) {
        for Answer { request, outcome } in answers {
            let Some(waiting) = state.waiting.remove(&request) else { continue };
            self.count_word(outcome.as_ref());
            // Should the caller have gone just now, its ticket cancels the request when it is dropped.
            let _ = waiting.send(outcome);
        }
    }
}
