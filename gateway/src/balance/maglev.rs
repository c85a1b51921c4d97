//! A table that says whose a hash is, filled by all endpoints in turn, each in an order of its own (Eisenbud et al., NSDI
//! 2016, §3.4): evener than a ring, and one look; an endpoint that comes or goes moves a little of the others' as well.

use super::hash::{below, mix};

/// A prime, more than sixty times as many as there are endpoints.
const SLOTS: u64 = 65_537;
/// Slots that one hash is looked up in, one after the other, where the first is not accepted.
const LOOKS: u64 = 16;

/// Whose each slot is.
#[derive(Debug)]
pub(super) struct Maglev {
    slots: Box<[u32]>,
    members: Box<[u32]>,
}

/// One endpoint while the table is filled.
struct Filling {
    index: u32,
    weight: u64,
    /// Its turn, once that is as much as the greatest weight.
    due: u64,
    at: u64,
    step: u64,
}

impl Maglev {
    /// Of identities and weights, all above zero; by their index.
    pub(super) fn new(members: &[(u32, u64, u32)]) -> Self {
        let mut sorted: Vec<_> = members.to_vec();
        // Who begins must not depend on an order that nobody promised.
        sorted.sort_unstable_by_key(|&(_, identity, _)| identity);
        let all = sorted.iter().map(|member| member.0).collect();
        let filling = |&(index, identity, weight): &(u32, u64, u32)| Filling {
            index,
            weight: weight.into(),
            due: 0,
            at: mix(identity) % SLOTS,
            step: mix(identity ^ SLOTS) % (SLOTS - 1) + 1,
        };
        Self { slots: fill(sorted.iter().map(filling).collect()), members: all }
    }

    /// The endpoint of this hash, if it is accepted; else that of a next one.
    pub(super) fn find(&self, hash: u64, mut accept: impl FnMut(usize) -> bool) -> Option<usize> {
        if self.slots.is_empty() {
            return None;
        }
        let slot = |n: u64| usize::try_from(below(mix(hash.wrapping_add(n)), SLOTS)).ok();
        let looked = (0..LOOKS).filter_map(slot).filter_map(|slot| self.slots.get(slot)).copied();
        // Hardly anybody is left: whoever comes first from some place on.
        let from = usize::try_from(hash % self.members.len().max(1) as u64).unwrap_or(0);
        let (before, after) = self.members.split_at(from);
        looked.chain(after.iter().chain(before).copied()).map(|index| index as usize).find(|&index| accept(index))
    }
}

fn fill(mut members: Vec<Filling>) -> Box<[u32]> {
    const FREE: u32 = u32::MAX;
    let Some(greatest) = members.iter().map(|member| member.weight).max() else { return Box::default() };
    let mut slots = vec![FREE; usize::try_from(SLOTS).unwrap_or(0)];
    let mut left = slots.len();
    while left > 0 {
        for member in &mut members {
            member.due += member.weight;
            if member.due < greatest || left == 0 {
                continue;
            }
            member.due -= greatest;
            // All slots are in its order, and one is free.
            let free = loop {
                let slot = usize::try_from(member.at).unwrap_or(0);
                member.at = (member.at + member.step) % SLOTS;
                if slots[slot] == FREE {
                    break slot;
                }
            };
            slots[free] = member.index;
            left -= 1;
        }
    }
    slots.into()
}
