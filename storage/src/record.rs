//! A record in a file: a checksummed header, the payload, and an end mark that is never zero.
//!
//! | bytes | what |
//! | --- | --- |
//! | 4 | the segment's salt |
//! | 4 | length of the payload |
//! | 8 | sequence number, one more than the record before, over all segments |
//! | 4 | how many records before this one were not yet synced when it was written |
//! | 4 | how many sectors of the record were all zeros when it was written |
//! | 4 | CRC-32C of payload and padding |
//! | 4 | CRC-32C of the 28 bytes above |
//! | n | payload |
//! | 1–8 | padding of [`END_MARK`]s up to a multiple of 8 |

use crate::index;

/// Larger payloads are refused: they are read into memory whole.
pub const MAX_RECORD_BYTES: usize = 256 * 1024 * 1024;

pub(crate) const HEADER_BYTES: usize = 32;
/// Records begin at multiples of this, so that a search for the next good one is quick.
pub(crate) const ALIGN: usize = 8;
/// What a disk writes whole or not at all.
pub(crate) const SECTOR_BYTES: u64 = 512;
/// Four bits are set: no single flip makes it zero.
const END_MARK: u8 = 0xA5;

/// The header of a record, its own checksum verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) payload_len: u32,
    pub(crate) sequence: u64,
    unsynced: u32,
    zero_sectors: u32,
    body_crc: u32,
}

impl Header {
    /// Everything before this sequence number was synced when the record was written.
    pub(crate) fn synced(&self) -> u64 {
        self.sequence.saturating_sub(u64::from(self.unsynced))
    }

    /// The bytes of the whole record.
    pub(crate) fn record_len(&self) -> u64 {
        record_len(self.payload_len as usize)
    }

    /// Reads a header; `None` if its checksum or salt is wrong.
    pub(crate) fn decode(bytes: &[u8], salt: u32) -> Option<Self> {
        let bytes = bytes.first_chunk::<HEADER_BYTES>()?;
        if u32_at(bytes, 0) != salt || u32_at(bytes, 28) != crc32c::crc32c(&bytes[..28]) {
            return None;
        }
        let sequence = bytes[8..16].try_into().map(u64::from_le_bytes).expect("eight bytes");
        Some(Self {
            payload_len: u32_at(bytes, 4),
            sequence,
            unsynced: u32_at(bytes, 16),
            zero_sectors: u32_at(bytes, 20),
            body_crc: u32_at(bytes, 24),
        })
    }

    fn encode(&self, salt: u32) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..4].copy_from_slice(&salt.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.payload_len.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.unsynced.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.zero_sectors.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.body_crc.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..28]);
        bytes[28..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Whether `body` (payload and padding) is what was written.
    pub(crate) fn matches(&self, body: &[u8]) -> bool {
        body.len() as u64 + HEADER_BYTES as u64 == self.record_len() && crc32c::crc32c(body) == self.body_crc
    }

    /// Whether `record`, which does not match, can be a write that did not reach the disk whole: its end is missing,
    /// or sectors are zeros that were not written so. `record` begins at `offset` of the file and may be cut short.
    pub(crate) fn is_torn(&self, record: &[u8], offset: u64) -> bool {
        let whole = record.len() as u64 == self.record_len();
        !whole || record.last() == Some(&0) || zero_sectors(record, offset) > self.zero_sectors
    }
}

/// The bytes that a payload takes in a file.
pub(crate) fn record_len(payload_len: usize) -> u64 {
    let body = payload_len + ALIGN - payload_len % ALIGN;
    (HEADER_BYTES + body) as u64
}

/// What a record says about itself, apart from its payload.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stamp {
    pub(crate) salt: u32,
    pub(crate) sequence: u64,
    pub(crate) synced: u64,
}

/// Appends the record of `payload`, to be written at `offset` of its file, to `buffer`.
pub(crate) fn encode(buffer: &mut Vec<u8>, offset: u64, stamp: Stamp, payload: &[u8]) {
    let start = buffer.len();
    let end = start + index(record_len(payload.len()));
    buffer.resize(start + HEADER_BYTES, END_MARK); // not zero, as the header will not be
    buffer.extend_from_slice(payload);
    buffer.resize(end, END_MARK);
    let header = Header {
        payload_len: u32::try_from(payload.len()).expect("bounded by MAX_RECORD_BYTES"),
        sequence: stamp.sequence,
        unsynced: u32::try_from(stamp.sequence - stamp.synced).expect("a segment is synced before the next begins"),
        zero_sectors: zero_sectors(&buffer[start..], offset),
        body_crc: crc32c::crc32c(&buffer[start + HEADER_BYTES..]),
    };
    buffer[start..start + HEADER_BYTES].copy_from_slice(&header.encode(stamp.salt));
}

/// How many sectors' shares of `bytes`, which begin at `offset` of the file, are all zeros.
pub(crate) fn zero_sectors(bytes: &[u8], offset: u64) -> u32 {
    let mut count = 0;
    let mut rest = bytes;
    let mut room = SECTOR_BYTES - offset % SECTOR_BYTES;
    while !rest.is_empty() {
        let (share, after) = rest.split_at(rest.len().min(index(room)));
        count += u32::from(is_zero(share));
        rest = after;
        room = SECTOR_BYTES;
    }
    count
}

/// Whether every byte is zero.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    bytes.first().is_none_or(|first| *first == 0) && bytes.iter().all(|byte| *byte == 0)
}

fn u32_at(bytes: &[u8; HEADER_BYTES], at: usize) -> u32 {
    bytes[at..at + 4].try_into().map(u32::from_le_bytes).expect("four bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { salt: 0x1234_5678, sequence: 9, synced: 7 };

    fn record(payload: &[u8], offset: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode(&mut bytes, offset, STAMP, payload);
        bytes
    }

    #[test]
    fn a_record_reads_back_and_says_how_far_the_log_was_synced() {
        for len in 1..70 {
            let payload = vec![7; len];
            let bytes = record(&payload, 64);
            assert_eq!(bytes.len() % ALIGN, 0);
            let header = Header::decode(&bytes, STAMP.salt).expect("whole");
            assert_eq!((header.sequence, header.synced(), header.payload_len as usize), (9, 7, len));
            assert!(header.matches(&bytes[HEADER_BYTES..]));
            assert_eq!(Header::decode(&bytes, 1), None, "of another segment");
        }
    }

    #[test]
    fn every_cut_is_torn_and_no_flip_is() {
        let payload: Vec<u8> = (0..2000).map(|n| if (500..1700).contains(&n) { 0 } else { 3 }).collect();
        let bytes = record(&payload, 200);
        let header = Header::decode(&bytes, STAMP.salt).expect("whole");
        for cut in HEADER_BYTES..bytes.len() {
            assert!(header.is_torn(&bytes[..cut], 200), "shortened to {cut}");
            let mut zeroed = bytes.clone();
            zeroed[cut..].fill(0);
            assert!(header.is_torn(&zeroed, 200), "zeroed from {cut}");
        }
        for bit in HEADER_BYTES * 8..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(!header.matches(&flipped[HEADER_BYTES..]) && !header.is_torn(&flipped, 200), "bit {bit}");
        }
    }

    #[test]
    fn a_sector_that_did_not_reach_the_disk_is_torn() {
        let bytes = record(&[1; 3000], 40);
        let header = Header::decode(&bytes, STAMP.salt).expect("whole");
        let mut torn = bytes;
        torn[472..984].fill(0);
        assert!(!header.matches(&torn[HEADER_BYTES..]) && header.is_torn(&torn, 40));
    }
}
