//! An Anthropic message → a chat completion.

use serde_json::{Value, json};

use crate::usage::Usage;

/// The whole answer.
pub(crate) fn translate(message: &Value, usage: &Usage, created: u64) -> Value {
    let mut answer = json!({"role": "assistant", "content": null, "refusal": null});
    let blocks = message["content"].as_array().map(Vec::as_slice).unwrap_or_default();
    if let Some(text) = joined(blocks, "text", "text") {
        answer["content"] = text.into();
    }
    if let Some(thoughts) = joined(blocks, "thinking", "thinking").filter(|thoughts| !thoughts.is_empty()) {
        answer["reasoning_content"] = thoughts.into();
    }
    let calls: Vec<Value> = blocks.iter().filter(|block| block["type"] == "tool_use").map(tool_call).collect();
    if !calls.is_empty() {
        answer["tool_calls"] = calls.into();
    }
    let finish = finish_reason(message["stop_reason"].as_str());
    json!({
        "id": id("chatcmpl", &message["id"]),
        "object": "chat.completion",
        "created": created,
        "model": message["model"],
        "choices": [{"index": 0, "message": answer, "logprobs": null, "finish_reason": finish}],
        "usage": usage_block(usage),
    })
}

/// The texts of all blocks of a kind; `None` without such a block.
pub(super) fn joined(blocks: &[Value], kind: &str, key: &str) -> Option<String> {
    let mut texts =
        blocks.iter().filter(|block| block["type"] == kind).filter_map(|block| block[key].as_str()).peekable();
    texts.peek()?;
    Some(texts.collect())
}

fn tool_call(block: &Value) -> Value {
    let arguments = if block["input"].is_object() { block["input"].to_string() } else { "{}".to_owned() };
    json!({
        "id": block["id"],
        "type": "function",
        "function": {"name": block["name"], "arguments": arguments},
    })
}

/// A message's id, as answers of this kind begin theirs.
pub(super) fn id(kind: &str, message_id: &Value) -> String {
    format!("{kind}-{}", message_id.as_str().unwrap_or("unknown"))
}

/// Why it stopped. A stop that has no counterpart is at least a stop.
pub(super) fn finish_reason(stop_reason: Option<&str>) -> &'static str {
    match stop_reason {
        Some("max_tokens" | "model_context_window_exceeded") => "length",
        Some("tool_use") => "tool_calls",
        Some("refusal") => "content_filter",
        _ => "stop",
    }
}

pub(super) fn usage_block(usage: &Usage) -> Value {
    json!({
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.input.saturating_add(usage.output),
        "prompt_tokens_details": {"cached_tokens": usage.cached_input},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    })
}
