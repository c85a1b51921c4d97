//! What a row of the schema `events` stands for in hashes: all that its columns say, whatever the format.
//!
//! `event_id` is the row's number and the first 16 digits of that hash, so that each row of an export can be checked by itself.

use super::{cell::Cell, events::EVENTS};
use crate::period::{Digest, leaf};

/// Tells these from hashes of anything else.
const LABEL: &[u8] = b"tollgate event 1";
const DIGITS: usize = 16;

/// The hash of a row: its number, and the cells behind `event_id`.
pub(crate) fn digest(seq: u64, cells: &[Cell<'_>]) -> Digest {
    debug_assert_eq!(cells.len() + 1, EVENTS.len());
    let mut said = Vec::with_capacity(512);
    said.extend(LABEL);
    said.extend(seq.to_be_bytes());
    cells.iter().for_each(|cell| say(cell, &mut said));
    leaf(&said)
}

/// No two rows of cells say the same: each begins with its kind, and text with its length.
fn say(cell: &Cell<'_>, said: &mut Vec<u8>) {
    match cell {
        Cell::Absent => said.push(0),
        Cell::Text(text) => {
            said.push(1);
            said.extend((text.len() as u64).to_be_bytes());
            said.extend(text.as_bytes());
        }
        Cell::Number(number) => {
            said.push(2);
            said.extend(number.to_be_bytes());
        }
        Cell::Decimal(decimal) => {
            said.push(3);
            said.extend(decimal.0.to_be_bytes());
        }
        Cell::Time(time) => {
            said.push(4);
            said.extend(time.0.to_be_bytes());
        }
    }
}

/// The `event_id` of a row with this hash.
pub(crate) fn event_id(seq: u64, digest: &Digest) -> String {
    let first = digest[..DIGITS / 2].iter().fold(0_u64, |first, byte| (first << 8) | u64::from(*byte));
    format!("{seq}-{first:0DIGITS$x}")
}

/// The number in an `event_id`; none where it is not written as one.
pub(crate) fn seq_of(event_id: &str) -> Option<u64> {
    let (seq, digest) = event_id.split_once('-')?;
    let is_digest = digest.len() == DIGITS && digest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let number: u64 = seq.parse().ok()?;
    (is_digest && number.to_string() == seq).then_some(number)
}
