//! What a verb prints: tables for people, YAML and JSON for programs.

use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use serde_json::Value;

use super::table::Table;

/// How an answer is written.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// Aligned columns, for people.
    Table,
    /// YAML.
    Yaml,
    /// JSON.
    Json,
}

/// How a list is written.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ListFormat {
    /// Aligned columns, for people.
    Table,
    /// A JSON list of flat objects.
    Json,
}

/// Writes text to standard output as it is.
pub(crate) fn write(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

/// Writes a JSON value and a line's end.
pub(super) fn write_json(value: &Value) -> anyhow::Result<()> {
    write(&format!("{value:#}\n"))
}

/// Writes a table; its head is bold on a terminal.
pub(super) fn write_table(table: &Table) -> anyhow::Result<()> {
    write(&table.render(io::stdout().is_terminal() && !no_colour()))
}

/// Writes flat objects as the format says: a JSON list, or a table with a column for each of `columns`, which are
/// fields of the objects.
pub(super) fn write_list(format: ListFormat, columns: &[&str], rows: Vec<Value>) -> anyhow::Result<()> {
    match format {
        ListFormat::Json => write_json(&Value::Array(rows)),
        ListFormat::Table => write_table(&Table::of(columns, &rows)),
    }
}

/// The text, or nothing where it is empty: what a message leaves out is `null` in JSON.
pub(super) fn some(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

/// The convention of no-color.org.
fn no_colour() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

/// Whether somebody, like `head`, has read enough: that is no failure.
pub(crate) fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
