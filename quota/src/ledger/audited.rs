//! The audit that always runs: some accounts of an image at a time, apart from the live ledger.

use std::collections::BTreeMap;

use tollgate_model::{Name, Unit};

use crate::{
    invariants::{Violation, require},
    ledger::{
        self, Image,
        accounts::{Account, overflow_key},
        audit::explains,
        holds::Held,
        rules::RuleState,
    },
    slide::Slot,
};

/// What one look at some accounts has found.
#[derive(Debug, Clone, Default)]
pub struct Audited {
    /// Accounts that were looked at.
    pub checked: u64,
    /// Those that do not add up, at most [`Image::MAX_UNSOUND`] of them.
    pub unsound: Vec<Unsound>,
    /// More do not add up than are named.
    pub more: bool,
    /// What those that are of an open window hold, by limit.
    pub sums: BTreeMap<Name, Sums>,
    /// Where to go on; `None` when these were the last.
    pub next: Option<u32>,
}

/// An account that does not add up.
#[derive(Debug, Clone)]
pub struct Unsound {
    /// Its limit.
    pub limit: Name,
    /// Its key values; none for the account that keys share.
    pub key: Option<Vec<String>>,
    /// How long its window still is, in log time; a day where none turns.
    pub window_left_us: u64,
    /// What is wrong.
    pub violation: Violation,
}

/// What the accounts of one limit come to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sums {
    /// How many.
    pub accounts: u64,
    /// Of these, accounts that keys share.
    pub overflow: u64,
    /// Settled.
    pub used: u128,
    /// Reserved by requests in flight.
    pub held: u128,
    /// With nodes.
    pub leased: u128,
    /// The same by node.
    pub by_node: BTreeMap<u64, u128>,
    /// Was with nodes that have started anew.
    pub suspense: u128,
    /// Was with nodes that were given up.
    pub lost: u128,
    /// Used beyond what was reserved.
    pub overrun: u128,
}

impl Sums {
    fn add(&mut self, account: &Account, rule: &RuleState, counts: Slot, shared: bool, said: Option<&Said>) {
        self.accounts += 1;
        self.overflow += u64::from(shared);
        self.used += u128::from(counts.used);
        self.held += u128::from(counts.held);
        self.leased += u128::from(account.leased_in_all(rule));
        let lost = said.map_or(0, |said| said.lost);
        self.suspense += u128::from(account.suspense_in_all(rule)).saturating_sub(lost);
        self.lost += lost;
        let by_lease = said.into_iter().flat_map(|said| said.by_node.iter().copied());
        for (node, units) in by_lease.chain(rule.members_by_rule(account)) {
            *self.by_node.entry(node).or_default() += u128::from(units);
        }
        self.overrun += u128::from(counts.overrun);
    }

    /// Both together.
    pub fn merge(&mut self, other: &Self) {
        self.accounts += other.accounts;
        self.overflow += other.overflow;
        self.used += other.used;
        self.held += other.held;
        self.leased += other.leased;
        self.suspense += other.suspense;
        self.lost += other.lost;
        for (node, units) in &other.by_node {
            *self.by_node.entry(*node).or_default() += units;
        }
        self.overrun += other.overrun;
    }
}

/// What holds and leases say of an account in its window.
#[derive(Debug, Clone, Default)]
struct Said {
    /// Since what age, and how much.
    held: Vec<(u64, u64)>,
    leased: u128,
    by_node: Vec<(u64, u64)>,
    suspense: u128,
    /// Of that, with nodes that were given up.
    lost: u128,
    homeless: bool,
}

/// Where no window turns: until long after the next look.
const UNTIL_LOOKED_AT_US: u64 = 24 * 3_600 * 1_000_000;

impl Image {
    /// Accounts that do not add up and are named.
    pub const MAX_UNSOUND: usize = 1_000;

    /// Recomputes I1 of at most `max` accounts from number `from` on, by the holds and leases there are.
    #[must_use]
    pub fn audit(&self, from: u32, max: u32) -> Audited {
        let until = from.saturating_add(max);
        let (said, age) = (self.said_of(from, until), ledger::age(&self.meta));
        let mut audited =
            Audited { next: self.accounts.iter().any(|(id, _)| id >= until).then_some(until), ..Audited::default() };
        for (id, account) in self.accounts.iter().filter(|(id, _)| (from..until).contains(id)) {
            audited.checked += 1;
            let Some(rule) = self.rules.get(account.rule) else { continue };
            let open = rule.is_open(account, self.meta.last_time_us);
            let (parts, text) = (rule.rule.per.len(), self.keys.get(account.key));
            let shared = parts > 0 && *text == *overflow_key(parts);
            if open && !rule.rule.is_purse() {
                let sums = audited.sums.entry(rule.rule.limit.clone()).or_default();
                sums.add(account, rule, account.counts(rule, age), shared, said.get(&(id, account.epoch)));
            }
            let said = said.get(&(id, account.epoch)).cloned().unwrap_or_default();
            let Err(violation) = adds_up(rule, account, &said) else { continue };
            if audited.unsound.len() >= Self::MAX_UNSOUND {
                audited.more = true;
                continue;
            }
            let values = || if parts == 0 { Vec::new() } else { text.split('\0').map(str::to_owned).collect() };
            audited.unsound.push(Unsound {
                limit: rule.rule.limit.clone(),
                key: (!shared).then(values),
                window_left_us: match rule.rule.turns() {
                    true => rule.window_of(account).1.saturating_sub(self.meta.last_time_us),
                    false => UNTIL_LOOKED_AT_US,
                },
                violation,
            });
        }
        audited
    }

    fn said_of(&self, from: u32, until: u32) -> BTreeMap<(u32, u64), Said> {
        let mut said: BTreeMap<(u32, u64), Said> = BTreeMap::new();
        let within = |account: u32| (from..until).contains(&account);
        // A permit is held by a request whose deadline has passed, too.
        let is_permit = |held: &Held| {
            let account = self.accounts.get(held.account).filter(|it| it.epoch == held.epoch);
            account.and_then(|it| self.rules.get(it.rule)).is_some_and(|it| it.rule.unit == Unit::Concurrency)
        };
        for (_, hold) in self.holds.iter() {
            let charges = hold.charges.iter().filter(|held| within(held.account));
            for held in charges.filter(|held| !hold.expired || is_permit(held)) {
                said.entry((held.account, held.epoch)).or_default().held.push((hold.at, held.amount));
            }
        }
        let is_open = |node: u64, incarnation: u64| {
            self.nodes.iter().any(|(id, state)| *id == node && state.is_open(incarnation))
        };
        for (_, lease) in self.leases.iter().filter(|(_, lease)| within(lease.account)) {
            let of = said.entry((lease.account, lease.epoch)).or_default();
            let sound = lease.granted.checked_sub(lease.returned).and_then(|rest| rest.checked_sub(lease.spent));
            match sound.map(|_| lease.outstanding()) {
                Some(out) if is_open(lease.node, lease.incarnation) => {
                    of.leased += u128::from(out);
                    of.by_node.push((lease.node, out));
                }
                Some(out) => {
                    of.suspense += u128::from(out);
                    of.lost += if lease.lost { u128::from(out) } else { 0 };
                }
                None => of.homeless = true,
            }
        }
        said
    }
}

fn adds_up(rule: &RuleState, account: &Account, said: &Said) -> Result<(), Violation> {
    require(account.adds_up(rule.rule.capacity), "I1", || format!("{account:?} does not add up"))?;
    require(!said.homeless, "I2", || format!("{account:?} has a lease of which more was spent than granted"))?;
    let (leased, suspense) = (u128::from(account.leased), u128::from(account.rare().suspense));
    require((said.leased, said.suspense) == (leased, suspense), "I1", || {
        format!("{account:?}, and leases say {} and {}", said.leased, said.suspense)
    })?;
    explains(rule, account, &said.held)
}
