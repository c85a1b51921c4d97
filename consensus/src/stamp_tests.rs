use proptest::{collection::vec, prelude::*};

use super::*;

const WALL: u64 = 1_800_000_000_000_000;
const MS: u64 = 1_000;
const S: u64 = 1_000_000;
const HOUR: u64 = 3_600 * S;
const NODES: usize = 3;

fn leader(term: u64, node: u64) -> LeaderId {
    LeaderId { term, node_id: node }
}

/// One entry, and when, in truth, it was proposed.
#[derive(Debug, Clone, Copy)]
struct Entry {
    by: LeaderId,
    stamp: Stamp,
    proposed: u64,
}

/// A node with clocks of its own. Its monotonic clock begins anew with its process.
struct Node {
    origin: Instant,
    /// Parts in a thousand by which the clock runs fast or slow.
    rate: i64,
    started: u64,
    wall_off: i64,
    applied: usize,
    newest: Option<Beginning>,
    stamper: Stamper,
    /// A stamp that was made and not appended at once.
    kept: Option<(Stamp, u64)>,
}

impl Node {
    fn now(&self, truth: u64) -> Instant {
        let elapsed = i64::try_from(truth - self.started).unwrap();
        self.origin + Duration::from_micros(u64::try_from(elapsed + elapsed * self.rate / 1_000).unwrap())
    }

    fn wall(&self, truth: u64) -> u64 {
        (WALL + truth).saturating_add_signed(self.wall_off)
    }
}

/// Nodes that lead in turn, one log, and the truth.
struct World {
    truth: u64,
    nodes: Vec<Node>,
    log: Vec<Entry>,
    led_by: Option<usize>,
    term: u64,
}

#[derive(Debug, Clone)]
enum Step {
    Pass(u64),
    Propose,
    /// A stamp is made now, and appended by the same node when it leads again, if ever.
    Keep,
    AppendKept,
    Apply(usize, usize),
    /// So many of the last entries are lost with the old leader, if nobody has applied them.
    Elect(usize, usize),
    MoveClock(usize, i64),
    Restart(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let node = 0..NODES;
    prop_oneof![
        4 => prop_oneof![0..20 * MS, 0..2 * S, 0..HOUR].prop_map(Step::Pass),
        6 => Just(Step::Propose),
        1 => Just(Step::Keep),
        1 => Just(Step::AppendKept),
        6 => (node.clone(), 0usize..6).prop_map(|(node, count)| Step::Apply(node, count)),
        2 => (node.clone(), 0usize..3).prop_map(|(node, lost)| Step::Elect(node, lost)),
        1 => (node.clone(), -3_700_000_000i64..3_700_000_000).prop_map(|(node, by)| Step::MoveClock(node, by)),
        1 => node.prop_map(Step::Restart),
    ]
}

impl World {
    fn new(rates: &[i64]) -> Self {
        let node = |rate: &i64| Node {
            origin: Instant::now(),
            rate: *rate,
            started: 0,
            wall_off: 0,
            applied: 0,
            newest: None,
            stamper: Stamper::default(),
            kept: None,
        };
        Self { truth: 0, nodes: rates.iter().map(node).collect(), log: Vec::new(), led_by: None, term: 0 }
    }

    /// The times of the log's first `count` entries, one after the other.
    fn times(&self, count: usize) -> Vec<Times> {
        let fold = |times: &mut Times, entry: &Entry| {
            *times = times.after(entry.stamp, entry.by);
            Some(*times)
        };
        self.log[..count].iter().scan(Times::default(), fold).collect()
    }

    fn stamp(&mut self, at: usize) -> Stamp {
        let (truth, node) = (self.truth, &mut self.nodes[at]);
        let (wall_us, now) = (node.wall(truth), node.now(truth));
        node.stamper.next(at as u64, node.newest, None, wall_us, now)
    }

    fn append(&mut self, by: usize, stamp: Stamp, proposed: u64) {
        self.log.push(Entry { by: leader(self.term, by as u64), stamp, proposed });
    }

    fn apply(&mut self, at: usize, count: usize) {
        for _ in 0..count.min(self.log.len() - self.nodes[at].applied) {
            let node = &self.nodes[at];
            let (by, times) = (self.log[node.applied].by, self.times(node.applied + 1)[node.applied]);
            let now = node.now(self.truth);
            let node = &mut self.nodes[at];
            node.applied += 1;
            if node.newest.is_none_or(|begun| begun.under != by) {
                node.newest = Some(Beginning { under: by, times, at: now });
            }
        }
    }

    fn elect(&mut self, at: usize, lost: usize) {
        let applied = self.nodes.iter().map(|node| node.applied).max().unwrap();
        self.log.truncate(applied.max(self.log.len().saturating_sub(lost)));
        self.term += 1;
        self.led_by = Some(at);
        self.append(at, Stamp::default(), self.truth);
    }

    fn run(&mut self, step: &Step) {
        match *step {
            Step::Pass(us) => self.truth += us,
            Step::Propose => {
                let Some(at) = self.led_by else { return };
                let stamp = self.stamp(at);
                self.append(at, stamp, self.truth);
            }
            Step::Keep => {
                let Some(at) = self.led_by else { return };
                self.nodes[at].kept = Some((self.stamp(at), self.truth));
            }
            Step::AppendKept => {
                let Some(at) = self.led_by else { return };
                if let Some((stamp, made)) = self.nodes[at].kept.take() {
                    self.append(at, stamp, made);
                }
            }
            Step::Apply(at, count) => self.apply(at, count),
            Step::Elect(at, lost) => self.elect(at, lost),
            Step::MoveClock(at, by) => self.nodes[at].wall_off = by,
            Step::Restart(at) => {
                let fresh = Self::new(&[self.nodes[at].rate]).nodes.remove(0);
                self.nodes[at] = Node { started: self.truth, wall_off: self.nodes[at].wall_off, ..fresh };
                if self.led_by == Some(at) {
                    self.led_by = None;
                }
            }
        }
    }

    /// Age never grew faster than real time may be measured, whichever two entries are compared. What was proposed before
    /// an entry that is before it in the log counts from there.
    fn check(&self) {
        let mut latest = 0;
        let entries: Vec<(u64, Times)> = self
            .log
            .iter()
            .zip(self.times(self.log.len()))
            .map(|(entry, times)| {
                latest = entry.proposed.max(latest);
                (latest, times)
            })
            .collect();
        for (n, (proposed, now)) in entries.iter().enumerate() {
            for (earlier, before) in &entries[..n] {
                assert!(now.age_us >= before.age_us && now.time_us >= before.time_us, "{:#?}", self.log);
                let elapsed = proposed - earlier;
                // A µs for each clock that rounds.
                let most = elapsed + elapsed / 100 + 4;
                assert!(now.age_us - before.age_us <= most, "{before:?} to {now:?} in {elapsed} µs: {:#?}", self.log);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn age_never_runs_faster_than_real_time(
        rates in vec(-10i64..=10, NODES),
        steps in vec(step(), 1..60),
    ) {
        let mut world = World::new(&rates);
        for step in &steps {
            world.run(step);
        }
        world.check();
    }

    #[test]
    fn age_keeps_up_with_real_time_while_somebody_leads(
        rate in -10i64..=10,
        gaps in vec((0..20 * MS, any::<bool>()), 1..200),
        step in -3_700_000_000i64..3_700_000_000,
    ) {
        let mut world = World::new(&[rate]);
        world.elect(0, 0);
        world.apply(0, 1);
        world.nodes[0].wall_off = step;
        for (gap, applies) in &gaps {
            world.truth += gap;
            world.run(&Step::Propose);
            if *applies {
                world.apply(0, usize::MAX);
            }
        }
        let last = world.times(world.log.len()).last().copied().unwrap();
        prop_assert!(last.age_us + 1 >= world.truth - world.truth / 100, "{last:?} at {}", world.truth);
    }
}

/// A leader of the first term that has applied its first entry, after `before`.
fn begun(before: Times, at: Instant) -> Option<Beginning> {
    Some(Beginning { under: leader(1, 7), times: before, at })
}

#[test]
fn a_step_of_the_leaders_clock_moves_time_by_little_and_age_not_at_all() {
    let start = Instant::now();
    let before = Times { time_us: WALL, age_us: 5 * S };
    let mut stamper = Stamper::default();
    let mut next = |after: u64, wall_us| {
        let now = start + Duration::from_micros(after);
        let stamp = stamper.next(7, begun(before, start), None, wall_us, now);
        (stamp.time_us, stamp.age.unwrap().us)
    };
    assert_eq!(next(S, WALL + S), (WALL + S, 6 * S));
    assert_eq!(next(2 * S, WALL + 2 * S + HOUR), (WALL + S + 1_010_000 + SLACK_US, 7 * S));
    assert_eq!(next(2 * S, WALL + 2 * S + HOUR).0, WALL + S + 1_010_000 + 2 * SLACK_US, "entry by entry");
    let (time_us, age_us) = next(3 * S, 0);
    assert_eq!((time_us, age_us), (WALL + S + 1_010_000 + 2 * SLACK_US, 8 * S), "and never back");
}

#[test]
fn time_goes_where_a_majority_of_the_clocks_says_it_is() {
    let start = Instant::now();
    let known = |wall_us| Some(Reading { wall_us, at: start });
    let next = |known, wall_us| {
        let now = start + Duration::from_secs(100);
        Stamper::default().next(7, begun(Times { time_us: WALL, age_us: 0 }, start), known, wall_us, now).time_us
    };
    let later = WALL + 8 * HOUR;
    assert_eq!(next(None, later), WALL + 101 * S + SLACK_US, "nobody else says so");
    assert_eq!(next(known(later - 100 * S), later), later, "all were down for a night");
    assert_eq!(next(known(WALL), later), WALL + 101 * S + SLACK_US, "only this clock has stepped");
    assert_eq!(next(known(later), WALL + 3 * S), WALL + 3 * S, "a clock behind the others stamps what it says");
}

#[test]
fn the_first_stamp_of_a_cluster_has_nothing_to_go_on_from() {
    let start = Instant::now();
    assert_eq!(Stamper::default().next(7, begun(Times::default(), start), None, WALL, start).time_us, WALL);
}

#[test]
fn who_does_not_lead_or_does_not_know_yet_what_was_written_says_nothing() {
    let start = Instant::now();
    let times = Times { time_us: WALL, age_us: 9 };
    for newest in [None, Some(Beginning { under: leader(4, 8), times, at: start })] {
        let stamp = Stamper::default().next(7, newest, None, WALL + HOUR, start + Duration::from_secs(1));
        assert_eq!(times.after(stamp, leader(5, 7)), times);
        let first = Times::default().after(stamp, leader(5, 7));
        assert_eq!(first, Times { time_us: WALL + HOUR, age_us: 0 }, "the first time of all is never 0");
    }
}

#[test]
fn a_stamp_of_another_leadership_says_nothing() {
    let times = Times { time_us: WALL, age_us: 9 };
    let stamp = Stamp { time_us: WALL + HOUR, age: Some(Age { under: leader(3, 7), us: 50 }) };
    assert_eq!(times.after(stamp, leader(5, 7)), times);
    assert_eq!(times.after(stamp, leader(3, 7)), Times { time_us: WALL + HOUR, age_us: 50 });
    let old = Stamp { time_us: WALL + 1, age: None };
    assert_eq!(times.after(old, leader(5, 7)), Times { time_us: WALL + 1, age_us: 9 }, "of an earlier version");
}
