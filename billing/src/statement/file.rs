//! The file of a statement, as it is made: a chunk at a time, in bounded memory, and from a cursor on.

use std::{collections::VecDeque, io, sync::Arc};

use tollgate_model::Month;
use tollgate_proto::state::v1::LedgerRow;

use super::{PublicKey, Signer, Statement, hex, sign::sign, unhex};
use crate::{
    export::{Chunk, CursorError, EVENTS, Encode as _, ExportError, Source, Text, TextFormat, event},
    period::leaf,
};

const CHUNK_BYTES: usize = 128 * 1024;
/// Rows of the ledger in memory at a time.
const READ_ROWS: usize = 1_024;
/// Rows of the ledger for one chunk, so that whoever waits hears something.
const CHUNK_ROWS: usize = 16 * READ_ROWS;
const CURSOR: &str = "tgs1";
const DIGEST_BYTES: usize = 8;

/// What stands around a statement in its line.
pub(super) const BEFORE: &str = "{\"statement\":";
pub(super) const KEY: &str = ",\"publicKey\":\"";
pub(super) const SIGNATURE: &str = "\",\"signature\":\"";
pub(super) const AFTER: &str = "\"}";

/// The first line of the file.
#[must_use]
pub fn line(statement: &Statement, signer: &dyn Signer) -> String {
    let body = statement.body();
    let (key, signature) = (PublicKey(signer.public_key()), sign(signer, &body));
    format!("{BEFORE}{body}{KEY}{key}{SIGNATURE}{}{AFTER}\n", hex(&signature))
}

/// A file under way: chunks until the last one, or an error. Reading blocks.
pub struct StatementFile {
    source: Arc<dyn Source>,
    tenant: String,
    month: Month,
    /// The statement, until it is out.
    line: Option<String>,
    /// Which statement it is.
    digest: [u8; DIGEST_BYTES],
    first: u64,
    last: u64,
    /// The last row of the ledger that was looked at, and what was read behind it.
    after: u64,
    read: VecDeque<LedgerRow>,
    text: Text,
    rows: u64,
    ended: bool,
}

impl StatementFile {
    /// Begins the file of a statement that is `line`, or goes on with it.
    ///
    /// # Errors
    /// When there is no such place to go on from.
    pub fn open(
        source: Arc<dyn Source>,
        statement: &Statement,
        line: String,
        cursor: &str,
    ) -> Result<Self, ExportError> {
        let whole = leaf(line.as_bytes());
        let digest = *whole.first_chunk().expect("a digest is longer");
        let month = Month::parse(&statement.period).map_err(io::Error::other)?;
        let first = statement.first_row.saturating_sub(1);
        let (line, after) = match cursor {
            "" => (Some(line), first),
            cursor => (None, after(cursor, &digest)?.max(first)),
        };
        Ok(Self {
            source,
            tenant: statement.tenant.clone(),
            month,
            line,
            digest,
            first,
            last: statement.last_row,
            after,
            read: VecDeque::new(),
            text: Text::new(TextFormat::Jsonl, &EVENTS),
            rows: 0,
            ended: false,
        })
    }

    fn chunk(&mut self) -> Result<Chunk, ExportError> {
        let mut data = self.line.take().map(String::into_bytes).unwrap_or_default();
        for _ in 0..CHUNK_ROWS {
            let Some(row) = self.next_row()? else {
                (self.after, self.ended) = (self.last.max(self.after), true);
                break;
            };
            self.after = row.seq;
            if row.tenant == self.tenant && row.month == self.month.number() {
                self.text.row(&event(&row), &mut data)?;
                self.rows += 1;
            }
            if data.len() >= CHUNK_BYTES {
                break;
            }
        }
        let cursor = format!("{CURSOR}-{}-{:x}", hex(&self.digest), self.after);
        Ok(Chunk { data, cursor, rows: self.rows, done: self.done(), last: self.ended })
    }

    fn next_row(&mut self) -> Result<Option<LedgerRow>, ExportError> {
        if self.read.is_empty() && self.after < self.last {
            self.read = self.source.rows(self.after, READ_ROWS)?.into();
        }
        Ok(self.read.pop_front().filter(|row| row.seq <= self.last))
    }

    fn done(&self) -> u32 {
        let whole = self.last.saturating_sub(self.first).max(1);
        let part = self.after.saturating_sub(self.first).min(whole);
        u32::try_from(u128::from(part) * 1_000 / u128::from(whole)).unwrap_or(1_000)
    }
}

impl Iterator for StatementFile {
    type Item = Result<Chunk, ExportError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let chunk = self.chunk();
        self.ended |= chunk.is_err();
        Some(chunk)
    }
}

/// The row behind which a file of this statement goes on.
fn after(cursor: &str, digest: &[u8; DIGEST_BYTES]) -> Result<u64, CursorError> {
    let parts: Vec<&str> = cursor.split('-').collect();
    let [CURSOR, of, seq] = parts[..] else { return Err(CursorError::Malformed) };
    let of: [u8; DIGEST_BYTES] = unhex(of).ok_or(CursorError::Malformed)?;
    let is_number = !seq.is_empty() && seq.bytes().all(|byte| byte.is_ascii_hexdigit());
    let seq = is_number.then(|| u64::from_str_radix(seq, 16).ok()).flatten().ok_or(CursorError::Malformed)?;
    if of == *digest { Ok(seq) } else { Err(CursorError::OfAnother) }
}
