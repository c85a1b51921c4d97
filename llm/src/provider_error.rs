//! A provider's error bodies, in the caller's dialect and always in its one shape.

use bytes::Bytes;
use serde_json::Value;

use crate::dialect::Dialect;
use crate::error::{anthropic_body, code, openai_body};

/// The longest message that is taken from a provider's error.
const MAX_MESSAGE_CHARS: usize = 4_000;

/// A code, type or field of a provider's is no longer than this.
const MAX_NAME_CHARS: usize = 200;

/// A provider's error body (status 4xx or 5xx) in the caller's dialect: the envelope made anew, whatever shape the
/// provider's own had, with the message, code, type and field that it named. One that can't be read becomes a plain
/// sentence.
///
/// A 401 or 403 is about the gateway's account with the provider: the caller must not take it for its own key, and does
/// not see what the provider says of ours (some repeat it).
#[must_use]
pub fn translate_error(to: Dialect, status: u16, body: &Bytes) -> Bytes {
    if matches!(status, 401 | 403) {
        return ours_refused(to, status);
    }
    let parsed: Option<Value> = serde_json::from_slice(body).ok();
    let message = parsed.as_ref().and_then(message_of);
    let message = message.unwrap_or_else(|| format!("the provider answered with status {status}"));
    let error = parsed.as_ref().map_or(&Value::Null, |parsed| &parsed["error"]);
    let kind = name(&error["type"]);
    let code = name(&error["code"]).or_else(|| kind.clone()).unwrap_or_else(|| code_of(status).to_owned());
    let mut envelope = match to {
        Dialect::OpenAi => openai_body(status, &code, &message, name(&error["param"]).as_deref()),
        Dialect::Anthropic => anthropic_body(status, Some(&code), &message),
    };
    // A type means something in its own dialect only.
    let spoken = parsed.as_ref().map(dialect_of);
    if let Some(kind) = kind.filter(|_| spoken == Some(to)) {
        envelope["error"]["type"] = kind.into();
    }
    envelope.to_string().into()
}

/// A provider says what it speaks by its envelope, whatever it was configured as.
fn dialect_of(body: &Value) -> Dialect {
    if body["type"] == "error" { Dialect::Anthropic } else { Dialect::OpenAi }
}

/// A short text; some send codes as numbers.
fn name(value: &Value) -> Option<String> {
    let text = match value {
        Value::String(text) if !text.is_empty() => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return None,
    };
    Some(text.chars().take(MAX_NAME_CHARS).collect())
}

/// The event of a stream in which a provider says that it failed, in the caller's shape; none where it has that already.
pub(crate) fn failure_event(to: Dialect, data: &[u8]) -> Option<Bytes> {
    let parsed: Value = serde_json::from_slice(data).ok()?;
    if has_shape(to, &parsed) {
        return None;
    }
    let name: &[u8] = if to == Dialect::Anthropic { b"event: error\n" } else { b"" };
    let body = translate_error(to, 502, &Bytes::copy_from_slice(data));
    Some([name, b"data: ", &body, b"\n\n"].concat().into())
}

fn has_shape(dialect: Dialect, body: &Value) -> bool {
    let error = &body["error"];
    let named = error["message"].is_string() && error["type"].is_string();
    named
        && dialect_of(body) == dialect
        && (dialect == Dialect::Anthropic || ["code", "param"].iter().all(|key| error.get(key).is_some()))
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

    fn translated(to: Dialect, body: &'static str) -> Value {
        serde_json::from_slice(&translate_error(to, 400, &Bytes::from_static(body.as_bytes()))).unwrap()
    }

    #[test]
    fn the_message_survives_in_both_directions() {
        let openai = translated(Dialect::OpenAi, ANTHROPIC);
        assert_eq!(openai["error"]["message"], "max_tokens: too large");
        assert_eq!(openai["error"]["type"], "invalid_request_error");
        let anthropic = translated(Dialect::Anthropic, OPENAI);
        assert_eq!(anthropic["type"], "error");
        assert_eq!(anthropic["error"]["message"], "too long");
        assert_eq!(anthropic["error"]["code"], "context_length_exceeded");
    }

    #[test]
    fn an_error_in_the_same_dialect_says_the_same() {
        assert_eq!(translated(Dialect::OpenAi, OPENAI).to_string(), OPENAI);
        let anthropic = translated(Dialect::Anthropic, ANTHROPIC);
        let said: Value = serde_json::from_str(ANTHROPIC).unwrap();
        assert_eq!(anthropic["type"], said["type"]);
        for field in ["type", "message"] {
            assert_eq!(anthropic["error"][field], said["error"][field]);
        }
    }

    #[test]
    fn whatever_a_provider_sends_the_shape_is_the_callers() {
        let overloaded = r#"{"type":"error","error":{"type":"overloaded_error","message":"later"},"request_id":"r"}"#;
        for (body, kind, code, param) in [
            (overloaded, "invalid_request_error", "overloaded_error", Value::Null),
            (r#"{"error":{"message":"m","type":"t","code":"c"}}"#, "t", "c", Value::Null),
            (r#"{"error":{"message":"m","code":400,"param":"p","x":1}}"#, "invalid_request_error", "400", "p".into()),
            (r#"{"error":{"message":"m","type":"t","code":null,"param":null}}"#, "t", "t", Value::Null),
            (r#"{"message":"m"}"#, "invalid_request_error", "invalid_request", Value::Null),
            (
                r#"{"error":{"message":"m","type":["t"],"code":{},"param":[]}}"#,
                "invalid_request_error",
                "invalid_request",
                Value::Null,
            ),
        ] {
            let openai = translated(Dialect::OpenAi, body);
            let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
            assert_eq!(
                (keys(&openai), keys(&openai["error"])),
                (vec!["error".to_owned()], ["message", "type", "code", "param"].map(str::to_owned).to_vec()),
                "{body}"
            );
            let error = &openai["error"];
            assert_eq!(
                (&error["type"], &error["code"], &error["param"]),
                (&kind.into(), &code.into(), &param),
                "{body}"
            );
            assert!(error["message"].is_string());
            let anthropic = translated(Dialect::Anthropic, body);
            assert_eq!(
                (keys(&anthropic), &anthropic["type"]),
                (["type", "error"].map(str::to_owned).to_vec(), &"error".into())
            );
            assert_eq!(keys(&anthropic["error"]), ["type", "message", "code"].map(str::to_owned), "{body}");
        }
        assert_eq!(translated(Dialect::Anthropic, overloaded)["error"]["type"], "overloaded_error");
    }

    #[test]
    fn garbage_becomes_a_plain_sentence() {
        for garbage in ["<html>bad gateway</html>", "", "[]", "{\"error\":{}}", "\"x", "{\"error\":\"\"}"] {
            for to in [Dialect::OpenAi, Dialect::Anthropic] {
                let error = translated(to, garbage);
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
                let body = translate_error(to, status, &Bytes::from_static(said.as_bytes()));
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
