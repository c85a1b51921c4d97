//! The archive: a directory to which nodes copy segments before they let go of them.
//!
//! A file is named by its segment and by the hash that the state has of it, so nodes may share a directory, and what is there is
//! either all of that segment or found to be something else. It gets its name only once its bytes were synced and read back.
//! The directory is never made here: where it is not mounted nothing is written to the disk below it.

use std::{
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use tollgate_storage::{Disk, DiskFile, RealDisk, write_full};

use super::{Extent, Hash, Missing, SegmentReader};
use crate::statement::{hex, unhex};

const SUFFIX: &str = "seg";
/// What is being copied.
const PART: &str = "part";

/// A directory of complete segments.
pub struct Archive {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// What this node's copies are called until they are whole, so that nodes don't write to the same file.
    node: u64,
}

/// A segment is not on this node any more, and not where it was copied to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Nowhere {
    /// It is not in the archive.
    #[error("segment {segment} of the ledger was archived, and {} is not there: mount the archive, or put the file back", path.display())]
    Lost {
        /// The segment, from 1.
        segment: u64,
        /// Where it should be.
        path: PathBuf,
    },
    /// This node does not know the archive.
    #[error(
        "segment {segment} of the ledger was archived as {name}: name that directory in ledger.archive of this node"
    )]
    NoArchive {
        /// The segment, from 1.
        segment: u64,
        /// What it was archived as.
        name: String,
    },
}

impl Archive {
    /// The archive in a directory that is there, as `node` uses it.
    #[must_use]
    pub fn new(dir: PathBuf, node: u64) -> Self {
        Self::on(Arc::new(RealDisk), dir, node)
    }

    /// The same on another disk.
    #[must_use]
    pub fn on(disk: Arc<dyn Disk>, dir: PathBuf, node: u64) -> Self {
        Self { disk, dir, node }
    }

    /// Reads a segment from its beginning.
    ///
    /// # Errors
    /// `NotFound` with [`Nowhere`] when it is not there; what the file system says.
    pub fn reader(&self, of: &Extent) -> io::Result<SegmentReader> {
        Ok(SegmentReader::new(self.file(of)?))
    }

    /// All bytes of a segment, found to be those that the state has the hash of.
    ///
    /// # Errors
    /// `NotFound` with [`Nowhere`] when it is not there; `InvalidData` when it is something else; what the file system says.
    pub fn get(&self, of: &Missing) -> io::Result<Vec<u8>> {
        checked(of, self.file(&of.extent)?)
    }

    /// Whether the directory has segments at all: where it has none it is probably not mounted.
    pub fn has_some(&self) -> bool {
        self.disk.list(&self.dir).is_ok_and(|files| files.iter().any(|path| segment_of(path).is_some()))
    }

    /// Copies a segment here. Once this returns it is durable.
    ///
    /// # Errors
    /// What the file system says; `InvalidData` when what was written is read back as something else. Then it is not here.
    pub fn put(&self, of: &Missing, bytes: &[u8]) -> io::Result<()> {
        match self.get(of) {
            // Another node may have put it here a moment ago.
            Ok(_) => self.file(&of.extent)?.sync_data()?,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => {
                self.copy(of, bytes)?;
            }
            Err(error) => return Err(error),
        }
        self.disk.sync_dir(&self.dir)
    }

    fn copy(&self, of: &Missing, bytes: &[u8]) -> io::Result<()> {
        let path = self.path(&of.extent);
        let part = path.with_extension(format!("{}.{PART}", self.node));
        let copied = self.write(of, bytes, &part).and_then(|()| self.disk.rename(&part, &path));
        if copied.is_err() {
            // Space that a full disk can use. Where that fails, too, the next copy begins with an empty file.
            let _ = self.disk.remove(&part);
        }
        copied
    }

    fn write(&self, of: &Missing, bytes: &[u8], part: &Path) -> io::Result<()> {
        let file = self.disk.file(part, true)?;
        write_full(&*file, bytes, 0)?;
        file.sync_data()?;
        checked(of, file).map(drop)
    }

    fn file(&self, of: &Extent) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.path(of);
        self.disk.file(&path, false).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => io::Error::new(error.kind(), Nowhere::Lost { segment: of.segment, path }),
            _ => error,
        })
    }

    fn path(&self, of: &Extent) -> PathBuf {
        self.dir.join(name(of.segment, &of.hash))
    }
}

fn checked(of: &Missing, file: Arc<dyn DiskFile>) -> io::Result<Vec<u8>> {
    // What is longer is something else, however long.
    let most = of.extent.bytes + 1;
    let mut bytes = Vec::new();
    SegmentReader::new(file).take(most).read_to_end(&mut bytes)?;
    of.check(&bytes).map_err(|broken| io::Error::new(io::ErrorKind::InvalidData, broken))?;
    Ok(bytes)
}

/// What a segment is called in an archive.
pub(super) fn name(segment: u64, hash: &Hash) -> String {
    let hash = hex(hash);
    format!("{segment:012}-{hash}.{SUFFIX}")
}

/// The segment that a file of an archive is of.
pub(super) fn segment_of(path: &Path) -> Option<u64> {
    let (number, _) = path.file_stem()?.to_str()?.split_once('-')?;
    number.parse().ok().filter(|_| path.extension().is_some_and(|it| it == SUFFIX))
}

/// The hash that such a name has in it.
pub(super) fn hash_of(path: &Path) -> Option<Hash> {
    let (_, hash) = path.file_stem()?.to_str()?.split_once('-')?;
    unhex(hash)
}
