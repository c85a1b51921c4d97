//! Where records go, and the hashes that stand for them.

use std::collections::BTreeMap;

use prost::Message;
use tollgate_proto::state::v1::{LedgerHeadRow, LedgerRecord, LedgerSegmentRow, ledger_record::Kind};

use super::segment;
use crate::{Changes, RestoreError};

/// A segment is complete with the entry by which it has so many bytes.
pub const SEGMENT_BYTES: u64 = 8 << 20;

/// A row of the state: the head, or a segment.
const HEAD_KEY: [u8; 1] = [0];
const SEGMENT_PREFIX: u8 = 1;

/// Stands for a record and all before it.
pub type Hash = [u8; 32];

/// Before the first record.
pub(super) fn genesis() -> Hash {
    *blake3::hash(b"tollgate ledger 1").as_bytes()
}

/// The hash of a record, from the one before it.
pub(super) fn link(before: &Hash, message: &[u8]) -> Hash {
    *blake3::Hasher::new().update(before).update(message).finalize().as_bytes()
}

/// How much of the ledger there is, up to some record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The segment, from 1.
    pub segment: u64,
    /// Its first row, 0 while it has none; and the last row up to here.
    pub first_seq: u64,
    /// The last row up to here.
    pub last_seq: u64,
    /// Records in the segment.
    pub records: u64,
    /// Bytes of the segment, its header too. None before its first record.
    pub bytes: u64,
    /// Of the last record up to here.
    pub hash: Hash,
}

/// Bytes that an entry adds to a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// The segment, from 1.
    pub segment: u64,
    /// Where they begin in it.
    pub offset: u64,
    /// What they are.
    pub bytes: Vec<u8>,
}

/// The places and hashes of all records. Pure: a function of what was appended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    records: u64,
    open: Extent,
    /// The complete segments.
    complete: BTreeMap<u64, Extent>,
    /// [`SEGMENT_BYTES`], and fewer in tests.
    segment_bytes: u64,
}

impl Default for Chain {
    fn default() -> Self {
        let open = Extent { segment: 1, first_seq: 0, last_seq: 0, records: 0, bytes: 0, hash: genesis() };
        Self { records: 0, open, complete: BTreeMap::new(), segment_bytes: SEGMENT_BYTES }
    }
}

impl Chain {
    /// Appends what one entry of the log brings, in its order; says where the bytes go. Rows come in the order of their `seq`.
    pub fn append(&mut self, records: &[LedgerRecord], changes: &mut Changes) -> Option<Piece> {
        if records.is_empty() {
            return None;
        }
        let mut piece = Piece { segment: self.open.segment, offset: self.open.bytes, bytes: Vec::new() };
        if self.open.bytes == 0 {
            piece.bytes.extend(segment::header(self.open.segment, &self.open.hash));
        }
        for record in records {
            let message = segment::frame(record, &mut piece.bytes);
            self.open.hash = link(&self.open.hash, message);
            self.open.records += 1;
            self.records += 1;
            if let Some(Kind::Row(row)) = &record.kind {
                debug_assert!(row.seq > self.open.last_seq, "{} comes after {}", row.seq, self.open.last_seq);
                self.open.last_seq = row.seq;
                self.open.first_seq = if self.open.first_seq == 0 { row.seq } else { self.open.first_seq };
            }
        }
        self.open.bytes = piece.offset + piece.bytes.len() as u64;
        if self.open.bytes >= self.segment_bytes {
            self.complete.insert(self.open.segment, self.open);
            changes.push((segment_key(self.open.segment), Some(segment_row(&self.open))));
            self.open = Extent { segment: self.open.segment + 1, first_seq: 0, records: 0, bytes: 0, ..self.open };
        }
        changes.push((HEAD_KEY.to_vec(), Some(self.head_row())));
        Some(piece)
    }

    /// Records there are.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.records
    }

    /// The segment that is open.
    #[must_use]
    pub fn open(&self) -> &Extent {
        &self.open
    }

    /// The complete segments, in order.
    pub fn complete(&self) -> impl Iterator<Item = &Extent> {
        self.complete.values()
    }

    /// The hash before a segment.
    #[must_use]
    pub fn before(&self, segment: u64) -> Hash {
        let earlier = self.complete.range(..segment).next_back();
        earlier.map_or_else(genesis, |(_, extent)| extent.hash)
    }

    /// What a segment has by now, if it has anything.
    #[must_use]
    pub fn extent(&self, segment: u64) -> Option<Extent> {
        let open = Some(self.open).filter(|open| open.segment == segment && open.bytes > 0);
        self.complete.get(&segment).copied().or(open)
    }

    /// The last row before a segment; 0 if there is none.
    #[must_use]
    pub fn seq_before(&self, segment: u64) -> u64 {
        self.complete.range(..segment).next_back().map_or(0, |(_, extent)| extent.last_seq)
    }

    /// Every row of the state, in order of the keys.
    pub fn rows(&self) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> + Send + use<> {
        let head = (self.records > 0).then(|| (HEAD_KEY.to_vec(), self.head_row()));
        let complete = self.complete.clone().into_values();
        head.into_iter().chain(complete.map(|extent| (segment_key(extent.segment), segment_row(&extent))))
    }

    /// The chain that these rows are of.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn restore<E>(rows: impl IntoIterator<Item = Result<(Vec<u8>, Vec<u8>), E>>) -> Result<Self, RestoreError>
    where
        RestoreError: From<E>,
    {
        let mut chain = Self::default();
        for read in rows {
            let (key, value) = read?;
            let known = match key.first() {
                Some(&SEGMENT_PREFIX) => chain.take_segment(&value),
                Some(_) if key == HEAD_KEY => chain.take_head(&value),
                _ => None,
            };
            known.ok_or(RestoreError::Value { key })?;
        }
        Ok(chain)
    }

    fn take_segment(&mut self, value: &[u8]) -> Option<()> {
        let row = LedgerSegmentRow::decode(value).ok()?;
        let extent = Extent {
            segment: row.segment,
            first_seq: row.first_seq,
            last_seq: row.last_seq,
            records: row.records,
            bytes: row.bytes,
            hash: (&*row.chain).try_into().ok()?,
        };
        self.complete.insert(row.segment, extent);
        Some(())
    }

    fn take_head(&mut self, value: &[u8]) -> Option<()> {
        let row = LedgerHeadRow::decode(value).ok()?;
        self.records = row.records;
        self.open = Extent {
            segment: row.segment,
            first_seq: row.segment_first_seq,
            last_seq: row.last_seq,
            records: row.segment_records,
            bytes: row.segment_bytes,
            hash: (&*row.chain).try_into().ok()?,
        };
        Some(())
    }

    fn head_row(&self) -> Vec<u8> {
        let row = LedgerHeadRow {
            records: self.records,
            last_seq: self.open.last_seq,
            segment: self.open.segment,
            segment_records: self.open.records,
            segment_bytes: self.open.bytes,
            segment_first_seq: self.open.first_seq,
            chain: self.open.hash.to_vec(),
        };
        row.encode_to_vec()
    }
}

fn segment_key(segment: u64) -> Vec<u8> {
    let mut key = vec![SEGMENT_PREFIX];
    key.extend(segment.to_be_bytes());
    key
}

fn segment_row(extent: &Extent) -> Vec<u8> {
    let row = LedgerSegmentRow {
        segment: extent.segment,
        first_seq: extent.first_seq,
        last_seq: extent.last_seq,
        records: extent.records,
        bytes: extent.bytes,
        chain: extent.hash.to_vec(),
    };
    row.encode_to_vec()
}

#[cfg(test)]
pub(super) mod tests;
