//! OpenAI's responses.

use serde_json::{Value, json};

use super::{Event, Events, chat};
use crate::plan::{Claim, Plan};

pub(super) fn answer(plan: &Plan) -> Value {
    response(plan, "completed")
}

fn response(plan: &Plan, status: &str) -> Value {
    let done = status == "completed";
    let status = if done && plan.full { "incomplete" } else { status };
    let mut response = json!({
        "id": format!("resp_mock_{}", plan.sequence), "object": "response", "created_at": plan.created, "status": status,
        "error": null, "incomplete_details": null, "model": plan.model, "parallel_tool_calls": true,
        "output": if done { json!([item(plan, "completed", &plan.text(0))]) } else { json!([]) },
        "usage": null, "metadata": {},
    });
    if done && plan.full {
        response["incomplete_details"] = json!({"reason": "max_output_tokens"});
    }
    if done && !plan.claim().is_missing() {
        response["usage"] = usage(plan.claim());
    }
    response
}

fn item(plan: &Plan, status: &str, text: &str) -> Value {
    match &plan.tool {
        Some(name) => json!({
            "id": item_id(plan), "type": "function_call", "status": status, "name": name,
            "call_id": format!("call_mock_{}", plan.sequence), "arguments": chat::arguments(text),
        }),
        None => json!({
            "id": item_id(plan), "type": "message", "status": status, "role": "assistant",
            "content": if status == "completed" { json!([part(text)]) } else { json!([]) },
        }),
    }
}

fn part(text: &str) -> Value {
    json!({"type": "output_text", "text": text, "annotations": []})
}

pub(super) fn events(plan: &Plan) -> Events {
    let inner = plan.clone();
    let middle = plan.pieces(0).map(move |(text, tokens)| delta(&inner, &text, tokens));
    let events = opening(plan).into_iter().chain(middle).chain(closing(plan));
    Box::new(events.enumerate().map(|(number, (name, mut data, tokens))| {
        data["type"] = name.into();
        data["sequence_number"] = number.into();
        Event::named(name, &data).worth(tokens)
    }))
}

type Draft = (&'static str, Value, u64);

fn opening(plan: &Plan) -> Vec<Draft> {
    let mut events = vec![
        ("response.created", json!({"response": response(plan, "in_progress")}), 0),
        ("response.in_progress", json!({"response": response(plan, "in_progress")}), 0),
    ];
    let mut item = item(plan, "in_progress", "");
    if plan.tool.is_some() {
        item["arguments"] = "".into();
    }
    events.push(("response.output_item.added", json!({"output_index": 0, "item": item}), 0));
    match plan.tool {
        Some(_) => events.push(argument(plan, "{\"text\":\"", 0)),
        None => events.push(("response.content_part.added", content(plan, json!({"part": part("")})), 0)),
    }
    events
}

fn delta(plan: &Plan, text: &str, tokens: u64) -> Draft {
    match plan.tool {
        Some(_) => argument(plan, text, tokens),
        None => ("response.output_text.delta", content(plan, json!({"delta": text, "logprobs": []})), tokens),
    }
}

fn argument(plan: &Plan, text: &str, tokens: u64) -> Draft {
    let data = json!({"item_id": item_id(plan), "output_index": 0, "delta": text});
    ("response.function_call_arguments.delta", data, tokens)
}

fn closing(plan: &Plan) -> Vec<Draft> {
    let text = plan.text(0);
    let mut events = match plan.tool {
        Some(_) => {
            let done = json!({"item_id": item_id(plan), "output_index": 0, "arguments": chat::arguments(&text)});
            vec![argument(plan, "\"}", 0), ("response.function_call_arguments.done", done, 0)]
        }
        None => vec![
            ("response.output_text.done", content(plan, json!({"text": text, "logprobs": []})), 0),
            ("response.content_part.done", content(plan, json!({"part": part(&text)})), 0),
        ],
    };
    events.push(("response.output_item.done", json!({"output_index": 0, "item": item(plan, "completed", &text)}), 0));
    let last = if plan.full { "response.incomplete" } else { "response.completed" };
    events.push((last, json!({"response": response(plan, "completed")}), 0));
    events
}

fn content(plan: &Plan, mut data: Value) -> Value {
    data["item_id"] = item_id(plan).into();
    data["output_index"] = 0.into();
    data["content_index"] = 0.into();
    data
}

fn item_id(plan: &Plan) -> String {
    format!("item_mock_{}", plan.sequence)
}

fn usage(claim: Claim) -> Value {
    json!({
        "input_tokens": claim.input(), "input_tokens_details": {"cached_tokens": claim.cached()},
        "output_tokens": claim.output(), "output_tokens_details": {"reasoning_tokens": claim.reasoning()},
        "total_tokens": claim.total(),
    })
}
