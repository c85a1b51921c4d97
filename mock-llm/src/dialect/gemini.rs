//! Gemini's generateContent.

use serde_json::{Value, json};

use super::{Event, Events};
use crate::plan::{Claim, Plan};

pub(super) fn answer(plan: &Plan) -> Value {
    let candidates = (0..plan.choices).map(|index| candidate(plan, index, &plan.text(index), Some(finish(plan))));
    envelope(plan, candidates.collect(), usage(plan.claim()))
}

pub(super) fn events(plan: &Plan) -> Events {
    let (middle, last) = (plan.clone(), plan.clone());
    let pieces = move |index: u64| {
        let inner = middle.clone();
        middle.pieces(index).map(move |(text, tokens)| {
            let piece = candidate(&inner, index, &text, None);
            Event::data(&envelope(&inner, vec![piece], None)).worth(tokens)
        })
    };
    let end = move |_: u64| {
        let ends = (0..last.choices).map(|index| candidate(&last, index, "", Some(finish(&last)))).collect::<Vec<_>>();
        let claim = last.claim();
        let blocks = claim.half().into_iter().chain([claim]).map(usage);
        blocks.map(|usage| Event::data(&envelope(&last, ends.clone(), usage))).collect::<Vec<_>>()
    };
    Box::new((0..plan.choices).flat_map(pieces).chain((0..1).flat_map(end)))
}

fn candidate(plan: &Plan, index: u64, text: &str, finish: Option<&str>) -> Value {
    let part = match &plan.tool {
        Some(name) => json!({"functionCall": {"name": name, "args": {"text": text}}}),
        None => json!({"text": text}),
    };
    let mut candidate = json!({"content": {"role": "model", "parts": [part]}, "index": index});
    if let Some(finish) = finish {
        candidate["finishReason"] = finish.into();
    }
    candidate
}

fn envelope(plan: &Plan, candidates: Vec<Value>, usage: Option<Value>) -> Value {
    let mut answer = json!({
        "candidates": candidates, "modelVersion": plan.model, "responseId": format!("mock-{}", plan.sequence),
    });
    if let Some(usage) = usage {
        answer["usageMetadata"] = usage;
    }
    answer
}

fn usage(claim: Claim) -> Option<Value> {
    let block = json!({
        "promptTokenCount": claim.input(), "cachedContentTokenCount": claim.cached(),
        "candidatesTokenCount": claim.visible_output(), "thoughtsTokenCount": claim.reasoning(),
        "totalTokenCount": claim.total(),
    });
    (!claim.is_missing()).then_some(block)
}

fn finish(plan: &Plan) -> &'static str {
    if plan.full { "MAX_TOKENS" } else { "STOP" }
}

/// Google's error envelope.
pub(super) fn error(status: u16, message: &str) -> Value {
    let name = match status {
        400 => "INVALID_ARGUMENT",
        401 => "UNAUTHENTICATED",
        403 => "PERMISSION_DENIED",
        404 => "NOT_FOUND",
        429 => "RESOURCE_EXHAUSTED",
        503 => "UNAVAILABLE",
        504 => "DEADLINE_EXCEEDED",
        _ => "INTERNAL",
    };
    json!({"error": {"code": status, "message": message, "status": name}})
}
