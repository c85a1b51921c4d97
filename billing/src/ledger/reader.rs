//! The rows of a node's ledger, for whoever reads them in order: exports, and who looks for one.

use std::io::{self, BufReader};

use tollgate_model::Timestamp;
use tollgate_proto::state::v1::{LedgerRecord, LedgerRow, PriceVersionRow, ledger_record::Kind};

use super::{Broken, Extent, Hash, Keeper, Missing, Records, SegmentReader, State};
use crate::export::Source;

/// What is read of a file at once.
const BUFFER_BYTES: usize = 256 << 10;
/// Readers whose places are kept: more than that many exports at a time begin each page with their segment.
const MAX_CURSORS: usize = 8;
/// Between the milliseconds in a request id and the log time of its end: clocks of nodes may differ by so much.
const CLOCKS_MS: u64 = 300_000;
/// Where a row has its request id: the tag of its field, and 36 characters.
const REQUEST_ID: [u8; 2] = [3 << 3 | 2, 36];

type Reading = Records<BufReader<SegmentReader>>;

/// Places of readers that will probably go on, the newest last.
#[derive(Default)]
pub(super) struct Cursors(Vec<(u64, u64, Reading)>);

impl Cursors {
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// The one behind a row.
    fn take(&mut self, after_seq: u64) -> Option<(u64, Reading)> {
        let at = self.0.iter().position(|(after, ..)| *after == after_seq)?;
        let (_, segment, reading) = self.0.remove(at);
        Some((segment, reading))
    }

    fn put(&mut self, after_seq: u64, segment: u64, reading: Reading) {
        if self.0.len() >= MAX_CURSORS {
            self.0.remove(0);
        }
        self.0.push((after_seq, segment, reading));
    }
}

/// Where a row is written.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// The row.
    pub row: LedgerRow,
    /// Its segment.
    pub segment: u64,
    /// The first byte of its record in it.
    pub offset: u64,
}

/// The segments of a state, each with what it goes on from.
pub(super) fn extents(state: &State) -> Vec<Missing> {
    let chain = state.chain();
    let all = chain.complete().chain([chain.open()]).map(|extent| extent.segment);
    all.filter_map(|segment| Missing::of(chain, segment)).collect()
}

impl Keeper {
    fn extents(&self) -> Vec<Missing> {
        self.look(extents)
    }

    pub(super) fn reading(&self, of: &Missing) -> io::Result<Reading> {
        let (before, after_seq): (Hash, u64) = of.before;
        let from = BufReader::with_capacity(BUFFER_BYTES, self.segment(&of.extent)?);
        Records::open(from, of.extent.segment, before, after_seq).map_err(broken)
    }

    /// The rows of a request: what it came to, and what was corrected with it. The time in its id says where to look first.
    ///
    /// # Errors
    /// What the file system says; `InvalidData` where the ledger is broken; `WouldBlock` where it is still fetched.
    pub fn find(&self, request_id: &str) -> io::Result<Vec<Found>> {
        if request_id.len() != usize::from(REQUEST_ID[1]) {
            return Ok(Vec::new());
        }
        let admitted_ms = u64::from_str_radix(&request_id.replace('-', "").chars().take(12).collect::<String>(), 16);
        let from_ms = admitted_ms.unwrap_or(0).saturating_sub(CLOCKS_MS);
        let after = self.before(Timestamp(from_ms.saturating_mul(1_000)))?;
        let needle = [&REQUEST_ID[..], request_id.as_bytes()].concat();
        for of in self.extents().iter().filter(|of| of.extent.last_seq > after) {
            let found = self.find_in(of, &needle, request_id)?;
            if !found.is_empty() {
                return Ok(found);
            }
        }
        Ok(Vec::new())
    }

    fn find_in(&self, of: &Missing, needle: &[u8], request_id: &str) -> io::Result<Vec<Found>> {
        let (mut records, mut found) = (self.reading(of)?, Vec::new());
        let segment = of.extent.segment;
        while let Some((offset, record)) = records.find(needle, of.extent.bytes).map_err(broken)? {
            if let Some(Kind::Row(row)) = record.kind.filter(|kind| is_of(kind, request_id)) {
                found.push(Found { row, segment, offset });
            }
        }
        Ok(found)
    }

    /// When the first row of a segment was settled.
    pub(super) fn begins(&self, of: &Missing) -> io::Result<u64> {
        let (mut records, extent) = (self.reading(of)?, of.extent);
        while let Some(record) = next(&mut records, &extent)? {
            if let Some(Kind::Row(row)) = record.kind {
                return Ok(row.settled_us);
            }
        }
        Ok(u64::MAX)
    }
}

fn is_of(kind: &Kind, request_id: &str) -> bool {
    matches!(kind, Kind::Row(row) if row.request_id == request_id)
}

/// The next record of a segment, as far as the state says that it goes.
pub(super) fn next<R: io::Read>(records: &mut Records<R>, extent: &Extent) -> io::Result<Option<LedgerRecord>> {
    if records.offset() >= extent.bytes {
        return Ok(None);
    }
    match records.next() {
        Some(record) => record.map(Some).map_err(broken),
        None => Err(broken(records.ended())),
    }
}

fn broken(broken: Broken) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, broken)
}

impl Source for Keeper {
    fn last(&self) -> u64 {
        self.look(|state| state.chain().open().last_seq)
    }

    fn before(&self, settled: Timestamp) -> io::Result<u64> {
        // Log time only grows: the last segment that begins before then is where to look first.
        let extents = self.extents();
        let (mut low, mut high) = (0, extents.len());
        // The archive is asked only for what is there: what was settled lately is found without it.
        let kept = self.first_kept()?;
        if let Some(first) = extents.iter().position(|of| of.extent.segment >= kept).filter(|first| *first > 0) {
            if self.begins(&extents[first])? < settled.0 { low = first } else { high = first }
        }
        while low < high {
            let middle = low.midpoint(high);
            if self.begins(&extents[middle])? < settled.0 {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low.checked_sub(1).map_or(0, |at| extents[at].before.1))
    }

    fn rows(&self, after_seq: u64, most: usize) -> io::Result<Vec<LedgerRow>> {
        let (extents, mut rows) = (self.extents(), Vec::new());
        let mut kept = self.cursors.lock().take(after_seq);
        let from = kept.as_ref().map_or(0, |(segment, _)| *segment);
        let wanted =
            |of: &&Missing| of.extent.segment == from || (from < of.extent.segment && of.extent.last_seq > after_seq);
        for of in extents.iter().filter(wanted) {
            let segment = of.extent.segment;
            let mut records = match kept.take() {
                Some((_, records)) => records,
                None => self.reading(of)?,
            };
            while rows.len() < most {
                match next(&mut records, &of.extent)?.map(|record| record.kind) {
                    Some(Some(Kind::Row(row))) if row.seq > after_seq => rows.push(row),
                    Some(_) => {}
                    None => break,
                }
            }
            if rows.len() == most || extents.last().is_some_and(|last| last.extent.segment == segment) {
                let last = rows.last().map_or(after_seq, |row| row.seq);
                self.cursors.lock().put(last, segment, records);
                break;
            }
        }
        Ok(rows)
    }

    fn price(&self, name: &str, version: u64) -> io::Result<Option<PriceVersionRow>> {
        Ok(self.look(|state| state.price(name, version).cloned()))
    }
}
