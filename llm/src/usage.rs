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
    /// The part of `input` that is sound and was not read from the cache. Where a provider does not say what of its cache was sound,
    /// that was text, as far as there is text.
    pub audio_input: u64,
    /// The part of `output` that is sound.
    pub audio_output: u64,
    /// Who says so.
    pub source: UsageSource,
    /// The provider's figures were nonsense (negative, none at all where there is text, far less than the text, more than
    /// the request allows, parts larger than the whole) and were brought to sane values: what was counted, the most
    /// that the request allows, or the whole for a part.
    pub clamped: bool,
}

/// The most that a call can have used, of what nobody but us has counted: a limit that counts what it only probably was
/// gives to others what is used already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AtMost {
    /// Input tokens; 0 where the provider has told them.
    pub input: u64,
    /// Output tokens; 0 where the provider has told them.
    pub output: u64,
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

use std::ops::Range;

use crate::read::Outline;
use crate::request::{AiRequest, MaxTokens};
use crate::tokens::Vocabulary;

/// Text is four bytes a token where no vocabulary says more. Nothing that is written averages eight times that (only
/// long runs of one character do), so a provider that claims less has not counted this answer.
const LEAST_SHARE: u64 = 8;
/// Below so many tokens an estimate proves nothing but that there was text.
const FEW_TOKENS: u64 = 64;

/// What is known of one answer so far: what the provider reported, and what was counted.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) reported: Reported,
    pub(crate) counter: Counter,
    pub(crate) model: Option<String>,
    pub(crate) outline: Outline,
    /// Where in the chunk that was read last a `usage` of null stands, with the comma that goes with it.
    pub(crate) null_usage: Option<Range<usize>>,
    counted_input: u64,
    has_input: bool,
    has_output: bool,
    /// The most that the request can have used: what was reserved for it is not less.
    most_input: u64,
    most_output: u64,
    choices: u64,
    /// What may be billed as output and is never seen: the rejected tokens of a prediction.
    unseen: u64,
    /// There may be output beyond that of which nothing is seen.
    hides_output: bool,
}

impl Tally {
    /// A tally that counts what goes by, in case the provider does not report it in the end, or not sanely.
    pub(crate) fn new(request: &AiRequest, served_model: &str, max_tokens: MaxTokens) -> Tally {
        let counter = Counter::new(Vocabulary::of(served_model));
        Tally { counter, ..Tally::rough(request, served_model, max_tokens) }
    }

    /// A tally that only estimates what goes by: enough to see whether what the provider reports can be.
    pub(crate) fn rough(request: &AiRequest, served_model: &str, max_tokens: MaxTokens) -> Tally {
        let most_output = match max_tokens {
            MaxTokens::Set(max) => Some(request.output_bound_with(max)),
            MaxTokens::Keep => request.output_bound(),
        };
        Tally {
            reported: Reported::default(),
            counter: Counter::new(None),
            model: None,
            outline: Outline::default(),
            null_usage: None,
            counted_input: request.input_estimate(served_model),
            has_input: request.has_input(),
            has_output: request.has_output(),
            most_input: request.most_input(served_model),
            most_output: most_output.unwrap_or(u64::MAX),
            choices: request.choices(),
            unseen: request.output_bound_with(0),
            hides_output: request.hides_output(served_model),
        }
    }

    /// Whether the provider has reported all there is to know, and all of it can be.
    pub(crate) fn is_reported(&self) -> bool {
        let counted = self.counter.total();
        let output = self.reported.output.is_some_and(|output| self.is_credible(output, counted));
        self.input().is_some() && (!self.has_output || output && self.reported.output <= Some(self.most_output))
    }

    /// The best that is known: each figure the provider's where it is there and sane, else the counted one. What can't
    /// have been used is not believed: no more than was reserved, unless the text is there to show for it.
    pub(crate) fn usage(&self) -> Usage {
        let reported = &self.reported;
        let counted = if self.has_output { self.counter.total() } else { 0 };
        let credible = self.credible_output(counted);
        let input = self.input().unwrap_or(self.counted_input).min(self.most_input);
        let output = credible.map_or(counted, |output| output.min(self.most_output.max(counted)));
        let (cached_input, cache_write) = (reported.cached.unwrap_or(0), reported.cache_write.unwrap_or(0));
        let reasoning = reported.reasoning.unwrap_or(0);
        let (audio_input, audio_output) = (reported.audio_input.unwrap_or(0), reported.audio_output.unwrap_or(0));
        let oversize = cached_input.saturating_add(cache_write) > input
            || reasoning.saturating_add(audio_output) > output
            || audio_input > input;
        let disbelieved = differs(reported.input(), input) || self.has_output && differs(reported.output, output);
        let cached_input = cached_input.min(input);
        let (cache_write, reasoning) = (cache_write.min(input - cached_input), reasoning.min(output));
        let is_provided = self.input().is_some() && (credible.is_some() || !self.has_output);
        Usage {
            input,
            cached_input,
            cache_write,
            output,
            reasoning,
            audio_input: audio_input.min(input - cached_input - cache_write),
            audio_output: audio_output.min(output - reasoning),
            source: if is_provided { UsageSource::Provider } else { UsageSource::Counted },
            clamped: reported.nonsense || oversize || disbelieved,
        }
    }

    /// The most of what the provider has not told of an answer that went by whole.
    pub(crate) fn at_most(&self) -> AtMost {
        match self.credible_output(self.counter.total()) {
            Some(_) => AtMost { output: 0, ..self.at_most_of_cut(Some(0)) },
            None => self.at_most_of_cut(Some(0)),
        }
    }

    /// The same of an answer that was cut: whatever was told of its output was told of its beginning. `missed` is what may
    /// have been written and has not gone by, if that can be said at all.
    pub(crate) fn at_most_of_cut(&self, missed: Option<u64>) -> AtMost {
        let input = if self.input().is_some() { 0 } else { self.most_input };
        let seen = missed.filter(|_| !self.hides_output).map(|missed| self.most_output(true).saturating_add(missed));
        let most = if self.has_output { self.most_output } else { 0 };
        AtMost { input, output: seen.map_or(most, |seen| seen.min(most)) }
    }

    /// The most output that the request allows.
    pub(crate) fn most_allowed(&self) -> u64 {
        self.most_output
    }

    fn credible_output(&self, counted: u64) -> Option<u64> {
        self.reported.output.filter(|output| self.is_credible(*output, counted))
    }

    /// The most output tokens that can have gone by: of what was seen, or what the provider has said of it if that is more.
    /// `exactly` looks closer, for some 20 µs more. Not limited by what the request allows.
    pub(crate) fn most_output(&self, exactly: bool) -> u64 {
        if !self.has_output {
            return 0;
        }
        let seen = match (self.choices, exactly) {
            (2.., _) => self.counter.most_mixed(),
            (_, false) => self.counter.most(),
            (_, true) => self.counter.most_exactly(),
        };
        let ends = self.choices; // the token that ends a choice is billed and has no text
        seen.saturating_add(ends).saturating_add(self.unseen).max(self.reported.output.unwrap_or(0))
    }

    /// A provider that reports no input where there was some has not counted.
    fn input(&self) -> Option<u64> {
        self.reported.input().filter(|input| *input > 0 || !self.has_input)
    }

    /// Whether an answer of which so much was counted can have so little output.
    fn is_credible(&self, output: u64, counted: u64) -> bool {
        let little = output.saturating_mul(LEAST_SHARE) < counted && counted > FEW_TOKENS;
        !self.has_output || counted == 0 || output > 0 && !little
    }
}

fn differs(reported: Option<u64>, taken: u64) -> bool {
    reported.is_some_and(|reported| reported != taken)
}

#[cfg(test)]
mod tests;
