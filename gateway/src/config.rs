//! What a gateway is told at its start.

use std::net::IpAddr;

use ipnet::IpNet;
use rustls_pki_types::CertificateDer;
use tollgate_model::Name;

use crate::AccessLog;

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
    /// Where each exchange gets a line at its end.
    pub access_log: Option<AccessLog>,
}

/// Two file descriptors each (client and upstream) fit into a limit of 65,536 with room for logs and snapshots.
const MAX_CONNECTIONS: usize = 20_000;

impl GatewayConfig {
    /// The defaults for a node in `zone`.
    #[must_use]
    pub fn new(zone: Name) -> Self {
        let (trusted_proxies, extra_roots) = (Vec::new(), Vec::new());
        Self { zone, trusted_proxies, max_connections: MAX_CONNECTIONS, extra_roots, access_log: None }
    }

    pub(crate) fn trusts(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.trusted_proxies.iter().any(|net| net.contains(&peer))
    }
}
