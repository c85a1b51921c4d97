//! Reading entries: recent ones from memory, older ones from the disk, never more at once than a message may carry.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use futures_util::{Stream, stream};
use openraft::{OptionalSend, RaftLogReader};
use parking_lot::Mutex;
use tollgate_storage::{Located, Reader};

use super::memory::{Found, Memory};
use super::record::decode_entry;
use super::writer::WaitingVote;
use crate::types::{Entry, LogId, TypeConfig, Vote};

/// What one append to a follower, or one step of applying, reads at most, unless a single entry is larger.
pub(super) const READ_BYTES: u64 = 2 * 1024 * 1024;

/// What may wait for space on a full disk: a fraction of what the queue holds, so that Raft itself never waits for it.
const WAITING_ENTRIES: usize = 256;
const WAITING_BYTES: u64 = 16 * 1024 * 1024;

/// What the log's parts share.
pub(super) struct Shared {
    pub(super) memory: Mutex<Memory>,
    pub(super) segments: Reader,
    /// The disk is full, and writes wait for space.
    pub(super) full: AtomicBool,
    /// The last vote that was to be saved: Raft saves one at a time.
    pub(super) waiting_vote: Mutex<Option<Arc<WaitingVote>>>,
    pub(super) syncs: AtomicU64,
    pub(super) torn_bytes: u64,
}

/// Figures of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogStats {
    /// The entries that are kept.
    pub entries: u64,
    /// What they weigh.
    pub entry_bytes: u64,
    /// What the segments take on the disk, with what is reserved in the last one.
    pub disk_bytes: u64,
    /// The segments.
    pub segments: usize,
    /// What the last start cut off the end: a write that was never acknowledged.
    pub torn_bytes: u64,
    /// Syncs since the start: each may have acknowledged many writes.
    pub syncs: u64,
    /// The disk is full: writes wait until there is space.
    pub full: bool,
}

/// Reads the log. Clones read the same one.
#[derive(Clone)]
pub(crate) struct LogReader {
    pub(super) shared: Arc<Shared>,
}

impl LogReader {
    /// Whether the disk is full, and writes wait for space.
    pub(crate) fn is_full(&self) -> bool {
        self.shared.full.load(Ordering::Relaxed)
    }

    /// Whether this entry and all before it are on the disk. openraft takes whatever it wrote before a vote for written
    /// once the vote is, which on a full disk goes first.
    pub(crate) fn is_durable(&self, log_id: Option<LogId>) -> bool {
        log_id.is_none_or(|log_id| self.shared.memory.lock().is_durable(log_id))
    }

    /// Whether entries may be appended now: on a full disk only some.
    pub(crate) fn takes_entries(&self) -> bool {
        let (entries, bytes) = match self.is_full() {
            true => self.shared.memory.lock().waiting(),
            false => return true,
        };
        entries < WAITING_ENTRIES && bytes < WAITING_BYTES
    }

    /// The log's figures as of now.
    pub(crate) fn stats(&self) -> LogStats {
        let shared = &*self.shared;
        let (entries, entry_bytes) = {
            let memory = shared.memory.lock();
            (memory.entry_count(), memory.entry_bytes())
        };
        LogStats {
            entries,
            entry_bytes,
            disk_bytes: shared.segments.disk_bytes(),
            segments: shared.segments.segment_count(),
            torn_bytes: shared.torn_bytes,
            syncs: shared.syncs.load(Ordering::Relaxed),
            full: self.is_full(),
        }
    }

    async fn read(&self, start: u64, end: u64, limit: u64) -> io::Result<Vec<Entry>> {
        let sources = self.sources(start, end, limit)?;
        if sources.iter().all(|source| matches!(source, Source::Recent(_))) {
            return sources.into_iter().map(Source::entry).collect();
        }
        let read = move || sources.into_iter().map(Source::entry).collect();
        tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?
    }

    /// Under one lock, with the files at hand: what is truncated or purged afterwards changes nothing any more.
    fn sources(&self, start: u64, end: u64, limit: u64) -> io::Result<Vec<Source>> {
        let memory = self.shared.memory.lock();
        let found = memory.find(start, end, limit).into_iter();
        found
            .map(|found| match found {
                Found::Recent(entry) => Ok(Source::Recent(entry)),
                Found::Stored(at) => self.shared.segments.locate(at).map(Source::Stored).map_err(io::Error::other),
            })
            .collect()
    }

    /// The bounds of `range`, cut to what there is.
    fn bounds(&self, range: &impl RangeBounds<u64>) -> (u64, u64) {
        let (first, next) = self.shared.memory.lock().bounds();
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(last) => last.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        (start.max(first), end.min(next))
    }
}

enum Source {
    Recent(Entry),
    Stored(Located),
}

impl Source {
    fn entry(self) -> io::Result<Entry> {
        match self {
            Self::Recent(entry) => Ok(entry),
            Self::Stored(located) => {
                let payload = located.read().map_err(io::Error::other)?;
                decode_entry(&payload).map_err(|what| io::Error::new(io::ErrorKind::InvalidData, what))
            }
        }
    }
}

impl RaftLogReader<TypeConfig> for LogReader {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<Entry>, io::Error>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = self.bounds(&range);
        self.read(start, end, u64::MAX).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        self.read(start, end, READ_BYTES).await
    }

    /// Reads on only when what was read is consumed: applying a long log takes no more memory than a short one.
    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = self.bounds(&range);
        let state = (self.clone(), start, VecDeque::new());
        Box::pin(stream::try_unfold(state, move |(reader, next, mut ready)| async move {
            if ready.is_empty() && next < end {
                ready = reader.read(next, end, READ_BYTES).await?.into();
            }
            Ok(ready.pop_front().map(|entry: Entry| {
                let next = entry.log_id.index + 1;
                (entry, (reader, next, ready))
            }))
        }))
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.shared.memory.lock().vote)
    }
}

impl LogReader {
    /// The last vote that is on the disk.
    pub(crate) fn vote(&self) -> Option<Vote> {
        self.shared.memory.lock().vote
    }

    /// What openraft calls the state of the log: the purge point and the last entry.
    pub(crate) fn ends(&self) -> (Option<LogId>, Option<LogId>) {
        let memory = self.shared.memory.lock();
        (memory.purged, memory.last_log_id())
    }
}
