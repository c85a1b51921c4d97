//! What each check is good for (QUOTA.md 4, the mutation rule): for every invariant a way to be wrong that its check finds when
//! it alone looks, and that all the others together do not find.
//!
//! Safety (I3) follows from conservation and escrow only where nothing depends on time. That what was taken of a window that
//! slides has not aged yet, and that a permit is still in use, no sum of the books can tell: only whoever looks at what is
//! really out there, which is what the witness of I3 does. So I3 has its own ways to be wrong, too.

use super::*;

/// So many events are looked at by all the others.
const UNSEEN_FOR: u64 = 200_000;

/// What is wrong, in which kind of run, and whose check finds it.
#[derive(Clone, Copy)]
struct Mutation {
    bug: &'static str,
    breaks: &'static str,
    faults: Faults,
    scarce: bool,
    /// Of runs in which nodes have no standing shares.
    unshared: bool,
}

/// Runs seeds for so many events, or up to the first failure.
fn first_failure(
    Mutation { bug, faults, scarce, unshared, .. }: Mutation,
    checks: Option<Checks>,
    within: u64,
) -> Option<Box<Failure>> {
    let (bug, checks) = (Bug::named(bug), checks.expect("they are invariants"));
    assert!(bug.is_some(), "it is listed");
    let mut events = 0;
    for seed in 0.. {
        if events >= within {
            break;
        }
        let plan = Plan::chaos(seed);
        match run(Plan { bug, checks, faults, scarce, standing: plan.standing && !unshared, ..plan }) {
            Ok(report) => events += report.events,
            Err(failure) => return Some(failure),
        }
    }
    None
}

fn is_found_by_its_check_alone(mutation: Mutation) {
    let Mutation { bug, breaks, .. } = mutation;
    let alone = first_failure(mutation, Checks::NONE.and(breaks), WITHIN);
    let found = alone.map(|failure| failure.violation.invariant);
    assert_eq!(found, Some(breaks), "{bug} is to be found by the check of {breaks}");
    let others = first_failure(mutation, Checks::ALL.without(breaks), UNSEEN_FOR);
    assert!(others.is_none(), "{bug} is seen without the check of {breaks}: {others:#?}");
}

macro_rules! mutations {
    ($($test:ident: $bug:literal, $breaks:literal, $faults:ident $(, $enough:ident)?;)+) => {
        $(#[test]
        fn $test() {
            let unshared = !<[&str]>::is_empty(&[$(stringify!($enough))?]);
            let faults = Faults::$faults;
            is_found_by_its_check_alone(Mutation { bug: $bug, breaks: $breaks, faults, scarce: !unshared, unshared });
        })+

        #[test]
        fn every_invariant_has_one() {
            let breaks = BTreeSet::from([$($breaks),+]);
            let all = Checks::names().filter(|name| name.starts_with('I'));
            assert_eq!(breaks, all.collect(), "those of replicas being the same apart");
        }
    };
}

// Without faults and with enough of everything a node is granted later what it drew on credit, and the books come out right:
// only its own sums tell. Of a standing share it is granted no more, and who asks for all that is left at the end misses that.
mutations! {
    a_unit_that_nobody_holds_is_seen_by_conservation_alone: "void-keeps-its-slot", "I1", ALL;
    a_draw_beyond_the_lease_is_seen_by_escrow_alone: "draws-on-credit", "I2", NONE, enough;
    use_that_has_not_aged_is_seen_by_safety_alone: "ages-at-the-edge", "I3", ALL;
    a_used_share_in_other_hands_is_seen_by_safety_alone: "moves-used-share", "I3", ALL;
    a_permit_still_in_use_is_seen_by_safety_alone: "permit-expires", "I3", ALL;
    a_forgotten_overrun_is_seen_by_truth_alone: "clamps-truth", "I4", ALL;
    a_path_held_twice_is_seen_by_all_or_nothing_alone: "holds-the-whole-path", "I5", ALL;
    a_record_that_counts_again_is_seen_by_exactly_once_alone: "repeats-count", "I6", ALL;
    an_end_told_by_two_incarnations_is_seen_by_exactly_once_alone: "recovers-twice", "I6", ALL;
    a_refusal_before_others_gave_back_is_seen_by_usability_alone: "refuses-while-recalling", "I7", ALL;
    a_draw_after_a_recall_is_seen_by_obedience_alone: "draws-when-central", "I8", ALL;
}

#[test]
fn what_one_run_does_not_look_at_the_next_does() {
    let plan = Plan { bug: Bug::named("repeats-count"), checks: Checks::NONE, ..Plan::chaos(0) };
    assert!(run(plan).is_ok());
    let seen = run(Plan { checks: Checks::ALL, ..plan }).expect_err("it is wrong");
    assert_eq!(seen.violation.invariant, "I6");
    assert_eq!((Checks::NONE.and("I9"), Checks::ALL.without("I9")), (None, None));
    assert_eq!(Checks::names().try_fold(Checks::NONE, Checks::and), Some(Checks::ALL));
}
