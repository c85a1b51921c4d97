//! Rows of an export, read back from their text.

use std::io::{self, BufRead};

use serde_json::{Map, Value};
use tollgate_model::{Money, Timestamp};

use crate::{
    export::{Cell, EVENTS, Encode as _, Kind, Text, TextFormat, event_id, is_formula, leaf_digest, seq_of},
    period::Digest,
};

/// No row is longer, by far.
const MAX_LINE_BYTES: usize = 1 << 20;
/// And no `event_id`.
const MAX_EVENT_BYTES: usize = 64;
/// Texts of one row that may or may not have been kept from being a formula: callers choose two.
const MAX_UNSURE: usize = 6;

/// The lines of a file, with what ends them.
pub(super) struct Lines<R> {
    from: R,
    /// Lines that were read.
    read: u64,
}

/// Why there is no next line.
pub(super) enum Unread {
    Io(io::Error),
    TooLong,
}

impl<R: BufRead> Lines<R> {
    pub(super) fn new(from: R) -> Self {
        Self { from, read: 0 }
    }

    /// How many were read: the number of the last one.
    pub(super) fn read(&self) -> u64 {
        self.read
    }

    /// The next line; empty at the end.
    pub(super) fn next(&mut self) -> Result<Vec<u8>, Unread> {
        let mut line = Vec::new();
        self.more(&mut line)?;
        Ok(line)
    }

    /// The next row of CSV: more than one line where a value has some.
    pub(super) fn next_csv(&mut self) -> Result<Vec<u8>, Unread> {
        let mut row = self.next()?;
        while row.iter().filter(|byte| **byte == b'"').count() % 2 == 1 {
            if self.more(&mut row)? == 0 {
                break;
            }
        }
        Ok(row)
    }

    fn more(&mut self, line: &mut Vec<u8>) -> Result<usize, Unread> {
        let most = (MAX_LINE_BYTES - line.len()) as u64;
        let read = io::Read::take(&mut self.from, most).read_until(b'\n', line).map_err(Unread::Io)?;
        self.read += u64::from(read > 0);
        if line.len() >= MAX_LINE_BYTES { Err(Unread::TooLong) } else { Ok(read) }
    }
}

/// A row that is what its `event_id` says.
pub(super) struct Row {
    pub(super) seq: u64,
    pub(super) digest: Digest,
    cells: Vec<Cell<'static>>,
}

/// What is wrong with a row, and its `event_id` where it has one.
pub(super) struct WrongRow {
    pub(super) event: Option<String>,
    pub(super) what: String,
}

impl Row {
    /// Reads a row as an export writes it, byte for byte.
    pub(super) fn read(format: TextFormat, raw: &[u8]) -> Result<Self, WrongRow> {
        let no_event = |what| WrongRow { event: None, what };
        let cells = match format {
            TextFormat::Jsonl => json(raw),
            TextFormat::Csv => csv(raw),
        };
        let cells = cells.map_err(|(event, what)| WrongRow { event, what })?;
        let Cell::Text(event) = &cells[0] else { return Err(no_event("event_id: is missing".to_owned())) };
        let event = event.clone().into_owned();
        let wrong = |what: String| WrongRow { event: Some(event.clone()), what };
        let seq = seq_of(&event).ok_or_else(|| wrong("event_id: is not one that an export writes".to_owned()))?;
        let unsure = if format == TextFormat::Csv { unsure(&cells) } else { Vec::new() };
        let found = variants(cells.clone(), &unsure).find_map(|cells| {
            let digest = leaf_digest(seq, &cells[1..]);
            (event_id(seq, &digest) == event).then_some(Self { seq, digest, cells })
        });
        let row = found.ok_or_else(|| {
            let is = event_id(seq, &leaf_digest(seq, &cells[1..]));
            wrong(format!("its columns were changed, or its event_id: what they say makes it {is}"))
        })?;
        let mut written = Vec::new();
        Text::new(format, &EVENTS).row(&row.cells, &mut written).map_err(|error| wrong(error.to_string()))?;
        match written.iter().zip(raw).position(|(one, other)| one != other) {
            None if written.len() == raw.len() => Ok(row),
            at => {
                let at = at.unwrap_or_else(|| written.len().min(raw.len())) + 1;
                Err(wrong(format!("byte {at} of the row is not as an export writes it")))
            }
        }
    }

    fn cell(&self, column: &str) -> &Cell<'static> {
        let at = EVENTS.iter().position(|it| it.name == column);
        &self.cells[at.expect("the schema has the columns that are asked for")]
    }

    /// A column of text; empty where there is none.
    pub(super) fn text(&self, column: &str) -> &str {
        match self.cell(column) {
            Cell::Text(text) => text,
            _ => "",
        }
    }

    pub(super) fn number(&self, column: &str) -> u64 {
        if let Cell::Number(number) = self.cell(column) { *number } else { 0 }
    }

    pub(super) fn time(&self) -> Timestamp {
        if let Cell::Time(time) = self.cell("time") { *time } else { Timestamp(0) }
    }

    pub(super) fn cost(&self) -> Option<Money> {
        if let Cell::Decimal(cost) = self.cell("cost") { Some(*cost) } else { None }
    }
}

/// Texts of which an apostrophe at their beginning may have been put there, or not.
fn unsure(cells: &[Cell<'_>]) -> Vec<usize> {
    let is = |cell: &Cell<'_>| matches!(cell, Cell::Text(text) if is_formula(text));
    let all = cells.iter().enumerate().filter(|(_, cell)| is(cell)).map(|(at, _)| at);
    all.take(MAX_UNSURE).collect()
}

/// The row as it is, and with those apostrophes.
fn variants(cells: Vec<Cell<'static>>, unsure: &[usize]) -> impl Iterator<Item = Vec<Cell<'static>>> {
    (0..1_usize << unsure.len()).map(move |mask| {
        let mut cells = cells.clone();
        for (_, at) in unsure.iter().enumerate().filter(|(n, _)| mask >> n & 1 == 1) {
            if let Cell::Text(text) = &cells[*at] {
                cells[*at] = Cell::Text(format!("'{text}").into());
            }
        }
        cells
    })
}

type Cells = Result<Vec<Cell<'static>>, (Option<String>, String)>;

/// The `event_id` of a line that may be no JSON any more.
fn event_in(raw: &[u8]) -> Option<String> {
    let text = raw.strip_prefix(b"{\"event_id\":\"")?;
    let end = text.iter().take(MAX_EVENT_BYTES).position(|byte| *byte == b'"')?;
    String::from_utf8(text[..end].to_vec()).ok()
}

fn json(raw: &[u8]) -> Cells {
    let object: Map<String, Value> =
        serde_json::from_slice(raw).map_err(|error| (event_in(raw), format!("is no row: {error}")))?;
    let event = object.get("event_id").and_then(Value::as_str).map(str::to_owned);
    let wrong = |what: String| (event.clone(), what);
    if let Some(unknown) = object.keys().find(|key| !EVENTS.iter().any(|column| column.name == **key)) {
        return Err(wrong(format!("{unknown}: is no column of the schema events")));
    }
    let cell = |column: &crate::export::Column| {
        let value = object.get(column.name).ok_or_else(|| wrong(format!("{}: is missing", column.name)))?;
        let cell = match (column.kind, value) {
            (_, Value::Null) => Ok(Cell::Absent),
            (Kind::Number, Value::Number(number)) => {
                number.as_u64().map(Cell::Number).ok_or_else(|| format!("{number} is no count"))
            }
            (Kind::Text | Kind::Decimal | Kind::Time, Value::String(text)) => parse(column.kind, text),
            (_, other) => Err(format!("{other} is not what the column holds")),
        };
        cell.map_err(|why| wrong(format!("{}: {why}", column.name)))
    };
    EVENTS.iter().map(cell).collect()
}

fn csv(raw: &[u8]) -> Cells {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(raw);
    let record = reader.records().next().transpose().map_err(|error| (None, format!("is no row: {error}")))?;
    let record = record.unwrap_or_default();
    let event = record.get(0).filter(|text| !text.is_empty()).map(str::to_owned);
    let wrong = |what: String| (event.clone(), what);
    if record.len() != EVENTS.len() {
        return Err(wrong(format!("has {} columns, and the schema events has {}", record.len(), EVENTS.len())));
    }
    let cell = |(column, text): (&crate::export::Column, &str)| {
        let plain = text.strip_prefix('\'').filter(|rest| column.kind == Kind::Text && is_formula(rest));
        let cell = match (column.kind, plain.unwrap_or(text)) {
            (_, "") => Ok(Cell::Absent),
            (Kind::Number, text) => text.parse().map(Cell::Number).map_err(|_| format!("`{text}` is no count")),
            (kind, text) => parse(kind, text),
        };
        cell.map_err(|why| wrong(format!("{}: {why}", column.name)))
    };
    EVENTS.iter().zip(&record).map(cell).collect()
}

fn parse(kind: Kind, text: &str) -> Result<Cell<'static>, String> {
    match kind {
        Kind::Time => Timestamp::parse(text).map(Cell::Time),
        Kind::Decimal => Money::parse(text).map(Cell::Decimal),
        Kind::Text | Kind::Number => Ok(Cell::Text(text.to_owned().into())),
    }
}
