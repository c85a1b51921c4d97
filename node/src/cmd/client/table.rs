//! Aligned columns.

use serde_json::Value;

/// Between two columns.
const GAP: &str = "  ";
const BOLD: &str = "\x1b[1m";
const PLAIN: &str = "\x1b[0m";

/// A head and rows of as many cells.
#[derive(Debug, Default)]
pub(super) struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
    /// Columns of numbers, which end at the same place.
    right: Vec<bool>,
}

impl Table {
    /// A column for each of these fields of flat objects, named as a person reads it.
    pub(super) fn of(columns: &[&str], rows: &[Value]) -> Table {
        let is_number = |column: &&str| !rows.is_empty() && rows.iter().all(|row| row[*column].is_number());
        Table {
            head: columns.iter().map(|column| title(column)).collect(),
            rows: rows.iter().map(|row| columns.iter().map(|column| cell(&row[*column])).collect()).collect(),
            right: columns.iter().map(is_number).collect(),
        }
    }

    /// The text, each line ended.
    pub(super) fn render(&self, bold_head: bool) -> String {
        let widths: Vec<usize> = (0..self.head.len())
            .map(|n| self.rows.iter().chain([&self.head]).map(|row| row[n].chars().count()).max().unwrap_or(0))
            .collect();
        let head = self.line(&self.head, &widths);
        let mut text = if bold_head { format!("{BOLD}{head}{PLAIN}\n") } else { format!("{head}\n") };
        for row in &self.rows {
            text.push_str(&self.line(row, &widths));
            text.push('\n');
        }
        text
    }

    fn line(&self, cells: &[String], widths: &[usize]) -> String {
        let padded =
            cells.iter().zip(widths).zip(&self.right).map(|((cell, width), right)| {
                if *right { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
            });
        padded.collect::<Vec<_>>().join(GAP).trim_end().to_owned()
    }
}

/// `windowStart` as `WINDOW START`.
fn title(field: &str) -> String {
    let mut title = String::new();
    for letter in field.chars() {
        if letter.is_ascii_uppercase() {
            title.push(' ');
        }
        title.push(letter.to_ascii_uppercase());
    }
    title
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_are_aligned_and_numbers_end_at_the_same_place() {
        let rows = [
            json!({"name": "a", "used": 5, "windowEnd": null}),
            json!({"name": "längst", "used": 1000, "windowEnd": "x"}),
        ];
        let table = Table::of(&["name", "used", "windowEnd"], &rows);
        assert_eq!(table.render(false), "NAME    USED  WINDOW END\na          5  -\nlängst  1000  x\n");
        assert!(table.render(true).starts_with("\x1b[1mNAME"));
        assert_eq!(Table::of(&["name"], &[]).render(false), "NAME\n");
    }
}
