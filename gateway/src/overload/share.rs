//! Who is refused first: how much of a bound each priority may fill. Pure.
//!
//! A node that fills up sheds sheddable calls, then standard ones, so that critical calls find the room that others were refused.
//! Not here: the sign that comes before any bound (`delay`).

use tollgate_model::Priority;

/// Percent of a bound up to which calls are taken, with all that is there already.
const SHEDDABLE: usize = 70;
const STANDARD: usize = 90;

/// How a call ranks among all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rank {
    /// Its own, by which it is counted.
    pub(crate) priority: Priority,
    /// Whether any call can be critical: if none can, no room is kept for those.
    has_critical: bool,
}

impl Rank {
    pub(crate) const fn new(priority: Priority, has_critical: bool) -> Self {
        Self { priority, has_critical }
    }

    /// What it counts as: the first there are, where standard calls are that.
    pub(super) fn counts_as(self) -> Priority {
        match self.priority {
            Priority::Standard if !self.has_critical => Priority::Critical,
            priority => priority,
        }
    }
}

/// How far each rank may fill a bound.
#[derive(Debug, Clone, Copy)]
pub(super) struct Most {
    sheddable: usize,
    standard: usize,
    critical: usize,
}

impl Most {
    pub(super) fn of(bound: usize) -> Self {
        // Rounded up: the smallest bound takes one of each.
        let part = |percent: usize| {
            let (whole, rest) = (bound / 100 * percent, bound % 100 * percent);
            whole + rest.div_ceil(100)
        };
        Self { sheddable: part(SHEDDABLE), standard: part(STANDARD), critical: bound }
    }

    /// The most that is in use once one of this rank was let in.
    pub(super) fn for_rank(&self, rank: Rank) -> usize {
        match rank.counts_as() {
            Priority::Sheddable => self.sheddable,
            Priority::Standard => self.standard,
            Priority::Critical => self.critical,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RISING: [Priority; 3] = [Priority::Sheddable, Priority::Standard, Priority::Critical];

    #[test]
    fn sheddable_calls_are_refused_first_and_critical_ones_by_the_bound_alone() {
        for (bound, most) in
            [(0, [0, 0, 0]), (1, [1, 1, 1]), (2, [2, 2, 2]), (10, [7, 9, 10]), (20_000, [14_000, 18_000, 20_000])]
        {
            assert_eq!(RISING.map(|it| Most::of(bound).for_rank(Rank::new(it, true))), most, "{bound}");
        }
        let all = Rank::new(Priority::Standard, false);
        assert_eq!(Most::of(10).for_rank(all), 10, "nothing is kept for critical calls where there can be none");
        assert_eq!(Most::of(10).for_rank(Rank::new(Priority::Sheddable, false)), 7);
    }

    proptest! {
        /// Whoever is let in at some use is let in at any lower one, and so is everybody of a higher rank; never above the bound.
        #[test]
        fn ranks_and_bounds_keep_their_order(bound in any::<usize>(), more in any::<usize>(), has_critical: bool) {
            let of = |bound: usize| RISING.map(|it| Most::of(bound).for_rank(Rank::new(it, has_critical)));
            let (less, more) = (bound.min(more), bound.max(more));
            let (low, high) = (of(less), of(more));
            prop_assert!(low.is_sorted() && low[2] == less, "{low:?} of {less}");
            prop_assert!(low.iter().zip(&high).all(|(low, high)| low <= high), "{low:?} {high:?}");
            prop_assert!(less == 0 || low[0] > 0, "somebody of each rank is taken by a node with nothing to do");
            prop_assert!(less < 10 || low[0] < less, "and room is left by those that are shed first");
        }
    }
}
