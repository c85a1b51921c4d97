//! The ledger against its own invariants: everything is recomputed from the records.

use std::collections::BTreeMap;

use super::{Ledger, accounts::Account, holds::Held, leases::Lease, rules::RuleState};
use crate::invariants::{Violation, explained, require};
#[cfg(any(test, feature = "seeded-bugs"))]
use crate::slide::Slot;
use tollgate_model::Unit;

/// What is held of an account, and of each slot of a sliding one, is what requests hold since then; what was used of slots is what
/// was counted.
pub(super) fn explains(rule: &RuleState, account: &Account, holds: &[(u64, u64)]) -> Result<(), Violation> {
    let amounts = holds.iter().map(|(_, amount)| *amount);
    require(explained(account.held, amounts), "I1", || format!("{account:?} holds what no request does"))?;
    let Some(span) = rule.rule.span() else { return Ok(()) };
    require(account.rare().slide.adds_up(), "I1", || format!("{account:?}: its slots are not what was counted"))?;
    for slot in &account.rare().slide.slots {
        let of_slot = holds.iter().filter(|(at, _)| span.label(*at) == slot.at).map(|(_, amount)| *amount);
        require(explained(slot.held, of_slot), "I1", || format!("{account:?}: {slot:?} holds what no request does"))?;
    }
    Ok(())
}

impl Ledger {
    /// Checks I1 over every account and hold. Costs as much as all of them: for tests, simulators and audits.
    ///
    /// # Errors
    /// The first violation found.
    pub fn audit(&self) -> Result<(), Violation> {
        let mut open: BTreeMap<(u32, u64), Vec<(u64, u64)>> = BTreeMap::new();
        for (at, held) in self.open_charges() {
            open.entry((held.account, held.epoch)).or_default().push((at, held.amount));
        }
        for (id, account) in self.accounts.slab.iter() {
            let holds = open.remove(&(id, account.epoch)).unwrap_or_default();
            self.audit_account(id, account, &holds)?;
        }
        let homeless = self
            .leases
            .slab
            .iter()
            .find(|(_, lease)| self.accounts.get(lease.account).is_none_or(|account| account.epoch != lease.epoch));
        require(homeless.is_none(), "I1", || format!("{homeless:?} is of no open window"))?;
        self.audit_rosters()
    }

    /// What requests hold, and since what age: a permit also of those whose deadline has passed.
    pub(super) fn open_charges(&self) -> impl Iterator<Item = (u64, &Held)> {
        let is_permit = |held: &Held| {
            let account = self.accounts.get(held.account).filter(|it| it.epoch == held.epoch);
            account.is_some_and(|it| self.rules.get(it.rule).rule.unit == Unit::Concurrency)
        };
        let charges = self.holds.slab.iter().flat_map(|(_, hold)| hold.charges.iter().map(move |held| (hold, held)));
        let open = charges.filter(move |(hold, held)| !hold.expired || is_permit(held));
        open.map(|(hold, held)| (hold.at, held))
    }

    /// As [`Ledger::audit`], for some accounts: those that an entry has touched.
    #[cfg(any(test, feature = "seeded-bugs"))]
    pub(crate) fn audit_accounts(&self, ids: &[u32]) -> Result<(), Violation> {
        for (id, account) in ids.iter().filter_map(|id| Some((*id, self.accounts.get(*id)?))) {
            let of_account = self.open_charges().filter(|(_, held)| (held.account, held.epoch) == (id, account.epoch));
            let holds: Vec<_> = of_account.map(|(at, held)| (at, held.amount)).collect();
            self.audit_account(id, account, &holds)?;
        }
        Ok(())
    }

    fn audit_account(&self, id: u32, account: &Account, holds: &[(u64, u64)]) -> Result<(), Violation> {
        self.audit_leases(id)?;
        explains(self.rules.get(account.rule), account, holds)
    }

    /// I1 for what is not free, and for what of it is out: the sums of an account are those of its leases.
    pub(super) fn audit_leases(&self, id: u32) -> Result<(), Violation> {
        let Some(account) = self.accounts.get(id) else { return Ok(()) };
        let capacity = self.rules.get(account.rule).rule.capacity;
        require(account.adds_up(capacity), "I1", || {
            format!("{}: {account:?} does not add up", self.accounts.keys.text(account.key))
        })?;
        let (open, gone): (Vec<&Lease>, Vec<_>) = self.leases.of_account(id).partition(|lease| self.is_open(lease));
        let sum = |leases: &[&Lease]| leases.iter().map(|lease| u128::from(lease.outstanding())).sum::<u128>();
        let (leased, suspense) = (u128::from(account.leased), u128::from(account.rare().suspense));
        require((sum(&open), sum(&gone)) == (leased, suspense), "I1", || {
            let key = self.accounts.keys.text(account.key);
            format!("{key}: {account:?} has leases {open:?} and in suspense {gone:?}")
        })
    }

    /// Limit, key, and where the window of an account began; with what it holds in all.
    #[cfg(any(test, feature = "seeded-bugs"))]
    pub(crate) fn place(&self, id: u32) -> Option<(u64, (String, String, u64), u64)> {
        let account = self.accounts.get(id)?;
        let rule = self.rules.get(account.rule);
        let place =
            (rule.rule.limit.to_string(), self.accounts.keys.text(account.key).to_owned(), rule.window_of(account).0);
        rule.is_current(account.epoch).then_some((account.epoch, place, rule.rule.capacity))
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

    /// Standing shares of an incarnation: windows, and what it has of each account.
    #[cfg(any(test, feature = "seeded-bugs"))]
    pub(crate) fn rosters_of(&self, node: u64, incarnation: u64) -> Vec<(u64, u64)> {
        self.shares_of(node, incarnation).into_iter().map(|it| (it.epoch, it.share)).collect()
    }

    /// Used, held, leased and in suspense; overrun; what is available.
    #[cfg(any(test, feature = "seeded-bugs"))]
    pub(crate) fn figures(&self, id: u32) -> ([u64; 5], i128) {
        let it = self.accounts.get(id).expect("the account is known");
        let (rule, age) = (self.rules.get(it.rule), self.age());
        let Slot { used, held, overrun, .. } = it.counts(rule, age);
        ([used, held, it.leased_in_all(rule), it.suspense_in_all(rule), overrun], it.available(rule, age))
    }

    /// Of what is leased of a sliding limit, what nodes have said to have used lately.
    #[cfg(any(test, feature = "seeded-bugs"))]
    pub(crate) fn used_by_nodes(&self, id: u32) -> u64 {
        self.leases.of_account(id).filter(|lease| lease.slides && self.is_open(lease)).map(|lease| lease.spent).sum()
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
