//! Chat completion chunks → Anthropic's events.

use serde_json::{Value, json};

use super::answer::{filled, id, stop_reason, thoughts, usage_block};
use crate::dialect::Dialect;
use crate::error::{ApiError, code};
use crate::provider_error::message_of;
use crate::relay::StreamError;
use crate::usage::{Tally, Usage};

/// A message stream in the making. One block is open at a time; the stop reason is kept until the end, because the
/// usage that goes with it comes later.
#[derive(Debug)]
pub(crate) struct MessageStream {
    model: String,
    started: bool,
    /// The number of the next block.
    next: u64,
    open: Option<Block>,
    last_call: Option<u64>,
    stop: Option<&'static str>,
    refused: bool,
    out: Vec<u8>,
}

/// What the open block holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Block {
    Text,
    Thinking,
    /// The provider's number of the call.
    Call(u64),
}

impl MessageStream {
    pub(crate) fn new(model: &str) -> MessageStream {
        MessageStream {
            model: model.to_owned(),
            started: false,
            next: 0,
            open: None,
            last_call: None,
            stop: None,
            refused: false,
            out: Vec::new(),
        }
    }

    pub(crate) fn event(&mut self, data: &[u8], tally: &Tally) -> Result<Vec<u8>, StreamError> {
        if data.trim_ascii() == b"[DONE]" {
            self.end(&tally.usage());
            return Ok(std::mem::take(&mut self.out));
        }
        let chunk: Value = serde_json::from_slice(data).map_err(|error| StreamError::Garbage(error.to_string()))?;
        if !chunk["error"].is_null() {
            let message = message_of(&chunk).unwrap_or_else(|| "the provider failed".to_owned());
            let error = ApiError::new(502, code::UPSTREAM_ERROR, message);
            self.out.extend_from_slice(&error.event(Dialect::Anthropic));
            return Ok(std::mem::take(&mut self.out));
        }
        self.start(&chunk);
        let choice = &chunk["choices"][0];
        self.delta(&choice["delta"])?;
        if let Some(reason) = choice["finish_reason"].as_str() {
            self.stop = Some(stop_reason(Some(reason)));
        }
        Ok(std::mem::take(&mut self.out))
    }

    fn start(&mut self, chunk: &Value) {
        if std::mem::replace(&mut self.started, true) {
            return;
        }
        let model = chunk["model"].as_str().unwrap_or(&self.model);
        let message = json!({
            "id": id(&chunk["id"]),
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [],
            "stop_reason": null,
            "stop_sequence": null,
            "usage": {"input_tokens": 0, "output_tokens": 0},
        });
        self.write("message_start", json!({"message": message}));
    }

    fn delta(&mut self, delta: &Value) -> Result<(), StreamError> {
        if let Some(thoughts) = thoughts(delta) {
            self.grow(Block::Thinking, json!({"type": "thinking_delta", "thinking": thoughts}));
        }
        if let Some(text) = filled(&delta["content"]) {
            self.grow(Block::Text, json!({"type": "text_delta", "text": text}));
        }
        if let Some(refusal) = filled(&delta["refusal"]) {
            self.refused = true;
            self.grow(Block::Text, json!({"type": "text_delta", "text": refusal}));
        }
        for (n, call) in delta["tool_calls"].as_array().into_iter().flatten().enumerate() {
            self.call(call["index"].as_u64().unwrap_or(n as u64), call)?;
        }
        Ok(())
    }

    /// A piece of a tool call. Calls come one after the other; a piece of one that is over has no place any more.
    fn call(&mut self, number: u64, call: &Value) -> Result<(), StreamError> {
        let function = &call["function"];
        if self.open != Some(Block::Call(number)) {
            if self.last_call.is_some_and(|last| number <= last) {
                return Err(StreamError::Garbage(format!("tool call {number} goes on after its end")));
            }
            self.last_call = Some(number);
            let block = json!({"type": "tool_use", "id": call["id"], "name": function["name"], "input": {}});
            self.begin(Block::Call(number), block);
        }
        if let Some(arguments) = filled(&function["arguments"]) {
            self.grow(Block::Call(number), json!({"type": "input_json_delta", "partial_json": arguments}));
        }
        Ok(())
    }

    /// Adds to a block, which begins now unless it is open.
    fn grow(&mut self, block: Block, delta: Value) {
        if self.open != Some(block) {
            let empty = match block {
                Block::Thinking => json!({"type": "thinking", "thinking": "", "signature": ""}),
                _ => json!({"type": "text", "text": ""}),
            };
            self.begin(block, empty);
        }
        self.write("content_block_delta", json!({"index": self.next - 1, "delta": delta}));
    }

    fn begin(&mut self, block: Block, content: Value) {
        self.close();
        self.open = Some(block);
        self.write("content_block_start", json!({"index": self.next, "content_block": content}));
        self.next += 1;
    }

    fn close(&mut self) {
        if self.open.take().is_some() {
            self.write("content_block_stop", json!({"index": self.next - 1}));
        }
    }

    fn end(&mut self, usage: &Usage) {
        let stop = match self.stop.unwrap_or("end_turn") {
            _ if self.refused => "refusal",
            "end_turn" if self.last_call.is_some() => "tool_use",
            stop => stop,
        };
        self.stop(stop, usage);
    }

    /// Ends the message at its bound.
    pub(crate) fn cut(&mut self, usage: &Usage) -> Vec<u8> {
        self.stop("max_tokens", usage);
        std::mem::take(&mut self.out)
    }

    fn stop(&mut self, reason: &str, usage: &Usage) {
        self.start(&Value::Null);
        self.close();
        let delta = json!({"stop_reason": reason, "stop_sequence": null});
        self.write("message_delta", json!({"delta": delta, "usage": usage_block(usage)}));
        self.write("message_stop", json!({}));
    }

    fn write(&mut self, name: &str, fields: Value) {
        self.out.extend(event(name, fields));
    }
}

/// One event of a message's stream.
pub(crate) fn event(name: &str, fields: Value) -> Vec<u8> {
    let mut event = json!({"type": name});
    if let (Value::Object(event), Value::Object(fields)) = (&mut event, fields) {
        event.extend(fields);
    }
    format!("event: {name}\ndata: {event}\n\n").into_bytes()
}
