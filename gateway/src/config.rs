//! What a gateway is told at its start.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use rustls_pki_types::CertificateDer;
use tokio::runtime::Handle;
use tollgate_model::Name;

use crate::{AccessLog, FileCertificate};

/// A gateway's settings, from the node's own configuration. What can change while it runs is in the `ConfigView`.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// The zone of this node.
    pub zone: Name,
    /// Peers whose `x-forwarded-*` headers are believed; those of all others are replaced.
    pub trusted_proxies: Vec<IpNet>,
    /// What callers may take of this node at once.
    pub bounds: Bounds,
    /// Certificate authorities for https upstreams besides the system's.
    pub extra_roots: Vec<CertificateDer<'static>>,
    /// What clients over TLS are served that name no host, or one that no other certificate is for; they are refused where
    /// there is none.
    pub certificate: Option<Arc<FileCertificate>>,
    /// Where each exchange gets a line at its end.
    pub access_log: Option<AccessLog>,
    /// Which share of the traces that begin here is told to be sampled, from 0 to 1.
    pub trace_sample: f64,
    /// Where health checks run, and the connections to upstreams, which callers share with them: the runtime that listeners are
    /// served on. The one that the gateway is made in where this is None.
    pub runtime: Option<Handle>,
    /// Who is asked for the addresses of upstreams that are given by name.
    pub dns: DnsConfig,
}

/// How names are resolved. What is not said is as the system has it: resolv.conf(5) and hosts(5).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DnsConfig {
    /// Who is asked, over UDP, and over TCP for what is too long; the system's name servers where this is empty.
    pub nameservers: Vec<SocketAddr>,
    /// All that one lookup may take; a server is asked again after half of it.
    pub timeout: Option<Duration>,
    /// Whether AAAA records count where a name has both them and A records; else A records do.
    pub prefer_ipv6: bool,
}

/// What callers may take of a node at once. Whoever comes beyond it is refused at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Client connections.
    pub max_connections: usize,
    /// Requests whose answer is not out yet, streams included.
    pub max_requests: usize,
    /// Bytes of bodies that are read whole.
    pub max_buffered_bytes: usize,
    /// A connection, from a client or to an upstream, that gets this file number, or a higher one, is closed: the rest is for the log
    /// and the journal. None where the process may open any number.
    pub max_file: Option<u64>,
    /// A client that takes nothing for so long of what there is for it is gone: its connection ends, over HTTP/2 its stream.
    pub taken_within: Duration,
    /// Whether calls are refused while tasks wait to be run, long before any of that is short. It is measured in any case.
    pub sheds_when_late: bool,
}

/// A gigabyte.
const MAX_CONNECTIONS: usize = 20_000;
/// Of memory, while it streams.
const CONNECTION_BYTES: u64 = 50 << 10;
/// What part of the memory is for bodies, and another one for connections. The rest is what a node has by itself, and what an
/// allocator keeps.
const MEMORY_PART: u64 = 4;
/// A phone in a tunnel comes back within it.
const TAKEN_WITHIN: Duration = Duration::from_secs(60);
/// Prompts and answers of models.
const MAX_BUFFERED_BYTES: usize = 256 << 20;
/// Files that are not for callers: what a node has open by itself, and what it opens to write logs, journals and snapshots and to
/// talk to its peers.
const OWN_FILES: u64 = 128;
/// Of these, what is kept back when everything else is in use.
const KEPT_BACK: u64 = 64;
/// Idle connections kept for one endpoint where files are many, and what part of all files they are where they are few.
const MAX_IDLE: usize = 256;
const IDLE_PART: u64 = 8;

impl Default for Bounds {
    fn default() -> Self {
        Self {
            max_connections: MAX_CONNECTIONS,
            max_requests: MAX_CONNECTIONS,
            max_buffered_bytes: MAX_BUFFERED_BYTES,
            max_file: None,
            taken_within: TAKEN_WITHIN,
            sheds_when_late: true,
        }
    }
}

impl Bounds {
    /// The defaults for a process that may open so many files.
    #[must_use]
    pub fn within(files: u64) -> Self {
        let most = Self::connections_within(files).min(MAX_CONNECTIONS);
        let max_file = Some(files.saturating_sub(KEPT_BACK).max(files / 2));
        Self { max_connections: most, max_requests: most, max_file, ..Self::default() }
    }

    /// The same where the process may use so many bytes of memory: no more than fits, never nothing.
    #[must_use]
    pub fn with_memory(self, bytes: u64) -> Self {
        let part = bytes / MEMORY_PART;
        let most = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX).max(1);
        let connections = most(part / CONNECTION_BYTES);
        Self {
            max_connections: self.max_connections.min(connections),
            max_requests: self.max_requests.min(connections),
            max_buffered_bytes: self.max_buffered_bytes.min(most(part)),
            ..self
        }
    }

    /// Connections, or requests, that a process can have which may open so many files: two for each, its caller's and its upstream's.
    #[must_use]
    pub fn connections_within(files: u64) -> usize {
        let for_callers = files.saturating_sub(OWN_FILES).max(files / 2);
        usize::try_from(for_callers / 2).unwrap_or(usize::MAX).max(1)
    }

    /// Idle connections to one endpoint: one at least, as a pool that keeps none shares none.
    pub(crate) fn max_idle(&self) -> usize {
        let part = self.max_file.and_then(|files| usize::try_from(files / IDLE_PART).ok());
        part.map_or(MAX_IDLE, |part| part.clamp(1, MAX_IDLE))
    }
}

impl GatewayConfig {
    /// The defaults for a node in `zone`.
    #[must_use]
    pub fn new(zone: Name) -> Self {
        Self {
            zone,
            trusted_proxies: Vec::new(),
            bounds: Bounds::default(),
            extra_roots: Vec::new(),
            certificate: None,
            access_log: None,
            trace_sample: 0.0,
            runtime: None,
            dns: DnsConfig::default(),
        }
    }

    pub(crate) fn trusts(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.trusted_proxies.iter().any(|net| net.contains(&peer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_follow_from_memory_where_there_is_little() {
        for (memory, connections, buffered) in [
            (0, 1, 1),
            (512 << 20, 2_621, 128 << 20),
            (1 << 30, 5_242, 256 << 20),
            (8 << 30, 20_000, 256 << 20),
            (u64::MAX, 20_000, 256 << 20),
        ] {
            let bounds = Bounds::default().with_memory(memory);
            let told = (bounds.max_connections, bounds.max_requests, bounds.max_buffered_bytes);
            assert_eq!(told, (connections, connections, buffered), "{memory}");
        }
        assert_eq!(Bounds::within(256).with_memory(1 << 30).max_connections, 64, "files are fewer");
    }

    #[test]
    fn bounds_follow_from_the_files_that_may_be_open() {
        for (files, connections, max_file, max_idle) in
            [(16, 4, 8, 1), (256, 64, 192, 24), (1_024, 448, 960, 120), (1 << 20, 20_000, (1 << 20) - 64, 256)]
        {
            let bounds = Bounds::within(files);
            assert_eq!((bounds.max_connections, bounds.max_requests), (connections, connections), "{files}");
            assert_eq!((bounds.max_file, bounds.max_idle()), (Some(max_file), max_idle), "{files}");
        }
        assert_eq!(Bounds::within(1).max_idle(), 1);
        assert_eq!(Bounds::default().max_idle(), MAX_IDLE);
    }
}
