//! What one request costs by one version of a price.

use smallvec::SmallVec;
use tollgate_model::{Currency, Glob, LogIndex, Money, Name, Price, PriceTable, Rates, Timestamp};
use tollgate_proto::state::v1::{LedgerRow, Usage};

/// What is counted, each token once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Meter {
    /// Input that no cache had.
    Input,
    /// Input that the provider had cached.
    CachedInput,
    /// Input that the provider was made to cache.
    CacheWrite,
    /// Output that is seen.
    Output,
    /// Output that was reasoning.
    Reasoning,
    /// Sound that no cache had.
    AudioInput,
    /// Sound that was made.
    AudioOutput,
    /// The request itself.
    Request,
    /// What lacks to the least that a request costs.
    Minimum,
}

impl Meter {
    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::CachedInput => "cachedInput",
            Self::CacheWrite => "cacheWrite",
            Self::Output => "output",
            Self::Reasoning => "reasoning",
            Self::AudioInput => "audioInput",
            Self::AudioOutput => "audioOutput",
            Self::Request => "request",
            Self::Minimum => "minimum",
        }
    }
}

/// How much of each meter a request used. Providers and [`Usage`] count some tokens within others; here none is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Quantities {
    input: u64,
    cached_input: u64,
    cache_write: u64,
    output: u64,
    reasoning: u64,
    audio_input: u64,
    audio_output: u64,
}

impl Quantities {
    /// Those that there are some of.
    pub fn meters(&self) -> impl Iterator<Item = (Meter, u64)> + use<> {
        let all = [
            (Meter::Input, self.input),
            (Meter::CachedInput, self.cached_input),
            (Meter::CacheWrite, self.cache_write),
            (Meter::Output, self.output),
            (Meter::Reasoning, self.reasoning),
            (Meter::AudioInput, self.audio_input),
            (Meter::AudioOutput, self.audio_output),
        ];
        all.into_iter().filter(|(_, quantity)| *quantity > 0)
    }

    /// All input, as context lengths are told by.
    #[must_use]
    pub fn all_input(&self) -> u64 {
        [self.cached_input, self.cache_write, self.audio_input].into_iter().fold(self.input, u64::saturating_add)
    }
}

impl From<&Usage> for Quantities {
    /// A part that is told to be more than its whole is as much as that.
    fn from(usage: &Usage) -> Self {
        let cached_input = usage.cached_input_tokens.min(usage.input_tokens);
        let cache_write = usage.cache_write_tokens.min(usage.input_tokens - cached_input);
        let read = usage.input_tokens - cached_input - cache_write;
        let reasoning = usage.reasoning_tokens.min(usage.output_tokens);
        let seen = usage.output_tokens - reasoning;
        let (audio_input, audio_output) = (usage.audio_input_tokens.min(read), usage.audio_output_tokens.min(seen));
        Self {
            input: read - audio_input,
            cached_input,
            cache_write,
            output: seen - audio_output,
            reasoning,
            audio_input,
            audio_output,
        }
    }
}

impl From<&LedgerRow> for Quantities {
    fn from(row: &LedgerRow) -> Self {
        Self::from(&Usage {
            input_tokens: row.input_tokens,
            cached_input_tokens: row.cached_input_tokens,
            cache_write_tokens: row.cache_write_tokens,
            output_tokens: row.output_tokens,
            reasoning_tokens: row.reasoning_tokens,
            audio_input_tokens: row.audio_input_tokens,
            audio_output_tokens: row.audio_output_tokens,
            ..Usage::default()
        })
    }
}

/// One line of what a request costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line {
    /// What was counted.
    pub meter: Meter,
    /// How much of it: tokens, or 1.
    pub quantity: u64,
    /// For one of these.
    pub rate: Money,
    /// Their product.
    pub amount: Money,
}

/// Rates for one token, with nothing left to be looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct PerToken {
    /// The rates below are for requests with more input tokens than this.
    above_input: Option<u64>,
    input: Money,
    cached_input: Money,
    cache_write: Money,
    output: Money,
    reasoning: Money,
    audio_input: Money,
    audio_output: Money,
}

/// One version of a price.
#[derive(Debug, Clone)]
pub struct Tariff {
    /// The price that this is a version of.
    pub name: Name,
    /// The log index of the change that made it.
    pub version: LogIndex,
    /// Of all its figures.
    pub currency: Currency,
    /// Whose figures these are.
    pub table: PriceTable,
    /// At once when absent.
    pub effective_from: Option<Timestamp>,
    providers: Vec<Name>,
    models: Vec<Glob>,
    tenants: Vec<Name>,
    /// At first for every request, then by the length of its input.
    rates: Vec<PerToken>,
    request: Money,
    minimum: Money,
}

/// Which of the prices that match is a request's: the greatest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Specificity {
    is_contract: bool,
    model: ModelMatch,
    names_provider: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum ModelMatch {
    Any,
    Pattern(usize),
    Exact,
}

impl From<&Price> for Tariff {
    fn from(price: &Price) -> Self {
        let base = per_token(price, None, &price.rates, &Rates::default());
        let tiers =
            price.tiers.iter().map(|tier| per_token(price, Some(tier.above_input_tokens), &tier.rates, &price.rates));
        Self {
            name: price.name.clone(),
            version: price.version,
            currency: price.currency,
            table: price.table,
            effective_from: price.effective_from,
            providers: price.providers.clone(),
            models: price.models.clone(),
            tenants: price.tenants.clone(),
            rates: std::iter::once(base).chain(tiers).collect(),
            request: price.request.unwrap_or_default(),
            minimum: price.minimum.unwrap_or_default(),
        }
    }
}

/// What a tier leaves out is as before any tier; what is nowhere costs what it is a part of, and input and output nothing.
fn per_token(price: &Price, above_input: Option<u64>, rates: &Rates, before: &Rates) -> PerToken {
    // Whole by `model::check`: a price that gives a fraction of a pico-unit for one token is refused.
    let one = |of: fn(&Rates) -> Option<Money>| {
        of(rates).or_else(|| of(before)).map(|amount| Money(amount.0 / i128::from(price.per.max(1))))
    };
    let input = one(|it| it.input).unwrap_or_default();
    let output = one(|it| it.output).unwrap_or_default();
    PerToken {
        above_input,
        input,
        cached_input: one(|it| it.cached_input).unwrap_or(input),
        cache_write: one(|it| it.cache_write).unwrap_or(input),
        output,
        reasoning: one(|it| it.reasoning).unwrap_or(output),
        audio_input: one(|it| it.audio_input).unwrap_or(input),
        audio_output: one(|it| it.audio_output).unwrap_or(output),
    }
}

/// What one token of a tier can cost.
#[derive(Debug, Clone, Copy)]
struct Dearest {
    input: Money,
    output: Money,
}

impl Dearest {
    fn of(rates: &PerToken) -> Self {
        Self {
            input: rates.input.max(rates.cached_input).max(rates.cache_write).max(rates.audio_input),
            output: rates.output.max(rates.reasoning).max(rates.audio_output),
        }
    }
}

impl Tariff {
    /// As bills name it: `gpt-4o@17`.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}@{}", self.name, self.version.0)
    }

    /// What makes up the price of a request, without lines of nothing.
    pub fn lines(&self, used: Quantities) -> impl Iterator<Item = Line> + use<> {
        self.lines_with_free(used).filter(|line| line.amount.0 > 0)
    }

    /// The same with the tokens that cost nothing.
    pub fn lines_with_free(&self, used: Quantities) -> impl Iterator<Item = Line> + use<> {
        let lines = self.metered(used);
        let sum = sum(&lines);
        let lacking = Money(self.minimum.0.saturating_sub(sum.0).max(0));
        let minimum = Line { meter: Meter::Minimum, quantity: 1, rate: lacking, amount: lacking };
        let minimum = (lacking.0 > 0).then_some(minimum);
        let is_one = |line: &Line| line.quantity > 0 && (line.amount.0 > 0 || line.meter != Meter::Request);
        lines.into_iter().filter(is_one).chain(minimum)
    }

    /// What a request costs: the sum of its [`Tariff::lines`].
    #[must_use]
    pub fn amount(&self, used: Quantities) -> Money {
        sum(&self.metered(used)).max(self.minimum)
    }

    /// The most that a request can cost with so much input and so much output, whatever of it is cached or thought, and
    /// however much less it uses.
    #[must_use]
    pub fn most(&self, input: u64, output: u64) -> Money {
        let metered = self.within(input).map(|(input, dearest)| self.metered_at_most(input, output, dearest));
        metered.fold(self.minimum, Money::max)
    }

    /// The most output with which a request with so much input can't cost more than `left`. None where it can without any.
    #[must_use]
    pub fn output_within(&self, input: u64, left: Money) -> Option<u64> {
        let output = |(input, dearest): (u64, Dearest)| {
            let rest = left.0 - self.metered_at_most(input, 0, dearest).0;
            let fits = rest >= 0 && self.minimum <= left;
            match dearest.output.0 {
                _ if !fits => None,
                0 => Some(u64::MAX),
                rate => Some(u64::try_from(rest / rate).unwrap_or(u64::MAX)),
            }
        };
        self.within(input).map(output).try_fold(u64::MAX, |least, output| Some(least.min(output?)))
    }

    /// The tiers that a request with at most so much input can be in, with the most that it can have in each.
    fn within(&self, input: u64) -> impl Iterator<Item = (u64, Dearest)> {
        let begins = move |rates: &PerToken| rates.above_input.is_none_or(|above| above < input);
        let ends = move |at: usize| self.rates.get(at + 1).and_then(|next| next.above_input).unwrap_or(u64::MAX);
        let of = move |(at, rates): (usize, &PerToken)| (input.min(ends(at)), Dearest::of(rates));
        self.rates.iter().enumerate().filter(move |(_, rates)| begins(rates)).map(of)
    }

    fn metered_at_most(&self, input: u64, output: u64, dearest: Dearest) -> Money {
        // Exact, as `metered` is.
        let of = |rate: Money, quantity: u64| rate.0.saturating_mul(i128::from(quantity));
        Money(of(dearest.input, input).saturating_add(of(dearest.output, output)).saturating_add(self.request.0))
    }

    fn metered(&self, used: Quantities) -> SmallVec<[Line; 8]> {
        let is_of = |rates: &&PerToken| rates.above_input.is_none_or(|above| used.all_input() > above);
        let rates = self.rates.iter().rfind(is_of).unwrap_or(&self.rates[0]);
        let all = [
            (Meter::Input, used.input, rates.input),
            (Meter::CachedInput, used.cached_input, rates.cached_input),
            (Meter::CacheWrite, used.cache_write, rates.cache_write),
            (Meter::Output, used.output, rates.output),
            (Meter::Reasoning, used.reasoning, rates.reasoning),
            (Meter::AudioInput, used.audio_input, rates.audio_input),
            (Meter::AudioOutput, used.audio_output, rates.audio_output),
            (Meter::Request, 1, self.request),
        ];
        all.into_iter()
            .map(|(meter, quantity, rate)| {
                // `model::check` bounds rates so that this is exact for every number of tokens that there can be.
                Line { meter, quantity, rate, amount: Money(rate.0.saturating_mul(i128::from(quantity))) }
            })
            .collect()
    }

    /// How well it fits a request, if it does.
    pub(super) fn fits(&self, tenant: &str, provider: &str, model: &str) -> Option<Specificity> {
        let named = |names: &[Name], name: &str| names.is_empty() || names.iter().any(|it| it.as_str() == name);
        if !named(&self.providers, provider) || self.table == PriceTable::Contract && !named(&self.tenants, tenant) {
            return None;
        }
        let patterns = self.models.iter().filter(|pattern| pattern.matches(model));
        let closest = patterns.map(|pattern| match pattern.is_plain() {
            true => ModelMatch::Exact,
            false => ModelMatch::Pattern(pattern.literal_len()),
        });
        let model = if self.models.is_empty() { Some(ModelMatch::Any) } else { closest.max() };
        Some(Specificity {
            is_contract: self.table == PriceTable::Contract,
            model: model?,
            names_provider: !self.providers.is_empty(),
        })
    }
}

fn sum(lines: &[Line]) -> Money {
    Money(lines.iter().fold(0_i128, |sum, line| sum.saturating_add(line.amount.0)))
}

#[cfg(test)]
pub(super) mod tests;
