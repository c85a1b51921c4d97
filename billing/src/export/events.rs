//! The schema `events`: a row for each request that was sent out, and for each correction.

use tollgate_model::{Month, Timestamp};
use tollgate_proto::state::v1::{LedgerOutcome, LedgerRow, UsageSource};

use super::{
    cell::{Cell, Column},
    leaf,
};
use crate::{ledger::amount_of, period::Digest};

/// The columns, in their order.
pub const EVENTS: [Column; 23] = [
    Column::text("event_id"),
    Column::text("request_id"),
    Column::time("time"),
    Column::text("tenant"),
    Column::text("consumer"),
    Column::text("route"),
    Column::text("provider"),
    Column::text("model"),
    Column::text("provider_model"),
    Column::number("input_tokens"),
    Column::number("cached_input_tokens"),
    Column::number("cache_write_tokens"),
    Column::number("output_tokens"),
    Column::number("reasoning_tokens"),
    Column::text("usage_source"),
    Column::number("status"),
    Column::text("outcome"),
    Column::text("price"),
    Column::decimal("cost"),
    Column::text("currency"),
    Column::number("node"),
    Column::text("zone"),
    Column::text("corrects"),
];

/// What they are called.
pub const COLUMNS: [&str; EVENTS.len()] = {
    let mut names = [""; EVENTS.len()];
    let mut at = 0;
    while at < names.len() {
        names[at] = EVENTS[at].name;
        at += 1;
    }
    names
};

/// The cells of a row, in the order of [`EVENTS`].
#[must_use]
pub fn event(row: &LedgerRow) -> [Cell<'_>; EVENTS.len()] {
    let mut cells = cells(row);
    let digest = leaf::digest(row.seq, &cells[1..]);
    cells[0] = Cell::owned(leaf::event_id(row.seq, &digest));
    cells
}

/// What a row is called in every schema.
pub(super) fn event_id(row: &LedgerRow) -> String {
    leaf::event_id(row.seq, &digest(row))
}

/// What stands for a row in the tree of its month.
pub(crate) fn digest(row: &LedgerRow) -> Digest {
    leaf::digest(row.seq, &cells(row)[1..])
}

/// All but the first.
fn cells(row: &LedgerRow) -> [Cell<'_>; EVENTS.len()] {
    let billed = !row.currency.is_empty();
    let price = (!row.price.is_empty()).then(|| [&row.price, "@", &row.price_version.to_string()].concat());
    let cost = amount_of(row).filter(|_| billed);
    [
        Cell::Absent,
        Cell::text(&row.request_id),
        Cell::Time(Timestamp(row.admitted_us)),
        Cell::text(&row.tenant),
        Cell::text(&row.consumer),
        Cell::text(&row.route),
        Cell::text(&row.provider),
        Cell::text(&row.model),
        Cell::text(&row.provider_model),
        Cell::Number(row.input_tokens),
        Cell::Number(row.cached_input_tokens),
        Cell::Number(row.cache_write_tokens),
        Cell::Number(row.output_tokens),
        Cell::Number(row.reasoning_tokens),
        Cell::text(source(row.usage_source())),
        Cell::Number(row.status.into()),
        Cell::text(outcome(row.outcome())),
        price.map_or(Cell::Absent, Cell::owned),
        cost.map_or(Cell::Absent, Cell::Decimal),
        Cell::text(&row.currency),
        Cell::Number(row.node),
        Cell::text(&row.zone),
        corrects(row),
    ]
}

/// The number of the row that it corrects, or the month that it was too late for.
fn corrects(row: &LedgerRow) -> Cell<'_> {
    match (row.corrects, Month::from_number(row.late_for)) {
        (0, None) => Cell::Absent,
        (0, Some(month)) => Cell::owned(month.to_string()),
        (seq, _) => Cell::owned(seq.to_string()),
    }
}

pub(super) fn source(source: UsageSource) -> &'static str {
    match source {
        UsageSource::Unspecified => "",
        UsageSource::Provider => "provider",
        UsageSource::Counted => "counted",
        UsageSource::Recovered => "recovered",
    }
}

pub(super) fn outcome(outcome: LedgerOutcome) -> &'static str {
    match outcome {
        LedgerOutcome::Unspecified => "",
        LedgerOutcome::Settled => "settled",
        LedgerOutcome::Partial => "partial",
        LedgerOutcome::Voided => "voided",
        LedgerOutcome::Expired => "expired",
        LedgerOutcome::Orphaned => "orphaned",
    }
}
