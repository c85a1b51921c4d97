//! What a provider puts around the texts of a request.

use super::Measure;
use crate::dialect::Operation;
use crate::tokens;

/// The most tokens that are added to what the caller wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Framing {
    /// Once.
    request: u64,
    /// For each message that names its role (the role itself is counted as text).
    message: u64,
    /// For each message that names none: the provider writes the role.
    unnamed: u64,
    /// For each message with a `name`.
    name: u64,
    /// For each text in a list of parts: its seam with the next.
    text_part: u64,
    /// For each other part: the tags that calls of tools and their results are rendered between.
    part: u64,
    /// Once, where there are tools.
    tools: u64,
}

/// OpenAI's chat models, by its published count of messages ("How to count tokens with tiktoken", OpenAI Cookbook): 3
/// for each message with its role, 1 for a name, 3 before the reply. Tools take 12 once and 10 each by the same source, which
/// their JSON is far longer than; older models add a short tool of their own when there are two.
const PUBLISHED: Framing = Framing { request: 3, message: 3, unnamed: 8, name: 1, text_part: 4, part: 16, tools: 256 };

/// The first of them took one more for a message.
const PUBLISHED_FIRST: Framing = Framing { message: 4, ..PUBLISHED };

/// OpenAI's completions: the prompt and nothing else; behind a translation it is one message with its role.
const COMPLETION: Framing = Framing { request: 7, message: 0, unnamed: 0, ..PUBLISHED };

/// OpenAI's embeddings: the input and nothing else.
const EMBEDDING: Framing = Framing { request: 0, message: 0, unnamed: 0, ..PUBLISHED };

/// Above every chat template that we know a rule of (Anthropic's is below 8 for a short message in all). Once: the short
/// system prompt that some templates add by themselves. Tools: Anthropic's own system prompt for them is up to 530.
const UNKNOWN: Framing =
    Framing { request: 64, message: 8, unnamed: 8, name: 1, text_part: 16, part: 16, tools: 1_000 };

/// Open models in OpenAI's harmony format, whose template writes a system message of some 70 tokens.
const HARMONY: Framing = Framing { request: 192, ..UNKNOWN };

impl Framing {
    /// The framing of a model, by its name.
    pub(crate) fn of(model: &str, operation: Operation) -> Framing {
        match tokens::family(model) {
            tokens::Family::Unknown => UNKNOWN,
            tokens::Family::Harmony => HARMONY,
            tokens::Family::OpenAi => match operation {
                Operation::Completions => COMPLETION,
                Operation::Embeddings => EMBEDDING,
                _ if model.starts_with("gpt-3.5-turbo-0301") => PUBLISHED_FIRST,
                _ => PUBLISHED,
            },
        }
    }

    /// All that is added to the messages, parts and tools of a request.
    pub(crate) fn tokens(&self, measure: &Measure) -> u64 {
        let unnamed = measure.messages.saturating_sub(measure.roles);
        [
            self.request,
            measure.roles.saturating_mul(self.message),
            unnamed.saturating_mul(self.unnamed),
            measure.names.saturating_mul(self.name),
            measure.text_parts.saturating_mul(self.text_part),
            measure.parts.saturating_mul(self.part),
            if measure.tools { self.tools } else { 0 },
        ]
        .into_iter()
        .fold(0, u64::saturating_add)
    }
}
