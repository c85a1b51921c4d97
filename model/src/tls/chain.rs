//! PEM, read: a chain of certificates, the authorities that clients' certificates are of, a private key, a staple.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use rustls::{
    RootCertStore,
    crypto::{CryptoProvider, aws_lc_rs},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use super::Described;
use crate::{Secret, Timestamp};

/// More than this is no chain: the longest in use are some 10 KiB.
pub const MAX_PEM_BYTES: usize = 64 * 1024;

/// No chain that a client follows is as long.
const MAX_CERTIFICATES: usize = 16;

/// Why a text is not what it should be. Nothing of a key is shown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    /// Not PEM, or none of what is asked for is in it.
    #[error("holds no {0}: paste the whole PEM text, with its BEGIN and END lines")]
    None(&'static str),
    /// Cut, or not base64.
    #[error("is no PEM text: {0}")]
    Damaged(String),
    /// A private key where everybody reads it.
    #[error("holds a private key, which everybody could read here: put it into `key`")]
    HoldsKey,
    /// PEM, of something else.
    #[error("its certificate {number} is none: {why}")]
    NotX509 {
        /// From 1.
        number: usize,
        /// What is wrong with it.
        why: String,
    },
    /// Too much of it.
    #[error("holds more than {MAX_CERTIFICATES} certificates, or more than 64KiB: leave out what is not of the chain")]
    TooLong,
    /// A key that can't sign.
    #[error("is no private key that can be used: RSA of 2048 to 8192 bits, ECDSA P-256, P-384 or P-521, or Ed25519")]
    NoKey,
    /// The key is another certificate's.
    #[error("is not the key of the certificate")]
    OtherKey,
}

/// A certificate with those that lead from it to an authority, its own first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    certificates: Vec<CertificateDer<'static>>,
    first: Described,
}

impl Chain {
    /// Reads PEM text.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(pem: &str) -> Result<Self, PemError> {
        let certificates = certificates(pem)?;
        let mut described = Vec::new();
        for (n, certificate) in certificates.iter().enumerate() {
            let wrong = |why| PemError::NotX509 { number: n + 1, why };
            described.push(Described::read(certificate).map_err(wrong)?);
        }
        let first = described.swap_remove(0);
        Ok(Self { certificates, first })
    }

    /// The certificate itself.
    #[must_use]
    pub fn first(&self) -> &Described {
        &self.first
    }

    /// When its first certificate ends: the chain is not good for longer.
    #[must_use]
    pub fn ends(&self) -> Timestamp {
        self.first.ends
    }

    /// Whether it is for this host: `a.example.com`, or `.example.com` for what is below it.
    #[must_use]
    pub fn covers(&self, host: &str) -> bool {
        let of_parent = host.find('.').map(|dot| &host[dot..]);
        self.first.dns_names.iter().any(|name| match name.strip_prefix('*') {
            Some(suffix) => Some(suffix) == of_parent,
            None => name == host,
        })
    }

    /// With its key, to be served.
    ///
    /// # Errors
    /// The key is none that can be used, or another certificate's.
    pub fn with_key(&self, key: &Secret<String>, staple: Option<Vec<u8>>) -> Result<CertifiedKey, PemError> {
        let key = private_key(key)?;
        let made = CertifiedKey::from_der(self.certificates.clone(), key, &aws_lc_rs::default_provider());
        let mut made = made.map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => PemError::OtherKey,
            _ => PemError::NoKey,
        })?;
        made.ocsp = staple;
        Ok(made)
    }

    /// As DER.
    #[must_use]
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }
}

/// Whose certificates are taken of clients, or of upstreams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authorities(Vec<CertificateDer<'static>>);

impl Authorities {
    /// Reads PEM text.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(pem: &str) -> Result<Self, PemError> {
        let certificates = certificates(pem)?;
        let mut roots = RootCertStore::empty();
        for (n, certificate) in certificates.iter().enumerate() {
            let wrong = |error: rustls::Error| PemError::NotX509 { number: n + 1, why: error.to_string() };
            roots.add(certificate.clone()).map_err(wrong)?;
        }
        Ok(Self(certificates))
    }

    /// For rustls.
    #[must_use]
    pub fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(self.0.iter().cloned());
        Arc::new(roots)
    }
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, PemError> {
    if pem.len() > MAX_PEM_BYTES {
        return Err(PemError::TooLong);
    }
    if pem.contains("PRIVATE KEY-----") {
        return Err(PemError::HoldsKey);
    }
    let read = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    let certificates = read.map_err(|error| PemError::Damaged(error.to_string()))?;
    match certificates.len() {
        0 => Err(PemError::None("certificate")),
        1..=MAX_CERTIFICATES => Ok(certificates),
        _ => Err(PemError::TooLong),
    }
}

/// A key in PEM: PKCS #8, PKCS #1 or SEC 1.
///
/// # Errors
/// What is wrong with it, without the key.
pub fn private_key(pem: &Secret<String>) -> Result<PrivateKeyDer<'static>, PemError> {
    if pem.expose().len() > MAX_PEM_BYTES {
        return Err(PemError::None("private key"));
    }
    // What the reader says of a text may show some of it.
    let key = PrivateKeyDer::from_pem_slice(pem.expose().as_bytes()).map_err(|_| PemError::None("private key"))?;
    let provider: CryptoProvider = aws_lc_rs::default_provider();
    provider.key_provider.load_private_key(key.clone_key()).map_err(|_| PemError::NoKey)?;
    Ok(key)
}

/// An OCSP response in base64, as it is or between PEM's lines.
///
/// # Errors
/// It is neither.
pub fn staple(text: &str) -> Result<Vec<u8>, &'static str> {
    const WRONG: &str = "is no OCSP response: paste it as base64, `base64 -w0 response.der`";
    if text.len() > MAX_PEM_BYTES {
        return Err(WRONG);
    }
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with("-----"));
    let bytes = STANDARD.decode(lines.collect::<String>()).map_err(|_| WRONG)?;
    // RFC 6960 §4.2.1: a sequence, whose first element is the status; 0 is success.
    let successful = bytes.first() == Some(&0x30) && bytes.windows(3).take(6).any(|status| status == [0x0a, 1, 0]);
    if successful { Ok(bytes) } else { Err(WRONG) }
}
