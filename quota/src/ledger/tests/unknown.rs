//! Requests of which the log knows whose they are: each is told of once, whoever dies, comes back or is given up.

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*};
use tollgate_proto::state::v1::{NodeLost, Orphan, Recover, WriteOff};

use super::*;
use crate::ledger::{Told, Used, requests_of};

/// As long as a process may live on unheard, by any clock.
const SILENT: u64 = 31 * SECOND;

/// A row of the billing ledger: of which request, who says so, and what it corrects.
type Row = (String, Told, u64);

/// The ledger, and the rows that are made of what it tells.
struct Rows {
    ledger: Ledger,
    now: u64,
    index: u64,
    rows: Vec<(u64, Row)>,
}

fn whose(id: &str) -> Attribution {
    Attribution { request_id: id.to_owned(), model: "m".into(), ..Attribution::default() }
}

impl Rows {
    fn new() -> Self {
        let mut it = Self { ledger: Ledger::new(), now: NOON, index: 100, rows: Vec::new() };
        let permits = Rule { unit: Unit::Concurrency, ..rule("calls", 2, 1_000_000) };
        for rule in [rule("tpm", 1, 1_000_000), permits] {
            it.ledger.set_rule(Timestamp(it.now), rule, &mut Changes::new());
        }
        it.open(1, true);
        it
    }

    /// What a node's state does with every entry.
    fn entry(&mut self, change: impl FnOnce(&mut Ledger, LogIndex, Timestamp) -> Vec<Row>) {
        self.index += 1;
        let now = Timestamp(self.now);
        let ended = change(&mut self.ledger, LogIndex(self.index), now);
        let unknown = self.ledger.take_unknown(now, &mut Changes::new());
        let row = |used: Used<'_>| (used.attribution.request_id.clone(), used.told, used.corrects);
        let (seq, many) = (self.index << 16, unknown.len());
        let all = unknown.iter().map(|it| row(it.used())).chain(ended).enumerate();
        self.rows.extend(all.map(|(n, row)| (seq + n as u64, row)));
        let told: Vec<_> = unknown.iter().zip(seq..).collect();
        assert_eq!(told.len(), many);
        self.ledger.note_unknown(now, &told, &mut Changes::new());
        self.ledger.audit().unwrap();
        let rows = || self.ledger.image().into_rows();
        let copy = Ledger::restore(rows().map(Ok::<_, std::convert::Infallible>)).unwrap();
        assert!(copy.image().into_rows().eq(rows()));
        assert_eq!(copy.awaits_write_off(), self.ledger.awaits_write_off());
    }

    fn open(&mut self, incarnation: u64, predecessor_is_dead: bool) {
        let open = NodeOpen { node: 1, incarnation, predecessor_is_dead, ..NodeOpen::default() };
        self.entry(|ledger, at, now| {
            ledger.open(at, now, &open, &mut Changes::new());
            Vec::new()
        });
    }

    fn lose(&mut self, incarnation: u64, write_off: WriteOff) {
        let lost = NodeLost { node: 1, incarnation, write_off: write_off.into(), actor: "operator-1".into() };
        self.entry(|ledger, _, now| {
            ledger.lose(now, &lost, &mut Changes::new());
            Vec::new()
        });
    }

    /// An entry of somebody else.
    fn pass(&mut self, time: u64) {
        self.now += time;
        self.say(9, 0, Vec::new());
    }

    fn say(&mut self, incarnation: u64, first_seq: u64, kinds: Vec<Kind>) {
        let node = if incarnation == 9 { 2 } else { 1 };
        let records = kinds.into_iter().map(|kind| Record { kind: Some(kind) }).collect();
        let batch = QuotaBatch { frames: vec![Frame { node, incarnation, first_seq, records, ..Frame::default() }] };
        self.entry(|ledger, at, now| {
            let applied = ledger.apply(at, now, &batch, &mut Changes::new());
            let row = |used: &Used<'_>| (used.attribution.request_id.clone(), used.told, used.corrects);
            applied.used.iter().map(row).collect()
        });
    }

    /// Request, who says so, and the place of the row that it corrects.
    fn told(&self) -> Vec<(&str, Told, Option<usize>)> {
        let place = |seq: u64| self.rows.iter().position(|(known, _)| *known == seq);
        self.rows.iter().map(|(_, (id, told, corrects))| (id.as_str(), *told, place(*corrects))).collect()
    }
}

/// Of some tokens, and for every other request of a permit.
fn hold(request: u64, id: &str) -> Kind {
    let mut charges = vec![charge("tpm", 1, "alice", 10)];
    charges.extend((request % 2 == 1).then(|| charge("calls", 2, "alice", 1)));
    let attribution = (!id.is_empty()).then(|| whose(id).into());
    let request = requests_of(1) + request;
    Kind::Hold(Hold { request, charges, hold_for_us: HOUR, journaled: true, attribution, ..Hold::default() })
}

fn end(request: u64, id: &str, terminal: u64) -> Settle {
    let settle = settle(requests_of(1) + request, 4, Outcome::Settled);
    Settle { attribution: Some(whose(id).into()), terminal, ..settle }
}

fn orphan(request: u64, id: &str) -> Orphan {
    Orphan { request: requests_of(1) + request, attribution: Some(whose(id).into()), in_log: true }
}

#[test]
fn what_a_lost_node_had_in_flight_is_told_once_when_it_can_end_no_more() {
    for write_off in [WriteOff::Consume, WriteOff::Release] {
        let mut it = Rows::new();
        it.say(1, 1, vec![hold(1, "a"), hold(2, "b"), hold(3, ""), Kind::Settle(end(2, "b", 1))]);
        assert_eq!(it.told(), [("b", Told::Itself, None)]);
        it.lose(1, write_off);
        it.pass(SECOND);
        assert_eq!(it.told().len(), 1, "it may live, and be ended by its journal");
        assert!(it.ledger.awaits_write_off());
        it.pass(SILENT);
        assert_eq!(it.told()[1..], [("a", Told::Nobody, None)], "{write_off:?}");
        assert!(!it.ledger.awaits_write_off());
        it.lose(1, WriteOff::Consume);
        it.pass(SILENT);
        it.pass(80 * HOUR);
        assert_eq!(it.told().len(), 2);
        assert_eq!(it.ledger.open_holds(), 0);
    }
}

#[test]
fn of_a_node_that_is_waited_for_nothing_is_told() {
    let mut it = Rows::new();
    it.say(1, 1, vec![hold(1, "a")]);
    it.lose(1, WriteOff::Hold);
    it.pass(SILENT);
    assert_eq!((it.told(), it.ledger.awaits_write_off()), (vec![], false));
    it.lose(1, WriteOff::Consume);
    it.pass(SECOND);
    assert_eq!(it.told(), [("a", Told::Nobody, None)]);
}

#[test]
fn many_are_told_some_with_each_entry_and_a_journal_tells_of_the_others() {
    const ALL: u64 = 2_500;
    let mut it = Rows::new();
    it.say(1, 1, (1..=ALL).map(|request| hold(request, &request.to_string())).collect());
    it.lose(1, WriteOff::Consume);
    it.pass(SILENT);
    assert_eq!(it.rows.len(), 1_024);
    it.pass(1);
    assert_eq!(it.rows.len(), 2_048);
    it.open(2, true);
    let orphans = (1..=ALL).map(|request| orphan(request, &request.to_string())).collect();
    let of = Recover { incarnation: 1, ..Recover::default() };
    let said = [Recover { orphans, ..of.clone() }, Recover { done: true, ..of }];
    it.say(2, 1, said.map(Kind::Recover).to_vec());
    it.pass(80 * HOUR);
    let mut ids: Vec<u64> = it.rows.iter().map(|(_, (id, ..))| id.parse().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, (1..=ALL).collect::<Vec<_>>());
}

/// Of three requests: one has ended, of one nobody knows the end, one never went out.
fn journal() -> Vec<Kind> {
    let of = Recover { incarnation: 1, ..Recover::default() };
    let said = [
        Recover { settles: vec![end(1, "a", 1)], ..of.clone() },
        Recover { undispatched: vec![requests_of(1) + 3], ..of.clone() },
        Recover { orphans: vec![orphan(2, "b")], ..of.clone() },
        Recover { done: true, ..of },
    ];
    said.map(Kind::Recover).to_vec()
}

#[test]
fn what_a_journal_tells_after_all_corrects_what_was_told() {
    let mut it = Rows::new();
    it.say(1, 1, vec![hold(1, "a"), hold(2, "b"), hold(3, "c")]);
    it.lose(1, WriteOff::Consume);
    it.pass(SILENT);
    assert_eq!(it.told().len(), 3);
    it.open(2, true);
    it.say(2, 1, journal());
    it.pass(80 * HOUR);
    assert_eq!(it.told()[3..], [("a", Told::Journal, Some(0))]);
}

#[test]
fn a_journal_that_speaks_in_time_is_all_that_is_heard() {
    let mut it = Rows::new();
    it.say(1, 1, vec![hold(1, "a"), hold(2, "b"), hold(3, "c")]);
    it.open(2, true);
    it.pass(SILENT);
    assert_eq!(it.told(), []);
    it.say(2, 1, journal());
    it.pass(80 * HOUR);
    assert_eq!(it.told(), [("a", Told::Journal, None), ("b", Told::Nobody, None)]);
}

#[test]
fn of_a_node_that_came_back_without_its_disk_it_is_told_at_once() {
    let mut it = Rows::new();
    it.say(1, 1, vec![hold(1, "a"), hold(2, "b"), hold(3, "")]);
    it.open(2, false);
    it.pass(1);
    assert_eq!(it.told(), [("a", Told::Nobody, None), ("b", Told::Nobody, None)]);
    // The disk was somewhere else all the time.
    it.open(3, false);
    let of = Recover { incarnation: 1, ..Recover::default() };
    let said = [Recover { orphans: vec![orphan(1, "a")], ..of.clone() }, Recover { done: true, ..of }];
    it.say(3, 1, said.map(Kind::Recover).to_vec());
    assert_eq!(it.told().len(), 2);
}

#[test]
fn of_a_node_that_nobody_gives_up_it_is_told_when_it_can_be_corrected_no_more() {
    let mut it = Rows::new();
    it.say(1, 1, vec![hold(1, "a")]);
    it.open(2, true);
    it.pass(72 * HOUR);
    assert_eq!(it.told(), []);
    it.pass(2 * HOUR);
    assert_eq!(it.told(), [("a", Told::Nobody, None)]);
    let said = Recover { incarnation: 1, orphans: vec![orphan(1, "a")], ..Recover::default() };
    it.say(2, 1, vec![Kind::Recover(said)]);
    assert_eq!(it.told().len(), 1);
}

#[test]
fn of_a_node_that_stays_away_and_nobody_gives_up_it_is_told_once_and_permits_stay() {
    let mut it = Rows::new();
    it.say(1, 1, vec![hold(1, "a"), hold(2, "b"), hold(3, "")]);
    it.pass(72 * HOUR);
    assert_eq!(it.told(), []);
    for _ in 0..3 {
        it.pass(2 * HOUR);
        assert_eq!(it.told(), [("a", Told::Nobody, None), ("b", Told::Nobody, None)]);
        assert!(!it.ledger.has_unknown(), "all is told");
    }
    assert_eq!(it.ledger.open_holds(), 2, "no time frees a permit");
    // It was only cut off: how the one with a permit has ended corrects its row.
    let ends = [end(1, "a", 1), end(3, "", 2)];
    it.say(1, 4, ends.map(Kind::Settle).to_vec());
    assert_eq!(it.told()[2..], [("a", Told::Itself, Some(0)), ("", Told::Itself, None)]);
    assert_eq!(it.ledger.open_holds(), 0);
}

#[test]
fn what_was_forgotten_but_for_its_permit_goes_with_that() {
    for lost in [false, true] {
        let mut it = Rows::new();
        it.say(1, 1, vec![hold(1, "a"), hold(3, "")]);
        it.pass(72 * HOUR);
        it.pass(2 * HOUR);
        assert_eq!((it.told().len(), it.ledger.open_holds()), (1, 2));
        if lost {
            it.lose(1, WriteOff::Consume);
        } else {
            it.open(2, true);
        }
        assert_eq!((it.told().len(), it.ledger.open_holds()), (1, 0));
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    End(u64),
    Lose(WriteOff),
    Return { same_disk: bool },
    Speak,
    Pass(u64),
}

proptest! {
    /// In any order, each request has exactly one row, but for those that correct it; unless it never went out.
    #[test]
    fn each_request_has_one_row_whatever_happens_to_its_node(
        steps in vec(
            prop_oneof![
                4 => (1..9_u64).prop_map(Step::End),
                2 => prop::sample::select(vec![WriteOff::Hold, WriteOff::Consume, WriteOff::Release]).prop_map(Step::Lose),
                2 => any::<bool>().prop_map(|same_disk| Step::Return { same_disk }),
                2 => Just(Step::Speak),
                3 => prop_oneof![Just(SECOND), Just(SILENT), Just(40 * HOUR)].prop_map(Step::Pass),
            ],
            1..24,
        ),
    ) {
        let (mut it, mut incarnation, mut seq) = (Rows::new(), 1, 8);
        it.say(1, 1, (1..9).map(|request| hold(request, &request.to_string())).collect());
        // What the first process has ended: the log has heard of it, or the journal alone has.
        let (mut ended, mut said, mut dead, mut disk, mut spoken) = (BTreeMap::new(), 0, false, true, false);
        for step in steps {
            match step {
                Step::End(request) if incarnation == 1 && !dead && !ended.contains_key(&request) => {
                    let terminal = ended.len() as u64 + 1;
                    ended.insert(request, terminal);
                    if request % 2 == 0 && said + 1 == terminal && !it.ledger.is_lost(1) {
                        (said, seq) = (terminal, seq + 1);
                        it.say(1, seq, vec![Kind::Settle(end(request, &request.to_string(), terminal))]);
                    }
                }
                Step::Lose(write_off) => it.lose(incarnation, write_off),
                Step::Return { same_disk } => {
                    (incarnation, dead, seq) = (incarnation + 1, true, 0);
                    disk &= same_disk;
                    it.open(incarnation, same_disk);
                }
                Step::Speak if dead && disk && !spoken && !it.ledger.is_lost(1) => {
                    (spoken, seq) = (true, seq + 1);
                    let of = Recover { incarnation: 1, ..Recover::default() };
                    let open = (1..9).filter(|request| !ended.contains_key(request));
                    let orphans = open.map(|request| orphan(request, &request.to_string())).collect();
                    let mut settles: Vec<_> =
                        ended.iter().map(|(request, terminal)| end(*request, &request.to_string(), *terminal)).collect();
                    settles.sort_by_key(|settle| settle.terminal);
                    let said = Recover { settles, orphans, done: true, ..of };
                    it.say(incarnation, seq, vec![Kind::Recover(said)]);
                }
                Step::Pass(time) => it.pass(time),
                Step::End(_) | Step::Speak => {}
            }
        }
        it.lose(incarnation, WriteOff::Consume);
        it.pass(SILENT);
        it.pass(150 * HOUR);
        it.pass(1);
        let first = it.rows.iter().filter(|(_, (.., corrects))| *corrects == 0);
        let mut ids: Vec<u64> = first.map(|(_, (id, ..))| id.parse().unwrap()).collect();
        ids.sort_unstable();
        prop_assert_eq!(ids, (1..9).collect::<Vec<_>>(), "{:?}", it.rows);
        for (_, (id, told, corrects)) in it.rows.iter().filter(|(_, (.., corrects))| *corrects != 0) {
            let corrected = it.rows.iter().find(|(seq, _)| seq == corrects);
            let is_unknown = corrected.is_some_and(|(_, (of, told, _))| of == id && *told == Told::Nobody);
            prop_assert!(is_unknown && *told == Told::Journal, "{:?}", it.rows);
        }
        prop_assert_eq!(it.ledger.open_holds(), 0);
    }
}
