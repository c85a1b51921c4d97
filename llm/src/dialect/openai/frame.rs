//! What is written into a stream that otherwise passes as it is: the usage that its provider does not send, and its end.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::answer::{id, usage_block};
use crate::dialect::Operation;
use crate::error::ApiError;
use crate::usage::Usage;

/// What all chunks of one stream have in common.
const FRAME: [&str; 5] = ["id", "object", "created", "model", "system_fingerprint"];

/// A first event is kept up to this size; those of responses repeat instructions and tools.
const MAX_FIRST_BYTES: usize = 64 * 1024;

/// The frame of a stream's events, as its first event has it.
#[derive(Debug)]
pub(crate) struct Frame {
    operation: Operation,
    model: String,
    created: u64,
    /// Only read when something has to be written.
    first: Box<[u8]>,
}

impl Frame {
    /// For the stream of a model, until its first event says more.
    pub(crate) fn new(operation: Operation, model: &str, created: u64) -> Frame {
        Frame { operation, model: model.to_owned(), created, first: Box::default() }
    }

    /// Takes the stream's first event.
    pub(crate) fn first(&mut self, data: &[u8]) {
        if data.len() <= MAX_FIRST_BYTES {
            self.first = data.into();
        }
    }

    /// The chunk that a caller asked for, with the usage of the whole stream.
    pub(crate) fn usage_chunk(&self, usage: &Usage) -> Bytes {
        let mut chunk = self.chunk();
        chunk.insert("choices".to_owned(), json!([]));
        chunk.insert("usage".to_owned(), usage_block(usage));
        data(&chunk.into())
    }

    /// The chunk that ends a choice at its bound.
    pub(crate) fn cut_chunk(&self, index: u32) -> Bytes {
        let (key, nothing) = match self.operation {
            Operation::Completions => ("text", json!("")),
            _ => ("delta", json!({})),
        };
        let mut chunk = self.chunk();
        let choice = json!({"index": index, key: nothing, "logprobs": null, "finish_reason": "length"});
        chunk.insert("choices".to_owned(), json!([choice]));
        data(&chunk.into())
    }

    /// The event that ends a stream of responses at its bound, number `number` of it. What of the output has gone by is not
    /// repeated.
    pub(crate) fn cut_response(&self, number: u64, usage: &Usage, error: &ApiError) -> Bytes {
        let mut first: Value = serde_json::from_slice(&self.first).unwrap_or_default();
        let mut response = match first["response"].take() {
            Value::Object(response) => response,
            _ => Map::new(),
        };
        let defaults = [
            ("id", json!("resp_unknown")),
            ("object", json!("response")),
            ("created_at", self.created.into()),
            ("model", self.model.clone().into()),
            ("output", json!([])),
        ];
        for (key, value) in defaults {
            response.entry(key).or_insert(value);
        }
        let ends = [
            ("status", json!("incomplete")),
            ("incomplete_details", json!({"reason": "max_output_tokens"})),
            ("error", json!({"code": error.code, "message": error.message})),
            ("usage", response_usage(usage)),
        ];
        response.extend(ends.map(|(key, value)| (key.to_owned(), value)));
        let event = json!({"type": "response.incomplete", "sequence_number": number, "response": response});
        [b"event: response.incomplete\n", &data(&event)[..]].concat().into()
    }

    fn chunk(&self) -> Map<String, Value> {
        let (kind, object) = match self.operation {
            Operation::Completions => ("cmpl", "text_completion"),
            _ => ("chatcmpl", "chat.completion.chunk"),
        };
        let defaults = [
            ("id", Value::from(id(kind, &Value::Null))),
            ("object", object.into()),
            ("created", self.created.into()),
            ("model", self.model.clone().into()),
        ];
        let mut frame: Map<String, Value> = defaults.map(|(key, value)| (key.to_owned(), value)).into_iter().collect();
        if let Ok(Value::Object(mut first)) = serde_json::from_slice(&self.first) {
            let said = FRAME.iter().filter_map(|key| Some(((*key).to_owned(), first.remove(*key)?)));
            frame.extend(said.filter(|(_, value)| !value.is_null()));
        }
        frame
    }
}

fn response_usage(usage: &Usage) -> Value {
    json!({
        "input_tokens": usage.input,
        "input_tokens_details": {"cached_tokens": usage.cached_input},
        "output_tokens": usage.output,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.input.saturating_add(usage.output),
    })
}

fn data(json: &Value) -> Bytes {
    format!("data: {json}\n\n").into()
}
