//! What upstreams bill for a request: the rows of its costs, which stand within its own.
//!
//! One for each attempt that an upstream did work for, or may have. The last says only what the row doesn't: most requests have no
//! other.

use tollgate_model::Money;
use tollgate_proto::state::v1::{LedgerCost, LedgerRow, Usage, UsageSource};

use crate::amount::pico;

/// One attempt, with all that is known of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Attempt<'a> {
    /// Which one of its request it is, from 1.
    pub number: u32,
    /// The row itself is about it: its status and outcome are this one's.
    pub is_own: bool,
    /// Who bills it.
    pub provider: &'a str,
    /// What it was asked for.
    pub model: &'a str,
    /// Whose figures these are.
    pub source: UsageSource,
    /// What was used, as far as that is known; with the most that it can have been, unless the figures are the provider's.
    pub usage: Usage,
    /// What it costs, and how that is known.
    pub cost: &'a LedgerCost,
}

impl Attempt<'_> {
    /// What the upstream bills, as far as that is known. None: there is no price for it, or the bytes are no amount.
    #[must_use]
    pub fn amount(&self) -> Option<Money> {
        if self.cost.price.is_empty() { None } else { cost_of(self.cost) }
    }

    /// Whether the upstream has not said what it was, so that it may bill anything up to a bound.
    #[must_use]
    pub const fn is_bounded(&self) -> bool {
        self.usage.input_at_most > 0 || self.usage.output_at_most > 0
    }
}

/// The attempts of a row that are billed, in their order.
pub fn attempts(row: &LedgerRow) -> impl Iterator<Item = Attempt<'_>> {
    (1..)
        .zip(&row.costs)
        .map(|(number, cost)| if cost.provider.is_empty() { own(number, row, cost) } else { of(number, cost) })
}

fn own<'a>(number: u32, row: &'a LedgerRow, cost: &'a LedgerCost) -> Attempt<'a> {
    let usage = Usage {
        input_tokens: row.input_tokens,
        cached_input_tokens: row.cached_input_tokens,
        cache_write_tokens: row.cache_write_tokens,
        output_tokens: row.output_tokens,
        reasoning_tokens: row.reasoning_tokens,
        audio_input_tokens: row.audio_input_tokens,
        audio_output_tokens: row.audio_output_tokens,
        ..bounds(cost)
    };
    let (provider, model, source) = (&*row.provider, &*row.provider_model, row.usage_source());
    Attempt { number, is_own: true, provider, model, source, usage, cost }
}

fn of(number: u32, cost: &LedgerCost) -> Attempt<'_> {
    let usage = Usage {
        input_tokens: cost.input_tokens,
        cached_input_tokens: cost.cached_input_tokens,
        cache_write_tokens: cost.cache_write_tokens,
        output_tokens: cost.output_tokens,
        reasoning_tokens: cost.reasoning_tokens,
        audio_input_tokens: cost.audio_input_tokens,
        audio_output_tokens: cost.audio_output_tokens,
        ..bounds(cost)
    };
    let (provider, model, source) = (&*cost.provider, &*cost.provider_model, cost.usage_source());
    Attempt { number, is_own: false, provider, model, source, usage, cost }
}

fn bounds(cost: &LedgerCost) -> Usage {
    Usage { input_at_most: cost.input_at_most, output_at_most: cost.output_at_most, ..Usage::default() }
}

/// What a cost says it amounts to; none where the bytes are no amount.
#[must_use]
pub fn cost_of(cost: &LedgerCost) -> Option<Money> {
    pico(&cost.amount).map(Money)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_attempt_is_as_its_row_says_and_those_before_it_as_they_say() {
        let earlier = LedgerCost {
            provider: "first".into(),
            provider_model: "m-1".into(),
            usage_source: UsageSource::Counted.into(),
            input_tokens: 5,
            input_at_most: 9,
            output_at_most: 200,
            ..LedgerCost::default()
        };
        let last = LedgerCost { price: "p".into(), amount: 7_i128.to_be_bytes().to_vec(), ..LedgerCost::default() };
        let row = LedgerRow {
            provider: "second".into(),
            provider_model: "m-2".into(),
            usage_source: UsageSource::Provider.into(),
            input_tokens: 4,
            output_tokens: 3,
            costs: vec![earlier, last],
            ..LedgerRow::default()
        };
        let told = |it: Attempt<'_>| {
            let bounds = (it.usage.input_at_most, it.usage.output_at_most);
            (
                it.number,
                it.is_own,
                it.provider.to_owned(),
                it.model.to_owned(),
                it.usage.input_tokens,
                bounds,
                it.amount(),
            )
        };
        let expected = [
            (1, false, "first".to_owned(), "m-1".to_owned(), 5, (9, 200), None),
            (2, true, "second".to_owned(), "m-2".to_owned(), 4, (0, 0), Some(Money(7))),
        ];
        assert_eq!(attempts(&row).map(told).collect::<Vec<_>>(), expected);
        assert_eq!(attempts(&row).map(|it| it.is_bounded()).collect::<Vec<_>>(), [true, false]);
        assert_eq!(attempts(&LedgerRow { costs: Vec::new(), ..row }).count(), 0, "nobody did work for it");
    }
}
