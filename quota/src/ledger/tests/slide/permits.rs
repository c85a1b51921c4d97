//! Limits of what is in flight.

use super::*;

#[test]
fn a_permit_is_free_when_its_request_ends_whatever_it_used() {
    let mut bench = Bench::with(&[permits(1, 2)]);
    let ask = |bench: &mut Bench| bench.hold(vec![charge("open", 1, "alice", 1)]);
    assert!(ask(&mut bench).granted && ask(&mut bench).granted);
    let told = ask(&mut bench);
    assert_eq!((told.refusal(), told.standings[0].resets_in_us), (Refusal::Exhausted, SECOND));
    bench.settle(1, 5_000, Outcome::Settled);
    assert_eq!(bench.account("open", "alice"), (0, 1, 0, 1));
    assert!(ask(&mut bench).granted);
    for request in [2, 4] {
        bench.settle(request, 0, Outcome::Voided);
    }
    wait(&mut bench, 1);
    assert_eq!(bench.ledger.accounts.slab.len(), 0);
}

#[test]
fn a_deadline_frees_no_permit_nor_does_the_time_after_which_it_can_not_be_corrected() {
    let mut bench = Bench::with(&[permits(1, 1), rule("tpm", 1, 100)]);
    let charges = vec![charge("open", 1, "alice", 1), charge("tpm", 1, "alice", 10)];
    let frame = bench.frame(Kind::Hold(Hold { request: 1, charges, hold_for_us: SECOND, ..Hold::default() }));
    assert!(bench.apply(&frame).holds[0].granted);
    for later in [2 * SECOND, 80 * HOUR, HOUR] {
        wait(&mut bench, later);
        assert_eq!(bench.account("open", "alice"), (0, 1, 0, 0));
        let rows = bench.ledger.image().into_rows().map(Ok::<_, std::convert::Infallible>);
        bench.ledger = Ledger::restore(rows).unwrap();
    }
    bench.settle(1, 10, Outcome::Settled);
    assert_eq!((bench.ledger.open_holds(), bench.ledger.accounts.slab.len()), (0, 0));
}

#[test]
fn permits_of_a_process_that_is_gone_come_back_once_it_can_not_use_them() {
    for (dead, wait_us) in [(true, 0), (false, 30 * SECOND * 101 / 100)] {
        let mut bench = Bench::with(&[permits(1, 100)]);
        let lease = grant(&mut bench, "open", 30);
        report(&mut bench, lease, 0, 10, 7);
        assert!(bench.hold(vec![charge("open", 1, "alice", 1)]).granted);
        assert_eq!(bench.account("open", "alice"), (0, 8, 0, 79));
        bench.open_as(NodeOpen {
            node: 1,
            incarnation: 2,
            predecessor_is_dead: dead,
            isolation_us: 0,
            ..NodeOpen::default()
        });
        bench.open(1, 3);
        if !dead {
            wait(&mut bench, wait_us);
            assert_eq!(bench.account("open", "alice"), (0, 0, 0, 79));
        }
        wait(&mut bench, SECOND);
        assert_eq!(bench.ledger.accounts.slab.len(), 0);
    }
}

#[test]
fn permits_of_a_process_that_is_proven_dead_come_back_once_though_its_journal_ends_their_request_later() {
    use tollgate_proto::state::v1::Recover;
    let mut bench = Bench::with(&[permits(1, 2)]);
    let take = |bench: &mut Bench| bench.hold(vec![charge("open", 1, "alice", 1)]).granted;
    assert!(take(&mut bench) && take(&mut bench) && !take(&mut bench));
    bench.open_as(NodeOpen { node: 1, incarnation: 2, predecessor_is_dead: true, ..NodeOpen::default() });
    let end = |request| Settle { request, terminal: request, outcome: Outcome::Settled.into(), ..Settle::default() };
    let recover = Recover { incarnation: 1, settles: vec![end(1), end(2)], done: true, ..Recover::default() };
    let frame = Frame { incarnation: 2, ..bench.frame(Kind::Recover(recover)) };
    bench.apply(&frame);
    bench.ledger.audit().unwrap();
    let hold = |bench: &mut Bench, request| {
        let hold =
            Hold { request, charges: vec![charge("open", 1, "alice", 1)], hold_for_us: MINUTE, ..Hold::default() };
        let frame = Frame { incarnation: 2, ..bench.frame(Kind::Hold(hold)) };
        bench.apply(&frame).holds[0].granted
    };
    assert!(hold(&mut bench, 101) && hold(&mut bench, 102), "both are free");
    assert!(!hold(&mut bench, 103), "and no more than both");
}
