//! What a gateway is told at its start.

use std::{net::IpAddr, sync::Arc};

use ipnet::IpNet;
use rustls_pki_types::CertificateDer;
use tollgate_model::Name;

use crate::{AccessLog, FileCertificate};

/// A gateway's settings, from the node's own configuration. What can change while it runs is in the `ConfigView`.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// The zone of this node.
    pub zone: Name,
    /// Peers whose `x-forwarded-*` headers are believed; those of all others are replaced.
    pub trusted_proxies: Vec<IpNet>,
    /// Client connections at once; more wait in the kernel's backlog.
    pub max_connections: usize,
    /// Certificate authorities for https upstreams besides the system's.
    pub extra_roots: Vec<CertificateDer<'static>>,
    /// What clients over TLS are served that name no host, or one that no other certificate is for; they are refused where
    /// there is none.
    pub certificate: Option<Arc<FileCertificate>>,
    /// Where each exchange gets a line at its end.
    pub access_log: Option<AccessLog>,
}

/// Two file descriptors each (client and upstream) fit into a limit of 65,536 with room for logs and snapshots.
const MAX_CONNECTIONS: usize = 20_000;

impl GatewayConfig {
    /// The defaults for a node in `zone`.
    #[must_use]
    pub fn new(zone: Name) -> Self {
        Self {
            zone,
            trusted_proxies: Vec::new(),
            max_connections: MAX_CONNECTIONS,
            extra_roots: Vec::new(),
            certificate: None,
            access_log: None,
        }
    }

    pub(crate) fn trusts(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.trusted_proxies.iter().any(|net| net.contains(&peer))
    }
}
