//! Nodes that are gone for ever, on an operator's word (QUOTA.md 3.8, R16).
//!
//! [`Ledger::lose`] fences the newest incarnation at its entry: nothing that it says counts from then on, what it had in hand is
//! in suspense, what the log held for its requests counts as used. A process that lives all the same can't renew its contact
//! any more, so it spends nothing once it has been silent for its isolation, by any clock. That is the proof of death, by the
//! age of the ledger, and not before it is anything given to others. Then the suspense of this node is
//! - *held*: as after any crash, until its journal speaks or the window turns;
//! - *consumed*: called lost. Nobody gets it before the window turns;
//! - *released*: free. What the node had spent of it and told nobody is not in the books: that is what the operator risks.
//!
//! Of a purse all but *hold* is released: what a node may have spent and told nobody is no tenant's loss (`purse.rs`).
//!
//! Of its requests those that the log knows, and whose they are, are told of as ones of which nobody knows the end, unless they are
//! *held* (`unknown.rs`).
//!
//! What it had by rule and has not touched (`standing.rs`) stays in suspense, whatever was said: nobody knows how much of which
//! accounts that was.
//!
//! Where no window turns it is free in its own time, whatever was said: then all of it can be told to be unused.
//!
//! Should the disk come back, its journal still speaks (`recover.rs`): what it tells moves from lost to used; of what was
//! released it is overrun, visible, and blocks the account. An order for an incarnation that is not the newest is refused: the node is back.

use tollgate_model::Timestamp;
use tollgate_proto::state::v1::{NodeLost, NodeLostOutcome, WriteOff};

#[cfg(any(test, feature = "seeded-bugs"))]
use super::bugs::Bug;
use super::{Changes, Ledger};

/// What is to become of what a lost node had in hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lost {
    pub(super) write_off: WriteOff,
    /// The age from which on it spends nothing any more.
    pub(super) at: u64,
    /// It is written off.
    pub(super) done: bool,
    /// All its requests are told of.
    pub(super) told: bool,
    /// Who gave it up.
    pub(super) actor: String,
}

impl Ledger {
    /// Gives a node up. To say it again changes nothing but what becomes of what it had in hand, as far as that is not free.
    pub fn lose(&mut self, now: Timestamp, lost: &NodeLost, changes: &mut Changes) -> NodeLostOutcome {
        let now = self.begin(now);
        let outcome = match self.lose_node(lost) {
            Ok(outcome) => outcome,
            Err(problem) => NodeLostOutcome { problem, ..NodeLostOutcome::default() },
        };
        self.finish(now, changes);
        outcome
    }

    /// Whether the newest incarnation of a node was given up.
    #[must_use]
    pub fn is_lost(&self, node: u64) -> bool {
        self.nodes.get(node).is_some_and(|state| state.lost.is_some())
    }

    fn lose_node(&mut self, lost: &NodeLost) -> Result<NodeLostOutcome, String> {
        let node = lost.node;
        let state = self.nodes.get(node).ok_or_else(|| format!("node {node} has never had anything in hand"))?;
        if state.incarnation != lost.incarnation {
            return Err(format!("node {node} has started anew meanwhile: it is not lost"));
        }
        let (at, orphaned) = match &state.lost {
            Some(known) => (known.at, 0),
            None => self.fence(lost, state.isolation_us),
        };
        let write_off = match lost.write_off() {
            WriteOff::Unspecified => WriteOff::Consume,
            said => said,
        };
        self.note_lost(node, Lost { write_off, at, done: false, told: false, actor: lost.actor.clone() });
        let leases = self.leases_to_write_off(node).len();
        self.write_off_lost();
        Ok(NodeLostOutcome {
            leases: u64::try_from(leases).unwrap_or(u64::MAX),
            orphaned,
            in_us: at.saturating_sub(self.age()),
            ..NodeLostOutcome::default()
        })
    }

    /// Nothing that it says counts any more; when it can spend nothing any more either, and the requests that were in flight.
    fn fence(&mut self, lost: &NodeLost, isolation_us: u64) -> (u64, u64) {
        let gone = self.gone(lost.incarnation, false, isolation_us);
        #[cfg(any(test, feature = "seeded-bugs"))]
        let gone = if self.bug == Some(Bug::LostAtOnce) { self.gone(lost.incarnation, true, 0) } else { gone };
        let orphaned = self.orphan_holds(lost.node, true, gone);
        self.suspend_leases(lost.node, gone);
        (gone.at, orphaned)
    }

    /// All its requests are told of.
    pub(super) fn note_told(&mut self, node: u64) {
        if let Some(lost) = self.nodes.get(node).and_then(|state| state.lost.clone()) {
            self.note_lost(node, Lost { told: true, ..lost });
        }
    }

    fn note_lost(&mut self, node: u64, lost: Lost) {
        let Some(mut state) = self.nodes.get(node).cloned() else { return };
        state.lost = Some(lost);
        self.nodes.put(node, state);
        self.dirty.nodes.push(node);
    }

    /// Whether something is still to be written off, or told of: time has to pass in the log.
    #[must_use]
    pub fn awaits_write_off(&self) -> bool {
        self.nodes.has_due() || self.has_unknown()
    }

    /// Does what was ordered for nodes that spend nothing any more.
    pub(super) fn write_off_lost(&mut self) {
        while let Some(node) = self.nodes.first_due(self.age()) {
            let Some(lost) = self.nodes.get(node).and_then(|state| state.lost.clone()) else { return };
            let write_off = lost.write_off;
            self.note_lost(node, Lost { done: true, told: write_off == WriteOff::Hold, ..lost });
            self.leases_to_write_off(node).into_iter().for_each(|id| self.write_off(id, write_off));
        }
    }

    /// What a node had in hand in windows that are open and turn.
    fn leases_to_write_off(&self, node: u64) -> Vec<u32> {
        let all = self.leases.slab.iter().filter(|(_, lease)| lease.node == node && lease.free_at == 0);
        let in_hand = all.filter(|(_, lease)| lease.outstanding() > 0 || lease.unbilled > 0);
        let of_window = in_hand.filter(|(_, lease)| {
            let account = self.accounts.get(lease.account).filter(|it| it.epoch == lease.epoch);
            account.is_some_and(|it| self.rules.get(it.rule).is_current(it.epoch))
        });
        of_window.map(|(id, _)| id).collect()
    }

    fn write_off(&mut self, id: u32, write_off: WriteOff) {
        if write_off != WriteOff::Hold && self.is_of_a_purse(id) {
            return self.write_off_purse(id);
        }
        let lease = self.leases.slab.get_mut(id).expect("it was there a line ago");
        let (account, units) = (lease.account, lease.outstanding());
        match write_off {
            WriteOff::Hold => lease.lost = false,
            WriteOff::Consume | WriteOff::Unspecified => {
                self.meta.lost_units = self.meta.lost_units.saturating_add(if lease.lost { 0 } else { units });
                lease.lost = true;
            }
            WriteOff::Release => {
                lease.lost = false;
                lease.returned += units;
                lease.released += units;
                self.meta.released_units = self.meta.released_units.saturating_add(units);
                let account = self.accounts.slab.get_mut(account).expect("it has leases");
                account.rare_mut().suspense -= units;
                account.give(units);
            }
        }
        self.dirty.leases.push(id);
        self.dirty.accounts.push(account);
        self.reconsider(account);
    }
}

#[cfg(any(test, feature = "seeded-bugs"))]
impl Ledger {
    /// Whether others have what a node had in hand that was given up.
    pub(crate) fn is_written_off(&self, node: u64) -> bool {
        let lost = self.nodes.get(node).and_then(|state| state.lost.as_ref());
        lost.is_some_and(|lost| lost.done && lost.write_off != WriteOff::Hold)
    }

    /// What a lost node may have spent, and others were given all the same: incarnation, account, window, amount.
    pub(crate) fn released_by(&self, node: u64) -> Vec<((u64, u32, u64), u64)> {
        let released = self.leases.slab.iter().filter(|(_, lease)| lease.node == node && lease.released > 0);
        released.map(|(_, it)| ((it.incarnation, it.account, it.epoch), it.released)).collect()
    }
}
