//! Leases that no window ends: what is used ages in the hands of the node.

use tollgate_model::{Algorithm, LogIndex, Name, TimeZone, Timestamp, Unit, Window};
use tollgate_proto::state::v1::{Charge, Frame, Hold, NodeOpen, QuotaBatch, Record, record::Kind};

use super::*;
use crate::{Changes, Ledger, Rule};

const SECOND: u64 = 1_000_000;

/// A ledger with one limit, and node 1 with its book.
struct Bench {
    ledger: Ledger,
    capacity: u64,
    book: Book,
    index: u64,
    seq: u64,
}

impl Bench {
    fn with(unit: Unit, capacity: u64) -> Self {
        let rule = Rule {
            limit: Name::new("l"),
            version: LogIndex(1),
            unit,
            per: Vec::new(),
            capacity,
            window: Window::Second,
            algorithm: Algorithm::Sliding,
            time_zone: TimeZone::UTC,
            apart: false,
            shadow: false,
        };
        let mut ledger = Ledger::new();
        ledger.set_rule(Timestamp(SECOND), rule, &mut Changes::new());
        for node in [1, 2] {
            let open = NodeOpen { node, incarnation: 1, ..NodeOpen::default() };
            ledger.open(LogIndex(1), Timestamp(SECOND), &open, &mut Changes::new());
        }
        let mut bench = Self { ledger, capacity, book: Book::new(1, 1), index: 1, seq: 0 };
        assert_eq!(bench.draw(10), None, "nothing is granted yet");
        bench.say();
        bench
    }

    fn draw(&mut self, amount: u64) -> Option<Part> {
        self.book.draw(Ask { limit: "l", version: 1, key: &[], amount }, Spending::Journaled, SECOND)
    }

    fn draw_and_go(&mut self, amount: u64) -> Option<Part> {
        let mut parts = Parts::from_iter(self.draw(amount));
        self.book.go_out(&mut parts);
        parts.pop()
    }

    fn end(&mut self, part: Part, used: u64) {
        self.book.finish(part, &Usage { input_tokens: used, ..Usage::default() }, Outcome::Settled);
    }

    /// What there is to say goes into the log, and what the log says comes back. What was given back by it.
    fn say(&mut self) -> u64 {
        let reports = self.book.reports(10).into_iter().map(Kind::Report);
        let kinds: Vec<Kind> = reports.chain(self.book.wants(SECOND, 10).into_iter().map(Kind::Want)).collect();
        let free = self.free();
        let first_seq = self.seq + 1;
        self.seq += kinds.len() as u64;
        let records = kinds.into_iter().map(|kind| Record { kind: Some(kind) }).collect();
        self.apply(Frame { node: 1, incarnation: 1, first_seq, records, ..Frame::default() });
        u64::try_from(self.free() - free).unwrap_or(0)
    }

    fn apply(&mut self, frame: Frame) {
        self.index += 1;
        let batch = QuotaBatch { frames: vec![frame] };
        self.ledger.apply(LogIndex(self.index), Timestamp(SECOND), &batch, &mut Changes::new());
        self.ledger.audit().unwrap();
        let news = self.ledger.take_news();
        self.book.follow(&self.ledger, &news);
    }

    /// Node 2 needs so much: what is not free is called back.
    fn recall(&mut self, amount: u64) {
        let charge = Charge { limit: "l".into(), key: Vec::new(), amount, limit_version: 1 };
        let hold = Hold { request: 1, charges: vec![charge], hold_for_us: SECOND, ..Hold::default() };
        let record = Record { kind: Some(Kind::Hold(hold)) };
        self.apply(Frame { node: 2, incarnation: 1, first_seq: 1, records: vec![record], ..Frame::default() });
    }

    fn free(&self) -> i128 {
        let page = self.ledger.accounts(Timestamp(SECOND), &crate::ledger::Query::default());
        // Without a record nothing of it is taken.
        page.accounts.first().map_or(i128::from(self.capacity), |account| account.free)
    }
}

#[test]
fn what_was_used_is_drawn_again_once_it_has_aged_by_any_clock() {
    let mut bench = Bench::with(Unit::Tokens, 200);
    let part = bench.draw_and_go(80).unwrap();
    bench.end(part, 80);
    assert_eq!(bench.draw(1), None);
    bench.book.elapse(SECOND * 101 / 100);
    assert_eq!(bench.draw(1), None, "this clock may be fast");
    bench.book.elapse(SECOND * 11 / 10);
    assert!(bench.draw(80).is_some());
}

#[test]
fn what_a_request_did_not_use_is_drawn_again_at_once() {
    let mut bench = Bench::with(Unit::Tokens, 200);
    let part = bench.draw_and_go(80).unwrap();
    bench.end(part, 30);
    assert!(bench.draw(51).is_none() && bench.draw(50).is_some());
}

/// The log ages what was used beyond a reservation: a node that went on counting it could draw nothing for ever.
#[test]
fn what_was_overrun_does_not_stay_with_a_lease_whose_window_slides() {
    let mut bench = Bench::with(Unit::Tokens, 1_000);
    let part = bench.draw_and_go(10).unwrap();
    bench.end(part, 10_000);
    assert!(bench.draw(10).is_some());
}

#[test]
fn what_has_not_gone_out_does_not_age() {
    let mut bench = Bench::with(Unit::Tokens, 200);
    let mut parts = Parts::from_iter(bench.draw(80));
    bench.book.elapse(5 * SECOND);
    assert_eq!(bench.draw(1), None);
    bench.book.go_out(&mut parts);
    bench.book.elapse(5 * SECOND + SECOND / 2);
    assert_eq!(bench.draw(1), None, "it counts since it went out");
    bench.book.elapse(7 * SECOND);
    assert!(bench.draw(80).is_some());
}

/// What is shown of an account: as held, and as in hand.
fn shown(bench: &mut Bench) -> (u64, u64) {
    bench.say();
    let page = bench.ledger.accounts(Timestamp(SECOND), &crate::ledger::Query::default());
    (page.accounts[0].held, page.accounts[0].leased)
}

#[test]
fn what_a_request_has_drawn_is_shown_as_held_from_when_it_goes_out() {
    for unit in [Unit::Tokens, Unit::Concurrency] {
        let mut bench = Bench::with(unit, 200);
        let in_hand = shown(&mut bench).1;
        let mut parts = Parts::from_iter(bench.draw(10));
        assert_eq!(shown(&mut bench), (0, in_hand), "the log may yet refuse the rest of its path");
        let refused = parts.pop().unwrap();
        bench.book.finish(refused, &Usage::default(), Outcome::Voided);
        assert_eq!(shown(&mut bench), (0, in_hand));
        let mut parts = Parts::from_iter(bench.draw(10));
        assert_eq!(shown(&mut bench), (0, in_hand));
        bench.book.go_out(&mut parts);
        assert_eq!(shown(&mut bench), (10, in_hand - 10), "that it went out is said");
        bench.book.finish(parts[0], &Usage::default(), Outcome::Voided);
        assert_eq!(shown(&mut bench), (0, in_hand));
    }
}

#[test]
fn a_lease_that_is_called_back_gives_back_what_is_fresh_and_the_rest_as_it_ages() {
    let mut bench = Bench::with(Unit::Tokens, 200);
    let part = bench.draw_and_go(30).unwrap();
    bench.end(part, 30);
    bench.recall(190);
    assert!(bench.book.is_due());
    assert_eq!(bench.say(), 50, "what was used is not moved");
    assert!(!bench.book.is_due());
    let at = bench.book.next_news().expect("more will be fresh");
    assert!((SECOND..SECOND * 11 / 10).contains(&at), "{at}");
    bench.book.elapse(at - 1);
    assert!(!bench.book.is_due());
    bench.book.elapse(at);
    assert!(bench.book.is_due());
    assert_eq!((bench.say(), bench.book.next_news()), (30, None));
}

#[test]
fn a_lease_that_nobody_asks_for_is_given_back_and_its_account_is_let_go() {
    for unit in [Unit::Tokens, Unit::Concurrency] {
        let mut bench = Bench::with(unit, 200);
        let part = bench.draw_and_go(10).unwrap();
        bench.end(part, 10);
        bench.say();
        let at = bench.book.next_news().expect("no window gives it back");
        bench.book.elapse(at);
        assert!(bench.book.is_due());
        bench.say();
        assert_eq!((bench.ledger.accounts(Timestamp(SECOND), &crate::ledger::Query::default()).accounts.len()), 0);
        assert_eq!((bench.book.next_news(), bench.book.by_account.len()), (None, 0));
    }
}

#[test]
fn a_permit_goes_back_when_its_request_ends() {
    let mut bench = Bench::with(Unit::Concurrency, 10);
    let part = bench.draw_and_go(1);
    assert_eq!(part, None, "what was asked for is too much to be divided");
    let mut bench = Bench::with(Unit::Concurrency, 100);
    let part = bench.draw_and_go(1).unwrap();
    bench.recall(100);
    let back = bench.say();
    bench.end(part, 5_000);
    assert!(bench.book.is_due());
    assert_eq!((back > 0, bench.say()), (true, 1));
    assert_eq!(bench.free(), 100);
}
