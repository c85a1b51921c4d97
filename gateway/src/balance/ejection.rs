//! Leaving an endpoint alone for a while because of what requests met there.

use std::time::Duration;

use tokio::time::Instant;
use tollgate_model::OutlierDetection;

/// An endpoint that fails again and again is left alone for so many times as long.
const MOST_TIMES: u32 = 10;

/// What is remembered of one endpoint.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Ejection {
    /// In a row: a time without is forgotten one by one.
    times: u32,
    until: Option<Instant>,
}

/// Whether one more of `total` endpoints may be ejected, with so many ejected. One may wherever there is another.
pub(crate) fn may_eject(total: usize, ejected: usize, percent: u32) -> bool {
    let most = (total * usize::try_from(percent).unwrap_or(0) / 100).max(1);
    ejected < most && ejected + 1 < total
}

impl Ejection {
    /// Until when it is left alone.
    pub(crate) fn until(&self, now: Instant) -> Option<Instant> {
        self.until.filter(|&until| now < until)
    }

    /// When it came back.
    pub(crate) fn ended(&self, now: Instant) -> Option<Instant> {
        self.until.filter(|&until| until <= now)
    }

    /// From now on, for longer each time in a row. Says until when.
    pub(crate) fn begin(&mut self, terms: &OutlierDetection, now: Instant) -> Instant {
        let well_for = self.until.map(|until| now.saturating_duration_since(until));
        let forgotten = well_for.map_or(0, |well| well.as_nanos() / terms.eject_for.as_nanos().max(1));
        let times = self.times.saturating_sub(u32::try_from(forgotten).unwrap_or(u32::MAX));
        self.times = (times + 1).min(MOST_TIMES);
        let eject_for: Duration = terms.eject_for * self.times;
        let until = now + eject_for;
        self.until = Some(until);
        until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_endpoint_is_never_ejected_and_one_may_always_be() {
        for (total, ejected, percent, may) in [
            (1, 0, 100, false),
            (2, 0, 1, true),
            (2, 1, 100, false),
            (3, 0, 10, true),
            (3, 1, 50, false),
            (3, 1, 67, true),
            (3, 2, 100, false),
            (10, 4, 50, true),
            (10, 5, 50, false),
            (0, 0, 50, false),
        ] {
            assert_eq!(may_eject(total, ejected, percent), may, "{ejected} of {total}, {percent} %");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_fails_again_and_again_is_left_alone_for_longer_and_who_does_not_is_forgiven() {
        let (secs, start) = (Duration::from_secs, Instant::now());
        let terms = OutlierDetection {
            consecutive_errors: Some(5),
            error_rate: None,
            latency: None,
            eject_for: secs(30),
            max_ejected_percent: 50,
        };
        let mut ejection = Ejection::default();
        let mut now = start;
        for times in [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 10] {
            ejection.begin(&terms, now);
            assert_eq!(ejection.until(now), Some(now + secs(30) * times), "{times}");
            now += secs(30) * times;
            assert_eq!((ejection.until(now), ejection.ended(now)), (None, Some(now)), "{times}");
        }
        now += secs(30 * 8);
        ejection.begin(&terms, now);
        assert_eq!(ejection.until(now), Some(now + secs(90)), "eight of ten are forgotten");
    }
}
