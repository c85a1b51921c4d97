//! What the gateway says to a gRPC client: a status that its library understands, in an answer that is complete.

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use tollgate_llm::Dialect;

use super::{Call, Framing};
use crate::{body::ResponseBody, error::Rejection};

static GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
static GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

const UNKNOWN: u8 = 2;
const DEADLINE_EXCEEDED: u8 = 4;
const PERMISSION_DENIED: u8 = 7;
const RESOURCE_EXHAUSTED: u8 = 8;
const UNIMPLEMENTED: u8 = 12;
const INTERNAL: u8 = 13;
const UNAVAILABLE: u8 = 14;
const UNAUTHENTICATED: u8 = 16;

/// "HTTP to gRPC Status Code Mapping" of the gRPC project, and what it has no row for: a message that is too large.
fn status_of(http: u16) -> u8 {
    match http {
        400 => INTERNAL,
        401 => UNAUTHENTICATED,
        403 => PERMISSION_DENIED,
        404 => UNIMPLEMENTED,
        413 => RESOURCE_EXHAUSTED,
        429 | 502 | 503 | 504 => UNAVAILABLE,
        _ => UNKNOWN,
    }
}

/// An answer of headers alone ("Trailers-Only"). `is_over` says that the caller's own deadline has passed.
pub(crate) fn refuse(call: Call, rejection: Rejection, is_over: bool) -> Response<ResponseBody> {
    let (http, message) = (rejection.error().status, rejection.error().message.clone());
    // Where little time was left, what failed may be what there was no time for.
    let status = match status_of(http) {
        UNAVAILABLE if is_over && http != 429 => DEADLINE_EXCEEDED,
        status => status,
    };
    let mut response = rejection.into_response(Dialect::OpenAi);
    *response.body_mut() = ResponseBody::full(bytes::Bytes::new());
    *response.status_mut() = StatusCode::OK;
    let content_type = match call.answer {
        Framing::Native => "application/grpc",
        Framing::Web => "application/grpc-web+proto",
        Framing::WebText => "application/grpc-web-text+proto",
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    tell(headers, status, &message);
    response
}

/// The trailers of an answer that is cut, as it took too long: by its caller's deadline, or by silence.
pub(crate) fn cut(by_deadline: bool, message: &str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    tell(&mut trailers, if by_deadline { DEADLINE_EXCEEDED } else { UNAVAILABLE }, message);
    trailers
}

fn tell(headers: &mut HeaderMap, status: u8, message: &str) {
    headers.insert(&GRPC_STATUS, HeaderValue::from(u16::from(status)));
    if let Ok(message) = HeaderValue::try_from(encoded(message)) {
        headers.insert(&GRPC_MESSAGE, message);
    }
}

/// Percent-encoded but for what is visible in ASCII ("Responses").
fn encoded(message: &str) -> String {
    let mut encoded = String::with_capacity(message.len());
    for byte in message.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use http_body::Body as _;

    use super::*;

    #[test]
    fn a_refusal_has_the_status_that_its_http_status_stands_for() {
        let native = Call { framing: Framing::Native, answer: Framing::Native, timeout: None };
        for (http, is_over, grpc) in [
            (400, false, "13"),
            (401, false, "16"),
            (403, false, "7"),
            (404, false, "12"),
            (408, false, "2"),
            (413, false, "8"),
            (429, false, "14"),
            (501, false, "2"),
            (502, false, "14"),
            (503, true, "4"),
            (429, true, "14"),
            (400, true, "13"),
            (504, false, "14"),
            (504, true, "4"),
        ] {
            let answer = refuse(native, Rejection::new(http, "x", "50 % über\n"), is_over);
            assert_eq!((answer.status().as_u16(), answer.body().is_end_stream()), (200, true));
            let headers = answer.headers();
            assert_eq!(headers["grpc-status"], grpc, "{http}");
            assert_eq!(headers["content-type"], "application/grpc");
            assert_eq!(headers["grpc-message"], "50 %25 %C3%BCber%0A");
        }
    }
}
