//! Budgets of tenants: what each was billed in a month, which thresholds that has passed, and who was told.
//!
//! A part of the replicated state, pure: the entry that bills past a threshold raises its alert, and time is log time.
//!
//! What always holds:
//! 1. A bill counts once, in the month in which the request was admitted, from when to when that month's statement has it. A
//!    tenant that moves to another zone keeps its months.
//! 2. In a month, a percentage is raised once, and again only of a greater budget than it was ever raised of: a budget that is
//!    lowered below the bill is told of at once, one that is raised tells again when the bill comes up to it, and one that goes
//!    down and up again says nothing twice.
//! 3. An alert waits until it was delivered or given up, whatever becomes of nodes; tries are counted here, so that who leads next goes
//!    on where the last one was.
//!
//! Not here: the call itself (`node`).

mod book;
mod message;
mod outbox;
mod rows;

pub use book::{AlertBook, BudgetTerms};
pub use message::alert_message;
pub use outbox::{AlertCounts, Outbox, next_try};
