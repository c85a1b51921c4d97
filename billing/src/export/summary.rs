//! The schema `summary`: a row for each tenant, consumer, route, provider, model and currency, over the whole time asked for.

use tollgate_proto::state::v1::LedgerRow;

use super::{
    ExportError,
    cell::{Cell, Column},
    encode::Encode,
    groups::Groups,
    sums::{Sums, Took, add, add_money},
};
use crate::ledger::amount_of;

/// The columns, in their order.
pub const SUMMARY: [Column; 14] = [
    Column::text("tenant"),
    Column::text("consumer"),
    Column::text("route"),
    Column::text("provider"),
    Column::text("model"),
    Column::number("requests"),
    Column::number("input_tokens"),
    Column::number("cached_input_tokens"),
    Column::number("cache_write_tokens"),
    Column::number("output_tokens"),
    Column::number("reasoning_tokens"),
    Column::number("unpriced_requests"),
    Column::decimal("cost"),
    Column::text("currency"),
];

/// Some 16 MB of keys and sums.
const MAX_GROUPS: usize = 32_768;

/// Tenant, consumer, route, provider, model, currency.
type Key = [String; 6];

#[derive(Debug, Default)]
struct Totals {
    requests: u64,
    /// Input, cached input, cache write, output, reasoning.
    tokens: [u64; 5],
    unpriced: u64,
    cost: i128,
}

/// The sums of one pass.
#[derive(Debug)]
pub(super) struct Summary {
    groups: Groups<Key, Totals>,
}

impl Summary {
    pub(super) fn new() -> Self {
        Self { groups: Groups::new(MAX_GROUPS) }
    }
}

impl Sums for Summary {
    fn add(&mut self, row: &LedgerRow) -> Result<(), ExportError> {
        let key = [&row.tenant, &row.consumer, &row.route, &row.provider, &row.model, &row.currency].map(String::clone);
        self.groups.add(key, |totals| totals.add(row))
    }

    fn take(&mut self, encoder: &mut dyn Encode, into: &mut Vec<u8>) -> Result<Took, ExportError> {
        let Some((key, totals)) = self.groups.take() else {
            return Ok(if self.groups.turn() { Took::Again } else { Took::All });
        };
        let [tenant, consumer, route, provider, model, currency] = &key;
        let [input, cached, written, output, reasoning] = totals.tokens.map(Cell::Number);
        let cost = if currency.is_empty() { Cell::Absent } else { Cell::Decimal(tollgate_model::Money(totals.cost)) };
        let row: [Cell<'_>; SUMMARY.len()] = [
            Cell::text(tenant),
            Cell::text(consumer),
            Cell::text(route),
            Cell::text(provider),
            Cell::text(model),
            Cell::Number(totals.requests),
            input,
            cached,
            written,
            output,
            reasoning,
            Cell::Number(totals.unpriced),
            cost,
            Cell::text(currency),
        ];
        encoder.row(&row, into)?;
        Ok(Took::Rows(1))
    }
}

impl Totals {
    fn add(&mut self, row: &LedgerRow) -> Result<(), ExportError> {
        let is_request = row.corrects == 0;
        let is_unpriced = is_request && !row.currency.is_empty() && row.price.is_empty();
        add(&mut self.requests, is_request.into(), row)?;
        add(&mut self.unpriced, is_unpriced.into(), row)?;
        let of_row = [
            row.input_tokens,
            row.cached_input_tokens,
            row.cache_write_tokens,
            row.output_tokens,
            row.reasoning_tokens,
        ];
        for (sum, tokens) in self.tokens.iter_mut().zip(of_row) {
            add(sum, tokens, row)?;
        }
        add_money(&mut self.cost, amount_of(row).unwrap_or_default(), row)
    }
}
