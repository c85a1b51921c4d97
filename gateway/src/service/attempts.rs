//! One request, sent to one upstream after another until one answers as it should.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU32, Ordering},
};

use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use parking_lot::Mutex;
use tokio::time::Instant;
use tollgate_llm::code;
use tollgate_model::{Failure, Fallback, Protocol, RouteAction, Subset, UpstreamRef};
use tollgate_quota::InFlight;

use super::{hedge, mirror};
use crate::{
    balance::Tried,
    body::{Replay, UpstreamRequestBody},
    error::Rejection,
    exchange::Exchange,
    filters::admit::{PERMIT_LOST, durable},
    grpc, headers,
    retry::{self, Left, Met},
    upstream::{Detour, NotTaken, SendError, ServiceUpstream, Taken, UpstreamBody, Within},
};

/// What is sent, and the hold on the limits that it meets, if any.
#[derive(Clone, Copy)]
pub(super) struct Outgoing<'a> {
    pub(super) body: &'a Replay,
    pub(super) in_flight: Option<&'a InFlight>,
    pub(super) deadline: Instant,
    /// Whether its copy is made, if it has one: with the first attempt, and once.
    pub(super) copied: &'a OnceLock<()>,
    /// How often upstreams did not take it.
    pub(super) refusals: &'a AtomicU32,
}

/// The backend whose turn it is, then the fallbacks that are for what happened before; each as often as the route's retries
/// allow, which are for all of them together.
pub(super) async fn send(exchange: &mut Exchange, outgoing: Outgoing<'_>) -> Result<Response<UpstreamBody>, Failed> {
    let plan = Arc::clone(&exchange.plan);
    let backend = exchange.select(&plan).ok_or(Failed::NoUpstream)?;
    let mut left = Left::of(&plan.route);
    let mut last = ask(exchange, (&backend.upstream, backend.subset.as_ref()), outgoing, &mut left).await;
    for fallback in fallbacks(&plan.route.action) {
        if Instant::now() >= outgoing.deadline {
            break; // nobody could answer any more
        }
        if failure(&last).is_some_and(|failure| fallback.on.contains(failure)) && outgoing.body.body().is_some() {
            let to = (&fallback.upstream, fallback.subset.as_ref());
            last = Box::pin(ask(exchange, to, outgoing, &mut left)).await;
        }
    }
    last
}

pub(super) fn fallbacks(action: &RouteAction) -> &[Fallback] {
    match action {
        RouteAction::Forward { fallbacks, .. } => fallbacks,
        RouteAction::Redirect { .. } | RouteAction::Respond { .. } => &[],
    }
}

/// Why an attempt brought no answer.
#[derive(Debug)]
pub(super) enum Failed {
    /// The upstream is not there, or not of this kind.
    NoUpstream,
    /// A WebSocket, to an upstream that is spoken to by HTTP/2.
    NoWebSocket,
    /// The upstream was asked for a WebSocket, and its answer is neither yes nor no.
    NotSwitched,
    /// It could not be written down in time, so that nothing was sent.
    NotDurable(Rejection),
    /// Its permit may soon be given to others, so it was not waited for.
    OutOfTouch,
    Send(SendError),
}

impl Failed {
    pub(super) fn into_rejection(self) -> Rejection {
        match self {
            Self::NoUpstream => Rejection::no_healthy_upstream(),
            Self::NoWebSocket => {
                Rejection::not_supported("A WebSocket needs a service with `protocol: http` or `https`.")
            }
            Self::NotSwitched => {
                Rejection::upstream_error("The upstream did not switch to a WebSocket as it was asked to.")
            }
            Self::NotDurable(rejection) => rejection,
            Self::OutOfTouch => Rejection::new(503, code::QUOTA_UNAVAILABLE, PERMIT_LOST),
            Self::Send(error) => error.into(),
        }
    }
}

fn failure(result: &Result<Response<UpstreamBody>, Failed>) -> Option<Failure> {
    match result {
        Ok(answer) => Some(Failure::Status(answer.status().as_u16())),
        Err(Failed::NoUpstream) => Some(Failure::Connect),
        Err(Failed::NoWebSocket | Failed::NotSwitched | Failed::NotDurable(_) | Failed::OutOfTouch) => None,
        Err(Failed::Send(error)) => error.failure(),
    }
}

/// As a route's retries see it. None where nothing was sent.
fn met(result: &Result<Response<UpstreamBody>, Failed>, method: &Method) -> Option<Met> {
    let (may_have_begun, retry_after) = match result {
        Ok(answer) => (false, retry::retry_after(answer.headers())),
        Err(Failed::Send(error)) => (error.is_billable(), None),
        Err(
            Failed::NoUpstream | Failed::NoWebSocket | Failed::NotSwitched | Failed::NotDurable(_) | Failed::OutOfTouch,
        ) => return None,
    };
    Some(Met { failure: failure(result)?, may_have_begun, is_idempotent: method.is_idempotent(), retry_after })
}

/// One upstream: another endpoint each time, where there is one.
async fn ask(
    exchange: &mut Exchange,
    (upstream, subset): (&UpstreamRef, Option<&Subset>),
    outgoing: Outgoing<'_>,
    left: &mut Left<'_>,
) -> Result<Response<UpstreamBody>, Failed> {
    let UpstreamRef::Service(name) = upstream else { return Err(Failed::NoUpstream) };
    let service = exchange.compiled.services.get(name).ok_or(Failed::NoUpstream)?;
    let service = service.part(subset);
    exchange.record.upstream = Some(name.clone());
    let service = service.ok_or(Failed::NoUpstream)?;
    if exchange.handshake.is_some() && service.wire.of_upgrades().is_none() {
        return Err(Failed::NoWebSocket);
    }
    let tried = Mutex::default();
    let mut result = hedge::attempt(exchange, &service, &tried, outgoing, left).await;
    while let Some(met) = met(&result, &exchange.head.method).filter(|_| outgoing.body.body().is_some()) {
        // Kept until the next answer is there.
        let so_far = *tried.lock();
        let waiting = Box::pin(left.wait(&service.endpoints, &so_far, met, outgoing.deadline));
        let Some(_leave) = waiting.await else { break };
        drop(result);
        result = Box::pin(hedge::attempt(exchange, &service, &tried, outgoing, left)).await;
    }
    result
}

pub(super) type Answered = Result<Response<UpstreamBody>, Failed>;

/// `tried` is told of whom it is sent to, as it is.
pub(super) async fn attempt(
    exchange: &Exchange,
    service: &ServiceUpstream,
    tried: &Mutex<Tried>,
    outgoing: Outgoing<'_>,
) -> Answered {
    let mut result = once(exchange, service, tried, outgoing, Blame::NotRefused).await;
    // Nothing was begun, so it may be sent again whatever it is (RFC 9113 §8.7).
    while matches!(result, Err(Failed::Send(SendError::Refused))) {
        let refusals = outgoing.refusals.fetch_add(1, Ordering::Relaxed);
        if refusals >= REFUSALS || outgoing.body.body().is_none() || Instant::now() >= outgoing.deadline {
            break;
        }
        let leave = if refusals == 0 { Some(service.endpoints.again_anyway()) } else { service.endpoints.again() };
        let Some(_leave) = leave else { break };
        result = Box::pin(once(exchange, service, tried, outgoing, Blame::Always)).await;
    }
    // The connection may have been a kept one that the upstream closed just now: safe requests are sent once more.
    let was_reset = matches!(result, Err(Failed::Send(SendError::Reset)));
    if was_reset && is_repeatable(&exchange.head.method, outgoing.body) && Instant::now() < outgoing.deadline {
        // As any other that is sent again, or an upstream that resets all would have twice as much to do.
        if let Some(_leave) = service.endpoints.again() {
            result = Box::pin(once(exchange, service, tried, outgoing, Blame::Once)).await;
        }
    }
    let label = match &result {
        Ok(_) => "answered",
        Err(Failed::Send(error)) => error.label(),
        Err(
            Failed::NoUpstream | Failed::NoWebSocket | Failed::NotSwitched | Failed::NotDurable(_) | Failed::OutOfTouch,
        ) => "unasked",
    };
    exchange.shared.metrics.attempt(&service.service.name, label);
    result
}

/// Idempotent (RFC 9110 §9.2.2), and its body is still here.
fn is_repeatable(method: &Method, body: &Replay) -> bool {
    method.is_idempotent() && body.body().is_some()
}

/// So often a request is sent again that an upstream did not take, beside what its route says.
const REFUSALS: u32 = 2;

/// Whether an endpoint that fails is to blame.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Blame {
    Always,
    /// Not where it did not take the request: it goes away, or has others to do.
    NotRefused,
    /// Not where it was blamed for the same request already.
    Once,
}

async fn once(
    exchange: &Exchange,
    service: &ServiceUpstream,
    tried: &Mutex<Tried>,
    Outgoing { body: replay, in_flight, deadline, copied, .. }: Outgoing<'_>,
    blame: Blame,
) -> Result<Response<UpstreamBody>, Failed> {
    let body = replay.body().ok_or(Failed::Send(SendError::Reset))?;
    let draw = retry::draw(exchange, &service.endpoints);
    let before = *tried.lock();
    let mut mine = before;
    let mut taken = service.endpoints.take(&draw, &mut mine).map_err(|NotTaken| Failed::NoUpstream)?;
    *tried.lock() = mine;
    let request = request(exchange, service, &taken, body).ok_or(Failed::Send(SendError::Connect))?;
    let (pool, upgraded) = (&exchange.shared.pool, service.wire.of_upgrades());
    let wire = if exchange.handshake.is_some() { &upgraded.ok_or(Failed::NoWebSocket)? } else { &service.wire };
    let place = pool.place(wire, request.uri(), taken.at());
    if let Some(in_flight) = in_flight.filter(|it| !it.is_durable()) {
        pool.connect_ahead(place.as_ref());
        Box::pin(durable(in_flight, deadline)).await.map_err(Failed::NotDurable)?;
    }
    // Not before: of what is refused because it can't be written down no upstream sees anything.
    if exchange.handshake.is_none() {
        copied.get_or_init(|| mirror::copy(exchange, replay));
    }
    let timeouts = exchange.plan.route.timeouts;
    exchange.record.is_sent_on();
    let mut within = Within::new(timeouts.first_byte, deadline);
    let detour = Detour::new(&mut taken, &mut mine, wire);
    let sent = pool.send_by(&mut within, place, request, detour).await;
    let asked = within.since();
    tried.lock().add(&mine);
    sent.iter().for_each(|answer| exchange.record.came_over(answer.body().connection()));
    let sent = sent.map_err(|error| replay.fault().map_or(error, SendError::Client));
    let is_spared = blame == Blame::Once && taken.is_among(&before);
    match &sent {
        Ok(answer) if answer.status().is_server_error() => taken.has_failed(|| None),
        // What is refused is so at once, and who waits for a client is not slow.
        Ok(answer) => {
            taken.is_fine(|| (answer.status().as_u16() < 400 && replay.is_here()).then(|| asked.elapsed()));
        }
        // A client that sends slowly makes no endpoint bad.
        Err(SendError::Timeout) if !replay.is_here() => {}
        Err(SendError::Client(_) | SendError::NoFile | SendError::Full) => {}
        Err(SendError::Refused) if blame == Blame::NotRefused => {}
        Err(_) if is_spared || !retry::had_time(asked, deadline, timeouts.request) => {}
        Err(error) => taken.has_failed(|| matches!(error, SendError::Timeout).then(|| asked.elapsed())),
    }
    match sent {
        Ok(answer) => Ok(answer.map(|body| body.of(taken))),
        Err(SendError::Full) => Err(Failed::NoUpstream),
        Err(error) => Err(Failed::Send(error)),
    }
}

/// Built anew: the path is the one that was matched, or what the route makes of it.
fn request(
    exchange: &Exchange,
    service: &ServiceUpstream,
    taken: &Taken,
    body: UpstreamRequestBody,
) -> Option<Request<UpstreamRequestBody>> {
    let mut request = Request::new(body);
    *request.method_mut() = exchange.head.method.clone();
    *request.uri_mut() = taken.uri_of(exchange.outgoing_target()?)?;
    *request.headers_mut() = outgoing_headers(exchange, service)?;
    if let Some(ends_by) = exchange.grpc.and(exchange.ends_by()) {
        grpc::set_timeout(request.headers_mut(), ends_by.saturating_duration_since(Instant::now()));
    }
    if let Some(handshake) = &exchange.handshake {
        handshake.ask(request.headers_mut());
    }
    Some(request)
}

/// Nothing of the client's framing or identity is in them.
pub(super) fn outgoing_headers(exchange: &Exchange, service: &ServiceUpstream) -> Option<HeaderMap> {
    let trailers = headers::takes_trailers(&exchange.head.headers);
    let needs_trailers = service.service.protocol == Protocol::Grpc || (trailers && exchange.grpc.is_some());
    let record = &exchange.record;
    let mut headers = headers::sanitized_request(&exchange.head.headers, &record.request_id, &record.trace);
    let connection = exchange.record.connection();
    let trusted = connection.is_known && exchange.shared.config.trusts(connection.peer.ip());
    let host = exchange.host()?;
    headers::set_forwarded(&mut headers, connection.peer_address(), trusted, &host, &connection.scheme());
    if let Some(client) = connection.client() {
        headers::add_client_certificate(&mut headers, client);
    }
    if let Some(caller) = &exchange.record.caller {
        headers::add_identity(&mut headers, &caller.consumer.name, &caller.tenant.name);
    }
    if let Some(traffic) = &exchange.plan.route.traffic {
        traffic.request_headers.apply(&mut headers);
    }
    exchange.shared.hop.add(&mut headers);
    match service.service.protocol {
        Protocol::Http => {
            let host = exchange.outgoing_host().map_or(Some(host), |told| told.try_into().ok())?;
            headers.insert(header::HOST, host);
        }
        Protocol::Grpc | Protocol::Https if needs_trailers => tell_te(&mut headers),
        // TLS and HTTP/2 name the endpoint itself, and `x-forwarded-host` what the client asked for: two different
        // names in one HTTP/2 request would be ambiguous.
        Protocol::Https => {}
        Protocol::H2c | Protocol::H2 if trailers => tell_te(&mut headers),
        Protocol::H2c | Protocol::H2 | Protocol::Grpc => {}
    }
    if exchange.from_web {
        grpc::to_grpc(&mut headers);
    }
    Some(headers)
}

fn tell_te(headers: &mut HeaderMap) {
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
}
