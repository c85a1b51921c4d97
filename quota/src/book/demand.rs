//! How much a node will want of an account soon: from what it asked for lately. Says nothing about what it may have.

/// How many seconds of the recent rate to have in hand.
const SECONDS: u64 = 4;
/// How many of the greatest recent requests to have in hand.
const REQUESTS: u64 = 8;
/// So many of the greatest requests in a second are worth a pocket.
const BRISK: u64 = 4;
const SECOND_US: u64 = 1_000_000;

/// What was asked for, by the second.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Demand {
    since: u64,
    drawn: u64,
    rate: u64,
    /// The greatest recent request; fades.
    pub(super) largest: u64,
    /// The version of the limit that was last asked with.
    pub(super) version: u64,
}

impl Demand {
    /// Counts one request.
    pub(super) fn note(&mut self, now: u64, amount: u64) {
        self.note_all(now, amount, amount);
    }

    /// Counts some requests at once.
    pub(super) fn note_all(&mut self, now: u64, amount: u64, largest: u64) {
        let seconds = now.saturating_sub(self.since) / SECOND_US;
        if let Some(recent) = self.drawn.checked_div(seconds) {
            self.rate = if seconds > 8 { recent } else { self.rate.midpoint(recent) };
            self.largest -= self.largest / 8;
            (self.since, self.drawn) = (now, 0);
        }
        self.drawn = self.drawn.saturating_add(amount);
        self.largest = self.largest.max(largest);
    }

    /// Whether more than a few requests come in a second.
    pub(super) fn is_brisk(&self) -> bool {
        self.rate.max(self.drawn) >= self.largest.saturating_mul(BRISK).max(1)
    }

    /// When the last second of asking began.
    pub(super) fn last(&self) -> u64 {
        self.since
    }

    /// What to have in hand.
    pub(super) fn target(&self) -> u64 {
        let soon = self.rate.max(self.drawn).saturating_mul(SECONDS);
        soon.max(self.largest.saturating_mul(REQUESTS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_rate_is_had_in_hand_for_some_seconds_and_fades_when_it_ends() {
        let mut demand = Demand::default();
        for at in 1..=100 {
            demand.note(at * SECOND_US / 10, 10);
        }
        assert!((4 * 90..=4 * 110).contains(&demand.target()), "{demand:?}");
        demand.note(100 * SECOND_US, 1);
        assert!(demand.target() <= 8 * 10, "{demand:?}");
    }

    #[test]
    fn a_few_of_the_greatest_request_are_had_in_hand() {
        let mut demand = Demand::default();
        demand.note(SECOND_US, 500);
        assert_eq!(demand.target(), 8 * 500);
    }
}
