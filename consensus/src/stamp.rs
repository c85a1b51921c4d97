//! The two times that an entry of the log carries, and how a leader goes on from those before. Pure: clocks are given.
//!
//! *Time* is the wall clock, for windows that begin on the clock and for people to read. It never goes back, and goes
//! forward no faster than a clock may run, unless a majority of the voters' clocks says that it is so late: a clock
//! that steps must not end all windows at once.
//!
//! *Age* is elapsed time, whatever wall clocks do: between two entries it grows by no more than the real time between
//! their proposals, but for the error of a clock's rate. It may be late, never early: while nobody leads, and until a
//! leader has applied its first entry, it stands still. For that each leader counts, by its monotonic clock, from the
//! moment at which it had applied the first entry of its leadership: by then it knows the age of all before it, and real
//! time has gone on at least as far. Its own later entries do not move that beginning: what each takes to be committed
//! would be lost, and under load age would not move at all. What another leader wrote moves it, as a leadership begins.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::types::LeaderId;

/// How far time may go beyond what the clock's rate allows: clocks are slewed, and measured with an error.
pub(crate) const SLACK_US: u64 = 500_000;

/// No entry that is stamped was written by it: the first term is 1.
const NOBODY: LeaderId = LeaderId { term: 0, node_id: 0 };

/// What a leader writes into an entry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// µs since the epoch; 0 says nothing.
    pub(crate) time_us: u64,
    /// `None` of earlier versions.
    pub(crate) age: Option<Age>,
}

/// An age, and the leadership in which it was reckoned: among the entries of another one the stamp says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Age {
    pub(crate) under: LeaderId,
    pub(crate) us: u64,
}

/// The times of the last entry applied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Times {
    pub(crate) time_us: u64,
    pub(crate) age_us: u64,
}

impl Times {
    /// Those of the next entry, which `leader` wrote. They never go back, and the first time of all is taken as it comes.
    pub(crate) fn after(self, stamp: Stamp, leader: LeaderId) -> Self {
        match stamp.age {
            Some(age) if age.under != leader && self.time_us == 0 => Self { time_us: stamp.time_us, ..self },
            Some(age) if age.under != leader => self,
            age => {
                Self { time_us: self.time_us.max(stamp.time_us), age_us: self.age_us.max(age.map_or(0, |age| age.us)) }
            }
        }
    }
}

/// Where a leadership begins, on this node: the times as of its first entry, and when that had been applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Beginning {
    pub(crate) under: LeaderId,
    pub(crate) times: Times,
    pub(crate) at: Instant,
}

/// What a majority of the voters' clocks said, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reading {
    pub(crate) wall_us: u64,
    pub(crate) at: Instant,
}

/// Stamps the proposals of one node.
#[derive(Debug, Default)]
pub(crate) struct Stamper {
    /// The leadership of the last stamp, its time, and when it was made.
    last: Option<(LeaderId, u64, Instant)>,
}

impl Stamper {
    /// The next stamp by the node `raft_id`, whose wall clock says `wall_us`. It is of no leadership where the newest one is
    /// not its own: then it does not lead, or does not know yet what was written before.
    pub(crate) fn next(
        &mut self,
        raft_id: u64,
        newest: Option<Beginning>,
        known: Option<Reading>,
        wall_us: u64,
        now: Instant,
    ) -> Stamp {
        let Some(begun) = newest.filter(|begun| begun.under.node_id == raft_id) else {
            return Stamp { time_us: wall_us, age: Some(Age { under: NOBODY, us: 0 }) };
        };
        let (before_us, at) = match self.last {
            Some((under, time_us, at)) if under == begun.under => (time_us, at),
            _ => (begun.times.time_us, begun.at),
        };
        let most_us = match known {
            Some(known) => at_most(known.wall_us, known.at, now),
            // Nothing was ever stamped, so no window has begun.
            None if before_us == 0 => u64::MAX,
            None => at_most(before_us, at, now),
        };
        let time_us = wall_us.min(most_us).max(before_us);
        self.last = Some((begun.under, time_us, now));
        let us = begun.times.age_us.saturating_add(elapsed_us(begun.at, now));
        Stamp { time_us, age: Some(Age { under: begun.under, us }) }
    }
}

/// How late it may be, when it was `wall_us` then.
fn at_most(wall_us: u64, then: Instant, now: Instant) -> u64 {
    let elapsed = elapsed_us(then, now);
    wall_us.saturating_add(elapsed).saturating_add(elapsed / 100).saturating_add(SLACK_US)
}

pub(crate) fn elapsed_us(then: Instant, now: Instant) -> u64 {
    micros(now.saturating_duration_since(then))
}

pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "stamp_tests.rs"]
mod tests;
