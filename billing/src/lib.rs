//! Usage aggregates; later prices, the ledger and its exports.
//!
//! [`UsageTable`] is part of the replicated state: pure, filled from what the quota ledger says was used, in the order of
//! the log.

mod query;
mod table;

pub use query::{Column, Query, UsageLine};
pub use table::{Changes, RestoreError, Totals, UsageTable};
