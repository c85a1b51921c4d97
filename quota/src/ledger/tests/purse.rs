//! Purses entry by entry: nothing turns, what is spent is gone, and nothing that nobody was billed for is.

use tollgate_proto::state::v1::{Consumed, NodeLost, Recover, Refusal, Report, Want, WriteOff};

use super::*;
use crate::{
    Rule,
    ledger::{Bearer, LeaseView, PurseBill, PurseView, WrittenOff, requests_of},
};

fn purse(capacity: u64) -> Rule {
    Rule { per: Vec::new(), algorithm: Algorithm::Never, ..rule("credits:acme", 1, capacity) }
}

impl Bench {
    fn fund(&mut self, capacity: u64) {
        self.now += 1;
        self.ledger.put_purse(Timestamp(self.now), purse(capacity), &mut Changes::new());
        self.sound_purse();
    }

    fn ask(&mut self, amount: u64) -> HoldOutcome {
        self.hold(vec![Charge { limit: "credits:acme".into(), amount, ..Charge::default() }])
    }

    /// Ends the request that was held last, and bills it.
    fn end_and_bill(&mut self, request: u64, used: u64) {
        let usage = Some(Usage { input_tokens: used, ..Usage::default() });
        let settle = Settle { request, outcome: Outcome::Settled.into(), usage, ..Settle::default() };
        let frame = self.frame(Kind::Settle(settle));
        self.apply(&frame);
        self.bill(used);
    }

    fn bill(&mut self, amount: u64) {
        let by = Some(Bearer { node: 1, incarnation: 1 });
        let bill = PurseBill { limit: Name::new("credits:acme"), by, cost: amount, burnt: amount };
        self.ledger.bill_purses(Timestamp(self.now), &[bill], &mut Changes::new());
        self.sound_purse();
    }

    fn lend(&mut self, target: u64, need: u64) -> LeaseView {
        let limit_version = 7; // of a purse every version is good
        let want = Want { limit: "credits:acme".into(), limit_version, target, need, ..Want::default() };
        let frame = self.frame(Kind::Want(want));
        self.apply(&frame);
        self.ledger.lease_of(1, 1, "credits:acme", &[]).unwrap()
    }

    fn say(&mut self, lease: LeaseView, spent: u64, returned: u64) {
        let LeaseView { account, epoch, generation, .. } = lease;
        let report = Report { account, epoch, generation, spent, returned, ..Report::default() };
        let frame = self.frame(Kind::Report(report));
        self.apply(&frame);
        self.sound_purse();
    }

    fn has(&self) -> PurseView {
        self.ledger.purse("credits:acme").unwrap()
    }

    /// Everything adds up, also in a copy made of the rows.
    fn sound_purse(&self) {
        self.ledger.audit().unwrap();
        let view = self.has();
        let out = i128::from(view.held) + i128::from(view.leased) + i128::from(view.suspense);
        let (billed, overrun) = (i128::from(view.billed), i128::from(view.overrun));
        assert_eq!(i128::from(view.capacity) + billed, view.free + overrun + out, "{view:?}");
        let rows = || self.ledger.image().into_rows();
        let copy = Ledger::restore(rows().map(Ok::<_, std::convert::Infallible>)).unwrap();
        assert!(copy.image().into_rows().eq(rows()));
        assert_eq!(copy.purse("credits:acme"), Some(view));
    }
}

fn funded(capacity: u64) -> Bench {
    let mut bench = Bench::with(&[]);
    bench.request = requests_of(1);
    bench.fund(capacity);
    bench
}

fn view(capacity: u64, held: u64, leased: u64, suspense: u64) -> PurseView {
    let free = i128::from(capacity) - i128::from(held) - i128::from(leased) - i128::from(suspense);
    PurseView { capacity, free, held, leased, suspense, billed: 0, overrun: 0 }
}

#[test]
fn what_is_spent_is_gone_however_long_it_is_ago() {
    let mut bench = funded(100);
    let held = bench.ask(60);
    assert!(held.granted);
    assert_eq!(bench.has(), view(100, 60, 0, 0));
    bench.end_and_bill(held.request, 40);
    assert_eq!(bench.has(), view(60, 0, 0, 0));
    bench.now += 400 * 24 * HOUR;
    assert_eq!(bench.ask(61).refusal(), Refusal::Exhausted, "no window has turned");
    assert!(bench.ask(60).granted);
}

#[test]
fn an_empty_purse_says_that_it_is_and_a_grant_is_there_at_once() {
    let mut bench = funded(0);
    let refused = bench.ask(5);
    assert_eq!((refused.refusal(), refused.standings[0].remaining), (Refusal::Exhausted, 0));
    let _ = bench.ledger.take_news();
    bench.fund(5);
    let news = bench.ledger.take_news();
    assert!(
        !news.all && news.accounts.len() == 1,
        "who follows the account learns of it, and of nothing else: {news:?}"
    );
    assert!(bench.ask(5).granted);
}

#[test]
fn no_sum_grows_with_what_was_ever_spent() {
    let mut bench = funded(u64::MAX / 2);
    for _ in 0..10 {
        let held = bench.ask(u64::MAX / 3);
        bench.end_and_bill(held.request, u64::MAX / 3);
        bench.fund(u64::MAX / 2);
    }
    assert_eq!(bench.has(), view(u64::MAX / 2, 0, 0, 0));
}

#[test]
fn what_is_billed_before_its_node_has_said_to_have_spent_it_frees_nothing() {
    let mut bench = funded(1_000);
    let lease = bench.lend(400, 10);
    assert_eq!((lease.granted, lease.central, lease.is_used_up(), lease.turns()), (400, false, true, false));
    bench.bill(30);
    assert_eq!(bench.has(), PurseView { billed: 30, free: 600, ..view(970, 0, 400, 0) });
}

#[test]
fn leases_spend_and_are_called_back_when_something_is_to_be_taken_off() {
    let mut bench = funded(1_000);
    let lease = bench.lend(400, 10);
    bench.say(lease, 100, 0);
    assert_eq!(bench.has(), view(1_000, 100, 300, 0), "spent, and not billed yet");
    bench.bill(100);
    assert_eq!(bench.has(), view(900, 0, 300, 0));
    bench.ledger.recall_purse(Timestamp(bench.now), "credits:acme", &mut Changes::new());
    let lease = bench.ledger.lease_of(1, 1, "credits:acme", &[]).unwrap();
    assert!(lease.central);
    bench.say(lease, 100, 300);
    assert_eq!(bench.has(), view(900, 0, 0, 0));
}

#[test]
fn time_frees_nothing_and_the_journal_everything_that_was_not_billed() {
    let mut bench = funded(1_000);
    let lease = bench.lend(400, 10);
    bench.say(lease, 50, 0);
    bench.bill(50);
    let open = NodeOpen { node: 1, incarnation: 2, predecessor_is_dead: true, ..NodeOpen::default() };
    bench.ledger.open(LogIndex(9), Timestamp(bench.now), &open, &mut Changes::new());
    assert_eq!(bench.has(), view(950, 0, 0, 350));
    bench.now += 90 * 24 * HOUR;
    bench.fund(950);
    assert_eq!(bench.has(), view(950, 0, 0, 350));
    // It says that 200 may have been used; 120 of that by calls that ended, and are billed with it.
    let LeaseView { account, epoch, .. } = lease;
    let consumed = vec![Consumed { account, epoch, spent: 200, ..Consumed::default() }];
    bench.seq = 1;
    let records =
        vec![Record { kind: Some(Kind::Recover(Recover { incarnation: 1, consumed, ..Recover::default() })) }];
    bench.apply(&Frame { node: 1, incarnation: 2, first_seq: 1, records, ..Frame::default() });
    bench.bill(120);
    assert_eq!(bench.has(), view(830, 0, 0, 230), "30 of it nobody knows the end of");
    let records =
        vec![Record { kind: Some(Kind::Recover(Recover { incarnation: 1, done: true, ..Recover::default() })) }];
    bench.apply(&Frame { node: 1, incarnation: 2, first_seq: 2, records, ..Frame::default() });
    bench.ledger.close_purses(Timestamp(bench.now), &mut Changes::new());
    bench.sound_purse();
    assert_eq!(bench.has(), view(830, 0, 0, 0));
    let actor = String::new();
    let written_off = vec![WrittenOff { limit: Name::new("credits:acme"), node: 1, amount: 30, actor }];
    assert_eq!(bench.ledger.take_written_off(), written_off);
}

#[test]
fn a_node_that_is_given_up_costs_its_tenants_nothing() {
    for (write_off, is_free) in [(WriteOff::Consume, true), (WriteOff::Release, true), (WriteOff::Hold, false)] {
        let mut bench = funded(1_000);
        let lease = bench.lend(400, 10);
        assert!(bench.ask(70).granted, "of another path");
        bench.say(lease, 20, 0);
        let actor = "operator-1".to_owned();
        let lost = NodeLost { node: 1, incarnation: 1, write_off: write_off.into(), actor: actor.clone() };
        bench.ledger.lose(Timestamp(bench.now), &lost, &mut Changes::new());
        assert_eq!(bench.has(), view(1_000, 0, 0, 470), "what it held, had, and was not billed for");
        bench.now += 40 * SECOND;
        bench.fund(1_000);
        assert_eq!(bench.has(), view(1_000, 0, 0, if is_free { 0 } else { 470 }), "{write_off:?}");
        let told = bench.ledger.take_written_off();
        assert!(told.iter().all(|it| it.actor == actor && it.node == 1), "{told:?}");
        assert_eq!(told.iter().map(|it| it.amount).sum::<u64>(), if is_free { 470 } else { 0 });
    }
}

#[test]
fn what_a_node_has_that_is_away_is_in_suspense_whatever_it_is() {
    let mut bench = funded(1_000);
    let lease = bench.lend(400, 10);
    assert!(bench.ask(70).granted, "of another path");
    let LeaseView { account, epoch, generation, .. } = lease;
    let report = Report { account, epoch, generation, spent: 20, held: 30, ..Report::default() };
    let frame = bench.frame(Kind::Report(report));
    bench.apply(&frame);
    let held = 70 + 20 + 30;
    assert_eq!(bench.has(), view(1_000, held, 350, 0));
    assert_eq!(bench.ledger.holders_of_purse("credits:acme"), [1]);
    let without = |bench: &Bench, away: &[u64]| bench.ledger.purse_without("credits:acme", away).unwrap();
    assert_eq!(without(&bench, &[2]), bench.has());
    assert_eq!(without(&bench, &[1]), view(1_000, 0, 0, 470));
    bench.bill(20);
    assert_eq!(without(&bench, &[1]), view(980, 0, 0, 450));
    // What the log knows to be gone is counted once.
    bench.open(1, 2);
    assert_eq!(bench.has(), view(980, 0, 0, 450));
    assert_eq!(without(&bench, &[1]), bench.has());
}

#[test]
fn what_a_journal_tells_after_all_is_spent_after_all() {
    let mut bench = funded(1_000);
    let lease = bench.lend(400, 10);
    let held = bench.ask(70);
    let lost = NodeLost { node: 1, incarnation: 1, ..NodeLost::default() };
    bench.ledger.lose(Timestamp(bench.now), &lost, &mut Changes::new());
    bench.now += 40 * SECOND;
    bench.fund(1_000);
    assert_eq!(bench.has(), view(1_000, 0, 0, 0));
    let open = NodeOpen { node: 1, incarnation: 2, predecessor_is_dead: true, ..NodeOpen::default() };
    bench.ledger.open(LogIndex(9), Timestamp(bench.now), &open, &mut Changes::new());
    let LeaseView { account, epoch, .. } = lease;
    let consumed = vec![Consumed { account, epoch, spent: 90, ..Consumed::default() }];
    let usage = Some(Usage { input_tokens: 25, ..Usage::default() });
    let settle =
        Settle { request: held.request, outcome: Outcome::Settled.into(), usage, terminal: 1, ..Settle::default() };
    let said = Recover { incarnation: 1, settles: vec![settle], consumed, ..Recover::default() };
    let records = vec![Record { kind: Some(Kind::Recover(said)) }];
    bench.apply(&Frame { node: 1, incarnation: 2, first_seq: 1, records, ..Frame::default() });
    assert_eq!(bench.has().free, 1_000 - 90 - 25);
    bench.bill(90);
    bench.bill(25);
    assert_eq!(bench.has(), view(885, 0, 0, 0));
}

#[test]
fn a_deadline_frees_nothing_and_a_late_end_is_billed_once() {
    let mut bench = funded(100);
    let held = bench.ask(60);
    bench.now += 3 * HOUR;
    bench.fund(100);
    assert_eq!(bench.has(), view(100, 60, 0, 0));
    bench.end_and_bill(held.request, 45);
    assert_eq!(bench.has(), view(55, 0, 0, 0));
}

#[test]
fn what_was_used_beyond_what_was_held_blocks_until_it_is_paid() {
    let mut bench = funded(100);
    let held = bench.ask(100);
    let usage = Some(Usage { input_tokens: 130, ..Usage::default() });
    let settle = Settle { request: held.request, outcome: Outcome::Settled.into(), usage, ..Settle::default() };
    let frame = bench.frame(Kind::Settle(settle));
    bench.apply(&frame);
    let bill = |cost, burnt| PurseBill {
        limit: Name::new("credits:acme"),
        by: Some(Bearer { node: 1, incarnation: 1 }),
        cost,
        burnt,
    };
    bench.ledger.bill_purses(Timestamp(bench.now), &[bill(130, 100)], &mut Changes::new());
    assert_eq!((bench.has().capacity, bench.has().free), (0, -30));
    // A grant of 50 pays the 30 that are owed.
    bench.fund(50);
    assert_eq!(bench.has().free, 20);
    let paid = PurseBill { by: None, ..bill(0, 30) };
    bench.ledger.bill_purses(Timestamp(bench.now), &[paid], &mut Changes::new());
    assert_eq!(bench.has(), view(20, 0, 0, 0));
}
