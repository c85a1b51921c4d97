//! Connections to upstreams: pooled, kept alive, over clear text and TLS.

use std::sync::Arc;

use http::{HeaderMap, Request, Response, StatusCode, Uri, header, uri::PathAndQuery};
use hyper::body::Incoming;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, client::WantsClientCert};
use tokio::time::{Instant, timeout_at};
use tollgate_model::CircuitBreaker;
use tracing::warn;

use super::{
    At, Detour, SendError, UpstreamBody,
    breaker::Breaker,
    http1::Sent,
    http2::{Http2, OnStream, Stream},
    lane::{Connection, Given},
    lanes::{Dial, Lanes, Offered},
    means::Means,
    own::{Own, Speaks, Wanted},
    place::Place,
    within::Within,
};
use crate::{GatewayConfig, body::UpstreamRequestBody};

/// So many connections that all requests share may take one and give it back: more in a row are no chance.
const MAX_REFUSALS: u32 = 3;

/// How an upstream is spoken to.
#[derive(Debug, Clone)]
pub(crate) enum Wire {
    /// HTTP/1.1 in clear text; over TLS what ALPN says.
    Negotiated,
    /// HTTP/1.1, over TLS too: what is upgraded knows no other.
    Http1,
    /// HTTP/2, by prior knowledge.
    Http2,
    /// As this upstream wants it, and by connections that no other has.
    Own(Arc<Own>),
    /// The same by HTTP/1.1 alone.
    OwnHttp1(Arc<Own>),
}

impl Wire {
    /// The same, over the same connections.
    pub(crate) fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Own(one), Self::Own(other)) | (Self::OwnHttp1(one), Self::OwnHttp1(other)) => {
                Arc::ptr_eq(one, other)
            }
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }

    /// How the same upstream is asked for an upgrade. None where it speaks HTTP/2 alone.
    pub(crate) fn of_upgrades(&self) -> Option<Self> {
        match self {
            Self::Negotiated | Self::Http1 => Some(Self::Http1),
            Self::Own(own) | Self::OwnHttp1(own) if own.wanted.speaks == Speaks::Negotiated => {
                Some(Self::OwnHttp1(Arc::clone(own)))
            }
            Self::Http2 | Self::Own(_) | Self::OwnHttp1(_) => None,
        }
    }

    /// What bounds its upstream's connections, if anything does.
    pub(super) fn breaker(&self) -> Option<&Arc<Breaker>> {
        match self {
            Self::Own(own) | Self::OwnHttp1(own) => own.breaker.as_ref(),
            Self::Negotiated | Self::Http1 | Self::Http2 => None,
        }
    }
}

/// All upstream connections of a gateway.
pub(crate) struct Pool {
    negotiated: Arc<Lanes>,
    http1: Arc<Lanes>,
    http2: Arc<Lanes>,
    means: Means,
    roots: Arc<RootCertStore>,
}

impl Pool {
    pub(crate) fn new(config: &GatewayConfig, means: Means) -> Self {
        let roots = Arc::new(roots(config));
        let tls = tls(&roots);
        Self {
            negotiated: Lanes::new(Dial::https(&tls, Offered::Both), false, means.clone()),
            http1: Lanes::new(Dial::https(&tls, Offered::Http1), false, means.clone()),
            http2: Lanes::new(Dial::ClearText, true, means.clone()),
            means,
            roots,
        }
    }

    /// How an upstream is spoken to that has connections of its own. The same as before where nothing of that has changed, so that they
    /// stay; and those that were made otherwise before count still, as long as they are there.
    pub(crate) fn own(&self, wanted: Wanted, terms: CircuitBreaker, before: Option<&Wire>) -> Wire {
        let known = before.and_then(Wire::breaker).cloned();
        let breaker = known.or_else(|| terms.max_connections.map(|_| Breaker::within(terms)));
        match before {
            Some(Wire::Own(own)) if own.wanted.is(&wanted) && own.breaker.is_some() == breaker.is_some() => {
                Wire::Own(Arc::clone(own))
            }
            _ => Wire::Own(Arc::new(Own::new(wanted, &self.roots, breaker, &self.means))),
        }
    }

    /// A place on a connection to `uri`'s endpoint, where that is, for one request that will be sent.
    pub(crate) fn place(&self, wire: &Wire, uri: &Uri, at: Option<&At>) -> Option<Place> {
        let at = at?;
        match wire {
            Wire::Negotiated => self.negotiated.place(uri, at),
            Wire::Http1 => self.http1.place(uri, at),
            Wire::Http2 => self.http2.place(uri, at),
            Wire::Own(own) => own.any.place(uri, at),
            Wire::OwnHttp1(own) => own.http1.place(uri, at),
        }
    }

    /// Begins to connect for a request that may not be sent yet, if there is no connection for it. Nothing is sent.
    pub(crate) fn connect_ahead(&self, place: Option<&Place>) {
        place.into_iter().for_each(Place::connect_ahead);
    }

    /// Sends a request and waits for the answer's head. A request that had not begun to be sent on a kept connection
    /// that turned out to be dead is sent on another one; whether to do so with one that had is for the caller.
    pub(crate) async fn send(
        &self,
        place: Option<Place>,
        request: Request<UpstreamRequestBody>,
    ) -> Result<Response<UpstreamBody>, SendError> {
        self.ask(None, place, request, None).await
    }

    /// The same, and no longer than `within` says, which tells in the end since when the upstream was asked. A request that no connection had taken
    /// by then was never sent. Where its endpoint can't be reached it makes the `detour`.
    pub(crate) async fn send_by(
        &self,
        within: &mut Within,
        place: Option<Place>,
        request: Request<UpstreamRequestBody>,
        detour: impl Into<Option<Detour<'_>>>,
    ) -> Result<Response<UpstreamBody>, SendError> {
        self.ask(Some(within), place, request, detour.into()).await
    }

    async fn ask(
        &self,
        mut within: Option<&mut Within>,
        place: Option<Place>,
        mut request: Request<UpstreamRequestBody>,
        mut detour: Option<Detour<'_>>,
    ) -> Result<Response<UpstreamBody>, SendError> {
        let mut place = place.ok_or(SendError::Connect)?;
        let path = request.uri().path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
        let may_switch = request.headers().contains_key(header::UPGRADE);
        let mut refusals = 0;
        loop {
            let Given { connection, is_kept } = match place.lane.take() {
                Some(connection) => Given { connection, is_kept: true },
                // Seldom, and large.
                None => Box::pin(reached(self, within.as_deref_mut(), &mut place, detour.as_mut())).await?,
            };
            let by = within.as_ref().map(|within| within.by());
            let mut failed = match connection {
                Connection::Http1(mut connection) => {
                    if may_switch || matches!(request.body(), UpstreamRequestBody::Client(_)) {
                        connection.leave_to_a_task(&self.means.tasks);
                    }
                    *request.uri_mut() = Uri::from(path.clone());
                    request.headers_mut().entry(header::HOST).or_insert_with(|| place.lane.host.clone());
                    match connection.send(request, by).await {
                        Sent::Answered(answer) => {
                            check(&answer, may_switch)?;
                            return Ok(answer.map(|body| UpstreamBody::over(connection, body, place)));
                        }
                        Sent::Late => return Err(SendError::Timeout),
                        Sent::Failed(failed) => failed,
                    }
                }
                Connection::Http2(connection) => {
                    *request.uri_mut() = place.lane.uri(path.clone()).ok_or(SendError::Connect)?;
                    let (made, number) = (connection.made, connection.stream.number);
                    match Box::pin(on_http2(by, connection, request)).await? {
                        OnHttp2::Answered(answer, stream) => {
                            check(&answer, may_switch)?;
                            return Ok(answer.map(|body| UpstreamBody::on(stream, body, place).made(made)));
                        }
                        // The connection takes nothing new: it has said so, or is dead. Nothing of it was sent.
                        OnHttp2::Unsent(_) if refusals == MAX_REFUSALS => return Err(SendError::Connect),
                        OnHttp2::Unsent(back) => {
                            place.lane.forget(number);
                            (request, refusals) = (back, refusals + 1);
                            continue;
                        }
                    }
                }
            };
            match failed.take_message() {
                Some(back) if is_kept => request = back,
                Some(_) => return Err(SendError::Connect), // nothing of it was sent
                None => return Err(SendError::of_sending(failed.error())),
            }
        }
    }
}

/// What became of a request over HTTP/2.
enum OnHttp2 {
    Answered(Response<Incoming>, Arc<Stream>),
    Unsent(Request<UpstreamRequestBody>),
}

/// A connection that is not there yet: to another address of the endpoint's name where one can't be reached.
async fn reached(
    pool: &Pool,
    mut within: Option<&mut Within>,
    place: &mut Place,
    mut detour: Option<&mut Detour<'_>>,
) -> Result<Given, SendError> {
    loop {
        let patience = detour.as_ref().and_then(|detour| detour.patience());
        let error = match place.lane.connection(within.as_deref_mut(), patience).await {
            Err(error @ (SendError::Connect | SendError::Tls)) => error,
            told => return told,
        };
        let is_over = within.as_ref().is_some_and(|within| within.by() <= Instant::now());
        let other = detour.as_mut().filter(|_| !is_over).and_then(|detour| detour.next(pool));
        *place = other.ok_or(error)?;
    }
}

async fn on_http2(
    by: Option<Instant>,
    Http2 { mut sender, stream, .. }: Http2,
    request: Request<UpstreamRequestBody>,
) -> Result<OnHttp2, SendError> {
    let sent = sender.try_send_request(request.map(|body| OnStream { body, _stream: Arc::clone(&stream) }));
    let sent = match by {
        Some(by) => timeout_at(by, sent).await.map_err(|_| SendError::Timeout)?,
        None => sent.await,
    };
    match sent {
        Ok(answer) => Ok(OnHttp2::Answered(answer, stream)),
        Err(mut failed) => match failed.take_message() {
            Some(back) => Ok(OnHttp2::Unsent(back.map(|on| on.body))),
            None => Err(SendError::of_sending(failed.error())),
        },
    }
}

/// What can't be passed on as an answer is none.
fn check(answer: &Response<Incoming>, may_switch: bool) -> Result<(), SendError> {
    let switches_unasked = answer.status() == StatusCode::SWITCHING_PROTOCOLS && !may_switch;
    if switches_unasked || is_ambiguous(answer.headers()) { Err(SendError::Garbage) } else { Ok(()) }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").finish_non_exhaustive()
    }
}

/// hyper takes whatever codings end with `chunked`, others up to the connection's end, and a length beside them: bytes
/// that are still coded would pass for the content, and two readings of where an answer ends are how answers are
/// smuggled (RFC 9112 §6.1, §6.3). Only `chunked` was offered.
fn is_ambiguous(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => false,
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => {
            headers.contains_key(header::CONTENT_LENGTH)
        }
        _ => true,
    }
}

fn tls(roots: &Arc<RootCertStore>) -> ClientConfig {
    builder(roots).with_no_client_auth()
}

pub(super) fn builder(roots: &Arc<RootCertStore>) -> ConfigBuilder<ClientConfig, WantsClientCert> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider supports the default versions")
        .with_root_certificates(Arc::clone(roots))
}

fn roots(config: &GatewayConfig) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    for error in &system.errors {
        warn!(%error, "some of the system's certificate authorities can't be read");
    }
    roots.add_parsable_certificates(system.certs);
    let (_, unusable) = roots.add_parsable_certificates(config.extra_roots.iter().cloned());
    if unusable > 0 {
        warn!(unusable, "some configured certificate authorities can't be used");
    }
    roots
}
