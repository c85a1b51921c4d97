//! What was really sent out, by the window that it was charged to.

use std::collections::BTreeMap;

use crate::{
    Ledger,
    invariants::{Violation, require, safe},
    sim::witness::{Label, used_within},
};

/// The one account, to a node that knows no number of it.
pub(super) const UNNUMBERED: u32 = u32::MAX;

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sums {
    /// In flight, or was when its process died.
    pub(super) held: u64,
    pub(super) used: u64,
    pub(super) beyond: u64,
    /// What may be sent out: the capacity; after a lower, no less than what was out by then.
    most: u64,
    capacity: u64,
}

/// Counts by where the window began, whatever number the ledger gives it.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    windows: BTreeMap<(u32, u64), u64>,
    sums: BTreeMap<u64, Sums>,
}

impl Seen {
    /// Looks at the accounts that there are after an entry.
    pub(super) fn look(&mut self, ledger: &Ledger) {
        for (epoch, start, capacity, by_rule) in ledger.windows() {
            self.windows.insert((UNNUMBERED, epoch), start);
            let fresh = Sums { most: capacity.max(by_rule), capacity, ..Sums::default() };
            self.sums.entry(start).or_insert(fresh);
        }
        for account in 0..2 {
            let Some((epoch, (_, _, start), capacity)) = ledger.place(account) else { continue };
            let [used, held, leased, suspense, _] = ledger.figures(account).0;
            self.windows.insert((account, epoch), start);
            let sums = self.sums.entry(start).or_default();
            let lowered = capacity < sums.capacity;
            let taken = used + held + leased + suspense;
            sums.most = if lowered { capacity.max(taken) } else { sums.most.max(capacity) };
            sums.capacity = capacity;
        }
    }

    /// I3.
    pub(super) fn send_out(&mut self, labels: &[Label]) -> Result<(), Violation> {
        for &(account, epoch, amount) in labels {
            let sums = self.of(account, epoch);
            sums.held += amount;
            let sums = *sums;
            require(safe(sums.most, sums.held, sums.used), "I3", || format!("{sums:?} went out"))?;
        }
        Ok(())
    }

    pub(super) fn end(&mut self, labels: &[Label], used: u64) {
        for &(account, epoch, amount) in labels {
            let (within, beyond) = used_within(used, amount);
            let sums = self.of(account, epoch);
            sums.held -= amount;
            sums.used += within;
            sums.beyond += beyond;
        }
    }

    fn of(&mut self, account: u32, epoch: u64) -> &mut Sums {
        let start = self.windows.get(&(account, epoch)).copied().unwrap_or_default();
        self.sums.entry(start).or_default()
    }

    pub(super) fn in_window(&self, start: u64) -> Sums {
        self.sums.get(&start).copied().unwrap_or_default()
    }
}
