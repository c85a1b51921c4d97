//! A caller that speaks Anthropic, and a provider that speaks OpenAI.

pub(crate) mod answer;
mod messages;
pub(crate) mod request;
pub(crate) mod stream;
mod tools;
