//! What a row of the fault matrix found, as one line of figures.

use std::{cell::Cell, env, fmt, thread, time::Duration};

use crate::Seed;

/// Set to run long and often.
const NIGHTLY: &str = "TOLLGATE_NIGHTLY";

/// Whether this run has the night to itself.
pub fn nightly() -> bool {
    env::var_os(NIGHTLY).is_some_and(|value| !value.is_empty() && value != "0")
}

thread_local! {
    static FAILING: Cell<bool> = const { Cell::new(false) };
}

/// Whether the test of this thread has failed, so that whoever is dropped should say what it knows.
pub(crate) fn is_failing() -> bool {
    FAILING.get() || thread::panicking()
}

/// The error of a test. Any error becomes one by `?`, and from then on everything that the test drops shows its logs.
pub struct Failed(anyhow::Error);

/// What a test returns.
pub type Outcome = Result<(), Failed>;

impl<E: Into<anyhow::Error>> From<E> for Failed {
    fn from(error: E) -> Failed {
        FAILING.set(true);
        Failed(error.into())
    }
}

impl fmt::Debug for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.0)
    }
}

/// What a row found. What it does not look at stays `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Figures {
    /// A: tokens admitted beyond a limit, by the provider's own count.
    pub over_admitted: Option<u64>,
    /// W: acknowledged writes that are gone.
    pub writes_lost: Option<u64>,
    /// W: reads older than what was acknowledged or read before.
    pub stale_reads: Option<u64>,
    /// B: tokens by which the usage differs from the provider's count, in-flight losses left out.
    pub usage_error: Option<u64>,
    /// R: callers that got an answer, with one retry.
    pub served: u64,
    /// R: callers that failed twice.
    pub failed: u64,
    /// T: until the cluster was whole again.
    pub recovery: Option<Duration>,
}

impl Figures {
    /// The line of a row, for people and for `grep`.
    pub fn line(&self, row: &str, seed: Seed) -> String {
        format!("{row} seed={seed} {self}")
    }

    /// What must hold in every row: nothing over-admitted, lost, stale or miscounted.
    ///
    /// # Errors
    /// The first figure that is not zero.
    pub fn must_be_clean(&self) -> anyhow::Result<()> {
        let zero = [
            ("tokens over-admitted", self.over_admitted),
            ("writes lost", self.writes_lost),
            ("stale reads", self.stale_reads),
            ("tokens miscounted", self.usage_error),
        ];
        for (what, count) in zero {
            anyhow::ensure!(count.unwrap_or(0) == 0, "{what}: {}", count.unwrap_or(0));
        }
        Ok(())
    }

    /// At least `percent` of the callers got an answer.
    ///
    /// # Errors
    /// Fewer did.
    pub fn served_at_least(&self, percent: f64) -> anyhow::Result<()> {
        let share = self.share();
        anyhow::ensure!(share >= percent, "only {share:.3} % of {} callers were served", self.served + self.failed);
        Ok(())
    }

    #[expect(clippy::cast_precision_loss, reason = "a percentage for people")]
    fn share(&self) -> f64 {
        let all = self.served + self.failed;
        if all == 0 { 100.0 } else { 100.0 * self.served as f64 / all as f64 }
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |figure: Option<u64>| figure.map_or_else(|| "-".to_owned(), |count| count.to_string());
        write!(f, "A={} ", count(self.over_admitted))?;
        write!(f, "W={}/{} ", count(self.writes_lost), count(self.stale_reads))?;
        write!(f, "B={} ", count(self.usage_error))?;
        write!(f, "R={:.2}%({}) ", self.share(), self.served + self.failed)?;
        match self.recovery {
            Some(time) => write!(f, "T={:.2}s", time.as_secs_f64()),
            None => f.write_str("T=-"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_one_line_and_dirty_figures_fail_it() {
        let clean = Figures {
            over_admitted: Some(0),
            writes_lost: Some(0),
            stale_reads: Some(0),
            served: 999,
            failed: 1,
            recovery: Some(Duration::from_millis(1234)),
            ..Figures::default()
        };
        assert_eq!(clean.line("2", Seed(7)), "2 seed=7 A=0 W=0/0 B=- R=99.90%(1000) T=1.23s");
        assert!(clean.must_be_clean().is_ok());
        assert!(clean.served_at_least(99.9).is_ok() && clean.served_at_least(100.0).is_err());
        assert!(Figures { writes_lost: Some(1), ..clean }.must_be_clean().is_err());
    }
}
