//! The ledger of one node: the replicated part as it has applied it, and the files behind it.
//!
//! Whoever applies the log records; that never waits for the disk. The records wait in memory for a thread that writes them, or for
//! a reader: it writes first what was applied before it came, and so reads all of that. Where there is no space they wait on. Too
//! many are let go, which leaves a gap: then nothing is called durable until that is closed, so that the log is kept for it.
//!
//! Old segments go to an archive, where there is one. No lock is held while that is written or read: its disk may be far away.

use std::{
    collections::{BTreeSet, VecDeque},
    io::{self, Read as _},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use parking_lot::{Condvar, Mutex, RwLock};
use tollgate_model::Timestamp;
use tollgate_proto::state::v1::{LedgerLoss, LedgerRow, PriceVersionRow};
use tollgate_storage::{Disk, RealDisk};

use super::{
    Archive, Chain, Extent, Missing, Nowhere, Piece, SegmentReader, Segments, State, archive, head::Head,
    reader::Cursors,
};
use crate::{Came, Changes, period::Terms};

/// Records that wait to be written, at most: some minutes of a busy cluster.
const MAX_PENDING_BYTES: usize = 64 << 20;

/// A segment is not there as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("segment {0} of the ledger is still being fetched from other nodes: ask another node, or again later")]
pub struct Fetching(pub u64);

/// The ledger of one node.
pub struct Keeper {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    archive: Option<Archive>,
    state: RwLock<State>,
    pending: Mutex<Pending>,
    wake: Condvar,
    files: Mutex<Files>,
    pub(super) cursors: Mutex<Cursors>,
}

/// What was recorded and is not in the files yet.
#[derive(Default)]
struct Pending {
    pieces: VecDeque<Piece>,
    bytes: usize,
    /// Segments of which something was let go.
    dropped: BTreeSet<u64>,
    closed: bool,
    /// There was no space for them.
    full: bool,
}

/// The files, opened with the first that is written or read: until then the state may still become another.
struct Files {
    /// What was recorded before whatever waits.
    base: Chain,
    open: Option<Segments>,
    /// Of the gaps, those that the log can still close.
    dropped: BTreeSet<u64>,
}

impl Files {
    fn new(base: Chain) -> Self {
        Self { base, open: None, dropped: BTreeSet::new() }
    }
}

impl Keeper {
    /// A ledger without anything in it, whose files will be in `dir`.
    #[must_use]
    pub fn new(dir: PathBuf) -> Self {
        Self::on(Arc::new(RealDisk), dir)
    }

    /// The same on another disk.
    #[must_use]
    pub fn on(disk: Arc<dyn Disk>, dir: PathBuf) -> Self {
        Self {
            disk,
            dir,
            archive: None,
            state: RwLock::default(),
            pending: Mutex::default(),
            wake: Condvar::new(),
            files: Mutex::new(Files::new(Chain::default())),
            cursors: Mutex::default(),
        }
    }

    /// The same with an archive, from which it reads what it has let go of.
    #[must_use]
    pub fn with_archive(self, archive: Archive) -> Self {
        Self { archive: Some(archive), ..self }
    }

    /// A short look at the replicated part. Applying waits meanwhile.
    pub fn look<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.read())
    }

    /// Takes down what one entry says: see [`State::record`].
    pub fn record<P: IntoIterator<Item = PriceVersionRow>>(
        &self,
        rows: impl IntoIterator<Item = (LedgerRow, P)>,
        changes: &mut Changes,
    ) {
        self.take_down(|state| state.record(rows, changes));
    }

    /// Takes down what one entry writes off: see [`State::record_losses`].
    pub fn record_losses(&self, losses: Vec<LedgerLoss>, changes: &mut Changes) {
        self.take_down(|state| state.record_losses(losses, changes));
    }

    fn take_down(&self, record: impl FnOnce(&mut State) -> Option<Piece>) {
        let mut state = self.state.write();
        let Some(piece) = record(&mut state) else { return };
        // Before anybody can see it in the state.
        let mut pending = self.pending.lock();
        pending.bytes += piece.bytes.len();
        pending.pieces.push_back(piece);
        if pending.bytes > MAX_PENDING_BYTES {
            let gone: Vec<Piece> = pending.pieces.drain(..).collect();
            pending.dropped.extend(gone.iter().map(|piece| piece.segment));
            pending.bytes = 0;
        }
        drop((pending, state));
        self.wake.notify_one();
    }

    /// Closes the months that are over by an entry's log time: see [`State::close_months`].
    pub fn close_months(&self, came: Came, changes: &mut Changes) {
        // Nearly every entry has nothing to close.
        if self.look(|state| state.periods().next_close().is_some_and(|due| due <= came.now)) {
            self.state.write().close_months(came, changes);
        }
    }

    /// By what the months of a tenant go from here on; nothing when it is not declared any more.
    pub fn change_terms(&self, tenant: &str, terms: Option<Terms>) {
        self.state.write().change_terms(tenant, terms);
    }

    /// A node says where it is.
    pub fn set_zone(&self, node: u64, zone: &str, changes: &mut Changes) {
        self.state.write().set_zone(node, zone, changes);
    }

    /// Puts another state in the place of this one: the files follow it when they are next asked for.
    pub fn restore(&self, state: State) {
        let mut files = self.files.lock();
        if !self.pending.lock().pieces.is_empty() {
            // It is in the other state too, as that is of the same log: what can't be written now is fetched.
            let _ = self.written(&mut files);
        }
        let mut current = self.state.write();
        let mut pending = self.pending.lock();
        *pending = Pending { closed: pending.closed, ..Pending::default() };
        drop(pending);
        *files = Files::new(state.chain().clone());
        *current = state;
        self.cursors.lock().clear();
    }

    /// Waits until something is to be written, or for so long. False once it is closed.
    pub fn wait(&self, most: Duration) -> bool {
        let mut pending = self.pending.lock();
        if pending.pieces.is_empty() && !pending.closed {
            self.wake.wait_for(&mut pending, most);
        }
        !pending.closed
    }

    /// Ends whoever waits.
    pub fn close(&self) {
        self.pending.lock().closed = true;
        self.wake.notify_all();
    }

    /// Writes what waits. Not durable before [`Keeper::sync`].
    ///
    /// # Errors
    /// `StorageFull` while there is no space: it goes on waiting. Of anything else the process has to end.
    pub fn write(&self) -> io::Result<()> {
        self.written(&mut self.files.lock()).map(drop)
    }

    /// Makes durable what was recorded before the call.
    ///
    /// # Errors
    /// As [`Keeper::write`]; `StorageFull`, too, while something is lacking that only the log still has.
    pub fn sync(&self) -> io::Result<()> {
        let files = &mut *self.files.lock();
        // What is recorded from here on may be written, too, and is not in it.
        let head = self.look(|state| Head::of(state.chain()));
        let segments = self.written(files)?;
        segments.sync()?;
        let open: BTreeSet<u64> = segments.gaps().collect();
        files.dropped.retain(|segment| open.contains(segment));
        match files.dropped.first() {
            Some(segment) => Err(io::Error::new(io::ErrorKind::StorageFull, Fetching(*segment))),
            None => files.open.as_mut().map_or(Ok(()), |segments| segments.note(head)),
        }
    }

    fn written<'a>(&self, files: &'a mut Files) -> io::Result<&'a mut Segments> {
        let segments = match files.open.take() {
            Some(segments) => segments,
            None => Segments::open(Arc::clone(&self.disk), &self.dir, &files.base)?,
        };
        let segments = files.open.insert(segments);
        let Pending { pieces, dropped, .. } = {
            let mut pending = self.pending.lock();
            let closed = pending.closed;
            std::mem::replace(&mut *pending, Pending { closed, ..Pending::default() })
        };
        dropped.iter().for_each(|segment| segments.lose(*segment));
        files.dropped.extend(dropped);
        let mut pieces = pieces;
        while let Some(piece) = pieces.front() {
            if let Err(error) = segments.write(piece) {
                self.put_back(pieces);
                return Err(error);
            }
            pieces.pop_front();
        }
        Ok(segments)
    }

    fn put_back(&self, mut pieces: VecDeque<Piece>) {
        let mut pending = self.pending.lock();
        pending.full = true;
        pending.bytes += pieces.iter().map(|piece| piece.bytes.len()).sum::<usize>();
        pieces.append(&mut pending.pieces);
        pending.pieces = pieces;
    }

    /// Whether what waits found no space when it was last tried.
    pub fn is_full(&self) -> bool {
        self.pending.lock().full
    }

    /// What is to be had from other nodes, as of now.
    ///
    /// # Errors
    /// As [`Keeper::write`].
    pub fn missing(&self) -> io::Result<Vec<Missing>> {
        let gaps: Vec<u64> = self.written(&mut self.files.lock())?.gaps().collect();
        Ok(self.look(|state| gaps.into_iter().filter_map(|gap| Missing::of(state.chain(), gap)).collect()))
    }

    /// Takes in a segment that another node had: see [`Segments::put`].
    ///
    /// # Errors
    /// What the file system says; `InvalidData` when the bytes are not what the state's hash is of.
    pub fn put(&self, missing: &Missing, bytes: &[u8]) -> io::Result<()> {
        let mut files = self.files.lock();
        self.cursors.lock().clear();
        self.written(&mut files)?.put(missing, bytes)
    }

    /// Something of a segment was found to be wrong: it is fetched from another node.
    ///
    /// # Errors
    /// As [`Keeper::write`].
    pub fn lose(&self, segment: u64) -> io::Result<()> {
        self.cursors.lock().clear();
        self.written(&mut self.files.lock())?.lose(segment);
        Ok(())
    }

    /// Copies the next segment to the archive and lets go of it: the first one that is not there yet, if its rows are all of
    /// closed months, and were settled before then. False when there is none, or no archive.
    ///
    /// # Errors
    /// What either file system says; `InvalidData` where the segment is broken; `WouldBlock` where it is still fetched. Then
    /// nothing was let go of.
    pub fn archive_next(&self, before: Timestamp) -> io::Result<bool> {
        let Some(archive) = &self.archive else { return Ok(false) };
        let Some((of, next)) = self.next_to_archive()? else { return Ok(false) };
        // Log time only grows: what comes next is not older than its last row.
        if self.begins(&next)? >= before.0 {
            return Ok(false);
        }
        let mut bytes = Vec::new();
        self.segment(&of.extent)?.read_to_end(&mut bytes)?;
        of.check(&bytes).map_err(|broken| io::Error::new(io::ErrorKind::InvalidData, broken))?;
        archive.put(&of, &bytes)?;
        self.let_go(&of)?;
        Ok(true)
    }

    /// The first segment that was not let go of, if its months are closed, and the one behind it.
    fn next_to_archive(&self) -> io::Result<Option<(Missing, Missing)>> {
        let first = self.first_kept()?;
        Ok(self.look(|state| {
            let extent = state.closed().find(|extent| extent.segment == first)?;
            Some((Missing::of(state.chain(), extent.segment)?, Missing::of(state.chain(), extent.segment + 1)?))
        }))
    }

    /// The first segment that this node has not let go of.
    pub(super) fn first_kept(&self) -> io::Result<u64> {
        let mut files = self.files.lock();
        let segments = self.written(&mut files)?;
        Ok((1..).find(|segment| !segments.is_archived(*segment)).unwrap_or(u64::MAX))
    }

    fn let_go(&self, of: &Missing) -> io::Result<()> {
        self.cursors.lock().clear();
        self.written(&mut self.files.lock())?.let_go(&of.extent)
    }

    /// Whether its archive is there, if it has one.
    pub(super) fn has_archive(&self) -> bool {
        self.archive.as_ref().is_some_and(Archive::has_some)
    }

    /// Finds a missing segment in the archive; whether it is there. It then stays there.
    ///
    /// # Errors
    /// What either file system says; `InvalidData` where the archive has something else by its name.
    pub fn find_archived(&self, missing: &Missing) -> io::Result<bool> {
        let is_complete = self.look(|state| state.chain().complete().any(|extent| *extent == missing.extent));
        let Some(archive) = self.archive.as_ref().filter(|_| is_complete) else { return Ok(false) };
        match archive.get(missing) {
            Ok(_) => self.let_go(missing).map(|()| true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Bytes of a segment, for another node: fewer than asked for where no more are there.
    ///
    /// # Errors
    /// What the file system says; `NotFound` when this node lacks it, too.
    pub fn read(&self, segment: u64, offset: u64, most: usize) -> io::Result<Vec<u8>> {
        {
            let mut files = self.files.lock();
            let segments = self.written(&mut files)?;
            if !segments.is_archived(segment) {
                return segments.read(segment, offset, most);
            }
        }
        let extent = self.look(|state| state.chain().extent(segment)).ok_or(io::ErrorKind::NotFound)?;
        let mut bytes = Vec::new();
        self.archived(&extent)?.from(offset).take(most as u64).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// A segment, from its beginning.
    pub(super) fn segment(&self, of: &Extent) -> io::Result<SegmentReader> {
        {
            let mut files = self.files.lock();
            let segments = self.written(&mut files)?;
            if segments.gaps().any(|gap| gap == of.segment) {
                return Err(io::Error::new(io::ErrorKind::WouldBlock, Fetching(of.segment)));
            }
            if !segments.is_archived(of.segment) {
                return segments.reader(of.segment);
            }
        }
        self.archived(of)
    }

    fn archived(&self, of: &Extent) -> io::Result<SegmentReader> {
        match &self.archive {
            Some(archive) => archive.reader(of),
            None => {
                let name = archive::name(of.segment, &of.hash);
                let nowhere = Nowhere::NoArchive { segment: of.segment, name };
                Err(io::Error::new(io::ErrorKind::NotFound, nowhere))
            }
        }
    }
}

#[cfg(test)]
mod tests;
