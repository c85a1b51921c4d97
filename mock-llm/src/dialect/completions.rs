//! OpenAI's older completions.

use serde_json::{Value, json};

use super::{Event, Events, chat};
use crate::plan::Plan;

pub(super) fn answer(plan: &Plan) -> Value {
    let choices: Vec<Value> =
        (0..plan.choices).map(|index| choice(index, &plan.text(index), Some(finish(plan)))).collect();
    let mut answer = envelope(plan);
    answer["choices"] = choices.into();
    if !plan.claim().is_missing() {
        answer["usage"] = chat::usage(plan.claim());
    }
    answer
}

pub(super) fn events(plan: &Plan) -> Events {
    let (middle, last) = (plan.clone(), plan.clone());
    let pieces = move |index: u64| {
        let inner = middle.clone();
        middle.pieces(index).map(move |(text, tokens)| chunk(&inner, index, &text, None).worth(tokens))
    };
    let end = move |index: u64| chunk(&last, index, "", Some(finish(&last)));
    Box::new((0..plan.choices).flat_map(pieces).chain((0..plan.choices).map(end)).chain(usage(plan)).chain([Event {
        name: None,
        data: "[DONE]".into(),
        tokens: 0,
    }]))
}

fn chunk(plan: &Plan, index: u64, text: &str, finish: Option<&str>) -> Event {
    let mut chunk = envelope(plan);
    chunk["choices"] = json!([choice(index, text, finish)]);
    if plan.include_usage {
        chunk["usage"] = Value::Null;
    }
    Event::data(&chunk)
}

fn usage(plan: &Plan) -> Vec<Event> {
    let claim = plan.claim();
    if !plan.include_usage || claim.is_missing() {
        return Vec::new();
    }
    let block = |claim| {
        let mut chunk = envelope(plan);
        chunk["usage"] = chat::usage(claim);
        Event::data(&chunk)
    };
    claim.half().into_iter().chain([claim]).map(block).collect()
}

fn envelope(plan: &Plan) -> Value {
    json!({
        "id": format!("cmpl-mock-{}", plan.sequence), "object": "text_completion", "created": plan.created,
        "model": plan.model, "choices": [],
    })
}

fn choice(index: u64, text: &str, finish: Option<&str>) -> Value {
    json!({"text": text, "index": index, "logprobs": null, "finish_reason": finish})
}

fn finish(plan: &Plan) -> &'static str {
    if plan.full { "length" } else { "stop" }
}
