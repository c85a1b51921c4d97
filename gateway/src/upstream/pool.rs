//! Connections to upstreams: pooled, kept alive, over clear text and TLS.

use std::sync::Arc;

use http::{HeaderMap, Request, Response, StatusCode, Uri, header};
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::{Client, connect::capture_connection};
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, client::WantsClientCert};
use tokio::time::{Instant, timeout_at};
use tracing::warn;

use super::{
    SendError,
    ahead::{Ahead, Place, UpstreamBody},
    means::{Connector, Means, Tcp},
    own::{Own, Wanted},
};
use crate::{GatewayConfig, body::UpstreamRequestBody};

pub(super) type Negotiated = Ahead<HttpsConnector<Connector>, MaybeHttpsStream<Tcp>>;
type Http2 = Ahead<Connector, Tcp>;

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
    means: Means,
    roots: Arc<RootCertStore>,
}

impl Pool {
    pub(crate) fn new(config: &GatewayConfig, means: Means) -> Self {
        let roots = Arc::new(roots(config));
        let tls = tls(&roots);
        let https = || hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(tls.clone()).https_or_http();
        let negotiated =
            Ahead::new(https().enable_http1().enable_http2().wrap_connector(means.connector(false)), false);
        let http1 = Ahead::new(https().enable_http1().wrap_connector(means.connector(false)), false);
        let prior_knowledge = Ahead::new(means.connector(true), true);
        let builder = means.client();
        let mut http2 = means.client();
        http2.http2_only(true);
        Self {
            negotiated: builder.build(negotiated.clone()),
            http1: builder.build(http1.clone()),
            http2: http2.build(prior_knowledge.clone()),
            connect: (negotiated, http1, prior_knowledge),
            means,
            roots,
        }
    }

    /// How an upstream is spoken to that wants its own TLS. The same as before where nothing of it has changed, so that its
    /// connections stay.
    pub(crate) fn own(&self, wanted: Wanted, before: Option<&Wire>) -> Wire {
        match before {
            Some(Wire::Own(own)) if own.wanted.is(&wanted) => Wire::Own(Arc::clone(own)),
            _ => Wire::Own(Arc::new(Own::new(wanted, &self.roots, &self.means))),
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
            Wire::Negotiated => self.connect.0.connect(place, uri, &self.means.tasks),
            Wire::Http1 => self.connect.1.connect(place, uri, &self.means.tasks),
            Wire::Http2 => self.connect.2.connect(place, uri, &self.means.tasks),
            Wire::Own(own) => own.any.connect.connect(place, uri, &self.means.tasks),
            Wire::OwnHttp1(own) => own.http1.connect.connect(place, uri, &self.means.tasks),
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
