//! How fast providers write, as their streams show.
//!
//! A hold smaller than the bound that the provider was sent is safe only while what the provider may write until it is
//! stopped fits into a margin of the hold. So the fastest that was seen of a provider and model counts, and one of which
//! not enough was seen is taken for faster than any.
//!
//! What was seen is what came while it was waited for: a caller who takes a stream slowly lets it gather in buffers on the way,
//! where a fast provider looks as slow as that caller.

use std::{collections::HashMap, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

/// From the last token that is held to the provider's seeing that nobody reads, a decision on more in between.
pub(super) const REACTION: Duration = Duration::from_millis(300);
/// The least margin: tokens come in bursts.
const LEAST_MARGIN: u64 = 64;
/// A provider that needs a greater one is too fast to be stopped in time.
const GREATEST_MARGIN: u64 = 256;
/// A stream of so many tokens tells a slow provider from a fast one with little to say: in one burst it would be too fast.
const TELLING: u64 = 256;
/// One of so many does where it was steady.
const TELLING_IF_STEADY: u64 = 64;
/// A stream was steady if it brought so many times what came in the fastest [`REACTION`] of it: then it took longer than
/// that less one, and neither a burst after a pause nor an answer that was there at once looks like it.
const STEADY: u64 = 4;
/// Providers and models that are remembered; others are taken for too fast.
const MAX_KNOWN: usize = 1_024;
/// What was seen is forgotten between once and twice this later, so that one stall does not count for ever.
const MEMORY: Duration = Duration::from_secs(600);

/// What has to be waited for so long was not there yet.
const CAUGHT_UP: Duration = Duration::from_millis(1);
/// After so long without a look something may have gathered.
pub(super) const BEHIND: Duration = Duration::from_millis(50);

const SLOT: Duration = Duration::from_millis(100);
/// Slots that any stretch of [`REACTION`] lies within, wherever it begins.
const SLOTS: usize = 4;

/// The pace of one stream.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// How long its provider has been waited for.
    waited: Duration,
    /// Tokens that came in the latest slots of that time.
    recent: [u64; SLOTS],
    total: u64,
    /// Those of them that were seen to come.
    seen: u64,
    fastest: u64,
    /// What is read may have lain there.
    is_behind: bool,
}

impl Pace {
    /// Nobody has read for a while: what is there now says nothing of how fast it came.
    pub(super) fn fall_behind(&mut self) {
        self.is_behind = true;
    }

    /// So many tokens have come by now, in all, and the latest were `waited` for.
    pub(super) fn note(&mut self, waited: Duration, total: u64) {
        let came = total.saturating_sub(self.total);
        self.total = self.total.max(total);
        self.is_behind &= waited < CAUGHT_UP;
        if self.is_behind {
            return;
        }
        let slot = |time: Duration| time.as_nanos() / SLOT.as_nanos();
        let passed = slot(self.waited + waited) - slot(self.waited);
        self.waited += waited;
        for _ in 0..usize::try_from(passed).unwrap_or(SLOTS).min(SLOTS) {
            self.recent.rotate_right(1);
            self.recent[0] = 0;
        }
        self.recent[0] += came;
        self.seen += came;
        self.fastest = self.fastest.max(self.recent.iter().sum());
    }

    /// Whether what it shows of its provider holds for longer streams as well.
    fn is_telling(&self) -> bool {
        let is_steady = self.seen >= self.fastest.saturating_mul(STEADY);
        self.seen >= TELLING || is_steady && self.seen >= TELLING_IF_STEADY
    }
}

/// What some streams have shown.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    /// The fastest of them.
    fastest: u64,
    is_telling: bool,
    /// The most that any of them can have brought.
    most: u64,
    /// The longest of those that came to their ends, in its provider's tokens.
    longest: u64,
}

impl Seen {
    fn and(self, other: Seen) -> Seen {
        Seen {
            fastest: self.fastest.max(other.fastest),
            is_telling: self.is_telling || other.is_telling,
            most: self.most.max(other.most),
            longest: self.longest.max(other.longest),
        }
    }

    fn slow(self) -> Option<Slow> {
        let margin = self.fastest.saturating_mul(2).max(LEAST_MARGIN);
        (self.is_telling && margin <= GREATEST_MARGIN).then_some(Slow {
            margin,
            most: self.most,
            has_ended: self.longest > 0,
        })
    }
}

/// A provider that can be stopped in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slow {
    /// What has to be kept of a hold for what it writes before it is stopped.
    pub(super) margin: u64,
    /// The most that its longest answer of late can have been, as holds count it.
    pub(super) most: u64,
    /// Some of them came to their ends, so that this says how long answers are.
    pub(super) has_ended: bool,
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
    /// A stream has come so far, and can have brought so much at `most`.
    pub(super) fn learn(&self, provider: &str, model: &str, pace: &Pace, most: u64) {
        let seen = Seen { fastest: pace.fastest, is_telling: pace.is_telling(), most, longest: 0 };
        self.see(provider, model, seen);
    }

    /// An answer has come to its end, with so much output.
    pub(super) fn ended(&self, provider: &str, model: &str, output: u64) {
        self.see(provider, model, Seen { longest: output, ..Seen::default() });
    }

    fn see(&self, provider: &str, model: &str, seen: Seen) {
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
        known.now = known.now.and(seen);
    }

    fn seen(&self, provider: &str, model: &str) -> Option<Seen> {
        let known = self.0.lock();
        let known = known.get(&(provider.to_owned(), model.to_owned()))?;
        Some(known.now.and(known.before))
    }

    /// None where the provider is too fast to be stopped in time, or not known not to be.
    pub(super) fn slow(&self, provider: &str, model: &str) -> Option<Slow> {
        self.seen(provider, model)?.slow()
    }

    /// The longest of its answers of late that came to their ends, in its own tokens. None where none did.
    pub(super) fn longest(&self, provider: &str, model: &str) -> Option<u64> {
        self.seen(provider, model).map(|seen| seen.longest).filter(|longest| *longest > 0)
    }

    /// The margin of one that can.
    pub(super) fn margin(&self, provider: &str, model: &str) -> Option<u64> {
        self.slow(provider, model).map(|slow| slow.margin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many times so many tokens, each after so long.
    fn stream(every: Duration, tokens: u64, count: u64) -> Pace {
        let mut pace = Pace::default();
        for number in 1..=count {
            pace.note(every, tokens * number);
        }
        pace
    }

    fn learned(pace: &Pace) -> Option<u64> {
        let paces = Paces::default();
        paces.learn("p", "m", pace, 0);
        paces.margin("p", "m")
    }

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_slow_provider_is_known_by_a_long_stream() {
        assert_eq!(learned(&stream(ms(50), 4, 200)), Some(64), "80 tokens a second");
        assert_eq!(learned(&stream(ms(50), 15, 200)), Some(240), "300 a second");
        assert_eq!(learned(&stream(ms(50), 20, 200)), None, "400 a second");
        assert_eq!(learned(&stream(ms(50), 4, 15)), None, "too short to tell");
        assert_eq!(Paces::default().margin("p", "m"), None);
    }

    #[test]
    fn a_slow_provider_is_known_by_a_short_stream_if_it_was_steady() {
        assert_eq!(learned(&stream(ms(20), 1, 100)), Some(64), "50 tokens a second for two seconds");
        assert_eq!(learned(&stream(ms(20), 1, 79)), None, "not yet for four stretches");
        assert_eq!(learned(&stream(ms(100), 1, 63)), None, "too little in all");
        assert_eq!(learned(&stream(ms(100), 1, 64)), Some(64));
        assert_eq!(learned(&stream(ms(50), 12, 20)), None, "a second at 240: it could be a part of anything");
    }

    #[test]
    fn a_pause_makes_no_provider_slow() {
        let mut thought_first = Pace::default();
        thought_first.note(ms(60_000), 0);
        thought_first.note(ms(60_000), 1);
        thought_first.note(ms(60_000), 120);
        assert_eq!(learned(&thought_first), None, "the answer came at once");
        let mut pauses = Pace::default();
        for number in 1..=3 {
            pauses.note(ms(5_000), number * 64);
        }
        assert_eq!(learned(&pauses), None, "three bursts are no pace");
    }

    #[test]
    fn a_slow_caller_makes_no_provider_slow() {
        // Buffers on the way are full: each look finds as much as fits into one, without a wait.
        let (mut at_once, mut lain) = (Pace::default(), Pace::default());
        for number in 1..=20 {
            at_once.note(Duration::ZERO, number * 40);
            lain.fall_behind();
            lain.note(Duration::ZERO, number * 40);
        }
        assert_eq!((learned(&at_once), learned(&lain)), (None, None));
        // Nor a fast one: what had lain there is no burst of its own.
        let mut steady = stream(ms(20), 1, 100);
        steady.fall_behind();
        steady.note(Duration::ZERO, 350);
        steady.note(Duration::ZERO, 600);
        assert_eq!(learned(&steady), Some(64));
        steady.note(ms(20), 700);
        assert_eq!(learned(&steady), None, "what is waited for counts again");
    }

    #[test]
    fn one_burst_is_the_pace() {
        let mut pace = stream(ms(1_000), 1, 300);
        pace.note(ms(100), 500);
        assert_eq!(learned(&pace), None);
    }

    #[test]
    fn a_fast_stream_counts_however_short_it_is() {
        let paces = Paces::default();
        paces.learn("p", "m", &stream(ms(20), 1, 100), 101);
        assert_eq!(paces.slow("p", "m"), Some(Slow { margin: 64, most: 101, has_ended: false }));
        paces.ended("p", "m", 25);
        paces.learn("p", "m", &stream(ms(1), 6, 20), 60);
        assert_eq!(paces.slow("p", "m"), Some(Slow { margin: 240, most: 101, has_ended: true }));
        paces.learn("p", "m", &stream(ms(1), 13, 10), 130);
        assert_eq!(paces.slow("p", "m"), None);
        paces.ended("p", "m", 7);
        assert_eq!((paces.longest("p", "m"), paces.longest("p", "other")), (Some(25), None), "however fast it is");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_seen_fades() {
        let paces = Paces::default();
        paces.learn("p", "m", &stream(ms(1), 10, 100), 0);
        assert_eq!(paces.margin("p", "m"), None);
        for _ in 0..2 {
            tokio::time::sleep(MEMORY + Duration::from_secs(1)).await;
            paces.learn("p", "m", &stream(ms(50), 4, 200), 0);
        }
        assert_eq!(paces.margin("p", "m"), Some(64));
    }
}
