//! The schema `summary`: a row for each tenant, consumer, route, provider, model and currency, over the whole time asked for.
//!
//! What upstreams bill stands with the provider that bills it, so a provider whose attempts brought no answer has rows without
//! requests; and each of its currencies has rows of its own, as there is no sum of two.

use tollgate_model::Money;
use tollgate_proto::state::v1::{LedgerOutcome, LedgerRow};

use super::{
    ExportError,
    cell::{Cell, Column},
    encode::Encode,
    groups::Groups,
    sums::{Sums, Took, add, add_money},
};
use crate::ledger::{amount_of, attempts};

/// The columns, in their order.
pub const SUMMARY: [Column; 17] = [
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
    Column::decimal("provider_cost"),
    Column::decimal("margin"),
    Column::text("provider_currency"),
];

/// Some 16 MB of keys and sums.
const MAX_GROUPS: usize = 32_768;

/// Tenant, consumer, route, provider, model, currency, and in which currency the provider bills; none where it has no price.
type Key = [String; 7];

#[derive(Debug, Default)]
struct Totals {
    requests: u64,
    /// Input, cached input, cache write, output, reasoning.
    tokens: [u64; 5],
    unpriced: u64,
    cost: i128,
    provider_cost: i128,
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
        let key = |provider: &str, bills_in: &str| {
            [&row.tenant, &row.consumer, &row.route, provider, &row.model, &row.currency, bills_in].map(str::to_owned)
        };
        let own = attempts(row).find(|attempt| attempt.is_own).map_or("", |own| &own.cost.currency);
        self.groups.add(key(&row.provider, own), |totals| totals.add(row))?;
        for attempt in attempts(row) {
            let Some(amount) = attempt.amount() else { continue };
            let key = key(attempt.provider, &attempt.cost.currency);
            self.groups.add(key, |totals| add_money(&mut totals.provider_cost, amount, row))?;
        }
        Ok(())
    }

    fn take(&mut self, encoder: &mut dyn Encode, into: &mut Vec<u8>) -> Result<Took, ExportError> {
        let Some((key, totals)) = self.groups.take() else {
            return Ok(if self.groups.turn() { Took::Again } else { Took::All });
        };
        let [tenant, consumer, route, provider, model, currency, bills_in] = &key;
        let [input, cached, written, output, reasoning] = totals.tokens.map(Cell::Number);
        let decimal = |is_there: bool, pico: i128| if is_there { Cell::Decimal(Money(pico)) } else { Cell::Absent };
        let cost = decimal(!currency.is_empty(), totals.cost);
        let provider_cost = decimal(!bills_in.is_empty(), totals.provider_cost);
        let can_be_told = !currency.is_empty() && currency == bills_in;
        let margin = decimal(can_be_told, totals.cost.saturating_sub(totals.provider_cost));
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
            provider_cost,
            margin,
            Cell::text(bills_in),
        ];
        encoder.row(&row, into)?;
        Ok(Took::Rows(1))
    }
}

impl Totals {
    fn add(&mut self, row: &LedgerRow) -> Result<(), ExportError> {
        add(&mut self.requests, (row.corrects == 0).into(), row)?;
        add(&mut self.unpriced, is_unpriced(row).into(), row)?;
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

/// Whether no price was for a request that is billed. What nobody did work for, or nobody can say the end of, needs none.
fn is_unpriced(row: &LedgerRow) -> bool {
    let is_free = matches!(row.outcome(), LedgerOutcome::Voided | LedgerOutcome::Orphaned);
    row.corrects == 0 && !is_free && !row.currency.is_empty() && row.price.is_empty()
}
