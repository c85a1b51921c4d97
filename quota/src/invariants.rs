//! What must hold, as pure predicates: the same ones for debug assertions, property tests, simulators and audits.
//!
//! The numbers are those of QUOTA.md §2.2.

#[cfg(any(test, feature = "seeded-bugs"))]
use std::cell::RefCell;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// An invariant that does not hold, with what shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// `I1` to `I6`.
    pub invariant: &'static str,
    /// What was seen.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} does not hold: {}", self.invariant, self.detail)
    }
}

impl std::error::Error for Violation {}

/// `Err` naming the invariant unless it holds.
///
/// # Errors
/// The violation.
pub fn require(holds: bool, invariant: &'static str, detail: impl FnOnce() -> String) -> Result<(), Violation> {
    #[cfg(any(test, feature = "seeded-bugs"))]
    let holds = holds || IGNORED.with_borrow(|ignored| ignored.contains(&invariant));
    if holds { Ok(()) } else { Err(Violation { invariant, detail: detail() }) }
}

#[cfg(any(test, feature = "seeded-bugs"))]
thread_local! {
    /// What this thread does not require: to show what each check alone is good for.
    static IGNORED: RefCell<Vec<&'static str>> = const { RefCell::new(Vec::new()) };
}

/// Runs something that does not require these.
#[cfg(any(test, feature = "seeded-bugs"))]
pub(crate) fn ignore<T>(these: Vec<&'static str>, run: impl FnOnce() -> T) -> T {
    /// Puts back what was ignored before, whatever happens.
    struct Back(Vec<&'static str>);
    impl Drop for Back {
        fn drop(&mut self) {
            IGNORED.set(std::mem::take(&mut self.0));
        }
    }
    let _back = Back(IGNORED.replace(these));
    run()
}

/// I1: no unit appears or disappears. `out` is with nodes, or in suspense. `free` is signed: a limit may be lowered below
/// what is out.
#[must_use]
pub fn conserved(capacity: u64, free: i128, held: u64, used: u64, out: u128) -> bool {
    let taken = u128::from(held) + u128::from(used) + out;
    i128::try_from(taken).is_ok_and(|taken| free + taken == i128::from(capacity))
}

/// I2 for a lease: what a node has made of it is within what its own replica says it was granted.
#[must_use]
pub fn within_lease(granted: u64, held: u64, spent: u64, returned: u64) -> bool {
    u128::from(held) + u128::from(spent) + u128::from(returned) <= u128::from(granted)
}

/// I1, the other half: what an account calls held is what open holds of its window say, to the unit.
#[must_use]
pub fn explained(held: u64, open_holds: impl IntoIterator<Item = u64>) -> bool {
    open_holds.into_iter().map(u128::from).sum::<u128>() == u128::from(held)
}

/// I2: a node believes to hold nothing that the ledger does not count, as held or as consumed.
#[must_use]
pub fn within_escrow(believed_open: &[u64], counted: &[u64]) -> bool {
    believed_open.iter().all(|request| counted.contains(request))
}

/// I3: never more used and held than the greatest capacity that was in force in the window.
#[must_use]
pub fn safe(capacity: u64, held: u64, used: u64) -> bool {
    u128::from(held) + u128::from(used) <= u128::from(capacity)
}

/// I4: everything that was really used is in the books: within what was reserved as used, beyond it as overrun. What
/// nobody settled counts as it was reserved.
#[must_use]
pub fn truthful(really_used: u128, used: u64, overrun: u64) -> bool {
    really_used == u128::from(used) + u128::from(overrun)
}

/// I5: a hold takes from every account on its path or from none.
#[must_use]
pub fn all_or_nothing(granted: bool, asked: usize, taken: usize) -> bool {
    taken == if granted { asked } else { 0 }
}

/// I6: who was admitted, and how often the end of it was counted.
#[derive(Debug, Clone, Default)]
pub struct Terminals {
    seen: BTreeMap<String, u32>,
    rows: BTreeSet<String>,
}

impl Terminals {
    /// Counts one terminal of a request.
    ///
    /// # Errors
    /// When it is the second.
    pub fn count(&mut self, request: &str) -> Result<(), Violation> {
        let times = self.seen.entry(request.to_owned()).or_default();
        *times += 1;
        require(*times == 1, "I6", || format!("request {request} has ended {times} times"))
    }

    /// A request has a row, or, where one is named, another that corrects it: there is none of nothing.
    ///
    /// # Errors
    /// When it has one already; when what is corrected is not there.
    pub fn row(&mut self, request: &str, corrects: u64) -> Result<(), Violation> {
        if corrects != 0 {
            return require(self.rows.contains(request), "I6", || format!("no row of request {request} is corrected"));
        }
        require(self.rows.insert(request.to_owned()), "I6", || format!("request {request} has two rows"))
    }

    /// How often the end of this request was counted.
    #[must_use]
    pub fn of(&self, request: &str) -> u32 {
        self.seen.get(request).copied().unwrap_or_default()
    }
}
