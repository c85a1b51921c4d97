//! The dialects that callers and providers speak, and the operations each of them has.
//!
//! Translations stand with the caller's dialect: in `openai/`, `request.rs` takes what a caller sends to an Anthropic
//! provider, `answer.rs` and `stream.rs` bring back what that provider says; in `anthropic/` the same with OpenAI
//! providers. Each is written for its pair, so that nothing is squeezed through a common form that neither has.

pub(crate) mod anthropic;
mod object;
pub(crate) mod openai;

use crate::relay::StreamError;
use crate::request::AiRequest;
use crate::usage::{Tally, Usage};

/// A wire format of requests, answers, streams and errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// `/v1/chat/completions` and its siblings.
    OpenAi,
    /// `/v1/messages` and its siblings.
    Anthropic,
}

impl Dialect {
    /// The name used in resources and labels: `openai`, `anthropic`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Dialect::OpenAi => "openai",
            Dialect::Anthropic => "anthropic",
        }
    }
}

/// What a caller wants of an AI route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// `POST /v1/chat/completions` (OpenAI).
    ChatCompletions,
    /// `POST /v1/completions` (OpenAI).
    Completions,
    /// `POST /v1/embeddings` (OpenAI).
    Embeddings,
    /// `POST /v1/responses` (OpenAI), only for providers that speak it.
    Responses,
    /// `POST /v1/messages` (Anthropic).
    Messages,
    /// `POST /v1/messages/count_tokens` (Anthropic), only for providers that speak it; it uses no tokens.
    CountTokens,
    /// `GET /v1/models`; answered by the gateway itself with [`models_answer`](crate::models_answer).
    Models,
    /// `GET /v1/models/{id}`; answered by the gateway itself with [`model_answer`](crate::model_answer).
    Model,
    /// Image endpoints: recognised, answered with 501.
    Image,
    /// Audio endpoints: recognised, answered with 501.
    Audio,
}

/// Of both APIs: what begins with these is about something other than one model's answer.
const UNSERVED: [&str; 18] = [
    "assistants",
    "audio",
    "batches",
    "containers",
    "conversations",
    "evals",
    "files",
    "fine_tuning",
    "images",
    "moderations",
    "organization",
    "realtime",
    "skills",
    "threads",
    "uploads",
    "vector_stores",
    "videos",
    "webhooks",
];
/// What is stored of answers, below the endpoints that are served.
const UNSERVED_BELOW: [&str; 4] = ["/chat/completions/", "/completions/", "/messages/", "/responses/"];

impl Operation {
    /// The operation that `method` and `path` name, if they name one. The version path may follow a route's own
    /// prefix (`/team/v1/chat/completions`) or be missing (`/chat/completions`).
    #[must_use]
    pub fn from_path(method: &str, path: &str) -> Option<Operation> {
        let tail = api_tail(path);
        let operation = match tail {
            "/chat/completions" => Operation::ChatCompletions,
            "/completions" => Operation::Completions,
            "/embeddings" => Operation::Embeddings,
            "/responses" => Operation::Responses,
            "/messages" => Operation::Messages,
            "/messages/count_tokens" => Operation::CountTokens,
            "/models" => Operation::Models,
            _ if tail.starts_with("/models/") => Operation::Model,
            "/images/generations" | "/images/edits" | "/images/variations" => Operation::Image,
            "/audio/speech" | "/audio/transcriptions" | "/audio/translations" => Operation::Audio,
            _ => return None,
        };
        (method == operation.method()).then_some(operation)
    }

    /// The model that `GET /v1/models/{id}` asks for, as written in the path (still percent-encoded).
    #[must_use]
    pub fn model_in_path(path: &str) -> Option<&str> {
        api_tail(path).strip_prefix("/models/").filter(|id| !id.is_empty())
    }

    /// Whether the path is one of an endpoint that OpenAI's or Anthropic's API has, and that is not served.
    #[must_use]
    pub fn is_unserved_endpoint(path: &str) -> bool {
        let tail = api_tail(path);
        let first = tail.trim_start_matches('/').split('/').next().unwrap_or_default();
        UNSERVED.contains(&first) || UNSERVED_BELOW.iter().any(|path| tail.starts_with(path))
    }

    /// The only method the operation has.
    #[must_use]
    pub fn method(self) -> &'static str {
        match self {
            Operation::Models | Operation::Model => "GET",
            _ => "POST",
        }
    }

    /// The dialect in which the caller asked, and wants its answer and errors. `/v1/models` exists in both: OpenAI
    /// here; a caller that sends `anthropic-version` should be answered in [`Dialect::Anthropic`].
    #[must_use]
    pub fn dialect(self) -> Dialect {
        match self {
            Operation::Messages | Operation::CountTokens => Dialect::Anthropic,
            _ => Dialect::OpenAi,
        }
    }

    /// The operation's path below a provider's base URL (which ends with the version), in its own dialect.
    #[must_use]
    pub fn provider_path(self) -> &'static str {
        match self {
            Operation::ChatCompletions => "/chat/completions",
            Operation::Completions => "/completions",
            Operation::Embeddings => "/embeddings",
            Operation::Responses => "/responses",
            Operation::Messages => "/messages",
            Operation::CountTokens => "/messages/count_tokens",
            Operation::Models | Operation::Model => "/models",
            Operation::Image => "/images/generations",
            Operation::Audio => "/audio/speech",
        }
    }

    /// Whether a provider of that dialect can serve the operation at all.
    #[must_use]
    pub fn served_by(self, dialect: Dialect) -> bool {
        match self {
            Operation::ChatCompletions | Operation::Completions | Operation::Messages => true,
            Operation::Embeddings | Operation::Responses => dialect == Dialect::OpenAi,
            Operation::CountTokens => dialect == Dialect::Anthropic,
            Operation::Models | Operation::Model => true,
            Operation::Image | Operation::Audio => false,
        }
    }

    /// Whether the operation takes a JSON body that [`AiRequest::parse`](crate::AiRequest::parse) reads.
    #[must_use]
    pub fn has_body(self) -> bool {
        !matches!(self, Operation::Models | Operation::Model | Operation::Image | Operation::Audio)
    }

    /// The GenAI semantic conventions' `gen_ai.operation.name`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Operation::ChatCompletions | Operation::Messages | Operation::Responses => "chat",
            Operation::Completions => "text_completion",
            Operation::Embeddings => "embeddings",
            Operation::CountTokens => "count_tokens",
            Operation::Models | Operation::Model => "models",
            Operation::Image => "image",
            Operation::Audio => "audio",
        }
    }
}

/// Turns a provider's events into the caller's, one by one.
#[derive(Debug)]
pub(crate) enum Translator {
    /// Anthropic's events for a caller of chat completions.
    Chat(openai::stream::ChatStream),
    /// Anthropic's events for a caller of completions.
    Text(openai::completions::TextStream),
    /// OpenAI's chunks for a caller of messages.
    Messages(anthropic::stream::MessageStream),
}

impl Translator {
    pub(crate) fn new(request: &AiRequest, served_model: &str, created: u64) -> Translator {
        let usage = request.client_wants_usage();
        match request.operation() {
            Operation::Messages => Translator::Messages(anthropic::stream::MessageStream::new(served_model)),
            Operation::Completions => {
                Translator::Text(openai::completions::TextStream::new(served_model, created, usage))
            }
            _ => Translator::Chat(openai::stream::ChatStream::new(served_model, created, usage)),
        }
    }

    /// One event's data, as the caller's events; `tally` has read it already.
    pub(crate) fn event(&mut self, data: &[u8], tally: &Tally) -> Result<Vec<u8>, StreamError> {
        match self {
            Translator::Chat(stream) => stream.event(data, tally),
            Translator::Text(stream) => stream.event(data, tally),
            Translator::Messages(stream) => stream.event(data, tally),
        }
    }

    /// The caller's events that end the answer at its bound, so much as its dialect has words for.
    pub(crate) fn cut(&mut self, usage: &Usage) -> Vec<u8> {
        match self {
            Translator::Chat(stream) => stream.cut(usage),
            Translator::Text(stream) => stream.cut(usage),
            Translator::Messages(stream) => stream.cut(usage),
        }
    }
}

/// Whether this is the path of OpenAI's realtime API, whose requests ask for a WebSocket.
#[must_use]
pub fn is_realtime(path: &str) -> bool {
    api_tail(path) == "/realtime"
}

/// What follows the version in a path.
fn api_tail(path: &str) -> &str {
    let tail = path.as_bytes().windows(4).position(|it| it == b"/v1/").map_or(path, |at| &path[at + 3..]);
    tail.strip_suffix('/').unwrap_or(tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_operations_with_and_without_a_prefix() {
        let cases = [
            ("POST", "/v1/chat/completions", Some(Operation::ChatCompletions)),
            ("POST", "/team/v1/messages", Some(Operation::Messages)),
            ("POST", "/messages/count_tokens", Some(Operation::CountTokens)),
            ("GET", "/v1/models", Some(Operation::Models)),
            ("GET", "/v1/models/gpt-4o", Some(Operation::Model)),
            ("POST", "/v1/models", None),
            ("GET", "/v1/chat/completions", None),
            ("POST", "/v1/audio/speech", Some(Operation::Audio)),
            ("POST", "/v1/chat/completionsx", None),
            ("POST", "/", None),
        ];
        for (method, path, expected) in cases {
            assert_eq!(Operation::from_path(method, path), expected, "{method} {path}");
        }
    }

    #[test]
    fn endpoints_that_exist_elsewhere_are_told_from_those_that_do_not() {
        for path in
            ["/v1/moderations", "/v1/files/f-1", "/team/v1/batches", "/v1/responses/r-1", "/v1/messages/batches"]
        {
            assert!(Operation::is_unserved_endpoint(path), "{path}");
        }
        for path in ["/v1/chat/completions", "/v1/unknown", "/v1/modelsx", "/", "/v1/moderationsx"] {
            assert!(!Operation::is_unserved_endpoint(path), "{path}");
        }
    }

    #[test]
    fn a_model_is_read_from_the_path() {
        assert_eq!(Operation::model_in_path("/v1/models/gpt-4o"), Some("gpt-4o"));
        assert_eq!(Operation::model_in_path("/v1/models/org%2Fx"), Some("org%2Fx"));
        assert_eq!(Operation::model_in_path("/v1/models/"), None);
    }
}
