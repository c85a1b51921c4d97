//! One lease as its node knows it.

use super::demand::Demand;
use crate::ledger::LeaseView;

/// One lease: what was granted, and what this incarnation has made of it.
#[derive(Debug, Default)]
pub(super) struct Cell {
    pub(super) limit: Box<str>,
    pub(super) key: Vec<String>,
    pub(super) named: bool,
    pub(super) lease: Option<LeaseView>,
    /// Had a lease in a window that is over.
    pub(super) was_bound: bool,
    pub(super) held: u64,
    pub(super) spent: u64,
    pub(super) returned: u64,
    pub(super) overrun: u64,
    /// The generation that was last reported.
    pub(super) said: u32,
    pub(super) is_dirty: bool,
    pub(super) is_short: bool,
    pub(super) demand: Demand,
    pub(super) ask_after: u64,
    #[cfg(any(test, feature = "seeded-bugs"))]
    pub(super) missed: u64,
}

impl Cell {
    pub(super) fn balance(&self) -> u64 {
        let granted = self.lease.map_or(0, |lease| lease.granted);
        granted.saturating_sub(self.held).saturating_sub(self.spent).saturating_sub(self.returned)
    }

    pub(super) fn is_of(&self, epoch: u64) -> bool {
        self.lease.is_some_and(|lease| lease.epoch == epoch)
    }

    /// Whether the lease may be drawn on for a charge of this version at this time.
    pub(super) fn serves(&self, version: u64, now: u64) -> bool {
        self.lease.is_some_and(|lease| {
            let (since, newest) = lease.versions;
            lease.in_force && !lease.central && now < lease.window_end.0 && (since.0..=newest.0).contains(&version)
        })
    }

    pub(super) fn is_called_back(&self) -> bool {
        self.lease.is_some_and(|lease| lease.central || !lease.in_force)
    }

    pub(super) fn forget_sums(&mut self) {
        (self.held, self.spent, self.returned, self.overrun, self.said) = (0, 0, 0, 0, 0);
        #[cfg(any(test, feature = "seeded-bugs"))]
        (self.missed = 0);
        self.lease = None;
        self.was_bound = true;
    }
}
