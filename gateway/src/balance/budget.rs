//! How many requests are sent again at once, by all nodes together. Pure.
//!
//! A node knows what the others said last. Of what was free then each takes no more than an equal part until the next interval, so
//! that all of them together stay within the budget, whoever needs it: a node with few requests may use what others leave.

/// A fifth of what is in flight may be sent again at once…
const SHARE: usize = 5;
/// …and so many whatever is, or a quiet upstream would have none.
const ALWAYS: usize = 3;

/// What a node has under way to an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Load {
    pub(crate) in_flight: usize,
    /// Of these, sent again.
    pub(crate) again: usize,
}

impl Load {
    pub(crate) fn and(self, other: Self) -> Self {
        let in_flight = self.in_flight.saturating_add(other.in_flight);
        Self { in_flight, again: self.again.saturating_add(other.again) }
    }

    fn budget(self) -> usize {
        self.in_flight / SHARE + ALWAYS
    }
}

/// What a node knows of the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Others {
    /// Of all of them, as they said last.
    pub(crate) load: Load,
    /// What this node may have sent again at once until the next interval.
    most: usize,
}

impl Default for Others {
    /// There are none.
    fn default() -> Self {
        Self { load: Load::default(), most: usize::MAX }
    }
}

impl Others {
    /// For the interval that begins, with so many others.
    pub(crate) fn new(load: Load, count: usize, own: Load) -> Self {
        if count == 0 {
            return Self { load, most: usize::MAX };
        }
        let all = own.and(load);
        let part = all.budget().saturating_sub(all.again).div_ceil(count.saturating_add(1));
        Self { load, most: own.again.saturating_add(part) }
    }

    /// Whether one more request may be sent again by a node that has so much itself. When all fail, an upstream has a fifth more to do,
    /// and not twice or thrice as much.
    pub(crate) fn leave_budget(&self, own: Load) -> bool {
        let all = own.and(self.load);
        own.again < self.most && all.again < all.budget()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_fifth_of_what_is_in_flight_and_a_few_may_be_sent_again() {
        for (in_flight, again, may) in [(0, 2, true), (0, 3, false), (1, 0, true), (100, 22, true), (100, 23, false)] {
            assert_eq!(Others::default().leave_budget(Load { in_flight, again }), may, "{in_flight} {again}");
        }
    }

    #[test]
    fn a_node_with_few_requests_may_use_what_others_leave() {
        let (own, busy) = (Load { in_flight: 1, again: 0 }, Load { in_flight: 999, again: 3 });
        let others = Others::new(busy, 1, own);
        let most = (0..1_000).find(|&again| !others.leave_budget(Load { again, ..own })).unwrap();
        assert_eq!(most, 100, "half of the 200 that were free");
        let full = Others::new(Load { in_flight: 999, again: 203 }, 1, own);
        assert!(!full.leave_budget(own), "and nothing where nothing is left");
    }

    /// Each node sends again what it is asked for and may.
    fn interval(nodes: &mut [Load], wanted: &[(usize, usize)]) {
        let all = nodes.iter().fold(Load::default(), |all, node| all.and(*node));
        let count = nodes.len() - 1;
        let others = |node: &Load| {
            let load = Load { in_flight: all.in_flight - node.in_flight, again: all.again - node.again };
            Others::new(load, count, *node)
        };
        let known: Vec<Others> = nodes.iter().map(others).collect();
        for ((node, known), (ended, more)) in nodes.iter_mut().zip(known).zip(wanted) {
            for _ in 0..*more {
                if known.leave_budget(*node) {
                    node.again += 1;
                    node.in_flight = node.in_flight.max(node.again);
                }
            }
            node.again -= node.again.min(*ended);
        }
    }

    proptest! {
        /// Whoever asks for how much: all together have sent again what the budget was, but for the one that each may begin.
        #[test]
        fn all_nodes_together_keep_to_the_budget(
            in_flight in prop::collection::vec(0_usize..500, 1..8),
            wanted in prop::collection::vec(prop::collection::vec((0_usize..50, 0_usize..500), 8), 1..20),
        ) {
            let mut nodes: Vec<Load> = in_flight.iter().map(|&in_flight| Load { in_flight, again: 0 }).collect();
            for wanted in &wanted {
                let before = nodes.iter().fold(Load::default(), |all, node| all.and(*node));
                interval(&mut nodes, wanted);
                let after = nodes.iter().fold(Load::default(), |all, node| all.and(*node));
                let most = before.budget().max(before.again) + nodes.len() - 1;
                prop_assert!(after.again <= most, "{after:?} after {before:?}");
            }
        }

        /// Who asks alone has the whole budget in the end.
        #[test]
        fn one_node_gets_what_nobody_else_needs(in_flight in prop::collection::vec(0_usize..500, 1..8)) {
            let mut nodes: Vec<Load> = in_flight.iter().map(|&in_flight| Load { in_flight, again: 0 }).collect();
            let budget = nodes.iter().fold(Load::default(), |all, node| all.and(*node)).budget();
            let mut wanted = vec![(0, 0); nodes.len()];
            wanted[0] = (0, 10_000);
            (0..100).for_each(|_| interval(&mut nodes, &wanted));
            prop_assert!(nodes[0].again >= budget, "{nodes:?}");
        }
    }
}
