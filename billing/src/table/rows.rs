//! The table as key–value rows: `n` and a number, who and what that is; `s`, the first hour and a number, sums of an hour, and with
//! a zero behind it those of a day that was rolled up.

use prost::Message;
use tollgate_model::Money;
use tollgate_proto::state::v1::{UsageNameRow, UsageSumRow};

use super::{DAY, Totals, names::Named};
use crate::amount::{bytes, pico};

const NAME: u8 = b'n';
const SUM: u8 = b's';
const OF_DAY: u8 = 0;

/// What a row says.
pub(super) enum Read {
    /// What a number stands for.
    Name(u32, UsageNameRow),
    /// Sums from an hour on, of so many hours, for a number.
    Sums(u64, u64, u32, Totals),
}

pub(super) fn name_key(number: u32) -> Vec<u8> {
    let mut key = vec![NAME];
    key.extend(number.to_be_bytes());
    key
}

pub(super) fn name(number: u32, named: &Named) -> (Vec<u8>, Vec<u8>) {
    (name_key(number), named.row().encode_to_vec())
}

pub(super) fn sums_key((start, hours): (u64, u64), number: u32) -> Vec<u8> {
    let mut key = Vec::with_capacity(14);
    key.push(SUM);
    key.extend(start.to_be_bytes());
    key.extend(number.to_be_bytes());
    if hours > 1 {
        key.push(OF_DAY);
    }
    key
}

pub(super) fn sums(span: (u64, u64), number: u32, totals: &Totals) -> (Vec<u8>, Vec<u8>) {
    let row = UsageSumRow {
        requests: totals.requests,
        input_tokens: totals.input_tokens,
        cached_input_tokens: totals.cached_input_tokens,
        output_tokens: totals.output_tokens,
        reasoning_tokens: totals.reasoning_tokens,
        cost: bytes(totals.cost.0),
        unpriced: totals.unpriced,
    };
    (sums_key(span, number), row.encode_to_vec())
}

/// Reads a row; none where it is no such row.
pub(super) fn read(key: &[u8], value: &[u8]) -> Option<Read> {
    let (kind, rest) = key.split_first()?;
    match *kind {
        NAME => Some(Read::Name(u32::from_be_bytes(rest.try_into().ok()?), UsageNameRow::decode(value).ok()?)),
        SUM => {
            let (start, rest) = rest.split_first_chunk::<8>()?;
            let (number, span) = rest.split_first_chunk::<4>()?;
            let hours = match span {
                [] => 1,
                [OF_DAY] => DAY,
                _ => return None,
            };
            let totals = totals(&UsageSumRow::decode(value).ok()?)?;
            Some(Read::Sums(u64::from_be_bytes(*start), hours, u32::from_be_bytes(*number), totals))
        }
        _ => None,
    }
}

fn totals(row: &UsageSumRow) -> Option<Totals> {
    Some(Totals {
        requests: row.requests,
        input_tokens: row.input_tokens,
        cached_input_tokens: row.cached_input_tokens,
        output_tokens: row.output_tokens,
        reasoning_tokens: row.reasoning_tokens,
        cost: Money(pico(&row.cost)?),
        unpriced: row.unpriced,
    })
}
