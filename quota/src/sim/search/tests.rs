use super::*;

/// Brings a story to its end.
fn tell(budget: Budget, story: &[Move]) -> Result<(), Violation> {
    let mut state = State::new(budget, None)?;
    for by in story {
        state.take(*by)?;
        state.check()?;
    }
    state.come_to_an_end()
}

fn scope(name: &str) -> Budget {
    Budget::SCOPES.into_iter().find(|(it, _)| *it == name).expect("it is one of them").1
}

/// With `TOLLGATE_NIGHTLY` a hundred times as many.
fn states(few: u64) -> u64 {
    few * std::env::var("TOLLGATE_NIGHTLY").map_or(1, |_| 100)
}

#[test]
fn no_order_of_a_few_things_breaks_the_real_core() {
    for (name, budget) in Budget::SCOPES {
        let found = search(Scope { budget, states: states(3_000), bug: None });
        println!("{name}: {} states, {} steps deep, {} brought to their end", found.states, found.depth, found.ends);
        assert_eq!(found.violation, None, "{name}");
        assert!(found.states == states(3_000) || found.exhausted, "{name}: {found:?}");
    }
}

/// The shortest story that shows a bug, and what breaks.
fn found(bug: &str, within: &str) -> (&'static str, Vec<String>) {
    let bug = Bug::named(bug).expect("it is listed");
    let found = search(Scope { budget: scope(within), states: 100_000, bug: Some(bug) });
    let Some((violation, story)) = found.violation else {
        panic!("{} is not found in {} states", bug.name(), found.states)
    };
    println!("{}: {violation}\n  {}", bug.name(), story.join("\n  "));
    (violation.invariant, story)
}

#[test]
fn a_time_out_that_refunds_is_found() {
    let (invariant, story) = found("time-out-frees-leases", "silence");
    assert!(["I3", "I4"].contains(&invariant), "{story:#?}");
}

#[test]
fn differences_instead_of_sums_are_found() {
    assert!(["I3", "I4"].contains(&found("deltas", "repeats").0));
}

#[test]
fn a_refund_at_a_crash_is_found() {
    let (invariant, story) = found("open-frees-leases", "crash");
    assert!(["I3", "I4"].contains(&invariant), "{story:#?}");
}

/// A cell is let go with its window, and what it had asked for is granted in the next: nobody asks there again.
#[test]
fn what_is_granted_after_its_window_is_given_back_too() {
    let whole = Move::Deliver { frame: 0, answered: true, again: false };
    let story = [
        Move::Reserve { process: 0, amount: 1 },
        Move::Send { process: 0 },
        Move::Reserve { process: 1, amount: 1 },
        whole,
        Move::End { process: 0, request: 1, used: 1 },
        Move::Turn,
    ];
    tell(scope("snapshots"), &story).unwrap();
}

/// Granted and called back by entries that a snapshot stands for.
#[test]
fn what_a_snapshot_shows_is_given_back_too() {
    let whole = Move::Deliver { frame: 0, answered: true, again: false };
    let story = [
        Move::Reserve { process: 0, amount: 2 },
        Move::Send { process: 0 },
        Move::Reserve { process: 0, amount: 2 },
        Move::Turn,
        whole,
        Move::End { process: 0, request: 1, used: 2 },
        Move::Send { process: 0 },
        whole,
        Move::Apply { process: 0, snapshot: true },
    ];
    tell(scope("snapshots"), &story).unwrap();
}
