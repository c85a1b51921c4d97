//! Rows as text: CSV and JSON lines.

use std::{borrow::Cow, io};

use super::{
    cell::{Cell, Column},
    encode::Encode,
};

/// A format of lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextFormat {
    /// RFC 4180, with a header row.
    Csv,
    /// An object a line.
    Jsonl,
}

/// Rows in such a format.
#[derive(Debug)]
pub struct Text {
    format: TextFormat,
    columns: &'static [Column],
}

impl Text {
    /// Rows with these columns.
    #[must_use]
    pub fn new(format: TextFormat, columns: &'static [Column]) -> Self {
        Self { format, columns }
    }
}

impl Encode for Text {
    fn begin(&mut self, into: &mut Vec<u8>) -> io::Result<()> {
        if self.format == TextFormat::Csv {
            csv_line(self.columns.iter().map(|column| column.name.into()), into);
        }
        Ok(())
    }

    fn row(&mut self, cells: &[Cell<'_>], into: &mut Vec<u8>) -> io::Result<()> {
        match self.format {
            TextFormat::Csv => csv_line(cells.iter().map(csv_cell), into),
            TextFormat::Jsonl => {
                into.push(b'{');
                for (at, (column, cell)) in self.columns.iter().zip(cells).enumerate() {
                    if at > 0 {
                        into.push(b',');
                    }
                    json_text(column.name, into);
                    into.push(b':');
                    json(cell, into);
                }
                into.extend(b"}\n");
            }
        }
        Ok(())
    }

    fn finish(&mut self, _: &mut Vec<u8>) -> io::Result<()> {
        Ok(())
    }
}

/// Quoted where RFC 4180 asks for it. No line is of one empty cell alone, which would look like none.
fn csv_line<'a>(cells: impl Iterator<Item = Cow<'a, str>>, into: &mut Vec<u8>) {
    for (at, cell) in cells.enumerate() {
        if at > 0 {
            into.push(b',');
        }
        if !cell.contains([',', '"', '\r', '\n']) {
            into.extend(cell.as_bytes());
            continue;
        }
        into.push(b'"');
        into.extend(cell.replace('"', "\"\"").as_bytes());
        into.push(b'"');
    }
    into.extend(b"\r\n");
}

/// Text that a spreadsheet would take for a formula is kept from being one, by an apostrophe in front of it (OWASP, CSV
/// Injection). Numbers are what they are.
fn csv_cell<'a>(cell: &'a Cell<'_>) -> Cow<'a, str> {
    match cell {
        Cell::Text(text) if is_formula(text) => format!("'{text}").into(),
        Cell::Text(text) => Cow::Borrowed(text),
        Cell::Number(number) => number.to_string().into(),
        Cell::Decimal(decimal) => decimal.to_string().into(),
        Cell::Time(time) => time.to_string().into(),
        Cell::Absent => Cow::Borrowed(""),
    }
}

/// Whether a spreadsheet would calculate: some take the signs of full width for the others.
pub(crate) fn is_formula(text: &str) -> bool {
    text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n', '|', '%', '＝', '＋', '－', '＠'])
}

/// Decimals are text: most readers would make floats of them.
fn json(cell: &Cell<'_>, into: &mut Vec<u8>) {
    match cell {
        Cell::Text(text) => json_text(text, into),
        Cell::Number(number) => into.extend(number.to_string().as_bytes()),
        Cell::Decimal(decimal) => json_text(&decimal.to_string(), into),
        Cell::Time(time) => json_text(&time.to_string(), into),
        Cell::Absent => into.extend(b"null"),
    }
}

fn json_text(text: &str, into: &mut Vec<u8>) {
    into.extend(serde_json::Value::from(text).to_string().as_bytes());
}

#[cfg(test)]
mod tests {
    use tollgate_proto::state::v1::{LedgerOutcome, LedgerRow, UsageSource};

    use super::{
        super::events::{EVENTS, event},
        *,
    };

    fn row(model: &str, pico: i128) -> LedgerRow {
        LedgerRow {
            seq: (7 << 16) + 1,
            request_id: "r-1".into(),
            admitted_us: 1_000_000,
            tenant: "acme".into(),
            model: model.into(),
            status: 200,
            outcome: LedgerOutcome::Settled.into(),
            usage_source: UsageSource::Provider.into(),
            input_tokens: u64::MAX,
            price: "p".into(),
            price_version: 3,
            currency: "USD".into(),
            amount: pico.to_be_bytes().to_vec(),
            node: 2,
            ..LedgerRow::default()
        }
    }

    fn text(format: TextFormat, row: &LedgerRow) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut text = Text::new(format, &EVENTS);
        text.begin(&mut bytes).unwrap();
        text.row(&event(row), &mut bytes).unwrap();
        text.finish(&mut bytes).unwrap();
        bytes
    }

    fn csv(row: &LedgerRow) -> String {
        String::from_utf8(text(TextFormat::Csv, row)).unwrap()
    }

    fn names() -> Vec<&'static str> {
        EVENTS.iter().map(|column| column.name).collect()
    }

    #[test]
    fn csv_is_read_back_by_a_reader_of_csv() {
        for model in ["m", "a,b", "a\"b", "a\r\nb", "ü 中", ""] {
            let text = csv(&row(model, 1));
            let mut reader = csv::Reader::from_reader(text.as_bytes());
            let at = |name: &str| EVENTS.iter().position(|column| column.name == name).unwrap();
            assert_eq!(reader.headers().unwrap(), names());
            let read: Vec<_> = reader.records().map(Result::unwrap).collect();
            assert_eq!(read.len(), 1);
            assert_eq!(&read[0][at("model")], model);
            assert_eq!(&read[0][at("cost")], "0.000000000001");
            assert_eq!(&read[0][at("price")], "p@3");
            assert_eq!(&read[0][at("input_tokens")], "18446744073709551615");
            assert_eq!(&read[0][at("time")], "1970-01-01T00:00:01Z");
        }
    }

    #[test]
    fn nothing_that_a_caller_chose_is_a_formula() {
        for model in ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "|x", "%x", "＝1", "＋1", "－1", "＠SUM(A1)"] {
            let text = csv(&row(model, -5));
            let mut reader = csv::Reader::from_reader(text.as_bytes());
            let read = reader.records().next().unwrap().unwrap();
            assert_eq!(&read[7], format!("'{model}"));
            assert_eq!(&read[18], "-0.000000000005", "a correction is a number");
        }
    }

    #[test]
    fn a_line_of_json_has_every_column_and_null_where_there_is_nothing() {
        let bytes = text(TextFormat::Jsonl, &row("=m", 25));
        assert!(bytes.ends_with(b"}\n"));
        let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(value.as_object().unwrap().keys().collect::<Vec<_>>(), names());
        assert_eq!(
            (&value["model"], &value["node"], &value["zone"]),
            (&"=m".into(), &2.into(), &serde_json::Value::Null)
        );
        assert_eq!((&value["cost"], &value["event_id"]), (&"0.000000000025".into(), &"458753-376ba472f58fc62b".into()));
    }
}
