//! Holds and settlements, frames, incarnations, time, and bounds.

use tollgate_proto::state::v1::Refusal;

use super::*;

fn tpm() -> Bench {
    Bench::with(&[rule("tpm", 1, 100), rule("other", 2, 50)])
}

#[test]
fn a_settlement_frees_what_was_not_used() {
    let mut bench = tpm();
    let outcome = bench.hold(vec![charge("tpm", 1, "alice", 60)]);
    assert!(outcome.granted);
    assert_eq!((outcome.standings[0].remaining, outcome.standings[0].resets_in_us), (40, MINUTE));
    assert_eq!(bench.account("tpm", "alice"), (0, 60, 0, 40));
    bench.settle(1, 25, Outcome::Settled);
    assert_eq!(bench.account("tpm", "alice"), (25, 0, 0, 75));
}

#[test]
fn what_was_used_beyond_the_reservation_blocks_until_the_window_turns() {
    let mut bench = tpm();
    bench.hold(vec![charge("tpm", 1, "alice", 60)]);
    bench.settle(1, 90, Outcome::Settled);
    assert_eq!(bench.account("tpm", "alice"), (60, 0, 30, 40));
    assert_eq!(bench.hold(vec![charge("tpm", 1, "alice", 11)]).refusal(), Refusal::Exhausted);
    assert!(bench.hold(vec![charge("tpm", 1, "alice", 10)]).granted);
    bench.now += MINUTE;
    assert!(bench.hold(vec![charge("tpm", 1, "alice", 100)]).granted);
}

#[test]
fn what_nobody_but_us_has_counted_is_charged_at_the_most_that_it_can_have_been() {
    let units = [("all", Unit::Tokens), ("in", Unit::InputTokens), ("out", Unit::OutputTokens), ("n", Unit::Requests)];
    let rules: Vec<Rule> = units.iter().map(|(limit, unit)| Rule { unit: *unit, ..rule(limit, 1, 100) }).collect();
    let told = Usage { input_tokens: 10, output_tokens: 7, ..Usage::default() };
    for (usage, used) in [
        (told, [17, 10, 7, 1]),
        (Usage { counted: true, input_at_most: 25, output_at_most: 30, ..told }, [55, 25, 30, 1]),
        (Usage { counted: true, output_at_most: 30, ..told }, [40, 10, 30, 1]),
        (Usage { counted: true, input_at_most: 3, output_at_most: 6, ..told }, [17, 10, 7, 1]),
    ] {
        let mut bench = Bench::with(&rules);
        let charges = units.iter().map(|(limit, _)| charge(limit, 1, "alice", 60)).collect();
        assert!(bench.hold(charges).granted);
        let settle = Settle { usage: Some(usage), ..settle(1, 0, Outcome::Partial) };
        let frame = bench.frame(Kind::Settle(settle));
        bench.apply(&frame);
        assert_eq!(units.map(|(limit, _)| bench.account(limit, "alice").0), used, "{usage:?}");
    }
}

#[test]
fn a_hold_is_in_all_accounts_or_in_none() {
    let mut bench = tpm();
    assert!(bench.hold(vec![charge("other", 2, "alice", 30)]).granted);
    let outcome = bench.hold(vec![charge("tpm", 1, "alice", 10), charge("other", 2, "alice", 30)]);
    assert_eq!((outcome.granted, outcome.refusal(), outcome.refused_by), (false, Refusal::Exhausted, 1));
    assert_eq!(outcome.standings.iter().map(|it| it.remaining).collect::<Vec<_>>(), [100, 20]);
    assert_eq!(bench.account("tpm", "alice"), (0, 0, 0, -1), "not even a record");
}

#[test]
fn more_than_the_whole_capacity_is_told_apart_from_exhausted() {
    let mut bench = tpm();
    bench.hold(vec![charge("other", 2, "alice", 50)]);
    let outcome = bench.hold(vec![charge("other", 2, "alice", 1), charge("tpm", 1, "alice", 101)]);
    assert_eq!((outcome.refusal(), outcome.refused_by), (Refusal::ExceedsLimit, 1));
}

#[test]
fn malformed_holds_are_refused() {
    let mut bench = tpm();
    let twice = vec![charge("tpm", 1, "alice", 1), charge("tpm", 1, "bob", 1)];
    let no_key = vec![Charge { key: vec![], ..charge("tpm", 1, "", 1) }];
    let nul = vec![charge("tpm", 1, "a\0b", 1)];
    let long = vec![charge("tpm", 1, &"x".repeat(1_025), 1)];
    let many = (0..65).map(|at| charge(&format!("l{at}"), 1, "alice", 1)).collect();
    for charges in [twice, no_key, nul, long, many] {
        assert_eq!(bench.hold(charges).refusal(), Refusal::Invalid);
    }
    assert_eq!(bench.hold(vec![charge("missing", 7, "alice", 1)]).refusal(), Refusal::Stale);
}

#[test]
fn a_repeated_frame_changes_nothing_and_answers_the_same() {
    let mut bench = tpm();
    let hold = Hold { request: 1, charges: vec![charge("tpm", 1, "alice", 60)], hold_for_us: HOUR, ..Hold::default() };
    let refused =
        Hold { request: 2, charges: vec![charge("tpm", 1, "alice", 60)], hold_for_us: HOUR, ..Hold::default() };
    let mut frame = bench.frame(Kind::Hold(hold));
    frame.records.push(Record { kind: Some(Kind::Hold(refused)) });
    let first = bench.apply(&frame);
    let rows: Vec<_> = bench.ledger.image().into_rows().collect();
    assert_eq!(bench.apply(&frame), first);
    assert_eq!(bench.ledger.image().into_rows().collect::<Vec<_>>(), rows);
    bench.now += MINUTE;
    let again = bench.apply(&frame);
    assert!(again.holds[0].granted, "it still holds, in its own window");
    assert_eq!(again.holds[1].refusal(), Refusal::Again, "it was refused, and now there would be room");
}

#[test]
fn records_that_are_missing_are_waited_for() {
    let mut bench = tpm();
    let early = Frame { first_seq: 2, ..bench.frame(Kind::Settle(settle(1, 1, Outcome::Settled))) };
    let outcome = bench.apply(&early);
    assert_eq!((outcome.last_seq, outcome.fenced, outcome.unopened), (0, false, false));
    let outcome = bench.apply(&Frame { first_seq: 0, ..early });
    assert_eq!(outcome.last_seq, 0, "numbers begin at one");
}

#[test]
fn a_second_terminal_changes_nothing_and_is_counted() {
    let mut bench = tpm();
    bench.hold(vec![charge("tpm", 1, "alice", 60)]);
    bench.settle(1, 25, Outcome::Settled);
    bench.settle(1, 50, Outcome::Settled);
    bench.settle(1, 0, Outcome::Voided);
    assert_eq!(bench.account("tpm", "alice"), (25, 0, 0, 75));
    assert_eq!((bench.ledger.counters().second_terminals, bench.ledger.counters().settled), (2, 1));
}

#[test]
fn usage_counts_once_and_a_voided_request_is_told_without_any() {
    let mut bench = tpm();
    let kinds = [
        Settle { unheld: true, ..settle(1, 5, Outcome::Settled) },
        Settle { unheld: true, ..settle(2, 6, Outcome::Voided) },
        settle(3, 7, Outcome::Settled),
        Settle { unheld: true, attribution: None, ..settle(4, 8, Outcome::Voided) },
    ];
    let records = kinds.map(|settle| Record { kind: Some(Kind::Settle(settle)) }).to_vec();
    let batch =
        QuotaBatch { frames: vec![Frame { node: 1, incarnation: 1, first_seq: 1, records, ..Frame::default() }; 2] };
    let applied = bench.ledger.apply(LogIndex(1), Timestamp(NOON), &batch, &mut Changes::new());
    let used: Vec<_> = applied.used.iter().map(|used| (used.outcome, used.usage.input_tokens)).collect();
    assert_eq!(used, [(Outcome::Settled, 5), (Outcome::Voided, 0)]);
}

#[test]
fn a_late_settlement_moves_nothing_in_the_next_window() {
    let mut bench = tpm();
    bench.hold(vec![charge("tpm", 1, "alice", 60)]);
    bench.now += MINUTE;
    bench.hold(vec![charge("tpm", 1, "alice", 30)]);
    bench.settle(1, 90, Outcome::Settled);
    assert_eq!(bench.account("tpm", "alice"), (0, 30, 0, 70));
}

#[test]
fn a_hold_past_its_deadline_is_consumed_and_corrected_once() {
    let mut bench = Bench::with(&[Rule { window: Window::Day, ..rule("tpd", 1, 100) }]);
    bench.now = bench.now - bench.now % (24 * HOUR) + 24 * HOUR;
    bench.hold(vec![charge("tpd", 1, "alice", 60)]);
    bench.now += HOUR;
    bench.apply(&Frame::default());
    assert_eq!(bench.account("tpd", "alice"), (60, 0, 0, 40));
    bench.settle(1, 20, Outcome::Settled);
    bench.settle(1, 10, Outcome::Settled);
    assert_eq!(bench.account("tpd", "alice"), (20, 0, 0, 80));
    let counters = *bench.ledger.counters();
    assert_eq!((counters.expired, counters.late_settles, counters.second_terminals), (1, 1, 1));
}

#[test]
fn an_expired_hold_is_forgotten_in_the_end() {
    let mut bench = tpm();
    bench.hold(vec![charge("tpm", 1, "alice", 60)]);
    bench.now += 74 * HOUR;
    bench.apply(&Frame::default());
    assert_eq!(bench.ledger.open_holds(), 0);
}

#[test]
fn a_new_incarnation_fences_the_old_one_and_consumes_what_it_held() {
    let mut bench = tpm();
    bench.hold(vec![charge("tpm", 1, "alice", 60)]);
    assert_eq!(bench.open(1, 2), 1);
    assert_eq!(bench.account("tpm", "alice"), (60, 0, 0, 40));
    bench.seq = 1;
    let late = bench.frame(Kind::Settle(settle(1, 1, Outcome::Settled)));
    assert!(bench.apply(&late).fenced);
    assert_eq!(bench.account("tpm", "alice"), (60, 0, 0, 40));
    assert_eq!(bench.open(1, 2), 0, "repeated");
    assert_eq!(bench.open(1, 1), 0, "an older one");
    assert_eq!(bench.ledger.node(1), Some((2, 0)));
    assert!(bench.apply(&Frame { incarnation: 3, ..late }).unopened);
}

#[test]
fn time_never_goes_back() {
    let mut bench = tpm();
    bench.now += MINUTE;
    bench.hold(vec![charge("tpm", 1, "alice", 60)]);
    bench.now -= 10 * MINUTE;
    let outcome = bench.hold(vec![charge("tpm", 1, "alice", 60)]);
    assert_eq!((outcome.granted, outcome.standings[0].window_end_us), (false, NOON + 2 * MINUTE));
}

#[test]
fn keys_beyond_the_bound_share_one_account_until_the_window_turns() {
    let mut bench =
        Bench::bounded(Bounds { accounts: 2, holds: 100, leases: 100, ..Bounds::default() }, &[rule("tpm", 1, 100)]);
    for key in ["a", "b"] {
        assert!(bench.hold(vec![charge("tpm", 1, key, 100)]).granted);
    }
    assert!(bench.hold(vec![charge("tpm", 1, "c", 70)]).granted);
    let outcome = bench.hold(vec![charge("tpm", 1, "d", 31)]);
    assert_eq!((outcome.refusal(), outcome.standings[0].remaining), (Refusal::Exhausted, 30));
    assert_eq!(bench.account("tpm", "_OVERFLOW"), (0, 70, 0, 30));
    bench.now += MINUTE;
    bench.apply(&Frame::default());
    assert!(bench.hold(vec![charge("tpm", 1, "d", 100)]).granted, "the idle ones made room");
    assert_eq!(bench.account("tpm", "d"), (0, 100, 0, 0));
}

#[test]
fn idle_accounts_are_collected() {
    let mut bench = Bench::with(&[rule("tpm", 1, 100)]);
    for at in 0..300 {
        bench.hold(vec![charge("tpm", 1, &format!("c{at}"), 1)]);
    }
    bench.now += MINUTE;
    for _ in 0..20 {
        bench.apply(&Frame::default());
    }
    assert_eq!(bench.ledger.accounts.slab.len(), 0);
}

#[test]
fn a_key_under_several_limits_is_one_text_until_its_last_account_goes() {
    let mut bench = Bench::with(&[rule("tpm", 1, 100), rule("other", 2, 100), hourly(3)]);
    for key in ["alice", "bob"] {
        let charges = [("tpm", 1), ("other", 2), ("tph", 3)].map(|(limit, version)| charge(limit, version, key, 1));
        assert!(bench.hold(charges.to_vec()).granted);
    }
    let texts = |ledger: &Ledger| (ledger.accounts.slab.len(), ledger.accounts.keys.len());
    assert_eq!(texts(&bench.ledger), (6, 2));
    let restored = Ledger::restore(bench.ledger.image().into_rows().map(Ok::<_, std::convert::Infallible>)).unwrap();
    assert_eq!(texts(&restored), (6, 2));
    bench.now += MINUTE;
    bench.apply(&Frame::default());
    assert_eq!(texts(&bench.ledger), (2, 2), "the hour has not turned");
    assert_eq!(bench.account("tph", "bob"), (0, 1, 0, 99));
    bench.now += HOUR;
    bench.apply(&Frame::default());
    assert_eq!(texts(&bench.ledger), (0, 0));
}

fn hourly(version: u64) -> Rule {
    Rule { window: Window::Hour, ..rule("tph", version, 100) }
}

#[test]
fn open_holds_of_a_node_are_bounded() {
    let mut bench =
        Bench::bounded(Bounds { accounts: 10, holds: 2, leases: 100, ..Bounds::default() }, &[rule("tpm", 1, 100)]);
    for _ in 0..2 {
        assert!(bench.hold(vec![charge("tpm", 1, "alice", 1)]).granted);
    }
    assert_eq!(bench.hold(vec![charge("tpm", 1, "alice", 1)]).refusal(), Refusal::Overloaded);
    bench.settle(1, 1, Outcome::Settled);
    assert!(bench.hold(vec![charge("tpm", 1, "alice", 1)]).granted);
}

#[test]
fn accounts_are_listed_in_order_page_by_page() {
    let mut bench = tpm();
    for key in ["c", "a", "b"] {
        bench.hold(vec![charge("tpm", 1, key, 1), charge("other", 2, key, 1)]);
    }
    let mut seen = Vec::new();
    let mut after: Option<show::Position> = None;
    loop {
        let query = show::Query { after, max: 2, ..show::Query::default() };
        let page = bench.ledger.accounts(Timestamp(bench.now), &query);
        seen.extend(page.accounts.iter().map(|view| format!("{}:{}", view.limit, view.account)));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(seen, ["other:a", "other:b", "other:c", "tpm:a", "tpm:b", "tpm:c"]);
    let keep = |_: &Rule, key: &[&str]| key == ["b"];
    let query = show::Query { keep: Some(&keep), ..show::Query::default() };
    assert_eq!(bench.ledger.accounts(Timestamp(bench.now), &query).accounts.len(), 2);
    assert!(bench.ledger.accounts(Timestamp(bench.now + MINUTE), &show::Query::default()).accounts.is_empty());
}

#[test]
fn rows_that_are_no_ledger_are_refused() {
    let row = |key: &[u8], value: &[u8]| [Ok::<_, std::convert::Infallible>((key.to_vec(), value.to_vec()))];
    assert!(Ledger::restore(row(b"z", b"")).is_err());
    assert!(Ledger::restore(row(b"", b"")).is_err());
    assert!(Ledger::restore(row(b"a\0", b"")).is_err());
    assert!(Ledger::restore(row(b"a\0\0\0\0", b"")).is_err(), "an account without its rule");
    assert!(Ledger::restore(row(b"h\0\0\0\0", b"")).is_err(), "a hold without its node");
    assert!(Ledger::restore(row(b"m", b"\xff")).is_err());
    assert!(Ledger::restore(row(b"r\0\0\0\0", b"")).is_err(), "a rule without a unit");
}
