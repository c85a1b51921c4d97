//! Staging records, writing what is staged, syncing it, and moving on to the next segment.

use std::any::Any;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{Disk, DiskFile, write_full};
use crate::reader::{OpenSegment, Segments};
use crate::record::{MAX_RECORD_BYTES, Stamp, encode, record_len};
use crate::segment::{NEW_EXTENSION, SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::watermark::Watermark;
use crate::{Options, Position, SegmentId, WriteError, failpoint};

/// The one writer of a log.
///
/// [`Writer::append`] stages a record in memory, [`Writer::write`] hands what is staged to the kernel, and
/// [`Writer::commit`] returns once everything appended so far is on the disk.
pub struct Writer {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    options: Options,
    segments: Arc<Segments>,
    active: Active,
    watermark: Watermark,
    /// Records for `active`, from its end on.
    staged: Vec<u8>,
    next_sequence: u64,
    synced: u64,
    poisoned: bool,
    _lock: Box<dyn Any + Send + Sync>,
}

/// The segment that is written on.
pub(crate) struct Active {
    pub(crate) id: SegmentId,
    file: Arc<dyn DiskFile>,
    salt: u32,
    /// Where the next write goes.
    end: u64,
    /// Reserved up to here.
    reserved: u64,
}

impl Active {
    pub(crate) fn at(header: SegmentHeader, file: Arc<dyn DiskFile>, end: u64, reserved: u64) -> Self {
        Self { id: header.id, file, salt: header.salt, end, reserved }
    }
}

impl Writer {
    #[expect(clippy::too_many_arguments, reason = "called once, by `open`, with what it has just put together")]
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        options: Options,
        lock: Box<dyn Any + Send + Sync>,
        segments: Arc<Segments>,
        active: Active,
        watermark: Watermark,
        next_sequence: u64,
    ) -> Self {
        Self {
            disk,
            dir,
            options,
            segments,
            active,
            watermark,
            staged: Vec::new(),
            next_sequence,
            synced: next_sequence,
            poisoned: false,
            _lock: lock,
        }
    }

    /// Whether a payload of `len` bytes goes into the segment that is being written.
    #[must_use]
    pub fn fits(&self, len: usize) -> bool {
        let limit = self.active.reserved.max(self.options.segment_bytes);
        self.active.end + self.staged.len() as u64 + record_len(len) <= limit
    }

    /// Whether records are staged that were not written yet.
    #[must_use]
    pub fn has_staged(&self) -> bool {
        !self.staged.is_empty()
    }

    /// Stages a record. It can be read once it was written. Rolls to a new segment if it does not fit.
    ///
    /// # Errors
    /// `Size`, or an error of the roll; then nothing was staged.
    pub fn append(&mut self, payload: &[u8]) -> Result<Position, WriteError> {
        if payload.is_empty() || payload.len() > MAX_RECORD_BYTES {
            return Err(WriteError::Size(payload.len()));
        }
        if !self.fits(payload.len()) {
            self.roll(payload.len())?;
        }
        let offset = self.active.end + self.staged.len() as u64;
        let stamp = Stamp { salt: self.active.salt, sequence: self.next_sequence, synced: self.synced };
        encode(&mut self.staged, offset, stamp, payload);
        self.next_sequence += 1;
        let len = u32::try_from(payload.len()).expect("bounded by MAX_RECORD_BYTES");
        Ok(Position { segment: self.active.id, offset, len })
    }

    /// Writes what is staged, without syncing it: it survives the end of this process, but not a power cut.
    ///
    /// # Errors
    /// `NoSpace`: everything is still staged. `Write` and `Poisoned` are final.
    pub fn write(&mut self) -> Result<(), WriteError> {
        self.refuse_if_poisoned()?;
        if self.staged.is_empty() {
            return Ok(());
        }
        failpoint!("log.before-write");
        match write_full(&*self.active.file, &self.staged, self.active.end) {
            Ok(()) => {
                self.active.end += self.staged.len() as u64;
                self.staged.clear();
                self.note_growth();
                Ok(())
            }
            Err(error) if is_full(&error) => Err(self.undo_partial_write(error)),
            Err(error) => Err(self.poison(WriteError::Write(error))),
        }
    }

    /// Makes everything that was appended durable: one write and one `fdatasync`.
    ///
    /// # Errors
    /// `NoSpace`: everything is still staged, call again. After any other error the writer is poisoned.
    pub fn commit(&mut self) -> Result<(), WriteError> {
        self.write()?;
        if self.synced == self.next_sequence {
            return Ok(());
        }
        failpoint!("log.before-sync");
        if let Err(error) = self.active.file.sync_data() {
            return Err(self.poison(WriteError::SyncFailed(error)));
        }
        failpoint!("log.after-sync");
        self.synced = self.next_sequence;
        if let Err(error) = self.watermark.synced(self.synced) {
            // Nothing is lost by it: damage to the last records is then told by their shape alone.
            tracing::warn!(%error, "cannot write the log's watermark");
        }
        failpoint!("log.after-watermark");
        Ok(())
    }

    /// Makes everything durable and begins a new segment, with room for a payload of `len` bytes.
    ///
    /// # Errors
    /// As [`Writer::commit`].
    pub fn roll(&mut self, len: usize) -> Result<(), WriteError> {
        self.commit()?;
        let header = SegmentHeader::new(self.active.id.next(), self.next_sequence, self.options.owner);
        let reserve = self.options.segment_bytes.max(SEGMENT_HEADER_BYTES as u64 + record_len(len));
        let created = create_segment(&*self.disk, &self.dir, &header, reserve, &self.segments);
        let next = created.map_err(|error| match is_full(&error) {
            true => WriteError::NoSpace(error),
            false => self.poison(WriteError::SyncFailed(error)),
        })?;
        let full = std::mem::replace(&mut self.active, next);
        failpoint!("segment.before-trim");
        // Gives back what was reserved; a crash before it leaves zeros that the next opening cuts.
        if full.file.set_len(full.end).is_ok() {
            self.segments.resize(full.id, full.end);
        }
        Ok(())
    }

    /// Drops all segments before `segment`, and never the one that is written on. Returns the bytes given back.
    ///
    /// What is still needed of them must have been committed again before.
    ///
    /// # Errors
    /// `SyncFailed` poisons the writer.
    pub fn drop_before(&mut self, segment: SegmentId) -> Result<u64, WriteError> {
        self.refuse_if_poisoned()?;
        let oldest = segment.min(self.active.id);
        let dropped = self.segments.before(oldest);
        if dropped.is_empty() {
            return Ok(0);
        }
        let before = self.disk_bytes();
        self.remove(oldest, &dropped).map_err(|error| self.poison(WriteError::SyncFailed(error)))?;
        Ok(before - self.disk_bytes())
    }

    /// The segment that is being written.
    #[must_use]
    pub fn active_segment(&self) -> SegmentId {
        self.active.id
    }

    /// The bytes that the log takes on the disk, with what is reserved for records to come.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        crate::Reader::new(Arc::clone(&self.segments)).disk_bytes()
    }

    fn remove(&mut self, oldest: SegmentId, dropped: &[SegmentId]) -> io::Result<()> {
        failpoint!("drop.before-mark");
        self.watermark.oldest(oldest)?;
        failpoint!("drop.after-mark");
        for id in dropped {
            self.disk.remove(&id.path(&self.dir))?;
            failpoint!("drop.after-remove");
            self.segments.remove(*id);
        }
        self.disk.sync_dir(&self.dir)
    }

    /// A full disk took a part of what was staged. Left there, it could later follow other records of the same length
    /// and be taken for theirs, so it is cut off.
    fn undo_partial_write(&mut self, error: io::Error) -> WriteError {
        match self.active.file.set_len(self.active.end) {
            Ok(()) => WriteError::NoSpace(error),
            Err(error) => self.poison(WriteError::Write(error)),
        }
    }

    /// Where nothing could be reserved, the file grew by writing.
    fn note_growth(&mut self) {
        if self.active.end > self.active.reserved {
            self.active.reserved = self.active.end;
            self.segments.resize(self.active.id, self.active.end);
        }
    }

    fn poison(&mut self, error: WriteError) -> WriteError {
        self.poisoned = true;
        error
    }

    fn refuse_if_poisoned(&self) -> Result<(), WriteError> {
        if self.poisoned { Err(WriteError::Poisoned) } else { Ok(()) }
    }
}

/// Creates a segment under a temporary name and gives it its own once its header and its space are on the disk: a
/// segment with a bad header is then never the trace of a crash.
pub(crate) fn create_segment(
    disk: &dyn Disk,
    dir: &Path,
    header: &SegmentHeader,
    reserve: u64,
    segments: &Segments,
) -> io::Result<Active> {
    let path = header.id.path(dir);
    let temporary = path.with_extension(NEW_EXTENSION);
    let file = disk.file(&temporary, true)?;
    let prepared = file.allocate(reserve).and_then(|()| write_full(&*file, &header.encode(), 0)).and_then(|()| {
        failpoint!("segment.before-sync");
        file.sync_data()
    });
    if let Err(error) = prepared {
        let _ = disk.remove(&temporary); // the next try, or the next opening, replaces it anyway
        return Err(error);
    }
    failpoint!("segment.before-rename");
    disk.rename(&temporary, &path)?;
    failpoint!("segment.after-rename");
    disk.sync_dir(dir)?;
    let open = OpenSegment { file: Arc::clone(&file), salt: header.salt, file_bytes: reserve };
    segments.insert(header.id, open);
    Ok(Active::at(*header, file, SEGMENT_HEADER_BYTES as u64, reserve))
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
