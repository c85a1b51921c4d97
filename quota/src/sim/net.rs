//! What happens when: a queue in virtual time, and the dice.

use std::{
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
};

use tollgate_proto::state::v1::{Frame, FrameOutcome};

pub(super) const MS: u64 = 1_000;

/// One thing that happens. `process` numbers every process that ever ran.
#[derive(Debug)]
pub(super) enum Event {
    Arrive,
    Tick {
        process: usize,
    },
    Frame {
        process: usize,
        frame: Box<Frame>,
    },
    Outcome {
        process: usize,
        outcome: Box<FrameOutcome>,
    },
    Apply {
        process: usize,
        upto: usize,
    },
    End {
        process: usize,
        request: u64,
    },
    GiveUp {
        process: usize,
        request: u64,
    },
    /// A stream, named by the first part of its hold, is to hold more.
    Grow {
        process: usize,
        stream: u64,
    },
    Trouble,
    Restart {
        process: usize,
    },
    Heal {
        process: usize,
    },
    Isolated {
        process: usize,
    },
    Elected,
    /// What was journaled up to here is on the disk.
    Synced {
        process: usize,
        position: u64,
    },
    Install {
        process: usize,
    },
}

/// One thing and when it happens; what is to happen at one time happens in the order in which it was said.
#[derive(Debug)]
struct Due {
    at: Reverse<(u64, u64)>,
    event: Event,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> Ordering {
        self.at.cmp(&other.at)
    }
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    events: BinaryHeap<Due>,
    number: u64,
}

impl Queue {
    pub(super) fn at(&mut self, time: u64, event: Event) {
        self.number += 1;
        self.events.push(Due { at: Reverse((time, self.number)), event });
    }

    pub(super) fn next(&mut self) -> Option<(u64, Event)> {
        self.events.pop().map(|Due { at: Reverse((time, _)), event }| (time, event))
    }
}

/// SplitMix64: small, and the same everywhere.
#[derive(Debug)]
pub(super) struct Dice(pub(super) u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From `low` to below `high`.
    pub(super) fn range(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low)
    }

    pub(super) fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.range(0, len as u64)).expect("it is below `len`")
    }

    pub(super) fn percent(&mut self, of: u64) -> bool {
        self.range(0, 100) < of
    }
}
