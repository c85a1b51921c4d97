//! What an upstream answers to a request for a WebSocket.

use http::{Response, StatusCode};
use hyper::upgrade::{self, OnUpgrade};

use super::{Admitted, attempts::Failed, sanitize_answer, settle};
use crate::{
    body::ResponseBody,
    error::Rejection,
    exchange::Exchange,
    upstream::UpstreamBody,
    websocket::{Handshake, Tunnel},
};

pub(super) enum Judged {
    /// It has agreed.
    Switched(Response<UpstreamBody>),
    /// An answer as to any request.
    Plain(Result<Response<UpstreamBody>, Failed>),
}

pub(super) fn judge(handshake: &Handshake, answer: Response<UpstreamBody>) -> Judged {
    let status = answer.status();
    if status == StatusCode::SWITCHING_PROTOCOLS && handshake.is_met(answer.headers()) {
        return Judged::Switched(answer);
    }
    if status == StatusCode::SWITCHING_PROTOCOLS || handshake.misreads(status) {
        return Judged::Plain(Err(Failed::NotSwitched));
    }
    Judged::Plain(Ok(answer))
}

/// The answer to the caller, with whom its connection goes on. What was admitted stays so until it closes.
pub(super) fn switched(
    exchange: &mut Exchange,
    handshake: &Handshake,
    mut answer: Response<UpstreamBody>,
    (in_flight, limit_headers, permit): Admitted,
) -> Result<Response<ResponseBody>, Rejection> {
    let timeouts = exchange.plan.route.timeouts;
    let upstream = upgrade::on(&mut answer);
    let (mut head, endpoint) = answer.into_parts();
    let client = exchange.head.extensions.remove::<OnUpgrade>();
    let Some(client) = client.or_else(|| exchange.record.connection().switch.take()) else {
        if let Some(in_flight) = in_flight {
            settle(in_flight, head.status.as_u16());
        }
        return Err(Rejection::not_supported("This connection can't be switched to a WebSocket."));
    };
    sanitize_answer(&mut head.headers, &exchange.head.method, head.status);
    head.headers.extend(limit_headers);
    let mut response = Response::new(ResponseBody::full(bytes::Bytes::new()));
    *response.status_mut() = handshake.tell(&mut head.headers);
    *response.headers_mut() = head.headers;
    let ends_by = timeouts.stream.map(|whole| exchange.record.started() + whole);
    let idle = timeouts.idle;
    exchange.record.tunnel =
        Some(Box::new(Tunnel { client, upstream, idle, ends_by, in_flight, permit, endpoint, realtime: None }));
    Ok(response)
}
