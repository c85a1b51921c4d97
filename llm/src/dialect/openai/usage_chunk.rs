//! The usage chunk that a caller of a stream asked for and its provider does not send.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::answer::{id, usage_block};
use crate::usage::Usage;

/// What all chunks of one stream have in common.
const FRAME: [&str; 5] = ["id", "object", "created", "model", "system_fingerprint"];

/// Waits for the end of a stream, should its usage chunk be missing.
#[derive(Debug)]
pub(crate) struct UsageChunk {
    frame: Map<String, Value>,
    is_seen: bool,
}

impl UsageChunk {
    /// For a stream whose ids begin with `kind` and whose chunks are called `object`, until the first of them says more.
    pub(crate) fn new(kind: &str, object: &str, model: &str, created: u64) -> UsageChunk {
        let frame = [
            ("id", Value::from(id(kind, &Value::Null))),
            ("object", object.into()),
            ("created", created.into()),
            ("model", model.into()),
        ];
        UsageChunk { frame: frame.map(|(key, value)| (key.to_owned(), value)).into_iter().collect(), is_seen: false }
    }

    /// Takes the frame of the stream's first chunk.
    pub(crate) fn seen(&mut self, data: &[u8]) {
        if std::mem::replace(&mut self.is_seen, true) {
            return;
        }
        let Ok(Value::Object(mut chunk)) = serde_json::from_slice(data) else { return };
        for key in FRAME {
            if let Some(value) = chunk.remove(key).filter(|value| !value.is_null()) {
                self.frame.insert(key.to_owned(), value);
            }
        }
    }

    /// The event.
    pub(crate) fn event(&self, usage: &Usage) -> Bytes {
        let mut chunk = self.frame.clone();
        chunk.insert("choices".to_owned(), json!([]));
        chunk.insert("usage".to_owned(), usage_block(usage));
        format!("data: {}\n\n", Value::Object(chunk)).into()
    }
}
