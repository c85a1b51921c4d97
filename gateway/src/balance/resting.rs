//! Leaving a provider's key alone that is refused, and finding out when it is taken again.

use std::time::Duration;

use tokio::time::Instant;
use tollgate_model::KeyFailover;

/// Whatever a provider asks for, a key is tried once in so long.
const LONGEST: Duration = Duration::from_hours(1);

/// What is remembered of a key.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Resting(Option<Rest>);

/// What came of a request with a key that rests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Probed {
    Taken,
    /// And how long the provider asks to be left alone.
    Refused(Duration),
    /// Nothing that would say anything of the key.
    Unknown,
}

#[derive(Debug, Clone, Copy)]
struct Rest {
    /// When a request is sent with it, to see.
    probe_at: Instant,
    is_probed: bool,
    /// Good answers in a row.
    successes: u32,
}

impl Resting {
    pub(crate) fn is_resting(&self) -> bool {
        self.0.is_some()
    }

    /// From now on, for as long as the provider `asks` for where that is longer than usual.
    pub(crate) fn begin(&mut self, asks: Duration, terms: &KeyFailover, now: Instant) {
        self.0 = Some(Rest { probe_at: now + pause(asks, terms), is_probed: false, successes: 0 });
    }

    /// When it is to be tried. None while it is, and where it does not rest.
    pub(crate) fn probe_at(&self) -> Option<Instant> {
        self.0.filter(|rest| !rest.is_probed).map(|rest| rest.probe_at)
    }

    /// Whether a request is to be sent with it to see: one at a time.
    pub(crate) fn probe(&mut self, now: Instant) -> bool {
        let Some(rest) = self.0.as_mut().filter(|rest| !rest.is_probed && rest.probe_at <= now) else { return false };
        rest.is_probed = true;
        true
    }

    /// What came of it.
    pub(crate) fn probed(&mut self, came: Probed, terms: &KeyFailover, now: Instant) {
        let Some(rest) = &mut self.0 else { return };
        rest.is_probed = false;
        let asks = if let Probed::Refused(asks) = came { asks } else { Duration::ZERO };
        rest.probe_at = now + pause(asks, terms);
        rest.successes = match came {
            Probed::Taken => rest.successes + 1,
            Probed::Refused(_) => 0,
            Probed::Unknown => rest.successes,
        };
        if rest.successes >= terms.success_threshold {
            self.0 = None;
        }
    }
}

fn pause(asks: Duration, terms: &KeyFailover) -> Duration {
    asks.min(LONGEST).max(terms.probe_interval)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_that_rests_is_tried_by_one_request_at_a_time_until_it_is_taken_as_often_as_was_said() {
        let (start, five) = (Instant::now(), Duration::from_secs(5));
        let terms = KeyFailover { failure_threshold: 3, success_threshold: 2, probe_interval: five };
        let mut key = Resting::default();
        assert!(!key.is_resting() && !key.probe(start) && key.probe_at().is_none());
        key.begin(Duration::ZERO, &terms, start);
        assert_eq!((key.is_resting(), key.probe(start), key.probe_at()), (true, false, Some(start + five)));
        let mut now = start;
        for (came, rests) in [
            (Probed::Refused(Duration::ZERO), true),
            (Probed::Taken, true),
            (Probed::Unknown, true),
            (Probed::Refused(Duration::ZERO), true),
            (Probed::Taken, true),
            (Probed::Taken, false),
        ] {
            now += five;
            assert!(key.probe(now) && !key.probe(now), "one at a time");
            assert_eq!(key.probe_at(), None);
            key.probed(came, &terms, now);
            assert_eq!(key.is_resting(), rests, "{came:?} at {now:?}");
            assert!(!key.probe(now), "not at once again");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_rests_for_as_long_as_its_provider_asks_for_up_to_an_hour() {
        let (start, secs) = (Instant::now(), Duration::from_secs);
        let terms = KeyFailover { failure_threshold: 1, success_threshold: 1, probe_interval: secs(5) };
        for (asks, rests) in [(0, 5), (4, 5), (60, 60), (3_600, 3_600), (1_000_000, 3_600)] {
            let mut key = Resting::default();
            key.begin(secs(asks), &terms, start);
            assert_eq!(key.probe_at(), Some(start + secs(rests)), "{asks}");
            assert!(key.probe(start + secs(rests)));
            key.probed(Probed::Refused(secs(asks)), &terms, start);
            assert_eq!(key.probe_at(), Some(start + secs(rests)), "{asks}");
        }
        let seldom = KeyFailover { probe_interval: secs(7_200), ..terms };
        let mut key = Resting::default();
        key.begin(secs(1_000_000), &seldom, start);
        assert_eq!(key.probe_at(), Some(start + secs(7_200)), "as was said");
    }
}
