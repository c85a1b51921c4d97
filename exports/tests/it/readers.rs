//! Files are read back by readers that are not ours: the `csv` crate, Python's csv module, pyarrow.
//!
//! `TOLLGATE_PARQUET_PYTHON` names a Python that has pyarrow; without it that test is skipped, and says so.

use std::{path::Path, process::Command, sync::Arc};

use tollgate_billing::export::{Format, Schema};

use crate::world::{FORMATS, SCHEMAS, bytes, chunks, long, query};

/// Reads `events` in three formats with Python alone and pyarrow; fails where they differ.
const COMPARE: &str = r#"
import csv, decimal, json, sys
import pyarrow as pa, pyarrow.parquet as pq
folder, schema = sys.argv[1], sys.argv[2]
with open(f"{folder}/{schema}.csv", newline="", encoding="utf-8") as file:
    text = list(csv.DictReader(file))
with open(f"{folder}/{schema}.jsonl", encoding="utf-8") as file:
    lines = [json.loads(line) for line in file]
table = pq.read_table(f"{folder}/{schema}.parquet")
rows = table.to_pylist()
assert len(text) == len(lines) == len(rows) > 0, (len(text), len(lines), len(rows))
assert list(text[0]) == list(lines[0]) == table.column_names
for column in table.schema:
    kind = column.type
    assert kind in (pa.string(), pa.uint64(), pa.decimal128(38, 12), pa.timestamp("us", tz="UTC")), column
def told(value):
    if value is None: return ""
    if isinstance(value, decimal.Decimal):
        value = f"{value:f}"
        return (value.rstrip("0").rstrip(".")) if "." in value else value
    if hasattr(value, "isoformat"):
        value = value.isoformat().replace("+00:00", "")
        return (value.rstrip("0") if "." in value else value) + "Z"
    return str(value)
for cells, line, row in zip(text, lines, rows):
    for name, value in row.items():
        value = told(value)
        assert value == told(line[name]), (name, value, line[name])
        guarded = cells[name].removeprefix("'")
        assert value == guarded, (name, value, cells[name])
print(len(rows), pq.ParquetFile(f"{folder}/{schema}.parquet").metadata.num_row_groups)
"#;

/// More than one group of Parquet rows.
const MANY: u64 = 66_000;

fn write_all(folder: &Path, schema: Schema) {
    let mut ledger = long(if schema == Schema::Events { MANY } else { 2_000 });
    for (at, model) in ["=1+1", "a,b", "a\"b", "ü 中", "a\r\nb"].into_iter().enumerate() {
        ledger.rows[at].model = model.into();
    }
    ledger.rows[7].amount = (-5i128).to_be_bytes().to_vec();
    ledger.rows[8].input_tokens = u64::MAX;
    ledger.rows[8].consumer = "many".into();
    ledger.rows[9].currency = String::new();
    let ledger = Arc::new(ledger);
    for format in FORMATS {
        let name = format!("{}.{}", schema.as_str(), format.as_str());
        std::fs::write(folder.join(name), bytes(&chunks(&ledger, &query(schema, format), ""))).unwrap();
    }
}

#[test]
fn pyarrow_reads_what_pythons_csv_and_json_read() {
    let Some(python) = std::env::var_os("TOLLGATE_PARQUET_PYTHON") else {
        eprintln!("SKIPPED: TOLLGATE_PARQUET_PYTHON names no Python with pyarrow");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    for schema in SCHEMAS {
        write_all(folder.path(), schema);
        let read =
            Command::new(&python).args(["-c", COMPARE]).arg(folder.path()).arg(schema.as_str()).output().unwrap();
        let (told, wrong) = (String::from_utf8_lossy(&read.stdout), String::from_utf8_lossy(&read.stderr));
        assert!(read.status.success(), "{schema:?}: {wrong}");
        let told: Vec<u64> = told.split_whitespace().map(|number| number.parse().unwrap()).collect();
        assert!(told[0] > 1 && (schema != Schema::Events || told == [MANY, 2]), "{schema:?}: {told:?}");
    }
}

#[test]
fn a_reader_of_csv_reads_every_schema() {
    let ledger = Arc::new(long(500));
    for schema in SCHEMAS {
        let file = bytes(&chunks(&ledger, &query(schema, Format::Csv), ""));
        let mut reader = csv::Reader::from_reader(&file[..]);
        let names: Vec<_> = schema.columns().iter().map(|column| column.name).collect();
        assert_eq!(reader.headers().unwrap(), names);
        assert!(reader.records().map(Result::unwrap).count() > 0);
    }
}
