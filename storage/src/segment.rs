//! Segment files: their names, their headers, where a record is.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;
use std::path::{Path, PathBuf};

/// The first record of a segment is here.
pub(crate) const SEGMENT_HEADER_BYTES: usize = 64;
const MAGIC: &[u8; 8] = b"TGSEG\0\0\x01";
const EXTENSION: &str = "seg";
/// A segment that is still being created.
pub(crate) const NEW_EXTENSION: &str = "new";

/// The number of a segment: one more than the segment before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId(pub u64);

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl SegmentId {
    pub(crate) fn next(self) -> Self {
        Self(self.0 + 1)
    }

    pub(crate) fn path(self, dir: &Path) -> PathBuf {
        dir.join(format!("{:020}.{EXTENSION}", self.0))
    }

    /// The segment that a file in the log's directory is, if it is one.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let named = path.extension().is_some_and(|extension| extension == EXTENSION);
        let stem = path.file_stem()?.to_str()?;
        if named { stem.parse().ok().map(Self) } else { None }
    }
}

/// Where a record is. Stays true until its segment is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The segment.
    pub segment: SegmentId,
    /// The offset in its file.
    pub offset: u64,
    /// The length of the payload.
    pub len: u32,
}

/// What a segment file says of itself, before its first record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) id: SegmentId,
    /// Everything before this sequence number is in older segments, and synced.
    pub(crate) first_sequence: u64,
    /// Random, so that bytes of other segments are not taken for records of this one. Never zero.
    pub(crate) salt: u32,
    /// Whose log it is.
    pub(crate) owner: [u8; 8],
}

impl SegmentHeader {
    pub(crate) fn new(id: SegmentId, first_sequence: u64, owner: [u8; 8]) -> Self {
        // The standard library's hasher keys are the random numbers that need no dependency.
        let random = RandomState::new().hash_one(id).to_le_bytes();
        let salt = u32::from_le_bytes([random[0] | 1, random[1], random[2], random[3]]);
        Self { id, first_sequence, salt, owner }
    }

    pub(crate) fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        bytes[0..8].copy_from_slice(MAGIC);
        bytes[8..16].copy_from_slice(&self.id.0.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.first_sequence.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.owner);
        bytes[32..36].copy_from_slice(&self.salt.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..60]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        let bytes = bytes.first_chunk::<SEGMENT_HEADER_BYTES>().ok_or("the segment header is cut short")?;
        let crc = u32::from_le_bytes(bytes[60..].try_into().expect("four bytes"));
        if crc != crc32c::crc32c(&bytes[..60]) {
            return Err("the segment header has a bad checksum");
        }
        if &bytes[0..8] != MAGIC {
            return Err("the segment has a format that this version does not know");
        }
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        Ok(Self {
            id: SegmentId(u64_at(8)),
            first_sequence: u64_at(16),
            owner: bytes[24..32].try_into().expect("eight bytes"),
            salt: u32::from_le_bytes(bytes[32..36].try_into().expect("four bytes")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_reads_back_and_no_flipped_bit_passes() {
        let header = SegmentHeader::new(SegmentId(7), 42, *b"test\0\0\0\0");
        let bytes = header.encode();
        assert_eq!(SegmentHeader::decode(&bytes), Ok(header));
        assert_ne!(header.salt, 0);
        for bit in 0..SEGMENT_HEADER_BYTES * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::decode(&flipped).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_segment_is_known_by_its_file_name() {
        let path = SegmentId(12).path(Path::new("log"));
        assert_eq!(path, Path::new("log/00000000000000000012.seg"));
        assert_eq!(SegmentId::of(&path), Some(SegmentId(12)));
        assert_eq!(SegmentId::of(Path::new("log/00000000000000000012.new")), None);
        assert_eq!(SegmentId::of(Path::new("log/x.seg")), None);
    }
}
