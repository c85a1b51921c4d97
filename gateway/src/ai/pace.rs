//! How fast providers write, as their streams show.
//!
//! A hold smaller than the bound that the provider was sent is safe only while what the provider may write until it is
//! stopped fits into a margin of the hold. So the fastest that was seen of a provider and model counts, and one of which
//! not enough was seen is taken for faster than any.

use std::{collections::HashMap, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

/// From the last token that is held to the provider's seeing that nobody reads, a decision on more in between.
pub(super) const REACTION: Duration = Duration::from_millis(300);
/// The least margin: tokens come in bursts.
const LEAST_MARGIN: u64 = 64;
/// A provider that needs a greater one is too fast to be stopped in time.
const GREATEST_MARGIN: u64 = 256;
/// A stream of fewer tokens does not tell a slow provider from a fast one with little to say.
const TELLING: u64 = 256;
/// Providers and models that are remembered; others are taken for too fast.
const MAX_KNOWN: usize = 1_024;
/// What was seen is forgotten between once and twice this later, so that one stall does not count for ever.
const MEMORY: Duration = Duration::from_secs(600);

const SLOT: Duration = Duration::from_millis(100);
/// Slots that any stretch of [`REACTION`] lies within, wherever it begins.
const SLOTS: usize = 4;

/// The pace of one stream.
#[derive(Debug)]
pub(super) struct Pace {
    began: Instant,
    slot: u128,
    /// Tokens that came in the latest slots.
    recent: [u64; SLOTS],
    total: u64,
    fastest: u64,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self { began: now, slot: 0, recent: [0; SLOTS], total: 0, fastest: 0 }
    }

    /// So many tokens have come by now, in all.
    pub(super) fn note(&mut self, now: Instant, total: u64) {
        let slot = now.duration_since(self.began).as_nanos() / SLOT.as_nanos();
        let passed = usize::try_from(slot - self.slot).unwrap_or(SLOTS).min(SLOTS);
        for _ in 0..passed {
            self.recent.rotate_right(1);
            self.recent[0] = 0;
        }
        self.slot = slot;
        self.recent[0] += total.saturating_sub(self.total);
        self.total = self.total.max(total);
        self.fastest = self.fastest.max(self.recent.iter().sum());
    }
}

/// The fastest of some streams, and the longest of them.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    fastest: u64,
    longest: u64,
}

impl Seen {
    fn and(self, other: Seen) -> Seen {
        Seen { fastest: self.fastest.max(other.fastest), longest: self.longest.max(other.longest) }
    }
}

#[derive(Debug)]
struct Known {
    since: Instant,
    now: Seen,
    before: Seen,
}

/// The paces of all providers and models.
#[derive(Debug, Default)]
pub(crate) struct Paces(Mutex<HashMap<(String, String), Known>>);

impl Paces {
    /// A stream has come so far.
    pub(super) fn learn(&self, provider: &str, model: &str, pace: &Pace) {
        let mut known = self.0.lock();
        let name = (provider.to_owned(), model.to_owned());
        if known.len() >= MAX_KNOWN && !known.contains_key(&name) {
            return;
        }
        let now = Instant::now();
        let fresh = || Known { since: now, now: Seen::default(), before: Seen::default() };
        let known = known.entry(name).or_insert_with(fresh);
        if now.duration_since(known.since) > MEMORY {
            (known.before, known.now, known.since) = (known.now, Seen::default(), now);
        }
        known.now = known.now.and(Seen { fastest: pace.fastest, longest: pace.total });
    }

    /// What has to be kept of a hold for what the provider writes before it is stopped. None where it is too fast for that,
    /// or not known not to be.
    pub(super) fn margin(&self, provider: &str, model: &str) -> Option<u64> {
        let known = self.0.lock();
        let known = known.get(&(provider.to_owned(), model.to_owned()))?;
        let seen = known.now.and(known.before);
        margin(seen)
    }
}

fn margin(Seen { fastest, longest }: Seen) -> Option<u64> {
    let margin = fastest.saturating_mul(2).max(LEAST_MARGIN);
    (longest >= TELLING && margin <= GREATEST_MARGIN).then_some(margin)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(now: Instant, every: Duration, tokens: u64, count: u32) -> Pace {
        let mut pace = Pace::new(now);
        for number in 1..=count {
            pace.note(now + every * number, tokens * u64::from(number));
        }
        pace
    }

    fn learned(pace: &Pace) -> Option<u64> {
        let paces = Paces::default();
        paces.learn("p", "m", pace);
        paces.margin("p", "m")
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_provider_is_known_by_a_long_stream() {
        let now = Instant::now();
        assert_eq!(learned(&stream(now, Duration::from_millis(50), 4, 200)), Some(64), "80 tokens a second");
        assert_eq!(learned(&stream(now, Duration::from_millis(50), 15, 200)), Some(240), "300 a second");
        assert_eq!(learned(&stream(now, Duration::from_millis(50), 20, 200)), None, "400 a second");
        assert_eq!(learned(&stream(now, Duration::from_millis(50), 4, 20)), None, "too short to tell");
        assert_eq!(Paces::default().margin("p", "m"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn one_burst_is_the_pace() {
        let now = Instant::now();
        let mut pace = stream(now, Duration::from_secs(1), 1, 300);
        pace.note(now + Duration::from_secs(400), 500);
        assert_eq!(learned(&pace), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_seen_fades() {
        let (paces, now) = (Paces::default(), Instant::now());
        paces.learn("p", "m", &stream(now, Duration::from_millis(1), 10, 100));
        assert_eq!(paces.margin("p", "m"), None);
        for _ in 0..2 {
            tokio::time::sleep(MEMORY + Duration::from_secs(1)).await;
            paces.learn("p", "m", &stream(now, Duration::from_millis(50), 4, 200));
        }
        assert_eq!(paces.margin("p", "m"), Some(64));
    }
}
