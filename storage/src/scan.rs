//! Reading one segment from its first record to its end, and judging what comes after the last good one.

use crate::index;
use crate::record::{ALIGN, HEADER_BYTES, Header, is_zero};
use crate::segment::{SEGMENT_HEADER_BYTES, SegmentHeader};

/// What is known about a segment from elsewhere.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known {
    /// Everything before this sequence number was synced.
    pub(crate) synced: u64,
    /// The sequence number that the next segment begins with, if there is one: all before it has to be here.
    pub(crate) sealed_at: Option<u64>,
}

/// A good record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found<'a> {
    pub(crate) offset: u64,
    pub(crate) payload: &'a [u8],
}

/// How a segment ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// Only zeros follow.
    Clean,
    /// An unsynced write follows that did not reach the disk whole: this many bytes, up to the last that is not zero.
    Torn(u64),
    /// Something that was synced is damaged or missing.
    Corrupt(String),
}

/// The records of a segment, and what stopped the scan.
pub(crate) struct Scan<'a> {
    bytes: &'a [u8],
    salt: u32,
    known: Known,
    /// Where the next record should begin.
    pub(crate) offset: u64,
    /// The sequence number that it should have.
    pub(crate) sequence: u64,
}

impl<'a> Scan<'a> {
    /// Begins at the first record of a segment whose file holds `bytes`.
    pub(crate) fn new(bytes: &'a [u8], header: &SegmentHeader, known: Known) -> Self {
        let known = Known { synced: known.synced.max(header.first_sequence), ..known };
        let (offset, sequence) = (SEGMENT_HEADER_BYTES as u64, header.first_sequence);
        Self { bytes, salt: header.salt, known, offset, sequence }
    }

    /// The next good record.
    pub(crate) fn next(&mut self) -> Option<Found<'a>> {
        if self.known.sealed_at == Some(self.sequence) {
            return None;
        }
        let rest = self.rest();
        let header = Header::decode(rest, self.salt).filter(|header| header.sequence == self.sequence)?;
        let body = rest.get(HEADER_BYTES..index(header.record_len()))?;
        if !header.matches(body) {
            return None;
        }
        let found = Found { offset: self.offset, payload: &body[..header.payload_len as usize] };
        self.offset += header.record_len();
        self.sequence += 1;
        Some(found)
    }

    /// Judges what follows once [`Scan::next`] has come to an end.
    pub(crate) fn end(&self) -> End {
        if let Some(sealed_at) = self.known.sealed_at {
            return match self.sequence == sealed_at {
                true => End::Clean,
                false => End::Corrupt(format!("records up to {sealed_at} were synced here; {}", self.what())),
            };
        }
        let synced = self.known.synced.max(self.synced_according_to_later_records());
        if self.sequence < synced {
            return End::Corrupt(format!("records up to {synced} were synced; {}", self.what()));
        }
        let rest = self.rest();
        let used = rest.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        match used {
            0 => End::Clean,
            _ if self.is_torn(&rest[..used]) => End::Torn(used as u64),
            _ => End::Corrupt(format!("{}, and it is no write that was cut short", self.what())),
        }
    }

    fn rest(&self) -> &'a [u8] {
        self.bytes.get(index(self.offset)..).unwrap_or_default()
    }

    /// The damage in a few words.
    fn what(&self) -> &'static str {
        match Header::decode(self.rest(), self.salt) {
            Some(header) if header.sequence != self.sequence => "another record is here",
            Some(header) if header.record_len() > self.rest().len() as u64 => "this one is cut short",
            Some(_) => "this one has a bad checksum",
            None if is_zero(self.rest()) => "this one is missing",
            None => "this one has a bad header",
        }
    }

    /// A header is only ever written with a watermark that had been synced before, wherever it is found.
    fn synced_according_to_later_records(&self) -> u64 {
        let rest = self.rest();
        let salt = self.salt.to_le_bytes();
        let headers = (ALIGN..rest.len()).step_by(ALIGN).filter(|at| rest[*at..].starts_with(&salt));
        headers.filter_map(|at| Header::decode(&rest[at..], self.salt)).map(|later| later.synced()).max().unwrap_or(0)
    }

    /// Whether `rest`, from the first bad record to the last byte that is not zero, can be an incomplete write.
    fn is_torn(&self, rest: &[u8]) -> bool {
        let whole = self.rest();
        match Header::decode(whole, self.salt) {
            Some(header) if header.sequence != self.sequence => false,
            Some(header) => {
                let record = &whole[..whole.len().min(index(header.record_len()))];
                header.is_torn(record, self.offset)
            }
            // Shorter than any record, or the sector that holds (a part of) the header is missing.
            None => rest.len() < HEADER_BYTES + ALIGN || self.header_lacks_a_sector(rest),
        }
    }

    fn header_lacks_a_sector(&self, rest: &[u8]) -> bool {
        crate::record::zero_sectors(&rest[..HEADER_BYTES], self.offset) > 0
    }
}

#[cfg(test)]
mod tests;
