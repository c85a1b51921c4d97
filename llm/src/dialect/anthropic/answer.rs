//! A chat completion → an Anthropic message.

use serde_json::{Value, json};

use crate::usage::Usage;

/// The whole answer.
pub(crate) fn translate(completion: &Value, usage: &Usage) -> Value {
    let choice = &completion["choices"][0];
    let message = &choice["message"];
    let mut blocks = Vec::new();
    if let Some(thoughts) = thoughts(message) {
        blocks.push(json!({"type": "thinking", "thinking": thoughts, "signature": ""}));
    }
    for text in [content(&message["content"]), filled(&message["refusal"]).map(str::to_owned)].into_iter().flatten() {
        blocks.push(json!({"type": "text", "text": text}));
    }
    let calls = message["tool_calls"].as_array().map(Vec::as_slice).unwrap_or_default();
    blocks.extend(calls.iter().map(tool_use));
    let stop = match stop_reason(choice["finish_reason"].as_str()) {
        _ if filled(&message["refusal"]).is_some() => "refusal",
        // A call that was forced ends with "stop".
        "end_turn" if !calls.is_empty() => "tool_use",
        stop => stop,
    };
    json!({
        "id": id(&completion["id"]),
        "type": "message",
        "role": "assistant",
        "model": completion["model"],
        "content": blocks,
        "stop_reason": stop,
        "stop_sequence": null,
        "usage": usage_block(usage),
    })
}

/// What compatible servers call the model's thoughts.
pub(super) fn thoughts(message: &Value) -> Option<&str> {
    filled(&message["reasoning_content"]).or_else(|| filled(&message["reasoning"]))
}

pub(super) fn filled(value: &Value) -> Option<&str> {
    value.as_str().filter(|text| !text.is_empty())
}

/// A text, or the texts of parts.
fn content(content: &Value) -> Option<String> {
    let text: String = match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect(),
        _ => String::new(),
    };
    (!text.is_empty()).then_some(text)
}

fn tool_use(call: &Value) -> Value {
    let function = &call["function"];
    let arguments = function["arguments"].as_str().unwrap_or_default();
    json!({"type": "tool_use", "id": call["id"], "name": function["name"], "input": input(arguments)})
}

/// Arguments as an object. What the model has written badly, or was cut, stays visible as text.
fn input(arguments: &str) -> Value {
    match serde_json::from_str(arguments) {
        Ok(Value::Object(input)) => Value::Object(input),
        _ if arguments.trim().is_empty() => json!({}),
        _ => json!({"INVALID_JSON": arguments}),
    }
}

pub(super) fn id(completion_id: &Value) -> String {
    format!("msg_{}", completion_id.as_str().unwrap_or("unknown"))
}

pub(super) fn stop_reason(finish_reason: Option<&str>) -> &'static str {
    match finish_reason {
        Some("length") => "max_tokens",
        Some("tool_calls" | "function_call") => "tool_use",
        Some("content_filter") => "refusal",
        _ => "end_turn",
    }
}

/// Anthropic counts input that was cached apart from the rest.
pub(crate) fn usage_block(usage: &Usage) -> Value {
    let fresh = usage.input.saturating_sub(usage.cached_input).saturating_sub(usage.cache_write);
    json!({
        "input_tokens": fresh,
        "cache_creation_input_tokens": usage.cache_write,
        "cache_read_input_tokens": usage.cached_input,
        "output_tokens": usage.output,
    })
}
