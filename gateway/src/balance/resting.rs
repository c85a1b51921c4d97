//! Leaving a provider's key alone that is refused, and finding out when it is taken again.

use tokio::time::Instant;
use tollgate_model::KeyFailover;

/// What is remembered of a key.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Resting(Option<Rest>);

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

    /// From now on.
    pub(crate) fn begin(&mut self, terms: &KeyFailover, now: Instant) {
        self.0 = Some(Rest { probe_at: now + terms.probe_interval, is_probed: false, successes: 0 });
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

    /// What came of it: taken, refused, or that nobody knows.
    pub(crate) fn probed(&mut self, taken: Option<bool>, terms: &KeyFailover, now: Instant) {
        let Some(rest) = &mut self.0 else { return };
        rest.is_probed = false;
        rest.probe_at = now + terms.probe_interval;
        rest.successes = match taken {
            Some(true) => rest.successes + 1,
            Some(false) => 0,
            None => rest.successes,
        };
        if rest.successes >= terms.success_threshold {
            self.0 = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_that_rests_is_tried_by_one_request_at_a_time_until_it_is_taken_as_often_as_was_said() {
        let (start, five) = (Instant::now(), Duration::from_secs(5));
        let terms = KeyFailover { failure_threshold: 3, success_threshold: 2, probe_interval: five };
        let mut key = Resting::default();
        assert!(!key.is_resting() && !key.probe(start) && key.probe_at().is_none());
        key.begin(&terms, start);
        assert_eq!((key.is_resting(), key.probe(start), key.probe_at()), (true, false, Some(start + five)));
        let mut now = start;
        for (came, rests) in [
            (Some(false), true),
            (Some(true), true),
            (None, true),
            (Some(false), true),
            (Some(true), true),
            (Some(true), false),
        ] {
            now += five;
            assert!(key.probe(now) && !key.probe(now), "one at a time");
            assert_eq!(key.probe_at(), None);
            key.probed(came, &terms, now);
            assert_eq!(key.is_resting(), rests, "{came:?} at {now:?}");
            assert!(!key.probe(now), "not at once again");
        }
    }
}
