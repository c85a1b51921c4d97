//! A reset gives exactly what was used, and no more.

use tollgate_proto::state::v1::{LimitReset, LimitResetOutcome, Refusal};

use super::*;

fn reset(bench: &mut Bench, limit: &str, key: &[&str]) -> LimitResetOutcome {
    let key = key.iter().map(|value| (*value).to_owned()).collect();
    let reset = LimitReset { limit: limit.into(), key, actor: "t1".into(), overflow: false };
    let outcome = bench.ledger.reset(Timestamp(bench.now), &reset, &mut Changes::new());
    bench.ledger.audit().unwrap();
    outcome
}

#[test]
fn what_was_used_is_free_again_and_what_is_held_stays_held() {
    let mut bench = Bench::with(&[rule("tpm", 1, 100)]);
    bench.hold(vec![charge("tpm", 1, "alice", 30)]);
    bench.settle(1, 45, Outcome::Settled);
    bench.hold(vec![charge("tpm", 1, "alice", 40)]);
    assert_eq!(bench.account("tpm", "alice"), (30, 40, 15, 30));
    let outcome = reset(&mut bench, "tpm", &["alice"]);
    let (before, after) = (outcome.before.unwrap(), outcome.after.unwrap());
    assert_eq!((before.used, before.held, before.overrun, before.free), (30, 40, 15, 30));
    assert_eq!((after.used, after.held, after.overrun, after.free), (0, 40, 0, 60));
    assert_eq!(bench.hold(vec![charge("tpm", 1, "alice", 61)]).refusal(), Refusal::Exhausted);
    assert!(bench.hold(vec![charge("tpm", 1, "alice", 60)]).granted);
    bench.settle(2, 40, Outcome::Settled);
    assert_eq!(bench.account("tpm", "alice"), (40, 60, 0, 0), "what was held counts when it ends");
}

#[test]
fn a_hold_that_was_consumed_is_forgiven_once() {
    let mut bench = Bench::with(&[Rule { window: Window::Day, ..rule("tpd", 1, 100) }]);
    bench.hold(vec![charge("tpd", 1, "alice", 50)]);
    bench.now += 2 * HOUR;
    bench.hold(vec![charge("tpd", 1, "alice", 20)]);
    assert_eq!(bench.account("tpd", "alice"), (50, 20, 0, 30), "consumed at its deadline");
    assert_eq!(reset(&mut bench, "tpd", &["alice"]).problem, "");
    bench.settle(2, 20, Outcome::Settled);
    bench.settle(1, 10, Outcome::Settled);
    assert_eq!(bench.account("tpd", "alice"), (20, 0, 0, 80), "the late settlement gives nothing back again");
}

#[test]
fn leases_and_suspense_stay() {
    let mut bench = Bench::with(&[rule("tpm", 1, 1_000)]);
    let want = tollgate_proto::state::v1::Want {
        limit: "tpm".into(),
        key: vec!["alice".into()],
        limit_version: 1,
        target: 100,
        need: 1,
    };
    let frame = bench.frame(Kind::Want(want));
    bench.apply(&frame);
    bench.hold(vec![charge("tpm", 1, "alice", 30)]);
    bench.settle(1, 30, Outcome::Settled);
    let after = reset(&mut bench, "tpm", &["alice"]).after.unwrap();
    assert_eq!((after.used, after.leased, after.free), (0, 100, 900));
    bench.open(1, 2);
    let after = reset(&mut bench, "tpm", &["alice"]).after.unwrap();
    assert_eq!((after.leased, after.suspense, after.free), (0, 100, 900));
}

#[test]
fn what_is_not_there_is_named() {
    let mut bench = Bench::with(&[rule("tpm", 1, 100)]);
    bench.hold(vec![charge("tpm", 1, "alice", 30)]);
    bench.settle(1, 30, Outcome::Settled);
    assert_eq!(reset(&mut bench, "rpm", &["alice"]).problem, "there is no limit rpm");
    assert!(reset(&mut bench, "tpm", &["bob"]).problem.contains("no account bob"));
    assert!(reset(&mut bench, "tpm", &[]).problem.contains("has 1 values, and 0 were given"));
    assert!(reset(&mut bench, "tpm", &["a\0b"]).problem.contains("NUL"));
    bench.now += MINUTE;
    assert!(reset(&mut bench, "tpm", &["alice"]).problem.contains("nobody has used it"), "the window has turned");
}

#[test]
fn all_replicas_forgive_alike() {
    let mut bench = Bench::with(&[rule("tpm", 1, 100)]);
    bench.hold(vec![charge("tpm", 1, "alice", 30)]);
    bench.settle(1, 30, Outcome::Settled);
    let rows: Vec<_> = bench.ledger.image().into_rows().collect();
    let mut other = Ledger::restore(rows.into_iter().map(Ok::<_, std::convert::Infallible>)).unwrap();
    let command = LimitReset { limit: "tpm".into(), key: vec!["alice".into()], ..LimitReset::default() };
    let (mut one, mut two) = (Changes::new(), Changes::new());
    let now = Timestamp(bench.now);
    assert_eq!(bench.ledger.reset(now, &command, &mut one), other.reset(now, &command, &mut two));
    assert_eq!(one, two);
    assert!(one.iter().any(|(key, _)| key[0] == b'a'), "the account's row is written");
}
