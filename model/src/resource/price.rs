//! What usage costs.

use crate::{Currency, Glob, LogIndex, Money, Name, Timestamp};

/// What some models of some providers cost.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Price {
    /// Unique among prices.
    pub name: Name,
    /// The last change.
    pub version: LogIndex,
    /// Any of these; all when empty.
    pub providers: Vec<Name>,
    /// Any of these; all when empty.
    pub models: Vec<Glob>,
    /// Only in a contract, and then never empty.
    pub tenants: Vec<Name>,
    /// Of all amounts.
    pub currency: Currency,
    /// Tokens that the rates are for, greater than zero.
    pub per: u64,
    /// Before any tier.
    pub rates: Rates,
    /// For one image.
    pub image: Option<Money>,
    /// For one request, besides its tokens.
    pub request: Option<Money>,
    /// The least that a request costs.
    pub minimum: Option<Money>,
    /// Whose figures these are.
    pub table: PriceTable,
    /// At once when absent.
    pub effective_from: Option<Timestamp>,
    /// In ascending order of their thresholds.
    pub tiers: Vec<PriceTier>,
}

/// Amounts for [`Price::per`] tokens. What is absent costs what it is a part of: cached input as input, and so on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rates {
    /// Input.
    pub input: Option<Money>,
    /// Input that the provider had cached.
    pub cached_input: Option<Money>,
    /// Input that the provider was made to cache.
    pub cache_write: Option<Money>,
    /// Output.
    pub output: Option<Money>,
    /// Output that was reasoning.
    pub reasoning: Option<Money>,
    /// Sound in.
    pub audio_input: Option<Money>,
    /// Sound out.
    pub audio_output: Option<Money>,
}

/// Other rates for long requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PriceTier {
    /// For requests with more input tokens than this.
    pub above_input_tokens: u64,
    /// What differs.
    pub rates: Rates,
}

/// Whose figures a price has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PriceTable {
    /// What everyone is billed.
    List,
    /// What these tenants are billed.
    Contract,
    /// What the upstream bills us.
    Cost,
}
