//! Failures on purpose: some requests wait, some are answered with an error, so that it can be seen what callers do.
//!
//! After authentication, so that nobody learns anything by them, and before admission: what is aborted uses no limit.

use std::time::Duration;

use tollgate_model::{Faults, Percent};

use crate::{error::Rejection, metrics::Metrics};

/// The code of an answer that is a failure on purpose.
const FAULT_INJECTED: &str = "fault_injected";

/// What is done to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Verdict {
    delay: Option<Duration>,
    abort: Option<u16>,
}

/// Each with a roll of its own, below [`Percent::ROLLS`].
fn decide(faults: &Faults, (delay, abort): (u16, u16)) -> Verdict {
    let taken = |percent: Percent, roll| percent.takes(roll);
    Verdict {
        delay: faults.delay.filter(|(percent, _)| taken(*percent, delay)).map(|(_, long)| long),
        abort: faults.abort.filter(|(percent, _)| taken(*percent, abort)).map(|(_, status)| status),
    }
}

/// Waits, or refuses, if it is this request's turn.
pub(crate) async fn inject(faults: &Faults, metrics: &Metrics) -> Result<(), Rejection> {
    let roll = || rand::random_range(0..Percent::ROLLS);
    let verdict = decide(faults, (roll(), roll()));
    if let Some(long) = verdict.delay {
        metrics.fault("delay");
        tokio::time::sleep(long).await;
    }
    match verdict.abort {
        Some(status) => {
            metrics.fault("abort");
            let message = "This route answers some requests with an error on purpose.";
            Err(Rejection::new(status, FAULT_INJECTED, message))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_has_a_roll_of_its_own() {
        let half = Percent::parse("50").unwrap();
        let faults = Faults { delay: Some((half, Duration::from_secs(1))), abort: Some((half, 503)) };
        let (delay, abort) = (Some(Duration::from_secs(1)), Some(503));
        for (rolls, expected) in [
            ((0, 0), Verdict { delay, abort }),
            ((4_999, 5_000), Verdict { delay, abort: None }),
            ((5_000, 4_999), Verdict { delay: None, abort }),
            ((9_999, 9_999), Verdict { delay: None, abort: None }),
        ] {
            assert_eq!(decide(&faults, rolls), expected, "{rolls:?}");
        }
        let none = Faults { delay: None, abort: None };
        assert_eq!(decide(&none, (0, 0)), Verdict { delay: None, abort: None });
    }
}
