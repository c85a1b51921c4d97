//! The ledger against its own invariants: everything is recomputed from the records.

use std::collections::BTreeMap;

use super::{Ledger, accounts::Account, leases::Lease};
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
            let holds = open.remove(&(id, account.epoch)).unwrap_or_default();
            self.audit_account(id, account, holds.into_iter())?;
        }
        let homeless = self
            .leases
            .slab
            .iter()
            .find(|(_, lease)| self.accounts.get(lease.account).is_none_or(|account| account.epoch != lease.epoch));
        require(homeless.is_none(), "I1", || format!("{homeless:?} is of no open window"))
    }

    /// As [`Ledger::audit`], for some accounts: those that an entry has touched.
    #[cfg(any(test, feature = "seeded-bugs"))]
    pub(crate) fn audit_accounts(&self, ids: &[u32]) -> Result<(), Violation> {
        for (id, account) in ids.iter().filter_map(|id| Some((*id, self.accounts.get(*id)?))) {
            let open = self.holds.slab.iter().filter(|(_, hold)| !hold.expired).flat_map(|(_, hold)| &hold.charges);
            let of_account = open.filter(|held| (held.account, held.epoch) == (id, account.epoch));
            self.audit_account(id, account, of_account.map(|held| held.amount))?;
        }
        Ok(())
    }

    fn audit_account(&self, id: u32, account: &Account, holds: impl Iterator<Item = u64>) -> Result<(), Violation> {
        let capacity = self.rules.get(account.rule).rule.capacity;
        let free = account.available(capacity) + i128::from(account.overrun);
        let out = u128::from(account.leased) + u128::from(account.suspense);
        require(conserved(capacity, free, account.held, account.used, out), "I1", || format!("{account:?}"))?;
        self.audit_leases(id)?;
        require(explained(account.held, holds), "I1", || format!("{account:?} holds what no request does"))
    }

    /// I1 for what is out: the sums of an account are those of its leases.
    pub(super) fn audit_leases(&self, id: u32) -> Result<(), Violation> {
        let Some(account) = self.accounts.get(id) else { return Ok(()) };
        let (open, gone): (Vec<&Lease>, Vec<_>) = self.leases.of_account(id).partition(|lease| self.is_open(lease));
        let sum = |leases: &[&Lease]| leases.iter().map(|lease| u128::from(lease.outstanding())).sum::<u128>();
        let (leased, suspense) = (u128::from(account.leased), u128::from(account.suspense));
        require((sum(&open), sum(&gone)) == (leased, suspense), "I1", || {
            format!("{account:?} has leases {open:?} and in suspense {gone:?}")
        })
    }

    /// Limit, key, and where the window of an account began; with what it holds in all.
    #[cfg(any(test, feature = "seeded-bugs"))]
    pub(crate) fn place(&self, id: u32) -> Option<(u64, (String, String, u64), u64)> {
        let account = self.accounts.get(id)?;
        let rule = self.rules.get(account.rule);
        let place = (rule.rule.limit.to_string(), account.key.to_string(), rule.window_start);
        (rule.epoch == account.epoch).then_some((account.epoch, place, rule.rule.capacity))
    }

    /// What a request holds: account, window, amount.
    #[cfg(any(test, feature = "seeded-bugs"))]
    pub(crate) fn held_by(&self, node: u64, request: u64) -> Vec<(u32, u64, u64)> {
        let hold = self.holds.find(node, request).and_then(|id| self.holds.slab.get(id));
        hold.map_or(Vec::new(), |it| it.charges.iter().map(|it| (it.account, it.epoch, it.amount)).collect())
    }

    /// The leases of one incarnation: account, window, granted and not given back, used beyond what was reserved.
    #[cfg(any(test, feature = "seeded-bugs"))]
    pub(crate) fn leases_of(&self, node: u64, incarnation: u64) -> Vec<(u32, u64, u64, u64)> {
        let all = self.leases.slab.iter().map(|(_, lease)| lease);
        let own = all.filter(|lease| (lease.node, lease.incarnation) == (node, incarnation));
        own.map(|it| (it.account, it.epoch, it.granted - it.returned, it.overrun)).collect()
    }

    /// Used, held, leased and in suspense; overrun; what is available.
    #[cfg(any(test, feature = "seeded-bugs"))]
    pub(crate) fn figures(&self, id: u32) -> ([u64; 5], i128) {
        let it = self.accounts.get(id).expect("the account is known");
        let capacity = self.rules.get(it.rule).rule.capacity;
        ([it.used, it.held, it.leased, it.suspense, it.overrun], it.available(capacity))
    }

    /// The requests of a node that are held or were consumed at their deadline (I2), in order.
    #[must_use]
    pub fn held_requests(&self, node: u64) -> Vec<u64> {
        let of_node = self.holds.slab.iter().filter(|(_, hold)| hold.node == node);
        let mut requests: Vec<u64> = of_node.map(|(_, hold)| hold.request).collect();
        requests.sort_unstable();
        requests
    }

    /// Of those, the ones that may still end as they were meant to: their deadline is ahead.
    #[cfg(any(test, feature = "seeded-bugs"))]
    pub(crate) fn open_requests(&self, node: u64) -> Vec<u64> {
        let of_node = self.holds.slab.iter().filter(|(_, hold)| hold.node == node && !hold.expired);
        of_node.map(|(_, hold)| hold.request).collect()
    }

    /// How many accounts a request holds in (I5): none when it was not granted or has ended.
    #[must_use]
    pub fn held_in(&self, node: u64, request: u64) -> usize {
        self.holds.find(node, request).and_then(|id| self.holds.slab.get(id)).map_or(0, |hold| hold.charges.len())
    }
}
