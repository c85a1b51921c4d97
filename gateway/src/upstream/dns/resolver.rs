//! Asking name servers, as the system would or as this node is told to.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use hickory_resolver::{
    Resolver as Hickory, TokioResolver,
    config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig, ResolverOpts},
    net::{NetError, runtime::TokioRuntimeProvider},
    system_conf::read_system_conf,
};
use parking_lot::Mutex;
use tokio::time::timeout;

use super::answers::Told;
use crate::DnsConfig;

/// All that one lookup may take, where nobody says it: search domains, both families, and servers that do not answer among it.
const WITHIN: Duration = Duration::from_secs(10);
/// What the system's resolver goes by. Read again when it has changed.
const FILES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];

/// What lookups are made by.
#[derive(Debug)]
pub(super) struct Resolver {
    config: DnsConfig,
    made: Mutex<Option<(Stamp, Arc<Families>)>>,
}

type Stamp = [Option<SystemTime>; 2];

/// The family that is asked for first, and the other one.
#[derive(Debug)]
struct Families([TokioResolver; 2]);

/// Why nobody could say.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("{0}")]
    Net(#[from] NetError),
    #[error("no name server has answered in time")]
    Late,
}

impl Resolver {
    pub(super) fn new(config: DnsConfig) -> Self {
        Self { config, made: Mutex::default() }
    }

    /// Asks for a name's addresses, for a bounded time.
    pub(super) async fn look_up(&self, host: &str) -> (Told, Option<Failure>) {
        let within = self.config.timeout.unwrap_or(WITHIN);
        let looked_up = timeout(within, self.look_up_on(host)).await.unwrap_or(Err(Failure::Late));
        match looked_up {
            Ok(told) => (told, None),
            Err(failure) => (Told::Failed, Some(failure)),
        }
    }

    /// One family counts: where a name has addresses of both they are the same hosts twice.
    async fn look_up_on(&self, host: &str) -> Result<Told, Failure> {
        for resolver in &self.families()?.0 {
            match resolver.lookup_ip(host).await {
                Ok(found) => {
                    let addresses: Vec<IpAddr> = found.iter().collect();
                    if !addresses.is_empty() {
                        let ttl = found.valid_until().saturating_duration_since(Instant::now());
                        // Some of it has passed while the answer was read.
                        let ttl = Duration::from_secs(ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0));
                        return Ok(Told::Addresses(addresses, ttl));
                    }
                }
                Err(error) if error.is_no_records_found() => {}
                // The other family must not pass for all that there is.
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Told::Nothing)
    }

    fn families(&self) -> Result<Arc<Families>, NetError> {
        let stamp = FILES.map(|file| fs::metadata(file).and_then(|it| it.modified()).ok());
        let mut made = self.made.lock();
        match &*made {
            Some((of, families)) if *of == stamp => Ok(Arc::clone(families)),
            _ => {
                let families = Arc::new(Families::new(&self.config)?);
                *made = Some((stamp, Arc::clone(&families)));
                Ok(families)
            }
        }
    }
}

impl Families {
    fn new(config: &DnsConfig) -> Result<Self, NetError> {
        let (system, mut options) = system();
        // Whoever asks keeps what was answered; what is kept here as well would be kept for twice as long.
        options.cache_size = 0;
        if let Some(within) = config.timeout {
            options.timeout = (within / 2).max(Duration::from_millis(1));
        }
        let servers: Vec<_> = config.nameservers.iter().copied().map(server).collect();
        let servers = if servers.is_empty() { system.name_servers().to_vec() } else { servers };
        let used = ResolverConfig::from_parts(system.domain().cloned(), system.search().to_vec(), servers);
        let of = |strategy| {
            let mut options = options.clone();
            options.ip_strategy = strategy;
            let builder = Hickory::builder_with_config(used.clone(), TokioRuntimeProvider::new());
            builder.with_options(options).build()
        };
        let (v4, v6) = (of(LookupIpStrategy::Ipv4Only)?, of(LookupIpStrategy::Ipv6Only)?);
        Ok(Self(if config.prefer_ipv6 { [v6, v4] } else { [v4, v6] }))
    }
}

/// Where the system says nothing, the name server of this machine (resolv.conf(5)).
fn system() -> (ResolverConfig, ResolverOpts) {
    let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 53));
    let usual = || (ResolverConfig::from_parts(None, Vec::new(), vec![server(local)]), ResolverOpts::default());
    read_system_conf().unwrap_or_else(|error| {
        let is_missing = matches!(&error, NetError::Io(error) if error.kind() == io::ErrorKind::NotFound);
        if !is_missing {
            tracing::warn!(%error, "the system's resolv.conf can't be used: the name server of this machine is asked");
        }
        usual()
    })
}

fn server(address: SocketAddr) -> NameServerConfig {
    let mut server = NameServerConfig::udp_and_tcp(address.ip());
    let at_port = |mut connection: ConnectionConfig| {
        connection.port = address.port();
        connection
    };
    server.connections = vec![at_port(ConnectionConfig::udp()), at_port(ConnectionConfig::tcp())];
    server
}
