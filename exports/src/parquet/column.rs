//! The values of one column until their group is written.

use std::{io, mem};

use bytes::Bytes;
use parquet::{
    basic::{LogicalType, Repetition, TimeUnit, Type as Physical},
    data_type::{ByteArray, ByteArrayType, FixedLenByteArray, FixedLenByteArrayType, Int64Type},
    file::writer::SerializedColumnWriter,
    schema::types::Type,
};
use tollgate_billing::export::{Cell, Column, Kind};

const DECIMAL_DIGITS: i32 = 38;
const DECIMAL_PLACES: i32 = 12;
/// The first that has more digits.
const TOO_MUCH: u128 = 10_u128.pow(38);
const DECIMAL_BYTES: u8 = 16;

/// How a column is declared.
pub(super) fn field(column: &Column) -> io::Result<Type> {
    let (physical, logical) = match column.kind {
        Kind::Text => (Physical::BYTE_ARRAY, LogicalType::String),
        Kind::Number => (Physical::INT64, LogicalType::integer(64, false)),
        Kind::Decimal => (Physical::FIXED_LEN_BYTE_ARRAY, LogicalType::decimal(DECIMAL_PLACES, DECIMAL_DIGITS)),
        Kind::Time => (Physical::INT64, LogicalType::timestamp(true, TimeUnit::MICROS)),
    };
    let field = Type::primitive_type_builder(column.name, physical)
        .with_repetition(Repetition::OPTIONAL)
        .with_logical_type(Some(logical));
    let field = match column.kind {
        Kind::Decimal => {
            field.with_length(DECIMAL_BYTES.into()).with_precision(DECIMAL_DIGITS).with_scale(DECIMAL_PLACES)
        }
        _ => field,
    };
    field.build().map_err(io::Error::other)
}

/// The values of one column.
pub(super) struct Buffer {
    name: &'static str,
    /// 1 where there is a value, 0 where there is none.
    levels: Vec<i16>,
    values: Values,
}

enum Values {
    /// One after another, and where each ends.
    Text(Vec<u8>, Vec<usize>),
    /// Counts, as the bits that they have; instants.
    Int64(Vec<i64>),
    /// Big-endian, one after another.
    Decimal(Vec<u8>),
}

impl Buffer {
    pub(super) fn new(column: &Column) -> Self {
        let values = match column.kind {
            Kind::Text => Values::Text(Vec::new(), Vec::new()),
            Kind::Number | Kind::Time => Values::Int64(Vec::new()),
            Kind::Decimal => Values::Decimal(Vec::new()),
        };
        Self { name: column.name, levels: Vec::new(), values }
    }

    /// Adds a value; says how much text that is.
    pub(super) fn add(&mut self, cell: &Cell<'_>) -> io::Result<usize> {
        let text = match (&mut self.values, cell) {
            (_, Cell::Absent) => {
                self.levels.push(0);
                return Ok(0);
            }
            (Values::Text(bytes, ends), Cell::Text(text)) => {
                bytes.extend_from_slice(text.as_bytes());
                ends.push(bytes.len());
                text.len()
            }
            (Values::Int64(values), Cell::Number(number)) => {
                values.push(number.cast_signed());
                0
            }
            (Values::Int64(values), Cell::Time(time)) => {
                values.push(i64::try_from(time.0).map_err(|_| wrong(self.name, "a time after all calendars"))?);
                0
            }
            (Values::Decimal(bytes), Cell::Decimal(money)) => {
                if money.0.unsigned_abs() >= TOO_MUCH {
                    return Err(wrong(self.name, "an amount of more than 26 digits before the point"));
                }
                bytes.extend_from_slice(&money.0.to_be_bytes());
                0
            }
            _ => return Err(wrong(self.name, "a value of another kind")),
        };
        self.levels.push(1);
        Ok(text)
    }

    /// Writes what waits, and begins anew.
    pub(super) fn write(&mut self, mut column: SerializedColumnWriter<'_>) -> io::Result<()> {
        let levels = Some(self.levels.as_slice());
        match &mut self.values {
            Values::Text(bytes, ends) => {
                let room = bytes.capacity();
                let all = Bytes::from(mem::replace(bytes, Vec::with_capacity(room)));
                let begins = std::iter::once(0).chain(ends.iter().copied());
                let values: Vec<ByteArray> =
                    begins.zip(ends.iter()).map(|(from, to)| all.slice(from..*to).into()).collect();
                column.typed::<ByteArrayType>().write_batch(&values, levels, None).map_err(io::Error::other)?;
                ends.clear();
            }
            Values::Int64(values) => {
                column.typed::<Int64Type>().write_batch(values, levels, None).map_err(io::Error::other)?;
                values.clear();
            }
            Values::Decimal(bytes) => {
                let all = Bytes::from(mem::take(bytes));
                let size = usize::from(DECIMAL_BYTES);
                let places = (0..all.len()).step_by(size);
                let values: Vec<FixedLenByteArray> =
                    places.map(|at| ByteArray::from(all.slice(at..at + size)).into()).collect();
                column.typed::<FixedLenByteArrayType>().write_batch(&values, levels, None).map_err(io::Error::other)?;
            }
        }
        self.levels.clear();
        column.close().map_err(io::Error::other)
    }
}

fn wrong(column: &str, what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("column {column} has {what}: Parquet can't hold it"))
}
