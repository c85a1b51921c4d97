//! Whole answers: read their usage, and bring them into the caller's dialect.

use bytes::Bytes;
use serde_json::Value;

use crate::dialect::{Dialect, Operation, anthropic, openai};
use crate::json::JsonError;
use crate::read::{self, Seen};
use crate::request::{AiRequest, MaxTokens};
use crate::usage::{AtMost, Tally, Usage, UsageSource};

/// A provider's answer, ready for the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The body in the caller's dialect: the provider's own buffer where the dialects are equal.
    pub body: Bytes,
    /// What the call used.
    pub usage: Usage,
    /// The most that it can have used of what the provider has not told.
    pub at_most: AtMost,
    /// The model that the provider says has answered, when it says so.
    pub model: Option<String>,
}

/// Why an answer with a status of success is none: the caller gets a 502 `upstream_error` (or the next fallback).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// Not JSON, or not the JSON of such an answer.
    #[error("the provider's answer can't be read: {0}")]
    Garbage(String),
    /// An error body with a status of success.
    #[error("the provider answered with an error: {0}")]
    Upstream(String),
}

/// Reads a provider's whole answer (status 2xx, not a stream): its usage, and its body in the caller's dialect.
///
/// `from` is the provider's dialect, `served_model` the name that was sent to it, with `max_tokens`, `created` the time in seconds since
/// the epoch that a translated answer carries where the provider sent none. Usage that the provider does not report,
/// or that is nonsense, is counted.
///
/// # Errors
/// The answer is not one, see [`AnswerError`].
pub fn translate_answer(
    request: &AiRequest,
    from: Dialect,
    served_model: &str,
    max_tokens: MaxTokens,
    created: u64,
    body: &Bytes,
) -> Result<Answer, AnswerError> {
    let text = std::str::from_utf8(body).map_err(|_| AnswerError::Garbage("not UTF-8".to_owned()))?;
    let mut tally = Tally::rough(request, served_model, max_tokens);
    let mut seen = read(request.operation(), from, text, &mut tally);
    if seen == Ok(Seen::Content) && !tally.is_reported() {
        tally = Tally::new(request, served_model, max_tokens);
        seen = read(request.operation(), from, text, &mut tally);
    }
    match seen.map_err(|error| AnswerError::Garbage(error.to_string()))? {
        Seen::Content => {}
        Seen::Error(message) => return Err(AnswerError::Upstream(message)),
        _ => return Err(AnswerError::Garbage("nothing of an answer in it".to_owned())),
    }
    let (usage, at_most) = match request.operation() {
        Operation::CountTokens => (Usage { source: UsageSource::Provider, ..Usage::default() }, AtMost::default()),
        _ => (tally.usage(), tally.at_most()),
    };
    let body = match from == request.dialect() {
        true => body.clone(),
        false => translated(request.operation(), served_model, text, &usage, created)?,
    };
    Ok(Answer { body, usage, at_most, model: tally.model })
}

fn read(operation: Operation, from: Dialect, text: &str, tally: &mut Tally) -> Result<Seen, JsonError> {
    match (from, operation) {
        (_, Operation::CountTokens) => read::counted_tokens(text),
        (Dialect::Anthropic, _) => read::event(text, tally),
        (Dialect::OpenAi, Operation::Responses) => read::response(text, tally),
        (Dialect::OpenAi, Operation::Embeddings) => read::embeddings(text, tally),
        (Dialect::OpenAi, _) => read::chunk(text, tally),
    }
}

fn translated(
    operation: Operation,
    served_model: &str,
    text: &str,
    usage: &Usage,
    created: u64,
) -> Result<Bytes, AnswerError> {
    let mut answer: Value = serde_json::from_str(text).map_err(|error| AnswerError::Garbage(error.to_string()))?;
    if !answer["model"].is_string() {
        answer["model"] = served_model.into();
    }
    let translated = match operation {
        Operation::Messages => anthropic::answer::translate(&answer, usage),
        Operation::Completions => openai::completions::answer(&answer, usage, created),
        _ => openai::answer::translate(&answer, usage, created),
    };
    Ok(translated.to_string().into())
}

#[cfg(test)]
mod tests;
