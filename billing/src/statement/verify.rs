//! Checks a file by itself: a statement with its rows, or a plain export of the schema `events`.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader, Read},
};

use tollgate_model::{Currency, Money, Timestamp};

use super::{
    Fingerprint, PublicKey, Statement, StatementLine, VERSION,
    file::{AFTER, BEFORE, KEY, SIGNATURE},
    hex,
    input::{Lines, Row, Unread, WrongRow},
    unhex,
};
use crate::{
    export::{COLUMNS, TextFormat},
    period::{Digest, LineSums, Tree},
};

/// A file that is what it says.
#[derive(Debug)]
pub struct Checked {
    /// The statement, and whose key has signed it. None: a plain export.
    pub statement: Option<(Statement, PublicKey)>,
    /// Rows.
    pub rows: u64,
    /// What they cost.
    pub costs: BTreeMap<Currency, Money>,
}

/// What is wrong with a file, and where it is first so.
#[derive(Debug, PartialEq, Eq)]
pub struct Wrong {
    /// The line, from 1.
    pub line: u64,
    /// The row's `event_id`, where it has one.
    pub event: Option<String>,
    /// What differs.
    pub what: String,
}

impl std::fmt::Display for Wrong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "line {}", self.line)?;
        if let Some(event) = &self.event {
            write!(f, ", event {event}")?;
        }
        write!(f, ": {}", self.what)
    }
}

/// Why a file is not taken for what it says.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// It can't be read.
    #[error("it can't be read")]
    Io(#[from] io::Error),
    /// It is wrong.
    #[error("{0}")]
    Wrong(Wrong),
}

impl VerifyError {
    fn at(line: u64, what: impl Into<String>) -> Self {
        Self::Wrong(Wrong { line, event: None, what: what.into() })
    }
}

/// Checks a file. Where it has a statement, that must be signed by `believed`, or if none is given by the key that it names.
///
/// # Errors
/// What is wrong first, or that it can't be read.
pub fn verify(from: impl Read, believed: Option<Fingerprint>) -> Result<Checked, VerifyError> {
    let mut lines = Lines::new(BufReader::with_capacity(1 << 18, from));
    let first = read(&mut lines, TextFormat::Csv)?;
    let header = format!("{}\r\n", COLUMNS.join(","));
    match &*first {
        [b'{', ..] if first.starts_with(BEFORE.as_bytes()) => {
            let (statement, key) = statement(&first, believed)?;
            let mut check = Check::of(Some(&statement))?;
            check.rest(&mut lines, TextFormat::Jsonl, None)?;
            let (rows, costs) = (check.tree.leaves(), check.costs);
            Ok(Checked { statement: Some((statement, key)), rows, costs })
        }
        _ if believed.is_some() => {
            Err(VerifyError::at(1, "there is no statement, and so no signature of the key that was given"))
        }
        [] => Err(VerifyError::at(1, "the file is empty: there is nothing in it to check")),
        [b'{', ..] => plain(&mut lines, TextFormat::Jsonl, Some(first)),
        line if line == header.as_bytes() => plain(&mut lines, TextFormat::Csv, None),
        [b'P', b'A', b'R', b'1', ..] => {
            Err(VerifyError::at(1, "Parquet is not checked: export the same as csv or jsonl, or ask for the statement"))
        }
        _ => Err(VerifyError::at(
            1,
            "is neither a statement, nor the header of a CSV export of the schema events, nor a row",
        )),
    }
}

fn plain<R: BufRead>(lines: &mut Lines<R>, format: TextFormat, first: Option<Vec<u8>>) -> Result<Checked, VerifyError> {
    let mut check = Check::of(None)?;
    check.rest(lines, format, first)?;
    Ok(Checked { statement: None, rows: check.tree.leaves(), costs: check.costs })
}

fn read<R: BufRead>(lines: &mut Lines<R>, format: TextFormat) -> Result<Vec<u8>, VerifyError> {
    let line = lines.read() + 1;
    let read = match format {
        // A statement is no CSV: its texts are quoted in pairs, as those of every header are.
        TextFormat::Csv if line > 1 => lines.next_csv(),
        TextFormat::Csv | TextFormat::Jsonl => lines.next(),
    };
    read.map_err(|why| match why {
        Unread::Io(error) => VerifyError::Io(error),
        Unread::TooLong => VerifyError::at(line, "is longer than any row"),
    })
}

/// The first line, taken apart, and what it says by itself.
fn statement(line: &[u8], believed: Option<Fingerprint>) -> Result<(Statement, PublicKey), VerifyError> {
    let wrong = |what: String| VerifyError::at(1, what);
    let parts = || {
        let text = std::str::from_utf8(line).ok()?.strip_prefix(BEFORE)?.strip_suffix("\n")?.strip_suffix(AFTER)?;
        let (rest, signature) = text.rsplit_once(SIGNATURE)?;
        let (body, key) = rest.rsplit_once(KEY)?;
        Some((body, PublicKey::parse(key)?, unhex::<64>(signature)?))
    };
    let (body, key, signature) = parts().ok_or_else(|| wrong("is not a statement as it is written".to_owned()))?;
    let fingerprint = key.fingerprint();
    if let Some(believed) = believed.filter(|believed| *believed != fingerprint) {
        return Err(wrong(format!("it names the key {fingerprint}, and not {believed}: somebody else has signed it")));
    }
    if !key.has_signed(body, &signature) {
        return Err(wrong("the statement was changed: its signature is not of what it says".to_owned()));
    }
    let read: Statement = serde_json::from_str(body)
        .map_err(|error| wrong(format!("the statement is of a kind that this version does not know: {error}")))?;
    if read.version != VERSION {
        return Err(wrong(format!("version: {} is not known: use a newer release", read.version)));
    }
    match read.wrong() {
        Some(what) => Err(wrong(what)),
        None => Ok((read, key)),
    }
}

/// What is known of a file so far.
struct Check<'a> {
    of: Option<Signed<'a>>,
    tree: Tree,
    last_seq: u64,
    costs: BTreeMap<Currency, Money>,
}

/// What the rows have to be.
struct Signed<'a> {
    statement: &'a Statement,
    bounds: (Timestamp, Timestamp),
    subtrees: Vec<Digest>,
    /// Of each whole subtree, which rows.
    ranges: Vec<std::ops::Range<u64>>,
    /// The rows of the subtree that is read just now.
    subtree: Tree,
    sums: BTreeMap<(Option<String>, Option<String>, bool), LineSums>,
}

impl<'a> Check<'a> {
    fn of(statement: Option<&'a Statement>) -> Result<Self, VerifyError> {
        let of = statement.map(Signed::of).transpose().map_err(|what| VerifyError::at(1, what))?;
        Ok(Self { of, tree: Tree::default(), last_seq: 0, costs: BTreeMap::new() })
    }

    fn rest<R: BufRead>(
        &mut self,
        lines: &mut Lines<R>,
        format: TextFormat,
        mut first: Option<Vec<u8>>,
    ) -> Result<(), VerifyError> {
        loop {
            let (line, raw) = match first.take() {
                Some(first) => (1, first),
                None => (lines.read() + 1, read(lines, format)?),
            };
            if raw.is_empty() {
                return self.end(lines.read());
            }
            let row = Row::read(format, &raw)
                .map_err(|WrongRow { event, what }| VerifyError::Wrong(Wrong { line, event, what }))?;
            self.take(&row, line).map_err(|what| {
                let event = Some(row.text("event_id").to_owned());
                VerifyError::Wrong(Wrong { line, event, what })
            })?;
        }
    }

    fn take(&mut self, row: &Row, line: u64) -> Result<(), String> {
        match row.seq.cmp(&self.last_seq) {
            std::cmp::Ordering::Less => {
                return Err(format!("it is out of order: it comes after row {}", self.last_seq));
            }
            std::cmp::Ordering::Equal => return Err("it is there twice".to_owned()),
            std::cmp::Ordering::Greater => self.last_seq = row.seq,
        }
        let cost = row.cost().unwrap_or_default();
        if let Ok(currency) = Currency::parse(row.text("currency")) {
            let sum = self.costs.entry(currency).or_default();
            *sum = Money(sum.0.checked_add(cost.0).ok_or("cost: is more than can be added up")?);
        }
        if let Some(signed) = &mut self.of {
            signed.take(row, cost, self.tree.leaves(), line)?;
        }
        self.tree.add(row.digest);
        Ok(())
    }

    fn end(&self, last_line: u64) -> Result<(), VerifyError> {
        let Some(signed) = &self.of else { return Ok(()) };
        let (rows, wanted) = (self.tree.leaves(), signed.statement.rows);
        if rows < wanted {
            let what = format!("the file ends after {rows} rows, and the statement is of {wanted}");
            return Err(VerifyError::at(last_line, what));
        }
        if hex(&self.tree.root()) != signed.statement.merkle_root {
            return Err(VerifyError::at(1, "merkleRoot: is not of the rows behind it"));
        }
        signed.compare().map_err(|what| VerifyError::at(1, what))
    }
}

impl<'a> Signed<'a> {
    fn of(statement: &'a Statement) -> Result<Self, String> {
        let time = |field: &str, text: &str| Timestamp::parse(text).map_err(|wrong| format!("{field}: {wrong}"));
        let bounds = (time("start", &statement.start)?, time("end", &statement.end)?);
        let subtrees: Option<Vec<Digest>> = statement.subtrees.iter().map(|text| unhex(text)).collect();
        let whole = subtrees.and_then(|subtrees| Tree::of(statement.rows, subtrees));
        let whole = whole.ok_or("subtrees: are not those of so many rows")?;
        if hex(&whole.root()) != statement.merkle_root {
            return Err("merkleRoot: is not that of its subtrees".to_owned());
        }
        let ranges = whole.ranges().collect();
        let (subtree, sums) = (Tree::default(), BTreeMap::new());
        Ok(Self { statement, bounds, subtrees: whole.subtrees().to_vec(), ranges, subtree, sums })
    }

    fn take(&mut self, row: &Row, cost: Money, before: u64, line: u64) -> Result<(), String> {
        let statement = self.statement;
        if row.text("tenant") != statement.tenant {
            return Err(format!(
                "tenant: `{}` is not `{}`, whose statement it is",
                row.text("tenant"),
                statement.tenant
            ));
        }
        let is_in = self.bounds.0 <= row.time() && row.time() < self.bounds.1;
        let corrects = row.text("corrects");
        if corrects.is_empty() && !is_in {
            return Err(format!("time: {} is not within {} to {}", row.time(), statement.start, statement.end));
        }
        let text = |column: &str| Some(row.text(column).to_owned()).filter(|text| !text.is_empty());
        let tokens = ["input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens"];
        let sums = self.sums.entry((text("price"), text("currency"), !corrects.is_empty())).or_default();
        sums.add_up(tokens.map(|column| row.number(column)), cost);
        let at = self.ranges.iter().position(|range| range.contains(&before));
        let Some(at) = at else { return Err(format!("the statement is of {} rows: this is one more", statement.rows)) };
        let range = &self.ranges[at];
        self.subtree.add(row.digest);
        if before + 1 == range.end {
            let subtree = std::mem::take(&mut self.subtree).root();
            if subtree != self.subtrees[at] {
                let first = line - (range.end - range.start - 1);
                let of = if first == line { "it".to_owned() } else { format!("a row of lines {first} to {line}") };
                return Err(format!("{of} was put in the place of another, or one was left out or added"));
            }
        }
        Ok(())
    }

    /// What the rows add up to, and what the statement says.
    fn compare(&self) -> Result<(), String> {
        for (n, line) in self.statement.lines.iter().enumerate() {
            let key = (line.price.clone(), line.currency.clone(), line.correction);
            let sums = self.sums.get(&key).cloned().unwrap_or_default();
            if !is_of(line, &sums) {
                return Err(format!("lines[{n}]: is not what its rows add up to: {} rows, {}", sums.rows, sums.amount));
            }
        }
        if self.sums.len() != self.statement.lines.len() {
            return Err("lines: some rows are in none".to_owned());
        }
        Ok(())
    }
}

fn is_of(line: &StatementLine, sums: &LineSums) -> bool {
    let tokens = [
        line.input_tokens,
        line.cached_input_tokens,
        line.cache_write_tokens,
        line.output_tokens,
        line.reasoning_tokens,
    ];
    (line.rows, tokens, &line.exact) == (sums.rows, sums.tokens, &sums.amount.to_string())
}
