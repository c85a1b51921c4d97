//! One exchange: from a request's head to its answer, by one configuration.

mod admission;
mod refuse;
mod routed;

use std::{net::IpAddr, sync::Arc};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header, request, uri::PathAndQuery,
};
use http_body::Body as _;
use hyper::{body::Incoming, upgrade::OnUpgrade};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tollgate_llm::{AiRequest, Dialect, Operation};
use tollgate_model::{Backend, BillingMode, Caller, Currency, RouteAction, Sent, Subject, Traffic};

pub(crate) use self::admission::rank;
use self::routed::{Routed, route, settle_route};
use crate::{
    ai,
    body::{Arriving, ClientBody, ResponseBody},
    compiled::Compiled,
    error::{CloseAfter, Rejection},
    filters::{self, admit::Knows, cors, rewrite::Rewritten},
    gateway::Shared,
    grpc, headers,
    listener::Connection,
    normalize::Target,
    overload::{Room, Short},
    record::Record,
    request_id::X_REQUEST_ID,
    routing::{Asker, Plan},
    service,
    websocket::{Handshake, Wish},
};

/// What one exchange knows once its route is found and its caller is let in.
pub(crate) struct Exchange {
    pub(crate) shared: Arc<Shared>,
    pub(crate) compiled: Arc<Compiled>,
    pub(crate) plan: Arc<Plan>,
    /// Which of the route's matches took it.
    matched: usize,
    pub(crate) head: request::Parts,
    pub(crate) target: Target,
    /// What a service is asked for in place of that.
    rewritten: Option<Box<Rewritten>>,
    /// That the caller is to be told.
    cookie: Option<HeaderValue>,
    pub(crate) body: RequestBody,
    /// What it takes of this node's memory, once it was read.
    pub(crate) room: Option<Room>,
    /// Asked for, once that was read.
    pub(crate) model: Option<String>,
    /// Whether who calls was found out, if only that it is nobody in particular.
    identified: bool,
    /// Taken out of the headers; kept only where some limit asks for them.
    pub(crate) credentials: Option<Box<HeaderMap>>,
    /// Where it is a call of gRPC.
    pub(crate) grpc: Option<grpc::Call>,
    /// Such a call came by gRPC-Web, and goes on as gRPC.
    pub(crate) from_web: bool,
    /// Where it asks a service for a WebSocket.
    pub(crate) handshake: Option<Box<Handshake>>,
    pub(crate) record: Box<Record>,
}

/// A request's body, read already where the route depended on it.
pub(crate) enum RequestBody {
    Unread(Arriving),
    /// All of it, and what was read in it.
    Read(Bytes, Option<AiRequest>),
}

impl RequestBody {
    /// The body; an empty one is left in its place.
    pub(crate) fn take(&mut self) -> Self {
        std::mem::replace(self, Self::Read(Bytes::new(), None))
    }
}

impl Exchange {
    fn authenticate(&mut self) -> Result<Option<Caller>, Rejection> {
        if self.plan.route.is_ai() && ai::realtime::is_asked_for(&self.head, &self.target.path) {
            ai::realtime::take_key(&mut self.head.headers);
        }
        if self.compiled.view.limits_by_credential() {
            let headers = &self.head.headers;
            self.credentials.get_or_insert_with(|| Box::new(filters::credentials(headers)));
        }
        let caller = filters::authenticate(&self.compiled.view, &self.plan.route, &mut self.head.headers)?;
        self.identified = true;
        Ok(caller)
    }

    /// For an answer before the filters had their turn: it is one of this route's, to whoever calls.
    fn answers_early(&mut self) {
        self.record.route = Some(self.plan.route.name.clone());
        self.record.caller = self.authenticate().unwrap_or(None);
    }

    /// Says how the route's limits stand, on an answer that does not say it yet because nothing was reserved for it.
    fn tell_limits(&self, headers: &mut HeaderMap) {
        // Without a route in the record none was found in the end.
        if self.record.route.is_none() || filters::are_told(headers) {
            return;
        }
        let knows = Knows { caller: self.identified, model: self.model.is_some() || !self.plan.route.is_ai() };
        let subject = self.subject(self.model.as_deref());
        headers.extend(filters::admit::peek(&self.shared, &self.compiled.view, subject, knows));
    }

    /// What limits know of this request.
    pub(crate) fn subject<'a>(&'a self, model: Option<&'a str>) -> Subject<'a> {
        let caller = self.record.caller.as_ref();
        Subject {
            tenant: caller.map(|caller| caller.tenant.name.as_str()),
            consumer: caller.map(|caller| caller.consumer.name.as_str()),
            route: &self.plan.route.name,
            model,
            provider: None,
            // Only calls of a model are billed.
            currency: model.and_then(|_| self.currency()),
            ip: Some(self.client_address()),
            sent: Some(Sent {
                headers: Some(&self.head.headers),
                credentials: self.credentials.as_deref(),
                query: self.target.query.as_deref(),
            }),
        }
    }

    /// What its tenant is billed in, if it is billed.
    pub(crate) fn currency(&self) -> Option<Currency> {
        let billing = &self.record.caller.as_ref()?.tenant.billing;
        billing.currency.filter(|_| billing.mode != BillingMode::None)
    }

    /// The tenant, if it pays in advance.
    pub(crate) fn prepaid_tenant(&self) -> Option<&str> {
        let tenant = &self.record.caller.as_ref()?.tenant;
        (tenant.billing.mode == BillingMode::Prepaid).then_some(tenant.name.as_str())
    }

    /// The backend that this request is for.
    pub(crate) fn select<'p>(&mut self, plan: &'p Plan) -> Option<&'p Backend> {
        let asker = || Asker {
            headers: &self.head.headers,
            query: self.target.query.as_deref(),
            consumer: self.record.caller.as_ref().map(|caller| caller.consumer.name.as_str()),
            address: self.client_address(),
        };
        let (backend, told) = plan.select(asker, rand::random)?;
        if told.is_some() {
            self.cookie = told;
        }
        Some(backend)
    }

    /// When its answer's head has to be there.
    pub(crate) fn deadline(&self) -> Instant {
        let request = self.plan.route.timeouts.request;
        let told = self.grpc.and_then(|call| call.timeout);
        self.record.started() + told.map_or(request, |told| told.min(request))
    }

    /// When all of its answer has to be there.
    pub(crate) fn ends_by(&self) -> Option<Instant> {
        let (route, told) = (self.plan.route.timeouts.stream, self.grpc.and_then(|call| call.timeout));
        let whole = route.into_iter().chain(told).min()?;
        Some(self.record.started() + whole)
    }

    /// Path and query as a service is asked for them.
    pub(crate) fn outgoing_path(&self) -> String {
        match self.rewritten.as_ref().and_then(|rewritten| rewritten.path.as_ref()) {
            Some(path) => self.target.with_query(path),
            None => self.target.path_and_query(),
        }
    }

    /// The same, of which there is no copy where it is what came.
    pub(crate) fn outgoing_target(&self) -> Option<PathAndQuery> {
        let is_as_it_came = |it: &&PathAndQuery| it.path() == self.target.path && it.as_str().starts_with('/');
        match self.head.uri.path_and_query().filter(is_as_it_came) {
            Some(target) if self.rewritten.is_none() => Some(target.clone()),
            _ => self.outgoing_path().try_into().ok(),
        }
    }

    /// The host that a service is told in place of the one that was asked for.
    pub(crate) fn outgoing_host(&self) -> Option<&str> {
        self.rewritten.as_ref()?.host.as_deref()
    }

    /// The host that was asked for.
    pub(crate) fn host(&self) -> Option<HeaderValue> {
        let (host, came) = (self.target.host.as_str(), self.head.headers.get(header::HOST));
        match came.filter(|came| came.as_bytes() == host.as_bytes()) {
            Some(came) => Some(came.clone()),
            None => host.try_into().ok(),
        }
    }

    /// What the route does to its answers, whichever they are.
    fn dress(&self, headers: &mut HeaderMap) {
        // Without a route in the record none was found in the end.
        if let Some(traffic) = self.plan.route.traffic.as_deref().filter(|_| self.record.route.is_some()) {
            traffic.response_headers.apply(headers);
            if let Some(cors) = &traffic.cors {
                cors::dress(cors, &self.head.headers, headers);
            }
            if let Some(cookie) = &self.cookie {
                headers.append(header::SET_COOKIE, cookie.clone());
            }
        }
    }

    pub(crate) fn client_address(&self) -> IpAddr {
        let (config, connection) = (&self.shared.config, self.record.connection());
        let trusts = |address| connection.is_known && config.trusts(address);
        headers::client_address(&self.head.headers, connection.peer.ip(), trusts)
    }
}

/// Serves one request. Always answers: whatever goes wrong is an answer, too.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    connection: Arc<Connection>,
    request: Request<Incoming>,
    draining: CancellationToken,
) -> Response<ResponseBody> {
    let mut request = request;
    if request.version() < Version::HTTP_2
        && let Some(promised) = request.extensions_mut().remove::<OnUpgrade>()
    {
        connection.switch.keep(promised);
    }
    let refused = connection.take_request().map(|it| (it.why, it.path.clone()));
    let mut record = Record::open(Arc::clone(&shared), connection, &request);
    let path = refused.as_ref().and_then(|(_, path)| path.as_deref()).unwrap_or(request.uri().path());
    let (version, dialect) = (request.version(), dialect_of(path, request.headers()));
    // The status of an answer to CONNECT says whether it was agreed to: there a refusal is no 200.
    let call = grpc::Call::of(request.headers()).filter(|_| *request.method() != Method::CONNECT);
    let tasks = (version == Version::HTTP_2).then(|| shared.tasks.clone());
    let request = request.map(|body| Arriving::new(body, tasks));
    let rejection = match refused {
        Some((why, _)) => why.into(),
        None => match begin(shared, record, request).await {
            Ok((answer, record)) => return finish(answer, record, version, &draining),
            Err((rejection, returned)) => {
                record = returned;
                rejection
            }
        },
    };
    let refused = match call {
        Some(call) => {
            let is_over = call.timeout.is_some_and(|timeout| record.took() >= timeout);
            grpc::refuse(call, rejection, is_over)
        }
        None => rejection.into_response(dialect),
    };
    finish(refused, record, version, &draining)
}

/// The dialect of answers that no operation was found for.
fn dialect_of(path: &str, headers: &HeaderMap) -> Dialect {
    match Operation::from_path("POST", path) {
        Some(operation) => operation.dialect(),
        None if headers.contains_key("anthropic-version") => Dialect::Anthropic,
        None => Dialect::OpenAi,
    }
}

type Answered = Result<(Response<ResponseBody>, Box<Record>), (Rejection, Box<Record>)>;

/// The steps of every exchange, in order.
async fn begin(shared: Arc<Shared>, record: Box<Record>, request: Request<Arriving>) -> Answered {
    if shared.overload.is_full() {
        shared.overload.shed(Short::Requests);
        return Err((Rejection::overloaded(), record));
    }
    let (mut head, body) = request.into_parts();
    let compiled = shared.current();
    let Routed { target, plan, matched, needs_model } = match route(&shared, &compiled, &mut head, record.connection())
    {
        Ok(routed) => routed,
        Err(rejection) => return Err((rejection, record)),
    };
    let body = RequestBody::Unread(body);
    let (model, identified, credentials) = (None, false, None);
    let grpc = grpc::Call::of(&head.headers);
    let mut exchange = Exchange {
        shared,
        compiled,
        plan,
        matched,
        head,
        target,
        rewritten: None,
        cookie: None,
        body,
        room: None,
        model,
        identified,
        credentials,
        grpc,
        from_web: false,
        handshake: None,
        record,
    };
    let answered = match settle_route(&mut exchange, needs_model).await {
        Ok(()) => answer(&mut exchange).await,
        Err(rejection) => Err(rejection),
    };
    match answered {
        Ok(mut response) => {
            exchange.tell_limits(response.headers_mut());
            exchange.dress(response.headers_mut());
            Ok((response, exchange.record))
        }
        Err(mut rejection) => {
            exchange.tell_limits(rejection.headers_mut());
            exchange.dress(rejection.headers_mut());
            Err((rejection, exchange.record))
        }
    }
}

async fn answer(exchange: &mut Exchange) -> Result<Response<ResponseBody>, Rejection> {
    let plan = Arc::clone(&exchange.plan);
    let traffic = plan.route.traffic.as_deref();
    exchange.record.route = Some(plan.route.name.clone());
    if let Some(answer) = traffic.map(|traffic| before_authentication(exchange, traffic)).transpose()?.flatten() {
        return Ok(answer);
    }
    exchange.record.caller = exchange.authenticate()?;
    admission::admit(exchange)?;
    if let Some(faults) = traffic.and_then(|traffic| traffic.faults.as_ref()) {
        Box::pin(filters::faults::inject(faults, &exchange.shared.metrics)).await?;
    }
    match &plan.route.action {
        RouteAction::Respond { status, body, headers } => {
            Box::pin(service::answer(exchange, fixed(*status, body.clone(), headers.clone()))).await
        }
        RouteAction::Redirect { to, status } => {
            let location = filters::rewrite::location(to, &exchange.target, plan.matched_path(exchange.matched))?;
            Box::pin(service::answer(exchange, redirect(*status, location))).await
        }
        // hyper moves an exchange's future before it begins, whatever it will do: what is not for all is not in it.
        RouteAction::Forward { .. } if plan.route.is_ai() => Box::pin(ai::serve(exchange)).await,
        RouteAction::Forward { .. } => {
            if let Some(rewrite) = traffic.and_then(|traffic| traffic.rewrite.as_ref()) {
                let matched = plan.matched_path(exchange.matched);
                exchange.rewritten = Some(Box::new(Rewritten::new(rewrite, &exchange.target, matched)?));
            }
            if Wish::of(&exchange.head) == Wish::WebSocket {
                let may_switch = exchange.record.connection().may_switch();
                let handshake = Handshake::read(&exchange.head, may_switch)?;
                exchange.handshake = Some(Box::new(handshake));
            }
            service::serve(exchange).await
        }
    }
}

/// Who is not let in, and preflights, which come without credentials.
fn before_authentication(exchange: &Exchange, traffic: &Traffic) -> Result<Option<Response<ResponseBody>>, Rejection> {
    if !refuse::lets_in(traffic, exchange.client_address()) {
        return Err(refuse::not_for_this_address());
    }
    let preflight = traffic.cors.as_ref().filter(|_| cors::asked_method(&exchange.head).is_some());
    let no_content = StatusCode::NO_CONTENT.as_u16();
    Ok(preflight.map(|cors| fixed(no_content, Bytes::new(), cors::preflight(cors, &exchange.head.headers))))
}

/// The whole body of an AI request, parsed.
pub(crate) async fn read_ai(
    method: &Method,
    path: &str,
    body: Arriving,
    limit: u64,
    room: &mut Room,
) -> Result<(Bytes, Option<AiRequest>), Rejection> {
    let body = ClientBody::new(body, limit)?.collect(room).await?;
    let operation = Operation::from_path(method.as_str(), path).filter(|operation| operation.has_body());
    let ai = operation.map(|operation| AiRequest::parse(operation, body.clone())).transpose()?;
    Ok((body, ai))
}

fn fixed(status: u16, body: Bytes, headers: HeaderMap) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::full(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    *response.headers_mut() = headers;
    response
}

fn redirect(status: u16, location: HeaderValue) -> Response<ResponseBody> {
    let mut response = fixed(status, Bytes::new(), HeaderMap::new());
    response.headers_mut().insert(header::LOCATION, location);
    response
}

/// What every answer gets: its id, whether the connection goes on, and the record that ends with it.
fn finish(
    mut response: Response<ResponseBody>,
    mut record: Box<Record>,
    version: Version,
    draining: &CancellationToken,
) -> Response<ResponseBody> {
    response.headers_mut().insert(&X_REQUEST_ID, record.request_id.header());
    let tunnel = record.tunnel.take();
    record.connection().decided(tunnel.is_some());
    if let Some(tunnel) = tunnel {
        record.answered(&response, false);
        record.connection_shared().switch.run(|cut| tunnel.run(record, cut));
        return response;
    }
    // What is answered whole reads no more of the request, so what is left of it ends the connection.
    let unread = response.body().is_whole() && record.connection().awaits_body();
    let leaving = draining.is_cancelled() || record.is_leaving();
    let closes = unread || response.extensions().get::<CloseAfter>().is_some() || leaving;
    if closes && version < Version::HTTP_2 {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    record.answered(&response, response.body().is_whole());
    let is_head = record.method == Method::HEAD;
    if is_head && version == Version::HTTP_2 && response.body().is_whole() {
        response = without_content(response);
    }
    if is_head || response.body().is_end_stream() {
        record.completed();
    }
    response.map(|body| body.recorded(record))
}

/// An answer to HEAD has no content (RFC 9110 §9.3.2), and says how long it would be. hyper sees to that in HTTP/1 alone; what an
/// upstream answers has none already.
fn without_content(response: Response<ResponseBody>) -> Response<ResponseBody> {
    let (mut head, body) = response.into_parts();
    if let Some(length) = body.size_hint().exact() {
        head.headers.entry(header::CONTENT_LENGTH).or_insert_with(|| length.into());
    }
    Response::from_parts(head, ResponseBody::full(Bytes::new()))
}
