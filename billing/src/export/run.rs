//! An export as it runs: a chunk at a time, in bounded memory.
//!
//! What is exported is the ledger as it was when the export began, so it is a function of the query and the ledger's last
//! row. Bytes that depend on their own row alone (`events` and `cost` as text) go on behind any row. All others are one piece: to go on,
//! they are made again, and what there is already is left out once its hash has shown that it is the same.

use std::{collections::VecDeque, io, sync::Arc};

use tollgate_proto::state::v1::LedgerRow;

use super::{
    costs::cost,
    cursor::{AtByte, Cursor, CursorError, DIGEST_DIGITS},
    encode::Encode,
    events::event,
    focus::Focus,
    query::{Query, Schema},
    source::{Source, Tenants},
    summary::Summary,
    sums::{Sums, Took},
};
use crate::ledger::attempts;

/// A chunk has more at the most by what one row has, or one group of sums.
const CHUNK_BYTES: usize = 128 * 1024;
/// Rows of the ledger in memory at a time.
const READ_ROWS: usize = 1_024;
/// Rows of the ledger for one chunk, so that whoever waits hears something: some tens of milliseconds.
const CHUNK_ROWS: usize = 16 * READ_ROWS;

/// Why an export ends early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// Its cursor is of no use.
    #[error(transparent)]
    Cursor(#[from] CursorError),
    /// The ledger can't be read, or a format can't hold a value.
    #[error("the ledger can't be exported")]
    Ledger(#[from] io::Error),
    /// A sum has more digits than any can.
    #[error("row {seq} makes a sum greater than 128 bits can hold, or tokens than 64: ask for a shorter time")]
    TooMuch {
        /// The row that was too much.
        seq: u64,
    },
    /// What went out before is not what would go out now.
    #[error("cursor: what was exported has changed since, as a tenant or the program did: begin again without it")]
    Changed,
    /// This node lacks rows that the cursor's had.
    #[error("this node's ledger does not reach to where the cursor's export ended yet")]
    Behind,
}

/// Some of an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// What comes next; empty when there only was something to read.
    pub data: Vec<u8>,
    /// Behind this chunk.
    pub cursor: String,
    /// Rows so far, without those before the cursor that it began at.
    pub rows: u64,
    /// How much of the ledger was read, in thousandths; of the last time, where it is read more than once.
    pub done: u32,
    /// Nothing comes after it.
    pub last: bool,
}

/// An export under way: chunks until the last one, or an error. Reading blocks.
pub struct Export {
    source: Arc<dyn Source>,
    query: Query,
    encoder: Box<dyn Encode>,
    shape: Shape,
    step: Step,
    /// Where the rows of the time asked for may begin, and end.
    first: u64,
    until: u64,
    /// The last row of the ledger that was looked at, and what was read behind it.
    after: u64,
    read: VecDeque<LedgerRow>,
    rows: u64,
    output: Output,
}

enum Shape {
    Events,
    Costs,
    Sums(Box<dyn Sums>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Nothing was written yet.
    Begin,
    Read,
    /// All was added up: sums are written.
    Write,
    /// All is written, and may have to go out.
    Made,
    Ended,
}

/// What became of the bytes so far.
enum Output {
    /// They are not counted.
    ByRow,
    OnePiece(Box<OnePiece>),
}

struct OnePiece {
    /// What went out, or was there already.
    bytes: u64,
    hasher: blake3::Hasher,
    /// What was made and did not go out yet: some megabytes, once a group of Parquet rows is complete.
    ready: VecDeque<u8>,
    /// What there is already.
    skip: Option<AtByte>,
}

impl Export {
    /// Begins an export, or goes on with one.
    ///
    /// # Errors
    /// When there is no such place to go on from, or the ledger can't be read.
    pub fn open(
        source: Arc<dyn Source>,
        tenants: Arc<dyn Tenants>,
        query: Query,
        cursor: &str,
        encoder: Box<dyn Encode>,
    ) -> Result<Self, ExportError> {
        let cursor = if cursor.is_empty() { None } else { Some(Cursor::read(cursor, &query)?) };
        let last = source.last();
        let first = source.before(query.from)?;
        let (after, until, step) = match &cursor {
            None => (first, last, Step::Begin),
            Some(Cursor::AfterRow(seq)) => (first.max(*seq), last.max(*seq), Step::Read),
            Some(Cursor::AtByte(at)) if at.until > last => return Err(ExportError::Behind),
            Some(Cursor::AtByte(at)) => (first, at.until, Step::Begin),
        };
        let skip = match cursor {
            Some(Cursor::AtByte(at)) => Some(at),
            _ => None,
        };
        let output = match query.is_by_row() {
            true => Output::ByRow,
            false => Output::OnePiece(Box::new(OnePiece::new(skip))),
        };
        let shape = match query.schema {
            Schema::Events => Shape::Events,
            Schema::Cost => Shape::Costs,
            Schema::Summary => Shape::Sums(Box::new(Summary::new())),
            Schema::Focus(_) => Shape::Sums(Box::new(Focus::new(Arc::clone(&source), tenants, &query))),
        };
        Ok(Self { source, query, encoder, shape, step, first, until, after, read: VecDeque::new(), rows: 0, output })
    }

    /// The last row of the ledger that it may have.
    #[must_use]
    pub fn until(&self) -> u64 {
        self.until
    }

    fn chunk(&mut self) -> Result<Chunk, ExportError> {
        let data = match &mut self.output {
            Output::OnePiece(piece) if !piece.ready.is_empty() => piece.next(),
            _ => self.more()?,
        };
        let is_out = match &self.output {
            Output::ByRow => true,
            Output::OnePiece(piece) => piece.ready.is_empty(),
        };
        let last = self.step == Step::Made && is_out;
        if let (true, Output::OnePiece(piece)) = (last, &self.output)
            && piece.skip.is_some()
        {
            return Err(ExportError::Changed); // it had been longer
        }
        if last {
            self.step = Step::Ended;
        }
        Ok(Chunk { data, cursor: self.cursor().write(&self.query), rows: self.rows, done: self.done(), last })
    }

    /// Makes some more, and gives what of it may go out.
    fn more(&mut self) -> Result<Vec<u8>, ExportError> {
        let mut data = Vec::new();
        if self.step == Step::Begin {
            self.encoder.begin(&mut data)?;
            self.step = Step::Read;
        }
        match self.step {
            Step::Write => self.write(&mut data)?,
            _ => self.read(&mut data)?,
        }
        if self.step == Step::Made {
            self.encoder.finish(&mut data)?;
        }
        match &mut self.output {
            Output::ByRow => Ok(data),
            Output::OnePiece(piece) => {
                piece.add(data)?;
                Ok(piece.next())
            }
        }
    }

    /// Looks at rows of the ledger.
    fn read(&mut self, into: &mut Vec<u8>) -> Result<(), ExportError> {
        for _ in 0..CHUNK_ROWS {
            let Some(mut row) = self.next_row()? else {
                self.after = self.until.max(self.after);
                self.step = if matches!(self.shape, Shape::Sums(_)) { Step::Write } else { Step::Made };
                return Ok(());
            };
            self.after = row.seq;
            if !self.is_asked_for(&row) {
                continue;
            }
            if !self.query.costs {
                row.costs.clear();
            }
            match &mut self.shape {
                Shape::Sums(sums) => sums.add(&row)?,
                Shape::Events => {
                    self.encoder.row(&event(&row), into)?;
                    self.rows += 1;
                }
                Shape::Costs => {
                    for attempt in attempts(&row) {
                        self.encoder.row(&cost(&row, &attempt), into)?;
                        self.rows += 1;
                    }
                }
            }
            if into.len() >= CHUNK_BYTES {
                break;
            }
        }
        Ok(())
    }

    fn next_row(&mut self) -> Result<Option<LedgerRow>, ExportError> {
        if self.read.is_empty() && self.after < self.until {
            self.read = self.source.rows(self.after, READ_ROWS)?.into();
        }
        Ok(self.read.pop_front().filter(|row| row.seq <= self.until))
    }

    fn is_asked_for(&self, row: &LedgerRow) -> bool {
        let in_time = self.query.from.0 <= row.admitted_us && row.admitted_us < self.query.to.0;
        in_time && self.query.tenant.as_ref().is_none_or(|tenant| *tenant == row.tenant)
    }

    /// Writes sums, and begins to read again where there were too many at a time.
    fn write(&mut self, into: &mut Vec<u8>) -> Result<(), ExportError> {
        let Shape::Sums(sums) = &mut self.shape else { return Ok(()) };
        while into.len() < CHUNK_BYTES {
            match sums.take(self.encoder.as_mut(), into)? {
                Took::Rows(rows) => self.rows += rows,
                Took::All => {
                    self.step = Step::Made;
                    break;
                }
                Took::Again => {
                    (self.after, self.step) = (self.first, Step::Read);
                    self.read.clear();
                    break;
                }
            }
        }
        Ok(())
    }

    fn cursor(&self) -> Cursor {
        match &self.output {
            Output::ByRow => Cursor::AfterRow(self.after),
            Output::OnePiece(piece) => Cursor::AtByte(piece.place(self.until)),
        }
    }

    fn done(&self) -> u32 {
        let whole = self.until.saturating_sub(self.first).max(1);
        let part = self.after.saturating_sub(self.first).min(whole);
        u32::try_from(u128::from(part) * 1_000 / u128::from(whole)).unwrap_or(1_000)
    }
}

impl Iterator for Export {
    type Item = Result<Chunk, ExportError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.step == Step::Ended {
            return None;
        }
        let chunk = self.chunk();
        if chunk.is_err() {
            self.step = Step::Ended;
        }
        Some(chunk)
    }
}

impl OnePiece {
    fn new(skip: Option<AtByte>) -> Self {
        Self { bytes: 0, hasher: blake3::Hasher::new(), ready: VecDeque::new(), skip }
    }

    /// Takes in what was made; what there is already is left out.
    fn add(&mut self, mut data: Vec<u8>) -> Result<(), ExportError> {
        if let Some(skip) = self.skip.clone() {
            let there = usize::try_from(skip.bytes - self.bytes).unwrap_or(usize::MAX).min(data.len());
            let new = data.split_off(there);
            self.out(&data);
            if self.bytes < skip.bytes {
                return Ok(());
            }
            if self.digest() != skip.digest {
                return Err(ExportError::Changed);
            }
            self.skip = None;
            data = new;
        }
        self.ready.extend(data);
        Ok(())
    }

    fn next(&mut self) -> Vec<u8> {
        let data: Vec<u8> = self.ready.drain(..self.ready.len().min(CHUNK_BYTES)).collect();
        self.out(&data);
        data
    }

    fn out(&mut self, data: &[u8]) {
        self.hasher.update(data);
        self.bytes += data.len() as u64;
    }

    fn digest(&self) -> String {
        self.hasher.finalize().to_hex()[..DIGEST_DIGITS].to_owned()
    }

    /// Where it goes on: never before what there is already.
    fn place(&self, until: u64) -> AtByte {
        self.skip.clone().unwrap_or_else(|| AtByte { until, bytes: self.bytes, digest: self.digest() })
    }
}
