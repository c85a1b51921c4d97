//! What a node knows of itself and of its cluster.

use std::fmt;

/// The part that a node plays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Role {
    /// Leads.
    Leader,
    /// Votes, and follows.
    Follower,
    /// Applies the log and does not vote.
    #[default]
    Learner,
}

impl Role {
    /// `leader`, `follower` or `learner`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Leader => "leader",
            Self::Follower => "follower",
            Self::Learner => "learner",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What this node knows now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// This node.
    pub node: u64,
    /// Its Raft id: the node id and its incarnation.
    pub raft_id: u64,
    /// The cluster, in hexadecimal.
    pub cluster: String,
    /// Its part.
    pub role: Role,
    /// The current term.
    pub term: u64,
    /// The node that leads, as far as this one knows.
    pub leader: Option<u64>,
    /// The last entry of its log.
    pub last_log_index: u64,
    /// The last entry that it has applied.
    pub applied_index: u64,
    /// The last entry in its newest snapshot.
    pub snapshot_index: u64,
    /// The last entry that its log has forgotten.
    pub purged_index: u64,
    /// The members, by node id.
    pub members: Vec<Member>,
}

/// A member of the cluster, as the membership in the log has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Member {
    /// The node.
    pub node: u64,
    /// Its Raft id.
    pub raft_id: u64,
    /// Whether it votes.
    pub voter: bool,
    /// Its zone.
    pub zone: String,
    /// `host:port` of its peer plane.
    pub peer: String,
    /// `host:port` of its data plane.
    pub http: String,
    /// `host:port` of its admin plane.
    pub admin: String,
}

/// A member, and what it said when it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberStatus {
    /// What the membership says.
    pub member: Member,
    /// What it said itself; `None` when it did not answer in time.
    pub live: Option<Live>,
}

/// What a node says of itself when it is asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Live {
    /// Its part.
    pub role: Role,
    /// Its current term.
    pub term: u64,
    /// The last entry of its log.
    pub last_log_index: u64,
    /// The last entry that it has applied.
    pub applied_index: u64,
    /// What its log takes on the disk.
    pub log_bytes: u64,
    /// The log's disk is full: writes wait for space.
    pub log_full: bool,
    /// What it published last.
    pub local: Local,
    /// Its program's version.
    pub version: String,
}

/// What the program above consensus wants the other nodes to know about this one, at once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Local {
    /// `ready`, `draining`…; `starting` before anything was published.
    pub state: String,
    /// The log index of the configuration that it serves.
    pub served_index: u64,
}
