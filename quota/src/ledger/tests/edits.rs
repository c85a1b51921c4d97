//! Limits changed, deleted and made again while they are used.

use tollgate_proto::state::v1::Refusal;

use super::*;

fn used_and_held() -> Bench {
    let mut bench = Bench::with(&[rule("tpm", 1, 100)]);
    bench.hold(vec![charge("tpm", 1, "alice", 50)]);
    bench.settle(1, 30, Outcome::Settled);
    bench.hold(vec![charge("tpm", 1, "alice", 40)]);
    assert_eq!(bench.account("tpm", "alice"), (30, 40, 0, 30));
    bench
}

#[test]
fn a_raise_is_there_at_once_and_a_lower_takes_nothing_back() {
    let mut bench = used_and_held();
    bench.set(rule("tpm", 10, 150));
    assert_eq!(bench.account("tpm", "alice"), (30, 40, 0, 80));
    bench.set(rule("tpm", 11, 50));
    assert_eq!(bench.account("tpm", "alice"), (30, 40, 0, -20));
    let outcome = bench.hold(vec![charge("tpm", 11, "alice", 0)]);
    assert_eq!((outcome.refusal(), outcome.standings[0].remaining), (Refusal::Exhausted, 0));
    bench.settle(2, 5, Outcome::Settled);
    assert_eq!(bench.account("tpm", "alice"), (35, 0, 0, 15));
}

#[test]
fn a_charge_for_an_older_version_of_the_same_form_is_good() {
    let mut bench = used_and_held();
    bench.set(rule("tpm", 10, 150));
    assert!(bench.hold(vec![charge("tpm", 1, "alice", 80)]).granted);
    assert_eq!(bench.hold(vec![charge("tpm", 11, "alice", 1)]).refusal(), Refusal::Stale, "from the future");
}

#[test]
fn a_change_of_unit_makes_other_accounts_and_older_charges_stale() {
    let mut bench = used_and_held();
    bench.set(Rule { unit: Unit::Requests, ..rule("tpm", 10, 2) });
    let outcome = bench.hold(vec![charge("tpm", 1, "alice", 1)]);
    assert_eq!((outcome.refusal(), outcome.stale_until), (Refusal::Stale, 10));
    bench.hold(vec![charge("tpm", 10, "alice", 1)]);
    assert_eq!(bench.account("tpm", "alice"), (0, 1, 0, 1));
    bench.settle(2, 35, Outcome::Settled);
    assert_eq!(bench.account("tpm", "alice"), (0, 1, 0, 1), "a settlement of the old unit moves nothing of the new");
    bench.set(rule("tpm", 12, 100));
    assert_eq!(bench.account("tpm", "alice"), (65, 0, 0, 35), "back in the same window: as it was left");
    assert_eq!(bench.hold(vec![charge("tpm", 10, "alice", 1)]).refusal(), Refusal::Stale);
    bench.settle(4, 0, Outcome::Settled);
}

#[test]
fn a_changed_window_keeps_what_is_of_the_open_one() {
    let mut bench = used_and_held();
    bench.set(Rule { window: Window::Hour, ..rule("tpm", 10, 100) });
    assert_eq!(bench.account("tpm", "alice"), (30, 40, 0, 30));
    bench.now += MINUTE;
    bench.settle(2, 10, Outcome::Settled);
    assert_eq!(bench.account("tpm", "alice"), (40, 0, 0, 60));
    bench.now += 2 * MINUTE;
    bench.set(rule("tpm", 11, 100));
    assert_eq!(bench.account("tpm", "alice"), (40, 0, 0, 60), "the edit itself frees nothing");
    bench.now += MINUTE;
    assert!(bench.hold(vec![charge("tpm", 11, "alice", 100)]).granted);
}

#[test]
fn a_window_that_has_passed_is_not_carried_into_a_longer_one() {
    let mut bench = used_and_held();
    bench.now += MINUTE;
    bench.set(Rule { window: Window::Hour, ..rule("tpm", 10, 100) });
    assert!(bench.hold(vec![charge("tpm", 10, "alice", 100)]).granted);
}

#[test]
fn a_deleted_limit_made_again_in_its_window_goes_on_where_it_was() {
    let mut bench = used_and_held();
    bench.remove("tpm", 20);
    let outcome = bench.hold(vec![charge("tpm", 1, "alice", 1)]);
    assert_eq!((outcome.refusal(), outcome.stale_until), (Refusal::Stale, 20));
    assert_eq!(bench.account("tpm", "alice"), (0, 0, 0, -1), "not shown");
    bench.settle(2, 5, Outcome::Settled);
    bench.set(rule("tpm", 30, 40));
    assert_eq!(bench.account("tpm", "alice"), (35, 0, 0, 5));
    assert_eq!(bench.hold(vec![charge("tpm", 1, "alice", 1)]).refusal(), Refusal::Stale, "from before the deletion");
    assert!(bench.hold(vec![charge("tpm", 30, "alice", 5)]).granted);
}

#[test]
fn a_deleted_limit_is_forgotten_once_its_window_has_ended() {
    let mut bench = used_and_held();
    bench.remove("tpm", 20);
    bench.now += MINUTE;
    bench.apply(&Frame::default());
    assert_eq!((bench.ledger.rules.slab.len(), bench.ledger.accounts.slab.len()), (0, 0));
    bench.settle(2, 5, Outcome::Settled);
    bench.set(rule("tpm", 30, 40));
    assert!(bench.hold(vec![charge("tpm", 30, "alice", 40)]).granted);
}

#[test]
fn a_deleted_limit_without_accounts_is_forgotten_too() {
    let mut bench = Bench::with(&[rule("tpm", 1, 100)]);
    bench.remove("tpm", 20);
    assert_eq!(bench.ledger.rules(), []);
    bench.now += MINUTE;
    bench.apply(&Frame::default());
    assert_eq!(bench.ledger.rules.slab.len(), 0);
}

#[test]
fn a_limit_of_nothing_admits_nothing_and_the_greatest_one_adds_up_to_the_unit() {
    let most = u64::MAX / 2;
    let mut bench = Bench::with(&[rule("none", 1, 0), rule("most", 2, most)]);
    assert_eq!(bench.hold(vec![charge("none", 1, "alice", 1)]).refusal(), Refusal::ExceedsLimit);
    assert!(bench.hold(vec![charge("most", 2, "alice", most)]).granted);
    assert_eq!(bench.hold(vec![charge("most", 2, "alice", 1)]).refusal(), Refusal::Exhausted);
    bench.settle(2, u64::MAX, Outcome::Settled);
    assert_eq!(bench.account("most", "alice"), (most, 0, u64::MAX - most, 0));
    bench.set(rule("most", 10, 0));
    assert_eq!(bench.account("most", "alice"), (most, 0, u64::MAX - most, -i128::from(most)));
}
