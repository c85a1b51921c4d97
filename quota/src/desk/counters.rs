//! What a desk counts, and its figures for metrics.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use tollgate_proto::state::v1::HoldOutcome;

use super::{DeskStats, shared::Shared};
use crate::{ReserveError, Unavailable};

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) local: AtomicU64,
    pub(super) journal_full: AtomicU64,
    pub(super) proposals: AtomicU64,
    pub(super) failed_proposals: AtomicU64,
    pub(super) records: AtomicU64,
    pub(super) granted: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) undecided: AtomicU64,
    pub(super) cut_off: AtomicU64,
    pub(super) dropped: AtomicU64,
    pub(super) unprotected: AtomicU64,
}

impl Shared {
    pub(super) fn undecided(&self, why: Unavailable) -> ReserveError {
        self.counters.undecided.fetch_add(1, Relaxed);
        ReserveError::Unavailable(why)
    }

    /// Nothing was decided in time.
    pub(super) fn too_late(&self) -> ReserveError {
        let mut state = self.lock();
        self.pass(&mut state);
        let is_cut_off = state.agent.is_isolated();
        drop(state);
        self.counters.cut_off.fetch_add(u64::from(is_cut_off), Relaxed);
        self.undecided(Unavailable::Deadline)
    }

    pub(super) fn count_word(&self, word: Option<&HoldOutcome>) {
        let counter = match word {
            Some(said) if said.granted => &self.counters.granted,
            Some(_) => &self.counters.refused,
            None => &self.counters.undecided,
        };
        counter.fetch_add(1, Relaxed);
    }

    pub(super) fn count_confirmed(&self, records: usize) {
        self.counters.records.fetch_add(records as u64, Relaxed);
    }

    pub(super) fn count_failed(&self) {
        self.counters.failed_proposals.fetch_add(1, Relaxed);
    }

    pub(super) fn count_dropped(&self) {
        self.counters.dropped.fetch_add(1, Relaxed);
    }

    pub(super) fn stats(&self) -> DeskStats {
        let count = |counter: &AtomicU64| counter.load(Relaxed);
        let mut state = self.lock();
        let unsaid_since = state.unsaid_since;
        self.pass(&mut state);
        let unjournaled = state.agent.journaled().saturating_sub(self.progress.now().durable);
        let (open, isolated) = (state.agent.load() + self.front.open(), state.agent.is_isolated());
        let (pockets, parked) = (state.pockets.len(), state.agent.granted_parked());
        let oldest = Duration::from_micros(state.agent.oldest().unwrap_or(0));
        let recovery = state.recovered_in.unwrap_or_else(|| self.config.opened.elapsed());
        drop(state);
        DeskStats {
            open,
            pockets,
            quarantined: self.quarantine.len(),
            settle_lag: unsaid_since.map_or(Duration::ZERO, |since| since.elapsed()),
            proposals: count(&self.counters.proposals),
            failed_proposals: count(&self.counters.failed_proposals),
            records: count(&self.counters.records),
            journal_full: count(&self.counters.journal_full),
            unjournaled,
            isolated,
            local: count(&self.counters.local) + self.front.served(),
            granted: count(&self.counters.granted),
            parked,
            refused: count(&self.counters.refused),
            undecided: count(&self.counters.undecided),
            cut_off: count(&self.counters.cut_off),
            oldest,
            recovery,
            dropped: count(&self.counters.dropped),
            unprotected: count(&self.counters.unprotected),
        }
    }
}
