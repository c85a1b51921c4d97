//! A caller's request: its body read once, in one pass, and what a provider is sent instead.
//!
//! Only places are remembered of the body, never a tree, so that a request to a provider of the same dialect is the
//! caller's own text with a few splices. Input of callers is not trusted: depth is bounded, and a field that we rely
//! on may stand there only once and in only one spelling, so that no provider can read another value than we did.

mod fields;
mod provider;

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::dialect::{Dialect, Operation};
use crate::error::RequestError;
use crate::estimate::{self, Measure};
use crate::tokens::{self, Vocabulary};
use fields::{Field, Fields};

/// A parsed request; a clone is a pointer.
#[derive(Debug, Clone)]
pub struct AiRequest(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    operation: Operation,
    body: Bytes,
    fields: Fields,
    model: String,
    stream: bool,
    include_usage: bool,
    max_tokens: Option<u64>,
    choices: u64,
    measure: Measure,
    /// Tokens of the text, once they have been counted with a vocabulary.
    text_tokens: OnceLock<(Vocabulary, u64)>,
}

/// What becomes of the caller's bound on output tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaxTokens {
    /// Sent as the caller wrote it, or left out as the caller left it out.
    Keep,
    /// This much for each choice: replaces what the caller wrote, injected where it wrote nothing. Without effect
    /// where the operation produces no tokens (embeddings, counting).
    Set(u64),
}

/// What to send to a provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderRequest {
    /// Below the provider's base URL, which ends with the version.
    pub path: &'static str,
    /// JSON.
    pub body: Bytes,
    /// Headers that the provider's dialect needs and the caller's did not have.
    pub headers: Vec<(&'static str, String)>,
}

impl AiRequest {
    /// Reads a request body.
    ///
    /// # Errors
    /// It is not UTF-8, not JSON, nested too deep, ambiguous, has no model, or a field that we rely on has an
    /// impossible value; the error names the field.
    pub fn parse(operation: Operation, body: Bytes) -> Result<AiRequest, RequestError> {
        let text = std::str::from_utf8(&body).map_err(|error| {
            RequestError::new(format!("the body is not valid UTF-8 at byte {}", error.valid_up_to()))
        })?;
        let (fields, measure) = fields::read(operation, text)?;
        let model = fields.model(text)?;
        let streams = !matches!(operation, Operation::Embeddings | Operation::CountTokens);
        let stream = fields.bool(text, Field::Stream)?.unwrap_or(false) && streams;
        let include_usage = fields.include_usage;
        let max_tokens = fields.max_tokens(text)?;
        let choices = fields.choices(text)?.saturating_mul(measure.prompts_for(operation));
        fields.check(operation, text)?;
        let inner = Inner {
            operation,
            model,
            stream,
            include_usage,
            max_tokens,
            choices,
            measure,
            fields,
            body,
            text_tokens: OnceLock::new(),
        };
        Ok(AiRequest(Arc::new(inner)))
    }

    /// What the caller wants.
    #[must_use]
    pub fn operation(&self) -> Operation {
        self.0.operation
    }

    /// The caller's dialect.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        self.0.operation.dialect()
    }

    /// The model that was asked for.
    #[must_use]
    pub fn model(&self) -> &str {
        &self.0.model
    }

    /// Whether the answer is to be streamed.
    #[must_use]
    pub fn stream(&self) -> bool {
        self.0.stream
    }

    /// Whether the caller asked for the usage chunk of an OpenAI stream.
    #[must_use]
    pub fn client_wants_usage(&self) -> bool {
        self.0.include_usage
    }

    /// The caller's own bound on the output tokens of each choice.
    #[must_use]
    pub fn max_tokens(&self) -> Option<u64> {
        self.0.max_tokens
    }

    /// How many times the bound of one choice can be used up: `n` or `best_of`, for each prompt.
    #[must_use]
    pub fn choices(&self) -> u64 {
        self.0.choices
    }

    /// Whether the operation produces output tokens, so that it needs a bound on them.
    #[must_use]
    pub fn has_output(&self) -> bool {
        !matches!(self.0.operation, Operation::Embeddings | Operation::CountTokens)
    }

    /// The most output tokens of all choices together: [`max_tokens`](Self::max_tokens) × [`choices`](Self::choices)
    /// (a predicted output, whose rejected tokens are billed too, adds its bytes), `Some(0)` where there is no output, `None` where the caller named no bound.
    #[must_use]
    pub fn output_bound(&self) -> Option<u64> {
        if !self.has_output() {
            return Some(0);
        }
        self.0.max_tokens.map(|max| self.output_bound_with(max))
    }

    /// The same with `max_tokens` for each choice instead of the caller's own.
    #[must_use]
    pub fn output_bound_with(&self, max_tokens: u64) -> u64 {
        if !self.has_output() {
            return 0;
        }
        max_tokens.saturating_add(self.0.measure.predicted_bytes).saturating_mul(self.0.choices)
    }

    /// The largest bound for each choice with which all output together is at most `room`; 1 where there is room for none,
    /// as a bound of nothing is no request.
    #[must_use]
    pub fn max_tokens_within(&self, room: u64) -> u64 {
        (room / self.0.choices).saturating_sub(self.0.measure.predicted_bytes).max(1)
    }

    /// Whether `served_model` may bill output that its stream does not show as text (thoughts, sound, what its hosted tools
    /// write): what goes by says nothing of it then, so that a hold can't grow with the stream. Known by the names of models
    /// and by what the request asks for; a model that thinks in secret under any other name is not found out.
    #[must_use]
    pub fn hides_output(&self, served_model: &str) -> bool {
        let measure = &self.0.measure;
        measure.hidden_output || measure.hidden || tokens::thinks_unseen(served_model)
    }

    /// The most input tokens that `served_model` can bill for this request. May load a vocabulary (up to 140 ms) and
    /// reads all of the text: see [`needs_blocking`](Self::needs_blocking). The result of the count is kept.
    #[must_use]
    pub fn input_bound(&self, served_model: &str) -> u64 {
        if self.0.operation == Operation::CountTokens {
            return 0;
        }
        let text = Vocabulary::of(served_model).map(|vocabulary| self.text_tokens(vocabulary));
        estimate::input_bound(&self.0.measure, self.0.operation, served_model, text)
    }

    /// The same, and never counts by itself: not above [`input_bound`](Self::input_bound) where that has been asked.
    #[must_use]
    pub fn most_input(&self, served_model: &str) -> u64 {
        if self.0.operation == Operation::CountTokens {
            return 0;
        }
        estimate::input_bound(&self.0.measure, self.0.operation, served_model, self.counted_text(served_model))
    }

    /// Whether [`input_bound`](Self::input_bound) for this model belongs on a blocking thread: its vocabulary is not
    /// loaded yet, or the text is long.
    #[must_use]
    pub fn needs_blocking(&self, served_model: &str) -> bool {
        let counted = self.0.text_tokens.get().map(|(vocabulary, _)| *vocabulary);
        Vocabulary::of(served_model).is_some_and(|vocabulary| {
            counted != Some(vocabulary)
                && (!vocabulary.is_loaded() || self.0.measure.text_bytes() > estimate::SHORT_TEXT_BYTES)
        })
    }

    /// What the input probably is, for a usage row when the provider does not say. Exact text where
    /// [`input_bound`](Self::input_bound) has counted it for this model; never counts by itself. Never more than
    /// [`most_input`](Self::most_input).
    #[must_use]
    pub fn input_estimate(&self, served_model: &str) -> u64 {
        let probably = estimate::input_estimate(&self.0.measure, self.counted_text(served_model));
        probably.min(self.most_input(served_model))
    }

    /// Whether it has any input. Of one that has none a provider may report none.
    pub(crate) fn has_input(&self) -> bool {
        !self.0.measure.is_empty()
    }

    /// Tokens of the text, where they have been counted for this model.
    fn counted_text(&self, served_model: &str) -> Option<u64> {
        let vocabulary = Vocabulary::of(served_model);
        let counted = self.0.text_tokens.get().filter(|(counted, _)| Some(*counted) == vocabulary);
        counted.map(|(_, tokens)| *tokens)
    }

    /// Whether a provider of that dialect can serve the operation at all, whatever its fields.
    #[must_use]
    pub fn served_by(&self, dialect: Dialect) -> bool {
        self.0.operation.served_by(dialect)
    }

    /// What a provider that speaks `dialect` is sent, to serve `model`.
    ///
    /// # Errors
    /// The request can't be expressed in that dialect; the error names the field.
    pub fn for_provider(
        &self,
        dialect: Dialect,
        model: &str,
        max_tokens: MaxTokens,
    ) -> Result<ProviderRequest, RequestError> {
        provider::write(&self.0, dialect, model, max_tokens)
    }

    fn text_tokens(&self, vocabulary: Vocabulary) -> u64 {
        let count = || estimate::text_tokens(self.0.operation, self.text(), vocabulary);
        let (counted, tokens) = *self.0.text_tokens.get_or_init(|| (vocabulary, count()));
        if counted == vocabulary { tokens } else { count() }
    }

    fn text(&self) -> &str {
        self.0.text()
    }
}

impl Inner {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body was checked when it was parsed")
    }
}

#[cfg(test)]
mod tests;
