//! The one thread that writes the log: it takes what has queued up, writes and syncs it at once, and acknowledges it.

use std::collections::VecDeque;
use std::error::Error;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use openraft::storage::IOFlushed;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tollgate_storage::{Position, SegmentId, WriteError, failpoint};

use super::memory::Ticket;
use super::reader::Shared;
use super::record::{self, Head, Record};
use crate::OnFatal;
use crate::types::{Entry, LogId, TypeConfig, Vote};

/// What one sync may cover: beyond that, waiting for more to share it only delays those who came first.
const GROUP_BYTES: usize = 8 * 1024 * 1024;

/// How often a full disk is tried again.
const FULL_RETRY: Duration = Duration::from_millis(100);

/// Room for a head before the record that a new segment is begun for.
const HEAD_BYTES: usize = 1024;

/// One thing to be written.
pub(super) enum Command {
    Append { entries: Vec<Entry>, ticket: Ticket, done: IOFlushed<TypeConfig>, _room: OwnedSemaphorePermit },
    Vote(Arc<WaitingVote>),
    Committed(Option<LogId>),
    Truncate(Option<LogId>),
    Purge(LogId),
}

/// A vote on its way to the disk.
pub(super) struct WaitingVote {
    vote: Vote,
    /// Who waits, until it is saved.
    done: Mutex<Option<oneshot::Sender<io::Result<()>>>>,
}

impl WaitingVote {
    pub(super) fn new(vote: Vote, done: oneshot::Sender<io::Result<()>>) -> Self {
        Self { vote, done: Mutex::new(Some(done)) }
    }

    /// Its record, when it is about to be written.
    fn record(&self) -> Vec<u8> {
        failpoint!("vote.before-write");
        record::encode_vote(&self.vote)
    }

    /// Whether it has been answered: it may have gone before what was queued before it.
    fn is_answered(&self) -> bool {
        self.done.lock().is_none()
    }

    fn acknowledge(&self, result: io::Result<()>) {
        let Some(done) = self.done.lock().take() else { return };
        failpoint!("vote.before-acknowledge");
        // Who asked may have gone away, as at the end of the process.
        drop(done.send(result));
    }
}

impl Command {
    /// Whether somebody waits for it to be durable, or space depends on it.
    fn needs_sync(&self) -> bool {
        !matches!(self, Self::Committed(_))
    }

    fn acknowledge(self, result: io::Result<()>) {
        match self {
            Self::Append { done, .. } => {
                failpoint!("append.before-acknowledge");
                done.io_completed(result);
            }
            Self::Vote(waiting) => waiting.acknowledge(result),
            Self::Committed(_) | Self::Truncate(_) | Self::Purge(_) => {}
        }
    }
}

/// The highest entry in each segment: what tells which ones a purge empties.
#[derive(Debug, Default)]
pub(super) struct Occupancy {
    segments: VecDeque<(SegmentId, Option<u64>)>,
    /// The state after all records noted.
    head: Head,
}

impl Occupancy {
    /// Takes in a record that is in `segment`, in the order of the log.
    pub(super) fn note(&mut self, segment: SegmentId, record: &Record) {
        if self.segments.back().is_none_or(|(last, _)| *last != segment) {
            self.segments.push_back((segment, None));
        }
        match record {
            Record::Head(head) => self.head = head.clone(),
            Record::Vote(vote) => self.head.vote = Some(*vote),
            Record::Committed(committed) => self.head.committed = *committed,
            Record::Truncate(after) => self.head.last = *after,
            Record::Purge(up_to) => {
                self.head.purged = self.head.purged.max(Some(*up_to));
                self.head.last = self.head.last.max(Some(*up_to));
            }
            Record::Entry(log_id) => {
                self.head.last = Some(*log_id);
                let (_, highest) = self.segments.back_mut().expect("pushed above");
                *highest = (*highest).max(Some(log_id.index));
            }
        }
    }

    /// The segment that the last record is in.
    pub(super) fn last_segment(&self) -> Option<SegmentId> {
        self.segments.back().map(|(segment, _)| *segment)
    }

    /// Forgets the segments that hold nothing but what is purged. Returns the first one that stays.
    fn drop_purged(&mut self) -> Option<SegmentId> {
        let purged = self.head.purged.map(|purged| purged.index);
        while self.segments.len() > 1 && self.segments[0].1 <= purged {
            self.segments.pop_front();
        }
        self.segments.front().map(|(segment, _)| *segment)
    }
}

/// The writing thread.
pub(super) struct Writer {
    shared: Arc<Shared>,
    segments: tollgate_storage::Writer,
    occupancy: Occupancy,
    /// What each segment keeps for votes that can't wait for space.
    reserve: usize,
    /// The store is being dropped: a full disk is not waited for any more.
    closing: Arc<AtomicBool>,
    on_fatal: OnFatal,
}

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared>,
        segments: tollgate_storage::Writer,
        occupancy: Occupancy,
        reserve: usize,
        closing: Arc<AtomicBool>,
        on_fatal: OnFatal,
    ) -> Self {
        Self { shared, segments, occupancy, reserve, closing, on_fatal }
    }

    /// Writes until the queue is closed and empty.
    pub(super) fn run(mut self, mut inbox: mpsc::Receiver<Command>) {
        while let Some(first) = inbox.blocking_recv() {
            let group = group(first, &mut inbox);
            match self.write(&group) {
                Ok(stored) => self.acknowledge(group, stored),
                Err(error) => self.fail(group, &error),
            }
        }
        // What nobody waits for, like the committed index, is made durable at a clean end.
        if let Err(error) = self.segments.commit() {
            tracing::warn!(error = %error, "cannot sync the log at the end");
        }
    }

    /// Stages, writes and syncs a group. Returns where its entries are.
    fn write(&mut self, group: &[Command]) -> Result<Vec<Stored>, WriteError> {
        let mut stored = Vec::new();
        for command in group {
            self.stage(command, &mut stored)?;
        }
        if group.iter().any(Command::needs_sync) {
            self.patiently(tollgate_storage::Writer::commit)?;
            self.shared.syncs.fetch_add(1, Ordering::Relaxed);
        } else {
            self.patiently(tollgate_storage::Writer::write)?;
        }
        if group.iter().any(|command| matches!(command, Command::Purge(_))) {
            failpoint!("purge.before-drop");
            self.give_space_back()?;
        }
        Ok(stored)
    }

    fn stage(&mut self, command: &Command, stored: &mut Vec<Stored>) -> Result<(), WriteError> {
        match command {
            Command::Append { entries, ticket, .. } => {
                failpoint!("append.before-write");
                for (n, entry) in entries.iter().enumerate() {
                    let at = self.put(&record::encode_entry(entry), &Record::Entry(entry.log_id))?;
                    stored.push(Stored { index: entry.log_id.index, ticket: ticket.plus(n), at });
                }
            }
            Command::Vote(waiting) => self.put_vote(waiting)?,
            Command::Committed(committed) => {
                self.put(&record::encode_committed(*committed), &Record::Committed(*committed)).map(drop)?;
            }
            Command::Truncate(after) => {
                failpoint!("truncate.before-write");
                self.put(&record::encode_truncate(*after), &Record::Truncate(*after)).map(drop)?;
            }
            Command::Purge(up_to) => {
                failpoint!("purge.before-write");
                self.put(&record::encode_purge(*up_to), &Record::Purge(*up_to)).map(drop)?;
            }
        }
        Ok(())
    }

    /// Stages one record. If it does not fit, it begins a new segment, and every segment begins with a head; the last
    /// one may have none when the process ended just after it was created.
    fn put(&mut self, payload: &[u8], record: &Record) -> Result<Position, WriteError> {
        let begins = self.make_room(payload.len())?;
        self.place(payload, record, begins)
    }

    /// A vote that was written before its turn, perhaps while room was made for it, must not come back after a later one.
    fn put_vote(&mut self, waiting: &WaitingVote) -> Result<(), WriteError> {
        let payload = waiting.record();
        let begins = self.make_room(payload.len())?;
        match waiting.is_answered() {
            true => Ok(()),
            false => self.place(&payload, &Record::Vote(waiting.vote), begins).map(drop),
        }
    }

    /// Whether the record for which there is room now begins a segment.
    fn make_room(&mut self, len: usize) -> Result<bool, WriteError> {
        let headless = self.occupancy.last_segment() != Some(self.segments.active_segment());
        let (with_head, reserve) = (len + HEAD_BYTES, self.reserve);
        let rolls = !self.segments.fits(reserve + if headless { with_head } else { len });
        if rolls {
            self.patiently(|segments| segments.roll(with_head + reserve))?;
        }
        Ok(headless || rolls)
    }

    fn place(&mut self, payload: &[u8], record: &Record, begins: bool) -> Result<Position, WriteError> {
        if begins {
            let head = self.occupancy.head.clone();
            let at = self.segments.append(&record::encode_head(&head))?;
            self.occupancy.note(at.segment, &Record::Head(head));
        }
        let at = self.segments.append(payload)?;
        self.occupancy.note(at.segment, record);
        Ok(at)
    }

    /// Waits for space when the disk is full: nothing is lost and nobody was told anything yet.
    fn patiently<T>(
        &mut self,
        mut step: impl FnMut(&mut tollgate_storage::Writer) -> Result<T, WriteError>,
    ) -> Result<T, WriteError> {
        loop {
            let result = step(&mut self.segments);
            let full = matches!(result, Err(WriteError::NoSpace(_)));
            if self.shared.full.swap(full, Ordering::Relaxed) != full {
                match full {
                    true => tracing::error!("no space for the log: writes wait until there is"),
                    false => tracing::info!("there is space for the log again"),
                }
            }
            if !full || self.closing.load(Ordering::Relaxed) {
                return result;
            }
            self.save_waiting_vote()?;
            thread::park_timeout(FULL_RETRY);
        }
    }

    /// Writes the vote that waits, before its turn, as far as the segment's reserve goes. Were it to wait, a node could not
    /// learn who leads, and a leader not that it leads no more. What was queued before it is not acknowledged by it.
    fn save_waiting_vote(&mut self) -> Result<(), WriteError> {
        let waiting = self.shared.waiting_vote.lock().clone().filter(|waiting| !waiting.is_answered());
        let Some(waiting) = waiting else { return Ok(()) };
        let record = waiting.record();
        let has_head = self.occupancy.last_segment() == Some(self.segments.active_segment());
        if !has_head || self.segments.has_staged() || !self.segments.fits(record.len()) {
            return Ok(());
        }
        let at = self.segments.append(&record)?;
        self.occupancy.note(at.segment, &Record::Vote(waiting.vote));
        match self.segments.commit() {
            Err(WriteError::NoSpace(_)) => return Ok(()),
            committed => committed?,
        }
        self.shared.syncs.fetch_add(1, Ordering::Relaxed);
        self.shared.memory.lock().vote = Some(waiting.vote);
        waiting.acknowledge(Ok(()));
        Ok(())
    }

    fn give_space_back(&mut self) -> Result<(), WriteError> {
        match self.occupancy.drop_purged() {
            Some(oldest) => self.segments.drop_before(oldest).map(drop),
            None => Ok(()),
        }
    }

    fn acknowledge(&self, group: Vec<Command>, stored: Vec<Stored>) {
        {
            let mut memory = self.shared.memory.lock();
            for Stored { index, ticket, at } in stored {
                memory.stored(index, ticket, at);
            }
            for command in &group {
                if let Command::Vote(waiting) = command
                    && !waiting.is_answered()
                {
                    memory.vote = Some(waiting.vote);
                }
            }
            memory.evict();
        }
        group.into_iter().for_each(|command| command.acknowledge(Ok(())));
    }

    /// What is on the disk is unknown now, so nothing may be acknowledged any more, ever. Ends the process.
    fn fail(&self, group: Vec<Command>, error: &WriteError) {
        let given_up = matches!(error, WriteError::NoSpace(_)) && self.closing.load(Ordering::Relaxed);
        if !given_up && !matches!(error, WriteError::Poisoned) {
            let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
            (self.on_fatal.0)(&format!("{error}{cause}"));
        }
        group.into_iter().for_each(|command| command.acknowledge(Err(io::Error::other(error.to_string()))));
    }
}

/// Where an entry was written.
struct Stored {
    index: u64,
    ticket: Ticket,
    at: Position,
}

/// What came first, and whatever else has queued up.
fn group(first: Command, inbox: &mut mpsc::Receiver<Command>) -> Vec<Command> {
    let mut bytes = weight(&first);
    let mut group = vec![first];
    while bytes < GROUP_BYTES {
        let Ok(command) = inbox.try_recv() else { break };
        bytes += weight(&command);
        group.push(command);
    }
    group
}

fn weight(command: &Command) -> usize {
    match command {
        Command::Append { _room: room, .. } => room.num_permits() * 1024,
        _ => HEAD_BYTES,
    }
}
