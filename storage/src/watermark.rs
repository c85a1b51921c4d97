//! The watermark file: what is known to be synced, and which segment is the oldest.
//!
//! Two slots in two sectors, written in turn, so that a torn write of one leaves the other. A slot is written after
//! the sync it speaks of, so whatever survives is true, if perhaps old; that is why it need not be synced itself.
//! Only before segments are dropped it is, so that a missing old segment is never taken for a dropped one.

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::SegmentId;
use crate::disk::{Disk, DiskFile, read_full, write_full};
use crate::record::SECTOR_BYTES;

pub(crate) const WATERMARK_FILE: &str = "watermark";
const MAGIC: u32 = 0x4b4d_4754;
const SLOT_BYTES: usize = 32;
const SLOTS: u64 = 2;

/// What a slot says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Everything before this sequence number is synced.
    pub(crate) synced: u64,
    /// Older segments were dropped on purpose.
    pub(crate) oldest: SegmentId,
}

/// The open file.
pub(crate) struct Watermark {
    file: Arc<dyn DiskFile>,
    mark: Mark,
    writes: u64,
}

impl Watermark {
    /// Reads the newest whole slot, if there is any.
    pub(crate) fn read(disk: &dyn Disk, dir: &Path) -> io::Result<Option<Mark>> {
        let file = match disk.file(&dir.join(WATERMARK_FILE), false) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut newest: Option<Mark> = None;
        for slot in 0..SLOTS {
            let mut bytes = [0; SLOT_BYTES];
            read_full(&*file, &mut bytes, slot * SECTOR_BYTES)?;
            // Both figures only grow, so the newest is the larger one.
            newest = newest.max_by_synced(decode(&bytes));
        }
        Ok(newest)
    }

    /// Creates the file, or takes the one that is there, and writes `mark` to both slots, durably.
    pub(crate) fn create(disk: &dyn Disk, dir: &Path, mark: Mark) -> io::Result<Self> {
        let path = dir.join(WATERMARK_FILE);
        let file = match disk.file(&path, false) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => disk.file(&path, true)?,
            Err(error) => return Err(error),
        };
        let mut watermark = Self { file, mark, writes: 0 };
        for _ in 0..SLOTS {
            watermark.store(mark)?;
            watermark.file.sync_data()?;
        }
        disk.sync_dir(dir)?;
        Ok(watermark)
    }

    /// Notes that everything before `sequence` is synced.
    pub(crate) fn synced(&mut self, sequence: u64) -> io::Result<()> {
        self.store(Mark { synced: sequence, ..self.mark })
    }

    /// Notes, durably, that segments before `oldest` may go.
    pub(crate) fn oldest(&mut self, oldest: SegmentId) -> io::Result<()> {
        self.store(Mark { oldest, ..self.mark })?;
        self.file.sync_data()
    }

    fn store(&mut self, mark: Mark) -> io::Result<()> {
        write_full(&*self.file, &encode(mark), (self.writes % SLOTS) * SECTOR_BYTES)?;
        self.mark = mark;
        self.writes += 1;
        Ok(())
    }
}

/// The larger of two optional marks.
trait Newest {
    fn max_by_synced(self, other: Option<Mark>) -> Option<Mark>;
}

impl Newest for Option<Mark> {
    fn max_by_synced(self, other: Self) -> Self {
        [self, other].into_iter().flatten().max_by_key(|mark| (mark.synced, mark.oldest))
    }
}

fn encode(mark: Mark) -> [u8; SLOT_BYTES] {
    let mut bytes = [0; SLOT_BYTES];
    bytes[0..4].copy_from_slice(&MAGIC.to_le_bytes());
    bytes[8..16].copy_from_slice(&mark.synced.to_le_bytes());
    bytes[16..24].copy_from_slice(&mark.oldest.0.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..28]);
    bytes[28..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8; SLOT_BYTES]) -> Option<Mark> {
    let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let crc = u32::from_le_bytes(bytes[28..].try_into().expect("four bytes"));
    let good = bytes[0..4] == MAGIC.to_le_bytes() && crc == crc32c::crc32c(&bytes[..28]);
    good.then(|| Mark { synced: u64_at(8), oldest: SegmentId(u64_at(16)) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RealDisk;

    #[test]
    fn the_newest_whole_slot_counts() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Watermark::read(&RealDisk, dir.path()).unwrap(), None);
        let first = Mark { synced: 1, oldest: SegmentId(1) };
        let mut watermark = Watermark::create(&RealDisk, dir.path(), first).unwrap();
        watermark.synced(10).unwrap();
        watermark.synced(20).unwrap();
        watermark.oldest(SegmentId(3)).unwrap();
        let newest = Mark { synced: 20, oldest: SegmentId(3) };
        assert_eq!(Watermark::read(&RealDisk, dir.path()).unwrap(), Some(newest));

        watermark.file.write_at(&[0xff], 8).unwrap(); // the slot written last
        let before = Mark { synced: 20, oldest: SegmentId(1) };
        assert_eq!(Watermark::read(&RealDisk, dir.path()).unwrap(), Some(before));
    }
}
