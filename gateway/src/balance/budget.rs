//! How many requests are sent again at once, by all nodes together. Pure.
//!
//! A node knows what the others said last. Of what was free then each takes no more than an equal part until the next interval, and
//! says at once that it has all of it: so all of them together stay within the budget, in step or not, but for the one that each may
//! begin; whoever needs it. A node with few requests may use what others leave. This rests on words that are heard within half an
//! interval: where one is lost or late, a node goes by what it has heard.

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

/// What a node knows of the others, and may itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Others {
    /// Of all of them, as they said last.
    pub(crate) load: Load,
    /// What the others are told that this node has sent again: all of its part, used or not.
    told: usize,
    /// What this node may have sent again at once until the next interval.
    most: usize,
}

impl Default for Others {
    /// There are none.
    fn default() -> Self {
        Self { load: Load::default(), told: 0, most: usize::MAX }
    }
}

impl Others {
    /// For the interval that begins, with so many others.
    pub(crate) fn next(self, load: Load, count: usize, own: Load) -> Self {
        if count == 0 {
            return Self { load, told: own.again, most: usize::MAX };
        }
        let (all, nodes) = (own.and(load), count.saturating_add(1));
        let free = all.budget().saturating_sub(all.again);
        let told = own.again.saturating_add(free / nodes);
        // What is left of the division is kept for nobody, and each may send one more of it: else a quiet upstream's few would be
        // some nodes' for ever. Not twice before the others were told of the first.
        let one_more = !free.is_multiple_of(nodes) && own.again <= self.told;
        Self { load, told, most: told.saturating_add(one_more.into()) }
    }

    /// What the others are told in this interval.
    pub(crate) fn told(&self, own: Load) -> Load {
        Load { again: own.again.max(self.told), ..own }
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
        let others = Others::default().next(busy, 1, own);
        let most = (0..1_000).find(|&again| !others.leave_budget(Load { again, ..own })).unwrap();
        assert_eq!(most, 100, "half of the 200 that were free");
        assert_eq!(others.told(own), Load { again: 100, ..own }, "and the others know that it may");
        let full = Others::default().next(Load { in_flight: 999, again: 203 }, 1, own);
        assert!(!full.leave_budget(own) && full.told(own) == own, "and nothing where nothing is left");
        assert_eq!(Others::default().told(busy), busy, "who is alone keeps nothing for itself");
    }

    #[test]
    fn what_is_left_of_a_division_is_sent_by_whoever_needs_it() {
        let (own, one) = (Load::default(), Load { in_flight: 1, again: 1 });
        // A quiet upstream has three, for five nodes.
        let before = Others::default().next(Load::default(), 4, own);
        assert!(before.leave_budget(own) && !before.leave_budget(one));
        assert_eq!(before.told(own), own, "nobody keeps it from the others");
        let next = before.next(Load::default(), 4, one);
        assert!(!next.leave_budget(one), "before anybody knows of the first");
        assert!(next.next(Load::default(), 4, one).leave_budget(one));
    }

    /// As a node sees it: what it has, and what it knows of the others.
    #[derive(Debug, Clone)]
    struct Node {
        own: Load,
        others: Others,
        /// By each node, itself left out.
        heard: Vec<Load>,
        /// What it has said, and others have not heard yet.
        under_way: Option<Load>,
    }

    /// What a node does in one of its intervals.
    #[derive(Debug, Clone, Copy)]
    struct Turn {
        /// Asked for at the end of the interval before.
        late: usize,
        ended: usize,
        asked: usize,
        /// Its word takes until all others have begun theirs, as those of nodes in step do.
        is_slow: bool,
    }

    fn turn() -> impl Strategy<Value = Turn> {
        let few = || prop_oneof![Just(0), 0_usize..10, Just(1_000)];
        let all = (few(), few(), few(), any::<bool>());
        all.prop_map(|(late, ended, asked, is_slow)| Turn { late, ended, asked, is_slow })
    }

    fn cluster(in_flight: &[usize]) -> Vec<Node> {
        let heard = vec![Load::default(); in_flight.len()];
        let node = |&in_flight| Node {
            own: Load { in_flight, again: 0 },
            others: Others::default().next(Load::default(), usize::MAX, Load::default()),
            heard: heard.clone(),
            under_way: None,
        };
        let mut nodes: Vec<Node> = in_flight.iter().map(node).collect();
        (0..nodes.len()).for_each(|from| deliver(&mut nodes, from, Load { in_flight: in_flight[from], again: 0 }));
        nodes
    }

    fn deliver(nodes: &mut [Node], from: usize, word: Load) {
        for (to, node) in nodes.iter_mut().enumerate().filter(|(to, _)| *to != from) {
            node.heard[from] = word;
            assert_eq!(node.heard[to], Load::default());
            node.others.load = node.heard.iter().fold(Load::default(), |all, load| all.and(*load));
        }
    }

    fn send(node: &mut Node, asked: usize) {
        for _ in 0..asked {
            node.own.again += usize::from(node.others.leave_budget(node.own));
        }
    }

    /// An interval of one node ends, and the next begins.
    fn step(nodes: &mut [Node], which: usize, turn: Turn) {
        let count = nodes.len() - 1;
        let node = &mut nodes[which];
        send(node, turn.late);
        node.own.again -= node.own.again.min(turn.ended);
        node.others = node.others.next(node.others.load, count, node.own);
        let word = node.others.told(node.own);
        send(node, turn.asked);
        if turn.is_slow { node.under_way = Some(word) } else { deliver(nodes, which, word) }
    }

    fn all_is_heard(nodes: &mut [Node]) {
        for from in 0..nodes.len() {
            if let Some(word) = nodes[from].under_way.take() {
                deliver(nodes, from, word);
            }
        }
    }

    fn all(nodes: &[Node]) -> Load {
        nodes.iter().fold(Load::default(), |all, node| all.and(node.own))
    }

    proptest! {
        /// Whoever asks for how much and when, in step or not: all together never have sent again more than the budget, but for the one
        /// that each may begin.
        #[test]
        fn all_nodes_together_keep_to_the_budget(
            in_flight in prop::collection::vec(0_usize..500, 2..8),
            turns in prop::collection::vec(prop::collection::vec(turn(), 8), 1..20),
        ) {
            let mut nodes = cluster(&in_flight);
            let most = all(&nodes).budget() + nodes.len() - 1;
            for round in &turns {
                for (which, turn) in (0..nodes.len()).zip(round) {
                    step(&mut nodes, which, *turn);
                    prop_assert!(all(&nodes).again <= most, "{} of {most}: {nodes:?}", all(&nodes).again);
                }
                all_is_heard(&mut nodes);
            }
        }

        /// Who asks alone has the whole budget in the end.
        #[test]
        fn one_node_gets_what_nobody_else_needs(in_flight in prop::collection::vec(0_usize..500, 2..8), is_slow: bool) {
            let mut nodes = cluster(&in_flight);
            for round in 0..200 {
                for which in 0..nodes.len() {
                    // Some of what the others had first ends in time.
                    let asked = if which == 0 { 10_000 } else { usize::from(round < 3) * 10 };
                    let ended = usize::from(which > 0) * 2;
                    step(&mut nodes, which, Turn { late: 0, ended, asked, is_slow });
                }
                all_is_heard(&mut nodes);
            }
            prop_assert!(nodes[0].own.again >= all(&nodes).budget(), "{nodes:?}");
        }
    }
}
