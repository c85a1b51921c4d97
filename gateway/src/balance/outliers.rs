//! Who fails too often, and who is slower than its peers: what requests met of late, and what is made of it.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use tollgate_model::{ErrorRate, SlowAnswers};

use super::window::{Tally, Window};

/// Requests of a part, and how many of them failed.
#[derive(Debug, Default)]
pub(crate) struct Rate {
    all: AtomicU32,
    failed: AtomicU32,
}

impl Tally for Rate {
    fn clear(&self) {
        self.all.store(0, Ordering::Relaxed);
        self.failed.store(0, Ordering::Relaxed);
    }
}

impl Rate {
    pub(crate) fn add(&self, failed: bool) {
        self.all.fetch_add(1, Ordering::Relaxed);
        if failed {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Whether so much of what an endpoint was asked of late has failed.
pub(crate) fn fails_too_often(rate: &Window<Rate>, number: u64, terms: &ErrorRate) -> bool {
    let add = |(all, failed): (u64, u64), part: &Rate| {
        let read = |count: &AtomicU32| u64::from(count.load(Ordering::Relaxed));
        (all + read(&part.all), failed + read(&part.failed))
    };
    let (all, failed) = rate.lasting(number).fold((0, 0), add);
    all >= u64::from(terms.min_requests) && failed * 100 >= all * u64::from(terms.percent)
}

/// Each doubling of time is cut into as many steps, so a step is at most a quarter of what it begins with.
const STEPS: usize = 1 << STEP_BITS;
const STEP_BITS: u32 = 2;
/// What is shorter than that (64 µs) is one step, and so is what is longer than 2^28 µs, four minutes.
const SHORTEST_BITS: u32 = 6;
const LONGEST_BITS: u32 = 28;
const COUNTERS: usize = 1 + (LONGEST_BITS - SHORTEST_BITS) as usize * STEPS;

/// Answers of a part by how long they took.
#[derive(Debug)]
pub(crate) struct Times([AtomicU32; COUNTERS]);

impl Default for Times {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU32::new(0)))
    }
}

impl Tally for Times {
    fn clear(&self) {
        self.0.iter().for_each(|counter| counter.store(0, Ordering::Relaxed));
    }
}

impl Times {
    pub(crate) fn add(&self, took: Duration) {
        if let Some(counter) = self.0.get(step_of(took)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn step_of(took: Duration) -> usize {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).min((1 << LONGEST_BITS) - 1);
    let Some(bits) = micros.checked_ilog2().filter(|bits| *bits >= SHORTEST_BITS) else { return 0 };
    let within = usize::try_from(micros >> (bits - STEP_BITS)).unwrap_or(0) % STEPS;
    1 + (bits - SHORTEST_BITS) as usize * STEPS + within
}

/// Where a step begins, in microseconds; it ends where the next one begins.
fn beginning_of(step: usize) -> u64 {
    let Some(step) = step.checked_sub(1) else { return 0 };
    let bits = SHORTEST_BITS + u32::try_from(step / STEPS).unwrap_or(0);
    ((STEPS + step % STEPS) as u64) << (bits - STEP_BITS)
}

/// What so many percent of an endpoint's answers of late took at most, to a quarter of it; none where they were too few.
pub(crate) fn percentile(times: &Window<Times>, number: u64, terms: &SlowAnswers) -> Option<Duration> {
    let mut counts = [0_u64; COUNTERS];
    for part in times.lasting(number) {
        let read = |(sum, counter): (&mut u64, &AtomicU32)| *sum += u64::from(counter.load(Ordering::Relaxed));
        counts.iter_mut().zip(&part.0).for_each(read);
    }
    let all: u64 = counts.iter().sum();
    if all < u64::from(terms.min_requests.max(1)) {
        return None;
    }
    let mut before = 0;
    // The rank of the answer that is meant, from 1.
    let rank = (all * u64::from(terms.percentile)).div_ceil(100).clamp(1, all);
    let step = counts.iter().position(|&count| {
        before += count;
        before >= rank
    })?;
    let (begin, end, count) = (beginning_of(step), beginning_of(step + 1), counts[step]);
    let within = (end - begin) * (rank + count - before) / count.max(1);
    Some(Duration::from_micros(begin + within))
}

/// Those of one tier that are slower than their peers, the slowest first. Each is held against the median of all others.
pub(crate) fn slow(taken: &[(usize, Duration)], terms: &SlowAnswers) -> Vec<usize> {
    let peers = taken.len().saturating_sub(1);
    if peers == 0 || peers < usize::try_from(terms.min_peers).unwrap_or(usize::MAX) {
        return Vec::new();
    }
    let mut sorted = taken.to_vec();
    sorted.sort_by_key(|&(index, took)| (took, index));
    let others_median = |own: usize| {
        // Of an even number the greater one: who is in doubt stays.
        let middle = peers / 2;
        sorted.get(if middle < own { middle } else { middle + 1 }).map_or(Duration::MAX, |(_, took)| *took)
    };
    let is_slow = |own: usize, took: Duration| {
        let most = others_median(own).saturating_mul(terms.factor_percent) / 100;
        took >= most.max(terms.min_latency)
    };
    let found = sorted.iter().enumerate().rev().filter(|&(own, &(_, took))| is_slow(own, took));
    found.map(|(_, &(index, _))| index).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::balance::window::PARTS;

    const RATE: ErrorRate = ErrorRate { percent: 50, interval: Duration::from_secs(10), min_requests: 4 };

    fn terms() -> SlowAnswers {
        SlowAnswers {
            factor_percent: 300,
            percentile: 50,
            interval: Duration::from_secs(10),
            min_requests: 1,
            min_peers: 2,
            min_latency: Duration::from_millis(10),
        }
    }

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    proptest! {
        /// The counters say what a list of all that happened says.
        #[test]
        fn what_counts_is_what_happened_within_the_interval(
            steps in prop::collection::vec((0_u64..4, any::<bool>()), 1..80),
            percent in 1_u32..=100,
            min_requests in 1_u32..20,
            forgets in prop::option::of(0_usize..80),
        ) {
            let (window, terms) = (Window::<Rate>::default(), ErrorRate { percent, min_requests, ..RATE });
            let (mut now, mut all, mut from) = (0, Vec::new(), 0);
            for (n, &(later, failed)) in steps.iter().enumerate() {
                now += later;
                window.count(now, |part| part.add(failed));
                all.push((now, failed));
                if forgets == Some(n) {
                    from = now + 1;
                    window.forget_before(from);
                }
                let lasting = all.iter().filter(|(at, _)| *at + PARTS > now && *at >= from);
                let (count, bad) = (lasting.clone().count() as u64, lasting.filter(|it| it.1).count() as u64);
                let too_often = count >= u64::from(min_requests) && bad * 100 >= count * u64::from(percent);
                prop_assert_eq!(fails_too_often(&window, now, &terms), too_often, "{} of {}", bad, count);
            }
        }

        #[test]
        fn a_percentile_is_right_to_a_quarter(
            micros in prop::collection::vec(64_u64..200_000_000, 1..200),
            percentile in 1_u32..=100,
        ) {
            let window = Window::<Times>::default();
            for (n, &micros) in micros.iter().enumerate() {
                window.count(n as u64 % PARTS, |part| part.add(Duration::from_micros(micros)));
            }
            let mut sorted = micros;
            sorted.sort_unstable();
            let exact = sorted[(sorted.len() * percentile as usize).div_ceil(100).max(1) - 1];
            let told = self::percentile(&window, PARTS - 1, &SlowAnswers { percentile, ..terms() }).unwrap();
            let told = u64::try_from(told.as_micros()).unwrap();
            prop_assert!(told.abs_diff(exact) <= exact / 4 + 1, "{told}, not {exact}");
        }

        /// No more than half of them ever are, the fastest never is, and whoever is has the factor between itself and the median.
        #[test]
        fn whoever_is_slow_is_so_by_the_factor_and_only_the_lesser_half_is(took in prop::collection::vec(1_u64..2_000, 1..30)) {
            let taken: Vec<(usize, Duration)> = took.iter().map(|&took| ms(took)).enumerate().collect();
            let found = slow(&taken, &terms());
            prop_assert!(found.len() <= took.len() / 2);
            for (index, &own) in took.iter().enumerate() {
                let mut others = took.clone();
                others.remove(index);
                others.sort_unstable();
                let is_slow = others.len() >= 2 && own >= (others[others.len() / 2] * 3).max(10);
                prop_assert_eq!(found.contains(&index), is_slow, "{} among {:?}", own, others);
            }
            prop_assert!(found.windows(2).all(|pair| took[pair[0]] >= took[pair[1]]), "the slowest first");
        }
    }

    #[test]
    fn steps_of_time_follow_each_other_without_a_gap() {
        assert_eq!((beginning_of(0), beginning_of(1), beginning_of(2)), (0, 64, 80));
        for step in 1..COUNTERS {
            let (begin, end) = (beginning_of(step), beginning_of(step + 1));
            assert_eq!(step_of(Duration::from_micros(begin)), step);
            assert_eq!(step_of(Duration::from_micros(end - 1)), step);
            assert!((end - begin) * 4 <= begin);
        }
        assert_eq!((step_of(Duration::ZERO), step_of(Duration::MAX)), (0, COUNTERS - 1));
    }

    #[test]
    fn too_few_requests_say_nothing() {
        let window = Window::<Rate>::default();
        (0..3).for_each(|_| window.count(0, |part| part.add(true)));
        assert!(!fails_too_often(&window, 0, &RATE));
        window.count(0, |part| part.add(false));
        assert!(fails_too_often(&window, 9, &RATE) && !fails_too_often(&window, 10, &RATE));
        let times = Window::<Times>::default();
        times.count(0, |part| part.add(ms(5)));
        assert_eq!(percentile(&times, 0, &SlowAnswers { min_requests: 2, ..terms() }), None);
    }

    #[test]
    fn who_was_held_up_for_a_whole_interval_counts_nowhere() {
        let window = Window::<Rate>::default();
        window.count(PARTS, |part| part.add(false));
        (0..9).for_each(|_| window.count(0, |part| part.add(true)));
        assert!(!fails_too_often(&window, PARTS, &ErrorRate { min_requests: 1, ..RATE }));
    }

    #[test]
    fn nobody_is_slow_without_peers_or_where_all_are_fast_enough() {
        let taken = |took: &[u64]| took.iter().map(|&took| ms(took)).enumerate().collect::<Vec<_>>();
        for (took, found) in [
            (&[100][..], &[][..]),
            (&[1, 100], &[]),
            (&[10, 10, 29], &[]),
            (&[10, 10, 30], &[2]),
            (&[1, 9, 1], &[]),
            (&[1, 10, 1], &[1]),
            (&[10, 500, 400, 10, 10], &[1, 2]),
            (&[10, 10, 100, 100], &[3, 2]),
        ] {
            assert_eq!(slow(&taken(took), &terms()), found, "{took:?}");
        }
        let of_two = SlowAnswers { min_peers: 1, ..terms() };
        assert_eq!(slow(&taken(&[10, 30]), &of_two), [1]);
    }
}
