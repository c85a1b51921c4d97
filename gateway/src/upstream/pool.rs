//! Connections to upstreams: pooled, kept alive, over clear text and TLS.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, Request, Response, StatusCode, Uri, header};
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::{
    client::legacy::{
        Builder, Client,
        connect::{HttpConnector, capture_connection},
    },
    rt::{TokioIo, TokioTimer},
};
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, client::WantsClientCert};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};
use tracing::warn;

use super::{
    SendError,
    ahead::{Ahead, Place, UpstreamBody},
    own::{Own, Wanted},
};
use crate::{GatewayConfig, body::UpstreamRequestBody, tracked::Tracked};

type Tcp = TokioIo<TcpStream>;
pub(super) type Negotiated = Ahead<HttpsConnector<HttpConnector>, MaybeHttpsStream<Tcp>>;
type Http2 = Ahead<HttpConnector, Tcp>;

/// A name must be resolved and an endpoint reached within this.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Less than most upstreams keep an idle connection.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Idle connections kept for one endpoint.
const MAX_IDLE: usize = 256;
/// The head of an answer must fit; what is longer is no answer.
const MAX_HEAD_BYTES: usize = 128 * 1024;
/// Noticing a dead endpoint without traffic, on HTTP/2 and below.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Answers on their way in one HTTP/2 stream, and in all of a connection.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;

/// How an upstream is spoken to.
#[derive(Debug, Clone)]
pub(crate) enum Wire {
    /// HTTP/1.1 in clear text; over TLS what ALPN says.
    Negotiated,
    /// HTTP/1.1, over TLS too: what is upgraded knows no other.
    Http1,
    /// HTTP/2, by prior knowledge.
    Http2,
    /// Over TLS as this upstream wants it, and by connections that no other has.
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
            Self::Own(own) | Self::OwnHttp1(own) if !own.wanted.http2 => Some(Self::OwnHttp1(Arc::clone(own))),
            Self::Http2 | Self::Own(_) | Self::OwnHttp1(_) => None,
        }
    }
}

/// All upstream connections of a gateway.
pub(crate) struct Pool {
    negotiated: Client<Negotiated, UpstreamRequestBody>,
    http1: Client<Negotiated, UpstreamRequestBody>,
    http2: Client<Http2, UpstreamRequestBody>,
    /// What connects for them.
    connect: (Negotiated, Negotiated, Http2),
    tasks: Tracked,
    roots: Arc<RootCertStore>,
}

impl Pool {
    pub(crate) fn new(config: &GatewayConfig, tasks: Tracked) -> Self {
        let roots = Arc::new(roots(config));
        let tls = tls(&roots);
        let https = || hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(tls.clone()).https_or_http();
        let negotiated = Ahead::new(https().enable_http1().enable_http2().wrap_connector(connector(false)), false);
        let http1 = Ahead::new(https().enable_http1().wrap_connector(connector(false)), false);
        let prior_knowledge = Ahead::new(connector(true), true);
        let mut builder = Client::builder(tasks.clone());
        configure(&mut builder);
        let mut http2 = builder.clone();
        http2.http2_only(true);
        Self {
            negotiated: builder.build(negotiated.clone()),
            http1: builder.build(http1.clone()),
            http2: http2.build(prior_knowledge.clone()),
            connect: (negotiated, http1, prior_knowledge),
            tasks,
            roots,
        }
    }

    /// How an upstream is spoken to that wants its own TLS. The same as before where nothing of it has changed, so that its
    /// connections stay.
    pub(crate) fn own(&self, wanted: Wanted, before: Option<&Wire>) -> Wire {
        match before {
            Some(Wire::Own(own)) if own.wanted.is(&wanted) => Wire::Own(Arc::clone(own)),
            _ => Wire::Own(Arc::new(Own::new(wanted, &self.roots, &self.tasks))),
        }
    }

    /// A place on a connection to `uri`'s endpoint, for one request that will be sent.
    pub(crate) fn place(&self, wire: &Wire, uri: &Uri) -> Option<Place> {
        match wire {
            Wire::Negotiated => self.connect.0.place(uri),
            Wire::Http1 => self.connect.1.place(uri),
            Wire::Http2 => self.connect.2.place(uri),
            Wire::Own(own) => own.any.connect.place(uri),
            Wire::OwnHttp1(own) => own.http1.connect.place(uri),
        }
    }

    /// Begins to connect for a request that may not be sent yet, if there is no connection for it. Nothing is sent.
    pub(crate) fn connect_ahead(&self, wire: &Wire, place: Option<&Place>, uri: &Uri) {
        let Some(place) = place else { return };
        match wire {
            Wire::Negotiated => self.connect.0.connect(place, uri, &self.tasks),
            Wire::Http1 => self.connect.1.connect(place, uri, &self.tasks),
            Wire::Http2 => self.connect.2.connect(place, uri, &self.tasks),
            Wire::Own(own) => own.any.connect.connect(place, uri, &self.tasks),
            Wire::OwnHttp1(own) => own.http1.connect.connect(place, uri, &self.tasks),
        }
    }

    /// Sends a request and waits for the answer's head. A request that had not begun to be sent on a kept connection
    /// that turned out to be dead is sent on another one; whether to do so with one that had is for the caller.
    pub(crate) async fn send(
        &self,
        wire: &Wire,
        place: Option<Place>,
        request: Request<UpstreamRequestBody>,
    ) -> Result<Response<UpstreamBody>, SendError> {
        let may_switch = request.headers().contains_key(header::UPGRADE);
        let sent = match wire {
            Wire::Negotiated => self.negotiated.request(request),
            Wire::Http1 => self.http1.request(request),
            Wire::Http2 => self.http2.request(request),
            Wire::Own(own) => own.any.client.request(request),
            Wire::OwnHttp1(own) => own.http1.client.request(request),
        };
        let answer = sent.await.map_err(|error| SendError::classify(&error))?;
        let switches_unasked = answer.status() == StatusCode::SWITCHING_PROTOCOLS && !may_switch;
        if switches_unasked || is_ambiguous(answer.headers()) {
            return Err(SendError::Garbage);
        }
        Ok(answer.map(|body| UpstreamBody::new(body, place)))
    }

    /// The same, and no longer than until then. A request that no connection had taken by then was never sent.
    pub(crate) async fn send_by(
        &self,
        by: Instant,
        wire: &Wire,
        place: Option<Place>,
        mut request: Request<UpstreamRequestBody>,
    ) -> Result<Response<UpstreamBody>, SendError> {
        let connection = capture_connection(&mut request);
        match timeout_at(by, self.send(wire, place, request)).await {
            Ok(sent) => sent,
            Err(_) if connection.connection_metadata().is_some() => Err(SendError::Timeout),
            Err(_) => Err(SendError::Connect),
        }
    }
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

pub(super) fn connector(clear_text_only: bool) -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.enforce_http(clear_text_only);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    connector.set_keepalive(Some(KEEP_ALIVE));
    connector
}

pub(super) fn configure(builder: &mut Builder) {
    builder
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_max_idle_per_host(MAX_IDLE)
        .http1_max_buf_size(MAX_HEAD_BYTES)
        .http2_initial_stream_window_size(STREAM_WINDOW)
        .http2_initial_connection_window_size(CONNECTION_WINDOW)
        .http2_max_header_list_size(u32::try_from(MAX_HEAD_BYTES).unwrap_or(u32::MAX))
        .http2_keep_alive_interval(KEEP_ALIVE);
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
