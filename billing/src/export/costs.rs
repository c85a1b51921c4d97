//! The schema `cost`: a row for each attempt that an upstream bills, in the order of their requests.

use tollgate_model::Timestamp;
use tollgate_proto::state::v1::LedgerRow;

use super::{
    cell::{Cell, Column},
    events::{event_id, outcome, source},
};
use crate::ledger::Attempt;

/// The columns, in their order.
pub const COSTS: [Column; 27] = [
    Column::text("cost_id"),
    Column::text("event_id"),
    Column::text("request_id"),
    Column::number("attempt"),
    Column::time("time"),
    Column::text("tenant"),
    Column::text("route"),
    Column::text("provider"),
    Column::text("model"),
    Column::text("provider_model"),
    Column::text("upstream_request_id"),
    Column::number("input_tokens"),
    Column::number("cached_input_tokens"),
    Column::number("cache_write_tokens"),
    Column::number("output_tokens"),
    Column::number("reasoning_tokens"),
    Column::number("input_at_most"),
    Column::number("output_at_most"),
    Column::text("usage_source"),
    Column::text("outcome"),
    Column::text("price"),
    Column::decimal("cost"),
    Column::text("currency"),
    Column::number("status"),
    Column::number("node"),
    Column::text("zone"),
    Column::text("corrects"),
];

/// What is said of the outcome of an attempt that brought no answer.
const UNANSWERED: &str = "unanswered";

/// The cells of an attempt, in the order of [`COSTS`].
#[must_use]
pub fn cost<'a>(row: &'a LedgerRow, attempt: &Attempt<'a>) -> [Cell<'a>; COSTS.len()] {
    let (usage, cost) = (&attempt.usage, attempt.cost);
    let price = (!cost.price.is_empty()).then(|| format!("{}@{}", cost.price, cost.price_version));
    // Where nothing bounds it, it is what it is.
    let at_most = |known: u64, most: u64| Cell::Number(if attempt.is_bounded() { known.max(most) } else { known });
    [
        Cell::owned(format!("{}.{}", row.seq, attempt.number)),
        Cell::owned(event_id(row)),
        Cell::text(&row.request_id),
        Cell::Number(attempt.number.into()),
        Cell::Time(Timestamp(row.admitted_us)),
        Cell::text(&row.tenant),
        Cell::text(&row.route),
        Cell::text(attempt.provider),
        Cell::text(&row.model),
        Cell::text(attempt.model),
        Cell::text(&cost.upstream_request_id),
        Cell::Number(usage.input_tokens),
        Cell::Number(usage.cached_input_tokens),
        Cell::Number(usage.cache_write_tokens),
        Cell::Number(usage.output_tokens),
        Cell::Number(usage.reasoning_tokens),
        at_most(usage.input_tokens, usage.input_at_most),
        at_most(usage.output_tokens, usage.output_at_most),
        Cell::text(source(attempt.source)),
        Cell::text(if attempt.is_own { outcome(row.outcome()) } else { UNANSWERED }),
        price.map_or(Cell::Absent, Cell::owned),
        attempt.amount().map_or(Cell::Absent, Cell::Decimal),
        Cell::text(&cost.currency),
        if attempt.is_own { Cell::Number(row.status.into()) } else { Cell::Absent },
        Cell::Number(row.node),
        Cell::text(&row.zone),
        match row.corrects {
            0 => Cell::Absent,
            seq => Cell::owned(seq.to_string()),
        },
    ]
}
