//! What is in flight under shadow limits on concurrency is counted, and stands in nobody's way.

use tollgate_proto::state::v1::{Present, Refusal, ShadowCharge};

use super::*;

fn permits(version: u64, capacity: u64, shadow: bool) -> Rule {
    Rule { unit: Unit::Concurrency, shadow, ..rule("calls", version, capacity) }
}

/// So many are in flight of a consumer, by an incarnation of node 1.
fn present(bench: &mut Bench, incarnation: u64, version: u64, consumer: &str, count: u64) {
    let account = ShadowCharge { limit: "calls".into(), key: vec![consumer.into()], limit_version: version };
    let seat = 100 * u32::try_from(version).unwrap() + u32::from(consumer.as_bytes()[0]);
    let frame = bench.frame(Kind::Present(Present { seat, account: Some(account), count }));
    let frame = Frame { incarnation, ..frame };
    bench.apply(&frame);
    let again = bench.account("calls", consumer);
    bench.apply(&frame);
    assert_eq!(bench.account("calls", consumer), again, "a repeated frame counts nothing");
}

#[test]
fn what_is_in_flight_is_held_beyond_the_capacity_until_it_is_over() {
    let mut bench = Bench::with(&[permits(1, 10, true)]);
    present(&mut bench, 1, 1, "alice", 7);
    present(&mut bench, 1, 1, "alice", 15);
    present(&mut bench, 1, 1, "bob", 1);
    assert_eq!(bench.account("calls", "alice"), (0, 15, 0, -5));
    assert_eq!(bench.account("calls", "bob"), (0, 1, 0, 9));
    present(&mut bench, 1, 1, "alice", 1);
    assert_eq!(bench.account("calls", "alice"), (0, 1, 0, 9));
    present(&mut bench, 1, 1, "alice", 0);
    present(&mut bench, 1, 1, "bob", 0);
    present(&mut bench, 1, 1, "bob", 0);
    assert_eq!(bench.ledger.open_holds(), 0);
    assert_eq!(bench.account("calls", "alice").1, 0);
}

#[test]
fn others_are_counted_apart_from_this_process() {
    let mut bench = Bench::with(&[permits(1, 10, true)]);
    bench.open(2, 1);
    present(&mut bench, 1, 1, "alice", 4);
    let seat = Some(100 + u32::from(b'a'));
    let elsewhere = |bench: &Bench, who| bench.ledger.held_elsewhere(who, seat, "calls", &["alice".to_owned()]);
    assert_eq!([elsewhere(&bench, (1, 1)), elsewhere(&bench, (2, 1)), elsewhere(&bench, (1, 2))], [0, 4, 4]);
}

#[test]
fn put_into_force_those_in_flight_are_in_the_way() {
    let mut bench = Bench::with(&[permits(1, 3, true)]);
    present(&mut bench, 1, 1, "alice", 2);
    bench.set(permits(10, 3, false));
    assert!(bench.hold(vec![charge("calls", 10, "alice", 1)]).granted);
    assert_eq!(bench.hold(vec![charge("calls", 10, "alice", 1)]).refusal(), Refusal::Exhausted);
    present(&mut bench, 1, 1, "alice", 1);
    assert!(bench.hold(vec![charge("calls", 10, "alice", 1)]).granted, "one that began before has ended");
    bench.set(permits(20, 3, true));
    present(&mut bench, 1, 20, "alice", 5);
    assert_eq!(bench.account("calls", "alice"), (0, 8, 0, -5), "and with permits, out of force again");
}

#[test]
fn what_a_process_had_in_flight_is_in_suspense_until_nothing_of_it_can_be() {
    let mut bench = Bench::with(&[permits(1, 3, true)]);
    present(&mut bench, 1, 1, "alice", 2);
    bench.open_as(NodeOpen { node: 1, incarnation: 2, isolation_us: 10 * SECOND, ..NodeOpen::default() });
    let suspense = |bench: &Bench| bench.ledger.accounts(Timestamp(bench.now), &show::Query::default()).accounts;
    assert_eq!(suspense(&bench)[0].suspense, 2);
    present(&mut bench, 2, 1, "alice", 1);
    assert_eq!((suspense(&bench)[0].suspense, suspense(&bench)[0].held), (2, 1));
    bench.now += MINUTE;
    present(&mut bench, 2, 1, "alice", 2);
    assert_eq!((suspense(&bench)[0].suspense, suspense(&bench)[0].held), (0, 2));
    bench.open_as(NodeOpen { node: 1, incarnation: 3, predecessor_is_dead: true, ..NodeOpen::default() });
    present(&mut bench, 3, 1, "bob", 1);
    assert_eq!(bench.account("calls", "alice").1, 0, "proven dead: at once");
}

#[test]
fn days_later_it_is_still_in_flight() {
    let mut bench = Bench::with(&[permits(1, 3, true)]);
    present(&mut bench, 1, 1, "alice", 2);
    for _ in 0..6 {
        bench.now += 24 * HOUR;
        present(&mut bench, 1, 1, "bob", 1);
        assert_eq!(bench.account("calls", "alice").1, 2);
    }
    assert_eq!(bench.ledger.image().oldest_hold(Timestamp(bench.now)), None, "no request is as old");
    present(&mut bench, 1, 1, "alice", 0);
    assert_eq!(bench.account("calls", "alice").1, 0);
}

/// Each edit comes while two are in flight, who go after it.
#[test]
fn whatever_becomes_of_the_limit_those_who_go_are_found() {
    let other = |version| Rule { per: vec![KeyPart::Model], ..permits(version, 3, true) };
    let edits: [&dyn Fn(&mut Bench); 4] = [
        &|bench| {
            bench.remove("calls", 20);
            bench.set(permits(30, 3, true));
        },
        &|bench| {
            bench.remove("calls", 20);
            bench.set(permits(30, 3, false));
        },
        &|bench| {
            bench.set(other(20));
            bench.set(permits(30, 3, true));
        },
        &|bench| {
            bench.set(Rule { unit: Unit::Requests, ..permits(20, 3, true) });
            bench.set(permits(30, 3, false));
        },
    ];
    for edit in edits {
        let mut bench = Bench::with(&[permits(1, 3, true)]);
        present(&mut bench, 1, 1, "alice", 2);
        edit(&mut bench);
        assert_eq!(bench.account("calls", "alice").1, 2, "they are in flight");
        present(&mut bench, 1, 1, "alice", 1);
        present(&mut bench, 1, 30, "alice", 1);
        assert_eq!(bench.account("calls", "alice").1, 2, "one has gone, one has come");
        present(&mut bench, 1, 1, "alice", 0);
        present(&mut bench, 1, 30, "alice", 0);
        assert_eq!((bench.account("calls", "alice").1, bench.ledger.open_holds()), (0, 0));
    }
}

#[test]
fn what_found_no_room_is_counted_once_there_is_some() {
    let mut bench = Bench::bounded(Bounds { holds: 1, ..Bounds::default() }, &[permits(1, 3, true)]);
    present(&mut bench, 1, 1, "alice", 1);
    present(&mut bench, 1, 1, "bob", 5);
    present(&mut bench, 1, 1, "alice", 0);
    present(&mut bench, 1, 1, "bob", 2);
    assert_eq!(bench.account("calls", "bob").1, 2);
}

#[test]
fn rows_bring_it_back_and_bounds_hold() {
    let bounds = Bounds { holds: 2, ..Bounds::default() };
    let mut bench = Bench::bounded(bounds, &[permits(1, 3, true)]);
    for consumer in ["a", "b", "c"] {
        present(&mut bench, 1, 1, consumer, 2);
    }
    assert_eq!(["a", "b", "c"].map(|consumer| bench.account("calls", consumer).1), [2, 2, 0]);
    let rows = bench.ledger.image().into_rows().map(Ok::<_, std::convert::Infallible>);
    let restored = Ledger::restore_with(bounds, rows).unwrap();
    bench.ledger = restored;
    present(&mut bench, 1, 1, "a", 0);
    present(&mut bench, 1, 1, "c", 1);
    assert_eq!(["a", "b", "c"].map(|consumer| bench.account("calls", consumer).1), [0, 2, 1]);
}

#[test]
fn what_is_of_no_such_limit_is_nobodys() {
    let mut bench = Bench::with(&[permits(1, 3, true), rule("tpm", 1, 100)]);
    present(&mut bench, 1, 7, "alice", 1);
    let account = |limit: &str, key: &[&str]| ShadowCharge {
        limit: limit.into(),
        key: key.iter().map(|value| (*value).to_owned()).collect(),
        limit_version: 1,
    };
    let wrong =
        [account("tpm", &["alice"]), account("none", &["alice"]), account("calls", &[]), account("calls", &["\0"])];
    for account in wrong.into_iter().map(Some).chain([None]) {
        let frame = bench.frame(Kind::Present(Present { seat: 7, account, count: 1 }));
        bench.apply(&frame);
    }
    bench.remove("calls", 50);
    present(&mut bench, 1, 1, "alice", 1);
    assert_eq!(bench.ledger.open_holds(), 0);
}
