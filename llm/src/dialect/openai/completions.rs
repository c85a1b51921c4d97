//! `/v1/completions` at an Anthropic provider: the prompt is the user's one message, the answer's text the completion.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::answer::{finish_reason, id, joined, usage_block};
use super::request::{parse, sampling};
use super::stream::{self, Chunks};
use crate::dialect::object::Object;
use crate::error::RequestError;
use crate::relay::StreamError;
use crate::usage::{Tally, Usage};

/// The request.
pub(crate) fn translate(body: &Bytes, model: &str, max_tokens: Option<u64>) -> Result<Bytes, RequestError> {
    let mut from = parse(body)?;
    let mut to = Map::new();
    to.insert("model".into(), model.into());
    let max_tokens = max_tokens.ok_or_else(|| from.refuse("max_tokens", "is missing: this model needs a bound"))?;
    to.insert("max_tokens".into(), max_tokens.into());
    to.insert("messages".into(), json!([{"role": "user", "content": prompt(&mut from)?}]));
    sampling(&mut from, &mut to)?;
    if let Some(user) = from.string("user")? {
        to.insert("metadata".into(), json!({"user_id": user}));
    }
    if from.bool("stream")? == Some(true) {
        to.insert("stream".into(), true.into());
    }
    from.ignore(&["model", "max_tokens", "stream_options"]);
    from.only("n", &[json!(1)])?;
    from.only("best_of", &[json!(1)])?;
    from.only("echo", &[json!(false)])?;
    from.only("suffix", &[json!("")])?;
    from.only("presence_penalty", &[json!(0)])?;
    from.only("frequency_penalty", &[json!(0)])?;
    from.only("logit_bias", &[json!({})])?;
    from.done()?;
    Ok(Value::Object(to).to_string().into())
}

/// The one prompt, as text.
fn prompt(from: &mut Object) -> Result<String, RequestError> {
    let refused = from.refuse("prompt", "must be one text for the provider that serves this request");
    match from.take("prompt") {
        Some(Value::String(prompt)) => Ok(prompt),
        Some(Value::Array(mut prompts)) if prompts.len() == 1 => match prompts.pop() {
            Some(Value::String(prompt)) => Ok(prompt),
            _ => Err(refused),
        },
        _ => Err(refused),
    }
}

/// The whole answer.
pub(crate) fn answer(message: &Value, usage: &Usage, created: u64) -> Value {
    let blocks = message["content"].as_array().map(Vec::as_slice).unwrap_or_default();
    let text = joined(blocks, "text", "text").unwrap_or_default();
    let finish = finish_reason(message["stop_reason"].as_str());
    json!({
        "id": id("cmpl", &message["id"]),
        "object": "text_completion",
        "created": created,
        "model": message["model"],
        "choices": [{"index": 0, "text": text, "logprobs": null, "finish_reason": finish}],
        "usage": usage_block(usage),
    })
}

/// A stream of text completions in the making.
#[derive(Debug)]
pub(crate) struct TextStream(Chunks);

impl TextStream {
    pub(crate) fn new(model: &str, created: u64, usage: bool) -> TextStream {
        TextStream(Chunks::new("cmpl", "text_completion", model, created, usage))
    }

    pub(crate) fn event(&mut self, data: &[u8], tally: &Tally) -> Result<Vec<u8>, StreamError> {
        let event = stream::parse(data)?;
        match event["type"].as_str() {
            Some("message_start") => self.0.start(&event["message"]),
            Some("content_block_start") => self.text(&event["content_block"]),
            Some("content_block_delta") => self.text(&event["delta"]),
            Some("message_delta") => {
                if let Some(reason) = event["delta"]["stop_reason"].as_str() {
                    self.0.choice("text", json!(""), Some(finish_reason(Some(reason))));
                }
            }
            Some("message_stop") => self.0.end(&tally.usage()),
            Some("error") => self.0.error(&event),
            Some("ping") => self.0.comment(),
            _ => {}
        }
        Ok(self.0.take())
    }

    /// Ends the completion at its bound, without a last word.
    pub(crate) fn cut(&mut self, usage: &Usage) -> Vec<u8> {
        self.0.cut("text", json!(""), usage);
        self.0.take()
    }

    /// The text of a block that begins or grows; only text blocks and their deltas have one.
    fn text(&mut self, of: &Value) {
        if of["text"].as_str().is_some_and(|text| !text.is_empty()) {
            self.0.choice("text", of["text"].clone(), None);
        }
    }
}
