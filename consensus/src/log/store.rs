//! The log as openraft writes it: memory first, then the queue, and the writer acknowledges what is on the disk.

use std::io;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::thread::JoinHandle;

use futures_util::FutureExt;
use futures_util::future::{self, Either};
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{EntryPayload, OptionalSend};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tollgate_storage::{Disk, OpenError, Opened, Options, RealDisk};

use super::memory::Memory;
use super::reader::{LogReader, LogStats, Shared};
use super::record::Record;
use super::writer::{Command, Occupancy, WaitingVote, Writer};
use crate::OnFatal;
use crate::types::{Entry, LogId, TypeConfig, Vote};

const OWNER: [u8; 8] = *b"raft-log";

const HEAL: &str = "this node must not go on with this log. Stop it, move its data directory away and start it again: it \
                    joins under a new Raft id and fetches everything from its peers";

/// Appends, votes and marks that may wait for the disk. openraft has few in flight; when full, Raft waits.
const QUEUE_COMMANDS: usize = 1024;

/// The entries that may wait for the disk: a tenth of a second of a fast one. When full, Raft waits.
const QUEUE_KIB: u32 = 64 * 1024;

/// What each segment keeps for votes that are cast while the disk is full: some hundreds.
const VOTES_BYTES: usize = 16 * 1024;

/// The Raft log on disk.
pub(crate) struct LogStore {
    reader: LogReader,
    queue: Option<mpsc::Sender<Command>>,
    room: Arc<Semaphore>,
    closing: Arc<AtomicBool>,
    writer: Option<JoinHandle<()>>,
}

impl LogStore {
    /// Opens the log in `dir`, or begins one. Reads all of it, so it blocks.
    ///
    /// # Errors
    /// When another process has it, or anything that was acknowledged is damaged: the error says how to heal.
    pub(crate) fn open(dir: &Path, on_fatal: OnFatal) -> Result<Self, OpenError> {
        Self::open_on(Arc::new(RealDisk), dir, Options::SEGMENT_BYTES, on_fatal)
    }

    /// The same on any disk and with segments of any size, for tests.
    pub(super) fn open_on(
        disk: Arc<dyn Disk>,
        dir: &Path,
        segment_bytes: u64,
        on_fatal: OnFatal,
    ) -> Result<Self, OpenError> {
        let options = Options { segment_bytes, ..Options::new(OWNER, HEAL) };
        let mut memory = Memory::default();
        let mut occupancy = Occupancy::default();
        let mut first_head = None;
        let Opened { writer, reader: segments, recovery } =
            tollgate_storage::open(disk, dir, options, &mut |at, payload| {
                let record = Record::decode(payload)?;
                if occupancy.last_segment() != Some(at.segment) && !matches!(record, Record::Head(_)) {
                    return Err("a segment begins without its head".to_owned());
                }
                occupancy.note(at.segment, &record);
                if let Record::Head(head) = &record {
                    first_head.get_or_insert_with(|| head.clone());
                }
                memory.replay(at, record)
            })?;
        memory.check(first_head.as_ref()).map_err(|what| OpenError::Corrupt {
            file: dir.to_owned(),
            offset: 0,
            sequence: 0,
            what,
            heal: HEAL,
        })?;
        let shared = Shared {
            memory: Mutex::new(memory),
            segments,
            full: AtomicBool::new(false),
            waiting_vote: Mutex::default(),
            syncs: AtomicU64::new(0),
            torn_bytes: recovery.torn_bytes,
        };
        let reserve = VOTES_BYTES.min(usize::try_from(segment_bytes / 16).unwrap_or(VOTES_BYTES));
        Ok(Self::start(Arc::new(shared), writer, occupancy, reserve, on_fatal))
    }

    fn start(
        shared: Arc<Shared>,
        segments: tollgate_storage::Writer,
        occupancy: Occupancy,
        reserve: usize,
        on_fatal: OnFatal,
    ) -> Self {
        let (queue, inbox) = mpsc::channel(QUEUE_COMMANDS);
        let closing = Arc::new(AtomicBool::new(false));
        let writer = Writer::new(Arc::clone(&shared), segments, occupancy, reserve, Arc::clone(&closing), on_fatal);
        let thread = std::thread::Builder::new().name("raft-log".to_owned());
        let writer = thread.spawn(move || writer.run(inbox)).expect("a process that starts can have a thread");
        let reader = LogReader { shared };
        let LogStats { entries, entry_bytes, disk_bytes, segments, torn_bytes, .. } = reader.stats();
        tracing::info!(entries, entry_bytes, disk_bytes, segments, torn_bytes, "log opened");
        Self {
            reader,
            queue: Some(queue),
            room: Arc::new(Semaphore::new(QUEUE_KIB as usize)),
            closing,
            writer: Some(writer),
        }
    }

    /// A reader, which also has the log's figures.
    pub(crate) fn reader(&self) -> LogReader {
        self.reader.clone()
    }

    async fn queue(&self, command: Command) -> io::Result<()> {
        let queue = self.queue.as_ref().ok_or_else(stopped)?;
        queue.send(command).await.map_err(|_| stopped())
    }
}

impl Drop for LogStore {
    /// What is queued is written first. Only a full disk is not waited for any more.
    fn drop(&mut self) {
        self.closing.store(true, std::sync::atomic::Ordering::Relaxed);
        drop(self.queue.take());
        if let Some(writer) = self.writer.take() {
            writer.thread().unpark();
            // A panic was told by the panic hook, and nobody is left to be told again.
            let _ = writer.join();
        }
        let LogStats { syncs, full, .. } = self.reader.stats();
        tracing::info!(syncs, full, "log closed");
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let (last_purged_log_id, last_log_id) = self.reader.ends();
        Ok(LogState { last_purged_log_id, last_log_id })
    }

    async fn get_log_reader(&mut self) -> LogReader {
        self.reader()
    }

    /// Raft does nothing else until it is saved, so on a full disk it does not wait behind the entries that do.
    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let (done, saved) = oneshot::channel();
        let waiting = Arc::new(WaitingVote::new(*vote, done));
        *self.reader.shared.waiting_vote.lock() = Some(Arc::clone(&waiting));
        let saved = saved.map(|saved| saved.map_err(|_| stopped())?);
        // The queue may be full as well.
        let queued = self.queue(Command::Vote(waiting));
        match future::select(saved, pin!(queued)).await {
            Either::Left((saved, _)) => saved,
            Either::Right((queued, saved)) => {
                queued?;
                saved.await
            }
        }
    }

    /// Rides with the next sync: an older committed index after a power cut is only an older one.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.reader.shared.memory.lock().committed = committed;
        self.queue(Command::Committed(committed)).await
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.reader.shared.memory.lock().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let room = Arc::clone(&self.room).acquire_many_owned(kib(&entries)).await.map_err(|_| stopped())?;
        let ticket = self.reader.shared.memory.lock().append(&entries)?;
        self.queue(Command::Append { entries, ticket, done: callback, _room: room }).await
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        self.reader.shared.memory.lock().truncate_after(last_log_id);
        self.queue(Command::Truncate(last_log_id)).await
    }

    /// The space comes back once the purge is on the disk.
    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        self.reader.shared.memory.lock().purge(log_id);
        self.queue(Command::Purge(log_id)).await
    }
}

/// What entries take of the queue's room: all of it at most, so that one larger than the queue passes alone.
fn kib(entries: &[Entry]) -> u32 {
    let bytes = |entry: &Entry| match &entry.payload {
        EntryPayload::Normal(proposal) => proposal.command.len(),
        EntryPayload::Blank | EntryPayload::Membership(_) => 0,
    };
    let kib = entries.iter().map(bytes).sum::<usize>() / 1024 + 1;
    u32::try_from(kib).unwrap_or(QUEUE_KIB).min(QUEUE_KIB)
}

fn stopped() -> io::Error {
    io::Error::other("the log's writer has stopped")
}
