//! What a request's input can cost at most, and what it probably costs.
//!
//! The bound has to hold whatever the caller writes, because it is what is reserved in limits and credit. Why it does:
//! - A token of a byte-level vocabulary is at least one byte, so text is at most its (decoded) bytes. For the models
//!   whose vocabulary is published the text is counted exactly, part by part.
//! - What a provider renders by a rule of its own (tools, schemas, fields that we don't know) is at most the bytes of
//!   its JSON, which is longer than any known rendering of it.
//! - Framing costs a few special tokens for each message and once for the reply: by the published rule where the model's
//!   name is one that it is known for, else by constants above every rule that is published, see [`Framing`].
//! - Images and audio follow the provider's published formula at its worst, see [`image_bound`].
//! - What we can't see (stored conversations, files by id, pages that a hosted tool fetches) is at most a context
//!   window.

mod framing;
mod images;
mod measure;
pub(crate) mod walk;

pub(crate) use framing::Framing;
pub(crate) use images::image_bound;
pub(crate) use measure::Measure;

use crate::dialect::Operation;
use crate::json::Str;
use crate::tokens::{self, Vocabulary};
use walk::Sink;

/// Text below this is counted in well under half a millisecond (measured: 10 KB in 0.43 ms).
pub(crate) const SHORT_TEXT_BYTES: u64 = 10_000;

/// What one of Anthropic's own client tools (computer, bash, editor) adds: up to 735 tokens are documented.
const CLIENT_TOOL_TOKENS: u64 = 1_500;

/// A document that can't be measured, and hidden context: the usual context window, which also holds the most pages
/// (100) that such a window's models take.
const WINDOW_TOKENS: u64 = 200_000;

/// Audio is 10 tokens a second (OpenAI), and no format that is taken has less than 1,000 bytes a second.
const AUDIO_BYTES_PER_TOKEN: u64 = 50;

/// The most tokens that the input can be, with the tokens of its text if a vocabulary for it is known.
pub(crate) fn input_bound(measure: &Measure, operation: Operation, model: &str, text_tokens: Option<u64>) -> u64 {
    let text = text_tokens.unwrap_or(measure.text_bytes()).min(measure.text_bytes());
    let images = image_bound(model);
    let windows = measure.documents.saturating_add(u64::from(measure.hidden));
    [
        text,
        Framing::of(model, operation).tokens(measure),
        measure.opaque_bytes,
        measure.tokens,
        measure.images.saturating_mul(images.high),
        measure.low_images.saturating_mul(images.low),
        measure.audio_bytes.div_ceil(AUDIO_BYTES_PER_TOKEN),
        windows.saturating_mul(WINDOW_TOKENS),
        measure.client_tools.saturating_mul(CLIENT_TOOL_TOKENS),
    ]
    .into_iter()
    .fold(0, u64::saturating_add)
}

/// What the input probably is: for rows that no provider's figures come for.
pub(crate) fn input_estimate(measure: &Measure, text_tokens: Option<u64>) -> u64 {
    let text = text_tokens.unwrap_or_else(|| tokens::estimate(measure.ascii_bytes, measure.other_bytes));
    [
        text,
        measure.opaque_bytes / 4,
        measure.tokens,
        measure.messages.saturating_mul(4),
        measure.images.saturating_mul(1_000),
        measure.low_images.saturating_mul(85),
        measure.audio_bytes / 1_600,
        measure.documents.saturating_mul(2_000),
    ]
    .into_iter()
    .fold(3, u64::saturating_add)
}

/// Counts the text of a request that has been measured before.
pub(crate) fn text_tokens(operation: Operation, body: &str, vocabulary: Vocabulary) -> u64 {
    let mut count = TextTokens { vocabulary, tokens: 0 };
    walk::body(body, operation, &mut count).expect("the body was walked when it was parsed");
    count.tokens
}

struct TextTokens {
    vocabulary: Vocabulary,
    tokens: u64,
}

impl Sink for TextTokens {
    fn text(&mut self, text: Str<'_>) {
        self.tokens = self.tokens.saturating_add(self.vocabulary.count(&text.decode()));
    }
}

#[cfg(test)]
mod tests;
