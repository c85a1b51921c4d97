//! Nodes and their incarnations: who may speak, and what was heard already.

use std::collections::BTreeMap;

use tollgate_proto::state::v1::{NodeOpen, NodeOpenOutcome};

use super::{Ledger, MAX_NODES};
use tollgate_model::LogIndex;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct NodeState {
    pub(super) incarnation: u64,
    pub(super) last_seq: u64,
    /// Holds it has, expired ones included; counted anew on restore.
    pub(super) holds: u32,
}

#[derive(Debug, Default)]
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

    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, NodeState)> {
        self.by_id.iter().map(|(node, state)| (*node, *state))
    }
}

impl Ledger {
    pub(super) fn open_node(&mut self, _at: LogIndex, _now: u64, open: &NodeOpen) -> NodeOpenOutcome {
        let known = self.nodes.get(open.node).copied();
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
        let orphaned = self.orphan_holds(open.node);
        self.suspend_leases(open.node);
        self.nodes.put(open.node, NodeState { incarnation: open.incarnation, ..NodeState::default() });
        self.dirty.nodes.push(open.node);
        NodeOpenOutcome { incarnation: open.incarnation, orphaned, ..NodeOpenOutcome::default() }
    }

    /// One hold less of a node.
    pub(super) fn release_place(&mut self, node: u64) {
        if let Some(state) = self.nodes.get_mut(node) {
            state.holds = state.holds.saturating_sub(1);
        }
    }
}
