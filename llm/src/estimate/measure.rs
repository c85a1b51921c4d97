//! How much of what a request's input holds, taken in the pass that parses it.

use crate::dialect::Operation;
use crate::json::Str;

use super::walk::Sink;

/// The sizes of an input's parts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Measure {
    pub(crate) messages: u64,
    /// Messages that name their role.
    pub(crate) roles: u64,
    /// Messages that name who speaks.
    pub(crate) names: u64,
    pub(crate) text_parts: u64,
    /// Parts of messages that are not plain text.
    pub(crate) parts: u64,
    pub(crate) ascii_bytes: u64,
    pub(crate) other_bytes: u64,
    /// JSON that the provider renders by a rule of its own.
    pub(crate) opaque_bytes: u64,
    /// Tokens that the caller sent as numbers.
    pub(crate) tokens: u64,
    pub(crate) prompts: u64,
    pub(crate) images: u64,
    pub(crate) low_images: u64,
    pub(crate) documents: u64,
    pub(crate) audio_bytes: u64,
    /// Output that the caller predicts (OpenAI's predicted outputs).
    pub(crate) predicted_bytes: u64,
    pub(crate) tools: bool,
    pub(crate) client_tools: u64,
    /// The provider adds context that is not in the request.
    pub(crate) hidden: bool,
    /// Output is asked for that its stream does not show as text.
    pub(crate) hidden_output: bool,
}

impl Measure {
    /// Decoded bytes of all text.
    pub(crate) fn text_bytes(&self) -> u64 {
        self.ascii_bytes.saturating_add(self.other_bytes)
    }

    /// Whether there is nothing in it that could be billed as input.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Measure { prompts: self.prompts, hidden_output: self.hidden_output, ..Measure::default() }
    }

    /// How many answers the prompts make: each prompt of a completion has its own.
    pub(crate) fn prompts_for(&self, operation: Operation) -> u64 {
        if operation == Operation::Completions { self.prompts.max(1) } else { 1 }
    }
}

impl Sink for Measure {
    fn text(&mut self, text: Str<'_>) {
        let (ascii, other) = text.sizes();
        self.ascii_bytes += ascii;
        self.other_bytes += other;
    }

    fn message(&mut self) {
        self.messages += 1;
    }

    fn role(&mut self) {
        self.roles += 1;
    }

    fn name(&mut self) {
        self.names += 1;
    }

    fn text_part(&mut self) {
        self.text_parts += 1;
    }

    fn part(&mut self) {
        self.parts += 1;
    }

    fn opaque(&mut self, json: &str) {
        self.opaque_bytes += json.len() as u64;
    }

    fn tokens(&mut self, count: u64) {
        self.tokens += count;
    }

    fn prompt(&mut self) {
        self.prompts += 1;
        self.messages += 1;
    }

    fn image(&mut self, low: bool) {
        if low { self.low_images += 1 } else { self.images += 1 }
    }

    fn document(&mut self) {
        self.documents += 1;
    }

    fn audio(&mut self, bytes: usize) {
        self.audio_bytes += bytes as u64;
        self.parts += 1;
    }

    fn prediction(&mut self, json: &str) {
        self.predicted_bytes += json.len() as u64;
    }

    fn tools(&mut self) {
        self.tools = true;
    }

    fn client_tool(&mut self) {
        self.client_tools += 1;
    }

    fn hidden(&mut self) {
        self.hidden = true;
    }

    fn hidden_output(&mut self) {
        self.hidden_output = true;
    }
}
