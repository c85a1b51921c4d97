//! What a node must know to take part.

use std::{
    fmt,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// A node's settings, checked by whoever read them.
#[derive(Debug)]
pub struct Config {
    /// The node's id: unique in the cluster for ever, at least 1 and at most `MAX_NODE_ID`.
    pub node: u64,
    /// The zone that it stands in.
    pub zone: String,
    /// The directory that is this node's alone. Made when it is not there.
    pub data_dir: PathBuf,
    /// Where the peer plane listens.
    pub listen: Listen,
    /// `host:port` under which the other nodes reach the peer plane; the bound address when `None`.
    pub advertise: Option<String>,
    /// `host:port` of the data plane, told to the others.
    pub http: String,
    /// `host:port` of the admin plane, told to the others.
    pub admin: String,
    /// The program's version, told to the others.
    pub version: String,
    /// Who it is, and whom it trusts.
    pub tls: PeerTls,
    /// How it finds its cluster when its data directory is empty.
    pub formation: Formation,
    /// Heartbeats and elections.
    pub timing: Timing,
    /// When to make a snapshot.
    pub snapshots: SnapshotPolicy,
    /// The largest command that may be proposed.
    pub max_command_bytes: usize,
    /// The wall clock.
    pub clock: Clock,
    /// What ends the process when consensus can't go on. Aborts it by default.
    pub on_fatal: OnFatal,
}

impl Config {
    /// The default of `max_command_bytes`: one entry must fit into one message between peers, with room to spare.
    pub const MAX_COMMAND_BYTES: usize = 8 << 20;
}

/// Where the peer plane listens.
#[derive(Debug)]
pub enum Listen {
    /// An address to bind; port 0 takes any.
    Address(SocketAddr),
    /// A socket that is bound and listening already.
    Bound(std::net::TcpListener),
}

/// PEM files. Read again for new connections when they change.
#[derive(Debug, Clone)]
pub struct PeerTls {
    /// The cluster's authority.
    pub ca: PathBuf,
    /// This node's certificate, with the DNS name `node-<id>.tollgate.internal`.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// How a node with an empty data directory finds its cluster. A node that has been in one knows its members itself.
#[derive(Debug, Clone)]
pub enum Formation {
    /// The first members, the same on each of them. A cluster is made when all of them answer that they are empty.
    Bootstrap(Vec<FirstMember>),
    /// `host:port` of members of a running cluster: joins as a learner.
    Join(Vec<String>),
}

/// One of the first members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirstMember {
    /// Its node id.
    pub node: u64,
    /// `host:port` of its peer plane.
    pub peer: String,
}

impl std::str::FromStr for FirstMember {
    type Err = String;

    /// Reads `1@host:port`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (node, peer) = text.split_once('@').ok_or_else(|| format!("`{text}` is not `<node id>@<host:port>`"))?;
        let node = node.parse().ok().filter(|node| (1..=crate::MAX_NODE_ID).contains(node));
        let node = node.ok_or_else(|| format!("`{text}` does not begin with a node id"))?;
        let port = peer.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port.parse::<u16>());
        match port {
            Some(Ok(_)) => Ok(Self { node, peer: peer.to_owned() }),
            _ => Err(format!("`{text}` does not end with a host and a port")),
        }
    }
}

/// Heartbeats and elections. The defaults were measured: a killed leader is replaced in about a second, and a disk or a
/// CPU that is slow for a while does not start an election.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// Between two heartbeats.
    pub heartbeat: Duration,
    /// Silence before an election, at least.
    pub election_min: Duration,
    /// And at most; also how long a leader's lease lasts.
    pub election_max: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(100),
            election_min: Duration::from_millis(300),
            election_max: Duration::from_millis(600),
        }
    }
}

/// When to make a snapshot: whichever comes first.
#[derive(Debug, Clone, Copy)]
pub struct SnapshotPolicy {
    /// Bytes applied since the last one.
    pub log_bytes: u64,
    /// Time since the last one, if anything was applied.
    pub interval: Duration,
    /// Log entries kept behind a snapshot, so that a follower that was away for a moment needs no snapshot.
    pub keep_entries: u64,
}

impl Default for SnapshotPolicy {
    fn default() -> Self {
        Self { log_bytes: 64 << 20, interval: Duration::from_secs(30 * 60), keep_entries: 1_024 }
    }
}

/// Tells the wall time, in µs since the epoch: the one place where it enters. Replicated code sees only what the leader has
/// stamped.
#[derive(Clone)]
pub struct Clock(pub Arc<dyn Fn() -> u64 + Send + Sync>);

impl Clock {
    pub(crate) fn now_us(&self) -> u64 {
        (self.0)()
    }
}

impl Default for Clock {
    fn default() -> Self {
        #[expect(clippy::disallowed_methods, reason = "this is the one clock: log time is stamped from it")]
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(Arc::new(move || crate::stamp::micros(now())))
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

/// What ends the process when consensus can't go on: a failed fsync, a panic in the state machine, a log that is
/// damaged. To carry on would be to answer from a state that nobody agreed on.
#[derive(Clone)]
pub struct OnFatal(pub Arc<dyn Fn(&str) + Send + Sync>);

impl Default for OnFatal {
    fn default() -> Self {
        Self(Arc::new(|reason| {
            tracing::error!(reason, "consensus can't go on, ending the process");
            std::process::abort();
        }))
    }
}

impl fmt::Debug for OnFatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnFatal")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_member_is_a_node_id_and_an_address() {
        assert_eq!("2@10.0.0.1:7000".parse(), Ok(FirstMember { node: 2, peer: "10.0.0.1:7000".into() }));
        for wrong in ["10.0.0.1:7000", "0@a:1", "x@a:1", "1@a", "1@:1", "1@a:99999", "1@"] {
            assert!(wrong.parse::<FirstMember>().is_err(), "{wrong}");
        }
    }
}
