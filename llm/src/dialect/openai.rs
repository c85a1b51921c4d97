//! A caller that speaks OpenAI, and a provider that speaks Anthropic.

pub(crate) mod answer;
pub(crate) mod completions;
pub(crate) mod frame;
mod messages;
mod reasoning;
pub(crate) mod request;
pub(crate) mod stream;
mod tools;

/// Whether the model is one of OpenAI's own, by its name, that takes `max_completion_tokens`. Everything else is sent
/// `max_tokens`, which is all that many compatible servers know.
pub(crate) fn wants_max_completion_tokens(model: &str) -> bool {
    let own = ["gpt-4o", "gpt-4.1", "gpt-4.5", "gpt-5", "gpt-6", "chatgpt-", "o1", "o3", "o4"];
    own.iter().any(|prefix| model.starts_with(prefix))
}
