//! Commands that share an entry: what a leader gathers of them before it proposes.
//!
//! The first one that comes goes at once, alone; what comes within some milliseconds after it goes together, with the next
//! entry. So a lone command waits for nothing, and there are never more such entries than the pace allows, however many
//! nodes send. Nothing is kept over a change of leader: the entry is refused as any other, and all in it are told.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use bytes::Bytes;
use tokio::{sync::oneshot, time::Instant};

use super::{
    Attempt,
    propose::{Outcome, Queued},
};
use crate::{
    Committed,
    gate::{Gate, Passage},
    types::Asked,
};

/// Between two shared entries, unless one is full: at most 200 a second.
const PACE: Duration = Duration::from_millis(5);

/// What one entry takes, unless a single command is larger. A follower has it within one message.
const MAX_BYTES: usize = 1 << 20;

/// What one entry takes: to apply so many takes some milliseconds, in which nothing else is applied.
const MAX_RECORDS: usize = 4_096;

/// How many entries were shared, and by how many commands, since this node has started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ShareStats {
    /// Entries committed.
    pub entries: u64,
    /// Commands in them.
    pub commands: u64,
}

#[derive(Debug, Default)]
pub(super) struct ShareCounters {
    entries: AtomicU64,
    commands: AtomicU64,
}

impl ShareCounters {
    pub(super) fn stats(&self) -> ShareStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ShareStats { entries: read(&self.entries), commands: read(&self.commands) }
    }

    fn count(&self, commands: usize) {
        self.entries.fetch_add(1, Ordering::Relaxed);
        self.commands.fetch_add(commands as u64, Ordering::Relaxed);
    }
}

/// Whoever waits for the outcome of one entry.
pub(super) enum Waiting {
    Alone(oneshot::Sender<Outcome>),
    /// In the order of their commands.
    Shared(Vec<oneshot::Sender<Outcome>>),
}

impl Waiting {
    /// Tells them all. Whoever waited may have given up.
    pub(super) fn answer(self, outcome: Outcome, gate: &dyn Gate, counters: &ShareCounters) {
        let waiting = match self {
            Self::Alone(answer) => return drop(answer.send(outcome)),
            Self::Shared(waiting) => waiting,
        };
        if matches!(outcome, Attempt::Done(_)) {
            counters.count(waiting.len());
        }
        let outcomes = split(outcome, waiting.len(), gate);
        for (answer, outcome) in waiting.into_iter().zip(outcomes) {
            drop(answer.send(outcome));
        }
    }
}

/// The outcome of each of so many commands.
fn split(outcome: Outcome, commands: usize, gate: &dyn Gate) -> Vec<Outcome> {
    let all = |one: &dyn Fn() -> Outcome| (0..commands).map(|_| one()).collect();
    match outcome {
        Attempt::Done(committed) if commands == 1 => vec![Attempt::Done(committed)],
        Attempt::Done(Committed { index, outcome }) => match gate.split(&outcome, commands) {
            Some(each) if each.len() == commands => {
                each.into_iter().map(|outcome| Attempt::Done(Committed { index, outcome })).collect()
            }
            _ => all(&|| Attempt::Unknown("applied, but its outcome is not one that can be shared".into())),
        },
        Attempt::Refused(error) => all(&|| Attempt::Refused(error.clone())),
        Attempt::NotLeader => all(&|| Attempt::NotLeader),
        Attempt::Unknown(reason) => all(&|| Attempt::Unknown(reason.clone())),
    }
}

/// One entry to be proposed.
pub(super) struct Submission {
    pub(super) request: Asked,
    pub(super) command: Bytes,
    pub(super) waiting: Waiting,
}

/// Commands that wait for the next shared entry.
#[derive(Default)]
pub(super) struct Pool {
    commands: Vec<Bytes>,
    waiting: Vec<oneshot::Sender<Outcome>>,
    bytes: usize,
    records: usize,
    /// When the last shared entry went.
    last: Option<Instant>,
}

impl Pool {
    /// When the next entry goes; `None` while nobody waits for it.
    pub(super) fn due(&self) -> Option<Instant> {
        self.last.map(|last| last + PACE).filter(|_| !self.commands.is_empty())
    }

    /// Takes in what came; gives what goes into the log now, in the order in which it came but for what waits.
    pub(super) fn sort(
        &mut self,
        batch: impl Iterator<Item = Queued>,
        gate: &dyn Gate,
        now: Instant,
    ) -> Vec<Submission> {
        let mut go = Vec::new();
        for Queued { request, command, passage, answer } in batch {
            let Passage::Shared { records } = passage else {
                go.push(Submission { request, command, waiting: Waiting::Alone(answer) });
                continue;
            };
            if self.bytes + command.len() > MAX_BYTES || self.records + records > MAX_RECORDS {
                go.extend(self.take(gate, now));
            }
            self.bytes += command.len();
            self.records += records;
            self.commands.push(command);
            self.waiting.push(answer);
        }
        if self.last.is_none_or(|last| last + PACE <= now) {
            go.extend(self.take(gate, now));
        }
        go
    }

    fn take(&mut self, gate: &dyn Gate, now: Instant) -> Option<Submission> {
        if self.commands.is_empty() {
            return None;
        }
        let Self { mut commands, waiting, .. } = std::mem::replace(self, Self { last: Some(now), ..Self::default() });
        let command = match commands.len() {
            1 => commands.swap_remove(0),
            _ => gate.join(&commands),
        };
        Some(Submission { request: Asked::Once, command, waiting: Waiting::Shared(waiting) })
    }
}

#[cfg(test)]
#[path = "share_tests.rs"]
mod tests;
