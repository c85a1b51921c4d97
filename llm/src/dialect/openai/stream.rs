//! Anthropic's events → chat completion chunks.

use serde_json::{Map, Value, json};

use super::answer::{finish_reason, id, usage_block};
use crate::dialect::Dialect;
use crate::error::{ApiError, code};
use crate::provider_error::message_of;
use crate::relay::StreamError;
use crate::usage::{Tally, Usage};

/// A chat completion stream in the making.
#[derive(Debug)]
pub(crate) struct ChatStream {
    chunks: Chunks,
    /// How many tool calls have begun.
    calls: u64,
    /// The open call has been given no arguments yet.
    bare_call: bool,
}

impl ChatStream {
    pub(crate) fn new(model: &str, created: u64, usage: bool) -> ChatStream {
        ChatStream {
            chunks: Chunks::new("chatcmpl", "chat.completion.chunk", model, created, usage),
            calls: 0,
            bare_call: false,
        }
    }

    pub(crate) fn event(&mut self, data: &[u8], tally: &Tally) -> Result<Vec<u8>, StreamError> {
        let event = parse(data)?;
        match event["type"].as_str() {
            Some("message_start") => {
                self.chunks.start(&event["message"]);
                self.delta(json!({"role": "assistant", "content": ""}));
            }
            Some("content_block_start") => self.begin(&event["content_block"]),
            Some("content_block_delta") => self.grow(&event["delta"]),
            Some("content_block_stop") => self.close(),
            Some("message_delta") => {
                if let Some(reason) = event["delta"]["stop_reason"].as_str() {
                    self.chunks.choice("delta", json!({}), Some(finish_reason(Some(reason))));
                }
            }
            Some("message_stop") => self.chunks.end(&tally.usage()),
            Some("error") => self.chunks.error(&event),
            Some("ping") => self.chunks.comment(),
            _ => {}
        }
        Ok(self.chunks.take())
    }

    /// Ends the answer at its bound, without a last word.
    pub(crate) fn cut(&mut self, usage: &Usage) -> Vec<u8> {
        self.chunks.cut("delta", json!({}), usage);
        self.chunks.take()
    }

    fn begin(&mut self, block: &Value) {
        match block["type"].as_str() {
            Some("text") => self.text("content", &block["text"]),
            Some("thinking") => self.text("reasoning_content", &block["thinking"]),
            Some("tool_use") => {
                self.calls += 1;
                let given = block["input"].as_object().filter(|input| !input.is_empty());
                let arguments = given.map_or(String::new(), |_| block["input"].to_string());
                self.bare_call = given.is_none();
                self.delta_of_call(json!({
                    "index": self.calls - 1,
                    "id": block["id"],
                    "type": "function",
                    "function": {"name": block["name"], "arguments": arguments},
                }));
            }
            _ => {}
        }
    }

    fn grow(&mut self, delta: &Value) {
        match delta["type"].as_str() {
            Some("text_delta") => self.text("content", &delta["text"]),
            Some("thinking_delta") => self.text("reasoning_content", &delta["thinking"]),
            Some("input_json_delta") if self.calls > 0 => {
                if let Some(json) = delta["partial_json"].as_str().filter(|json| !json.is_empty()) {
                    self.bare_call = false;
                    self.delta_of_call(json!({"index": self.calls - 1, "function": {"arguments": json}}));
                }
            }
            _ => {}
        }
    }

    fn text(&mut self, key: &str, text: &Value) {
        if text.as_str().is_some_and(|text| !text.is_empty()) {
            let mut delta = Map::new();
            delta.insert(key.to_owned(), text.clone());
            self.delta(delta.into());
        }
    }

    /// A call without arguments has none to send; callers parse what has come, which must be an object.
    fn close(&mut self) {
        if std::mem::take(&mut self.bare_call) {
            self.delta_of_call(json!({"index": self.calls - 1, "function": {"arguments": "{}"}}));
        }
    }

    fn delta_of_call(&mut self, call: Value) {
        self.delta(json!({"tool_calls": [call]}));
    }

    fn delta(&mut self, delta: Value) {
        self.chunks.choice("delta", delta, None);
    }
}

pub(super) fn parse(data: &[u8]) -> Result<Value, StreamError> {
    serde_json::from_slice(data).map_err(|error| StreamError::Garbage(error.to_string()))
}

/// The frame around the chunks of a stream, and those written but not sent yet.
#[derive(Debug)]
pub(super) struct Chunks {
    /// What ids begin with.
    kind: &'static str,
    object: &'static str,
    id: String,
    model: String,
    created: u64,
    usage: bool,
    /// Why the answer ended has been told.
    finished: bool,
    out: Vec<u8>,
}

impl Chunks {
    pub(super) fn new(kind: &'static str, object: &'static str, model: &str, created: u64, usage: bool) -> Chunks {
        let (id, model) = (id(kind, &Value::Null), model.to_owned());
        Chunks { kind, object, id, model, created, usage, finished: false, out: Vec::new() }
    }

    /// Takes the id and model of the message that begins.
    pub(super) fn start(&mut self, message: &Value) {
        self.id = id(self.kind, &message["id"]);
        if let Some(model) = message["model"].as_str() {
            model.clone_into(&mut self.model);
        }
    }

    /// A chunk with one choice, whose content stands under `key`.
    pub(super) fn choice(&mut self, key: &str, content: Value, finish: Option<&str>) {
        let mut choice = json!({"index": 0});
        choice[key] = content;
        choice["logprobs"] = Value::Null;
        choice["finish_reason"] = finish.into();
        self.finished |= finish.is_some();
        let mut chunk = self.chunk(json!([choice]));
        if self.usage {
            chunk["usage"] = Value::Null;
        }
        self.write(&chunk);
    }

    /// The usage chunk, if it was asked for, and the end.
    pub(super) fn end(&mut self, usage: &Usage) {
        self.tell(usage);
        self.out.extend_from_slice(b"data: [DONE]\n\n");
    }

    /// The chunk that ends the answer at its bound, with nothing under `key`, and the usage, if it was asked for.
    pub(super) fn cut(&mut self, key: &str, nothing: Value, usage: &Usage) {
        if !self.finished {
            self.choice(key, nothing, Some("length"));
        }
        self.tell(usage);
    }

    fn tell(&mut self, usage: &Usage) {
        if self.usage {
            let mut chunk = self.chunk(json!([]));
            chunk["usage"] = usage_block(usage);
            self.write(&chunk);
        }
    }

    pub(super) fn error(&mut self, event: &Value) {
        let message = message_of(event).unwrap_or_else(|| "the provider failed".to_owned());
        let error = ApiError::new(502, code::UPSTREAM_ERROR, message);
        self.out.extend_from_slice(&error.event(Dialect::OpenAi));
    }

    /// Something to keep the connection from looking idle.
    pub(super) fn comment(&mut self) {
        self.out.extend_from_slice(b": keep-alive\n\n");
    }

    pub(super) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    fn chunk(&self, choices: Value) -> Value {
        json!({
            "id": self.id,
            "object": self.object,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        })
    }

    fn write(&mut self, chunk: &Value) {
        self.out.extend_from_slice(b"data: ");
        self.out.extend_from_slice(chunk.to_string().as_bytes());
        self.out.extend_from_slice(b"\n\n");
    }
}
