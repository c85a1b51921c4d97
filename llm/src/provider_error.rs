//! A provider's error bodies, in the caller's dialect.

use bytes::Bytes;
use serde_json::Value;

use crate::dialect::Dialect;
use crate::error::{anthropic_body, code, openai_body};

/// The longest message that is taken from a provider's error.
const MAX_MESSAGE_CHARS: usize = 4_000;

/// A provider's error body (status 4xx or 5xx) in the caller's dialect, with the provider's message. A body that has
/// the caller's envelope already is passed as it is; one that can't be read becomes a plain sentence.
///
/// A 401 or 403 is about the gateway's account with the provider: the caller must not take it for its own key, and does
/// not see what the provider says of ours (some repeat it).
#[must_use]
pub fn translate_error(from: Dialect, to: Dialect, status: u16, body: &Bytes) -> Bytes {
    if matches!(status, 401 | 403) {
        return ours_refused(to, status);
    }
    let parsed: Option<Value> = serde_json::from_slice(body).ok();
    if from == to && parsed.as_ref().is_some_and(|parsed| has_envelope(to, parsed)) {
        return body.clone();
    }
    let message = parsed.as_ref().and_then(message_of);
    let message = message.unwrap_or_else(|| format!("the provider answered with status {status}"));
    let error = parsed.as_ref().map_or(&Value::Null, |parsed| &parsed["error"]);
    let given = error["code"].as_str().or_else(|| error["type"].as_str());
    let code = given.unwrap_or_else(|| code_of(status));
    let envelope = match to {
        Dialect::OpenAi => openai_body(status, code, &message, error["param"].as_str()),
        Dialect::Anthropic => anthropic_body(status, Some(code), &message),
    };
    envelope.to_string().into()
}

/// With the code and type of an upstream's failure, whatever the status.
fn ours_refused(to: Dialect, status: u16) -> Bytes {
    let message = format!(
        "The provider answered with status {status}: it refuses the gateway's own credential or account, not your API key."
    );
    let envelope = match to {
        Dialect::OpenAi => openai_body(502, code::UPSTREAM_ERROR, &message, None),
        Dialect::Anthropic => anthropic_body(502, Some(code::UPSTREAM_ERROR), &message),
    };
    envelope.to_string().into()
}

/// The message inside a provider's error body, whatever its dialect, when there is one.
#[must_use]
pub fn provider_message(body: &[u8]) -> Option<String> {
    serde_json::from_slice(body).ok().as_ref().and_then(message_of)
}

fn has_envelope(dialect: Dialect, body: &Value) -> bool {
    let error = &body["error"];
    error["message"].is_string() && (dialect == Dialect::OpenAi || body["type"] == "error" && error["type"].is_string())
}

/// The places where providers put it: both envelopes first, then what compatible servers do.
pub(crate) fn message_of(body: &Value) -> Option<String> {
    let places = [&body["error"]["message"], &body["error"], &body["message"], &body["detail"]];
    let message = places.into_iter().find_map(Value::as_str).filter(|message| !message.trim().is_empty())?;
    Some(message.chars().take(MAX_MESSAGE_CHARS).collect())
}

fn code_of(status: u16) -> &'static str {
    match status {
        404 => code::MODEL_NOT_FOUND,
        408 => code::REQUEST_TIMEOUT,
        413 => code::REQUEST_TOO_LARGE,
        429 => code::RATE_LIMIT_EXCEEDED,
        504 => code::UPSTREAM_TIMEOUT,
        400..=499 => code::INVALID_REQUEST,
        _ => code::UPSTREAM_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPENAI: &str = r#"{"error":{"message":"too long","type":"invalid_request_error","code":"context_length_exceeded","param":"messages"}}"#;
    const ANTHROPIC: &str =
        r#"{"type":"error","error":{"type":"invalid_request_error","message":"max_tokens: too large"}}"#;

    fn translated(from: Dialect, to: Dialect, body: &'static str) -> Value {
        serde_json::from_slice(&translate_error(from, to, 400, &Bytes::from_static(body.as_bytes()))).unwrap()
    }

    #[test]
    fn the_message_survives_in_both_directions() {
        let openai = translated(Dialect::Anthropic, Dialect::OpenAi, ANTHROPIC);
        assert_eq!(openai["error"]["message"], "max_tokens: too large");
        assert_eq!(openai["error"]["type"], "invalid_request_error");
        let anthropic = translated(Dialect::OpenAi, Dialect::Anthropic, OPENAI);
        assert_eq!(anthropic["type"], "error");
        assert_eq!(anthropic["error"]["message"], "too long");
        assert_eq!(anthropic["error"]["code"], "context_length_exceeded");
    }

    #[test]
    fn an_error_in_the_same_dialect_passes_as_it_is() {
        let body = Bytes::from_static(OPENAI.as_bytes());
        assert_eq!(translate_error(Dialect::OpenAi, Dialect::OpenAi, 400, &body).as_ptr(), body.as_ptr());
    }

    #[test]
    fn garbage_becomes_a_plain_sentence() {
        for garbage in ["<html>bad gateway</html>", "", "[]", "{\"error\":{}}", "\"x", "{\"error\":\"\"}"] {
            for to in [Dialect::OpenAi, Dialect::Anthropic] {
                let error = translated(Dialect::OpenAi, to, garbage);
                assert_eq!(error["error"]["message"], "the provider answered with status 400", "{garbage}");
                assert_eq!(error["error"]["code"], "invalid_request");
            }
        }
    }

    #[test]
    fn a_refusal_of_our_credential_does_not_look_like_one_of_the_callers() {
        let said = r#"{"error":{"message":"Incorrect API key provided: sk-secret","type":"invalid_request_error","code":"invalid_api_key"}}"#;
        for (to, kind) in [(Dialect::OpenAi, "server_error"), (Dialect::Anthropic, "api_error")] {
            for status in [401, 403] {
                let body = translate_error(Dialect::OpenAi, to, status, &Bytes::from_static(said.as_bytes()));
                let body: Value = serde_json::from_slice(&body).unwrap();
                let error = &body["error"];
                assert_eq!((&error["type"], &error["code"]), (&kind.into(), &"upstream_error".into()));
                let message = error["message"].as_str().unwrap();
                assert!(message.contains(&status.to_string()) && message.contains("not your API key"), "{message}");
                assert!(!body.to_string().contains("sk-secret"));
            }
        }
    }

    #[test]
    fn a_bare_message_is_found() {
        assert_eq!(provider_message(br#"{"detail":"no such model"}"#).as_deref(), Some("no such model"));
        assert_eq!(provider_message(br#"{"error":"overloaded"}"#).as_deref(), Some("overloaded"));
        assert_eq!(provider_message(b"\xff"), None);
    }
}
