//! What requests met of late at an endpoint, where its upstream goes by that.

use std::{sync::Arc, time::Duration};

use tollgate_model::OutlierDetection;

use crate::balance::{PARTS, Rate, Tally, Times, Window};

/// Counted without a lock, by every request.
#[derive(Debug, Default)]
pub(super) struct Watch {
    rate: Option<Of<Rate>>,
    times: Option<Of<Times>>,
}

/// Some counters, and how long each of their parts lasts.
#[derive(Debug)]
struct Of<T> {
    part: Duration,
    window: Box<Window<T>>,
}

impl<T: Tally> Of<T> {
    fn new(part: Duration) -> Self {
        Self { part, window: Box::default() }
    }
}

/// The part that lasts when so much time has passed.
fn number(passed: Duration, part: Duration) -> u64 {
    u64::try_from(passed.as_nanos() / part.as_nanos().max(1)).unwrap_or(u64::MAX - PARTS)
}

impl Watch {
    /// As these terms want it. What was counted `before` goes on where the same intervals are meant.
    pub(super) fn new(terms: Option<&OutlierDetection>, before: Option<&Arc<Self>>) -> Arc<Self> {
        let part = |interval: Duration| interval / u32::try_from(PARTS).unwrap_or(1);
        let rate = terms.and_then(|terms| terms.error_rate).map(|terms| part(terms.interval));
        let times = terms.and_then(|terms| terms.latency).map(|terms| part(terms.interval));
        match before.filter(|before| before.parts() == (rate, times)) {
            Some(before) => Arc::clone(before),
            None => Arc::new(Self { rate: rate.map(Of::new), times: times.map(Of::new) }),
        }
    }

    fn parts(&self) -> (Option<Duration>, Option<Duration>) {
        (self.rate.as_ref().map(|it| it.part), self.times.as_ref().map(|it| it.part))
    }

    /// Whether it is asked for how many requests fail.
    pub(super) fn counts_failures(&self) -> bool {
        self.rate.is_some()
    }

    /// Whether it is asked for how long answers take.
    pub(super) fn counts_times(&self) -> bool {
        self.times.is_some()
    }

    /// A request, so long after the upstream was first asked for anything.
    pub(super) fn note(&self, passed: Duration, failed: bool) {
        if let Some(Of { part, window }) = &self.rate {
            window.count(number(passed, *part), |rate| rate.add(failed));
        }
    }

    /// An answer that took so long. Says which part it is in.
    pub(super) fn note_time(&self, passed: Duration, took: Duration) -> Option<u64> {
        let Of { part, window } = self.times.as_ref()?;
        let number = number(passed, *part);
        window.count(number, |times| times.add(took));
        Some(number)
    }

    /// The window of failures, and the part that lasts.
    pub(super) fn failures(&self, passed: Duration) -> Option<(&Window<Rate>, u64)> {
        self.rate.as_ref().map(|it| (&*it.window, number(passed, it.part)))
    }

    /// The window of times, and the part that lasts.
    pub(super) fn times(&self, passed: Duration) -> Option<(&Window<Times>, u64)> {
        self.times.as_ref().map(|it| (&*it.window, number(passed, it.part)))
    }

    /// It is left alone until then: what is still on its way there is not to be held against it once it is back.
    pub(super) fn forget_until(&self, passed: Duration) {
        if let Some(Of { part, window }) = &self.rate {
            window.forget_before(number(passed, *part) + 1);
        }
        if let Some(Of { part, window }) = &self.times {
            window.forget_before(number(passed, *part) + 1);
        }
    }
}
