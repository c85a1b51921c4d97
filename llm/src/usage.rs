//! Token usage, normalised, whoever reported it.

/// What one call used.
///
/// `input` has OpenAI's meaning: all input tokens, including `cached_input` and `cache_write`, which are the parts of
/// it that were read from and written to the provider's prompt cache (Anthropic reports the three apart; they are
/// added up here). `output` includes `reasoning`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// All input tokens.
    pub input: u64,
    /// The part of `input` read from the provider's cache.
    pub cached_input: u64,
    /// The part of `input` written to the provider's cache.
    pub cache_write: u64,
    /// All output tokens.
    pub output: u64,
    /// The part of `output` that the caller does not see.
    pub reasoning: u64,
    /// Who says so.
    pub source: UsageSource,
    /// The provider's figures were nonsense (negative, beyond any request, parts larger than the whole) and were
    /// brought to sane values: what was counted, or the whole for a part.
    pub clamped: bool,
}

/// Where the figures of a [`Usage`] come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UsageSource {
    /// The provider's own usage block.
    Provider,
    /// Counted here, from what went by: with the model's tokenizer where the model's name is one that it is known
    /// for, else estimated (4 bytes of ASCII or 3 of anything else are a token).
    #[default]
    Counted,
}

impl UsageSource {
    /// The name in events and exports: `provider` or `counted`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            UsageSource::Provider => "provider",
            UsageSource::Counted => "counted",
        }
    }
}

mod counter;
mod reported;

pub(crate) use counter::Counter;
pub(crate) use reported::Reported;

use crate::request::AiRequest;
use crate::tokens::Vocabulary;

/// What is known of one answer so far: what the provider reported, and what was counted.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) reported: Reported,
    pub(crate) counter: Counter,
    pub(crate) model: Option<String>,
    counted_input: u64,
    has_output: bool,
}

impl Tally {
    /// A tally that counts what goes by, in case the provider does not report it in the end.
    pub(crate) fn new(request: &AiRequest, served_model: &str) -> Tally {
        Tally { counter: Counter::new(Vocabulary::of(served_model)), ..Tally::without_count(request, served_model) }
    }

    /// A tally that only takes what the provider reports.
    pub(crate) fn without_count(request: &AiRequest, served_model: &str) -> Tally {
        Tally {
            reported: Reported::default(),
            counter: Counter::off(),
            model: None,
            counted_input: request.input_estimate(served_model),
            has_output: request.has_output(),
        }
    }

    /// Whether the provider has reported all there is to know.
    pub(crate) fn is_reported(&self) -> bool {
        self.reported.input().is_some() && (self.reported.output.is_some() || !self.has_output)
    }

    /// The best that is known: each figure the provider's where it is there and sane, else the counted one.
    pub(crate) fn usage(&self) -> Usage {
        let reported = &self.reported;
        let counted_output = || if self.has_output { self.counter.total() } else { 0 };
        let input = reported.input().unwrap_or(self.counted_input);
        let output = reported.output.unwrap_or_else(counted_output);
        let (cached_input, cache_write) = (reported.cached.unwrap_or(0), reported.cache_write.unwrap_or(0));
        let reasoning = reported.reasoning.unwrap_or(0);
        let oversize = cached_input.saturating_add(cache_write) > input || reasoning > output;
        let cached_input = cached_input.min(input);
        Usage {
            input,
            cached_input,
            cache_write: cache_write.min(input - cached_input),
            output,
            reasoning: reasoning.min(output),
            source: if self.is_reported() { UsageSource::Provider } else { UsageSource::Counted },
            clamped: reported.nonsense || oversize,
        }
    }
}

#[cfg(test)]
mod tests;
