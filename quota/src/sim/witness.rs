//! Counts what was really sent out, in the plainest words.

use std::collections::BTreeMap;

use crate::invariants::{Terminals, Violation, require, safe};

/// Limit, key, and where the window began.
pub(super) type Place = (String, String, u64);
/// Account, window, amount: as the log or a lease labels a charge.
pub(super) type Label = (u32, u64, u64);

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Figures {
    /// In flight, or was when its process died: it may have used all of it.
    pub(super) held: u64,
    pub(super) settled: u64,
    pub(super) overrun: u64,
    /// What may be dispatched: the greatest capacity that was in force; after a lower, no more than what was out by then.
    pub(super) most: u64,
    capacity: u64,
}

#[derive(Debug, Default)]
pub(super) struct Witness {
    places: BTreeMap<(u32, u64), Place>,
    pub(super) figures: BTreeMap<Place, Figures>,
    pub(super) terminals: Terminals,
}

impl Witness {
    /// An account was seen in a window, with this capacity in force and so much of it used, held or with nodes.
    pub(super) fn see(&mut self, (account, epoch): (u32, u64), place: &Place, capacity: u64, taken: u64) {
        self.places.insert((account, epoch), place.clone());
        let figures = self.figures.entry(place.clone()).or_default();
        let lowered = capacity < figures.capacity;
        figures.most = if lowered { capacity.max(taken) } else { figures.most.max(capacity) };
        figures.capacity = capacity;
    }

    pub(super) fn place(&self, account: u32, epoch: u64) -> Option<&Place> {
        self.places.get(&(account, epoch))
    }

    /// A request goes out.
    pub(super) fn dispatch(&mut self, labels: &[Label]) -> Result<(), Violation> {
        for &(account, epoch, amount) in labels {
            let place = &self.places[&(account, epoch)];
            let figures = self.figures.get_mut(place).expect("it was seen");
            figures.held += amount;
            require(safe(figures.most, figures.held, figures.settled), "I3", || format!("{place:?}: {figures:?}"))?;
        }
        Ok(())
    }

    /// A request is over, having used `used` of each unit that it is charged for.
    pub(super) fn settle(&mut self, labels: &[Label], used: impl Fn(&Place) -> u64) {
        for &(account, epoch, amount) in labels {
            let place = &self.places[&(account, epoch)];
            let figures = self.figures.get_mut(place).expect("it was seen");
            let used = used(place);
            figures.held -= amount;
            let (within, beyond) = used_within(used, amount);
            figures.settled += within;
            figures.overrun += beyond;
        }
    }
}

/// What was used of what was reserved, and what beyond it.
pub(super) fn used_within(used: u64, reserved: u64) -> (u64, u64) {
    (used.min(reserved), used.saturating_sub(reserved))
}
