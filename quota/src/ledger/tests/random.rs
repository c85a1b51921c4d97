//! Random schedules against the perfect counter, and the proof that each invariant's check finds its own bug.

use std::collections::BTreeSet;

use proptest::{collection::vec, prelude::*, sample::subsequence, strategy::ValueTree, test_runner::TestRunner};

use super::{
    Bench, Bounds, Bug, Ledger, MINUTE, charge, rule,
    world::{LIMITS, Op, World},
};

fn op() -> impl Strategy<Value = Op> {
    let node = || 0..2usize;
    let limits = subsequence((0..LIMITS.len()).collect::<Vec<_>>(), 1..=2);
    let age = prop_oneof![12 => Just(0usize), 1 => 1..4usize];
    prop_oneof![
        8 => (node(), limits, 0..3usize, 0..30u64, age, any::<bool>()).prop_map(
            |(node, limits, key, amount, age, long)| Op::Hold { node, limits, key, amount, age, long }
        ),
        1 => node().prop_map(|node| Op::Record { node }),
        5 => (node(), any::<usize>(), 0..40u64, any::<u8>())
            .prop_map(|(node, pick, input, outcome)| Op::Settle { node, pick, input, outcome }),
        1 => (node(), 1..12usize).prop_map(|(node, pick)| Op::Cancel { node, pick }),
        8 => node().prop_map(|node| Op::Send { node }),
        10 => (any::<usize>(), prop::bool::weighted(0.9), prop::bool::weighted(0.3))
            .prop_map(|(pick, answer, again)| Op::Deliver { pick, answer, again }),
        1 => node().prop_map(|node| Op::Restart { node }),
        2 => (0..5usize).prop_map(|by| Op::Advance { by }),
        1 => (0..LIMITS.len(), 10..90u64, 0..8usize)
            .prop_map(|(limit, capacity, form)| Op::SetRule { limit, capacity, form }),
        1 => (0..LIMITS.len()).prop_map(|limit| Op::RemoveRule { limit }),
        1 => Just(Op::Restore),
    ]
}

fn schedule() -> impl Strategy<Value = Vec<Op>> {
    vec(op(), 1..100)
}

proptest! {
    #[test]
    fn a_ledger_decides_as_a_perfect_counter_would(ops in schedule()) {
        let mut world = World::new(None);
        for op in &ops {
            world.step(op).unwrap();
        }
        world.finish().unwrap();
    }
}

#[test]
fn random_schedules_reach_what_they_are_about() {
    let mut runner = TestRunner::deterministic();
    let mut reached = [0; 7];
    for _ in 0..100 {
        let mut world = World::new(None);
        let ops = schedule().new_tree(&mut runner).expect("nothing is filtered").current();
        ops.iter().for_each(|op| world.step(op).unwrap());
        let it = world.counters();
        let here = [it.granted, it.refused, it.settled, it.voided, it.expired, it.orphaned, it.late_settles];
        reached.iter_mut().zip(here).for_each(|(sum, here)| *sum += here);
    }
    assert!(reached.iter().all(|times| *times >= 5), "{reached:?}");
}

proptest! {
    #[test]
    fn no_key_gets_more_than_one_account_however_many_there_are(
        asks in vec((0..6u8, 1..60u64, prop::bool::weighted(0.1)), 1..60)
    ) {
        let bounds = Bounds { accounts: 2, holds: 1_000, leases: 100, ..Bounds::default() };
        let mut bench = Bench::bounded(bounds, &[rule("tpm", 1, 100)]);
        let mut used = std::collections::BTreeMap::<(u64, u8), u64>::new();
        for (key, amount, turn) in asks {
            bench.now += if turn { MINUTE } else { 1 };
            if bench.hold(vec![charge("tpm", 1, &key.to_string(), amount)]).granted {
                *used.entry((bench.now / MINUTE, key)).or_default() += amount;
            }
            let rows = bench.ledger.image().into_rows().map(Ok::<_, std::convert::Infallible>);
            bench.ledger = Ledger::restore_with(bounds, rows).unwrap();
        }
        prop_assert!(used.values().all(|sum| *sum <= 100), "{used:?}");
    }
}

/// The invariants that random schedules find broken first.
fn found(bug: Bug) -> BTreeSet<&'static str> {
    let mut runner = TestRunner::deterministic();
    let broken = |ops: Vec<Op>| {
        let mut world = World::new(Some(bug));
        let stepped = ops.iter().try_for_each(|op| world.step(op));
        stepped.and_then(|()| world.finish()).err().map(|violation| violation.invariant)
    };
    let mut schedules = (0..300).map(|_| schedule().new_tree(&mut runner).expect("nothing is filtered").current());
    schedules.by_ref().filter_map(broken).take(20).collect()
}

#[test]
fn the_check_of_each_invariant_finds_its_own_bug() {
    assert_eq!(found(Bug::VoidLosesUnits), BTreeSet::from(["I1"]));
    assert!(found(Bug::ExpiryFrees).contains("I2"), "or I4, when the answer to the hold was lost");
    assert_eq!(found(Bug::IgnoresHolds), BTreeSet::from(["I3"]));
    assert_eq!(found(Bug::ClampsTruth), BTreeSet::from(["I4"]));
    assert_eq!(found(Bug::HoldsWhatFits), BTreeSet::from(["I5"]));
    assert_eq!(found(Bug::RepeatsCount), BTreeSet::from(["I6"]));
}
