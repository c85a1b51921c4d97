//! How far the files were synced, noted beside them: so that one can tell, of a node that does not run, where they were cut off.
//!
//! Two slots in two sectors, written in turn, so that a torn write of one leaves the other. A slot is written after the sync that it
//! speaks of, so whatever survives is true, if perhaps old; that is why it need not be synced itself. So the note may be behind
//! the files, by what was written since the last sync and what a crash took of the note. It is never ahead of them: before the
//! files are cut to what an older state says, it is set back, durably. Only of a gap it says more than there is, as the state does.

use std::{fs, io, path::Path, sync::Arc};

use tollgate_storage::{Disk, DiskFile, read_full, write_full};

use super::{Chain, Hash};

/// Beside the segments.
const FILE: &str = "head";
const MAGIC: &[u8; 8] = b"TGLHEAD1";
const SECTOR_BYTES: usize = 512;
const SLOTS: usize = 2;
const FILE_BYTES: usize = SLOTS * SECTOR_BYTES;
/// Magic, five numbers, a hash and a checksum.
const SLOT_BYTES: usize = 84;

/// A place in the ledger: the last record that was synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    /// Of the ledger, up to there.
    pub(super) records: u64,
    /// Its last row.
    pub(super) last_seq: u64,
    /// Its segment; 0 while there is none.
    pub(super) segment: u64,
    /// Where the record ends in that.
    pub(super) bytes: u64,
    /// The record's.
    pub(super) hash: Hash,
}

impl Head {
    /// The last record of all.
    pub(super) fn of(chain: &Chain) -> Self {
        let open = chain.open();
        let at = chain.extent(open.segment).or_else(|| chain.extent(open.segment.saturating_sub(1)));
        let (segment, bytes) = at.map_or((0, 0), |at| (at.segment, at.bytes));
        Self { records: chain.records(), last_seq: open.last_seq, segment, bytes, hash: open.hash }
    }

    /// What is noted in a directory, which is only read. None: nothing, or nothing whole.
    pub(super) fn read(dir: &Path) -> io::Result<Option<Self>> {
        match fs::read(dir.join(FILE)) {
            Ok(bytes) => Ok(newest(&bytes).map(|(_, head)| head)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// `written`: which note it is.
    fn encode(&self, written: u64) -> [u8; SLOT_BYTES] {
        let mut bytes = [0; SLOT_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        let numbers = [written, self.records, self.last_seq, self.segment, self.bytes];
        for (at, number) in bytes[8..48].chunks_exact_mut(8).zip(numbers) {
            at.copy_from_slice(&number.to_le_bytes());
        }
        bytes[48..80].copy_from_slice(&self.hash);
        let crc = crc32c::crc32c(&bytes[..80]);
        bytes[80..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<(u64, Self)> {
        let bytes: &[u8; SLOT_BYTES] = bytes.first_chunk()?;
        let crc = u32::from_le_bytes(bytes[80..].try_into().expect("four bytes"));
        if &bytes[..8] != MAGIC || crc != crc32c::crc32c(&bytes[..80]) {
            return None;
        }
        let number = |n: usize| u64::from_le_bytes(bytes[8 * n..8 * (n + 1)].try_into().expect("eight bytes"));
        let [written, records, last_seq, segment, bytes_of_it] = [1, 2, 3, 4, 5].map(number);
        let hash = bytes[48..80].try_into().expect("32 bytes");
        Some((written, Self { records, last_seq, segment, bytes: bytes_of_it, hash }))
    }
}

/// The newest whole slot.
fn newest(file: &[u8]) -> Option<(u64, Head)> {
    file.chunks(SECTOR_BYTES).filter_map(Head::decode).max_by_key(|(written, _)| *written)
}

/// The open file.
pub(super) struct Note {
    file: Arc<dyn DiskFile>,
    head: Head,
    /// How often it was written.
    written: u64,
}

impl Note {
    /// Makes the note of a directory say this, durably, whatever it said before.
    pub(super) fn open(disk: &dyn Disk, dir: &Path, head: Head) -> io::Result<Self> {
        let path = dir.join(FILE);
        let file = match disk.file(&path, false) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => disk.file(&path, true)?,
            found => found?,
        };
        let mut bytes = [0; FILE_BYTES];
        let there = read_full(&*file, &mut bytes, 0)?;
        let before = newest(&bytes[..there]);
        let mut note = Self { file, head, written: before.map_or(0, |(written, _)| written) };
        if before.is_none_or(|(_, before)| before != head) {
            for _ in 0..SLOTS {
                note.write(head)?;
                note.file.sync_data()?;
            }
        }
        disk.sync_dir(dir)?;
        Ok(note)
    }

    /// All up to there is synced.
    pub(super) fn synced(&mut self, head: Head) -> io::Result<()> {
        if head == self.head { Ok(()) } else { self.write(head) }
    }

    fn write(&mut self, head: Head) -> io::Result<()> {
        self.written += 1;
        let slot = if self.written.is_multiple_of(2) { 0 } else { SECTOR_BYTES as u64 };
        write_full(&*self.file, &head.encode(self.written), slot)?;
        self.head = head;
        Ok(())
    }
}
