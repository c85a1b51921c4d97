//! Requests of which nobody will ever know what became of them, told of once each (QUOTA.md I6).
//!
//! A hold may say whose its request is. Such a request makes its row of the billing ledger though nobody ends it: when its node was
//! given up and can end nothing any more, when it came back without the journal that knows, or when the hold can be corrected no
//! more. Whoever makes rows asks for these, once with each entry, and says which rows they have. As long as the hold is there a
//! journal that speaks after all corrects that row, and makes no other.

use tollgate_model::Timestamp;
use tollgate_proto::{
    Shared,
    state::v1::{Attribution, Outcome},
};

use super::{Changes, Ledger, Told, Used, apply::NOTHING, holds::incarnation_of};

/// So many with one entry at most; the rest follows with the next.
const TOLD_PER_ENTRY: usize = 1_024;

/// A request of which nobody will ever know what became of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Unknown {
    /// Its node.
    pub node: u64,
    /// Its number there.
    pub request: u64,
    attribution: Shared<Attribution>,
}

impl Unknown {
    /// What is said of it.
    #[must_use]
    pub fn used(&self) -> Used<'_> {
        Used {
            node: self.node,
            incarnation: incarnation_of(self.request),
            attribution: &self.attribution,
            usage: &NOTHING,
            outcome: Outcome::Partial,
            told: Told::Nobody,
            corrects: 0,
        }
    }
}

impl Ledger {
    /// Whether there are any to be told of.
    #[must_use]
    pub fn has_unknown(&self) -> bool {
        self.holds.closed().next().is_some() || self.nodes.untold().next().is_some()
    }

    /// Those that are to be told of with this entry: to be asked for once in each.
    #[must_use]
    pub fn take_unknown(&mut self, now: Timestamp, changes: &mut Changes) -> Vec<Unknown> {
        if !self.has_unknown() {
            return Vec::new();
        }
        let now = self.begin(now);
        let mut unknown = Vec::new();
        // Both are taken once: whatever telling does to them, an entry comes to its end.
        let closed: Vec<u32> = self.holds.closed().take(TOLD_PER_ENTRY).collect();
        for id in closed {
            unknown.extend(self.tell(id));
            self.forget_hold(id);
        }
        let nodes: Vec<u64> = self.nodes.untold().collect();
        for node in nodes {
            if unknown.len() == TOLD_PER_ENTRY {
                break;
            }
            let untold = |id: &u32| self.holds.slab.get(*id).is_some_and(|hold| hold.attribution.is_some());
            let untold: Vec<u32> = self.holds.of_node(node).into_iter().filter(untold).collect();
            let (told, rest) = untold.split_at(untold.len().min(TOLD_PER_ENTRY - unknown.len()));
            unknown.extend(told.iter().filter_map(|id| self.tell(*id)));
            if rest.is_empty() {
                self.note_told(node);
            }
        }
        self.finish(now, changes);
        unknown
    }

    /// They have these rows: what a journal tells after all corrects them.
    pub fn note_unknown(&mut self, now: Timestamp, rows: &[(&Unknown, u64)], changes: &mut Changes) {
        let now = self.begin(now);
        for (it, row) in rows {
            let Some(id) = self.holds.find(it.node, it.request) else { continue };
            if let Some(hold) = self.holds.slab.get_mut(id) {
                hold.orphaned_in = *row;
                self.dirty.holds.push(id);
            }
        }
        self.finish(now, changes);
    }

    fn tell(&mut self, id: u32) -> Option<Unknown> {
        let hold = self.holds.slab.get_mut(id)?;
        let (node, request, attribution) = (hold.node, hold.request, hold.attribution.take()?);
        self.dirty.holds.push(id);
        Some(Unknown { node, request, attribution })
    }
}
