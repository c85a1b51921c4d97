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

/// The tables of one upstream, one for each tier of endpoints. None where the policy needs none.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tables(Vec<Arc<Table>>);

impl Tables {
    /// Of the endpoints' identities, weights and tiers, in their order.
    pub(crate) fn new(policy: &Policy, endpoints: &[(u64, u32, usize)]) -> Self {
        let members = |wanted: usize| -> Vec<(u32, u64, u32)> {
            let all = (0_u32..).zip(endpoints);
            let here = all.filter(|(_, (_, weight, tier))| *weight > 0 && *tier == wanted);
            here.map(|(index, &(identity, weight, _))| (index, identity, weight)).collect()
        };
        let count = endpoints.iter().map(|(_, _, tier)| tier + 1).max().unwrap_or(0);
        let tables = (0..count).map_while(|tier| match policy {
            Policy::RingHash(_) => Some(Arc::new(Table::Ring(Ring::new(&members(tier))))),
            Policy::Maglev(_) => Some(Arc::new(Table::Maglev(Maglev::new(&members(tier))))),
            Policy::RoundRobin | Policy::LeastRequest | Policy::Random => None,
        });
        Self(tables.collect())
    }

    pub(super) fn of(&self, tier: usize) -> Option<&Arc<Table>> {
        self.0.get(tier)
    }
}
