//! The formats of bills, Parquet among them. It is a crate of its own, as Parquet takes long to compile: billing says what
//! the rows are, and knows formats by the trait [`Encode`].

mod parquet;

use std::io;

use tollgate_billing::export::{Encode, Format, Query, Text, TextFormat};

pub use crate::parquet::Parquet;

/// Writes what a query asks for.
///
/// # Errors
/// When the format can't hold the columns.
pub fn encoder(query: &Query) -> io::Result<Box<dyn Encode>> {
    let columns = query.schema.columns();
    Ok(match query.format {
        Format::Csv => Box::new(Text::new(TextFormat::Csv, columns)),
        Format::Jsonl => Box::new(Text::new(TextFormat::Jsonl, columns)),
        Format::Parquet => Box::new(Parquet::new(columns)?),
    })
}
