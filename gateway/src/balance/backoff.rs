//! How soon what failed is done again.

use std::time::Duration;

use super::hash::below;

/// Before the first repetition at most; then twice as long each time.
const FIRST: Duration = Duration::from_millis(25);
const LONGEST: Duration = Duration::from_millis(250);

/// How long to wait before the `nth` repetition, from 1: anything up to a bound, so that those who failed together do not come
/// together again.
pub(crate) fn pause(nth: u32, random: u64) -> Duration {
    let most = FIRST.saturating_mul(1 << nth.saturating_sub(1).min(8)).min(LONGEST);
    Duration::from_micros(below(random, u64::try_from(most.as_micros()).unwrap_or(0) + 1))
}

/// About `every`, a tenth more or less, so that what began together does not stay together.
pub(crate) fn jittered(every: Duration, random: u64) -> Duration {
    let fifth = u64::try_from(every.as_micros() / 5).unwrap_or(u64::MAX);
    every * 9 / 10 + Duration::from_micros(below(random, fifth.saturating_add(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_again_and_again_is_so_at_about_the_same_pace() {
        let second = Duration::from_secs(1);
        assert_eq!(jittered(second, 0), Duration::from_millis(900));
        assert_eq!(jittered(second, u64::MAX), Duration::from_millis(1_100));
    }

    #[test]
    fn pauses_grow_to_a_bound_and_are_anything_below_it() {
        let ms = Duration::from_millis;
        for (nth, most) in [(0, ms(25)), (1, ms(25)), (2, ms(50)), (3, ms(100)), (5, ms(250)), (u32::MAX, ms(250))] {
            assert_eq!((pause(nth, 0), pause(nth, u64::MAX)), (Duration::ZERO, most), "{nth}");
            let half = pause(nth, u64::MAX / 2);
            assert!(most / 2 - ms(1) < half && half < most / 2 + ms(1), "{half:?}");
        }
    }
}
