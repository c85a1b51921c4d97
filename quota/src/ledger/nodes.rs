//! Nodes and their incarnations: who may speak, and what was heard already.

use std::collections::BTreeMap;

use tollgate_proto::state::v1::{NodeOpen, NodeOpenOutcome};

use super::{ISOLATION_US, Ledger, MAX_NODES, leases::Gone};
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
    /// Holds it has, expired ones included; counted anew on restore.
    pub(super) holds: u32,
}

/// An incarnation that has ended, and has not told everything yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Earlier {
    /// Which one.
    pub incarnation: u64,
    /// The highest number of an end that the log knows of it.
    pub last_terminal: u64,
}

#[derive(Debug, Default)]
#[cfg_attr(any(test, feature = "seeded-bugs"), derive(Clone))]
pub(super) struct Nodes {
    by_id: BTreeMap<u64, NodeState>,
}

impl Nodes {
    pub(super) fn get(&self, node: u64) -> Option<&NodeState> {
        self.by_id.get(&node)
    }

    pub(super) fn get_mut(&mut self, node: u64) -> Option<&mut NodeState> {
        self.by_id.get_mut(&node)
    }

    pub(super) fn put(&mut self, node: u64, state: NodeState) {
        self.by_id.insert(node, state);
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
        earlier.push(Earlier { incarnation: self.incarnation, last_terminal: self.last_terminal });
        Self { earlier, ..Self::default() }
    }
}

impl Ledger {
    /// Earlier incarnations of a node whose journals may still speak, the oldest first.
    #[must_use]
    pub fn earlier(&self, node: u64) -> Vec<Earlier> {
        self.nodes.get(node).map(|state| state.earlier.clone()).unwrap_or_default()
    }

    pub(super) fn open_node(&mut self, _at: LogIndex, _now: u64, open: &NodeOpen) -> NodeOpenOutcome {
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
        let gone = self.gone(known.map_or(0, |state| state.incarnation), open);
        let mut state = known.map(NodeState::follow).unwrap_or_default();
        let orphaned = self.orphan_holds(open.node, open.predecessor_is_dead, gone);
        self.suspend_leases(open.node, gone);
        state.incarnation = open.incarnation;
        state.holds = self.nodes.get(open.node).map_or(0, |state| state.holds);
        self.nodes.put(open.node, state);
        self.dirty.nodes.push(open.node);
        NodeOpenOutcome { incarnation: open.incarnation, orphaned, ..NodeOpenOutcome::default() }
    }

    /// When the incarnation before this one spends nothing any more, by the age of the ledger.
    fn gone(&self, incarnation: u64, open: &NodeOpen) -> Gone {
        let isolation = if open.isolation_us == 0 { ISOLATION_US } else { open.isolation_us };
        let wait = if open.predecessor_is_dead { 0 } else { by_any_clock(isolation) };
        Gone { incarnation, at: self.age().saturating_add(wait) }
    }

    /// One hold less of a node.
    pub(super) fn release_place(&mut self, node: u64) {
        if let Some(state) = self.nodes.get_mut(node) {
            state.holds = state.holds.saturating_sub(1);
        }
    }
}
