//! A ring of hashes: what is asked for belongs to the next point on it, and each endpoint has as many points as its weight says.
//!
//! Where a point is depends on its endpoint alone, so an endpoint that comes or goes moves only what is, or was, its own.
//! How many points a weight has is told by the average weight, to a power of two, so that neighbours don't change it.

use super::hash::mix;

/// Points for the average weight: 128 to 256, so that shares are within some percent of the weights.
const POINTS: u64 = 256;

/// Points in order, and whose they are.
#[derive(Debug)]
pub(super) struct Ring(Box<[(u64, u32)]>);

impl Ring {
    /// Of identities and weights, all above zero; by their index.
    pub(super) fn new(members: &[(u32, u64, u32)]) -> Self {
        let total: u64 = members.iter().map(|&(_, _, weight)| u64::from(weight)).sum();
        let average = total / u64::try_from(members.len()).unwrap_or(u64::MAX).max(1);
        let shift = POINTS.ilog2().cast_signed() - average.max(1).ilog2().cast_signed();
        let count = |weight: u32| match u32::try_from(shift) {
            Ok(left) => u64::from(weight) << left,
            Err(_) => (u64::from(weight) >> shift.unsigned_abs()).max(1),
        };
        let points = |&(index, identity, weight): &(u32, u64, u32)| {
            (0..count(weight)).map(move |n| (mix(identity ^ mix(n)), identity, index))
        };
        let mut all: Vec<(u64, u64, u32)> = members.iter().flat_map(points).collect();
        // By identity where two are on one point: nobody promised their order in the list.
        all.sort_unstable();
        Self(all.into_iter().map(|(point, _, index)| (point, index)).collect())
    }

    /// The first from the hash on that is accepted.
    pub(super) fn find(&self, hash: u64, mut accept: impl FnMut(usize) -> bool) -> Option<usize> {
        let from = self.0.partition_point(|&(point, _)| point < hash);
        let (before, after) = self.0.split_at(from);
        after.iter().chain(before).map(|&(_, index)| index as usize).find(|&index| accept(index))
    }
}
