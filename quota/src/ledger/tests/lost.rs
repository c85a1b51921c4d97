//! Nodes that an operator gives up.

use tollgate_proto::state::v1::{Consumed, NodeLost, NodeLostOutcome, Recover, Report, WriteOff};

use super::*;
use crate::ledger::{AccountView, LeaseView};

/// As long as a process may live on unheard, by any clock.
const SILENT: u64 = 31 * SECOND;

impl Bench {
    fn lose(&mut self, incarnation: u64, write_off: WriteOff) -> NodeLostOutcome {
        let lost = NodeLost { node: 1, incarnation, write_off: write_off.into(), ..NodeLost::default() };
        let outcome = self.ledger.lose(Timestamp(self.now), &lost, &mut Changes::new());
        self.sound();
        outcome
    }

    /// All adds up, and a copy made of the rows is the same.
    fn sound(&self) {
        self.ledger.audit().unwrap();
        let audited = self.ledger.image().audit(0, u32::MAX);
        assert!(audited.unsound.is_empty(), "{audited:?}");
        let rows = || self.ledger.image().into_rows();
        let copy = Ledger::restore(rows().map(Ok::<_, std::convert::Infallible>)).unwrap();
        assert!(copy.image().into_rows().eq(rows()));
        copy.audit().unwrap();
    }

    /// What the audit says that each node has in hand, what is in suspense, and what is lost.
    fn sums(&self) -> (Vec<(u64, u128)>, u128, u128) {
        let audited = self.ledger.image().audit(0, u32::MAX);
        let sums = audited.sums.values().next().cloned().unwrap_or_default();
        (sums.by_node.into_iter().collect(), sums.suspense, sums.lost)
    }

    /// An entry of node 2, some time later.
    fn pass(&mut self, time: u64) {
        self.now += time;
        let frame = Frame { node: 2, incarnation: 1, first_seq: 0, records: Vec::new(), ..Frame::default() };
        self.apply(&frame);
        self.sound();
    }

    fn shown(&self) -> AccountView {
        let view = self.ledger.accounts(Timestamp(self.now), &show::Query::default()).accounts.remove(0);
        let AccountView { used, held, leased, suspense, lost, free, capacity, .. } = view;
        let sum = i128::from(used + held + leased + suspense + lost) + free;
        assert_eq!(sum, i128::from(capacity), "what is shown adds up");
        view
    }

    /// (used, suspense, lost, free)
    fn figures(&self) -> (u64, u64, u64, i128) {
        let AccountView { used, suspense, lost, free, .. } = self.shown();
        (used, suspense, lost, free)
    }

    fn recover(&mut self, spent: u64, lease: LeaseView) {
        let LeaseView { account, epoch, .. } = lease;
        let consumed = vec![Consumed { account, epoch, spent, ..Consumed::default() }];
        let recover = Recover { incarnation: 1, consumed, done: true, ..Recover::default() };
        self.seq += 1;
        let records = vec![Record { kind: Some(Kind::Recover(recover)) }];
        let frame = Frame { node: 1, incarnation: 2, first_seq: self.seq, records, ..Frame::default() };
        self.apply(&frame);
        self.sound();
    }
}

/// Node 1 was granted 300, and has said that 100 are spent.
fn leased() -> (Bench, LeaseView) {
    let mut bench = Bench::with(&[rule("tpm", 1, 1_000)]);
    bench.open(2, 1);
    let lease = bench.want("tpm", 1, "alice", 300, 10).unwrap();
    bench.report(lease, 100, 0, 20);
    (bench, lease)
}

#[test]
fn what_a_lost_node_had_in_hand_counts_as_used_until_the_window_turns() {
    let (mut bench, _) = leased();
    assert_eq!(bench.sums(), (vec![(1, 200)], 0, 0), "with nodes, in suspense, lost");
    let outcome = bench.lose(1, WriteOff::Unspecified);
    assert_eq!((outcome.problem.as_str(), outcome.leases), ("", 1));
    assert!((30 * SECOND..SILENT).contains(&outcome.in_us), "{outcome:?}");
    assert_eq!(bench.figures(), (100, 200, 0, 700), "it may live, and spend");
    bench.pass(outcome.in_us - 1);
    assert_eq!(bench.figures(), (100, 200, 0, 700));
    bench.pass(1);
    assert_eq!((bench.figures(), bench.ledger.counters().lost_units), ((100, 0, 200, 700), 200));
    assert_eq!(bench.sums(), (vec![], 0, 200));
    let again = bench.lose(1, WriteOff::Consume);
    assert_eq!((again.in_us, bench.figures(), bench.ledger.counters().lost_units), (0, (100, 0, 200, 700), 200));
    bench.pass(MINUTE);
    assert!(bench.ledger.accounts(Timestamp(bench.now), &show::Query::default()).accounts.is_empty());
}

#[test]
fn what_is_released_is_free_only_once_it_cant_be_spent() {
    let (mut bench, _) = leased();
    let wait = bench.lose(1, WriteOff::Release).in_us;
    bench.pass(wait - 1);
    assert_eq!(bench.figures(), (100, 200, 0, 700), "it may live, and spend");
    bench.pass(1);
    assert_eq!(bench.figures(), (100, 0, 0, 900));
    assert_eq!((bench.ledger.counters().released_units, bench.ledger.counters().lost_units), (200, 0));
}

#[test]
fn nothing_that_it_says_counts_any_more() {
    let (mut bench, lease) = leased();
    bench.lose(1, WriteOff::Consume);
    let LeaseView { account, epoch, generation, .. } = lease;
    let report = Report { account, epoch, generation, spent: 300, returned: 0, overrun: 5, held: 0 };
    let frame = bench.frame(Kind::Report(report));
    assert!(bench.apply(&frame).fenced);
    assert!(bench.ledger.is_lost(1) && !bench.ledger.is_lost(2));
    assert_eq!(bench.figures(), (100, 200, 0, 700));
}

#[test]
fn an_order_is_changed_as_long_as_it_can_be() {
    let (mut bench, _) = leased();
    let wait = bench.lose(1, WriteOff::Hold).in_us;
    bench.pass(wait);
    assert_eq!(bench.figures(), (100, 200, 0, 700), "nobody gets it, and it is not called lost");
    bench.lose(1, WriteOff::Consume);
    assert_eq!(bench.figures(), (100, 0, 200, 700));
    bench.lose(1, WriteOff::Release);
    assert_eq!(bench.figures(), (100, 0, 0, 900));
    bench.lose(1, WriteOff::Consume);
    assert_eq!(bench.figures(), (100, 0, 0, 900), "what was given to others is");
}

#[test]
fn a_node_that_is_back_is_not_lost() {
    let (mut bench, _) = leased();
    assert!(bench.lose(2, WriteOff::Release).problem.contains("started anew"));
    bench.open_as(NodeOpen { node: 1, incarnation: 2, predecessor_is_dead: true, ..NodeOpen::default() });
    let refused = bench.lose(1, WriteOff::Release);
    assert!(refused.problem.contains("node 1 has started anew"), "{refused:?}");
    bench.pass(SILENT);
    assert_eq!(bench.figures(), (100, 200, 0, 700));
    let unknown = NodeLost { node: 9, incarnation: 1, ..NodeLost::default() };
    let refused = bench.ledger.lose(Timestamp(bench.now), &unknown, &mut Changes::new());
    assert!(refused.problem.contains("node 9 has never had"), "{refused:?}");
}

#[test]
fn of_what_was_consumed_the_journal_says_what_was_used() {
    let (mut bench, lease) = leased();
    bench.lose(1, WriteOff::Consume);
    bench.pass(SILENT);
    bench.open_as(NodeOpen { node: 1, incarnation: 2, predecessor_is_dead: true, ..NodeOpen::default() });
    assert_eq!(bench.figures(), (100, 0, 200, 700), "the node is back, and what it had is lost still");
    bench.recover(150, lease);
    assert_eq!(bench.figures(), (150, 0, 0, 850), "all is known by now");
}

#[test]
fn of_what_was_released_the_journal_says_what_was_used_twice() {
    let (mut bench, lease) = leased();
    bench.lose(1, WriteOff::Release);
    bench.pass(SILENT);
    bench.open_as(NodeOpen { node: 1, incarnation: 2, predecessor_is_dead: true, ..NodeOpen::default() });
    bench.recover(250, lease);
    let view = bench.shown();
    assert_eq!((view.used, view.free, view.overrun), (100, 900, 150), "visible, and in the way of others");
}

#[test]
fn requests_in_flight_count_as_used_and_permits_come_back_in_time() {
    let permits = Rule { unit: Unit::Concurrency, per: Vec::new(), ..rule("permits", 2, 10) };
    let mut bench = Bench::with(&[rule("tpm", 1, 1_000), permits]);
    bench.open(2, 1);
    let permit = Charge { limit: "permits".into(), key: Vec::new(), amount: 1, limit_version: 2 };
    assert!(bench.hold(vec![charge("tpm", 1, "alice", 30), permit]).granted);
    let wait = bench.lose(1, WriteOff::Release);
    assert_eq!(wait.orphaned, 1);
    assert_eq!(bench.account("tpm", "alice"), (30, 0, 0, 970), "they were sent out, as far as anybody knows");
    assert_eq!(bench.account("permits", "*"), (0, 0, 0, 9));
    bench.pass(wait.in_us);
    assert_eq!(bench.account("tpm", "alice"), (30, 0, 0, 970));
    let query = show::Query { limit: Some("permits"), ..show::Query::default() };
    assert!(bench.ledger.accounts(Timestamp(bench.now), &query).accounts.is_empty(), "all are free");
}
