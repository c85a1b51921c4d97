//! The segments of one node, as files in a directory.
//!
//! The state says what belongs into them ([`Chain`]); the files may have less, after a crash, or more, when the state is made again
//! from an older one. What is more is cut: the log brings it again. What is less is told, and fetched from other nodes.
//!
//! A segment is begun only after the one before it was synced as a whole, so only the last file can be torn.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use tollgate_storage::{Disk, DiskFile, read_full, write_full};

use super::{
    chain::{Chain, Extent, Hash, Piece},
    segment::{Broken, Records, Why},
};

/// Files that the state knows nothing of are put here: never removed, as they may be all that is left of a ledger.
const ASIDE: &str = "aside";
const SUFFIX: &str = "seg";

/// The files.
pub struct Segments {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// Written to since the last sync.
    dirty: BTreeMap<u64, Arc<dyn DiskFile>>,
    /// Files were made since the last sync.
    new_names: bool,
    /// The one that is written to.
    current: Option<(u64, Arc<dyn DiskFile>)>,
}

/// What a segment lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Missing {
    /// What it should have.
    pub extent: Extent,
    /// The hash before its first record, and the last row before it.
    pub before: (Hash, u64),
    /// It has so many bytes of that.
    pub has: u64,
}

impl Segments {
    /// Opens the directory, and makes of it what the chain says as far as that is there. What is not comes back, in order.
    ///
    /// # Errors
    /// What the file system says.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path, chain: &Chain) -> io::Result<(Self, Vec<Missing>)> {
        disk.create_dir(dir)?;
        let segments = Self { disk, dir: dir.to_owned(), dirty: BTreeMap::new(), new_names: false, current: None };
        let there = segments.numbers()?;
        let open = Some(*chain.open()).filter(|open| open.bytes > 0);
        let wanted: BTreeMap<u64, Extent> = chain.complete().copied().chain(open).map(|it| (it.segment, it)).collect();
        for segment in there.iter().filter(|segment| !wanted.contains_key(segment)) {
            segments.set_aside(*segment)?;
        }
        let last = there.last().copied().unwrap_or(0);
        let mut missing = Vec::new();
        let mut after_seq = 0;
        for extent in wanted.values() {
            let before = (chain.before(extent.segment), after_seq);
            let whole = Missing { extent: *extent, before, has: 0 };
            after_seq = extent.last_seq;
            let has = if there.contains(&extent.segment) { segments.keep(&whole, extent.segment == last)? } else { 0 };
            if has < extent.bytes {
                missing.push(Missing { has, ..whole });
            }
        }
        Ok((segments, missing))
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

    /// Writes what an entry adds. Not durable before [`Segments::sync`].
    ///
    /// # Errors
    /// What the file system says: the same piece may be written again.
    pub fn write(&mut self, piece: &Piece) -> io::Result<()> {
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

    /// Adds bytes that another node had of what is missing, from where it is missing on; says whether that is all of it now.
    ///
    /// # Errors
    /// What the file system says; `InvalidData` when they are not what the state's hash is of. They are cut off again.
    pub fn fill(&mut self, missing: &Missing, bytes: Vec<u8>) -> io::Result<bool> {
        let whole = missing.has + bytes.len() as u64 >= missing.extent.bytes;
        let excess = (missing.has + bytes.len() as u64).saturating_sub(missing.extent.bytes);
        let keep = bytes.len().saturating_sub(usize::try_from(excess).unwrap_or(usize::MAX));
        let piece = Piece {
            segment: missing.extent.segment,
            offset: missing.has,
            bytes: bytes.get(..keep).unwrap_or_default().to_vec(),
        };
        self.write(&piece)?;
        self.sync()?;
        if !whole {
            return Ok(false);
        }
        let good = self.good(missing)?;
        if good == (missing.extent.bytes, missing.extent.hash) {
            return Ok(true);
        }
        let wrong = format!("segment {} came with other bytes than the cluster's", missing.extent.segment);
        Err(io::Error::new(io::ErrorKind::InvalidData, wrong))
    }

    /// Reads a segment from its beginning.
    ///
    /// # Errors
    /// `NotFound` when it is not there; what the file system says.
    pub fn reader(&self, segment: u64) -> io::Result<impl io::Read + use<>> {
        Ok(FileReader { file: self.file(segment)?, at: 0 })
    }

    fn numbers(&self) -> io::Result<Vec<u64>> {
        let number = |path: &PathBuf| path.file_stem()?.to_str()?.parse().ok();
        let files = self.disk.list(&self.dir)?;
        let segments = files.iter().filter(|path| path.extension().is_some_and(|it| it == SUFFIX));
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

struct FileReader {
    file: Arc<dyn DiskFile>,
    at: u64,
}

impl io::Read for FileReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = read_full(&*self.file, buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests;
