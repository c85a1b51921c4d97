//! Credit that tenants have paid in: grants, what was spent of them, and what became of the rest.
//!
//! A part of the replicated state, pure: an entry of the log grants, another says what requests cost, and time is log time.
//!
//! What always holds, of each tenant, in pico-units:
//! 1. `granted = spent - owed + rests`: `granted` is all grants, less what corrections have taken off and what has expired.
//!    What is owed was used beyond what there was, and is paid by the next grant.
//! 2. The amounts of its events together are `rests - owed - pending`: nothing happens to credit that its history does not tell.
//! 3. Grants are spent in one order: what ends first, then the smallest, then the oldest.
//! 4. A key grants once, for ever.
//!
//! **What comes off** (a grant at its end, a correction) is only what nobody holds: [`CreditBook::take`] is told how much that
//! is. The rest waits: what requests had reserved in time may still be spent on them.
//!
//! Not here: what requests hold (`quota`, the tenant's purse), and what they cost (`price`).

mod account;
mod book;
mod currency;
mod rows;

/// What an event says that was moved: what has come off is below zero.
pub(crate) fn amount_of(event: &tollgate_proto::state::v1::CreditEventRow) -> Option<tollgate_model::Money> {
    crate::amount::pico(&event.amount).map(tollgate_model::Money)
}

pub use account::{MAX_BALANCE, OpenGrant};
pub use book::{Came, CreditBook, CreditView};
pub(crate) use currency::{other_currency, tenants_put};
