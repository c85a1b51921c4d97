//! One certificate, ready to be served.

use std::{
    fmt,
    sync::{Arc, LazyLock},
};

use rustls::{
    ServerConfig,
    crypto::{
        CryptoProvider,
        aws_lc_rs::{self, Ticketer},
    },
    server::{NoServerSessionStorage, ResolvesServerCertUsingSni, WebPkiClientVerifier},
    sign::{CertifiedKey, SingleCertAndKey},
    version::{TLS12, TLS13},
};
use tollgate_model::{ClientAuth, Name, Timestamp, TlsVersion, tls::Described};

pub(super) static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));

/// Newer first; clients that offer neither are refused by rustls.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// A certificate with all that handshakes under it need.
pub(crate) struct Served {
    /// The resource's, or what stands for the node's own.
    pub(crate) name: Name,
    /// When it ends.
    pub(crate) ends: Timestamp,
    /// Of whom certificates are asked.
    pub(crate) client_auth: Option<ClientAuth>,
    pub(super) config: Arc<ServerConfig>,
}

impl Served {
    pub(crate) fn new(
        name: Name,
        ends: Timestamp,
        key: CertifiedKey,
        from: TlsVersion,
        client_auth: Option<ClientAuth>,
    ) -> Result<Self, rustls::Error> {
        let config = Arc::new(config(key, from, client_auth.as_ref())?);
        Ok(Self { name, ends, client_auth, config })
    }
}

impl fmt::Debug for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Served").field("name", &self.name).field("ends", &self.ends).finish_non_exhaustive()
    }
}

/// Tickets are sealed under keys of this configuration alone. A session that began under another certificate, or before its
/// authorities were changed, is therefore never resumed here: its client is asked again.
fn config(
    key: CertifiedKey,
    from: TlsVersion,
    client_auth: Option<&ClientAuth>,
) -> Result<ServerConfig, rustls::Error> {
    let versions = match from {
        TlsVersion::Tls12 => &[&TLS13, &TLS12][..],
        TlsVersion::Tls13 => &[&TLS13],
    };
    let builder = ServerConfig::builder_with_provider(Arc::clone(&PROVIDER)).with_protocol_versions(versions)?;
    let builder = match client_auth {
        None => builder.with_no_client_auth(),
        Some(auth) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(auth.authorities.roots(), Arc::clone(&PROVIDER));
            let verifier = if auth.required { verifier } else { verifier.allow_unauthenticated() };
            let verifier = verifier.build().map_err(|error| rustls::Error::General(error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
    config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
    config.ticketer = Ticketer::new()?;
    config.session_storage = Arc::new(NoServerSessionStorage {}); // a session is in its ticket alone: nothing to hold
    Ok(config)
}

/// For a host that there is no certificate for: the handshake ends with an alert.
pub(super) static NONE: LazyLock<Arc<ServerConfig>> = LazyLock::new(|| {
    let builder = ServerConfig::builder_with_provider(Arc::clone(&PROVIDER))
        .with_safe_default_protocol_versions()
        .expect("the provider supports the default versions");
    Arc::new(builder.with_no_client_auth().with_cert_resolver(Arc::new(ResolvesServerCertUsingSni::new())))
});

/// What is known of a connection over TLS.
#[derive(Debug)]
pub(crate) struct Secured {
    /// Under which certificate it was made.
    pub(crate) served: Arc<Served>,
    /// Whose certificate was verified, if one was given.
    pub(crate) client: Option<Described>,
    /// What is spoken, where the client has named something (RFC 7301).
    pub(crate) agreed: Option<Agreed>,
}

/// A protocol that ALPN has agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Agreed {
    Http1,
    Http2,
}

impl Agreed {
    pub(super) fn of(protocol: &[u8]) -> Option<Self> {
        let [http2, http1] = PROTOCOLS;
        match protocol {
            it if it == http2 => Some(Self::Http2),
            it if it == http1 => Some(Self::Http1),
            _ => None,
        }
    }
}
