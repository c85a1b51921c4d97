//! Standing shares entry by entry.

use tollgate_model::Currency;
use tollgate_proto::state::v1::{Consumed, NamedConsumed, NodeLost, Recover, Refusal, Report, Touch, WriteOff};

use super::*;
use crate::{Changes, ledger::Shares};

const SHARES: Shares = Shares { short: (4, 5), long: (1, 2), least: (1, 1) };

fn bounds() -> Bounds {
    Bounds { standing: Some(SHARES), ..Bounds::default() }
}

/// Two nodes, and a limit of 1,000 that was made when both were there: each has 400 of every account.
fn bench() -> Bench {
    let mut bench = Bench::bounded(bounds(), &[]);
    bench.open(2, 1);
    bench.set(rule("tpm", 1, 1_000));
    bench
}

impl Bench {
    fn epoch(&self) -> u64 {
        self.ledger.rules.get(self.ledger.rules.live("tpm").unwrap()).epoch
    }

    /// Node 1 says what it made of its share of an account.
    fn touch(&mut self, key: &str, epoch: u64, spent: u64, returned: u64) {
        let report = Some(Report { epoch, spent, returned, ..Report::default() });
        let frame = self.frame(Kind::Touch(Touch { limit: "tpm".into(), key: vec![key.into()], report }));
        self.apply(&frame);
    }

    fn view(&self, key: &str) -> show::AccountView {
        let view = self.ledger.account(Timestamp(self.now), "tpm", Some(&[key.to_owned()])).unwrap();
        let parts = i128::from(view.used + view.held + view.leased + view.suspense + view.lost) + view.free;
        assert_eq!(parts, i128::from(view.capacity), "{view:?}");
        assert_eq!(view.leased_by_node.iter().map(|(_, units)| units).sum::<u64>(), view.leased, "{view:?}");
        view
    }

    /// The ledger that its rows are of.
    fn restored(&self) -> Ledger {
        let rows = self.ledger.image().into_rows().map(Ok::<_, std::convert::Infallible>);
        Ledger::restore_with(bounds(), rows).unwrap()
    }
}

#[test]
fn what_nodes_have_by_rule_is_out_before_there_is_a_record() {
    let mut bench = bench();
    let view = bench.view("alice");
    assert_eq!((view.leased, view.free), (800, 200));
    assert!(bench.hold(vec![charge("tpm", 1, "alice", 200)]).granted);
    let outcome = bench.hold(vec![charge("tpm", 1, "bob", 201)]);
    assert_eq!(outcome.refusal(), Refusal::Recalling, "there is no record, and something to call back all the same");
    assert_eq!(
        bench.ledger.lease_of(2, 1, "tpm", &["bob".into()]).map(|it| (it.granted, it.central)),
        Some((400, true))
    );
    bench.touch("bob", bench.epoch(), 0, 400);
    assert!(bench.hold(vec![charge("tpm", 1, "bob", 201)]).granted);
    bench.now += 2 * SECOND;
    assert_eq!(bench.hold(vec![charge("tpm", 1, "bob", 500)]).refusal(), Refusal::Exhausted, "node 2 says nothing");
}

#[test]
fn what_a_node_says_by_name_makes_the_record_and_counts_once() {
    let mut bench = bench();
    for _ in 0..2 {
        bench.touch("alice", bench.epoch(), 150, 0);
        let view = bench.view("alice");
        assert_eq!((view.used, view.leased, view.free), (150, 650, 200));
        assert_eq!(view.leased_by_node, [(1, 250), (2, 400)]);
        let audited = bench.ledger.image().audit(0, u32::MAX);
        let sums = audited.sums.values().next().unwrap();
        assert_eq!((sums.leased, sums.by_node.clone()), (650, [(1, 250), (2, 400)].into()), "the audit says it, too");
    }
    bench.touch("alice", bench.epoch() + 7, 300, 0);
    assert_eq!(bench.view("alice").used, 150, "that is of no window");
    bench.touch("alice", bench.epoch(), 401, 0);
    assert_eq!(bench.view("alice").used, 150, "nor can it be more than its share");
    let mut again = bench.restored();
    again.audit().unwrap();
    assert!(again.image().into_rows().eq(bench.ledger.image().into_rows()), "rows say all of it");
    again.remove_rule(LogIndex(9), Timestamp(bench.now), &Name::new("tpm"), &mut Changes::new());
}

#[test]
fn a_roster_is_frozen_some_time_before_its_window_and_needs_no_entry_at_the_turn() {
    let mut bench = bench();
    bench.touch("alice", bench.epoch(), 100, 0);
    let views = |bench: &Bench| bench.ledger.shares_of(1, 1);
    assert_eq!(views(&bench).len(), 1);
    bench.now += 54 * SECOND;
    bench.touch("alice", bench.epoch(), 120, 0);
    let next = views(&bench).pop().unwrap();
    assert_eq!((next.start, next.current, next.share), (NOON + MINUTE, false, 400));
    bench.now = NOON + MINUTE;
    bench.touch("alice", next.epoch, 30, 0);
    assert_eq!((bench.epoch(), bench.view("alice").used), (next.epoch, 30));
    bench.now += 3 * MINUTE;
    assert!(
        bench.hold(vec![charge("tpm", 1, "alice", 900)]).granted,
        "nobody was heard for so long: nobody has a share"
    );
}

#[test]
fn a_raise_goes_to_what_is_free_and_a_lower_ends_the_shares_of_accounts_without_a_record() {
    let mut bench = bench();
    bench.set(rule("tpm", 2, 3_000));
    assert_eq!((bench.view("alice").leased, bench.view("alice").free), (800, 2_200));
    assert_eq!(bench.ledger.shares_of(1, 1)[0].share, 400);
    bench.set(rule("tpm", 3, 500));
    let share = &bench.ledger.shares_of(1, 1)[0];
    assert!(share.shut && share.share == 400, "{share:?}");
    assert_eq!(bench.view("alice").free, -300, "some may not know yet");
    bench.touch("alice", bench.epoch(), 50, 350);
    let lease = bench.ledger.lease_of(2, 1, "tpm", &["alice".into()]).unwrap();
    assert_eq!(lease.granted, 400, "{lease:?}");
    assert!(bench.hold(vec![charge("tpm", 3, "alice", 50)]).granted, "500 less 50 used and 400 of node 2");
}

#[test]
fn a_crash_keeps_every_share_until_the_journal_has_spoken() {
    let mut bench = bench();
    bench.touch("alice", bench.epoch(), 100, 0);
    bench.now += 54 * SECOND;
    bench.touch("alice", bench.epoch(), 100, 0);
    let (epoch, next) = (bench.epoch(), bench.ledger.shares_of(1, 1)[1].epoch);
    bench.open_as(NodeOpen { node: 1, incarnation: 2, predecessor_is_dead: true, ..NodeOpen::default() });
    bench.ledger.audit().unwrap();
    assert_eq!((bench.view("alice").suspense, bench.view("bob").suspense), (300, 400));
    let named = |key: &str, epoch: u64, spent: u64| NamedConsumed {
        limit: "tpm".into(),
        key: vec![key.into()],
        consumed: Some(Consumed { account: 0, epoch, spent, ..Consumed::default() }),
    };
    let say = |bench: &mut Bench, recover: Recover| {
        let frame = bench.frame(Kind::Recover(Recover { incarnation: 1, ..recover }));
        bench.apply(&Frame { incarnation: 2, ..frame });
    };
    let restored = bench.restored();
    assert!(restored.image().into_rows().eq(bench.ledger.image().into_rows()));
    let named_now = vec![named("alice", epoch, 170), named("bob", epoch, 60), named("carol", next, 5)];
    say(&mut bench, Recover { named: named_now, ..Recover::default() });
    assert_eq!((bench.view("alice").used, bench.view("bob").used), (170, 60));
    assert_eq!(bench.view("dave").suspense, 400, "there may be more to come");
    say(&mut bench, Recover { done: true, ..Recover::default() });
    assert_eq!((bench.view("alice").suspense, bench.view("bob").suspense, bench.view("dave").suspense), (0, 0, 0));
    assert_eq!(bench.view("dave").free, 600);
    bench.now = NOON + MINUTE;
    assert_eq!(
        bench.view("dave").suspense,
        400,
        "it has drawn on an account of the next window that had no record yet"
    );
}

#[test]
fn what_was_drawn_of_keys_beyond_the_bound_is_kept_back_in_the_account_that_they_share() {
    let mut bench = Bench::bounded(Bounds { accounts: 16, ..bounds() }, &[]);
    bench.open(2, 1);
    bench.set(rule("tpm", 1, 1_000));
    for at in 0..13 {
        assert!(bench.hold(vec![charge("tpm", 1, &format!("k{at}"), 1)]).granted);
    }
    assert!(!bench.ledger.shares_of(1, 1)[0].shut);
    assert!(bench.hold(vec![charge("tpm", 1, "k13", 1)]).granted);
    assert!(bench.ledger.shares_of(1, 1)[0].shut, "the other records are for what is drawn already");
    assert!(bench.hold(vec![charge("tpm", 1, "x", 200)]).granted);
    let refused = bench.hold(vec![charge("tpm", 1, "x", 1)]);
    assert_eq!(refused.refusal(), Refusal::Exhausted, "800 may have been drawn of it");
    bench.touch("x", bench.epoch(), 400, 0);
    assert_eq!(bench.ledger.lease_of(1, 1, "tpm", &["x".into()]).map(|it| it.central), Some(true));
    assert!(!bench.hold(vec![charge("tpm", 1, "x", 1)]).granted, "its own record holds nothing");
    assert_eq!(bench.account("tpm", "x"), (400, 0, 0, 200));
    assert_eq!(bench.account("tpm", "_OVERFLOW"), (0, 200, 0, 0));
}

#[test]
fn what_may_have_been_drawn_counts_when_a_limit_begins_to_slide() {
    let mut bench = bench();
    bench.set(Rule { algorithm: Algorithm::Sliding, ..rule("tpm", 2, 1_000) });
    let refused = bench.hold(vec![charge("tpm", 2, "alice", 201)]);
    assert_eq!(refused.refusal(), Refusal::Recalling);
    bench.now += 29 * SECOND;
    assert_eq!(bench.hold(vec![charge("tpm", 2, "alice", 201)]).refusal(), Refusal::Exhausted);
    assert!(bench.hold(vec![charge("tpm", 2, "alice", 200)]).granted);
    bench.now += 2 * SECOND;
    assert!(!bench.hold(vec![charge("tpm", 2, "alice", 1)]).granted, "who has heard nothing may have drawn it");
    bench.restored().audit().unwrap();
    bench.now += 3 * MINUTE;
    assert!(bench.hold(vec![charge("tpm", 2, "bob", 1_000)]).granted, "all of that has aged");
}

#[test]
fn a_small_account_has_no_shares_and_a_silent_node_none_of_any() {
    let mut bench = Bench::bounded(Bounds { standing: Some(Shares { least: (8, 401), ..SHARES }), ..bounds() }, &[]);
    bench.open(2, 1);
    bench.set(rule("tpm", 1, 1_000));
    assert!(bench.ledger.shares_of(1, 1).is_empty());
    bench.set(rule("more", 2, 1_003));
    assert_eq!(bench.ledger.shares_of(1, 1).len(), 1, "401 each");
    let money = Unit::Cost(Currency::parse("USD").unwrap());
    bench.set(Rule { unit: money, ..rule("cents", 3, 624_999_999_999) });
    assert_eq!(bench.ledger.shares_of(1, 1).len(), 1, "of money less than a quarter is nothing to share");
    bench.set(Rule { unit: money, ..rule("dollars", 4, 625_000_000_000) });
    assert_eq!(bench.ledger.shares_of(1, 1).len(), 2, "a quarter each");
    bench.now += 61 * SECOND;
    bench.set(rule("later", 5, 10_000));
    assert!(bench.ledger.shares_of(2, 1).iter().all(|share| &*share.limit != "later"), "it may be gone");
}

#[test]
fn what_a_lost_node_has_by_rule_waits_for_its_journal_whatever_was_ordered() {
    let mut bench = bench();
    bench.touch("alice", bench.epoch(), 100, 0);
    let lost = NodeLost { node: 1, incarnation: 1, write_off: WriteOff::Release.into(), ..NodeLost::default() };
    bench.ledger.lose(Timestamp(bench.now), &lost, &mut Changes::new());
    bench.ledger.audit().unwrap();
    assert_eq!((bench.view("alice").suspense, bench.view("bob").suspense), (300, 400));
    bench.now += 31 * SECOND;
    bench.set(rule("more", 2, 1_000));
    bench.ledger.audit().unwrap();
    assert_eq!((bench.view("alice").suspense, bench.view("alice").free), (0, 500), "that was released");
    assert_eq!((bench.view("bob").suspense, bench.view("bob").free), (400, 200), "nobody knows what it has drawn");
    let shares = bench.ledger.shares_of(2, 1);
    let more = shares.iter().find(|share| &*share.limit == "more").unwrap();
    assert_eq!(more.share, 800, "a lost node is on no roster, however lately it was heard");
    assert!(bench.restored().image().into_rows().eq(bench.ledger.image().into_rows()));
    let epoch = bench.epoch();
    bench.open_as(NodeOpen { node: 1, incarnation: 2, predecessor_is_dead: true, ..NodeOpen::default() });
    let named = [("alice", 250), ("bob", 60)].map(|(key, spent)| NamedConsumed {
        limit: "tpm".into(),
        key: vec![key.into()],
        consumed: Some(Consumed { account: 0, epoch, spent, ..Consumed::default() }),
    });
    let recover = Recover { incarnation: 1, named: named.to_vec(), done: true, ..Recover::default() };
    let frame = bench.frame(Kind::Recover(recover));
    bench.apply(&Frame { incarnation: 2, ..frame });
    bench.ledger.audit().unwrap();
    let (alice, bob) = (bench.view("alice"), bench.view("bob"));
    assert_eq!((alice.used, alice.overrun), (100, 150), "of what was released it had spent 150");
    assert_eq!((bob.used, bob.suspense, bob.free), (60, 0, 540));
}

#[test]
fn a_lower_is_effective_once_nobody_can_spend_a_share_of_what_it_was() {
    let mut bench = bench();
    let taking_effect = |bench: &Bench| bench.ledger.image().taking_effect(Timestamp(bench.now));
    bench.set(rule("tpm", 2, 900));
    assert!(taking_effect(&bench).is_empty(), "800 are with nodes, and that is within the limit");
    bench.set(rule("tpm", 3, 500));
    assert_eq!(taking_effect(&bench), [Name::new("tpm")], "no account has a record, and nodes may not know yet");
    bench.now += 31 * SECOND;
    assert!(taking_effect(&bench).is_empty(), "whoever has heard nothing for so long spends nothing");
}
