//! Waiting for a condition, with a deadline, never for a while.

use std::{fmt::Display, future::Future, time::Duration};

use tokio::time::{self, Instant};

/// How often a condition is asked for.
const POLL: Duration = Duration::from_millis(50);
/// Far more than anything that works takes, on a machine that is busy.
pub const SOON: Duration = Duration::from_secs(60);

/// Waits until `probe` gives a value. [`SOON`] is the deadline.
///
/// # Errors
/// The deadline passed; the last thing that `probe` said was in the way.
pub async fn eventually<T, P, F>(what: &str, probe: P) -> anyhow::Result<T>
where
    P: FnMut() -> F,
    F: Future<Output = anyhow::Result<T>>,
{
    eventually_within(SOON, what, probe).await
}

/// As [`eventually`], with another deadline.
///
/// # Errors
/// The deadline passed; the last thing that `probe` said was in the way.
pub async fn eventually_within<T, P, F>(limit: Duration, what: impl Display, mut probe: P) -> anyhow::Result<T>
where
    P: FnMut() -> F,
    F: Future<Output = anyhow::Result<T>>,
{
    let deadline = Instant::now() + limit;
    loop {
        let problem = match time::timeout_at(deadline.max(Instant::now() + POLL), probe()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(problem)) => problem,
            Err(_) => anyhow::anyhow!("no answer"),
        };
        if Instant::now() >= deadline {
            return Err(problem.context(format!("waited {limit:?} in vain: {what}")));
        }
        time::sleep(POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_condition_is_asked_for_until_it_holds_or_the_deadline_tells_why_not() {
        let tries = Cell::new(0);
        let found = eventually("three tries", || async {
            tries.set(tries.get() + 1);
            if tries.get() == 3 { Ok("here") } else { anyhow::bail!("not yet") }
        });
        assert_eq!(found.await.unwrap(), "here");
        let never = eventually("the impossible", || async { anyhow::bail!("a reason") as anyhow::Result<()> }).await;
        let text = format!("{:#}", never.unwrap_err());
        assert!(text.contains("the impossible") && text.contains("a reason"), "{text}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_hangs_does_not_outlive_the_deadline() {
        let never = eventually("a hanging probe", std::future::pending::<anyhow::Result<()>>).await;
        assert!(never.is_err());
    }
}
