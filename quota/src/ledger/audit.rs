//! The ledger against its own invariants: everything is recomputed from the records.

use std::collections::BTreeMap;

use super::Ledger;
use crate::invariants::{Violation, conserved, explained, require};

impl Ledger {
    /// Checks I1 over every account and hold. Costs as much as all of them: for tests, simulators and audits.
    ///
    /// # Errors
    /// The first violation found.
    pub fn audit(&self) -> Result<(), Violation> {
        let mut open: BTreeMap<(u32, u64), Vec<u64>> = BTreeMap::new();
        for (_, hold) in self.holds.slab.iter().filter(|(_, hold)| !hold.expired) {
            for held in &hold.charges {
                open.entry((held.account, held.epoch)).or_default().push(held.amount);
            }
        }
        for (id, account) in self.accounts.slab.iter() {
            let capacity = self.rules.get(account.rule).rule.capacity;
            let free = account.available(capacity) + i128::from(account.overrun);
            require(conserved(capacity, free, account.held, account.used), "I1", || format!("{account:?}"))?;
            let holds = open.remove(&(id, account.epoch)).unwrap_or_default();
            require(explained(account.held, holds.iter().copied()), "I1", || {
                format!("{account:?} has holds {holds:?}")
            })?;
        }
        Ok(())
    }

    /// The requests of a node that are held or were consumed at their deadline (I2), in order.
    #[must_use]
    pub fn held_requests(&self, node: u64) -> Vec<u64> {
        let of_node = self.holds.slab.iter().filter(|(_, hold)| hold.node == node);
        let mut requests: Vec<u64> = of_node.map(|(_, hold)| hold.request).collect();
        requests.sort_unstable();
        requests
    }

    /// How many accounts a request holds in (I5): none when it was not granted or has ended.
    #[must_use]
    pub fn held_in(&self, node: u64, request: u64) -> usize {
        self.holds.find(node, request).and_then(|id| self.holds.slab.get(id)).map_or(0, |hold| hold.charges.len())
    }
}
