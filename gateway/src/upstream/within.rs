//! How long an upstream has for the head of its answer.

use std::time::Duration;

use tokio::time::Instant;

/// It counts from when a request could be sent: that it stood in line here before that is not its upstream's doing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Within {
    since: Instant,
    first_byte: Option<Duration>,
    deadline: Instant,
}

impl Within {
    /// From now on, and no longer than the whole request has.
    pub(crate) fn new(first_byte: Option<Duration>, deadline: Instant) -> Self {
        Self { since: Instant::now(), first_byte, deadline }
    }

    /// Since when it counts.
    pub(crate) fn since(&self) -> Instant {
        self.since
    }

    /// When it is over.
    pub(crate) fn by(&self) -> Instant {
        self.first_byte.map_or(self.deadline, |within| self.deadline.min(self.since + within))
    }

    /// The request has left the line that it stood in.
    pub(super) fn begin_anew(&mut self) {
        self.since = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_stood_in_line_has_as_long_as_anybody_but_no_longer_than_the_whole_request() {
        let begun = Instant::now();
        let at = |millis| begun + Duration::from_millis(millis);
        let mut within = Within::new(Some(Duration::from_millis(200)), at(1_000));
        assert_eq!(within.by(), at(200));
        tokio::time::advance(Duration::from_millis(150)).await;
        within.begin_anew();
        assert_eq!((within.since(), within.by()), (at(150), at(350)));
        tokio::time::advance(Duration::from_millis(800)).await;
        within.begin_anew();
        assert_eq!(within.by(), at(1_000));
    }
}
