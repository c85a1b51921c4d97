//! Prices, usage aggregates, the ledger, and exports of it.
//!
//! [`PriceBook`] and [`UsageTable`] are parts of the replicated state: pure, filled from the configuration and from what the
//! quota ledger says was used, in the order of the log.

mod alert;
mod amount;
mod credit;
pub mod export;
pub mod ledger;
pub mod period;
pub mod price;
mod query;
pub mod reconcile;
mod round;
pub mod statement;
mod table;

pub use alert::{AlertBook, AlertCounts, BudgetTerms, Outbox, alert_message, next_try};
pub use amount::bytes as amount_bytes;
pub use credit::{Came, CreditBook, CreditView, MAX_BALANCE, OpenGrant};
pub use price::PriceBook;
pub use query::{Column, Query, UsageLine};
pub use table::{Bill, Changes, RestoreError, Totals, UsageTable};
