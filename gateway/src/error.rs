//! Refusals and failures as callers see them: the contract's table, in one place.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use tollgate_llm::{ApiError, Dialect, RequestError, code};

use crate::{
    body::{BodyFault, ResponseBody},
    listener::{Malformed, Refusal},
    overload,
};

/// An answer that says no.
#[derive(Debug)]
pub(crate) struct Rejection(Box<Inner>);

#[derive(Debug)]
struct Inner {
    error: ApiError,
    /// An upstream's own words, already in the caller's dialect.
    body: Option<Bytes>,
    headers: HeaderMap,
    close: bool,
}

impl Rejection {
    pub(crate) fn new(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        ApiError::new(status, code, message).into()
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(400, code::INVALID_REQUEST, message)
    }

    pub(crate) fn route_not_found() -> Self {
        Self::new(404, code::ROUTE_NOT_FOUND, "There is no route for this host, path and method.")
    }

    /// By a connection that was made to another host, where that makes a difference (RFC 9110 §15.5.20). Its client asks again over
    /// another one: over HTTP/1 this one closes, so that it has to. Over HTTP/2 it stays, without GOAWAY: it is good for the host
    /// that it was made to, other streams of that are on it, and clients know by the status not to use it for this host (RFC 9113
    /// §9.1.1).
    pub(crate) fn misdirected() -> Self {
        let message = "This host asks for a client certificate: connect to it over TLS, by its own name.";
        Self::new(421, code::MISDIRECTED_REQUEST, message).closing()
    }

    pub(crate) fn model_not_found(model: &str) -> Self {
        let model: String = model.chars().take(100).collect();
        let error = ApiError::new(404, code::MODEL_NOT_FOUND, format!("The model `{model}` does not exist here."));
        ApiError { param: Some("model".into()), ..error }.into()
    }

    /// Its tenant pays in advance, and nobody knows what.
    pub(crate) fn no_price(tenant: &str, provider: &str, model: &str) -> Self {
        let model: String = model.chars().take(100).collect();
        let message = format!(
            "The model `{model}` of provider `{provider}` has no price for tenant `{tenant}`, which pays in advance."
        );
        let error = ApiError::new(403, code::ACCESS_DENIED, message);
        ApiError { param: Some("model".into()), ..error }.into()
    }

    pub(crate) fn not_supported(message: impl Into<String>) -> Self {
        Self::new(501, code::NOT_SUPPORTED, message)
    }

    pub(crate) fn upstream_error(message: impl Into<String>) -> Self {
        Self::new(502, code::UPSTREAM_ERROR, message)
    }

    pub(crate) fn no_healthy_upstream() -> Self {
        Self::new(503, code::NO_HEALTHY_UPSTREAM, "There is no upstream that can take this request.")
    }

    /// This node has all that it takes on.
    pub(crate) fn overloaded() -> Self {
        let message = "This gateway has more to do than it takes on: try again, or another one.";
        Self::new(503, code::OVERLOADED, message).retry_after(overload::RETRY_AFTER)
    }

    pub(crate) fn upstream_timeout() -> Self {
        Self::new(504, code::UPSTREAM_TIMEOUT, "The upstream did not answer in time.")
    }

    /// A provider's error, in its own words.
    pub(crate) fn passed_on(status: u16, code: &'static str, body: Bytes) -> Self {
        let mut passed = Self::new(status, code, "");
        passed.0.body = Some(body);
        passed
    }

    /// The connection ends after this answer: what follows on it can't be told apart any more.
    pub(crate) fn closing(mut self) -> Self {
        self.0.close = true;
        self
    }

    /// Says when to come again, in whole seconds, at least one.
    pub(crate) fn retry_after(self, after: Duration) -> Self {
        let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
        self.with_header(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)))
    }

    pub(crate) fn with_header(mut self, name: header::HeaderName, value: HeaderValue) -> Self {
        self.0.headers.insert(name, value);
        self
    }

    pub(crate) fn with_headers(mut self, headers: &HeaderMap) -> Self {
        self.0.headers.extend(headers.iter().map(|(name, value)| (name.clone(), value.clone())));
        self
    }

    pub(crate) fn headers_mut(&mut self) -> &mut HeaderMap {
        &mut self.0.headers
    }

    /// The error as it goes into a stream that has begun.
    pub(crate) fn error(&self) -> &ApiError {
        &self.0.error
    }

    pub(crate) fn into_response(self, dialect: Dialect) -> Response<ResponseBody> {
        let Inner { error, body, headers, close } = *self.0;
        let body = body.unwrap_or_else(|| error.body(dialect));
        let mut response = Response::new(ResponseBody::full(body));
        *response.status_mut() = StatusCode::from_u16(error.status).unwrap_or(StatusCode::BAD_GATEWAY);
        *response.headers_mut() = headers;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response.extensions_mut().insert(ErrorCode(error.code));
        if close {
            response.extensions_mut().insert(CloseAfter);
        }
        response
    }
}

/// The public code of an answer that is an error, for metrics and the access log.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ErrorCode(pub(crate) &'static str);

/// Marks an answer after which the connection closes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CloseAfter;

impl From<ApiError> for Rejection {
    fn from(error: ApiError) -> Self {
        Self(Box::new(Inner { error, body: None, headers: HeaderMap::new(), close: false }))
    }
}

impl From<RequestError> for Rejection {
    fn from(error: RequestError) -> Self {
        ApiError::from(error).into()
    }
}

impl From<Malformed> for Rejection {
    fn from(malformed: Malformed) -> Self {
        let refused = match malformed {
            Malformed::Connect => Self::not_supported("CONNECT is not supported here."),
            _ => Self::invalid(format!("The request is not acceptable: {malformed}.")),
        };
        refused.closing()
    }
}

impl From<Refusal> for Rejection {
    fn from(refusal: Refusal) -> Self {
        let (status, code, message) = match refusal {
            Refusal::Malformed(malformed) => return malformed.into(),
            Refusal::HeadTooLarge => (431, code::REQUEST_TOO_LARGE, "The request's headers are too large."),
            Refusal::HeadTimeout => (408, code::REQUEST_TIMEOUT, "The request's headers did not arrive in time."),
        };
        Self::new(status, code, message).closing()
    }
}

impl From<BodyFault> for Rejection {
    fn from(fault: BodyFault) -> Self {
        let refused = match fault {
            BodyFault::TooLarge { limit } => {
                Self::new(413, code::REQUEST_TOO_LARGE, format!("The request's body is larger than {limit} bytes."))
            }
            BodyFault::Slow => Self::new(408, code::REQUEST_TIMEOUT, "The request's body did not arrive in time."),
            BodyFault::NoRoom => Self::overloaded(),
            BodyFault::Broken => Self::invalid("The request's body ended early or was malformed."),
        };
        refused.closing()
    }
}
