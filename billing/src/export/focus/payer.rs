//! What charges say of a tenant, beside their rows: on which bill they are, and what is written on that.
//!
//! Of a month that is closed all of it is from the ledger, so no edit of the tenant changes it.

use tollgate_model::{Month, Timestamp};
use tollgate_proto::state::v1::{LedgerPayment, LedgerRow};

use crate::{
    export::source::Terms,
    period::{Closed, Labels, Months, Span, month_at},
};

/// A tenant, and the month that was asked for last.
pub(super) struct Payer {
    terms: Terms,
    months: Months,
    last: Option<Span>,
}

/// What is written on a bill.
pub(super) struct Bill {
    /// What its statement is called; none before there is one.
    pub(super) invoice: Option<String>,
    pub(super) tags: Labels,
}

impl Payer {
    pub(super) fn new(terms: Terms, months: Months) -> Self {
        Self { terms, months, last: None }
    }

    /// The month that an instant is in.
    pub(super) fn month(&mut self, at: Timestamp) -> Span {
        match self.last {
            Some(last) if last.has(at) => last,
            _ => *self.last.insert(month_at(&self.months, &self.terms.zone, at)),
        }
    }

    /// The month whose bill a row is on, that was admitted in `admitted`.
    pub(super) fn bill_of(&self, row: &LedgerRow, admitted: Span) -> Span {
        let on = Month::from_number(row.month).and_then(|month| self.months.get(&month));
        on.map_or(admitted, |period| period.span())
    }

    /// Whether a row was paid for before it came.
    pub(super) fn is_prepaid(&self, row: &LedgerRow) -> bool {
        match row.payment() {
            LedgerPayment::Prepaid => true,
            LedgerPayment::Postpaid => false,
            LedgerPayment::Unspecified => self.terms.prepaid,
        }
    }

    /// What is written on the bill of a month.
    pub(super) fn bill(&self, tenant: &str, month: Month) -> Bill {
        let closed: Option<&Closed> = self.months.get(&month).and_then(|period| period.closed.as_ref());
        Bill {
            invoice: closed.map(|_| format!("{tenant}-{month}")),
            tags: closed.and_then(|closed| closed.labels.clone()).unwrap_or_else(|| self.terms.tags.clone()),
        }
    }
}

impl Bill {
    /// As FOCUS has them: an object.
    pub(super) fn tags(&self) -> String {
        serde_json::json!(*self.tags).to_string()
    }
}
