//! The whole of it in one thread and virtual time: nodes with their agents and replicas, one log, a network that loses,
//! repeats and reorders, crashes, incarnations, zombies, partitions, leader outages, clock skew, limit edits, window turns
//! and snapshots; in runs of their own tenants that move, purses, and a limit that changes between fixed and sliding. A witness that shares nothing with the ledger counts every unit really dispatched.
//!
//! After every event: I1 in the log's own ledger, I2 and I5 on every node, I3 by the witness, I6 by the rows that count. At
//! the end of every run I7: the network heals, and whatever is left of an account is admitted, all of it, to any node. And
//! beside safety how usable it was: one perfect counter is fed the same arrivals (`oracle.rs`).
//!
//! A run is a function of its [`Plan`]: the same one gives the same [`Report`], to the bit, or the same [`Failure`]. The
//! program `simulate` (`chaos-tests/examples`) runs many of them. Not in a build without the feature `seeded-bugs`.

mod bugs;
mod checks;
mod faults;
mod net;
mod oracle;
mod search;
mod shrink;
mod witness;
mod world;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;

pub use bugs::Bug;
pub use checks::Checks;
pub use faults::{Counts, Fault, Faults};
pub use search::{Budget, Scope, Searched, search};
pub use shrink::shrink;

use crate::invariants::Violation;
use world::World;

/// Lines of a story that are kept: the last ones.
const STORY: usize = 60;

/// Everything that a run follows from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Of all dice.
    pub seed: u64,
    /// How many nodes there are.
    pub nodes: u64,
    /// What may go wrong.
    pub faults: Faults,
    /// Limits are small enough to run out.
    pub scarce: bool,
    /// Nodes have standing shares.
    pub standing: bool,
    /// Requests that are refused for what others hold ask once more, as those of a desk do. Not by default: what is looked at is the
    /// first word of the log.
    pub lingers: bool,
    /// The keys of one limit live in several zones, and move; edits of limits are of that as often as not.
    pub zones: bool,
    /// What requests cost is taken from a purse that somebody pays into, and takes from.
    pub purses: bool,
    /// One more limit changes between fixed and sliding; edits of limits are of that as often as not.
    pub flips: bool,
    /// Requests that come at most, those at the end not counted.
    pub arrivals: u64,
    /// What is deliberately wrong.
    pub bug: Option<Bug>,
    /// What is looked at.
    pub checks: Checks,
}

impl Plan {
    /// Three nodes, and everything goes wrong. With every other seed they have standing shares.
    #[must_use]
    pub fn chaos(seed: u64) -> Self {
        let standing = !seed.is_multiple_of(2);
        let (faults, checks) = (Faults::ALL, Checks::ALL);
        let (zones, purses, flips, lingers) = (false, false, false, false);
        let (arrivals, bug) = (u64::MAX, None);
        Self { seed, nodes: 3, faults, scarce: true, standing, lingers, zones, purses, flips, arrivals, bug, checks }
    }

    /// As [`Plan::chaos`], and one limit is of the hours of several zones.
    #[must_use]
    pub fn zoned(seed: u64) -> Self {
        Self { zones: true, ..Self::chaos(seed) }
    }

    /// As [`Plan::chaos`], and requests are paid for in advance.
    #[must_use]
    pub fn prepaid(seed: u64) -> Self {
        Self { purses: true, ..Self::chaos(seed) }
    }

    /// As [`Plan::chaos`], and one more limit changes between fixed and sliding.
    #[must_use]
    pub fn flipping(seed: u64) -> Self {
        Self { flips: true, ..Self::chaos(seed) }
    }

    /// The runs of `simulate`: of eight seeds in a row, two are of each kind, one with standing shares and one without.
    #[must_use]
    pub fn mixed(seed: u64) -> Self {
        match seed / 2 % 4 {
            1 => Self::zoned(seed),
            2 => Self::flipping(seed),
            3 => Self::prepaid(seed),
            _ => Self::chaos(seed),
        }
    }

    /// It has nothing beside what every run has.
    fn is_plain(&self) -> bool {
        !self.zones && !self.purses && !self.flips
    }

    /// Which of these it is, for people.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match (self.zones, self.purses, self.flips) {
            (true, ..) => "zoned",
            (_, true, _) => "prepaid",
            (.., true) => "flipping",
            _ => "chaos",
        }
    }

    /// Three nodes, nothing goes wrong, and there is enough of everything.
    #[must_use]
    pub fn calm(seed: u64) -> Self {
        Self { faults: Faults::NONE, scarce: false, ..Self::chaos(seed) }
    }
}

/// What one run has reached, or several together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Things that happened.
    pub events: u64,
    /// Requests that came, those at the end included.
    pub arrivals: u64,
    /// Requests that were granted and went out.
    pub admissions: u64,
    /// Of those, granted from leases alone.
    pub local: u64,
    /// Of those, granted partly from leases and partly by the log.
    pub mixed: u64,
    /// Times that streams drew on more than they held before.
    pub grown: u64,
    /// Requests that went on without limits that allow it, as nobody could decide on them.
    pub unprotected: u64,
    /// Requests that drew on a standing share of an account that they knew no number of.
    pub by_rule: u64,
    /// Times that a node was given up that had standing shares and had drawn on some that no record told of.
    pub shares_lost: u64,
    /// Requests that were told no.
    pub refusals: u64,
    /// Requests whose caller left without an answer.
    pub undecided: u64,
    /// Requests that were refused for lack of room, although a perfect counter that was fed the same arrivals admitted them.
    pub false_refusals: u64,
    /// Units of all admissions, over all their limits; those of what is asked for at the end not counted.
    pub admitted_units: u64,
    /// Units of all that the perfect counter admitted.
    pub oracle_units: u64,
    /// Requests that the log refused for lack of room, although beside what was really admitted there was some.
    pub refused_beside_room: u64,
    /// Of those, the ones for which there had been room for as long as an admission may take (I7).
    pub refused_beside_old_room: u64,
    /// What went wrong, by kind.
    pub faults: Counts,
    /// Accounts that were called back.
    pub recalls: u64,
    /// Times that requests began anew after they had waited for others to give back.
    pub waited: u64,
    /// Entries that left something in suspense.
    pub suspense: u64,
    /// Grants of what was left at the end.
    pub drained: u64,
    /// Units of credit that were billed.
    pub billed_units: u64,
    /// Units that were served against credit, and that nobody will ever be billed for.
    pub lost_units: u64,
    /// Times that a limit has come to count in another way.
    pub flips: u64,
    /// Hash of all entries of the log.
    pub trace: u64,
}

impl Report {
    /// Takes in the next run.
    pub fn add(&mut self, next: &Self) {
        self.events += next.events;
        self.arrivals += next.arrivals;
        self.admissions += next.admissions;
        self.local += next.local;
        self.mixed += next.mixed;
        self.grown += next.grown;
        self.unprotected += next.unprotected;
        self.by_rule += next.by_rule;
        self.shares_lost += next.shares_lost;
        self.refusals += next.refusals;
        self.undecided += next.undecided;
        self.false_refusals += next.false_refusals;
        self.admitted_units += next.admitted_units;
        self.oracle_units += next.oracle_units;
        self.refused_beside_room += next.refused_beside_room;
        self.refused_beside_old_room += next.refused_beside_old_room;
        self.faults.add(&next.faults);
        self.recalls += next.recalls;
        self.waited += next.waited;
        self.suspense += next.suspense;
        self.drained += next.drained;
        self.billed_units += next.billed_units;
        self.lost_units += next.lost_units;
        self.flips += next.flips;
        self.hash(&next.trace.to_be_bytes());
    }

    /// How much of what a perfect counter would have admitted was admitted.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    pub fn usable_share(&self) -> f64 {
        if self.oracle_units == 0 { 1.0 } else { self.admitted_units as f64 / self.oracle_units as f64 }
    }

    /// FNV-1a.
    fn hash(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.trace = (self.trace ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// A run that broke an invariant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What was run.
    pub plan: Plan,
    /// What does not hold.
    pub violation: Violation,
    /// What the run had reached by then.
    pub report: Report,
    /// The last things that happened, one a line.
    pub story: Vec<String>,
}

/// Runs a plan to its end.
///
/// # Errors
/// The first violation. It is told with its story: the run is repeated for that.
pub fn run(plan: Plan) -> Result<Report, Box<Failure>> {
    let told = || World::new(plan, Some(VecDeque::with_capacity(STORY))).run();
    plan.checks.while_running(|| World::new(plan, None).run().or_else(|_| told()))
}
