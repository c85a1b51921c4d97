//! Bytes of a segment, written and read.

use std::io::{self, Read};

use prost::Message;
use tollgate_proto::state::v1::{LedgerRecord, ledger_record::Kind};

use super::chain::{Hash, link};

const MAGIC: &[u8; 8] = b"TGLEDGR1";
/// Magic, number, hash and checksum.
pub(super) const HEADER_BYTES: usize = 52;
/// Length and checksum.
const FRAME_BYTES: usize = 8;
/// No record is longer: whoever reads one has so much in memory. A price is a record, and may be as long as what is applied at once
/// (16 MiB, by `admin`); rows are far shorter.
const MAX_MESSAGE_BYTES: usize = 32 << 20;

/// The first bytes of a segment.
pub(super) fn header(segment: u64, before: &Hash) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..16].copy_from_slice(&segment.to_le_bytes());
    bytes[16..48].copy_from_slice(before);
    let crc = crc32c::crc32c(&bytes[..48]);
    bytes[48..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Adds a record to a segment's bytes; what it says, as it stands there.
pub(super) fn frame<'a>(record: &LedgerRecord, into: &'a mut Vec<u8>) -> &'a [u8] {
    let begin = into.len();
    into.extend([0; FRAME_BYTES]);
    record.encode(into).expect("a vector takes as much as there is");
    let (head, message) = into[begin..].split_at_mut(FRAME_BYTES);
    let length =
        u32::try_from(message.len()).expect("a record is made of what one frame of a node said, which is bounded");
    head[..4].copy_from_slice(&length.to_le_bytes());
    head[4..].copy_from_slice(&crc32c::crc32c(message).to_le_bytes());
    message
}

/// What is wrong with a segment, and where.
#[derive(Debug, thiserror::Error)]
#[error("segment {segment} of the ledger is broken at byte {offset}, after row {after_seq}: {why}")]
pub struct Broken {
    /// The segment, from 1.
    pub segment: u64,
    /// Of the record that is wrong.
    pub offset: u64,
    /// The last row before it; 0 if there is none.
    pub after_seq: u64,
    /// What is wrong.
    pub why: Why,
}

/// What can be wrong with a segment.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Why {
    /// It could not be read.
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
    /// It begins with something else.
    #[error("it does not begin as this segment does")]
    Header,
    /// What it is chained to is not the segment before it.
    #[error("it does not go on from the segment before it")]
    Before,
    /// It ends in the middle of a record.
    #[error("it ends in the middle of a record")]
    Torn,
    /// It ends between two records, where it should go on.
    #[error("it ends there, and should go on")]
    Short,
    /// A record is not what was written.
    #[error("a record was changed")]
    Changed,
    /// All of it is in order, and something else than the state says.
    #[error("it is not what the cluster wrote: its hash is another one")]
    Hash,
    /// A row's number is not greater than the one before it.
    #[error("row {0} is out of order")]
    Order(u64),
}

/// Reads the records of one segment, and checks each: from its first byte to its last.
#[derive(Debug)]
pub struct Records<R> {
    from: R,
    segment: u64,
    offset: u64,
    hash: Hash,
    last_seq: u64,
    failed: bool,
}

impl<R: Read> Records<R> {
    /// Begins with the header of a segment, which goes on from `before`; its rows come after `after_seq`.
    ///
    /// # Errors
    /// When it is not that segment's.
    pub fn open(mut from: R, segment: u64, before: Hash, after_seq: u64) -> Result<Self, Broken> {
        let broken = |why| Broken { segment, offset: 0, after_seq, why };
        let mut bytes = [0; HEADER_BYTES];
        from.read_exact(&mut bytes).map_err(|error| broken(torn(error)))?;
        let same = |other: &Hash| bytes == header(segment, other);
        let claimed: Hash = bytes[16..48].try_into().expect("it has 32 bytes");
        if !same(&claimed) {
            return Err(broken(Why::Header));
        }
        if claimed != before {
            return Err(broken(Why::Before));
        }
        Ok(Self { from, segment, offset: HEADER_BYTES as u64, hash: before, last_seq: after_seq, failed: false })
    }

    /// How many bytes were read and found good.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Of the last record read.
    #[must_use]
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// The last row read.
    #[must_use]
    pub fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// The segment that they are of.
    pub(super) fn segment(&self) -> u64 {
        self.segment
    }

    /// What is wrong where a segment ends here, and should not.
    pub(super) fn ended(&self) -> Broken {
        Broken { segment: self.segment, offset: self.offset, after_seq: self.last_seq, why: Why::Short }
    }

    /// The next record before `end` that has these bytes in it, and where it begins. The others are checked as well, but for the
    /// order of their rows.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn find(&mut self, needle: &[u8], end: u64) -> Result<Option<(u64, LedgerRecord)>, Broken> {
        let (segment, after_seq) = (self.segment, self.last_seq);
        loop {
            let offset = self.offset;
            let broken = |why| Broken { segment, offset, after_seq, why };
            if offset >= end {
                return Ok(None);
            }
            let message = self.message().map_err(broken)?.ok_or_else(|| broken(Why::Short))?;
            if message.windows(needle.len()).any(|window| window == needle) {
                let record = LedgerRecord::decode(&*message).map_err(|_| broken(Why::Changed))?;
                return Ok(Some((offset, record)));
            }
        }
    }

    fn read(&mut self) -> Result<Option<LedgerRecord>, Why> {
        let (offset, hash) = (self.offset, self.hash);
        let Some(message) = self.message()? else { return Ok(None) };
        let read = LedgerRecord::decode(&*message).map_err(|_| Why::Changed).and_then(|record| self.in_order(record));
        if read.is_err() {
            (self.offset, self.hash) = (offset, hash);
        }
        read.map(Some)
    }

    fn in_order(&mut self, record: LedgerRecord) -> Result<LedgerRecord, Why> {
        if let Some(Kind::Row(row)) = &record.kind {
            if row.seq <= self.last_seq {
                return Err(Why::Order(row.seq));
            }
            self.last_seq = row.seq;
        }
        Ok(record)
    }

    fn message(&mut self) -> Result<Option<Vec<u8>>, Why> {
        let mut frame = [0; FRAME_BYTES];
        // An end is only an end between two records.
        if self.from.read(&mut frame[..1])? == 0 {
            return Ok(None);
        }
        self.from.read_exact(&mut frame[1..]).map_err(torn)?;
        let [length, crc] = [0, 4].map(|at| u32::from_le_bytes(frame[at..at + 4].try_into().expect("four bytes")));
        let length = usize::try_from(length).ok().filter(|length| *length <= MAX_MESSAGE_BYTES).ok_or(Why::Changed)?;
        let mut message = vec![0; length];
        self.from.read_exact(&mut message).map_err(torn)?;
        if crc32c::crc32c(&message) != crc {
            return Err(Why::Changed);
        }
        self.hash = link(&self.hash, &message);
        self.offset += (FRAME_BYTES + length) as u64;
        Ok(Some(message))
    }
}

fn torn(error: io::Error) -> Why {
    if error.kind() == io::ErrorKind::UnexpectedEof { Why::Torn } else { Why::Io(error) }
}

impl<R: Read> Iterator for Records<R> {
    type Item = Result<LedgerRecord, Broken>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let (segment, offset, after_seq) = (self.segment, self.offset, self.last_seq);
        let read = self.read();
        self.failed = read.is_err();
        read.map_err(|why| Broken { segment, offset, after_seq, why }).transpose()
    }
}
