//! Anthropic's messages.

use serde_json::{Value, json};

use super::{Event, Events};
use crate::plan::{Claim, Plan};

pub(super) fn answer(plan: &Plan) -> Value {
    let text = plan.text(0);
    let content = match &plan.tool {
        Some(name) => json!([{"type": "tool_use", "id": tool_id(plan), "name": name, "input": {"text": text}}]),
        None => json!([{"type": "text", "text": text}]),
    };
    let mut message = message(plan, content);
    message["stop_reason"] = finish(plan).into();
    if !plan.claim().is_missing() {
        message["usage"] = usage(plan.claim());
    }
    message
}

fn message(plan: &Plan, content: Value) -> Value {
    json!({
        "id": format!("msg_mock_{}", plan.sequence), "type": "message", "role": "assistant", "model": plan.model,
        "content": content, "stop_reason": null, "stop_sequence": null,
    })
}

pub(super) fn events(plan: &Plan) -> Events {
    let inner = plan.clone();
    let middle = plan.pieces(0).map(move |(text, tokens)| delta(&inner, &text).worth(tokens));
    Box::new(opening(plan).into_iter().chain(middle).chain(closing(plan)))
}

fn opening(plan: &Plan) -> Vec<Event> {
    let mut start = message(plan, json!([]));
    if !plan.claim().is_missing() {
        start["usage"] = usage(plan.claim().so_far(0));
    }
    let block = match &plan.tool {
        Some(name) => json!({"type": "tool_use", "id": tool_id(plan), "name": name, "input": {}}),
        None => json!({"type": "text", "text": ""}),
    };
    let mut events = vec![
        event("message_start", json!({"message": start})),
        event("content_block_start", json!({"index": 0, "content_block": block})),
        event("ping", json!({})),
    ];
    if plan.tool.is_some() {
        events.push(delta(plan, "{\"text\":\""));
    }
    events
}

fn delta(plan: &Plan, text: &str) -> Event {
    let delta = match plan.tool {
        Some(_) => json!({"type": "input_json_delta", "partial_json": text}),
        None => json!({"type": "text_delta", "text": text}),
    };
    event("content_block_delta", json!({"index": 0, "delta": delta}))
}

fn closing(plan: &Plan) -> Vec<Event> {
    let mut events = Vec::new();
    if plan.tool.is_some() {
        events.push(delta(plan, "\"}"));
    }
    events.push(event("content_block_stop", json!({"index": 0})));
    let claim = plan.claim();
    let end = |claim: Option<Claim>| {
        let mut data = json!({"delta": {"stop_reason": finish(plan), "stop_sequence": null}});
        if let Some(claim) = claim {
            data["usage"] = json!({"output_tokens": claim.output()});
        }
        event("message_delta", data)
    };
    if claim.is_missing() {
        events.push(end(None));
    } else {
        events.extend(claim.half().into_iter().chain([claim]).map(|claim| end(Some(claim))));
    }
    events.push(event("message_stop", json!({})));
    events
}

fn event(name: &'static str, mut data: Value) -> Event {
    data["type"] = name.into();
    Event::named(name, &data)
}

fn usage(claim: Claim) -> Value {
    json!({
        "input_tokens": claim.uncached_input(), "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": claim.cached(), "output_tokens": claim.output(),
    })
}

fn finish(plan: &Plan) -> &'static str {
    match (&plan.tool, plan.full) {
        (Some(_), _) => "tool_use",
        (None, true) => "max_tokens",
        (None, false) => "end_turn",
    }
}

fn tool_id(plan: &Plan) -> String {
    format!("toolu_mock_{}", plan.sequence)
}

/// Anthropic's error envelope.
pub(super) fn error(status: u16, message: &str) -> Value {
    let kind = match status {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        529 => "overloaded_error",
        400..=499 => "invalid_request_error",
        _ => "api_error",
    };
    json!({"type": "error", "error": {"type": kind, "message": message}})
}
