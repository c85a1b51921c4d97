//! What clients over TLS are served.

use crate::{
    HostPattern, LogIndex, Name, ProviderKey,
    tls::{Authorities, Chain},
};

/// A certificate for some hosts.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Certificate {
    /// Unique among certificates.
    pub name: Name,
    /// The last change.
    pub version: LogIndex,
    /// Never empty, never [`HostPattern::Any`].
    pub hosts: Vec<HostPattern>,
    /// It covers all of the hosts.
    pub chain: Chain,
    /// Where its key is; none while it is only being checked. [`crate::ConfigView::certified`] has it with the key.
    pub key: Option<ProviderKey>,
    /// What its authority says of it (RFC 6960), for clients that ask.
    pub staple: Option<Vec<u8>>,
    /// Of whom certificates are asked.
    pub client_auth: Option<ClientAuth>,
    /// The oldest version of TLS that is spoken.
    pub min_version: TlsVersion,
}

/// Of whom certificates are asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientAuth {
    /// Who vouches for clients.
    pub authorities: Authorities,
    /// Whether clients without a certificate are refused; one that is not vouched for always is.
    pub required: bool,
}

/// The oldest version that is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TlsVersion {
    /// With forward secrecy and authenticated encryption only.
    #[default]
    Tls12,
    /// Nothing older.
    Tls13,
}
