//! The schema `events`: a row for each request that was sent out, and for each correction.

use std::borrow::Cow;

use tollgate_model::Timestamp;
use tollgate_proto::state::v1::{LedgerOutcome, LedgerRow, UsageSource};

use crate::ledger::amount_of;

/// What the columns are called, in their order.
pub const COLUMNS: [&str; 23] = [
    "event_id",
    "request_id",
    "time",
    "tenant",
    "consumer",
    "route",
    "provider",
    "model",
    "provider_model",
    "input_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
    "usage_source",
    "status",
    "outcome",
    "price",
    "cost",
    "currency",
    "node",
    "zone",
    "corrects",
];

/// A value of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cell<'a> {
    /// What somebody may have chosen: a name, a model.
    Text(Cow<'a, str>),
    /// A count, a number of a node.
    Number(u64),
    /// An exact decimal; never a float.
    Decimal(String),
    /// Nothing is known, or there is none.
    Absent,
}

/// The cells of a row, in the order of [`COLUMNS`].
#[must_use]
pub fn event(row: &LedgerRow) -> [Cell<'_>; COLUMNS.len()] {
    let text = |text: &'_ str| match text {
        "" => Cell::Absent,
        text => Cell::Text(Cow::Owned(text.to_owned())),
    };
    let billed = !row.currency.is_empty();
    let price = (!row.price.is_empty()).then(|| format!("{}@{}", row.price, row.price_version));
    let cost = amount_of(row).filter(|_| billed);
    [
        Cell::Text(row.seq.to_string().into()),
        text(&row.request_id),
        Cell::Text(Timestamp(row.admitted_us).to_string().into()),
        text(&row.tenant),
        text(&row.consumer),
        text(&row.route),
        text(&row.provider),
        text(&row.model),
        text(&row.provider_model),
        Cell::Number(row.input_tokens),
        Cell::Number(row.cached_input_tokens),
        Cell::Number(row.cache_write_tokens),
        Cell::Number(row.output_tokens),
        Cell::Number(row.reasoning_tokens),
        text(source(row.usage_source())),
        Cell::Number(row.status.into()),
        text(outcome(row.outcome())),
        price.map_or(Cell::Absent, |price| Cell::Text(price.into())),
        cost.map_or(Cell::Absent, |cost| Cell::Decimal(cost.to_string())),
        text(&row.currency),
        Cell::Number(row.node),
        text(&row.zone),
        match row.corrects {
            0 => Cell::Absent,
            seq => Cell::Text(seq.to_string().into()),
        },
    ]
}

fn source(source: UsageSource) -> &'static str {
    match source {
        UsageSource::Unspecified => "",
        UsageSource::Provider => "provider",
        UsageSource::Counted => "counted",
        UsageSource::Recovered => "recovered",
    }
}

fn outcome(outcome: LedgerOutcome) -> &'static str {
    match outcome {
        LedgerOutcome::Unspecified => "",
        LedgerOutcome::Settled => "settled",
        LedgerOutcome::Partial => "partial",
        LedgerOutcome::Voided => "voided",
        LedgerOutcome::Expired => "expired",
        LedgerOutcome::Orphaned => "orphaned",
    }
}
