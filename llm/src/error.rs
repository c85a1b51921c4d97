//! Errors as callers see them: one value, written in either dialect's envelope.

use bytes::Bytes;
use serde_json::json;

use crate::dialect::Dialect;

/// The public error codes.
pub mod code {
    /// 400: not HTTP, not JSON, no model…
    pub const INVALID_REQUEST: &str = "invalid_request";
    /// 401: no credential, or an unknown one.
    pub const INVALID_API_KEY: &str = "invalid_api_key";
    /// 403: known, but not allowed here.
    pub const ACCESS_DENIED: &str = "access_denied";
    /// 404: no route for this request.
    pub const ROUTE_NOT_FOUND: &str = "route_not_found";
    /// 404: no such model.
    pub const MODEL_NOT_FOUND: &str = "model_not_found";
    /// 400: alone it needs more than a limit's whole capacity.
    pub const REQUEST_EXCEEDS_LIMIT: &str = "request_exceeds_limit";
    /// 408: headers or body too slow.
    pub const REQUEST_TIMEOUT: &str = "request_timeout";
    /// 413, 431: body or headers over the limit.
    pub const REQUEST_TOO_LARGE: &str = "request_too_large";
    /// 421: this host is not served by connections that were made to another one.
    pub const MISDIRECTED_REQUEST: &str = "misdirected_request";
    /// 429: a limit.
    pub const RATE_LIMIT_EXCEEDED: &str = "rate_limit_exceeded";
    /// 429: no credit left.
    pub const INSUFFICIENT_QUOTA: &str = "insufficient_quota";
    /// 501: an endpoint that is recognised and not served.
    pub const NOT_SUPPORTED: &str = "not_supported";
    /// 502: the upstream answered badly or not at all.
    pub const UPSTREAM_ERROR: &str = "upstream_error";
    /// 503: nothing to send the request to.
    pub const NO_HEALTHY_UPSTREAM: &str = "no_healthy_upstream";
    /// 503: this node has all that it takes on.
    pub const OVERLOADED: &str = "overloaded";
    /// 503: the limit can't be asked.
    pub const QUOTA_UNAVAILABLE: &str = "quota_unavailable";
    /// 508: the request's route leads back here.
    pub const LOOP_DETECTED: &str = "loop_detected";
    /// 504: the upstream was too slow.
    pub const UPSTREAM_TIMEOUT: &str = "upstream_timeout";
}

/// An error answer, before it is written in a dialect.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{status} {code}: {message}")]
pub struct ApiError {
    /// The HTTP status.
    pub status: u16,
    /// One of [`code`].
    pub code: &'static str,
    /// A message for the caller: never a `Display` of something internal.
    pub message: String,
    /// The field of the request that is wrong, when there is one.
    pub param: Option<String>,
}

/// Why a request is refused before it is sent: always a 400 with [`code::INVALID_REQUEST`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct RequestError {
    /// What is wrong, for the caller.
    pub message: String,
    /// The field that is wrong, as a path (`messages[2].content`), when there is one.
    pub param: Option<String>,
}

impl RequestError {
    pub(crate) fn new(message: impl Into<String>) -> RequestError {
        RequestError { message: message.into(), param: None }
    }

    pub(crate) fn field(param: impl Into<String>, message: impl Into<String>) -> RequestError {
        RequestError { message: message.into(), param: Some(param.into()) }
    }
}

impl From<RequestError> for ApiError {
    fn from(error: RequestError) -> ApiError {
        ApiError { status: 400, code: code::INVALID_REQUEST, message: error.message, param: error.param }
    }
}

impl ApiError {
    /// An error without a field.
    #[must_use]
    pub fn new(status: u16, code: &'static str, message: impl Into<String>) -> ApiError {
        ApiError { status, code, message: message.into(), param: None }
    }

    /// The JSON body (`content-type: application/json`) in the caller's dialect.
    #[must_use]
    pub fn body(&self, dialect: Dialect) -> Bytes {
        let body = match dialect {
            Dialect::OpenAi => openai_body(self.status, self.code, &self.message, self.param.as_deref()),
            Dialect::Anthropic => anthropic_body(self.status, Some(self.code), &self.message),
        };
        body.to_string().into()
    }

    /// The event that ends a stream in the caller's dialect: `data: {"error":…}` without a `[DONE]` after it, or
    /// `event: error`.
    #[must_use]
    pub fn event(&self, dialect: Dialect) -> Bytes {
        let body = self.body(dialect);
        let name: &[u8] = match dialect {
            Dialect::OpenAi => b"",
            Dialect::Anthropic => b"event: error\n",
        };
        [name, b"data: ", &body, b"\n\n"].concat().into()
    }
}

pub(crate) fn openai_body(status: u16, code: &str, message: &str, param: Option<&str>) -> serde_json::Value {
    json!({"error": {"message": message, "type": openai_type(status, code), "code": code, "param": param}})
}

pub(crate) fn anthropic_body(status: u16, code: Option<&str>, message: &str) -> serde_json::Value {
    let mut error = json!({"type": anthropic_type(status), "message": message});
    if let Some(code) = code {
        error["code"] = code.into();
    }
    json!({"type": "error", "error": error})
}

/// The `type` that OpenAI's own API gives errors of that status.
fn openai_type(status: u16, code: &str) -> &'static str {
    match status {
        401 => "authentication_error",
        403 => "permission_error",
        429 if code == code::INSUFFICIENT_QUOTA => "insufficient_quota",
        429 => "rate_limit_error",
        400..=499 => "invalid_request_error",
        _ => "server_error",
    }
}

/// The `type` that Anthropic documents for errors of that status.
fn anthropic_type(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        408 | 504 => "timeout_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 | 529 => "overloaded_error",
        400..=499 => "invalid_request_error",
        _ => "api_error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_envelopes_carry_message_type_and_code() {
        let error = ApiError { param: Some("model".into()), ..ApiError::new(400, code::INVALID_REQUEST, "no model") };
        assert_eq!(
            error.body(Dialect::OpenAi),
            r#"{"error":{"message":"no model","type":"invalid_request_error","code":"invalid_request","param":"model"}}"#
        );
        assert_eq!(
            error.body(Dialect::Anthropic),
            r#"{"type":"error","error":{"type":"invalid_request_error","message":"no model","code":"invalid_request"}}"#
        );
    }

    #[test]
    fn a_failed_stream_ends_with_an_error_event_and_no_done() {
        let error = ApiError::new(502, code::UPSTREAM_ERROR, "cut\nshort");
        let event = error.event(Dialect::OpenAi);
        assert!(event.starts_with(b"data: {\"error\":") && event.ends_with(b"}\n\n"));
        assert_eq!(event.iter().filter(|byte| **byte == b'\n').count(), 2);
        assert!(error.event(Dialect::Anthropic).starts_with(b"event: error\ndata: {\"type\":\"error\""));
    }
}
