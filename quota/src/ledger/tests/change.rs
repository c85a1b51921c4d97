//! Limits that come to count in another way while nodes have some of them in hand: two real books, and a witness that only knows
//! what was sent out.

use proptest::{collection::vec, prelude::*, sample::Index};
use tollgate_proto::state::v1::Knows;

use super::*;
use crate::{
    book::{Ask, Book, Part, Parts, Spending},
    invariants::{Violation, require, safe},
};

const CAPACITY: u64 = 200_000;
/// How the limit may count.
const WAYS: [(Algorithm, Window); 5] = [
    (Algorithm::Fixed, Window::Hour),
    (Algorithm::Sliding, Window::Minute),
    (Algorithm::Sliding, Window::Hour),
    (Algorithm::Fixed, Window::Minute),
    (Algorithm::Sliding, Window::Second),
];

#[derive(Debug, Clone)]
enum Op {
    /// A request of so many units for this key, from what a node has in hand, or else from the log.
    Ask {
        node: usize,
        key: usize,
        amount: u64,
    },
    /// A request ends, having used so much of a hundred.
    End {
        pick: Index,
        percent: u64,
    },
    /// What a node has to say goes into the log.
    Say {
        node: usize,
    },
    /// A node reads what was applied.
    Follow {
        node: usize,
    },
    Set {
        way: usize,
    },
    /// Time passes, and nobody spends what it may not know of; it may be that no frame arrives.
    Wait {
        us: u64,
        heard: bool,
    },
}

enum Held {
    Here { node: usize, part: Part },
    InLog { node: usize, request: u64 },
}

struct Open {
    held: Held,
    taken: usize,
}

/// What one request took.
#[derive(Debug, Clone, Copy)]
struct Taken {
    key: usize,
    at: u64,
    amount: u64,
}

struct World {
    bench: Bench,
    books: [Book; 2],
    /// What each node has not read yet.
    news: [crate::ledger::News; 2],
    versions: [u64; 2],
    seqs: [u64; 2],
    version: u64,
    requests: u64,
    open: Vec<Open>,
    taken: Vec<Taken>,
    /// A change did not wait for somebody any longer: what that one had may count as used.
    late: bool,
    /// How the limit counts now, since which window, and since when what was used counts.
    way: (Option<u64>, u64, u64),
}

const KEYS: [&str; 2] = ["alice", "bob"];

fn limit(version: u64, way: usize) -> Rule {
    let (algorithm, window) = WAYS[way];
    Rule { algorithm, window, ..rule("tpm", version, CAPACITY) }
}

impl World {
    fn new(bug: Option<Bug>, way: usize) -> Self {
        let mut bench = Bench::with(&[]);
        bench.ledger.bug = bug;
        bench.now += 30 * MINUTE;
        bench.open(1, 1);
        bench.open(2, 1);
        let mut world = Self {
            books: [Book::new(1, 1), Book::new(2, 1)],
            news: std::array::from_fn(|_| crate::ledger::News::default()),
            versions: [1; 2],
            seqs: [0; 2],
            version: 1,
            requests: 0,
            open: Vec::new(),
            taken: Vec::new(),
            late: false,
            way: (None, 0, 0),
            bench,
        };
        // Whoever is there is heard, and has a share of each account by rule.
        (0..2).for_each(|node| drop(world.apply(node, Vec::new())));
        world.bench.set(limit(1, way));
        world.books.iter_mut().for_each(|book| book.elapse(world.bench.now));
        world.look();
        world.way.2 = 0;
        (0..2).for_each(|node| world.follow(node));
        world
    }

    fn step(&mut self, op: &Op) -> Result<(), Violation> {
        match op {
            Op::Ask { node, key, amount } => self.ask(*node, *key, *amount)?,
            Op::End { pick, percent } if !self.open.is_empty() => self.end(pick.index(self.open.len()), *percent),
            Op::End { .. } => {}
            Op::Say { node } => self.say(*node),
            Op::Follow { node } => self.follow(*node),
            Op::Set { way } => {
                self.version += 1;
                self.bench.set(limit(self.version, *way));
            }
            Op::Wait { us, heard } => {
                for node in 0..2 {
                    self.follow(node);
                    if *heard {
                        self.say(node);
                    }
                }
                self.look();
                self.bench.now += us;
                let changing = self.bench.ledger.rules.get(0).changing.as_deref();
                self.late |= changing.is_some_and(|it| self.bench.now >= if *heard { it.latest } else { it.until });
                self.look(); // it may turn and change with one entry
                let age = self.bench.now;
                self.books.iter_mut().for_each(|book| book.elapse(age));
                self.apply(0, Vec::new());
            }
        }
        self.look();
        self.bench.ledger.audit()?;
        for (node, book) in self.books.iter().enumerate() {
            let parts = self.open.iter().filter_map(|open| match &open.held {
                Held::Here { node: of, part } if *of == node => Some(part),
                _ => None,
            });
            book.audit(parts)?;
        }
        Ok(())
    }

    /// Takes in what has changed, and how the limit counts now.
    fn look(&mut self) {
        let news = self.bench.ledger.take_news();
        for unread in &mut self.news {
            unread.add(&news.accounts, news.shares, news.all);
        }
        let state = self.bench.ledger.rules.get(self.bench.ledger.rules.live("tpm").unwrap());
        let span = state.rule.span().map(|_| state.rule.window.longest_us());
        let (was, start, since) = self.way;
        let now = self.bench.now;
        // Its end has come, though nobody has asked for it since.
        let begun = if now < state.window_end { state.window_start } else { state.window_end };
        self.way = match (was, span) {
            _ if was == span && (span.is_some() || start == begun) => self.way,
            // It turned: nothing of before counts. In a longer one it stays so.
            (None, None) => (None, begun, since.max(begun)),
            // What counted goes on to count.
            (None, Some(_)) => (span, 0, since),
            (Some(length), _) => (span, begun, since.max(now - length)),
        };
    }

    fn follow(&mut self, node: usize) {
        let news = std::mem::take(&mut self.news[node]);
        self.versions[node] = self.version;
        self.books[node].follow(&self.bench.ledger, &news);
    }

    fn apply(&mut self, node: usize, kinds: Vec<Kind>) -> FrameOutcome {
        let first_seq = self.seqs[node] + 1;
        self.seqs[node] += kinds.len() as u64;
        let records = kinds.into_iter().map(|kind| Record { kind: Some(kind) }).collect();
        self.bench.apply(&Frame { node: node as u64 + 1, incarnation: 1, first_seq, records, ..Frame::default() })
    }

    fn say(&mut self, node: usize) {
        let (book, now) = (&mut self.books[node], self.bench.now);
        let mut kinds: Vec<Kind> = book.reports(100).into_iter().map(Kind::Report).collect();
        kinds.extend(book.touches(now, 100).into_iter().map(Kind::Touch));
        kinds.extend(book.knows().into_iter().map(Kind::Knows));
        kinds.extend(book.wants(now, 100).into_iter().map(Kind::Want));
        self.apply(node, kinds);
    }

    fn ask(&mut self, node: usize, key: usize, amount: u64) -> Result<(), Violation> {
        let (name, now) = ([KEYS[key].to_owned()], self.bench.now);
        let ask = Ask { limit: "tpm", version: self.versions[node], key: &name, amount };
        let held = match self.books[node].draw(ask, Spending::Journaled, now) {
            Some(part) => {
                let mut parts = Parts::from_iter([part]);
                self.books[node].go_out(&mut parts);
                Held::Here { node, part: parts[0] }
            }
            None => {
                self.requests += 1;
                let (request, charges) = (self.requests, vec![charge("tpm", self.version, KEYS[key], amount)]);
                let hold = Hold { request, charges, hold_for_us: 24 * HOUR, ..Hold::default() };
                if !self.apply(node, vec![Kind::Hold(hold)]).holds[0].granted {
                    return Ok(());
                }
                self.look();
                Held::InLog { node, request }
            }
        };
        self.open.push(Open { held, taken: self.taken.len() });
        self.taken.push(Taken { key, at: now, amount });
        let counted = self.counted(key);
        require(safe(CAPACITY, counted, 0), "I3", || format!("{counted} count at {now} by {:?}", self.way))
    }

    /// What was really taken of an account and must count now.
    fn counted(&self, key: usize) -> u64 {
        let (span, _, since) = self.way;
        let begin = span.map_or(since, |length| since.max((self.bench.now + 1).saturating_sub(length)));
        self.taken.iter().filter(|it| it.key == key && it.at >= begin).map(|it| it.amount).sum()
    }

    fn end(&mut self, nth: usize, percent: u64) {
        let Open { held, taken } = self.open.swap_remove(nth);
        let used = self.taken[taken].amount * percent / 100;
        self.taken[taken].amount = used;
        match held {
            Held::Here { node, part } => {
                let usage = Usage { input_tokens: used, ..Usage::default() };
                self.books[node].finish(part, &usage, Outcome::Settled);
            }
            Held::InLog { node, request } => {
                self.apply(node, vec![Kind::Settle(settle(request, used, Outcome::Settled))]);
            }
        }
    }

    /// Everything ends, and everyone hears and says all there is.
    fn quiet(&mut self) -> Result<(), Violation> {
        while !self.open.is_empty() {
            self.end(0, 50);
        }
        for _ in 0..4 {
            for node in 0..2 {
                self.step(&Op::Follow { node })?;
                self.step(&Op::Say { node })?;
            }
        }
        require(self.bench.ledger.rules.changing.is_empty(), "I7", || "the limit still counts in the old way".into())?;
        for (key, name) in KEYS.iter().enumerate() {
            let (used, held, overrun, _) = self.bench.account("tpm", name);
            let taken: u64 = self.taken.iter().filter(|it| it.key == key).map(|it| it.amount).sum();
            let (counted, shown) = (self.counted(key), format!("{name}: used {used} held {held} overrun {overrun}"));
            require((used <= taken || self.late) && held == 0 && overrun == 0, "I4", || {
                format!("{shown}, and {taken} were taken")
            })?;
            require(counted <= used, "I4", || format!("{shown}, and {counted} count"))?;
        }
        Ok(())
    }
}

fn run(bug: Option<Bug>, way: usize, ops: &[Op]) -> Result<(), Violation> {
    let mut world = World::new(bug, way);
    ops.iter().try_for_each(|op| world.step(op))?;
    world.quiet()
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (0..2usize, 0..2usize, 1..40_000u64).prop_map(|(node, key, amount)| Op::Ask { node, key, amount }),
        5 => (any::<Index>(), 0..=100u64).prop_map(|(pick, percent)| Op::End { pick, percent }),
        5 => (0..2usize).prop_map(|node| Op::Say { node }),
        5 => (0..2usize).prop_map(|node| Op::Follow { node }),
        2 => (0..WAYS.len()).prop_map(|way| Op::Set { way }),
        2 => (0..20 * SECOND, 0..8u8).prop_map(|(us, heard)| Op::Wait { us, heard: heard > 0 }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn no_change_gives_anything_twice_or_counts_what_nobody_took(way in 0..WAYS.len(), ops in vec(op(), 1..120)) {
        let done = run(None, way, &ops);
        prop_assert!(done.is_ok(), "{}", done.unwrap_err());
    }
}

#[test]
fn what_nodes_have_in_hand_is_counted_by_what_they_used_of_it_once_they_know() {
    for (from, to) in [(0, 1), (0, 2), (3, 2), (1, 0), (1, 2), (2, 1)] {
        let mut world = World::new(None, from);
        for (node, amount) in [(0, 10), (1, 20)] {
            world.step(&Op::Ask { node, key: 0, amount }).unwrap();
            world.step(&Op::Say { node }).unwrap();
            world.step(&Op::Follow { node }).unwrap();
            world.step(&Op::Ask { node, key: 0, amount }).unwrap();
        }
        while !world.open.is_empty() {
            world.end(0, 100);
        }
        world.step(&Op::Set { way: to }).unwrap();
        world.quiet().unwrap();
        assert_eq!(world.bench.account("tpm", "alice"), (60, 0, 0, i128::from(CAPACITY) - 60), "{from} to {to}");
    }
}

#[test]
fn what_requests_hold_stays_held_and_ends_at_what_was_used() {
    for (from, to) in [(0, 1), (1, 0), (1, 2)] {
        let mut world = World::new(None, from);
        // The first asks the log where nothing is there by rule; the others draw on what was granted.
        for _ in 0..2 {
            world.step(&Op::Ask { node: 0, key: 0, amount: 94 }).unwrap();
            world.step(&Op::Say { node: 0 }).unwrap();
            world.step(&Op::Follow { node: 0 }).unwrap();
        }
        assert!(world.open.iter().any(|open| matches!(open.held, Held::Here { .. })));
        world.step(&Op::Set { way: to }).unwrap();
        // Who comes meanwhile asks the log.
        for node in 0..2 {
            world.step(&Op::Follow { node }).unwrap();
            world.step(&Op::Say { node }).unwrap();
            world.step(&Op::Ask { node, key: 0, amount: 94 }).unwrap();
        }
        let (used, held, _, free) = world.bench.account("tpm", "alice");
        assert_eq!((used, held, free), (0, 4 * 94, i128::from(CAPACITY) - 4 * 94), "{from} to {to}");
        assert!(!world.bench.ledger.rules.changing.is_empty(), "a request is in flight that a node admitted itself");
        while !world.open.is_empty() {
            world.end(0, 50);
        }
        world.quiet().unwrap();
        assert_eq!(world.bench.account("tpm", "alice").0, 4 * 47, "{from} to {to}");
    }
}

#[test]
fn a_change_that_is_taken_back_before_it_is_effective_changes_nothing() {
    let mut world = World::new(None, 0);
    world.step(&Op::Ask { node: 0, key: 0, amount: 94 }).unwrap();
    let epoch = world.bench.ledger.rules.get(0).epoch;
    world.step(&Op::Set { way: 1 }).unwrap();
    let taking_effect = |world: &World| world.bench.ledger.image().taking_effect(Timestamp(world.bench.now));
    assert_eq!(taking_effect(&world), [Name::new("tpm")]);
    assert_eq!(world.bench.ledger.rule("tpm").map(|rule| rule.algorithm), Some(Algorithm::Sliding), "it is accepted");
    let rows = world.bench.ledger.image().into_rows().map(Ok::<_, std::convert::Infallible>);
    let restored = Ledger::restore(rows).unwrap();
    assert_eq!(restored.rules.get(0), world.bench.ledger.rules.get(0));
    assert_eq!(restored.rules.changing, world.bench.ledger.rules.changing);
    world.step(&Op::Set { way: 0 }).unwrap();
    assert_eq!((taking_effect(&world).len(), world.bench.ledger.rules.get(0).epoch), (0, epoch));
    world.end(0, 50);
    world.quiet().unwrap();
    assert_eq!(world.bench.account("tpm", "alice").0, 47);
}

/// A node's word that it knows is on its way, while it comes to see an account that it has a share of, and gives that back as well.
#[test]
fn a_share_that_goes_back_twice_is_free_once() {
    let mut world = World::new(None, 0);
    world.step(&Op::Set { way: 1 }).unwrap();
    (0..2).for_each(|node| world.follow(node));
    let (name, now) = ([KEYS[0].to_owned()], world.bench.now);
    let ask = Ask { limit: "tpm", version: world.versions[0], key: &name, amount: 1 };
    assert!(
        world.books[0].draw(ask, Spending::Journaled, now).is_none(),
        "it is called in, and nobody has a record of it"
    );
    let word: Vec<Kind> = world.books[0].knows().into_iter().map(Kind::Knows).collect();
    assert_eq!(word.len(), 1);
    world.step(&Op::Ask { node: 1, key: 0, amount: 100 }).unwrap();
    world.step(&Op::Follow { node: 0 }).unwrap();
    let back = world.books[0].reports(100);
    assert!(back.len() == 1 && back[0].returned > 0, "{back:?}");
    world.apply(0, word);
    world.step(&Op::Ask { node: 1, key: 0, amount: 100 }).unwrap();
    world.step(&Op::Follow { node: 0 }).unwrap();
    world.apply(0, back.into_iter().map(Kind::Report).collect());
    world.quiet().unwrap();
}

#[test]
fn what_is_said_of_a_window_that_was_over_before_the_change_is_of_nothing() {
    let mut bench = Bench::with(&[rule("tpm", 1, 1_000)]);
    // So many that some records are still there when the window is over: they are swept a few with each entry.
    let keys: Vec<String> = (0..400).map(|nth| format!("key-{nth}")).collect();
    let leases: Vec<_> = keys.iter().map(|key| bench.want("tpm", 1, key, 300, 10).unwrap()).collect();
    bench.now += MINUTE;
    bench.set(Rule { algorithm: Algorithm::Sliding, ..rule("tpm", 2, 1_000) });
    let knows = bench.frame(Kind::Knows(Knows { limit: "tpm".into(), version: 2 }));
    bench.apply(&knows);
    assert!(bench.ledger.rules.changing.is_empty(), "what was in hand was of the window before");
    for (key, lease) in keys.iter().zip(leases) {
        bench.report(lease, 7, 293, 0);
        assert!(bench.hold(vec![charge("tpm", 2, key, 1_000)]).granted);
    }
}

#[test]
fn a_request_in_flight_is_waited_for_and_not_for_ever() {
    let mut world = World::new(None, 0);
    world.step(&Op::Ask { node: 0, key: 0, amount: 94 }).unwrap();
    world.step(&Op::Set { way: 2 }).unwrap();
    for node in 0..2 {
        world.step(&Op::Follow { node }).unwrap();
        world.step(&Op::Say { node }).unwrap();
    }
    world.step(&Op::Wait { us: 9 * MINUTE, heard: true }).unwrap();
    let (used, held, _, free) = world.bench.account("tpm", "alice");
    assert_eq!((used, held, free), (0, 94, i128::from(CAPACITY) - 94), "all that is not held is free");
    world.step(&Op::Wait { us: 2 * MINUTE, heard: true }).unwrap();
    assert_eq!(world.bench.account("tpm", "alice").0, 94, "what it was reserved");
}

/// The suite can fail: what is counted at once was taken by nobody.
#[test]
fn a_change_that_calls_nothing_in_is_seen() {
    let ops = [Op::Ask { node: 0, key: 0, amount: 10 }, Op::Set { way: 1 }];
    let violation = run(Some(Bug::ChangesAtOnce), 0, &ops).unwrap_err();
    assert_eq!(violation.invariant, "I4", "{violation}");
}
