//! Adding rows up, exactly.

use tollgate_model::Money;
use tollgate_proto::state::v1::LedgerRow;

use super::{ExportError, encode::Encode};

/// A schema whose rows are sums: all rows of the ledger are added, then sums are taken, perhaps more than once.
pub(super) trait Sums: Send {
    /// Adds a row of the ledger.
    fn add(&mut self, row: &LedgerRow) -> Result<(), ExportError>;

    /// Writes the next sums.
    fn take(&mut self, encoder: &mut dyn Encode, into: &mut Vec<u8>) -> Result<Took, ExportError>;
}

/// What taking the next sums came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Took {
    /// So many rows.
    Rows(u64),
    /// Nothing: all rows must be added once more, for what there was no room for.
    Again,
    /// Nothing: that was all.
    All,
}

pub(super) fn add(sum: &mut u64, more: u64, row: &LedgerRow) -> Result<(), ExportError> {
    *sum = sum.checked_add(more).ok_or(ExportError::TooMuch { seq: row.seq })?;
    Ok(())
}

pub(super) fn add_money(sum: &mut i128, more: Money, row: &LedgerRow) -> Result<(), ExportError> {
    *sum = sum.checked_add(more.0).ok_or(ExportError::TooMuch { seq: row.seq })?;
    Ok(())
}
