//! What a provider is sent: the caller's own text with a few splices, or a translation.

use bytes::Bytes;

use super::fields::Field;
use super::{Inner, MaxTokens, ProviderRequest};
use crate::dialect::{Dialect, Operation, anthropic, openai};
use crate::error::RequestError;
use crate::json::Kind;
use crate::json::splice::Splice;

/// The version of the Anthropic API that translations are written for.
const ANTHROPIC_VERSION: &str = "2023-06-01";

pub(super) fn write(
    request: &Inner,
    to: Dialect,
    model: &str,
    max_tokens: MaxTokens,
) -> Result<ProviderRequest, RequestError> {
    let operation = request.operation;
    if !operation.served_by(to) {
        let message = format!("{} is not possible with a provider of type {}", operation.provider_path(), to.name());
        return Err(RequestError::new(message));
    }
    if operation.dialect() == to {
        let body = spliced(request, model, max_tokens);
        return Ok(ProviderRequest { path: operation.provider_path(), body, headers: Vec::new() });
    }
    let max_tokens = match max_tokens {
        MaxTokens::Set(max) => Some(max),
        MaxTokens::Keep => request.max_tokens,
    };
    let (path, body) = match operation {
        Operation::Messages => (
            Operation::ChatCompletions.provider_path(),
            anthropic::request::translate(&request.body, model, max_tokens)?,
        ),
        Operation::Completions => {
            (Operation::Messages.provider_path(), openai::completions::translate(&request.body, model, max_tokens)?)
        }
        _ => (Operation::Messages.provider_path(), openai::request::translate(&request.body, model, max_tokens)?),
    };
    let headers = match to {
        Dialect::Anthropic => vec![("anthropic-version", ANTHROPIC_VERSION.to_owned())],
        Dialect::OpenAi => Vec::new(),
    };
    Ok(ProviderRequest { path, body, headers })
}

fn spliced(request: &Inner, model: &str, max_tokens: MaxTokens) -> Bytes {
    let mut splice = Splice::default();
    if request.model != model {
        let span = request.fields.span(Field::Model).expect("a request without a model is not parsed");
        splice.replace(span, quoted(model));
    }
    if let MaxTokens::Set(max) = max_tokens {
        set_max_tokens(request, model, max, &mut splice);
    }
    let chunked = matches!(request.operation, Operation::ChatCompletions | Operation::Completions);
    if chunked && request.stream && !request.include_usage {
        ask_for_usage(request, &mut splice);
    }
    splice.apply(&request.body)
}

/// Replaces every bound that stands there, so that none larger than `max` is left; adds one where none does.
fn set_max_tokens(request: &Inner, model: &str, max: u64, splice: &mut Splice) {
    let fields = request.fields.bound_fields();
    let mut there = fields.iter().filter(|field| request.fields.has(**field)).peekable();
    if there.peek().is_some() {
        for field in there {
            splice.replace(request.fields.span(*field).unwrap_or_default(), max.to_string());
        }
        return;
    }
    let Some(field) = field_to_inject(request.operation, model) else { return };
    match request.fields.span(field) {
        Some(null) => splice.replace(null, max.to_string()),
        None => splice.insert(request.fields.last_value_end, format!(",\"{}\":{max}", field.name())),
    }
}

/// OpenAI's newer models refuse `max_tokens`; many compatible servers know nothing else.
fn field_to_inject(operation: Operation, model: &str) -> Option<Field> {
    match operation {
        Operation::ChatCompletions if openai::wants_max_completion_tokens(model) => Some(Field::MaxCompletionTokens),
        Operation::ChatCompletions | Operation::Completions | Operation::Messages => Some(Field::MaxTokens),
        Operation::Responses => Some(Field::MaxOutputTokens),
        _ => None,
    }
}

/// Sets `stream_options.include_usage`; the relay hides the chunk again.
fn ask_for_usage(request: &Inner, splice: &mut Splice) {
    const ASK: &str = "{\"include_usage\":true}";
    let span = request.fields.span(Field::StreamOptions);
    match (span, request.fields.kind(Field::StreamOptions)) {
        (Some(span), Some(Kind::Object)) => {
            let options = request.text()[span.clone()].to_owned();
            splice.replace(span, with_usage(&options));
        }
        (Some(span), _) => splice.replace(span, ASK),
        (None, _) => splice.insert(request.fields.last_value_end, format!(",\"stream_options\":{ASK}")),
    }
}

/// The options with `include_usage: true` in place of what they said of it.
fn with_usage(options: &str) -> String {
    let mut cursor = crate::json::Cursor::new(options);
    let mut splice = Splice::default();
    let mut members = Vec::new();
    if cursor.enter_object().is_ok() {
        while let Ok(Some(key)) = cursor.next_key() {
            let start = cursor.position();
            let _ = cursor.skip();
            members.push((key.decode().eq_ignore_ascii_case("include_usage"), start..cursor.position_before_space()));
        }
    }
    match (members.iter().find(|(usage, _)| *usage), members.last()) {
        (Some((_, span)), _) => splice.replace(span.clone(), "true"),
        (None, Some((_, last))) => splice.insert(last.end, ",\"include_usage\":true"),
        (None, None) => return "{\"include_usage\":true}".to_owned(),
    }
    let spliced = splice.apply(&Bytes::copy_from_slice(options.as_bytes()));
    String::from_utf8_lossy(&spliced).into_owned()
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
