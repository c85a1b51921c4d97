//! Shadow limits count what was used, to the unit, and stand in nobody's way.

use tollgate_proto::state::v1::{Refusal, ShadowCharge};

use super::*;

fn shadow(version: u64, capacity: u64) -> Rule {
    Rule { shadow: true, ..rule("tpm", version, capacity) }
}

/// Ends a request that held nothing, and met the shadow account of a consumer.
fn used(bench: &mut Bench, version: u64, consumer: &str, tokens: u64) {
    let shadow = ShadowCharge { limit: "tpm".into(), key: vec![consumer.into()], limit_version: version };
    let settle = Settle { unheld: true, shadow: vec![shadow.clone(), shadow], ..settle(0, tokens, Outcome::Settled) };
    let frame = bench.frame(Kind::Settle(settle));
    bench.apply(&frame);
    let again = bench.account("tpm", consumer);
    bench.apply(&frame);
    assert_eq!(bench.account("tpm", consumer), again, "a repeated frame counts nothing");
}

#[test]
fn what_is_used_is_counted_beyond_the_capacity() {
    let mut bench = Bench::with(&[shadow(1, 100)]);
    used(&mut bench, 1, "alice", 80);
    used(&mut bench, 1, "alice", 80);
    used(&mut bench, 1, "bob", 1);
    assert_eq!(bench.account("tpm", "alice"), (160, 0, 0, -60));
    assert_eq!(bench.account("tpm", "bob"), (1, 0, 0, 99));
    let seen = bench.ledger.peek(Timestamp(bench.now), "tpm", &["alice".to_owned()]).unwrap();
    assert_eq!(seen.remaining, 0);
    bench.now += MINUTE;
    used(&mut bench, 1, "alice", 7);
    assert_eq!(bench.account("tpm", "alice"), (7, 0, 0, 93), "a new window");
}

#[test]
fn nothing_is_held_or_leased_of_a_shadow_limit() {
    let mut bench = Bench::with(&[shadow(1, 1_000)]);
    assert_eq!(bench.hold(vec![charge("tpm", 1, "alice", 1)]).refusal(), Refusal::Invalid);
    let want = tollgate_proto::state::v1::Want {
        limit: "tpm".into(),
        key: vec!["alice".into()],
        limit_version: 1,
        target: 100,
        need: 1,
    };
    let frame = bench.frame(Kind::Want(want));
    bench.apply(&frame);
    assert_eq!(bench.ledger.counters().leased, 0);
}

#[test]
fn from_the_edit_on_what_was_counted_is_used() {
    let mut bench = Bench::with(&[shadow(1, 100)]);
    used(&mut bench, 1, "alice", 70);
    bench.set(rule("tpm", 10, 100));
    assert_eq!(bench.hold(vec![charge("tpm", 10, "alice", 31)]).refusal(), Refusal::Exhausted);
    assert!(bench.hold(vec![charge("tpm", 10, "alice", 20)]).granted);
    // Was under way when the mode changed: what fits is used, the rest blocks the account as an overrun.
    used(&mut bench, 1, "alice", 15);
    assert_eq!(bench.account("tpm", "alice"), (80, 20, 5, 0));
    bench.settle(2, 20, Outcome::Settled);
    assert_eq!(bench.account("tpm", "alice"), (100, 0, 5, 0));
    assert_eq!(bench.hold(vec![charge("tpm", 10, "alice", 0)]).refusal(), Refusal::Exhausted);
}

#[test]
fn into_shadow_what_is_held_settles_as_ever_and_older_charges_are_computed_anew() {
    let mut bench = Bench::with(&[rule("tpm", 1, 100)]);
    bench.hold(vec![charge("tpm", 1, "alice", 60)]);
    bench.set(shadow(10, 100));
    let outcome = bench.hold(vec![charge("tpm", 1, "alice", 10)]);
    assert_eq!((outcome.refusal(), outcome.stale_until), (Refusal::Stale, 10));
    used(&mut bench, 10, "alice", 200);
    assert_eq!(bench.account("tpm", "alice"), (200, 60, 0, -160));
    bench.settle(1, 50, Outcome::Settled);
    assert_eq!(bench.account("tpm", "alice"), (250, 0, 0, -150));
    bench.set(rule("tpm", 20, 300));
    assert_eq!(bench.hold(vec![charge("tpm", 10, "alice", 10)]).refusal(), Refusal::Stale, "of the other mode");
    assert!(bench.hold(vec![charge("tpm", 20, "alice", 50)]).granted);
    assert_eq!(bench.hold(vec![charge("tpm", 20, "alice", 1)]).refusal(), Refusal::Exhausted);
}

#[test]
fn a_flip_calls_leases_back() {
    let mut bench = Bench::with(&[rule("tpm", 1, 1_000)]);
    let want = |version| tollgate_proto::state::v1::Want {
        limit: "tpm".into(),
        key: vec!["alice".into()],
        limit_version: version,
        target: 100,
        need: 1,
    };
    let frame = bench.frame(Kind::Want(want(1)));
    bench.apply(&frame);
    let lease = |bench: &Bench| bench.ledger.lease_of(1, 1, "tpm", &["alice".to_owned()]).unwrap();
    assert_eq!((lease(&bench).granted, lease(&bench).central), (100, false));
    bench.set(shadow(10, 1_000));
    assert!(lease(&bench).central && lease(&bench).versions.0 == LogIndex(10), "{:?}", lease(&bench));
    used(&mut bench, 10, "alice", 1);
    assert!(lease(&bench).central, "nothing turns it back while it is a shadow");
}

#[test]
fn absurd_usage_overflows_nothing() {
    let mut bench = Bench::with(&[rule("tpm", 1, 100)]);
    bench.hold(vec![charge("tpm", 1, "alice", 100)]);
    bench.set(shadow(10, u64::MAX / 2));
    for _ in 0..3 {
        used(&mut bench, 10, "alice", u64::MAX);
    }
    bench.settle(1, 100, Outcome::Settled);
    let (used, held, overrun, _) = bench.account("tpm", "alice");
    assert_eq!((used, held, overrun), (u64::MAX / 2 + 100, 0, u64::MAX));
}

#[test]
fn a_ledger_restored_from_rows_knows_the_mode() {
    let mut bench = Bench::with(&[rule("tpm", 1, 100)]);
    bench.set(shadow(10, 100));
    used(&mut bench, 10, "alice", 150);
    let rows: Vec<_> = bench.ledger.image().into_rows().collect();
    let restored = Ledger::restore(rows.clone().into_iter().map(Ok::<_, std::convert::Infallible>)).unwrap();
    assert_eq!(restored.image().into_rows().collect::<Vec<_>>(), rows);
    assert!(restored.rules()[0].shadow);
    bench.ledger = restored;
    assert_eq!(bench.hold(vec![charge("tpm", 1, "alice", 1)]).refusal(), Refusal::Stale);
}
