//! What happens when: a queue in virtual time, and the dice.

use std::collections::BTreeMap;

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

#[derive(Debug, Default)]
pub(super) struct Queue {
    events: BTreeMap<(u64, u64), Event>,
    number: u64,
}

impl Queue {
    pub(super) fn at(&mut self, time: u64, event: Event) {
        self.number += 1;
        self.events.insert((time, self.number), event);
    }

    pub(super) fn next(&mut self) -> Option<(u64, Event)> {
        self.events.pop_first().map(|((time, _), event)| (time, event))
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
