//! Ordinary upstreams: the request is passed on and the answer passed back, both streamed.

mod attempts;
mod hedge;
mod held;
mod mirror;
mod owned;
mod relay;
mod switch;

use std::{
    sync::{Arc, OnceLock, atomic::AtomicU32},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode, Version, header, request};
use http_body::Body as _;
use tokio::time::Instant;
use tollgate_model::{Durability, Protocol, RouteAction, UpstreamRef};
use tollgate_quota::{Attribution, InFlight, Outcome, Touch, Usage};

use crate::{
    body::{BodyFault, ClientBody, Pulse, Replay, ResponseBody},
    error::Rejection,
    exchange::{self, Exchange, RequestBody},
    filters::admit::{self, Need, Terms},
    grpc::{self, Framing},
    headers,
};
use attempts::{Failed, Outgoing};
use held::Held;
pub(crate) use mirror::Mirrors;
pub(crate) use owned::OwnedRelay;
pub(crate) use relay::Relay;
use switch::Judged;

/// A hold outlives its request's time by this, for the answer's body, before it counts as used.
const HOLD_SLACK: Duration = Duration::from_secs(60);

/// Sends a request on and relays the answer.
pub(crate) async fn serve(exchange: &mut Exchange) -> Result<Response<ResponseBody>, Rejection> {
    let timeouts = exchange.plan.route.timeouts;
    let deadline = exchange.deadline();
    exchange.from_web = exchange.grpc.is_some_and(|call| call.is_web()) && leads_to_grpc_alone(exchange);
    let pulse = Arc::new(Pulse::default());
    let body = outgoing(exchange, &pulse).await?;
    let (in_flight, limit_headers, permit) = match meets_limits(exchange) {
        true => Box::pin(admit(exchange, deadline)).await?,
        false => Admitted::default(),
    };
    let (copied, refusals) = (OnceLock::new(), AtomicU32::new(0));
    let (held, copied, refusals) = (in_flight.as_ref(), &copied, &refusals);
    let outgoing = Outgoing { body: &body, in_flight: held, deadline, copied, refusals };
    let sent = tokio::select! {
        biased;
        () = admit::permit_lost(permit.as_deref()) => Err(Failed::OutOfTouch),
        sent = attempts::send(exchange, outgoing) => sent,
    };
    let sent = match (exchange.handshake.take(), sent) {
        (Some(handshake), Ok(answer)) => match switch::judge(&handshake, answer) {
            Judged::Switched(answer) => {
                return switch::switched(exchange, &handshake, answer, (in_flight, limit_headers, permit));
            }
            Judged::Plain(sent) => sent,
        },
        (_, sent) => sent,
    };
    let held = match (in_flight, &sent) {
        (Some(in_flight), Ok(answer)) => Some(Held::new(in_flight, permit, answer.status())),
        (Some(in_flight), Err(Failed::NotDurable(_))) => {
            in_flight.void();
            None
        }
        (Some(in_flight), Err(_)) => {
            settle(in_flight, 0);
            None
        }
        (None, _) => None,
    };
    let answer = sent.map_err(|failed| failed.into_rejection().with_headers(&limit_headers))?;
    let (mut head, body) = answer.into_parts();
    sanitize_answer(&mut head.headers, &exchange.head.method, head.status);
    head.headers.extend(limit_headers);
    if !passes_trailers(&exchange.head) {
        head.headers.remove(header::TRAILER);
    }
    let trailers = head.headers.contains_key(header::TRAILER);
    let mut relay = Relay::new(body, timeouts.idle, exchange.ends_by(), trailers);
    if let Some(call) = exchange.grpc.filter(|_| grpc::is_grpc(&head.headers)) {
        if exchange.from_web {
            grpc::to_web(call, &mut head.headers);
        }
        relay = relay.of_call(pulse, exchange.from_web.then(|| grpc::Encoder::of(call)));
    }
    let taken_within = exchange.shared.config.bounds.taken_within;
    let mut response = Response::new(match held {
        Some(held) => ResponseBody::owned_relay(relay.holding(held, taken_within, &exchange.shared.last_words)),
        None => ResponseBody::relay(relay),
    });
    *response.status_mut() = head.status;
    *response.headers_mut() = head.headers;
    Ok(response)
}

/// Whether nobody else than services of gRPC can get this request.
fn leads_to_grpc_alone(exchange: &Exchange) -> bool {
    leads_to(exchange, |protocol| protocol == Protocol::Grpc)
}

/// Whether nobody else than services that are spoken to like this can get this request.
fn leads_to(exchange: &Exchange, alone: impl Fn(Protocol) -> bool) -> bool {
    let services = &exchange.compiled.services;
    let is_one = |upstream: &UpstreamRef| match upstream {
        UpstreamRef::Service(name) => services.get(name).is_none_or(|it| alone(it.service.protocol)),
        UpstreamRef::Provider(_) => false,
    };
    match &exchange.plan.route.action {
        RouteAction::Forward { backends, fallbacks } => {
            let fallbacks = fallbacks.iter().map(|fallback| &fallback.upstream);
            backends.iter().map(|backend| &backend.upstream).chain(fallbacks).all(is_one)
        }
        RouteAction::Redirect { .. } | RouteAction::Respond { .. } => false,
    }
}

/// Gives the route's own answer, which meets the route's limits like any other.
pub(crate) async fn answer(
    exchange: &mut Exchange,
    mut response: Response<ResponseBody>,
) -> Result<Response<ResponseBody>, Rejection> {
    let deadline = exchange.record.started() + exchange.plan.route.timeouts.request;
    let (in_flight, limit_headers, _permit) = match meets_limits(exchange) {
        true => admit(exchange, deadline).await?,
        false => Admitted::default(),
    };
    if let Some(in_flight) = in_flight {
        if let Err(rejection) = admit::durable(&in_flight, deadline).await {
            in_flight.void();
            return Err(rejection.with_headers(&limit_headers));
        }
        settle(in_flight, response.status().as_u16());
    }
    response.headers_mut().extend(limit_headers);
    Ok(response)
}

/// HTTP/2 always has a place for trailers; in HTTP/1.1 they are for clients that ask for them.
fn passes_trailers(head: &request::Parts) -> bool {
    match head.version {
        Version::HTTP_2 => true,
        Version::HTTP_11 => headers::takes_trailers(&head.headers),
        _ => false,
    }
}

/// The answer's framing is made anew from its body; where there is none, its length is only told.
fn sanitize_answer(headers: &mut HeaderMap, method: &Method, status: StatusCode) {
    let is_framed_anew = method != Method::HEAD && status != StatusCode::NOT_MODIFIED;
    headers::remove_hop_by_hop_and(headers, |name| {
        name.starts_with("x-tollgate-") || (is_framed_anew && name == header::CONTENT_LENGTH.as_str())
    });
}

/// A body of this size is read before it is sent on where there are fallbacks or retries, so that it can be sent again.
const REPLAY_BYTES: u64 = 64 * 1024;

/// The request's body: streamed, or here already.
async fn outgoing(exchange: &mut Exchange, pulse: &Arc<Pulse>) -> Result<Replay, BodyFault> {
    let limit = exchange.plan.route.body_limit_bytes;
    let route = &exchange.plan.route;
    let replay = route.retries.is_some() || !attempts::fallbacks(&route.action).is_empty();
    match exchange.body.take() {
        RequestBody::Unread(body) if body.is_end_stream() => Ok(Replay::Whole(Bytes::new())),
        // A call may say something now and then for as long as it likes, and each message is bounded by itself.
        RequestBody::Unread(body) if is_stream(exchange) => {
            Ok(Replay::client(ClientBody::of_call(body, limit, Arc::clone(pulse))))
        }
        RequestBody::Unread(body) => {
            let is_short = body.size_hint().exact().is_some_and(|size| size <= REPLAY_BYTES);
            let is_text = exchange.from_web && exchange.grpc.is_some_and(|call| call.framing == Framing::WebText);
            let body = ClientBody::new(body, limit)?.decoded(is_text);
            if !(replay && is_short) {
                return Ok(Replay::client(body));
            }
            let room = exchange.room.insert(exchange.shared.overload.room(exchange::rank(exchange)));
            Box::pin(body.collect(room)).await.map(Replay::Whole)
        }
        RequestBody::Read(bytes, _) => Ok(Replay::Whole(bytes)),
    }
}

/// Whether its messages go both ways at their own pace: what HTTP/2 alone can do, on both sides. A service of HTTP/1.1 gets a body
/// like any other, whatever its client calls it.
fn is_stream(exchange: &Exchange) -> bool {
    let is_call = exchange.head.version == Version::HTTP_2 && exchange.grpc.is_some_and(|call| !call.is_web());
    is_call && leads_to(exchange, |protocol| protocol != Protocol::Http)
}

type Admitted = (Option<InFlight>, HeaderMap, Option<Arc<Touch>>);

/// Nothing is recorded of a request that meets none: it uses no tokens.
fn meets_limits(exchange: &Exchange) -> bool {
    exchange.compiled.view.limits_for(exchange.subject(None)).next().is_some()
}

/// A request meets its limits; it may be sent once it is durable.
async fn admit(exchange: &mut Exchange, deadline: Instant) -> Result<Admitted, Rejection> {
    let subject = exchange.subject(None);
    let view = &exchange.compiled.view;
    let hold_for = exchange.plan.route.timeouts.request + HOLD_SLACK;
    let terms = Terms { at_least: Durability::Memory, hold_for, deadline, whose: None };
    let admitted = admit::admit(&exchange.shared, view, subject, Need::default(), terms).await?;
    let attribution = Attribution {
        request_id: exchange.record.request_id.as_str().to_owned(),
        tenant: subject.tenant.unwrap_or_default().to_owned(),
        consumer: subject.consumer.unwrap_or_default().to_owned(),
        route: subject.route.to_owned(),
        ..Attribution::default()
    };
    exchange.record.unprotected = admit::unprotected(&admitted.reservation);
    Ok((Some(admitted.reservation.dispatch(attribution)), admitted.headers, admitted.permit))
}

/// A request that got no answer was still one request.
pub(crate) fn settle(in_flight: InFlight, status: u16) {
    let mut attribution = in_flight.attribution().clone();
    attribution.status = status.into();
    in_flight.settle(Usage::default(), Outcome::Settled, attribution);
}
