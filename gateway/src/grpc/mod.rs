//! gRPC calls through services, and gRPC-Web for those that speak gRPC alone.
//!
//! A call is a request of HTTP/2 like any other: its messages and trailers are streamed both ways by `service`. Here is what
//! is its own: deadlines, refusals that its client can read, bounds on messages in place of bodies, and gRPC-Web's framing.

mod messages;
mod refusal;
mod timeout;
mod web;

use std::time::Duration;

use http::{HeaderMap, HeaderValue, header};

pub(crate) use messages::{Messages, TooLarge};
pub(crate) use refusal::{cut, refuse};
pub(crate) use timeout::set_timeout;
pub(crate) use web::{Decoder, Encoder, NoBase64, to_grpc, to_web};

/// How a call is put on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// As over HTTP/2, trailers included.
    Native,
    /// gRPC-Web: trailers are the last message.
    Web,
    /// The same in base64.
    WebText,
}

/// A request that is a gRPC call, by its content type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) framing: Framing,
    /// How its answer is framed.
    pub(crate) answer: Framing,
    /// What its caller waits for, from the request's beginning.
    pub(crate) timeout: Option<Duration>,
}

/// Whoever would wait for longer is not bounded by it.
const MAX_TIMEOUT: Duration = Duration::from_secs(30 * 24 * 3_600);

impl Call {
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let framing = framing(headers.get(header::CONTENT_TYPE)?)?;
        let wanted = headers.get(header::ACCEPT).and_then(self::framing);
        let answer = if framing == Framing::Native { framing } else { wanted.filter(is_web).unwrap_or(framing) };
        let timeout = timeout::given(headers).filter(|timeout| *timeout <= MAX_TIMEOUT);
        Some(Self { framing, answer, timeout })
    }

    pub(crate) fn is_web(&self) -> bool {
        is_web(&self.framing)
    }
}

fn is_web(framing: &Framing) -> bool {
    *framing != Framing::Native
}

/// Whether an answer is one of gRPC, and not what something before its server said.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).and_then(framing) == Some(Framing::Native)
}

fn framing(content_type: &HeaderValue) -> Option<Framing> {
    let known = |(name, framing): (&str, Framing)| suffix(content_type, name).map(|_| framing);
    let names =
        [("application/grpc", Framing::Native), ("application/grpc-web", Framing::Web), (WEB_TEXT, Framing::WebText)];
    names.into_iter().find_map(known)
}

const WEB_TEXT: &str = "application/grpc-web-text";

/// What follows the name of a content type: nothing, or what its messages are, as `+proto`.
fn suffix<'a>(content_type: &'a HeaderValue, name: &str) -> Option<&'a str> {
    let text = content_type.to_str().ok()?;
    let (head, rest) = text.split_at_checked(name.len())?;
    (head.eq_ignore_ascii_case(name) && (rest.is_empty() || rest.starts_with(['+', ';']))).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::headers::tests::map;

    #[test]
    fn a_call_is_known_by_its_content_type() {
        for (content_type, framing) in [
            ("application/grpc", Some(Framing::Native)),
            ("application/grpc+proto", Some(Framing::Native)),
            ("Application/gRPC;charset=utf-8", Some(Framing::Native)),
            ("application/grpc-web", Some(Framing::Web)),
            ("application/grpc-web+proto", Some(Framing::Web)),
            ("application/grpc-web-text", Some(Framing::WebText)),
            ("application/grpc-web-text+proto", Some(Framing::WebText)),
            ("application/grpcx", None),
            ("application/json", None),
        ] {
            let call = Call::of(&map(&[("content-type", content_type)]));
            assert_eq!(call.map(|call| (call.framing, call.answer)), framing.map(|it| (it, it)), "{content_type}");
        }
        let both = map(&[("content-type", "application/grpc-web"), ("accept", "application/grpc-web-text")]);
        assert_eq!(Call::of(&both).map(|call| call.answer), Some(Framing::WebText));
        let any = map(&[("content-type", "application/grpc-web-text"), ("accept", "*/*")]);
        assert_eq!(Call::of(&any).map(|call| call.answer), Some(Framing::WebText));
    }
}
