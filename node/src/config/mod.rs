//! The configuration of one node: `node.toml`, overridden key by key by `TOLLGATE_<SECTION>_<KEY>`.
//!
//! Raw text in `source.rs`, single values in `take.rs`; here is what the keys mean. Every problem is reported at once.

mod dns;
mod https;
mod log_filter;
mod source;
mod take;

use std::{
    ffi::OsString,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use ipnet::IpNet;
use tollgate_gateway::{AccessLogField, DnsConfig};

pub(crate) use self::https::Https;
use self::take::Take;
pub(crate) use source::ConfigProblem;

/// A start replays at most this much log; a snapshot of 10,000 resources is a few megabytes.
const SNAPSHOT_LOG_BYTES: u64 = 64 << 20;
/// Some seconds of a busy log: a follower that was restarted catches up from it without a snapshot.
const SNAPSHOT_KEEP_ENTRIES: u64 = 1_024;
/// How long a node that is told to stop goes on serving, so that load balancers see it unready first.
const DRAIN_DELAY: Duration = Duration::from_secs(3);
/// How long requests in flight may take to finish after that.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// What a revoked key, or a limit that was lowered, may be late at most on a node that is cut off (T_iso).
const ISOLATION: Duration = Duration::from_secs(30);

/// Every key that a node configuration has. A key that is not here is an error; the test of this module holds README's
/// table and `check` to this list.
pub(crate) const KEYS: &[&str] = &[
    "node.id",
    "node.zone",
    "node.data_dir",
    "http.listen",
    "http.trusted_proxies",
    "http.max_connections",
    "http.max_requests",
    "http.max_buffered",
    "http.proxy_protocol",
    "access_log.file",
    "access_log.fields",
    "access_log.sample",
    "https.listen",
    "https.cert",
    "https.key",
    "https.ca",
    "https.proxy_protocol",
    "admin.listen",
    "admin.initial_token_file",
    "admin.tls.cert",
    "admin.tls.key",
    "admin.tls.ca",
    "peer.listen",
    "peer.advertise",
    "peer.tls.ca",
    "peer.tls.cert",
    "peer.tls.key",
    "cluster.bootstrap",
    "cluster.join",
    "cluster.key_file",
    "snapshot.log_size",
    "snapshot.keep_entries",
    "drain.delay",
    "drain.timeout",
    "limits.isolation",
    "ledger.archive",
    "ledger.archive_after",
    "dns.nameservers",
    "dns.timeout",
    "dns.prefer",
    "telemetry.log",
    "telemetry.otlp",
    "telemetry.trace_sample",
];

/// This node records no spans, so nobody is asked to do so because of it.
const TRACE_SAMPLE: f64 = 0.0;

/// Keys of the contract whose behaviour is not built yet: refused, never silently accepted.
const NOT_YET: &[&str] = &["admin.tls.cert", "admin.tls.key", "admin.tls.ca", "telemetry.otlp"];

/// A checked node configuration. Paths are absolute or relative to the working directory, never to the file.
#[derive(Clone, Debug)]
pub(crate) struct NodeConfig {
    /// Shown to people and written into every ledger row; 1 to 2^32.
    pub(crate) id: u64,
    pub(crate) zone: String,
    pub(crate) data_dir: PathBuf,
    pub(crate) http_listen: SocketAddr,
    pub(crate) trusted_proxies: Vec<IpNet>,
    /// What callers may take of this node at once; where nothing is said, what the files that the process may open and its memory
    /// allow.
    pub(crate) max_connections: Option<usize>,
    pub(crate) max_requests: Option<usize>,
    /// Bytes of bodies that are read whole.
    pub(crate) max_buffered: Option<u64>,
    /// Whether connections of trusted proxies begin with a PROXY header.
    pub(crate) proxy_protocol: bool,
    pub(crate) https: Option<Https>,
    pub(crate) access_log: Option<AccessLogPlan>,
    pub(crate) admin_listen: SocketAddr,
    pub(crate) initial_token_file: Option<PathBuf>,
    pub(crate) peer_listen: SocketAddr,
    /// `host:port` that other nodes dial.
    pub(crate) peer_advertise: String,
    pub(crate) peer_tls: TlsFiles,
    pub(crate) members: Members,
    pub(crate) key_file: Option<PathBuf>,
    /// Bytes of log after which a snapshot is made.
    pub(crate) snapshot_log_bytes: u64,
    /// Log entries kept behind a snapshot, for followers that were away for a moment.
    pub(crate) snapshot_keep_entries: u64,
    pub(crate) drain_delay: Duration,
    pub(crate) drain_timeout: Duration,
    /// For so long a node that nobody answers spends the leases it has.
    pub(crate) isolation: Duration,
    /// Where old segments of the ledger are.
    pub(crate) archive: Option<PathBuf>,
    /// How old they are when they go there; none where this node only reads it.
    pub(crate) archive_after: Option<Duration>,
    /// Who is asked for the addresses of upstreams.
    pub(crate) dns: DnsConfig,
    /// Which share of the traces that begin here is sampled.
    pub(crate) trace_sample: f64,
    /// A `tracing` filter: `info`, `warn,tollgate_gateway=debug`.
    pub(crate) log: String,
}

/// Where exchanges get a line each, what is in it, and which part of those that end well has one.
#[derive(Clone, Debug)]
pub(crate) struct AccessLogPlan {
    pub(crate) file: PathBuf,
    pub(crate) fields: Vec<AccessLogField>,
    pub(crate) sample: f64,
}

/// How a node without a data directory finds its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Members {
    /// The first members of a new cluster, `(node id, host:port)`; the same list on each of them.
    Bootstrap(Vec<(u64, String)>),
    /// Peers to ask for admission to a running cluster, `host:port`.
    Join(Vec<String>),
}

/// PEM files of one side of mutual TLS.
#[derive(Clone, Debug)]
pub(crate) struct TlsFiles {
    pub(crate) ca: PathBuf,
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

impl NodeConfig {
    /// Reads and checks a file, with the process's environment over it, and the files that it names.
    ///
    /// # Errors
    /// Every problem found, each with its place.
    pub(crate) fn load(path: &Path) -> Result<NodeConfig, Vec<ConfigProblem>> {
        let text = fs::read_to_string(path).map_err(|error| {
            vec![ConfigProblem {
                field: String::new(),
                message: format!("can't be read: {error}"),
                origin: source::Origin::Missing,
            }]
        })?;
        NodeConfig::parse(&text, path.parent().unwrap_or(Path::new("")), std::env::vars_os(), true)
    }

    /// Checks a file's text. Relative paths in it are relative to `base`, the folder that the file stands in; with `look`
    /// the files that must be there are opened.
    pub(crate) fn parse(
        text: &str,
        base: &Path,
        env: impl Iterator<Item = (OsString, OsString)>,
        look: bool,
    ) -> Result<NodeConfig, Vec<ConfigProblem>> {
        let mut take = Take::new(source::Source::read(text, env, KEYS), base, look);
        for key in NOT_YET {
            take.refuse(key, "is not supported yet: leave it out");
        }
        let config = check(&mut take);
        take.finish(KEYS)?;
        Ok(config.expect("a configuration without problems is complete"))
    }
}

/// `None` only where a problem was reported.
fn check(take: &mut Take<'_>) -> Option<NodeConfig> {
    let id = take.node_id("node.id");
    let zone = take.name("node.zone");
    let data_dir = take.directory("node.data_dir");
    let http_listen = take.address("http.listen");
    let trusted_proxies = take.networks("http.trusted_proxies");
    let max_connections = take.bound("http.max_connections");
    let max_requests = take.bound("http.max_requests");
    let max_buffered = take.optional_size("http.max_buffered");
    let proxy_protocol = take.proxy_protocol("http.proxy_protocol", &trusted_proxies);
    let https = Https::take(take, &trusted_proxies);
    let access_log = access_log(take);
    let admin_listen = take.address("admin.listen");
    let initial_token_file = take.optional_path("admin.initial_token_file");
    let peer_listen = take.address("peer.listen");
    let peer_advertise = take.advertise("peer.advertise", peer_listen);
    let ca = take.file("peer.tls.ca");
    let cert = take.file("peer.tls.cert");
    let key = take.file("peer.tls.key");
    let members = take.members(id);
    let key_file = take.key_file("cluster.key_file");
    let snapshot_log_bytes = take.size("snapshot.log_size", SNAPSHOT_LOG_BYTES);
    let snapshot_keep_entries = take.count("snapshot.keep_entries", SNAPSHOT_KEEP_ENTRIES);
    let drain_delay = take.duration("drain.delay", DRAIN_DELAY);
    let drain_timeout = take.duration("drain.timeout", DRAIN_TIMEOUT);
    let isolation = take.duration("limits.isolation", ISOLATION);
    let archive = take.optional_path("ledger.archive");
    let archive_after = take.optional_duration("ledger.archive_after");
    if archive.is_none() {
        take.refuse("ledger.archive_after", "is given without ledger.archive: name the directory that segments go to");
    }
    let dns = dns::take(take);
    let trace_sample = take.part("telemetry.trace_sample", TRACE_SAMPLE);
    let log = take.log_filter("telemetry.log");
    Some(NodeConfig {
        id: id?,
        zone: zone?,
        data_dir: data_dir?,
        http_listen: http_listen?,
        trusted_proxies,
        max_connections,
        max_requests,
        max_buffered,
        proxy_protocol,
        https,
        access_log,
        admin_listen: admin_listen?,
        initial_token_file,
        peer_listen: peer_listen?,
        peer_advertise: peer_advertise?,
        peer_tls: TlsFiles { ca: ca?, cert: cert?, key: key? },
        members: members?,
        key_file,
        snapshot_log_bytes,
        snapshot_keep_entries,
        drain_delay,
        drain_timeout,
        isolation,
        archive,
        archive_after,
        dns,
        trace_sample,
        log,
    })
}

/// None where no file is named.
fn access_log(take: &mut Take<'_>) -> Option<AccessLogPlan> {
    let file = take.optional_path("access_log.file");
    if file.is_none() {
        for key in ["access_log.fields", "access_log.sample"] {
            take.refuse(key, "is given without access_log.file: name the file that lines go to");
        }
    }
    let fields = take.access_log_fields("access_log.fields");
    let sample = take.part("access_log.sample", 1.0);
    Some(AccessLogPlan { file: file?, fields, sample })
}

impl NodeConfig {
    /// The key that names `path`, or the directory that it is in.
    pub(crate) fn key_of(&self, path: &Path) -> Option<&'static str> {
        let TlsFiles { ca, cert, key } = &self.peer_tls;
        let of_https = self.https.as_ref().and_then(|https| https.key_of(path));
        match path {
            _ if of_https.is_some() => of_https,
            path if path == ca => Some("peer.tls.ca"),
            path if path == cert => Some("peer.tls.cert"),
            path if path == key => Some("peer.tls.key"),
            path if path.starts_with(&self.data_dir) => Some("node.data_dir"),
            _ => None,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
