//! One lease as its node knows it.

use tollgate_proto::state::v1::{Consumed, JournalSum};

use super::demand::Demand;
use crate::ledger::LeaseView;

/// A ceiling is raised by so many requests of the size that met it, at least.
const STEP: u64 = 16;

/// One lease: what was granted, and what this incarnation has made of it.
#[derive(Debug, Default)]
#[cfg_attr(any(test, feature = "seeded-bugs"), derive(Clone))]
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
    /// Of `held` and `spent`, what is in no journal request by request, but below a ceiling that is.
    pub(super) unjournaled: u64,
    /// Of that, what is spent.
    pub(super) unjournaled_spent: u64,
    pub(super) ceiling: u64,
    /// Where the journal has it.
    pub(super) ceiling_at: u64,
    /// The generation that was last reported.
    pub(super) said: u32,
    pub(super) is_dirty: bool,
    pub(super) is_short: bool,
    pub(super) demand: Demand,
    pub(super) ask_after: u64,
    #[cfg(any(test, feature = "seeded-bugs"))]
    pub(super) missed: u64,
    /// What was last reported: spent, returned, overrun.
    #[cfg(any(test, feature = "seeded-bugs"))]
    pub(super) reported: (u64, u64, u64),
}

impl Cell {
    pub(super) fn balance(&self) -> u64 {
        let granted = self.lease.map_or(0, |lease| lease.granted);
        granted.saturating_sub(self.held).saturating_sub(self.spent).saturating_sub(self.returned)
    }

    /// What may be drawn: what was used beyond what was reserved has to be made up for first.
    pub(super) fn spendable(&self) -> u64 {
        self.balance().saturating_sub(self.overrun)
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

    /// Counts what was just drawn without being journaled; true when the ceiling had to be raised for it.
    pub(super) fn draw_unjournaled(&mut self, amount: u64) -> bool {
        self.unjournaled += amount;
        if self.unjournaled <= self.ceiling {
            return false;
        }
        let step = self.demand.target().max(amount.saturating_mul(STEP));
        let granted = self.lease.map_or(0, |lease| lease.granted);
        self.ceiling = self.unjournaled.saturating_add(step).min(granted);
        true
    }

    /// What the journal has to know of this lease once it has forgotten the requests that have ended.
    pub(super) fn sum(&self) -> Option<JournalSum> {
        let lease = self.lease?;
        let spent = self.spent - self.unjournaled_spent;
        let consumed = Consumed { account: lease.account, epoch: lease.epoch, spent, overrun: self.overrun };
        Some(JournalSum { consumed: Some(consumed), ceiling: self.ceiling })
    }

    pub(super) fn is_called_back(&self) -> bool {
        self.lease.is_some_and(|lease| lease.central || !lease.in_force)
    }

    pub(super) fn forget_sums(&mut self) {
        (self.held, self.spent, self.returned, self.overrun, self.said) = (0, 0, 0, 0, 0);
        (self.unjournaled, self.unjournaled_spent, self.ceiling, self.ceiling_at) = (0, 0, 0, 0);
        #[cfg(any(test, feature = "seeded-bugs"))]
        ((self.missed, self.reported) = (0, (0, 0, 0)));
        self.lease = None;
        self.was_bound = true;
    }
}
