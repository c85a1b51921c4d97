//! The sign of overload that comes before any bound: tasks wait to be run, as the threads of the data plane have more to do than they
//! can.
//!
//! A task that is due measures how late it gets its turn; [`Pressure`] makes of that which share of whom is refused, pure. From 20 ms on,
//! smoothed (the threshold is that of queuing in DAGOR: Zhou et al., "Overload Control for Scaling WeChat Microservices", SoCC 2018),
//! a tenth more of the sheddable calls is refused with each sample, then of the standard ones; below half of that, less. In between
//! all stays as it is, so that what is shed does not swing. Critical calls are never refused for it.

use std::{
    sync::{Weak, atomic::Ordering},
    time::Duration,
};

use tokio::{
    task::yield_now,
    time::{Instant, sleep_until},
};
use tollgate_model::Priority;

use super::{Overload, share::Rank};

/// Between two samples.
const INTERVAL: Duration = Duration::from_millis(50);
/// From here on more is refused, and below the second one less.
const LATE: Duration = Duration::from_millis(20);
const IN_TIME: Duration = Duration::from_millis(10);
/// What a sample counts as at most: one pause of the machine, however long, is no overload.
const MOST: Duration = Duration::from_millis(100);
/// Of four parts of what is known, a sample replaces one.
const SMOOTHING: u32 = 4;
/// Percent by which more is refused with a sample, and less: it goes faster up than down, so that it does not swing.
const UP: u32 = 10;
const DOWN: u32 = 2;
/// All sheddable calls; the same above that all standard ones.
const ALL: u32 = 100;

/// What samples say, and what follows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Pressure {
    delay: Duration,
    level: u32,
}

impl Pressure {
    /// A task got its turn so late.
    pub(super) fn sampled(&mut self, late: Duration) {
        self.delay = (self.delay * (SMOOTHING - 1) + late.min(MOST)) / SMOOTHING;
        if self.delay >= LATE {
            self.level = (self.level + UP).min(2 * ALL);
        } else if self.delay < IN_TIME {
            self.level = self.level.saturating_sub(DOWN);
        }
    }

    /// How late tasks are, smoothed.
    pub(super) fn delay(&self) -> Duration {
        self.delay
    }

    /// What is refused: percent of sheddable calls up to 100, all of these and percent of standard ones up to 200.
    pub(super) fn level(&self) -> u32 {
        self.level
    }
}

/// The share of calls of this rank that is refused at `level`, in percent.
pub(super) fn refused(level: u32, rank: Rank) -> u32 {
    match rank.counts_as() {
        Priority::Sheddable => level.min(ALL),
        Priority::Standard => level.saturating_sub(ALL).min(ALL),
        Priority::Critical => 0,
    }
}

/// Samples on the runtime that it runs on, for as long as the gateway is there.
pub(super) async fn watch(overload: Weak<Overload>) {
    let mut pressure = Pressure::default();
    loop {
        let due = Instant::now() + INTERVAL;
        sleep_until(due).await;
        // Behind all that is ready by now.
        yield_now().await;
        let Some(overload) = overload.upgrade() else { return };
        pressure.sampled(due.elapsed());
        overload.level.store(pressure.level(), Ordering::Relaxed);
        overload.delay.set(pressure.delay().as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn after(mut pressure: Pressure, samples: usize, late_ms: u64) -> Pressure {
        (0..samples).for_each(|_| pressure.sampled(Duration::from_millis(late_ms)));
        pressure
    }

    fn shares(pressure: Pressure) -> [u32; 3] {
        [Priority::Sheddable, Priority::Standard, Priority::Critical]
            .map(|it| refused(pressure.level(), Rank::new(it, true)))
    }

    #[test]
    fn sheddable_calls_then_standard_ones_are_refused_while_tasks_are_late_and_critical_ones_never() {
        let idle = after(Pressure::default(), 1_000, 2);
        assert_eq!((shares(idle), idle.delay()), ([0, 0, 0], after(idle, 1, 2).delay()));
        let half = after(idle, 6, 60);
        assert_eq!(shares(half), [50, 0, 0], "a quarter of a second, but for the first sample");
        assert_eq!(shares(after(half, 5, 60)), [100, 0, 0]);
        let all = after(half, 100, 60);
        assert_eq!(shares(all), [100, 100, 0]);
        assert_eq!(shares(after(all, 100, 15)), [100, 100, 0], "neither late nor in time: it stays");
        assert_eq!(shares(after(all, 56, 0)), [100, 0, 0], "standard ones come back first, once it is known");
        assert_eq!(shares(after(all, 110, 0)), [0, 0, 0]);
        assert_eq!(refused(200, Rank::new(Priority::Standard, false)), 0, "where they are the first there are");
    }

    #[test]
    fn one_long_pause_of_the_machine_is_no_overload() {
        let after = after(Pressure::default(), 1, 60_000);
        assert_eq!(shares(after), [10, 0, 0]);
        assert_eq!(shares(self::after(after, 20, 0)), [0, 0, 0]);
    }

    proptest! {
        /// More delay never refuses less, and nobody is refused before all of a lower rank are.
        #[test]
        fn ranks_are_refused_in_their_order(late in prop::collection::vec((0_u64..200, 0_u64..50), 0..200)) {
            let (mut less, mut more) = (Pressure::default(), Pressure::default());
            for (ms, extra) in late {
                less.sampled(Duration::from_millis(ms));
                more.sampled(Duration::from_millis(ms + extra));
                prop_assert!(less.level() <= more.level());
                let [sheddable, standard, critical] = shares(more);
                prop_assert!(standard == 0 || sheddable == 100);
                prop_assert_eq!(critical, 0);
                prop_assert!(more.delay() <= MOST);
            }
        }
    }
}
