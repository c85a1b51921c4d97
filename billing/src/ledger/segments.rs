//! The segments of one node, as files in a directory.
//!
//! The state says what belongs into them ([`Chain`]); the files may have less, after a crash, or more, when the state is made again
//! from an older one. What is more is cut: the log brings it again. A segment that has less is a *gap*: nothing is written behind
//! it in its file, so that its length tells it to the next process too. Other nodes have the segment; it comes whole, and takes
//! the place of the file only once all of it was checked.
//!
//! A segment is begun only after the one before it was synced as a whole, so only the last file can be torn.
//!
//! How far they were synced is noted beside them (`head.rs`), for whoever reads them without the state.
//!
//! In the place of a segment that was let go of is a note of what the archive calls it: so its absence is no gap. Where there
//! are both, the file counts.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use tollgate_storage::{Disk, DiskFile, read_full, write_full};

use super::{
    archive,
    chain::{Chain, Extent, Hash, Piece},
    head::{Head, Note},
    segment::{Broken, Records, Why},
};

/// Files that the state knows nothing of are put here: never removed, as they may be all that is left of a ledger.
const ASIDE: &str = "aside";
const SUFFIX: &str = "seg";
/// What comes from another node, until all of it is there.
const PART: &str = "part";
/// In the place of a segment that is in the archive.
const NOTE: &str = "archived";

/// The files.
pub struct Segments {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    head: Note,
    /// Written to since the last sync.
    dirty: BTreeMap<u64, Arc<dyn DiskFile>>,
    /// Files were made since the last sync.
    new_names: bool,
    /// The one that is written to.
    current: Option<(u64, Arc<dyn DiskFile>)>,
    /// Segments that lack something.
    gaps: BTreeSet<u64>,
    /// Segments that were let go of.
    archived: BTreeSet<u64>,
    /// What came for them meanwhile, in order: at most the rest of the segment that was open when it was lost.
    waiting: Vec<Piece>,
}

/// A segment that is to be had from another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Missing {
    /// What it has, as far as the state knows.
    pub extent: Extent,
    /// The hash before its first record, and the last row before it.
    pub before: (Hash, u64),
}

impl Missing {
    /// What a segment should have by now, if it has anything.
    #[must_use]
    pub fn of(chain: &Chain, segment: u64) -> Option<Self> {
        let before = (chain.before(segment), chain.seq_before(segment));
        chain.extent(segment).map(|extent| Self { extent, before })
    }

    /// Whether these bytes are all of it.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn check(&self, bytes: &[u8]) -> Result<(), Broken> {
        let (before, after_seq) = self.before;
        let mut records = Records::open(bytes, self.extent.segment, before, after_seq)?;
        for record in &mut records {
            record?;
        }
        let is_all = (records.offset(), records.hash()) == (self.extent.bytes, self.extent.hash);
        let broken = || Broken {
            segment: self.extent.segment,
            offset: records.offset(),
            after_seq: records.last_seq(),
            why: Why::Hash,
        };
        is_all.then_some(()).ok_or_else(broken)
    }
}

impl Segments {
    /// Opens the directory, and makes of it what the chain says as far as that is there; the rest is a gap.
    ///
    /// # Errors
    /// What the file system says.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path, chain: &Chain) -> io::Result<Self> {
        disk.create_dir(dir)?;
        // Before anything is cut.
        let head = Note::open(&*disk, dir, Head::of(chain))?;
        let mut segments = Self {
            disk,
            head,
            dir: dir.to_owned(),
            dirty: BTreeMap::new(),
            new_names: false,
            current: None,
            gaps: BTreeSet::new(),
            archived: BTreeSet::new(),
            waiting: Vec::new(),
        };
        let (there, notes) = (segments.numbers(SUFFIX)?, segments.numbers(NOTE)?);
        let open = Some(chain.open().segment).filter(|_| chain.open().bytes > 0);
        let wanted: Vec<u64> = chain.complete().map(|it| it.segment).chain(open).collect();
        for segment in there.iter().filter(|segment| wanted.binary_search(segment).is_err()) {
            segments.set_aside(*segment)?;
        }
        let last = there.last().copied().unwrap_or(0);
        for of in wanted.into_iter().filter_map(|segment| Missing::of(chain, segment)) {
            let segment = of.extent.segment;
            let is_noted = notes.binary_search(&segment).is_ok() && !there.contains(&segment);
            if is_noted && segment < chain.open().segment {
                segments.archived.insert(segment);
                continue;
            }
            let has = if there.contains(&segment) { segments.keep(&of, segment == last)? } else { 0 };
            if has < of.extent.bytes {
                segments.gaps.insert(segment);
            }
        }
        Ok(segments)
    }

    /// Segments that lack something, in order.
    pub fn gaps(&self) -> impl Iterator<Item = u64> {
        self.gaps.iter().copied()
    }

    /// Something of a segment was found to be wrong, or was not written: it is to be had from another node.
    pub fn lose(&mut self, segment: u64) {
        self.archived.remove(&segment);
        self.gaps.insert(segment);
    }

    /// Cuts a file to what it has of its extent; says how much that is.
    fn keep(&self, of: &Missing, may_be_torn: bool) -> io::Result<u64> {
        let file = self.file(of.extent.segment)?;
        let length = file.len()?;
        let has = if length >= of.extent.bytes && !may_be_torn { of.extent.bytes } else { self.good(of)?.0 };
        if has < length {
            file.set_len(has)?;
            file.sync_data()?;
        }
        Ok(has)
    }

    /// How many bytes of a segment are good, up to its extent, and the hash there.
    fn good(&self, of: &Missing) -> io::Result<(u64, Hash)> {
        let (before, after_seq) = of.before;
        let from = io::BufReader::with_capacity(1 << 20, self.reader(of.extent.segment)?);
        let mut records = match Records::open(from, of.extent.segment, before, after_seq) {
            Ok(records) => records,
            Err(Broken { why: Why::Io(error), .. }) => return Err(error),
            Err(_) => return Ok((0, before)),
        };
        let mut good = (records.offset(), records.hash());
        while good.0 < of.extent.bytes {
            match records.next() {
                Some(Ok(_)) if records.offset() <= of.extent.bytes => good = (records.offset(), records.hash()),
                Some(Err(Broken { why: Why::Io(error), .. })) => return Err(error),
                _ => break,
            }
        }
        Ok(good)
    }

    /// Writes what an entry adds; what belongs behind a gap waits until that is closed. Not durable before [`Segments::sync`].
    ///
    /// # Errors
    /// What the file system says: the same piece may be written again.
    pub fn write(&mut self, piece: &Piece) -> io::Result<()> {
        if self.gaps.contains(&piece.segment) {
            self.waiting.push(piece.clone());
            return Ok(());
        }
        self.append(piece)
    }

    fn append(&mut self, piece: &Piece) -> io::Result<()> {
        let file = match &self.current {
            Some((segment, file)) if *segment == piece.segment => Arc::clone(file),
            _ => self.enter(piece.segment)?,
        };
        self.dirty.insert(piece.segment, Arc::clone(&file));
        write_full(&*file, &piece.bytes, piece.offset)
    }

    /// The file of a segment, made if it is not there yet.
    fn enter(&mut self, segment: u64) -> io::Result<Arc<dyn DiskFile>> {
        self.sync()?;
        let file = match self.file(segment) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.new_names = true;
                self.disk.file(&self.path(segment), true)?
            }
            found => found?,
        };
        self.current = Some((segment, Arc::clone(&file)));
        Ok(file)
    }

    /// Makes durable what was written.
    ///
    /// # Errors
    /// What the file system says; then the process must end, as nobody knows what the disk has.
    pub fn sync(&mut self) -> io::Result<()> {
        for file in self.dirty.values() {
            file.sync_data()?;
        }
        self.dirty.clear();
        if self.new_names {
            self.disk.sync_dir(&self.dir)?;
            self.new_names = false;
        }
        Ok(())
    }

    /// Notes that all up to there is synced, or is a gap.
    ///
    /// # Errors
    /// What the file system says.
    pub(super) fn note(&mut self, head: Head) -> io::Result<()> {
        self.head.synced(head)
    }

    /// Puts a segment that another node had in the place of whatever is there of it, and what waited for it behind it.
    ///
    /// # Errors
    /// What the file system says; `InvalidData` when the bytes are not what the state's hash is of. Then nothing has changed.
    pub fn put(&mut self, missing: &Missing, bytes: &[u8]) -> io::Result<()> {
        missing.check(bytes).map_err(|broken| io::Error::new(io::ErrorKind::InvalidData, broken))?;
        let segment = missing.extent.segment;
        let (path, part) = (self.path(segment), self.path(segment).with_extension(PART));
        let file = self.disk.file(&part, true)?;
        write_full(&*file, bytes, 0)?;
        file.sync_data()?;
        self.disk.rename(&part, &path)?;
        self.disk.sync_dir(&self.dir)?;
        self.current = self.current.take().filter(|(current, _)| *current != segment);
        self.dirty.remove(&segment);
        let waiting = std::mem::take(&mut self.waiting);
        let (behind, rest) = waiting.into_iter().partition(|piece| piece.segment == segment);
        self.waiting = rest;
        self.close_gap(segment, missing.extent.bytes, behind)
    }

    /// What was lost of what waited is still a gap.
    fn close_gap(&mut self, segment: u64, from: u64, behind: Vec<Piece>) -> io::Result<()> {
        let mut has = from;
        for piece in behind.into_iter().filter(|piece| piece.offset >= from) {
            if piece.offset != has {
                return Ok(());
            }
            self.append(&piece)?;
            has += piece.bytes.len() as u64;
        }
        self.gaps.remove(&segment);
        Ok(())
    }

    /// Whether a segment was let go of.
    #[must_use]
    pub fn is_archived(&self, segment: u64) -> bool {
        self.archived.contains(&segment)
    }

    /// Lets go of a complete segment that the archive durably has: a note takes the place of the file. Closes the gap, where it is one.
    ///
    /// # Errors
    /// What the file system says: then the file is still what counts.
    pub fn let_go(&mut self, of: &Extent) -> io::Result<()> {
        let (path, note) = (self.path(of.segment), self.path(of.segment).with_extension(NOTE));
        let file = self.disk.file(&note, true)?;
        write_full(&*file, archive::name(of.segment, &of.hash).as_bytes(), 0)?;
        file.sync_data()?;
        self.disk.sync_dir(&self.dir)?;
        match self.disk.remove(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Err(_) | Ok(()) => self.disk.sync_dir(&self.dir)?,
        }
        self.current = self.current.take().filter(|(current, _)| *current != of.segment);
        self.dirty.remove(&of.segment);
        self.waiting.retain(|piece| piece.segment != of.segment);
        self.gaps.remove(&of.segment);
        self.archived.insert(of.segment);
        Ok(())
    }

    /// Bytes of a segment, for another node: fewer than asked for where no more are there.
    ///
    /// # Errors
    /// What the file system says; `NotFound` when there is a gap, or no such segment.
    pub fn read(&self, segment: u64, offset: u64, most: usize) -> io::Result<Vec<u8>> {
        if self.gaps.contains(&segment) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let mut bytes = vec![0; most];
        let read = read_full(&*self.file(segment)?, &mut bytes, offset)?;
        bytes.truncate(read);
        Ok(bytes)
    }

    /// Reads a segment from its beginning.
    ///
    /// # Errors
    /// `NotFound` when it is not there; what the file system says.
    pub fn reader(&self, segment: u64) -> io::Result<SegmentReader> {
        Ok(SegmentReader::new(self.file(segment)?))
    }

    fn numbers(&self, suffix: &str) -> io::Result<Vec<u64>> {
        let number = |path: &PathBuf| path.file_stem()?.to_str()?.parse().ok();
        let files = self.disk.list(&self.dir)?;
        let segments = files.iter().filter(|path| path.extension().is_some_and(|it| it == suffix));
        let mut numbers: Vec<u64> = segments.filter_map(number).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    fn set_aside(&self, segment: u64) -> io::Result<()> {
        let aside = self.dir.join(ASIDE);
        self.disk.create_dir(&aside)?;
        let path = self.path(segment);
        let name = path.file_name().map(PathBuf::from).unwrap_or_default();
        self.disk.rename(&path, &aside.join(name))?;
        self.disk.sync_dir(&aside)?;
        self.disk.sync_dir(&self.dir)
    }

    fn path(&self, segment: u64) -> PathBuf {
        self.dir.join(format!("{segment:012}.{SUFFIX}"))
    }

    fn file(&self, segment: u64) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.file(&self.path(segment), false)
    }
}

/// Reads a segment from its beginning, whoever writes to it meanwhile.
pub struct SegmentReader {
    file: Arc<dyn DiskFile>,
    at: u64,
}

impl SegmentReader {
    pub(super) fn new(file: Arc<dyn DiskFile>) -> Self {
        Self { file, at: 0 }
    }

    /// Goes on from there.
    pub(super) fn from(self, at: u64) -> Self {
        Self { at, ..self }
    }
}

impl io::Read for SegmentReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = read_full(&*self.file, buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests;
