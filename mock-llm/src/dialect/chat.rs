//! OpenAI's chat completions.

use serde_json::{Value, json};

use super::{Event, Events};
use crate::plan::{Claim, Plan};

pub(super) fn answer(plan: &Plan) -> Value {
    let choices: Vec<Value> = (0..plan.choices).map(|index| choice(plan, index)).collect();
    let mut answer = json!({
        "id": id(plan), "object": "chat.completion", "created": plan.created, "model": plan.model,
        "choices": choices, "system_fingerprint": "fp_mock",
    });
    if !plan.claim().is_missing() {
        answer["usage"] = usage(plan.claim());
    }
    answer
}

fn choice(plan: &Plan, index: u64) -> Value {
    let message = match &plan.tool {
        Some(name) => json!({
            "role": "assistant", "content": null,
            "tool_calls": [{"id": tool_id(plan, index), "type": "function",
                "function": {"name": name, "arguments": arguments(&plan.text(index))}}],
        }),
        None => json!({"role": "assistant", "content": plan.text(index), "refusal": null}),
    };
    json!({"index": index, "message": message, "logprobs": null, "finish_reason": finish(plan)})
}

pub(super) fn events(plan: &Plan) -> Events {
    let first = {
        let plan = plan.clone();
        move |index: u64| Event::data(&chunk(&plan, index, &opening(&plan, index), None))
    };
    let middle = {
        let plan = plan.clone();
        move |index: u64| {
            let inner = plan.clone();
            plan.pieces(index).map(move |(text, tokens)| {
                Event::data(&chunk(&inner, index, &delta(&inner, &text), None)).worth(tokens)
            })
        }
    };
    let last = {
        let plan = plan.clone();
        move |index: u64| closing(&plan, index)
    };
    let choices = plan.choices;
    Box::new(
        (0..choices)
            .map(first)
            .chain((0..choices).flat_map(middle))
            .chain((0..choices).flat_map(last))
            .chain(usage_events(plan))
            .chain([Event { name: None, data: "[DONE]".into(), tokens: 0 }]),
    )
}

/// The end of a tool's arguments, and the reason why the choice ends.
fn closing(plan: &Plan, index: u64) -> Vec<Event> {
    let mut events = Vec::new();
    if plan.tool.is_some() {
        let rest = json!({"tool_calls": [{"index": 0, "function": {"arguments": ARGUMENTS_END}}]});
        events.push(Event::data(&chunk(plan, index, &rest, None)));
    }
    events.push(Event::data(&chunk(plan, index, &json!({}), Some(finish(plan)))));
    events
}

fn opening(plan: &Plan, index: u64) -> Value {
    match &plan.tool {
        Some(name) => json!({
            "role": "assistant", "content": null,
            "tool_calls": [{"index": 0, "id": tool_id(plan, index), "type": "function",
                "function": {"name": name, "arguments": ARGUMENTS_START}}],
        }),
        None => json!({"role": "assistant", "content": "", "refusal": null}),
    }
}

fn delta(plan: &Plan, text: &str) -> Value {
    match plan.tool {
        Some(_) => json!({"tool_calls": [{"index": 0, "function": {"arguments": text}}]}),
        None => json!({"content": text}),
    }
}

fn chunk(plan: &Plan, index: u64, delta: &Value, finish: Option<&str>) -> Value {
    let mut chunk = envelope(plan);
    chunk["choices"] = json!([{"index": index, "delta": delta, "logprobs": null, "finish_reason": finish}]);
    if plan.include_usage {
        chunk["usage"] = Value::Null;
    }
    chunk
}

fn envelope(plan: &Plan) -> Value {
    json!({
        "id": id(plan), "object": "chat.completion.chunk", "created": plan.created, "model": plan.model,
        "system_fingerprint": "fp_mock", "choices": [],
    })
}

fn usage_events(plan: &Plan) -> Vec<Event> {
    let claim = plan.claim();
    if !plan.include_usage || claim.is_missing() {
        return Vec::new();
    }
    let block = |claim: Claim| {
        let mut chunk = envelope(plan);
        chunk["usage"] = usage(claim);
        Event::data(&chunk)
    };
    claim.half().into_iter().chain([claim]).map(block).collect()
}

/// The usage block of chat completions, completions and embeddings.
pub(super) fn usage(claim: Claim) -> Value {
    json!({
        "prompt_tokens": claim.input(), "completion_tokens": claim.output(), "total_tokens": claim.total(),
        "prompt_tokens_details": {"cached_tokens": claim.cached(), "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": claim.reasoning(), "audio_tokens": 0},
    })
}

const ARGUMENTS_START: &str = "{\"text\":\"";
const ARGUMENTS_END: &str = "\"}";

/// The arguments of a tool call, as the text of a JSON object.
pub(super) fn arguments(text: &str) -> String {
    format!("{ARGUMENTS_START}{text}{ARGUMENTS_END}")
}

fn finish(plan: &Plan) -> &'static str {
    match (&plan.tool, plan.full) {
        (Some(_), _) => "tool_calls",
        (None, true) => "length",
        (None, false) => "stop",
    }
}

fn id(plan: &Plan) -> String {
    format!("chatcmpl-mock-{}", plan.sequence)
}

fn tool_id(plan: &Plan, index: u64) -> String {
    format!("call_mock_{}_{index}", plan.sequence)
}

/// OpenAI's error envelope.
pub(super) fn error(status: u16, message: &str) -> Value {
    let kind = match status {
        400..=404 | 413 | 422 => "invalid_request_error",
        429 => "requests",
        _ => "server_error",
    };
    let code = match status {
        401 => "invalid_api_key",
        404 => "model_not_found",
        429 => "rate_limit_exceeded",
        _ => "mock_error",
    };
    json!({"error": {"message": message, "type": kind, "param": null, "code": code}})
}
