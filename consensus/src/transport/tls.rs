//! Mutual TLS between nodes: a certificate's DNS name says which node it is, and both sides check it.
//!
//! The files are read again for new connections when they have changed; what can't be used is not taken over.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    server::{ParsedCertificate, WebPkiClientVerifier},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};

use crate::{PeerTls, StartError};

/// The DNS name of a node, in its certificate and nowhere else.
pub(crate) fn server_name(node: u64) -> ServerName<'static> {
    ServerName::try_from(crate::node_dns_name(node)).expect("digits and letters make a DNS name")
}

/// Whether a certificate, already verified to be of our authority, is this node's.
pub(crate) fn names_node(certificate: &CertificateDer<'_>, node: u64) -> bool {
    webpki::EndEntityCert::try_from(certificate)
        .is_ok_and(|certificate| certificate.verify_is_valid_for_subject_name(&server_name(node)).is_ok())
}

/// A certificate is renewed by hand: that much time before its end is needed for it.
const ENDS_SOON: Duration = Duration::from_secs(7 * 24 * 3600);

/// What the other nodes make of this node's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Validity {
    Good,
    /// Good still, for a few days.
    EndsIn(Duration),
    /// The reason, with what to do.
    Refused(String),
}

/// This node's certificate and whom it trusts, as of the files.
pub(crate) struct PeerAuth {
    files: PeerTls,
    node: u64,
    loaded: Mutex<Loaded>,
}

#[derive(Clone)]
struct Loaded {
    modified: [Option<SystemTime>; 3],
    own: Arc<Own>,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    /// For a peer that is known by its address alone: any node of our authority will do.
    any_client: Arc<ClientConfig>,
}

impl PeerAuth {
    /// Reads the files and checks that they say what the other nodes will want to hear.
    pub(crate) fn load(files: PeerTls, node: u64) -> Result<Self, StartError> {
        let loaded = load(&files, node)?;
        Ok(Self { files, node, loaded: Mutex::new(loaded) })
    }

    pub(crate) fn server(&self) -> Arc<ServerConfig> {
        self.current().server
    }

    pub(crate) fn client(&self) -> Arc<ClientConfig> {
        self.current().client
    }

    pub(crate) fn any_client(&self) -> Arc<ClientConfig> {
        self.current().any_client
    }

    /// What the other nodes make of the certificate now, as it is in the files if that can be used.
    pub(crate) fn validity(&self) -> Validity {
        let (own, now) = (self.current().own, UnixTime::now());
        if let Err(error) = own.check(now) {
            let path = self.files.cert.display();
            return Validity::Refused(format!("the certificate {path} is not good any more: {error}; renew it"));
        }
        match own.check(UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs()) + ENDS_SOON)) {
            Err(rustls::Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) => {
                Validity::EndsIn(Duration::from_secs(not_after.as_secs().saturating_sub(now.as_secs())))
            }
            _ => Validity::Good,
        }
    }

    fn current(&self) -> Loaded {
        let mut loaded = self.loaded.lock();
        let now = modified(&self.files);
        if now != loaded.modified {
            match load(&self.files, self.node) {
                Ok(fresh) => {
                    tracing::info!("peer certificate files have changed, using the new ones");
                    *loaded = fresh;
                }
                Err(error) => {
                    tracing::warn!(%error, "peer certificate files have changed and can't be used, keeping the old ones");
                    loaded.modified = now;
                }
            }
        }
        loaded.clone()
    }
}

fn modified(files: &PeerTls) -> [Option<SystemTime>; 3] {
    [&files.ca, &files.cert, &files.key].map(|path| fs::metadata(path).and_then(|meta| meta.modified()).ok())
}

fn load(files: &PeerTls, node: u64) -> Result<Loaded, StartError> {
    let modified = modified(files);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let roots = Arc::new(roots(&files.ca)?);
    let chain = certificates(&files.cert)?;
    let own = Own { chain: chain.clone(), roots: Arc::clone(&roots), provider: Arc::clone(&provider), node };
    own.check(UnixTime::now())
        .map_err(|error| wrong(&files.cert, &format!("is no certificate for node {node}: {error}")))?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| wrong(&files.key, &error))?;
    let client_verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
        .build()
        .map_err(|error| wrong(&files.ca, &error))?;
    let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(&files.cert, &error))?
        .with_client_cert_verifier(client_verifier)
        .with_single_cert(chain.clone(), key.clone_key())
        .map_err(|error| wrong(&files.key, &error))?;
    server.alpn_protocols = vec![b"h2".to_vec()];
    let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(&files.cert, &error))?
        .with_root_certificates(Arc::clone(&roots))
        .with_client_auth_cert(chain, key)
        .map_err(|error| wrong(&files.key, &error))?;
    client.alpn_protocols = vec![b"h2".to_vec()];
    let mut any_client = client.clone();
    any_client.dangerous().set_certificate_verifier(Arc::new(AnyNode { roots, provider }));
    let own = Arc::new(own);
    Ok(Loaded { modified, own, server: Arc::new(server), client: Arc::new(client), any_client: Arc::new(any_client) })
}

/// Accepts a certificate of our authority, whichever node it names. Good enough to ask who is there, and for no more.
#[derive(Debug)]
struct AnyNode {
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyNode {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let algorithms = self.provider.signature_verification_algorithms.all;
        let certificate = ParsedCertificate::try_from(certificate)?;
        verify_server_cert_signed_by_trust_anchor(&certificate, &self.roots, intermediates, now, algorithms)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// This node's own certificate, for what every other node will check when this one connects or is connected to.
struct Own {
    chain: Vec<CertificateDer<'static>>,
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
    node: u64,
}

impl Own {
    fn check(&self, at: UnixTime) -> Result<(), rustls::Error> {
        let (own, intermediates) = self.chain.split_first().expect("`certificates` gives at least one");
        WebPkiServerVerifier::builder_with_provider(Arc::clone(&self.roots), Arc::clone(&self.provider))
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?
            .verify_server_cert(own, intermediates, &server_name(self.node), &[], at)
            .map(drop)
    }
}

fn roots(path: &Path) -> Result<RootCertStore, StartError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| wrong(path, &error))?;
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, StartError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = read.map_err(|error| wrong(path, &error))?;
    if certificates.is_empty() {
        return Err(wrong(path, &"holds no certificate"));
    }
    Ok(certificates)
}

fn wrong(path: &Path, problem: &impl std::fmt::Display) -> StartError {
    StartError::Tls { path: PathBuf::from(path), problem: problem.to_string() }
}
