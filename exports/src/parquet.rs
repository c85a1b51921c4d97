//! Rows as a Parquet file.
//!
//! Text is `STRING`, a count an unsigned 64-bit integer, money `DECIMAL(38, 12)` and so exact, an instant
//! `TIMESTAMP(MICROS, UTC)`; every column may be null. Where a group of rows ends depends on the rows alone, and so does every
//! byte: the same rows are the same file.

mod column;

use std::{io, mem, sync::Arc};

use parquet::{
    basic::Compression,
    file::{
        properties::{EnabledStatistics, WriterProperties},
        writer::SerializedFileWriter,
    },
    schema::types::{ColumnPath, Type},
};
use tollgate_billing::export::{Cell, Column, Encode, Kind};

use self::column::Buffer;

/// Rows of a group. They wait in memory until it is complete.
const GROUP_ROWS: usize = 49_152;
/// Text of a group, where names are long.
const GROUP_TEXT: usize = 16 << 20;
/// Columns that have another value in each row: a dictionary of them would be in vain.
const DISTINCT: [&str; 3] = ["event_id", "request_id", "time"];
/// Told in the file. It names no version: files of two releases need not differ by that.
const CREATED_BY: &str = "tollgate";

/// Rows as a Parquet file.
pub struct Parquet {
    columns: Vec<Buffer>,
    rows: usize,
    text: usize,
    writer: SerializedFileWriter<Vec<u8>>,
}

impl Parquet {
    /// Rows with these columns.
    ///
    /// # Errors
    /// When there can be no such columns.
    pub fn new(columns: &[Column]) -> io::Result<Self> {
        let fields = columns.iter().map(|column| Ok(Arc::new(column::field(column)?)));
        let fields = fields.collect::<io::Result<_>>()?;
        let schema = Type::group_type_builder("bill").with_fields(fields).build().map_err(io::Error::other)?;
        let properties = WriterProperties::builder()
            .set_created_by(CREATED_BY.to_owned())
            .set_compression(Compression::SNAPPY)
            .set_statistics_enabled(EnabledStatistics::Chunk)
            .set_offset_index_disabled(true);
        let properties = DISTINCT.iter().fold(properties, |properties, column| {
            properties.set_column_dictionary_enabled(ColumnPath::from(*column), false)
        });
        // The least and the greatest amount of a group are parts of all of them, which would stay in memory until the file ends.
        let amounts = columns.iter().filter(|column| column.kind == Kind::Decimal);
        let properties = amounts.fold(properties, |properties, column| {
            properties.set_column_statistics_enabled(ColumnPath::from(column.name), EnabledStatistics::None)
        });
        let writer = SerializedFileWriter::new(Vec::new(), Arc::new(schema), Arc::new(properties.build()));
        let writer = writer.map_err(io::Error::other)?;
        Ok(Self { columns: columns.iter().map(Buffer::new).collect(), rows: 0, text: 0, writer })
    }

    /// Writes the rows that wait.
    fn end_group(&mut self) -> io::Result<()> {
        let mut group = self.writer.next_row_group().map_err(io::Error::other)?;
        for buffer in &mut self.columns {
            let column = group.next_column().map_err(io::Error::other)?;
            buffer.write(column.ok_or_else(|| io::Error::other("a column is missing"))?)?;
        }
        group.close().map_err(io::Error::other)?;
        (self.rows, self.text) = (0, 0);
        Ok(())
    }

    fn take(&mut self, into: &mut Vec<u8>) {
        into.append(&mut mem::take(self.writer.inner_mut()));
    }
}

impl Encode for Parquet {
    fn begin(&mut self, into: &mut Vec<u8>) -> io::Result<()> {
        self.writer.flush()?;
        self.take(into);
        Ok(())
    }

    fn row(&mut self, cells: &[Cell<'_>], into: &mut Vec<u8>) -> io::Result<()> {
        for (buffer, cell) in self.columns.iter_mut().zip(cells) {
            self.text += buffer.add(cell)?;
        }
        self.rows += 1;
        if self.rows >= GROUP_ROWS || self.text >= GROUP_TEXT {
            self.end_group()?;
            self.take(into);
        }
        Ok(())
    }

    fn finish(&mut self, into: &mut Vec<u8>) -> io::Result<()> {
        if self.rows > 0 {
            self.end_group()?;
        }
        self.writer.finish().map_err(io::Error::other)?;
        self.take(into);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use parquet::file::reader::{FileReader as _, SerializedFileReader};
    use tollgate_model::Money;

    use super::*;

    /// What stays of a group until its file ends is told by its columns: amounts would stay whole.
    #[test]
    fn nothing_of_a_group_stays_in_memory_but_its_figures() {
        let column = |name, kind| Column { name, kind };
        let columns = [column("amount", Kind::Decimal), column("count", Kind::Number), column("name", Kind::Text)];
        let (mut parquet, mut file) = (Parquet::new(&columns).unwrap(), Vec::new());
        parquet.begin(&mut file).unwrap();
        for row in 0..=GROUP_ROWS as u64 {
            let cells = [Cell::Decimal(Money(row.into())), Cell::Number(row), Cell::Text(Cow::Borrowed("name"))];
            parquet.row(&cells, &mut file).unwrap();
        }
        parquet.finish(&mut file).unwrap();
        let read = SerializedFileReader::new(bytes::Bytes::from(file)).unwrap();
        assert_eq!(read.num_row_groups(), 2);
        for group in read.metadata().row_groups() {
            let told: Vec<bool> = group.columns().iter().map(|column| column.statistics().is_some()).collect();
            assert_eq!(told, [false, true, true]);
        }
    }
}
