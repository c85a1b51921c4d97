//! One request, sent to one upstream after another until one answers as it should.

use std::sync::Arc;

use http::{HeaderValue, Method, Request, Response, header};
use hyper::body::Incoming;
use tokio::time::{Instant, timeout_at};
use tollgate_model::{Failure, Fallback, Protocol, RouteAction, UpstreamRef};

use crate::{
    body::{Replay, UpstreamRequestBody},
    error::Rejection,
    exchange::Exchange,
    headers,
    upstream::{SendError, ServiceUpstream},
};

/// The backend whose turn it is, then the fallbacks that are for what happened before.
pub(super) async fn send(
    exchange: &mut Exchange,
    body: &Replay,
    deadline: Instant,
) -> Result<Response<Incoming>, Rejection> {
    let plan = Arc::clone(&exchange.plan);
    let backend = plan.next_backend().ok_or_else(Rejection::no_healthy_upstream)?;
    let mut last = attempt(exchange, &backend.upstream, body, deadline).await;
    for fallback in fallbacks(&plan.route.action) {
        if failure(&last).is_some_and(|failure| fallback.on.contains(failure)) && body.body().is_some() {
            last = attempt(exchange, &fallback.upstream, body, deadline).await;
        }
    }
    last.map_err(Failed::into_rejection)
}

pub(super) fn fallbacks(action: &RouteAction) -> &[Fallback] {
    match action {
        RouteAction::Forward { fallbacks, .. } => fallbacks,
        RouteAction::Redirect { .. } | RouteAction::Respond { .. } => &[],
    }
}

/// Why an attempt brought no answer.
#[derive(Debug)]
enum Failed {
    /// The upstream is not there, or not of this kind.
    NoUpstream,
    Send(SendError),
}

impl Failed {
    fn into_rejection(self) -> Rejection {
        match self {
            Self::NoUpstream => Rejection::no_healthy_upstream(),
            Self::Send(error) => error.into(),
        }
    }
}

fn failure(result: &Result<Response<Incoming>, Failed>) -> Option<Failure> {
    match result {
        Ok(answer) => Some(Failure::Status(answer.status().as_u16())),
        Err(Failed::NoUpstream) => Some(Failure::Connect),
        Err(Failed::Send(error)) => error.failure(),
    }
}

async fn attempt(
    exchange: &mut Exchange,
    upstream: &UpstreamRef,
    body: &Replay,
    deadline: Instant,
) -> Result<Response<Incoming>, Failed> {
    let UpstreamRef::Service(name) = upstream else { return Err(Failed::NoUpstream) };
    let service = exchange.compiled.services.get(name).cloned().ok_or(Failed::NoUpstream)?;
    exchange.record.upstream = Some(name.clone());
    let mut result = once(exchange, &service, body, deadline).await;
    // The connection may have been a kept one that the upstream closed just now: safe requests are sent once more.
    if result.as_ref().is_err_and(|error| *error == SendError::Reset) && is_repeatable(&exchange.head.method, body) {
        result = once(exchange, &service, body, deadline).await;
    }
    let label = result.as_ref().map_or_else(|error| error.label(), |_| "answered");
    exchange.shared.metrics.attempt(name, label);
    result.map_err(Failed::Send)
}

/// Idempotent (RFC 9110 §9.2.2), and its body is still here.
fn is_repeatable(method: &Method, body: &Replay) -> bool {
    method.is_idempotent() && body.body().is_some()
}

async fn once(
    exchange: &Exchange,
    service: &ServiceUpstream,
    body: &Replay,
    deadline: Instant,
) -> Result<Response<Incoming>, SendError> {
    let body = body.body().ok_or(SendError::Reset)?;
    let request = request(exchange, service, body).ok_or(SendError::Connect)?;
    let first_byte = exchange.plan.route.timeouts.first_byte.map(|within| Instant::now() + within);
    let by = first_byte.map_or(deadline, |by| by.min(deadline));
    let sent = exchange.shared.pool.send(service.wire(), request);
    timeout_at(by, sent).await.unwrap_or(Err(SendError::Timeout))
}

/// Built anew: nothing of the client's framing or identity is in it, and the path is the one that was matched.
fn request(
    exchange: &Exchange,
    service: &ServiceUpstream,
    body: UpstreamRequestBody,
) -> Option<Request<UpstreamRequestBody>> {
    let trailers = headers::takes_trailers(&exchange.head.headers);
    let mut headers = exchange.head.headers.clone();
    headers::sanitize_request(&mut headers, &exchange.record.request_id);
    let peer = exchange.record.connection().peer.ip();
    headers::set_forwarded(&mut headers, peer, exchange.shared.config.trusts(peer), &exchange.target.host);
    if let Some(caller) = &exchange.record.caller {
        headers::add_identity(&mut headers, &caller.consumer.name, &caller.tenant.name);
    }
    match service.service.protocol {
        Protocol::Http => drop(headers.insert(header::HOST, exchange.target.host.as_str().try_into().ok()?)),
        // TLS and HTTP/2 name the endpoint itself, and `x-forwarded-host` what the client asked for: two different
        // names in one HTTP/2 request would be ambiguous.
        Protocol::Https => {}
        Protocol::H2c if trailers => drop(headers.insert(header::TE, HeaderValue::from_static("trailers"))),
        Protocol::H2c => {}
    }
    let mut request = Request::new(body);
    *request.method_mut() = exchange.head.method.clone();
    *request.uri_mut() = service.origins.next(&exchange.target.path_and_query())?;
    *request.headers_mut() = headers;
    Some(request)
}
