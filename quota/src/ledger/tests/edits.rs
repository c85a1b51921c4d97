//! Limits changed, deleted and made again while they are used.

use tollgate_model::Currency;
use tollgate_proto::state::v1::{Refusal, Usage, record::Kind};

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
fn money_of_one_currency_is_never_counted_with_another() {
    let money = |code: &str| Unit::Cost(Currency::parse(code).unwrap());
    let mut bench = Bench::with(&[Rule { unit: money("USD"), ..rule("tpm", 1, 100) }]);
    assert!(bench.hold(vec![charge("tpm", 1, "alice", 80)]).granted);
    let usage = Usage { input_tokens: 90, counted: true, output_at_most: 90, cost: 60, ..Usage::default() };
    let settle = Settle { usage: Some(usage), ..settle(1, 0, Outcome::Partial) };
    let frame = bench.frame(Kind::Settle(settle));
    bench.apply(&frame);
    assert_eq!(bench.account("tpm", "alice"), (60, 0, 0, 40), "its cost, and no tokens");
    bench.set(Rule { unit: money("EUR"), ..rule("tpm", 10, 100) });
    assert_eq!(bench.hold(vec![charge("tpm", 1, "alice", 1)]).refusal(), Refusal::Stale);
    assert!(bench.hold(vec![charge("tpm", 10, "alice", 100)]).granted);
    assert_eq!(bench.account("tpm", "alice"), (0, 100, 0, 0));
    bench.set(Rule { unit: money("USD"), ..rule("tpm", 12, 100) });
    assert_eq!(bench.account("tpm", "alice"), (60, 0, 0, 40), "back in the same window: as it was left");
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

fn taking_effect(bench: &Bench) -> bool {
    let limits = bench.ledger.image().taking_effect(Timestamp(bench.now));
    let shown = bench.ledger.accounts(Timestamp(bench.now), &show::Query::default()).accounts[0].taking_effect;
    assert_eq!(shown, !limits.is_empty(), "{limits:?}");
    shown
}

#[test]
fn a_lowered_limit_is_effective_once_whoever_has_some_in_hand_knows_or_there_is_enough() {
    let mut bench = Bench::with(&[rule("tpm", 1, 1_000)]);
    let lease = bench.want("tpm", 1, "alice", 300, 10).unwrap();
    bench.report(lease, 100, 0, 0);
    bench.set(rule("tpm", 2, 500));
    assert!(!taking_effect(&bench), "500 hold what is used, and all that the node can spend");
    bench.set(rule("tpm", 3, 200));
    assert!(taking_effect(&bench), "100 are used, and 200 may be");
    bench.report(lease, 150, 0, 0);
    assert!(taking_effect(&bench), "it did not know");
    let lease = bench.ledger.lease_of(1, 1, "tpm", &["alice".to_owned()]).unwrap();
    bench.report(lease, 180, 90, 30);
    assert!(!taking_effect(&bench), "it knows, and spends nothing more");
    assert_eq!(bench.account("tpm", "alice"), (180, 30, 0, -10));
    bench.set(rule("tpm", 4, 1_000));
    assert!(!taking_effect(&bench), "a raise is effective at once");
}

#[test]
fn a_lowered_limit_is_effective_once_nobody_can_spend_who_has_not_heard_of_it() {
    let mut bench = Bench::with(&[rule("tpm", 1, 1_000)]);
    let open = NodeOpen { node: 2, incarnation: 1, isolation_us: 35 * SECOND, ..NodeOpen::default() };
    bench.open_as(open);
    bench.want("tpm", 1, "alice", 300, 10).unwrap();
    bench.set(rule("tpm", 2, 100));
    bench.now += 34 * SECOND;
    assert!(taking_effect(&bench));
    bench.set(rule("tpm", 3, 150));
    bench.now += 34 * SECOND - MINUTE / 6;
    assert!(taking_effect(&bench), "of two edits only the last becomes effective");
    let rows = bench.ledger.image().into_rows().map(Ok::<_, std::convert::Infallible>);
    bench.ledger = Ledger::restore(rows).unwrap();
    assert!(taking_effect(&bench), "whoever starts from its rows knows that, too");
    bench.set(rule("tpm", 4, 100));
    bench.now += 36 * SECOND;
    bench.set(rule("other", 5, 1));
    let limits = bench.ledger.image().taking_effect(Timestamp(bench.now));
    assert!(limits.is_empty(), "{limits:?}");
}
