//! From a run that fails to a smaller one that fails in the same way.

use super::{Failure, Fault, Faults, Plan, run};

/// Leaves out kinds of faults, down to one or two where that will do, then ever fewer of the arrivals, for as long as the same invariant breaks; and begins anew
/// until nothing more can be left out: what one kind did to a long run, another may do to a short one.
#[must_use]
pub fn shrink(failure: Failure) -> Failure {
    let mut least = failure;
    loop {
        let before = least.plan;
        least = fewer_arrivals(fewer_faults(least));
        if least.plan.faults == before.faults {
            return least;
        }
    }
}

fn fewer_faults(mut least: Failure) -> Failure {
    for fault in least.plan.faults.iter() {
        let plan = Plan { faults: Faults::only(fault), ..least.plan };
        let (next, fails) = smaller(least, plan);
        least = next;
        if fails {
            return least;
        }
    }
    // What two kinds do together hides behind all others: each that is left out makes another run.
    if least.plan.faults.iter().nth(2).is_some() {
        for (one, other) in pairs(least.plan.faults) {
            let plan = Plan { faults: Faults::only(one).and(other), ..least.plan };
            let (next, fails) = smaller(least, plan);
            least = next;
            if fails {
                return least;
            }
        }
    }
    for fault in least.plan.faults.iter() {
        let plan = Plan { faults: least.plan.faults.without(fault), ..least.plan };
        least = smaller(least, plan).0;
    }
    least
}

fn pairs(faults: Faults) -> impl Iterator<Item = (Fault, Fault)> {
    faults.iter().flat_map(move |one| faults.iter().filter(move |other| one < *other).map(move |other| (one, other)))
}

fn fewer_arrivals(mut least: Failure) -> Failure {
    let mut step = least.report.arrivals / 2;
    while step > 0 {
        let arrivals = least.report.arrivals.min(least.plan.arrivals).saturating_sub(step);
        let plan = Plan { arrivals, ..least.plan };
        let (next, fails) = smaller(least, plan);
        least = next;
        if !fails || arrivals < step {
            step /= 2;
        }
    }
    least
}

/// The run of `plan`, if it breaks what `known` does; whether it did.
fn smaller(known: Failure, plan: Plan) -> (Failure, bool) {
    match run(plan) {
        Err(found) if found.violation.invariant == known.violation.invariant => (*found, true),
        _ => (known, false),
    }
}
