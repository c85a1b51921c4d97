//! Opening a log: every segment is read once, in order, and a torn tail is cut.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{Disk, DiskFile, read_full};
use crate::reader::{OpenSegment, Segments};
use crate::record::SECTOR_BYTES;
use crate::scan::{End, Known, Scan};
use crate::segment::{NEW_EXTENSION, SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::watermark::{Mark, WATERMARK_FILE, Watermark};
use crate::writer::{Active, Writer, create_segment};
use crate::{OpenError, Position, Reader, SegmentId, index};

/// The sequence number of a log's first record; 0 would make a header's share of a sector look unwritten.
const FIRST_SEQUENCE: u64 = 1;
const FIRST_SEGMENT: SegmentId = SegmentId(1);

/// How a log is kept.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Whose log it is: another owner's segments are refused.
    pub owner: [u8; 8],
    /// Reserved for each segment; a larger record gets a segment of its own size.
    pub segment_bytes: u64,
    /// What an operator can do about damage, to be said in the error.
    pub heal: &'static str,
}

impl Options {
    /// Large enough that rolling is rare, small enough that a purge gives space back soon.
    pub const SEGMENT_BYTES: u64 = 16 * 1024 * 1024;

    /// The usual options of `owner`.
    #[must_use]
    pub fn new(owner: [u8; 8], heal: &'static str) -> Self {
        Self { owner, segment_bytes: Self::SEGMENT_BYTES, heal }
    }
}

/// What opening found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Good records.
    pub records: u64,
    /// Bytes of an unsynced write, cut off the end.
    pub torn_bytes: u64,
    /// The segment that they were cut from, and where.
    pub torn_at: Option<(PathBuf, u64)>,
}

/// An open log.
pub struct Opened {
    /// Writes, from one thread at a time.
    pub writer: Writer,
    /// Reads, from any thread.
    pub reader: Reader,
    /// What was found.
    pub recovery: Recovery,
}

/// What the owner does with each record; its error is what is wrong with one.
pub type Visit<'a> = dyn FnMut(Position, &[u8]) -> Result<(), String> + 'a;

/// Opens the log in `dir`, or begins one. `visit` gets every good record, oldest first; what it gets is durable once
/// this has returned. An error of `visit` ends the opening.
///
/// # Errors
/// `Locked`, `Corrupt` (with nothing changed), `Foreign` when `visit` fails, or `Io`.
pub fn open(disk: Arc<dyn Disk>, dir: &Path, options: Options, visit: &mut Visit<'_>) -> Result<Opened, OpenError> {
    disk.create_dir(dir).map_err(io_error("create", dir))?;
    let lock = disk.lock(dir).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => OpenError::Locked { dir: dir.to_owned() },
        _ => io_error("lock", dir)(error),
    })?;
    let opening = Opening { disk: &*disk, dir, options };
    let mark = Watermark::read(&*disk, dir).map_err(io_error("read", &dir.join(WATERMARK_FILE)))?;
    let files = opening.segment_files(mark)?;
    let segments = Arc::new(Segments::default());
    let mut recovery = Recovery::default();
    let (active, sequence) = match files.last() {
        None => (opening.begin(&segments)?, FIRST_SEQUENCE),
        Some(_) => opening.recover(&files, mark, &segments, &mut recovery, visit)?,
    };
    // Everything that was found is synced by now, so it may be told to anyone.
    let oldest = files.first().map_or(active.id, |first| first.header.id);
    let watermark = Watermark::create(&*disk, dir, Mark { synced: sequence, oldest })
        .map_err(io_error("write", &dir.join(WATERMARK_FILE)))?;
    let reader = Reader::new(Arc::clone(&segments));
    let writer = Writer::new(disk, dir.to_owned(), options, lock, segments, active, watermark, sequence);
    Ok(Opened { writer, reader, recovery })
}

/// A segment file with its header read.
struct SegmentFile {
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    header: SegmentHeader,
}

struct Opening<'a> {
    disk: &'a dyn Disk,
    dir: &'a Path,
    options: Options,
}

impl Opening<'_> {
    /// The segments that belong to the log, oldest first and without a gap.
    fn segment_files(&self, mark: Option<Mark>) -> Result<Vec<SegmentFile>, OpenError> {
        let listed = self.disk.list(self.dir).map_err(io_error("list", self.dir))?;
        for path in listed.iter().filter(|path| path.extension().is_some_and(|extension| extension == NEW_EXTENSION)) {
            self.disk.remove(path).map_err(io_error("remove", path))?; // its creation was cut short
        }
        let mut ids: Vec<SegmentId> = listed.iter().filter_map(|path| SegmentId::of(path)).collect();
        ids.sort_unstable();
        let oldest = mark.map_or(FIRST_SEGMENT, |mark| mark.oldest);
        let (dropped, live): (Vec<_>, Vec<_>) = ids.into_iter().partition(|id| *id < oldest);
        self.refuse_gaps(mark, &live)?;
        for id in dropped {
            let path = id.path(self.dir);
            self.disk.remove(&path).map_err(io_error("remove", &path))?; // its dropping was cut short
        }
        live.into_iter().map(|id| self.segment_file(id)).collect()
    }

    fn refuse_gaps(&self, mark: Option<Mark>, live: &[SegmentId]) -> Result<(), OpenError> {
        let missing = |id| Err(self.corrupt(id, 0, 0, "the segment is missing".to_owned()));
        let Some(first) = live.first() else {
            let empty = mark.is_none_or(|mark| mark.synced <= FIRST_SEQUENCE && mark.oldest == FIRST_SEGMENT);
            return if empty { Ok(()) } else { missing(mark.map_or(FIRST_SEGMENT, |mark| mark.oldest)) };
        };
        let mut expected = mark.map_or(*first, |mark| mark.oldest);
        for id in live {
            if *id != expected {
                return missing(expected);
            }
            expected = expected.next();
        }
        Ok(())
    }

    fn segment_file(&self, id: SegmentId) -> Result<SegmentFile, OpenError> {
        let path = id.path(self.dir);
        let file = self.disk.file(&path, false).map_err(io_error("open", &path))?;
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        let read = read_full(&*file, &mut bytes, 0).map_err(io_error("read", &path))?;
        // A segment gets its name only when its header is on the disk: a bad one was damaged later.
        let header = SegmentHeader::decode(&bytes[..read]).map_err(|what| self.corrupt(id, 0, 0, what.to_owned()))?;
        if header.id != id {
            return Err(self.corrupt(id, 0, header.first_sequence, format!("it is segment {}, renamed", header.id)));
        }
        if header.owner != self.options.owner {
            let owner = String::from_utf8_lossy(&header.owner).into_owned();
            return Err(self.corrupt(id, 0, header.first_sequence, format!("it belongs to {owner:?}")));
        }
        Ok(SegmentFile { path, file, header })
    }

    /// Begins an empty log.
    fn begin(&self, segments: &Segments) -> Result<Active, OpenError> {
        let header = SegmentHeader::new(FIRST_SEGMENT, FIRST_SEQUENCE, self.options.owner);
        let path = FIRST_SEGMENT.path(self.dir);
        create_segment(self.disk, self.dir, &header, self.options.segment_bytes, segments)
            .map_err(io_error("create", &path))
    }

    /// Reads all segments. Returns the last one, ready to be written on, and the next sequence number.
    fn recover(
        &self,
        files: &[SegmentFile],
        mark: Option<Mark>,
        segments: &Segments,
        recovery: &mut Recovery,
        visit: &mut Visit<'_>,
    ) -> Result<(Active, u64), OpenError> {
        let mut expected = files.first().map_or(FIRST_SEQUENCE, |first| first.header.first_sequence);
        let mut active = None;
        for (n, file) in files.iter().enumerate() {
            if file.header.first_sequence != expected {
                let what = format!("it begins with record {}", file.header.first_sequence);
                return Err(self.corrupt(file.header.id, 0, expected, what));
            }
            let sealed_at = files.get(n + 1).map(|next| next.header.first_sequence);
            let known = Known { synced: mark.map_or(0, |mark| mark.synced), sealed_at };
            let (end, sequence) = self.read_segment(file, known, recovery, visit)?;
            expected = sequence;
            let len = self.settle(file, end, sealed_at.is_some()).map_err(io_error("repair", &file.path))?;
            let open = OpenSegment { file: Arc::clone(&file.file), salt: file.header.salt, file_bytes: len };
            segments.insert(file.header.id, open);
            active = Some(Active::at(file.header, Arc::clone(&file.file), end.offset, len));
        }
        Ok((active.expect("there is a segment"), expected))
    }

    fn read_segment(
        &self,
        file: &SegmentFile,
        known: Known,
        recovery: &mut Recovery,
        visit: &mut Visit<'_>,
    ) -> Result<(SegmentEnd, u64), OpenError> {
        let bytes = read_all(&*file.file).map_err(io_error("read", &file.path))?;
        let mut scan = Scan::new(&bytes, &file.header, known);
        while let Some(found) = scan.next() {
            let len = u32::try_from(found.payload.len()).expect("its header holds it in 32 bits");
            let at = Position { segment: file.header.id, offset: found.offset, len };
            recovery.records += 1;
            visit(at, found.payload).map_err(|what| self.foreign(file, at, what))?;
        }
        let torn = match scan.end() {
            End::Clean => 0,
            End::Torn(bytes) => bytes,
            End::Corrupt(what) => return Err(self.corrupt(file.header.id, scan.offset, scan.sequence, what)),
        };
        if torn > 0 {
            recovery.torn_bytes += torn;
            recovery.torn_at = Some((file.path.clone(), scan.offset));
            tracing::warn!(file = %file.path.display(), offset = scan.offset, bytes = torn, "torn tail cut off");
        }
        Ok((SegmentEnd { offset: scan.offset, torn: torn > 0 }, scan.sequence))
    }

    /// Makes a segment what the writer expects: nothing but zeros after its end, reserved if it is written on, and
    /// everything that was read durable, as it may have been in the page cache alone. Returns the file's length.
    fn settle(&self, file: &SegmentFile, end: SegmentEnd, sealed: bool) -> io::Result<u64> {
        let mut len = file.file.len()?;
        if end.torn || (sealed && len > end.offset) {
            file.file.set_len(end.offset)?;
            len = end.offset;
        }
        if !sealed {
            if len < self.options.segment_bytes {
                match file.file.allocate(self.options.segment_bytes) {
                    Ok(()) => len = self.options.segment_bytes,
                    // A full disk must not keep a node from starting: there may be something to purge.
                    Err(error) => tracing::warn!(%error, "no space to reserve for the log"),
                }
            }
            file.file.sync_data()?;
        }
        Ok(len)
    }

    fn corrupt(&self, id: SegmentId, offset: u64, sequence: u64, what: String) -> OpenError {
        OpenError::Corrupt { file: id.path(self.dir), offset, sequence, what, heal: self.options.heal }
    }

    fn foreign(&self, file: &SegmentFile, at: Position, what: String) -> OpenError {
        OpenError::Foreign { file: file.path.clone(), at, what, heal: self.options.heal }
    }
}

#[derive(Clone, Copy)]
struct SegmentEnd {
    offset: u64,
    torn: bool,
}

fn read_all(file: &dyn DiskFile) -> io::Result<Vec<u8>> {
    // Rounded up, so that the scan may look at a whole sector.
    let mut bytes = vec![0; index(file.len()?.next_multiple_of(SECTOR_BYTES))];
    let read = read_full(file, &mut bytes, 0)?;
    bytes.truncate(read);
    Ok(bytes)
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    move |source| OpenError::Io { what, path: path.to_owned(), source }
}
