//! Who signs statements, and who is believed.

use std::fmt;

use aws_lc_rs::{
    digest::{SHA256, digest},
    signature::{ED25519, UnparsedPublicKey},
};

use super::{hex, unhex};

/// Before what is signed: such a signature is of nothing else.
const LABEL: &[u8] = b"tollgate statement 1\n";

/// Has the key that statements are signed with.
pub trait Signer {
    /// The Ed25519 signature of this.
    fn sign(&self, said: &[u8]) -> [u8; 64];

    /// By which that is checked.
    fn public_key(&self) -> [u8; 32];
}

impl Signer for tollgate_model::secret::ClusterKey {
    fn sign(&self, said: &[u8]) -> [u8; 64] {
        self.sign_statement(said)
    }

    fn public_key(&self) -> [u8; 32] {
        self.statement_key()
    }
}

/// The Ed25519 key of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(pub [u8; 32]);

/// The SHA-256 of a public key: how it is told over the telephone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; 32]);

impl PublicKey {
    /// Reads 64 hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        unhex(text).map(Self)
    }

    /// Its name.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint(digest(&SHA256, &self.0).as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }

    pub(super) fn has_signed(&self, body: &str, signature: &[u8; 64]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.0).verify(&said(body), signature).is_ok()
    }
}

impl Fingerprint {
    /// Reads 64 hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        unhex(text).map(Self)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&hex(&self.0))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&hex(&self.0))
    }
}

pub(super) fn sign(signer: &dyn Signer, body: &str) -> [u8; 64] {
    signer.sign(&said(body))
}

fn said(body: &str) -> Vec<u8> {
    [LABEL, body.as_bytes()].concat()
}
