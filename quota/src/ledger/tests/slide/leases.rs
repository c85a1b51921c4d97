//! Shares of sliding limits in the hands of nodes, and what is left of them.

use super::*;

#[test]
fn a_lease_of_the_old_form_counts_until_every_node_knows() {
    let mut bench = Bench::with(&[sliding(1, 1_000)]);
    let lease = grant(&mut bench, "tpm", 500);
    bench.set(Rule { window: Window::Second, ..sliding(2, 1_000) });
    assert_eq!(bench.ledger.lease(1, 1, lease.0).map(|view| (view.granted, view.central)), Some((500, true)));
    wait(&mut bench, 30 * SECOND);
    assert_eq!(bench.account("tpm", "alice"), (0, 0, 0, 500), "it is out until then, and nobody's use");
    wait(&mut bench, 2 * SECOND);
    assert_eq!(bench.account("tpm", "alice").0, 500, "who has heard nothing for so long spends nothing, and may have");
    wait(&mut bench, 2 * SECOND);
    assert_eq!(bench.ledger.accounts.slab.len(), 0);
}

#[test]
fn a_share_is_leased_as_a_whole_and_shown_as_what_its_node_says() {
    let mut bench = Bench::with(&[sliding(1, 1_000)]);
    let lease = grant(&mut bench, "tpm", 500);
    report(&mut bench, lease, 200, 100, 50);
    assert_eq!(bench.account("tpm", "alice"), (200, 50, 0, 600));
    report(&mut bench, lease, 20, 100, 0);
    assert_eq!(bench.account("tpm", "alice"), (20, 0, 0, 600), "it has aged in the node's hands");
    report(&mut bench, lease, 0, 500, 0);
    wait(&mut bench, SECOND);
    assert_eq!(bench.ledger.accounts.slab.len(), 0, "all is back");
}

#[test]
fn the_share_of_a_dead_process_comes_back_when_it_has_aged() {
    for (dead, isolation) in [(true, 0), (false, 0), (false, 10 * SECOND)] {
        let mut bench = Bench::with(&[sliding(1, 1_000)]);
        let lease = grant(&mut bench, "tpm", 500);
        report(&mut bench, lease, 200, 100, 50);
        bench.open_as(NodeOpen {
            node: 1,
            incarnation: 2,
            predecessor_is_dead: dead,
            isolation_us: isolation,
            ..NodeOpen::default()
        });
        assert_eq!(bench.account("tpm", "alice"), (0, 0, 0, 600));
        let silent = if dead { 0 } else { isolation.max(if isolation == 0 { 30 * SECOND } else { 0 }) };
        wait(&mut bench, (MINUTE + silent) * 101 / 100);
        assert_eq!(bench.account("tpm", "alice"), (0, 0, 0, 600), "{dead} {isolation}");
        wait(&mut bench, 3 * SECOND);
        assert_eq!(bench.account("tpm", "alice"), (0, 0, 0, -1), "{dead} {isolation}: idle");
    }
}

/// A later process of node 1 tells what its first one made of a lease.
fn recover(bench: &mut Bench, incarnation: u64, (account, epoch): (u32, u64), spent: u64, overrun: u64, done: bool) {
    use tollgate_proto::state::v1::{Consumed, Recover};
    let consumed = vec![Consumed { account, epoch, spent, overrun, ..Consumed::default() }];
    let recover = Recover { incarnation: 1, consumed, done, ..Recover::default() };
    let frame = Frame { incarnation, ..bench.frame(Kind::Recover(recover)) };
    assert!(!bench.apply(&frame).fenced);
    let rows = bench.ledger.image().into_rows().map(Ok::<_, std::convert::Infallible>);
    let restored = Ledger::restore(rows).unwrap();
    restored.audit().unwrap();
    assert!(restored.image().into_rows().eq(bench.ledger.image().into_rows()), "rows tell all of it");
}

fn suspense(bench: &Bench) -> u64 {
    let view = bench.ledger.account(Timestamp(bench.now), "tpm", Some(&["alice".to_owned()])).unwrap();
    let out = view.used + view.held + view.leased + view.suspense;
    assert_eq!(i128::from(view.capacity), i128::from(out) + view.free, "{view:?}");
    view.suspense
}

#[test]
fn a_journal_frees_what_was_not_used_of_a_sliding_share_and_the_rest_counts_from_then_on() {
    for proven in [true, false] {
        let mut bench = Bench::with(&[sliding(1, 1_000)]);
        let lease = grant(&mut bench, "tpm", 500);
        report(&mut bench, lease, 200, 100, 50);
        wait(&mut bench, 40 * SECOND);
        bench.open_as(NodeOpen { node: 1, incarnation: 2, predecessor_is_dead: proven, ..NodeOpen::default() });
        assert_eq!((bench.account("tpm", "alice"), suspense(&bench)), ((0, 0, 0, 600), 400));
        wait(&mut bench, 5 * SECOND);
        recover(&mut bench, 2, lease, 130, 0, true);
        assert_eq!((bench.account("tpm", "alice"), suspense(&bench)), ((130, 0, 0, 870), 0));
        wait(&mut bench, MINUTE);
        assert_eq!(bench.account("tpm", "alice"), (130, 0, 0, 870), "it may have been used just before");
        wait(&mut bench, 3 * SECOND);
        assert_eq!(bench.account("tpm", "alice"), (0, 0, 0, -1), "aged, and gone");
    }
}

#[test]
fn a_sliding_share_is_recovered_once_whoever_dies_meanwhile() {
    let mut bench = Bench::with(&[sliding(1, 1_000)]);
    let lease = grant(&mut bench, "tpm", 500);
    bench.open_as(NodeOpen { node: 1, incarnation: 2, predecessor_is_dead: true, ..NodeOpen::default() });
    recover(&mut bench, 2, lease, 130, 7, false);
    assert_eq!((bench.account("tpm", "alice"), suspense(&bench)), ((130, 0, 7, 500), 370));
    bench.open_as(NodeOpen { node: 1, incarnation: 3, predecessor_is_dead: true, ..NodeOpen::default() });
    assert_eq!((bench.account("tpm", "alice"), suspense(&bench)), ((130, 0, 7, 500), 370));
    recover(&mut bench, 3, lease, 130, 7, false);
    recover(&mut bench, 3, lease, 130, 7, true);
    assert_eq!((bench.account("tpm", "alice"), suspense(&bench)), ((130, 0, 7, 870), 0));
    recover(&mut bench, 3, lease, 500, 7, true);
    assert_eq!((bench.account("tpm", "alice"), suspense(&bench)), ((130, 0, 7, 870), 0), "it has told everything");
}

#[test]
fn no_journal_makes_more_of_a_sliding_share_than_there_was() {
    let mut bench = Bench::with(&[sliding(1, 1_000)]);
    let lease = grant(&mut bench, "tpm", 500);
    report(&mut bench, lease, 10, 450, 0);
    bench.open_as(NodeOpen { node: 1, incarnation: 2, predecessor_is_dead: true, ..NodeOpen::default() });
    recover(&mut bench, 2, lease, 3_000, 0, true);
    assert_eq!((bench.account("tpm", "alice"), suspense(&bench)), ((50, 0, 0, 950), 0));
}
