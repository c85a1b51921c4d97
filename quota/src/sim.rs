//! The whole of it in one thread and virtual time: nodes with their agents and replicas, one log, a network that loses,
//! repeats and reorders, crashes, incarnations, zombies, partitions, leader outages, clock skew, limit edits, window turns
//! and snapshots. A witness that shares nothing with the ledger counts every unit really dispatched.
//!
//! After every event: I1 in the log's own ledger, I2 and I5 on every node, I3 by the witness, I6 by the rows that count. At
//! the end of every run I7: the network heals, and whatever is left of an account is admitted, all of it, to any node.
//!
//! `TOLLGATE_NIGHTLY=100` runs a hundred times as many seeds.

mod net;
mod witness;
mod world;

use std::collections::BTreeSet;

use crate::{book::Bug as BookBug, ledger::tests::Bug as LedgerBug};
use world::{Plan, World, Wrong};

fn seeds(few: u64) -> u64 {
    let times = std::env::var("TOLLGATE_NIGHTLY").map_or(1, |times| times.parse().unwrap_or(100));
    few * times
}

#[test]
fn no_fault_makes_a_limit_exceeded_or_a_unit_lost() {
    for seed in 0..seeds(24) {
        if let Err(violation) = World::new(Plan::chaos(seed)).run() {
            panic!("seed {seed}: {violation}");
        }
    }
}

#[test]
fn without_faults_everything_is_usable_and_most_requests_meet_no_log() {
    let mut local = 0;
    let mut all = 0;
    for seed in 0..seeds(4) {
        let stats = World::new(Plan::calm(seed)).run().unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
        assert_eq!(stats.undecided, 0, "seed {seed}: {stats:?}");
        (local, all) = (local + stats.local, all + stats.admitted);
    }
    assert!(local * 10 >= all * 8, "{local} of {all} were admitted from leases");
}

#[test]
fn chaos_reaches_what_it_is_about() {
    let mut sum = world::Stats::default();
    for seed in 0..10 {
        sum.add(&World::new(Plan::chaos(seed)).run().expect("it holds"));
    }
    let reached = [
        sum.admitted,
        sum.local,
        sum.mixed,
        sum.refused,
        sum.undecided,
        sum.crashes,
        sum.zombies,
        sum.snapshots,
        sum.edits,
        sum.recalls,
        sum.waited,
        sum.suspense,
        sum.drained,
    ];
    assert!(reached.iter().all(|times| *times >= 10), "{sum:?}");
}

#[test]
fn the_same_seed_is_the_same_run() {
    let run = |seed| World::new(Plan::chaos(seed)).run().expect("it holds").trace;
    assert_eq!((run(7), run(8)), (run(7), run(8)));
    assert_ne!(run(7), run(8));
}

/// The invariants that seeds find broken, up to the one that is looked for.
fn found(wrong: Wrong, until: &str) -> BTreeSet<&'static str> {
    let mut found = BTreeSet::new();
    for seed in 0..60 {
        found.extend(World::new(Plan { wrong, ..Plan::chaos(seed) }).run().err().map(|violation| violation.invariant));
        if found.contains(until) {
            break;
        }
    }
    found
}

macro_rules! variants {
    ($($name:ident: $wrong:expr => $invariant:literal;)+) => {
        $(#[test]
        fn $name() {
            let found = found($wrong, $invariant);
            assert!(found.contains($invariant), "it broke {found:?}");
        })+
    };
}

variants! {
    a_raise_that_forgets_leases_is_found: Wrong::Ledger(LedgerBug::RaiseForgetsLeases) => "I1";
    drawing_after_a_recall_was_applied_is_found: Wrong::Book(BookBug::DrawsWhenCentral) => "I8";
    a_limit_made_again_with_new_counters_is_found: Wrong::Ledger(LedgerBug::RemadeBeginsAnew) => "I3";
    returning_what_is_held_is_found: Wrong::Book(BookBug::ReturnsWhatIsHeld) => "I2";
    an_incarnation_used_twice_is_found: Wrong::SameIncarnation => "I7";
    returning_without_letting_go_is_found: Wrong::Book(BookBug::ReturnsAndKeeps) => "I3";
    a_late_hold_of_a_dead_incarnation_is_found: Wrong::Ledger(LedgerBug::FencedMayHold) => "I7";
    a_hold_granted_after_its_caller_left_is_found: Wrong::Book(BookBug::ForgetsTheAbandoned) => "I7";
    settling_into_the_next_window_is_found: Wrong::Book(BookBug::SettlesIntoTheNextWindow) => "I2";
    settling_by_the_mode_now_is_found: Wrong::Book(BookBug::SettlesByTheModeNow) => "I5";
    returning_only_once_is_found: Wrong::Book(BookBug::ReturnsOnce) => "I7";
    a_refusal_right_after_a_recall_is_found: Wrong::Ledger(LedgerBug::RefusesWhileRecalling) => "I7";
    holding_the_whole_of_a_mixed_path_is_found: Wrong::Book(BookBug::HoldsTheWholePath) => "I5";
    a_lease_as_the_sum_of_events_is_found: Wrong::Book(BookBug::SumsGrants) => "I7";
    a_balance_taken_from_the_replica_is_found: Wrong::Book(BookBug::BelievesTheReplica) => "I5";
    sums_dropped_when_nothing_is_in_hand_are_found: Wrong::Book(BookBug::ForgetsEmptyLeases) => "I5";
    a_crash_that_frees_what_was_leased_is_found: Wrong::Ledger(LedgerBug::OpenFreesLeases) => "I3";
    reports_that_are_added_up_are_found: Wrong::Ledger(LedgerBug::ReportsAdd) => "I4";
}
