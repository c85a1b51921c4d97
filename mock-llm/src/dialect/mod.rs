//! The words of each API: one module for each shape of answer.

mod anthropic;
mod chat;
mod completions;
mod embeddings;
mod gemini;
mod responses;

use serde_json::{Value, json};

use crate::{
    call::{Call, Operation},
    options::Options,
    plan::Plan,
};

/// One event of a stream.
#[derive(Debug)]
pub(crate) struct Event {
    /// The `event:` line, where the dialect has one.
    name: Option<&'static str>,
    data: String,
    /// Output tokens that the client holds once this event is written.
    pub(crate) tokens: u64,
}

impl Event {
    fn data(data: &Value) -> Event {
        Event { name: None, data: data.to_string(), tokens: 0 }
    }

    fn named(name: &'static str, data: &Value) -> Event {
        Event { name: Some(name), data: data.to_string(), tokens: 0 }
    }

    fn worth(self, tokens: u64) -> Event {
        Event { tokens, ..self }
    }

    /// As server-sent events are written.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let name = self.name.map(|name| format!("event: {name}\n")).unwrap_or_default();
        format!("{name}data: {}\n\n", self.data).into_bytes()
    }
}

/// A stream is made while it is sent, so that a long one costs no memory.
pub(crate) type Events = Box<dyn Iterator<Item = Event> + Send>;

/// The whole answer as one JSON value.
pub(crate) fn answer(operation: Operation, plan: &Plan) -> Value {
    match operation {
        Operation::Chat => chat::answer(plan),
        Operation::Completions => completions::answer(plan),
        Operation::Embeddings => embeddings::answer(plan),
        Operation::Responses => responses::answer(plan),
        Operation::Messages => anthropic::answer(plan),
        Operation::MessagesCount => json!({"input_tokens": plan.input}),
        Operation::Gemini { .. } => gemini::answer(plan),
        Operation::GeminiCount => json!({"totalTokens": plan.input}),
        Operation::Models => json!({}),
    }
}

/// The answer as a stream; `None` where the endpoint has none.
pub(crate) fn events(operation: Operation, plan: &Plan) -> Option<Events> {
    match operation {
        Operation::Chat => Some(chat::events(plan)),
        Operation::Completions => Some(completions::events(plan)),
        Operation::Responses => Some(responses::events(plan)),
        Operation::Messages => Some(anthropic::events(plan)),
        Operation::Gemini { .. } => Some(gemini::events(plan)),
        _ => None,
    }
}

/// An error in the words of the API that was called.
pub(crate) fn error(operation: Option<Operation>, status: u16, message: &str) -> Value {
    match operation {
        Some(Operation::Messages | Operation::MessagesCount) => anthropic::error(status, message),
        Some(Operation::Gemini { .. } | Operation::GeminiCount) => gemini::error(status, message),
        _ => chat::error(status, message),
    }
}

/// The list of models, in the words of the API that the headers speak of.
pub(crate) fn models(options: &Options, anthropic: bool) -> Value {
    let one = |name: &String| {
        if anthropic {
            json!({"type": "model", "id": name, "display_name": name, "created_at": "2026-01-01T00:00:00Z"})
        } else {
            json!({"id": name, "object": "model", "created": 1_767_225_600, "owned_by": "mock"})
        }
    };
    let data: Vec<Value> = options.models.iter().map(one).collect();
    if anthropic {
        json!({"data": data, "has_more": false, "first_id": options.models.first(), "last_id": options.models.last()})
    } else {
        json!({"object": "list", "data": data})
    }
}

/// Whether `call` is one that a stream can answer.
pub(crate) fn streams(call: &Call) -> bool {
    call.stream && call.operation != Operation::Embeddings && call.operation.generates()
}
