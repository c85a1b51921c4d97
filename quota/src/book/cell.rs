//! One lease as its node knows it.

use super::demand::Demand;
use crate::ledger::LeaseView;

/// Ways to be wrong: see `sim`.
#[cfg(test)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bug {
    /// Goes on drawing from what was called back.
    DrawsWhenCentral,
    /// Gives back what requests hold too.
    ReturnsWhatIsHeld,
    /// Gives back, and goes on as if it had not.
    ReturnsAndKeeps,
    /// Moves the sums of a window that has turned.
    SettlesIntoTheNextWindow,
    /// Treats what was held by a lease as the log's when its account is central by the time it ends.
    SettlesByTheModeNow,
    /// Gives back once, when it is told to.
    ReturnsOnce,
    /// Takes what the ledger was last told for what it has done.
    BelievesTheReplica,
    /// Adds up grants as they are seen, and begins anew with a snapshot.
    SumsGrants,
    /// Holds the whole of a mixed path in the log, what was drawn included.
    HoldsTheWholePath,
    /// Leaves a hold alone that was granted after its caller had gone.
    ForgetsTheAbandoned,
    /// Lets go of the sums of a lease that it has nothing of in hand.
    ForgetsEmptyLeases,
}

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
    #[cfg(test)]
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
        #[cfg(test)]
        (self.missed = 0);
        self.lease = None;
        self.was_bound = true;
    }
}

#[cfg(test)]
impl Cell {
    pub(super) fn go_wrong(&mut self, bug: Option<Bug>, known: LeaseView, snapshot: bool) {
        let Some(view) = self.lease.as_mut() else { return };
        match bug {
            Some(Bug::BelievesTheReplica) if snapshot => {
                (self.held, self.spent) = (0, 0);
            }
            Some(Bug::SumsGrants) => {
                if snapshot {
                    self.missed = view.granted.saturating_sub(known.granted);
                }
                view.granted = view.granted.saturating_sub(self.missed);
            }
            _ => {}
        }
    }
}
