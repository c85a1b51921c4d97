//! Reading records by position, while the writer goes on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;

use crate::disk::{DiskFile, read_full};
use crate::record::{HEADER_BYTES, Header, record_len};
use crate::{Position, ReadError, SegmentId, index};

/// A segment that can be read.
#[derive(Clone)]
pub(crate) struct OpenSegment {
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) salt: u32,
    pub(crate) file_bytes: u64,
}

/// The segments of a log, shared by its writer and its readers.
#[derive(Default)]
pub(crate) struct Segments {
    open: RwLock<BTreeMap<SegmentId, OpenSegment>>,
    bytes: AtomicU64,
}

impl Segments {
    pub(crate) fn insert(&self, id: SegmentId, segment: OpenSegment) {
        let mut open = self.open.write();
        open.insert(id, segment);
        self.recount(&open);
    }

    pub(crate) fn resize(&self, id: SegmentId, file_bytes: u64) {
        let mut open = self.open.write();
        if let Some(segment) = open.get_mut(&id) {
            segment.file_bytes = file_bytes;
        }
        self.recount(&open);
    }

    pub(crate) fn remove(&self, id: SegmentId) {
        let mut open = self.open.write();
        open.remove(&id);
        self.recount(&open);
    }

    pub(crate) fn before(&self, id: SegmentId) -> Vec<SegmentId> {
        self.open.read().range(..id).map(|(id, _)| *id).collect()
    }

    fn recount(&self, open: &BTreeMap<SegmentId, OpenSegment>) {
        self.bytes.store(open.values().map(|segment| segment.file_bytes).sum(), Ordering::Relaxed);
    }
}

/// Reads records of a log, from any thread.
#[derive(Clone)]
pub struct Reader {
    segments: Arc<Segments>,
}

impl Reader {
    pub(crate) fn new(segments: Arc<Segments>) -> Self {
        Self { segments }
    }

    /// Finds the file of a record that was written. What is returned can be read even after its segment was dropped.
    ///
    /// # Errors
    /// `Gone` when its segment was dropped.
    pub fn locate(&self, at: Position) -> Result<Located, ReadError> {
        let open = self.segments.open.read();
        let segment = open.get(&at.segment).ok_or(ReadError::Gone(at.segment))?;
        Ok(Located { at, file: Arc::clone(&segment.file), salt: segment.salt })
    }

    /// The payload of a record that was written.
    ///
    /// # Errors
    /// When it was dropped, is damaged, or the file system fails.
    pub fn read(&self, at: Position) -> Result<Vec<u8>, ReadError> {
        self.locate(at)?.read()
    }

    /// The bytes that the log takes on the disk, with what is reserved for records to come.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        self.segments.bytes.load(Ordering::Relaxed)
    }

    /// The number of segments.
    #[must_use]
    pub fn segment_count(&self) -> usize {
        self.segments.open.read().len()
    }
}

/// A record whose file is at hand.
pub struct Located {
    at: Position,
    file: Arc<dyn DiskFile>,
    salt: u32,
}

impl Located {
    /// The payload, its checksum verified.
    ///
    /// # Errors
    /// When it is damaged, or the file system fails.
    pub fn read(&self) -> Result<Vec<u8>, ReadError> {
        let at = self.at;
        let mut bytes = vec![0; index(record_len(at.len as usize))];
        let read = read_full(&*self.file, &mut bytes, at.offset).map_err(|source| ReadError::Io { at, source })?;
        bytes.truncate(read);
        let header = Header::decode(&bytes, self.salt).ok_or(ReadError::Corrupt { at, what: "a bad header" })?;
        if header.payload_len != at.len {
            return Err(ReadError::Corrupt { at, what: "another record is there" });
        }
        if !header.matches(&bytes[HEADER_BYTES..]) {
            return Err(ReadError::Corrupt { at, what: "a bad checksum" });
        }
        bytes.truncate(HEADER_BYTES + at.len as usize);
        bytes.drain(..HEADER_BYTES);
        Ok(bytes)
    }
}
