//! What is known of the log in memory: the vote, the marks, where each entry is, and the recent entries themselves.

use std::collections::VecDeque;
use std::io;

use openraft::EntryPayload;
use tollgate_storage::Position;

use super::record::{Head, Record};
use crate::types::{Entry, LogId, Vote};

/// Recent entries stay in memory up to this much, so that appending to followers and applying read no disk. Entries
/// that are not on the disk yet stay whatever they weigh; the queue bounds them.
const RECENT_BYTES: u64 = 16 * 1024 * 1024;

/// What an entry weighs besides its command.
const ENTRY_OVERHEAD_BYTES: u64 = 64;

/// A membership is small; what it weighs exactly does not matter.
const MEMBERSHIP_BYTES: u64 = 1024;

/// Tells two entries with the same index apart, when the first was truncated while it was still queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket(u64);

impl Ticket {
    /// The ticket of the entry `n` after the one with this ticket, in the same append.
    pub(super) fn plus(self, n: usize) -> Self {
        Self(self.0 + n as u64)
    }
}

/// Where an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// On its way to the disk, and thus among the recent ones.
    Queued(Ticket),
    Stored(Position),
}

#[derive(Debug)]
struct Slot {
    log_id: LogId,
    bytes: u64,
    place: Place,
}

/// An entry to be read.
#[derive(Debug)]
pub(super) enum Found {
    Recent(Entry),
    Stored(Position),
}

#[derive(Debug, Default)]
pub(super) struct Memory {
    /// As it is on the disk.
    pub(super) vote: Option<Vote>,
    pub(super) committed: Option<LogId>,
    pub(super) purged: Option<LogId>,
    /// The index that the next entry must have; any, as long as there never was one.
    next: Option<u64>,
    /// The entries before `next`, each following the one before.
    slots: VecDeque<Slot>,
    /// The last entries themselves.
    recent: VecDeque<Entry>,
    recent_bytes: u64,
    entry_bytes: u64,
    tickets: u64,
}

impl Memory {
    pub(super) fn last_log_id(&self) -> Option<LogId> {
        self.slots.back().map(|slot| slot.log_id).or(self.purged)
    }

    /// The index of the first entry, and that after the last one.
    pub(super) fn bounds(&self) -> (u64, u64) {
        let next = self.next.unwrap_or_default();
        (next - self.slots.len() as u64, next)
    }

    /// What the entries that are kept weigh.
    pub(super) fn entry_bytes(&self) -> u64 {
        self.entry_bytes
    }

    pub(super) fn entry_count(&self) -> u64 {
        self.slots.len() as u64
    }

    /// Adds entries that are about to be queued. They can be read at once.
    pub(super) fn append(&mut self, entries: &[Entry]) -> io::Result<Ticket> {
        let mut next = self.next;
        for entry in entries {
            refuse_hole(next, entry.log_id).map_err(|what| io::Error::new(io::ErrorKind::InvalidInput, what))?;
            next = Some(entry.log_id.index + 1);
        }
        let first = Ticket(self.tickets);
        for (n, entry) in entries.iter().enumerate() {
            let bytes = weight(entry);
            self.push(Slot { log_id: entry.log_id, bytes, place: Place::Queued(first.plus(n)) });
            self.recent.push_back(entry.clone());
            self.recent_bytes += bytes;
        }
        self.tickets += entries.len() as u64;
        Ok(first)
    }

    /// Notes that a queued entry is on the disk, unless it was truncated meanwhile.
    pub(super) fn stored(&mut self, index: u64, ticket: Ticket, at: Position) {
        let (first, next) = self.bounds();
        if (first..next).contains(&index) {
            let slot = self.slot_mut(index - first);
            if slot.place == Place::Queued(ticket) {
                slot.place = Place::Stored(at);
            }
        }
    }

    /// Whether this entry is on the disk, and so are all before it: they are written in their order.
    pub(super) fn is_durable(&self, log_id: LogId) -> bool {
        if self.purged.is_some_and(|purged| log_id.index <= purged.index) {
            return true;
        }
        let (first, next) = self.bounds();
        (first..next).contains(&log_id.index) && {
            let slot = self.slot(log_id.index - first);
            slot.log_id == log_id && matches!(slot.place, Place::Stored(_))
        }
    }

    /// How many entries wait for the disk, and what they weigh.
    pub(super) fn waiting(&self) -> (usize, u64) {
        let waiting = self.slots.iter().rev().take_while(|slot| matches!(slot.place, Place::Queued(_)));
        waiting.fold((0, 0), |(entries, bytes), slot| (entries + 1, bytes + slot.bytes))
    }

    /// Lets go of the oldest recent entries that can be read from the disk.
    pub(super) fn evict(&mut self) {
        while self.recent_bytes > RECENT_BYTES {
            let oldest = &self.slots[self.slots.len() - self.recent.len()];
            if matches!(oldest.place, Place::Queued(_)) {
                break;
            }
            self.recent_bytes -= oldest.bytes;
            self.recent.pop_front();
        }
    }

    pub(super) fn truncate_after(&mut self, after: Option<LogId>) {
        let keep = after.map_or(0, |after| after.index + 1);
        while self.slots.back().is_some_and(|slot| slot.log_id.index >= keep) {
            self.forget_last();
        }
        self.next = match (after, self.purged) {
            (None, None) => None,
            (after, purged) => after.max(purged).map(|last| last.index + 1),
        };
    }

    pub(super) fn purge(&mut self, up_to: LogId) {
        while self.slots.front().is_some_and(|slot| slot.log_id.index <= up_to.index) {
            self.forget_first();
        }
        self.purged = self.purged.max(Some(up_to));
        self.next = self.next.max(Some(up_to.index + 1));
    }

    /// The entries of `start..end` that there are, as far as `limit` bytes go; at least one.
    pub(super) fn find(&self, start: u64, end: u64, limit: u64) -> Vec<Found> {
        let (first, next) = self.bounds();
        let recent_from = next - self.recent.len() as u64;
        let mut bytes = 0;
        let mut found = Vec::new();
        for index in start.max(first)..end.min(next) {
            let slot = self.slot(index - first);
            bytes += slot.bytes;
            if bytes > limit && !found.is_empty() {
                break;
            }
            found.push(match slot.place {
                _ if index >= recent_from => Found::Recent(self.recent(index - recent_from).clone()),
                Place::Stored(at) => Found::Stored(at),
                Place::Queued(_) => unreachable!("a queued entry is never evicted"),
            });
        }
        found
    }

    /// Takes in a record while the log is opened.
    pub(super) fn replay(&mut self, at: Position, record: Record) -> Result<(), String> {
        match record {
            Record::Head(head) => self.replay_head(head),
            Record::Vote(vote) => self.vote = Some(vote),
            Record::Entry(log_id) => {
                refuse_hole(self.next, log_id)?;
                self.push(Slot { log_id, bytes: u64::from(at.len), place: Place::Stored(at) });
            }
            Record::Truncate(after) => self.truncate_after(after),
            Record::Purge(up_to) => self.purge(up_to),
            Record::Committed(committed) => self.committed = committed,
        }
        Ok(())
    }

    /// Only the first head says anything new: the segments before it were dropped.
    fn replay_head(&mut self, head: Head) {
        if self.next.is_none() && self.slots.is_empty() {
            self.next = head.last.max(head.purged).map(|last| last.index + 1);
        }
        (self.vote, self.committed, self.purged) = (head.vote, head.committed, head.purged);
    }

    /// After all records: whether the entries begin where they should.
    pub(super) fn check(&self, first_head: Option<&Head>) -> Result<(), String> {
        let Some(first) = self.slots.front() else { return Ok(()) };
        let begins = first.log_id.index;
        let expected = match (self.purged, first_head.and_then(|head| head.last)) {
            (Some(purged), _) if begins > purged.index + 1 => purged.index + 1,
            (None, Some(last)) if begins > 0 => last.index.min(begins - 1),
            _ => return Ok(()),
        };
        Err(format!("log entry {expected} is missing, the first one is {begins}"))
    }

    fn push(&mut self, slot: Slot) {
        self.next = Some(slot.log_id.index + 1);
        self.entry_bytes += slot.bytes;
        self.slots.push_back(slot);
    }

    fn forget_last(&mut self) {
        let slot = self.slots.pop_back().expect("asked for by one that is there");
        self.entry_bytes -= slot.bytes;
        if self.recent.pop_back().is_some() {
            self.recent_bytes -= slot.bytes;
        }
    }

    fn forget_first(&mut self) {
        if self.recent.len() == self.slots.len() {
            self.recent.pop_front();
            self.recent_bytes -= self.slots[0].bytes;
        }
        let slot = self.slots.pop_front().expect("asked for by one that is there");
        self.entry_bytes -= slot.bytes;
    }

    fn slot(&self, n: u64) -> &Slot {
        &self.slots[index(n)]
    }

    fn slot_mut(&mut self, n: u64) -> &mut Slot {
        &mut self.slots[index(n)]
    }

    fn recent(&self, n: u64) -> &Entry {
        &self.recent[index(n)]
    }
}

fn index(n: u64) -> usize {
    usize::try_from(n).expect("less than what is in memory")
}

fn refuse_hole(next: Option<u64>, log_id: LogId) -> Result<(), String> {
    match next {
        Some(next) if next != log_id.index => Err(format!("log entry {next} is missing before {}", log_id.index)),
        _ => Ok(()),
    }
}

fn weight(entry: &Entry) -> u64 {
    ENTRY_OVERHEAD_BYTES
        + match &entry.payload {
            EntryPayload::Blank => 0,
            EntryPayload::Normal(proposal) => proposal.command.len() as u64,
            EntryPayload::Membership(_) => MEMBERSHIP_BYTES,
        }
}
