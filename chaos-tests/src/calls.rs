//! Calls as the SDKs of the two dialects make them.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use serde_json::{Value, json};

use crate::{
    accounts::Accounts,
    client::{self, Event},
};

/// What every call says unless a test says otherwise: four words.
const PROMPT: &str = "say what this is";

/// Which API a call speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `/v1/chat/completions`.
    OpenAi,
    /// `/v1/messages`.
    Anthropic,
}

/// One call, ready to be sent to any node.
#[derive(Clone, Debug)]
pub struct Call {
    dialect: Dialect,
    key: String,
    headers: Vec<(String, String)>,
    accounts: Option<Arc<Accounts>>,
    /// The JSON that is sent.
    pub body: Value,
}

impl Call {
    /// An OpenAI chat completion.
    pub fn chat(key: &str, model: &str) -> Call {
        let body = json!({"model": model, "max_tokens": 16, "messages": [{"role": "user", "content": PROMPT}]});
        Call { dialect: Dialect::OpenAi, key: key.into(), headers: Vec::new(), accounts: None, body }
    }

    /// An Anthropic message.
    pub fn messages(key: &str, model: &str) -> Call {
        Call { dialect: Dialect::Anthropic, ..Call::chat(key, model) }
    }

    /// The same as a stream, with usage where that has to be asked for.
    pub fn stream(mut self) -> Call {
        self.body["stream"] = true.into();
        if self.dialect == Dialect::OpenAi {
            self.body["stream_options"] = json!({"include_usage": true});
        }
        self
    }

    /// The same with another bound of the answer.
    pub fn max_tokens(mut self, tokens: u64) -> Call {
        self.body["max_tokens"] = tokens.into();
        self
    }

    /// The same with one more header; `x-mock-*` reach the provider.
    pub fn header(mut self, name: &str, value: &str) -> Call {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// The same, made by all who load the cluster on whichever of these accounts is not used up.
    pub fn on(mut self, accounts: &Arc<Accounts>) -> Call {
        self.accounts = Some(Arc::clone(accounts));
        self
    }

    /// The accounts that it goes through.
    pub(crate) fn accounts(&self) -> Option<&Accounts> {
        self.accounts.as_deref()
    }

    /// Which API it speaks.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// Whether it wants a stream.
    pub fn is_stream(&self) -> bool {
        self.body["stream"] == true
    }

    /// The request to a node's data plane, `http://host:port`.
    pub fn request(&self, origin: &str) -> Request<Full<Bytes>> {
        let bearer = format!("Bearer {}", self.key);
        let (path, credential) = match self.dialect {
            Dialect::OpenAi => ("/v1/chat/completions", ("authorization", bearer.as_str())),
            Dialect::Anthropic => ("/v1/messages", ("x-api-key", self.key.as_str())),
        };
        let mut headers = vec![credential];
        if self.dialect == Dialect::Anthropic {
            headers.push(("anthropic-version", "2023-06-01"));
        }
        headers.extend(self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        client::request(Method::POST, &format!("{origin}{path}"), &headers, self.body.to_string().into())
    }
}

/// The text of a whole answer.
pub fn text(dialect: Dialect, answer: &Value) -> String {
    let found = match dialect {
        Dialect::OpenAi => &answer["choices"][0]["message"]["content"],
        Dialect::Anthropic => &answer["content"][0]["text"],
    };
    found.as_str().unwrap_or_default().to_owned()
}

/// Input and output tokens of a whole answer.
pub fn usage(dialect: Dialect, answer: &Value) -> (u64, u64) {
    let names = match dialect {
        Dialect::OpenAi => ["prompt_tokens", "completion_tokens"],
        Dialect::Anthropic => ["input_tokens", "output_tokens"],
    };
    let figure = |name: &str| answer["usage"][name].as_u64().unwrap_or_default();
    (figure(names[0]), figure(names[1]))
}

/// The text of a stream.
pub fn streamed_text(dialect: Dialect, events: &[Event]) -> String {
    let piece = |event: &Event| {
        let data = event.json();
        let found = match dialect {
            Dialect::OpenAi => &data["choices"][0]["delta"]["content"],
            Dialect::Anthropic => &data["delta"]["text"],
        };
        found.as_str().unwrap_or_default().to_owned()
    };
    events.iter().map(piece).collect()
}

/// Whether a stream says itself that it is complete.
pub fn is_complete(dialect: Dialect, events: &[Event]) -> bool {
    events.last().is_some_and(|last| match dialect {
        Dialect::OpenAi => last.data == "[DONE]",
        Dialect::Anthropic => last.json()["type"] == "message_stop",
    })
}

/// The error event of a stream that failed in the middle, if there is one.
pub fn error_of(events: &[Event]) -> Option<Value> {
    events.iter().map(Event::json).find(|data| !data["error"].is_null())
}
