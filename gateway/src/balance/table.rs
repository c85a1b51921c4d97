//! Which endpoint belongs to what a request says, whoever is asked.

use std::sync::Arc;

use tollgate_model::Policy;

use super::{maglev::Maglev, ring::Ring};

/// A ring or a table of all endpoints at one distance, well or not: what is not is passed over, so that only what was its own
/// goes elsewhere meanwhile.
#[derive(Debug)]
pub(super) enum Table {
    Ring(Ring),
    Maglev(Maglev),
}

impl Table {
    pub(super) fn find(&self, hash: u64, accept: impl FnMut(usize) -> bool) -> Option<usize> {
        match self {
            Self::Ring(ring) => ring.find(hash, accept),
            Self::Maglev(maglev) => maglev.find(hash, accept),
        }
    }
}

/// The tables of one upstream: of the endpoints near this node, and of the others. None where the policy needs none.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tables {
    pub(super) near: Option<Arc<Table>>,
    pub(super) far: Option<Arc<Table>>,
}

impl Tables {
    /// Of the endpoints' identities, weights and whether they are near, in their order.
    pub(crate) fn new(policy: &Policy, endpoints: &[(u64, u32, bool)]) -> Self {
        let table = |wanted: bool| {
            let members: Vec<(u32, u64, u32)> = (0_u32..)
                .zip(endpoints)
                .filter(|(_, (_, weight, near))| *weight > 0 && *near == wanted)
                .map(|(index, &(identity, weight, _))| (index, identity, weight))
                .collect();
            match policy {
                Policy::RingHash(_) => Some(Arc::new(Table::Ring(Ring::new(&members)))),
                Policy::Maglev(_) => Some(Arc::new(Table::Maglev(Maglev::new(&members)))),
                Policy::RoundRobin | Policy::LeastRequest | Policy::Random => None,
            }
        };
        Self { near: table(true), far: table(false) }
    }
}
