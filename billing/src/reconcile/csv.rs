//! CSV (RFC 4180), a record at a time.

use std::io::BufRead;

use super::{
    bytes::{Bytes, MAX_TEXT_BYTES, Stop},
    line::{Field, Line, Partial, field},
};

const MAX_COLUMNS: usize = 256;

/// A file with a header.
pub(super) struct Csv<R> {
    bytes: Bytes<R>,
    /// What each column is, and what the file calls it.
    columns: Vec<(Option<Field>, String)>,
    record: Vec<String>,
}

impl<R: BufRead> Csv<R> {
    /// Reads the header.
    pub(super) fn open(bytes: Bytes<R>) -> Result<Self, Stop> {
        let mut csv = Self { bytes, columns: Vec::new(), record: Vec::new() };
        let Some(line) = csv.record()? else { return csv.bytes.wrong("header", "is missing: the file is empty") };
        csv.columns = std::mem::take(&mut csv.record).into_iter().map(|name| (field(&name), name)).collect();
        let has_figures = |field: &Field| matches!(field, Field::Figure(_) | Field::Uncached | Field::Cost);
        if !csv.columns.iter().filter_map(|(field, _)| field.as_ref()).any(has_figures) {
            let why = "names no column of requests, tokens or cost, such as input_tokens";
            return Err(super::FileError::new(line, "header", why).into());
        }
        Ok(csv)
    }

    /// The next line that says what was used.
    pub(super) fn next(&mut self) -> Result<Option<Line>, Stop> {
        while let Some(line) = self.record()? {
            if self.record.len() > self.columns.len() {
                let field = format!("column {}", self.columns.len() + 1);
                return Err(super::FileError::new(line, &field, "is not in the header").into());
            }
            let mut said = Partial::default();
            for ((field, name), text) in self.columns.iter().zip(&self.record) {
                if let Some(field) = field {
                    said.set(*field, name, text.trim(), line)?;
                }
            }
            if let Some(line) = said.finish(&Partial::default(), line)? {
                return Ok(Some(line));
            }
        }
        Ok(None)
    }

    /// Reads a record; the line that it begins in. Lines without anything are none.
    fn record(&mut self) -> Result<Option<u64>, Stop> {
        loop {
            if self.bytes.peek()?.is_none() {
                return Ok(None);
            }
            let line = self.bytes.line();
            self.record.clear();
            while self.text()? {
                if self.record.len() == MAX_COLUMNS {
                    return self.bytes.wrong(&self.name(), format!("is one column more than {MAX_COLUMNS}"));
                }
            }
            if self.record.iter().any(|text| !text.is_empty()) {
                return Ok(Some(line));
            }
        }
    }

    /// Reads the text of one column. Whether another one follows in the record.
    fn text(&mut self) -> Result<bool, Stop> {
        let mut text = Vec::new();
        let is_quoted = self.bytes.peek()? == Some(b'"');
        if is_quoted {
            self.bytes.next()?;
            self.quoted(&mut text)?;
        }
        let more = loop {
            match self.bytes.next()? {
                Some(b',') => break true,
                Some(b'\n') | None => break false,
                Some(b'\r') if matches!(self.bytes.peek()?, Some(b'\n') | None) => {}
                Some(_) if is_quoted => return self.bytes.wrong(&self.name(), "goes on behind its closing quote"),
                Some(byte) => self.push(&mut text, byte)?,
            }
        };
        match String::from_utf8(text) {
            Ok(text) => self.record.push(text),
            Err(_) => return self.bytes.wrong(&self.name(), "is not UTF-8"),
        }
        Ok(more)
    }

    fn quoted(&mut self, text: &mut Vec<u8>) -> Result<(), Stop> {
        loop {
            match self.bytes.next()? {
                Some(b'"') if self.bytes.peek()? == Some(b'"') => {
                    self.bytes.next()?;
                    self.push(text, b'"')?;
                }
                Some(b'"') => return Ok(()),
                Some(byte) => self.push(text, byte)?,
                None => return self.bytes.wrong(&self.name(), "has a quote that is not closed"),
            }
        }
    }

    fn push(&self, text: &mut Vec<u8>, byte: u8) -> Result<(), Stop> {
        if text.len() == MAX_TEXT_BYTES {
            return self.bytes.wrong(&self.name(), format!("has more than {MAX_TEXT_BYTES} bytes"));
        }
        text.push(byte);
        Ok(())
    }

    /// The column that is being read.
    fn name(&self) -> String {
        let known = self.columns.get(self.record.len()).map(|(_, name)| name.clone());
        known.unwrap_or_else(|| format!("column {}", self.record.len() + 1))
    }
}
