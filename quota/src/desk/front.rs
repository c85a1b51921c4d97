//! What requests touch that need no lock: the time until which they may, how many are open, and what they leave behind.
//!
//! Everything here is written under the desk's lock or by one atomic operation.

use std::sync::atomic::{
    AtomicU64, AtomicUsize,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tollgate_proto::state::v1::Settle;

use super::pockets::Index;
use crate::{agent::MAX_FRAME_RECORDS, pocket::Mark};

/// Settlements that there is always memory for.
pub(super) const ROOM: usize = 1_024;

/// Alone on its cache lines.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Line<T>(T);

#[derive(Debug)]
pub(super) struct Front {
    /// The age from which on nothing is taken: nobody has answered for too long, or the desk is closed.
    until: AtomicU64,
    /// What log time is ahead of this node's own clock; wraps.
    ahead: AtomicU64,
    /// Requests that the agent knows of.
    others: AtomicUsize,
    pub(super) index: Index,
    marks: Marks,
    /// Requests that took from pockets, ever.
    begun: Line<AtomicU64>,
    /// Those of them that are over, or known to the agent.
    gone: Line<AtomicU64>,
    said: Line<Mutex<Vec<Settle>>>,
}

/// What the keeper should know.
#[derive(Debug)]
struct Marks {
    drawn: Mark,
    ended: Mark,
    urgent: Mark,
}

/// What has happened since the keeper has looked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) drawn: bool,
    pub(super) ended: bool,
    pub(super) urgent: bool,
}

impl Front {
    pub(super) fn new() -> Self {
        Self {
            until: AtomicU64::new(0),
            ahead: AtomicU64::new(0),
            others: AtomicUsize::new(0),
            index: Index::default(),
            marks: Marks { drawn: Mark::new(), ended: Mark::new(), urgent: Mark::new() },
            begun: Line::default(),
            gone: Line::default(),
            said: Line(Mutex::new(Vec::with_capacity(ROOM))),
        }
    }

    /// What the keeper knows and requests go by.
    pub(super) fn publish(&self, until: u64, others: usize) {
        self.until.store(until, Release);
        self.others.store(others, Relaxed);
    }

    pub(super) fn set_clock(&self, log_time: u64, age: u64) {
        self.ahead.store(log_time.wrapping_sub(age), Relaxed);
    }

    /// Log time at this age, as far as this node knows: late, never early.
    pub(super) fn log_time(&self, age: u64) -> u64 {
        self.ahead.load(Relaxed).wrapping_add(age)
    }

    pub(super) fn is_open(&self, age: u64) -> bool {
        age < self.until.load(Acquire)
    }

    /// A place for one more request, of at most so many.
    pub(super) fn enter(&self, max_open: usize) -> bool {
        let begun = self.begun.0.fetch_add(1, AcqRel) + 1;
        let open = usize::try_from(begun - self.gone.0.load(Acquire)).unwrap_or(usize::MAX);
        let fits = open.saturating_add(self.others.load(Relaxed)) <= max_open;
        if !fits {
            self.turn_back();
        }
        fits
    }

    /// One that has entered took nothing.
    pub(super) fn turn_back(&self) {
        self.begun.0.fetch_sub(1, AcqRel);
    }

    pub(super) fn leave(&self) {
        self.gone.0.fetch_add(1, AcqRel);
    }

    /// A request is over, and the log is told of it: it leaves when the agent has it.
    pub(super) fn say(&self, settle: Settle, wake: &Notify) {
        let waiting = {
            let mut said = self.said.0.lock();
            said.push(settle);
            said.len()
        };
        if waiting >= MAX_FRAME_RECORDS {
            mark(&self.marks.urgent, wake);
        }
    }

    /// Hands out what is to be told to the log. `spare` is empty before and after, and lends its memory.
    pub(super) fn take_said(&self, spare: &mut Vec<Settle>, mut take: impl FnMut(Settle)) -> usize {
        std::mem::swap(&mut *self.said.0.lock(), spare);
        let said = spare.len();
        spare.drain(..).for_each(&mut take);
        if spare.capacity() > 8 * ROOM.max(said) {
            spare.shrink_to(spare.capacity() / 2);
        }
        said
    }

    /// So many of those who have entered are the agent's by now, which knows of `others` in all.
    pub(super) fn moved(&self, said: usize, others: usize) {
        self.others.store(others, Relaxed);
        self.gone.0.fetch_add(said as u64, AcqRel);
    }

    /// Requests that have entered and not left.
    pub(super) fn open(&self) -> usize {
        let gone = self.gone.0.load(Acquire);
        usize::try_from(self.begun.0.load(Acquire).saturating_sub(gone)).unwrap_or(usize::MAX)
    }

    /// Requests that were served, ever.
    pub(super) fn served(&self) -> u64 {
        self.begun.0.load(Relaxed)
    }

    pub(super) fn drew(&self, wake: &Notify) {
        mark(&self.marks.drawn, wake);
    }

    pub(super) fn ended(&self, wake: &Notify) {
        mark(&self.marks.ended, wake);
    }

    /// What the keeper has closed it may never look at again, were it not told.
    pub(super) fn ended_late(&self, wake: &Notify) {
        self.marks.ended.set_for_sure();
        wake.notify_one();
    }

    pub(super) fn is_low(&self, wake: &Notify) {
        mark(&self.marks.urgent, wake);
    }

    /// What is marked.
    pub(super) fn seen(&self) -> Seen {
        let Marks { drawn, ended, urgent } = &self.marks;
        Seen { drawn: drawn.is_set(), ended: ended.is_set(), urgent: urgent.is_set() }
    }

    /// The keeper is about to look: whatever comes now is marked anew.
    pub(super) fn unmark(&self) {
        let Marks { drawn, ended, urgent } = &self.marks;
        [drawn, ended, urgent].into_iter().for_each(Mark::clear);
    }
}

fn mark(mark: &Mark, wake: &Notify) {
    if mark.set() {
        wake.notify_one();
    }
}
