//! Whose clock is right: a leader compares its wall clock with those of the voters.
//!
//! The log's time is the leader's, so a leader whose clock is off hands over to one whose clock is not. What counts is the
//! median of the voters' clocks, its own among them: one clock that steps does not move it. Of an even number the two in
//! the middle count alike, as nobody can say which of them is wrong.

use std::time::{Duration, Instant};

use super::Core;
use crate::{
    node_of,
    stamp::{Reading, SLACK_US, elapsed_us},
};

/// Off by more, and the leader says so.
const OFF_US: u64 = 250_000;

/// Off by more, and it hands over. As much is allowed to log time.
const TOO_FAR_OFF_US: u64 = SLACK_US;

/// A clock that took longer to be read is not known well enough.
const READ_WITHIN: Duration = Duration::from_millis(200);

/// Who is alone asks nobody: its clock is believed once it has gone on evenly for so long.
const ALONE_EVERY: Duration = Duration::from_secs(60);

/// A voter's clock, as it was read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    /// Its Raft id.
    pub(super) voter: u64,
    /// What it said, just before it answered.
    pub(super) wall_us: u64,
    pub(super) asked: Instant,
    pub(super) answered: Instant,
}

impl Sample {
    /// What the clock says now, unless it took too long to read it.
    fn at(&self, now: Instant) -> Option<(u64, u64)> {
        let took = self.answered.saturating_duration_since(self.asked);
        let known = self.wall_us != 0 && took <= READ_WITHIN;
        known.then(|| {
            (self.voter, self.wall_us + elapsed_us(self.asked, self.answered) / 2 + elapsed_us(self.answered, now))
        })
    }
}

/// What the voters' clocks say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Verdict {
    /// How late it is: where two clocks are in the middle, the earlier one, as time does not go back.
    pub(super) wall_us: u64,
    /// How far the leader's clock is ahead of the median, or behind it.
    pub(super) offset_us: i64,
    /// The other voter whose clock is nearest to the median, if it is near enough to lead.
    pub(super) better: Option<u64>,
}

/// Compares the leader's clock with the others'. `None` without a majority of the voters' clocks.
pub(super) fn judge(own_us: u64, others: &[(u64, u64)], voters: usize) -> Option<Verdict> {
    let mut clocks: Vec<u64> = others.iter().map(|(_, wall_us)| *wall_us).chain([own_us]).collect();
    if 2 * clocks.len() <= voters {
        return None;
    }
    clocks.sort_unstable();
    let (low, high) = (clocks[(clocks.len() - 1) / 2], clocks[clocks.len() / 2]);
    let offset_of = |wall_us: u64| match wall_us {
        _ if wall_us < low => -signed(low - wall_us),
        _ if wall_us > high => signed(wall_us - high),
        _ => 0,
    };
    let distances = others.iter().map(|(voter, wall_us)| (offset_of(*wall_us).unsigned_abs(), *voter));
    let nearest = distances.min().filter(|(distance, _)| *distance <= TOO_FAR_OFF_US);
    Some(Verdict { wall_us: low, offset_us: offset_of(own_us), better: nearest.map(|(_, voter)| voter) })
}

fn signed(us: u64) -> i64 {
    i64::try_from(us).unwrap_or(i64::MAX)
}

/// What a node without other voters believes of its own clock: what it says at the start, and a step of it once it has
/// stayed for a while.
#[derive(Debug, Default)]
struct Alone(Option<Reading>);

impl Alone {
    fn believes(&mut self, now: Reading) -> bool {
        let Some(before) = self.0 else {
            self.0 = Some(now);
            return true;
        };
        if now.at.saturating_duration_since(before.at) < ALONE_EVERY {
            return false;
        }
        self.0 = Some(now);
        let expected = before.wall_us + elapsed_us(before.at, now.at);
        expected.abs_diff(now.wall_us) <= TOO_FAR_OFF_US + elapsed_us(before.at, now.at) / 100
    }
}

/// From one round to the next.
#[derive(Debug, Default)]
pub(super) struct Clocks {
    alone: Alone,
    /// Said to be off, and not yet to be right again.
    off: bool,
}

impl Clocks {
    /// Takes in what was read while this node leads; gives the voter that should lead in its place, if its clock is too
    /// far off and the other one's is not.
    pub(super) fn round(&mut self, core: &Core, samples: &[Sample], voters: usize) -> Option<u64> {
        let now = Instant::now();
        let own_us = core.clock.now_us();
        let others: Vec<_> = samples.iter().filter_map(|sample| sample.at(now)).collect();
        let verdict = judge(own_us, &others, voters);
        core.clock_offset.send_replace(verdict.map(|verdict| verdict.offset_us));
        let Verdict { wall_us, offset_us, better } = verdict?;
        let reading = Reading { wall_us, at: now };
        if voters > 1 || self.alone.believes(reading) {
            *core.known_time.lock() = Some(reading);
        }
        self.say(offset_us);
        better.filter(|_| offset_us.unsigned_abs() > TOO_FAR_OFF_US)
    }

    /// It leads no more.
    pub(super) fn pause(&mut self, core: &Core) {
        core.clock_offset.send_replace(None);
        self.off = false;
    }

    fn say(&mut self, offset_us: i64) {
        let off = offset_us.unsigned_abs() > OFF_US;
        if std::mem::replace(&mut self.off, off) == off {
            return;
        }
        let offset_ms = offset_us / 1_000;
        match off {
            true => tracing::warn!(offset_ms, "this leader's clock is off the median of the voters' clocks"),
            false => tracing::info!(offset_ms, "this leader's clock agrees with the voters' clocks again"),
        }
    }
}

/// What is said before leadership goes to a node with a better clock.
pub(super) fn say_why(core: &Core, to: u64) {
    let offset_ms = core.clock_offset.borrow().unwrap_or(0) / 1_000;
    tracing::warn!(offset_ms, to = node_of(to), "this leader's clock is too far off, handing over to one that agrees");
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000_000_000;
    const HOUR: u64 = 3_600_000_000;

    fn verdict(own_us: u64, others: &[u64], voters: usize) -> Option<Verdict> {
        let others: Vec<_> = (2..).zip(others.iter().copied()).collect();
        judge(own_us, &others, voters)
    }

    #[test]
    fn a_clock_that_steps_is_told_by_the_others_and_moves_nobody_else() {
        let stepped = verdict(NOW + HOUR, &[NOW, NOW + 3_000], 3).unwrap();
        assert_eq!((stepped.wall_us, stepped.offset_us), (NOW + 3_000, signed(HOUR - 3_000)));
        assert_eq!(stepped.better, Some(3), "the one that is the median");
        let back = verdict(NOW - HOUR, &[NOW, NOW + 3_000], 3).unwrap();
        assert_eq!((back.wall_us, back.offset_us, back.better), (NOW, -signed(HOUR), Some(2)));
        let other = verdict(NOW, &[NOW + HOUR, NOW + 3_000], 3).unwrap();
        assert_eq!((other.wall_us, other.offset_us), (NOW + 3_000, -3_000));
        let five = verdict(NOW + 600_000, &[NOW, NOW + HOUR, NOW - HOUR, NOW], 5).unwrap();
        assert_eq!((five.offset_us, five.better), (600_000, Some(2)));
    }

    #[test]
    fn nobody_is_wrong_where_nobody_can_say_so() {
        assert_eq!(verdict(NOW + HOUR, &[NOW], 2).unwrap(), Verdict { wall_us: NOW, offset_us: 0, better: Some(2) });
        assert_eq!(verdict(NOW, &[], 2), None, "one of two is no majority");
        assert_eq!(verdict(NOW, &[], 3), None);
        assert_eq!(verdict(NOW, &[NOW], 4), None);
        assert_eq!(verdict(NOW, &[], 1).unwrap().wall_us, NOW);
        // All at odds: nobody is near enough to lead instead, but for the median itself.
        let four = verdict(NOW, &[NOW + HOUR, NOW + 2 * HOUR, NOW + 3 * HOUR], 4).unwrap();
        assert_eq!((four.wall_us, four.offset_us), (NOW + HOUR, -signed(HOUR)));
    }

    #[test]
    fn a_clock_that_was_slow_to_read_is_not_known() {
        let asked = Instant::now();
        let sample =
            |took: u64, wall_us| Sample { voter: 2, wall_us, asked, answered: asked + Duration::from_millis(took) };
        let now = asked + Duration::from_millis(300);
        assert_eq!(sample(100, NOW).at(now), Some((2, NOW + 50_000 + 200_000)));
        assert_eq!(sample(201, NOW).at(now), None);
        assert_eq!(sample(100, 0).at(now), None, "an earlier version does not tell");
    }

    #[test]
    fn who_is_alone_believes_its_clock_once_it_has_gone_on_evenly() {
        let (at, mut alone) = (Instant::now(), Alone::default());
        let mut believes = |seconds: u64, ahead_us: u64| {
            let at = at + Duration::from_secs(seconds);
            alone.believes(Reading { wall_us: NOW + seconds * 1_000_000 + ahead_us, at })
        };
        assert!(believes(0, 0), "at the start");
        assert!(!believes(59, 0), "only now and then");
        assert!(!believes(61, HOUR), "it has stepped");
        assert!(!believes(119, HOUR));
        assert!(believes(121, HOUR), "and stayed there");
    }
}
