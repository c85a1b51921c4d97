//! When entries are written that come thick and fast.
//!
//! A sync costs as much of a processor as serving a fifth of a call, and its thread is woken before two entries are there: so on a
//! busy node there would be a sync for each call. Where there are many, the next sync begins some time after the last one did, and is
//! one for all that came; where there are few, nobody waits.

use std::time::{Duration, Instant};

/// So many entries in each millisecond are many: some 4,000 calls a second.
const MANY_PER_MS: u128 = 8;
/// From the beginning of one sync to that of the next, where there are many.
const GATHERED: Duration = Duration::from_micros(500);
/// How long entries are counted before they are known to be many, or few.
const COUNTED: Duration = Duration::from_millis(2);

#[derive(Debug)]
pub(super) struct Pace {
    /// When entries were taken last.
    last: Instant,
    since: Instant,
    /// Since then.
    came: u64,
    many: bool,
}

impl Pace {
    pub(super) fn from(now: Instant) -> Self {
        Self { last: now, since: now, came: 0, many: false }
    }

    /// How long to wait for more before any are taken.
    pub(super) fn pause(&self, now: Instant) -> Option<Duration> {
        let left = GATHERED.checked_sub(now.duration_since(self.last))?;
        (self.many && !left.is_zero()).then_some(left)
    }

    pub(super) fn took(&mut self, entries: u64, now: Instant) {
        self.last = now;
        self.came += entries;
        let counted = now.duration_since(self.since);
        if counted >= COUNTED {
            self.many = u128::from(self.came) * 1_000 >= MANY_PER_MS * counted.as_micros();
            (self.since, self.came) = (now, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes one entry at a time, `every` so often, for ten milliseconds, and waits when it is told to. How often it took some.
    fn takes(pace: &mut Pace, start: Instant, every: Duration) -> u32 {
        let (mut now, mut taken, mut waiting, mut takes) = (start, start, 0, 0);
        while now < start + Duration::from_millis(10) {
            now += every;
            waiting += 1;
            if pace.pause(now).is_none() {
                pace.took(std::mem::take(&mut waiting), now);
                takes += 1;
                assert!(now - taken <= GATHERED + every);
                taken = now;
            }
        }
        takes
    }

    #[test]
    fn few_do_not_wait_and_many_wait_for_one_another_and_not_for_long() {
        let start = Instant::now();
        let mut pace = Pace::from(start);
        assert_eq!(takes(&mut pace, start, Duration::from_micros(200)), 50, "5 in a millisecond are few");
        let busy = start + Duration::from_millis(20);
        let many = takes(&mut pace, busy, Duration::from_micros(50));
        assert!(
            (20..60).contains(&many),
            "{many} times for 200 entries, some of them before they were known to be many"
        );
        let after = start + Duration::from_secs(1);
        assert_eq!(pace.pause(after), None, "whoever comes after a pause does not wait");
        assert!(takes(&mut pace, after, Duration::from_micros(200)) >= 45);
    }
}
