//! Nodes and their incarnations: who may speak, and what was heard already.

use std::collections::{BTreeMap, BTreeSet};

use tollgate_proto::state::v1::{NodeOpen, NodeOpenOutcome};

use super::{ISOLATION_US, Ledger, MAX_NODES, leases::Gone, lost::Lost};
use crate::slide::by_any_clock;
use tollgate_model::LogIndex;

/// Earlier incarnations whose journals are waited for. What an older one had in hand is not given back before its
/// window turns.
const MAX_EARLIER: usize = 16;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct NodeState {
    pub(super) incarnation: u64,
    pub(super) last_seq: u64,
    /// The highest number of an end that it said.
    pub(super) last_terminal: u64,
    /// Those before it whose journals may still speak, the oldest first.
    pub(super) earlier: Vec<Earlier>,
    /// Log time of the last frame that counted: for who is on a roster.
    pub(super) heard: u64,
    /// Holds it has, expired ones included; counted anew on restore.
    pub(super) holds: u32,
    /// How long the newest incarnation spends what it has in hand when nobody answers it; 0 means the default.
    pub(super) isolation_us: u64,
    /// The newest incarnation was given up (`lost.rs`): nothing that it says counts.
    pub(super) lost: Option<Lost>,
}

impl NodeState {
    /// Whether this incarnation may speak and spend.
    pub(super) fn is_open(&self, incarnation: u64) -> bool {
        self.incarnation == incarnation && self.lost.is_none()
    }
}

/// An incarnation that has ended, and has not told everything yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Earlier {
    /// Which one.
    pub incarnation: u64,
    /// The highest number of an end that the log knows of it.
    pub last_terminal: u64,
    /// The last of its requests that the log was told of as one without an end.
    pub last_orphan: u64,
}

#[derive(Debug, Default)]
#[cfg_attr(any(test, feature = "seeded-bugs"), derive(Clone))]
pub(super) struct Nodes {
    by_id: BTreeMap<u64, NodeState>,
    /// Lost ones whose leases are not written off yet, by when they are.
    due: BTreeSet<(u64, u64)>,
    /// Lost ones that are, and whose requests are not all told of.
    untold: BTreeSet<u64>,
}

impl Nodes {
    pub(super) fn get(&self, node: u64) -> Option<&NodeState> {
        self.by_id.get(&node)
    }

    pub(super) fn get_mut(&mut self, node: u64) -> Option<&mut NodeState> {
        self.by_id.get_mut(&node)
    }

    pub(super) fn put(&mut self, node: u64, state: NodeState) {
        let due = |state: &NodeState| state.lost.as_ref().filter(|lost| !lost.done).map(|lost| (lost.at, node));
        if state.lost.as_ref().is_some_and(|lost| lost.done && !lost.told) {
            self.untold.insert(node);
        } else {
            self.untold.remove(&node);
        }
        self.due.extend(due(&state));
        if let Some(was) =
            self.by_id.insert(node, state.clone()).as_ref().and_then(due).filter(|it| Some(*it) != due(&state))
        {
            self.due.remove(&was);
        }
    }

    /// Whoever hears nothing for so long spends nothing any more, by its own clock.
    pub(super) fn longest_isolation(&self) -> u64 {
        let each = self.by_id.values().map(|it| if it.isolation_us == 0 { ISOLATION_US } else { it.isolation_us });
        each.max().unwrap_or(ISOLATION_US)
    }

    /// A lost node that spends nothing any more at this age, and is not written off.
    pub(super) fn first_due(&self, age: u64) -> Option<u64> {
        self.due.first().filter(|(at, _)| *at <= age).map(|(_, node)| *node)
    }

    /// Whether there are any that are not written off, or not told of.
    pub(super) fn has_due(&self) -> bool {
        !self.due.is_empty() || !self.untold.is_empty()
    }

    /// Lost nodes whose requests are not all told of.
    pub(super) fn untold(&self) -> impl Iterator<Item = u64> {
        self.untold.iter().copied()
    }

    /// Nodes that ever opened an incarnation.
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &NodeState)> {
        self.by_id.iter().map(|(node, state)| (*node, state))
    }
}

impl NodeState {
    /// What is left of it for the incarnation after it.
    fn follow(&self) -> Self {
        let mut earlier = self.earlier.clone();
        if earlier.len() == MAX_EARLIER {
            earlier.remove(0);
        }
        earlier.push(Earlier { incarnation: self.incarnation, last_terminal: self.last_terminal, last_orphan: 0 });
        Self { earlier, ..Self::default() }
    }
}

impl Ledger {
    /// Earlier incarnations of a node whose journals may still speak, the oldest first.
    #[must_use]
    pub fn earlier(&self, node: u64) -> Vec<Earlier> {
        self.nodes.get(node).map(|state| state.earlier.clone()).unwrap_or_default()
    }

    pub(super) fn open_node(&mut self, _at: LogIndex, now: u64, open: &NodeOpen) -> NodeOpenOutcome {
        let known = self.nodes.get(open.node);
        if let Some(state) = known.filter(|state| state.incarnation >= open.incarnation) {
            return NodeOpenOutcome {
                incarnation: state.incarnation,
                last_seq: state.last_seq,
                ..NodeOpenOutcome::default()
            };
        }
        if known.is_none() && self.nodes.by_id.len() >= MAX_NODES {
            return NodeOpenOutcome { refused: true, ..NodeOpenOutcome::default() };
        }
        let older = known.map_or(0, |state| state.incarnation);
        let gone = self.gone(older, open.predecessor_is_dead, open.isolation_us);
        let mut state = known.map(NodeState::follow).unwrap_or_default();
        let orphaned = self.orphan_holds(open.node, open.predecessor_is_dead, gone);
        self.suspend_leases(open.node, gone);
        state.incarnation = open.incarnation;
        state.isolation_us = open.isolation_us;
        state.heard = if self.bounds.standing.is_some() { now } else { 0 };
        state.holds = self.nodes.get(open.node).map_or(0, |state| state.holds);
        self.nodes.put(open.node, state);
        self.dirty.nodes.push(open.node);
        NodeOpenOutcome { incarnation: open.incarnation, orphaned, ..NodeOpenOutcome::default() }
    }

    /// When the incarnation before this one spends nothing any more, by the age of the ledger.
    pub(super) fn gone(&self, incarnation: u64, is_dead: bool, isolation_us: u64) -> Gone {
        let isolation = if isolation_us == 0 { ISOLATION_US } else { isolation_us };
        let wait = if is_dead { 0 } else { by_any_clock(isolation) };
        Gone { incarnation, at: self.age().saturating_add(wait) }
    }

    /// One hold less of a node.
    pub(super) fn release_place(&mut self, node: u64) {
        if let Some(state) = self.nodes.get_mut(node) {
            state.holds = state.holds.saturating_sub(1);
        }
    }
}
