//! Rows as text: CSV and JSON lines.

use super::events::Cell;

/// A format of lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextFormat {
    /// RFC 4180, with a header row.
    Csv,
    /// An object a line.
    Jsonl,
}

impl TextFormat {
    /// What stands before the first row.
    #[must_use]
    pub fn head(self, columns: &[&str]) -> Vec<u8> {
        match self {
            Self::Csv => csv_line(columns.iter().map(|column| column.as_bytes().to_vec())),
            Self::Jsonl => Vec::new(),
        }
    }

    /// Adds a row, with its end of line.
    pub fn write(self, columns: &[&str], cells: &[Cell<'_>], into: &mut Vec<u8>) {
        match self {
            Self::Csv => into.extend(csv_line(cells.iter().map(csv_cell))),
            Self::Jsonl => {
                let object: serde_json::Map<_, _> =
                    columns.iter().zip(cells).map(|(column, cell)| ((*column).to_owned(), json(cell))).collect();
                into.extend(serde_json::Value::Object(object).to_string().into_bytes());
                into.push(b'\n');
            }
        }
    }
}

fn csv_line(cells: impl Iterator<Item = Vec<u8>>) -> Vec<u8> {
    let mut writer = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(Vec::new());
    // Into memory, and of one record alone: neither can fail.
    let _ = writer.write_record(cells);
    writer.into_inner().unwrap_or_default()
}

/// Text that a spreadsheet would take for a formula is kept from being one, by an apostrophe in front of it (OWASP, CSV
/// Injection). Numbers are what they are.
fn csv_cell(cell: &Cell<'_>) -> Vec<u8> {
    match cell {
        Cell::Text(text) if text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n', '|', '%']) => {
            [b"'", text.as_bytes()].concat()
        }
        Cell::Text(text) => text.as_bytes().to_vec(),
        Cell::Number(number) => number.to_string().into_bytes(),
        Cell::Decimal(decimal) => decimal.clone().into_bytes(),
        Cell::Absent => Vec::new(),
    }
}

fn json(cell: &Cell<'_>) -> serde_json::Value {
    match cell {
        Cell::Text(text) => text.as_ref().into(),
        Cell::Number(number) => (*number).into(),
        Cell::Decimal(decimal) => decimal.as_str().into(),
        Cell::Absent => serde_json::Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use tollgate_proto::state::v1::{LedgerOutcome, LedgerRow, UsageSource};

    use super::{
        super::events::{COLUMNS, event},
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
            amount: pico.to_be_bytes().to_vec().into(),
            node: 2,
            ..LedgerRow::default()
        }
    }

    fn csv(row: &LedgerRow) -> String {
        let mut bytes = TextFormat::Csv.head(&COLUMNS);
        TextFormat::Csv.write(&COLUMNS, &event(row), &mut bytes);
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn csv_is_read_back_by_a_reader_of_csv() {
        for model in ["m", "a,b", "a\"b", "a\r\nb", "ü 中", ""] {
            let text = csv(&row(model, 1));
            let mut reader = csv::Reader::from_reader(text.as_bytes());
            let at = |name: &str| COLUMNS.iter().position(|column| *column == name).unwrap();
            assert_eq!(reader.headers().unwrap(), COLUMNS.as_slice());
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
        for model in ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "|x", "%x"] {
            let text = csv(&row(model, -5));
            let mut reader = csv::Reader::from_reader(text.as_bytes());
            let read = reader.records().next().unwrap().unwrap();
            assert_eq!(&read[7], format!("'{model}"));
            assert_eq!(&read[18], "-0.000000000005", "a correction is a number");
        }
    }

    #[test]
    fn a_line_of_json_has_every_column_and_null_where_there_is_nothing() {
        let mut bytes = Vec::new();
        TextFormat::Jsonl.write(&COLUMNS, &event(&row("=m", 25)), &mut bytes);
        assert!(bytes.ends_with(b"}\n"));
        let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(value.as_object().unwrap().keys().collect::<Vec<_>>(), COLUMNS.iter().collect::<Vec<_>>());
        assert_eq!(
            (&value["model"], &value["node"], &value["zone"]),
            (&"=m".into(), &2.into(), &serde_json::Value::Null)
        );
        assert_eq!((&value["cost"], &value["event_id"]), (&"0.000000000025".into(), &"458753".into()));
    }
}
