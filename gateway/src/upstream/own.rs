//! Upstreams that have connections of their own: as they are met over TLS in a way of their own (authorities, a name, a certificate
//! that they are shown, HTTP/2 alone), or as their connections are bounded.
//!
//! Connections are kept by endpoint, whatever TLS they were made with, and whichever upstream they were made for.

use std::{fmt, sync::Arc};

use hyper_rustls::FixedServerNameResolver;
use rustls::{RootCertStore, sign::SingleCertAndKey};
use rustls_pki_types::ServerName;
use tollgate_model::{Shown, UpstreamTls, tls::Authorities};

use super::{
    breaker::Breaker,
    lanes::{Dial, Lanes, Offered},
    means::Means,
    pool::builder,
};

/// What an upstream wants of TLS.
#[derive(Debug)]
pub(crate) struct Wanted {
    /// Who vouches for it; as for all upstreams where this is absent.
    pub(crate) authorities: Option<Authorities>,
    /// What it is called; as its endpoint's host where this is absent.
    pub(crate) server_name: Option<ServerName<'static>>,
    /// What it is shown.
    pub(crate) shown: Option<Arc<Shown>>,
    pub(crate) speaks: Speaks,
}

/// What is spoken over connections of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speaks {
    /// HTTP/1.1 in clear text; over TLS what ALPN says.
    Negotiated,
    /// HTTP/2 over TLS, and nothing else.
    Http2,
    /// HTTP/2 in clear text.
    ClearHttp2,
}

impl Wanted {
    pub(super) fn new(tls: Option<&UpstreamTls>, shown: Option<&Arc<Shown>>, speaks: Speaks) -> Self {
        let authorities = tls.and_then(|tls| tls.authorities.clone());
        let server_name = tls.and_then(|tls| tls.server_name.clone());
        Self { authorities, server_name, shown: shown.cloned(), speaks }
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        let shown = match (&self.shown, &other.shown) {
            (None, None) => true,
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            _ => false,
        };
        let server = (&self.authorities, &self.server_name, self.speaks);
        shown && server == (&other.authorities, &other.server_name, other.speaks)
    }
}

/// The connections of one such upstream.
pub(crate) struct Own {
    pub(super) wanted: Wanted,
    /// By whatever HTTP it wants.
    pub(super) any: Arc<Lanes>,
    /// By HTTP/1.1 alone: what is upgraded knows no other.
    pub(super) http1: Arc<Lanes>,
    /// What bounds both.
    pub(super) breaker: Option<Arc<Breaker>>,
}

impl Own {
    /// `roots` are those of upstreams that name no authorities.
    pub(super) fn new(
        wanted: Wanted,
        roots: &Arc<RootCertStore>,
        breaker: Option<Arc<Breaker>>,
        means: &Means,
    ) -> Self {
        let own_roots = wanted.authorities.as_ref().map(Authorities::roots);
        let config = builder(own_roots.as_ref().unwrap_or(roots));
        let config = match &wanted.shown {
            Some(shown) => config.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(shown.key.clone()))),
            None => config.with_no_client_auth(),
        };
        let name = || wanted.server_name.clone().map(FixedServerNameResolver::new);
        let dial = |offered| Dial::https(&config, offered).to(name());
        let any = match wanted.speaks {
            Speaks::Negotiated => dial(Offered::Both),
            Speaks::Http2 => dial(Offered::Http2),
            Speaks::ClearHttp2 => Dial::ClearText,
        };
        let any = Lanes::within(breaker.clone(), any, wanted.speaks != Speaks::Negotiated, means.clone());
        let http1 = Lanes::within(breaker.clone(), dial(Offered::Http1), false, means.clone());
        Self { any, http1, breaker, wanted }
    }
}

impl fmt::Debug for Own {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Own").field("wanted", &self.wanted).finish_non_exhaustive()
    }
}
