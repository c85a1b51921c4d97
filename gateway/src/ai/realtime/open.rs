//! A session begins: somebody is asked for it, and has agreed.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use hyper::upgrade::{self, OnUpgrade};
use tokio::time::Instant;
use tollgate_llm::{Dialect, code};
use tollgate_model::{Failure, RouteAction, UpstreamRef};

use super::{
    super::{
        admit::{self, Candidate},
        provider,
    },
    encoded,
    hold::Whose,
    parameters,
    relay::Realtime,
    session::{Policy, Session},
};
use crate::{
    balance::Tried,
    body::{ResponseBody, UpstreamRequestBody},
    error::Rejection,
    exchange::Exchange,
    retry,
    upstream::{Detour, KeyTaken, NotTaken, ProviderUpstream, SendError, UpstreamBody, Within},
    websocket::{Handshake, Tunnel},
};

/// As long as OpenAI lets one last.
const LONGEST_SESSION: Duration = Duration::from_secs(3_600);

/// Asks the route's backend, and its fallbacks, for a session.
pub(in crate::ai) async fn open(exchange: &mut Exchange) -> Result<Response<ResponseBody>, Rejection> {
    let model = asked_model(exchange)?;
    exchange.record.model = Some(model.chars().take(100).collect());
    exchange.model = Some(model.clone());
    let may_switch = exchange.record.connection().may_switch();
    let handshake = Handshake::read(&exchange.head, may_switch)?;
    let plan = Arc::clone(&exchange.plan);
    let RouteAction::Forward { fallbacks, .. } = &plan.route.action else { return Err(Rejection::route_not_found()) };
    let mut last: Option<Failed> = None;
    for candidate in admit::candidates(exchange)? {
        let failure = last.as_ref().and_then(|failed| failed.failure);
        let wanted = candidate.fallback.is_none_or(|at| failure.is_some_and(|it| fallbacks[at].on.contains(it)));
        if !wanted || last.is_some() && Instant::now() >= deadline(exchange) {
            continue;
        }
        match ask(exchange, &candidate, &handshake, &model).await {
            Ok((answer, whose)) => return agreed(exchange, &handshake, answer, whose),
            Err(failed) => last = Some(failed),
        }
    }
    Err(last.map_or_else(Rejection::no_healthy_upstream, |failed| failed.rejection))
}

/// Of all that the API takes in the query, `model` alone is about a session that begins here.
fn asked_model(exchange: &Exchange) -> Result<String, Rejection> {
    let mut model = None;
    for (name, value) in parameters(exchange.target.query.as_deref()) {
        if name != "model" {
            let shown: String = name.chars().take(60).collect();
            let message = format!("The query parameter `{shown}` of realtime sessions is not supported.");
            return Err(Rejection::not_supported(message));
        }
        if value.is_empty() || model.replace(value).is_some() {
            return Err(Rejection::invalid("The query has to name one `model`."));
        }
    }
    model.ok_or_else(|| Rejection::invalid("A realtime session needs a `model`: `/v1/realtime?model=…`."))
}

fn deadline(exchange: &Exchange) -> Instant {
    exchange.record.started() + exchange.plan.route.timeouts.request
}

struct Failed {
    failure: Option<Failure>,
    rejection: Rejection,
}

impl Failed {
    fn for_good(rejection: Rejection) -> Self {
        Self { failure: None, rejection }
    }

    fn not_there() -> Self {
        Self { failure: Some(Failure::Connect), rejection: Rejection::no_healthy_upstream() }
    }
}

impl From<SendError> for Failed {
    fn from(error: SendError) -> Self {
        Self { failure: error.failure(), rejection: error.into() }
    }
}

async fn ask(
    exchange: &mut Exchange,
    candidate: &Candidate,
    handshake: &Handshake,
    model: &str,
) -> Result<(Response<UpstreamBody>, Whose), Failed> {
    let UpstreamRef::Provider(name) = &candidate.upstream else { return Err(Failed::not_there()) };
    let provider = exchange.compiled.providers.get(name).cloned().ok_or_else(Failed::not_there)?;
    if provider::dialect(provider.provider.dialect) != Dialect::OpenAi {
        let message = format!("Provider `{name}` has no realtime API: its type is not `openai`.");
        return Err(Failed { failure: Some(Failure::Connect), rejection: Rejection::not_supported(message) });
    }
    let served = admit::served_model(exchange, candidate, model);
    let whose = whose(exchange, &provider, model, served);
    let compiled = Arc::clone(&exchange.compiled);
    let pricing = whose.pricing(&compiled, &whose.attribution(&compiled));
    whose.is_priced(&pricing).map_err(Failed::for_good)?;
    exchange.record.upstream = Some(name.clone());
    let meant = provider.part(candidate.subset.as_ref()).ok_or_else(Failed::not_there)?;
    let answer = send(exchange, &meant, handshake, &whose.served).await;
    if answer.is_err() {
        exchange.shared.metrics.attempt(name, "refused"); // what is answered are its responses
    }
    Ok((answer?, whose))
}

async fn send(
    exchange: &Exchange,
    provider: &ProviderUpstream,
    handshake: &Handshake,
    served: &str,
) -> Result<Response<UpstreamBody>, Failed> {
    let draw = retry::draw(exchange, &provider.endpoints);
    let tried = &mut Tried::default();
    let mut taken = provider.endpoints.take(&draw, tried).map_err(|NotTaken| Failed::not_there())?;
    let key = provider.keys.take(&mut Tried::default());
    let wire = provider.wire.of_upgrades().ok_or_else(|| {
        Failed::for_good(Rejection::not_supported("This provider is spoken to by HTTP/2, which has no such upgrade."))
    })?;
    let uri = taken.uri(&format!("/realtime?model={}", encoded(served))).ok_or_else(Failed::not_there)?;
    let mut request = Request::new(UpstreamRequestBody::Whole(None));
    *request.method_mut() = Method::GET;
    *request.uri_mut() = uri;
    *request.headers_mut() = headers(exchange, provider, handshake, key.as_ref());
    let deadline = deadline(exchange);
    let mut within = Within::new(exchange.plan.route.timeouts.first_byte, deadline);
    let pool = &exchange.shared.pool;
    let place = pool.place(&wire, request.uri(), taken.at());
    exchange.record.is_sent_on();
    let detour = Detour::new(&mut taken, tried, &wire);
    let sent = pool.send_by(&mut within, place, request, detour).await;
    sent.iter().for_each(|answer| exchange.record.came_over(answer.body().connection()));
    let answer = match sent {
        Ok(answer) => answer,
        Err(error) => {
            if !(error.is_ours() || error == SendError::Refused)
                && retry::had_time(within.since(), deadline, exchange.plan.route.timeouts.request)
            {
                taken.has_failed(|| None);
            }
            return Err(error.into());
        }
    };
    let status = answer.status();
    // How long a handshake takes says nothing of calls.
    if status.is_server_error() {
        taken.has_failed(|| None)
    } else {
        taken.is_fine(|| None)
    }
    if status == StatusCode::SWITCHING_PROTOCOLS
        && handshake.is_met(answer.headers())
        && !answer.headers().contains_key(header::SEC_WEBSOCKET_EXTENSIONS)
    {
        key.into_iter().for_each(KeyTaken::was_taken);
        return Ok(answer.map(|body| body.of(taken)));
    }
    if let (StatusCode::UNAUTHORIZED | StatusCode::TOO_MANY_REQUESTS, Some(key)) = (status, key) {
        key.was_refused(status.as_u16(), Duration::ZERO);
    }
    Err(refused(status))
}

/// The client's headers, but for what is about its connection, its credential, and what would make frames unreadable.
fn headers(
    exchange: &Exchange,
    provider: &ProviderUpstream,
    handshake: &Handshake,
    key: Option<&KeyTaken>,
) -> HeaderMap {
    let mut headers = provider::outgoing_headers(exchange, provider, key.and_then(KeyTaken::value));
    for name in [header::CONTENT_TYPE, header::SEC_WEBSOCKET_EXTENSIONS] {
        headers.remove(name);
    }
    handshake.ask(&mut headers);
    headers
}

fn refused(status: StatusCode) -> Failed {
    let told = status.as_u16();
    let message = format!("The provider did not agree to a realtime session: its status is {told}.");
    let rejection = match status {
        StatusCode::BAD_REQUEST => Rejection::invalid(message),
        StatusCode::NOT_FOUND => Rejection::new(404, code::MODEL_NOT_FOUND, message),
        StatusCode::TOO_MANY_REQUESTS => Rejection::new(429, code::RATE_LIMIT_EXCEEDED, message),
        _ => Rejection::upstream_error(message),
    };
    let failure = if status.is_client_error() || status.is_server_error() { told } else { 502 };
    Failed { failure: Some(Failure::Status(failure)), rejection }
}

fn whose(exchange: &Exchange, provider: &ProviderUpstream, model: &str, served: String) -> Whose {
    let longest = exchange.plan.route.timeouts.stream.map_or(LONGEST_SESSION, |route| route.min(LONGEST_SESSION));
    Whose {
        shared: Arc::clone(&exchange.shared),
        caller: exchange.record.caller.clone(),
        plan: Arc::clone(&exchange.plan),
        model: model.to_owned(),
        provider: provider.provider.name.clone(),
        served,
        address: exchange.client_address(),
        headers: exchange.head.headers.clone(),
        credentials: exchange.credentials.clone(),
        query: exchange.target.query.clone(),
        ends_by: exchange.record.started() + longest,
    }
}

/// The answer to the caller, with whom its connection goes on.
fn agreed(
    exchange: &mut Exchange,
    handshake: &Handshake,
    mut answer: Response<UpstreamBody>,
    whose: Whose,
) -> Result<Response<ResponseBody>, Rejection> {
    let upstream = upgrade::on(&mut answer);
    let (head, endpoint) = answer.into_parts();
    let client = exchange.head.extensions.remove::<OnUpgrade>();
    let Some(client) = client.or_else(|| exchange.record.connection().switch.take()) else {
        return Err(Rejection::not_supported("This connection can't be switched to a WebSocket."));
    };
    let provider = exchange.compiled.providers.get(&whose.provider).cloned();
    let mut headers = match &provider {
        Some(provider) => provider::answer_headers(head.headers, provider, &whose.served),
        None => HeaderMap::new(),
    };
    headers.remove(header::CONTENT_LENGTH);
    let mut response = Response::new(ResponseBody::full(bytes::Bytes::new()));
    *response.status_mut() = handshake.tell(&mut headers);
    *response.headers_mut() = headers;
    let policy = exchange.plan.route.tokens;
    let max = policy.max.unwrap_or(u64::MAX);
    let session = Session::new(Policy { default: policy.default.min(max), max });
    let max_bytes = usize::try_from(exchange.plan.route.body_limit_bytes).unwrap_or(usize::MAX);
    let (idle, ends_by) = (exchange.plan.route.timeouts.idle, Some(whose.ends_by));
    let realtime = Some(Box::new(Realtime::new(session, Arc::new(whose), max_bytes)));
    exchange.record.tunnel =
        Some(Box::new(Tunnel { client, upstream, idle, ends_by, in_flight: None, permit: None, endpoint, realtime }));
    Ok(response)
}
