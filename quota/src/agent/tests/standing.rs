//! Standing shares as a node spends them: before there is a record, and while nobody writes the log.

use tollgate_model::{Algorithm, KeyPart, LogIndex, Name, TimeZone, Unit, Window};
use tollgate_proto::state::v1::{Attribution, Charge as WireCharge, JournalEntry, NodeOpen, QuotaBatch, journal_entry};

use super::*;
use crate::{
    Changes, Rule,
    journal::Replay,
    ledger::{Bounds, MAX_UNRECORDED, Shares},
};

const SECOND: u64 = 1_000_000;
const MINUTE: u64 = 60 * SECOND;
/// A minute begins.
const START: u64 = 30_000_000 * MINUTE;
const SHARES: Shares = Shares { short: (4, 5), long: (1, 2), least: (1, 1) };

/// A log with a limit of 1,000 for each consumer, and node 1 of two: it has 400 of every account.
struct Bench {
    ledger: Ledger,
    agent: Agent,
    index: u64,
}

impl Bench {
    fn new() -> Self {
        let mut ledger = Ledger::with_bounds(Bounds { standing: Some(SHARES), ..Bounds::default() });
        for node in [1, 2] {
            let open = NodeOpen { node, incarnation: 1, ..NodeOpen::default() };
            ledger.open(LogIndex(node), Timestamp(START), &open, &mut Changes::new());
        }
        let mut bench = Self { ledger, agent: agent(), index: 2 };
        bench.set(1_000, START);
        bench
    }

    fn set(&mut self, capacity: u64, now: u64) {
        self.index += 1;
        let rule = Rule {
            limit: Name::new("tpm"),
            version: LogIndex(self.index),
            unit: Unit::Tokens,
            per: vec![KeyPart::Consumer],
            capacity,
            window: Window::Minute,
            algorithm: Algorithm::Fixed,
            time_zone: TimeZone::UTC,
            apart: false,
            shadow: false,
        };
        self.ledger.set_rule(Timestamp(now), rule, &mut Changes::new());
        self.follow();
    }

    fn follow(&mut self) {
        let news = self.ledger.take_news();
        self.agent.follow(&self.ledger, &news);
    }

    /// Asks for tokens of a consumer; whether they were there at once.
    fn ask(&mut self, key: &str, amount: u64, now: u64) -> (u64, bool) {
        let version = self.ledger.rules()[0].version;
        let charge = Charge { limit: Name::new("tpm"), version, key: vec![key.to_owned()], amount };
        let (request, granted) = self.agent.reserve(&[charge], Durability::Journal, SECOND, Timestamp(now));
        self.agent.audit().unwrap();
        (request, granted.is_some())
    }

    fn end(&mut self, request: u64, used: u64) {
        let usage = Some(Usage { input_tokens: used, ..Usage::default() });
        self.agent.settle(Settle { usage, ..settled(request) });
    }

    /// The agent's next frame, written at a time.
    fn say(&mut self, now: u64) -> Frame {
        let frame = self.agent.next_frame(Timestamp(now)).expect("there is something to say");
        self.index += 1;
        let batch = QuotaBatch { frames: vec![frame.clone()] };
        let applied = self.ledger.apply(LogIndex(self.index), Timestamp(now), &batch, &mut Changes::new());
        self.ledger.audit().unwrap();
        let outcome = applied.outcome.frames[0].clone();
        self.follow();
        self.agent.applied(&outcome, Timestamp(now));
        self.agent.audit().unwrap();
        frame
    }

    /// Node 2 holds so much, or has it called back.
    fn hold(&mut self, key: &str, amount: u64, now: u64) {
        let version = self.ledger.rules()[0].version.0;
        let charge = WireCharge { limit: "tpm".into(), key: vec![key.to_owned()], amount, limit_version: version };
        let hold = Hold { request: self.index, charges: vec![charge], hold_for_us: SECOND, ..Hold::default() };
        self.write(2, vec![Record { kind: Some(Kind::Hold(hold)) }], now);
    }

    /// An entry that is about nothing.
    fn idle(&mut self, now: u64) {
        self.write(2, Vec::new(), now);
        self.follow();
    }

    fn has_record(&self, key: &str) -> bool {
        self.ledger.lease_of(1, 1, "tpm", &[key.to_owned()]).is_some()
    }

    fn write(&mut self, node: u64, records: Vec<Record>, now: u64) {
        self.index += 1;
        let first_seq = self.ledger.node(node).unwrap().1 + 1;
        let batch = QuotaBatch { frames: vec![Frame { node, incarnation: 1, first_seq, records, ..Frame::default() }] };
        self.ledger.apply(LogIndex(self.index), Timestamp(now), &batch, &mut Changes::new());
        self.ledger.audit().unwrap();
    }

    fn used(&self, key: &str, now: u64) -> (u64, u64) {
        let view = self.ledger.account(Timestamp(now), "tpm", Some(&[key.to_owned()])).unwrap();
        (view.used, view.held)
    }
}

fn touches(frame: &Frame) -> usize {
    frame.records.iter().filter(|record| matches!(record.kind, Some(Kind::Touch(_)))).count()
}

#[test]
fn a_share_is_spent_before_there_is_a_record_and_the_journal_can_name_it() {
    let mut bench = Bench::new();
    let (request, local) = bench.ask("alice", 30, START);
    assert!(local);
    let after = bench.agent.dispatch(request, Attribution::default(), Durability::Journal);
    let entries = bench.agent.take_entries();
    assert_eq!(after, entries.len() as u64);
    let mut replay = Replay::default();
    let start = JournalEntry { kind: Some(journal_entry::Kind::Start(1)) };
    std::iter::once(&start).chain(&entries).for_each(|entry| replay.entry(&entry.encode_to_vec()).unwrap());
    let said = replay.finish().remove(0).recover(0).unwrap();
    let named = said[0].named[0].clone();
    assert_eq!((named.limit, named.key, named.consumed.unwrap().spent), ("tpm".into(), vec!["alice".into()], 30));
    assert!(said.iter().all(|part| part.consumed.is_empty()) && said[1].done);

    let frame = bench.say(START);
    assert_eq!((touches(&frame), bench.used("alice", START)), (1, (0, 30)));
    let before = bench.agent.drawn(request);
    bench.end(request, 25);
    let entries = bench.agent.take_entries();
    let Some(journal_entry::Kind::End(end)) = &entries[0].kind else { panic!("{entries:?}") };
    assert_eq!((end.consumed[0].account, end.consumed[0].spent), (before[0].0, 25), "the number that it began under");
    let frame = bench.say(START);
    assert_eq!((touches(&frame), bench.used("alice", START).0), (0, 25), "the log knows a number by now");
    assert!(!bench.ask("alice", 400, START).1, "400 less 25");
}

#[test]
fn the_journal_restates_what_its_numbers_mean() {
    let mut bench = Bench::new();
    let (request, _) = bench.ask("alice", 300, START);
    bench.agent.dispatch(request, Attribution::default(), Durability::Journal);
    bench.end(request, 200);
    bench.agent.take_entries();
    bench.agent.restate();
    let mut replay = Replay::default();
    bench.agent.take_entries().iter().for_each(|entry| replay.entry(&entry.encode_to_vec()).unwrap());
    let said = replay.finish().remove(0).recover(0).unwrap();
    let named: Vec<_> = said.iter().flat_map(|part| &part.named).collect();
    assert_eq!(named.len(), 1, "{said:?}");
    assert_eq!((&*named[0].key[0], named[0].consumed.unwrap().spent), ("alice", 200));
}

#[test]
fn nobody_has_to_write_the_log_for_keys_that_nobody_knows_up_to_a_bound() {
    let mut bench = Bench::new();
    let local = (0..MAX_UNRECORDED + 10).filter(|at| bench.ask(&format!("k{at}"), 100, START).1).count();
    assert_eq!(local, MAX_UNRECORDED);
    bench.say(START);
    assert!(bench.ask("another", 100, START).1, "what has a record is not counted any more");
}

#[test]
fn a_window_turns_without_a_message_and_the_log_follows() {
    let mut bench = Bench::new();
    let (request, _) = bench.ask("alice", 40, START);
    bench.end(request, 40);
    bench.say(START);
    let late = START + MINUTE - 5 * SECOND;
    let (request, local) = bench.ask("alice", 50, late);
    assert!(local);
    bench.end(request, 50);
    bench.say(late);
    let next = START + MINUTE;
    let (first, local) = bench.ask("alice", 40, next);
    assert!(local && bench.ask("bob", 40, next).1, "the roster was frozen with what was said last");
    // The log's clock is behind: what is said now only has it look at the time.
    let frame = bench.say(next - SECOND);
    assert_eq!((touches(&frame), bench.used("alice", next - SECOND)), (1, (90, 0)));
    bench.end(first, 38);
    bench.agent.pass(SECOND);
    let frame = bench.say(next + SECOND);
    assert_eq!(touches(&frame), 1, "it turns, and what is of it is said after that: {frame:?}");
    let frame = bench.say(next + SECOND);
    assert_eq!((touches(&frame), bench.used("bob", next + SECOND)), (1, (0, 40)), "{frame:?}");
    assert_eq!(bench.used("alice", next + SECOND), (38, 0));
}

#[test]
fn a_lower_gives_back_what_no_request_holds_and_nothing_more_is_drawn_by_name() {
    let mut bench = Bench::new();
    let (request, _) = bench.ask("alice", 100, START);
    bench.set(500, START);
    assert!(!bench.ask("alice", 1, START).1 && !bench.ask("bob", 1, START).1);
    bench.say(START);
    let view = bench.ledger.account(Timestamp(START), "tpm", Some(&["alice".to_owned()])).unwrap();
    assert_eq!((view.held, view.leased, view.leased_by_node), (100, 400, vec![(2, 400)]));
    bench.end(request, 60);
    bench.say(START);
    assert_eq!(bench.used("alice", START), (60, 0));
}

/// As node 1 has let go of what it had of her window, it finds the account that is called back in the next.
#[test]
fn what_is_called_back_in_the_next_window_is_known_although_nothing_of_this_one_was_said() {
    let mut bench = Bench::new();
    assert!(bench.ask("alice", 40, START).1);
    let late = START + MINUTE - 5 * SECOND;
    bench.write(1, Vec::new(), late);
    bench.hold("bob", 1, late);
    bench.follow();
    bench.hold("alice", 300, START + MINUTE);
    let account = bench.ledger.lease_of(1, 1, "tpm", &["alice".into()]).unwrap();
    assert!(account.central && account.granted == 400, "{account:?}");
    bench.follow();
    assert!(!bench.ask("alice", 1, START + MINUTE).1);
    let frame = bench.say(START + MINUTE);
    assert!(
        frame.records.iter().any(|it| matches!(&it.kind, Some(Kind::Report(it)) if it.returned == 400)),
        "{frame:?}"
    );
}

/// The log says nothing of a limit whose window is over: accounts are swept one after the other, and until then lose no lease.
#[test]
fn a_part_of_a_lease_that_was_let_go_is_of_no_other_of_its_window() {
    let mut bench = Bench::new();
    let (request, local) = bench.ask("alice", 30, START);
    assert!(local);
    bench.say(START);
    (0..400).for_each(|at| bench.hold(&format!("k{at}"), 1, START));
    bench.follow();
    let late = START + 2 * MINUTE;
    for _ in 0..20 {
        if bench.has_record("alice") {
            bench.idle(late);
        }
    }
    assert!(!bench.has_record("alice"), "it was swept");
    let left: Vec<String> = (0..400).map(|at| format!("k{at}")).filter(|key| bench.has_record(key)).collect();
    left.iter().rev().for_each(|key| assert!(!bench.ask(key, 1, late).1));
    bench.idle(late);
    assert!(left.last().is_some_and(|key| bench.has_record(key)), "it was not swept yet");
    bench.agent.audit().unwrap();
    bench.end(request, 25);
    bench.agent.audit().unwrap();
}
