//! What may go wrong, by operation.

use std::{io, path::PathBuf, time::Duration};

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting that can't be.
    #[error("{0}")]
    Config(String),
    /// Another process runs on this data directory.
    #[error("{} is in use by another process", .0.display())]
    Locked(PathBuf),
    /// The data directory belongs to another node.
    #[error("{} belongs to node {found}, not to node {expected}", dir.display())]
    WrongNode {
        /// The data directory.
        dir: PathBuf,
        /// Whose it is.
        found: u64,
        /// Who was started.
        expected: u64,
    },
    /// The data directory belongs to another cluster than the one that the peers are in.
    #[error("{} belongs to cluster {found}, but the peers are in cluster {expected}", dir.display())]
    WrongCluster {
        /// The data directory.
        dir: PathBuf,
        /// The cluster that it was in.
        found: String,
        /// The peers' cluster.
        expected: String,
    },
    /// The data directory can't be used, or what is in it is damaged.
    #[error("{}", path.display())]
    Storage {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        error: io::Error,
    },
    /// A certificate or a key can't be used.
    #[error("{}: {problem}", path.display())]
    Tls {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The peer plane's address can't be bound.
    #[error("peer plane: can't listen on {address}")]
    Listen {
        /// The address.
        address: String,
        /// Why not.
        #[source]
        error: io::Error,
    },
    /// The cluster will not have this node.
    #[error("the cluster refuses this node: {0}")]
    Refused(String),
    /// The node was taken out of the cluster.
    #[error(transparent)]
    Removed(#[from] Removed),
    /// Something that this node kept is damaged, and nobody was there who could send it again.
    #[error(
        "{}: the state up to log entry {needed} is not there any more{damage}, and no leader was found that could send it. To \
         heal: see that the other members run and start this node again, it then rejoins and fetches everything from them",
        dir.display()
    )]
    Incomplete {
        /// The data directory.
        dir: PathBuf,
        /// The last entry that the log has left to the state and the snapshot.
        needed: u64,
        /// The snapshots that were found damaged, each with what is wrong with it.
        damage: String,
    },
    /// openraft did not start.
    #[error(
        "consensus did not start: {0}. What this node kept is damaged or incomplete. To heal: move its data directory away and \
         start it again: it joins under a new Raft id and fetches everything from its peers"
    )]
    Raft(String),
    /// Told to stop while it was waiting for its peers.
    #[error("stopped before it had found its cluster")]
    Stopped,
}

/// This node is a member no more: nothing reaches it, and it must not serve any longer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "node {node} was removed from the cluster. To bring it back, empty its data directory, {}, and start it again with \
     `join`: it comes in as a learner, under its next incarnation",
    dir.display()
)]
pub struct Removed {
    /// The node.
    pub node: u64,
    /// Its data directory.
    pub dir: PathBuf,
}

/// Why a proposal has no outcome.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Nobody led before the deadline. Surely not applied.
    #[error("no leader")]
    NoLeader,
    /// May or may not be applied, now or later. The same request id again is safe and gives the first outcome.
    #[error("the outcome is unknown: {0}")]
    Unknown(String),
    /// The command is larger than a log entry may be. Not applied.
    #[error("a command of {size} bytes is over the limit of {max}")]
    TooLarge {
        /// Its size.
        size: usize,
        /// The limit.
        max: usize,
    },
    /// Too many request ids came within the last ten minutes to remember one more. Not applied.
    #[error("too many request ids in the last {} minutes", .0.as_secs() / 60)]
    TooManyRequestIds(Duration),
    /// The request id came with another command before. Not applied.
    #[error("the request id was used for another command")]
    RequestIdUsed,
    /// What was proposed is no command that the leader knows. Not applied, and never will be.
    #[error("not a command: {0}")]
    NotACommand(String),
    /// The disk of the node that leads is full. Not applied; it heals by itself when there is space.
    #[error("the disk of node {node}, which leads, is full: nothing can be written until there is space")]
    DiskFull {
        /// The node.
        node: u64,
    },
    /// This node is stopping. Not applied.
    #[error("this node is stopping")]
    Stopped,
}

/// Why a read can't be linearizable now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// No leader with a quorum behind it was reached before the deadline.
    #[error("no leader with a quorum")]
    NoQuorum,
    /// This node did not apply what the leader had committed before the deadline.
    #[error("this node is behind: it has applied {applied} of {needed}")]
    Behind {
        /// Applied here.
        applied: u64,
        /// Committed when the read was asked for.
        needed: u64,
    },
    /// This node is stopping.
    #[error("this node is stopping")]
    Stopped,
}

/// Why the membership was not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// Nobody led before the deadline. Nothing was changed.
    #[error("no leader")]
    NoLeader,
    /// It can't be done; the message says why. Nothing was changed.
    #[error("{0}")]
    Invalid(String),
    /// Another change is under way. Nothing was changed.
    #[error("another membership change is under way")]
    Busy,
    /// What must be there first was not there before the deadline; the message says what. Nothing was changed.
    #[error("{0}")]
    NotYet(String),
    /// It could not be written down under its request id. Nothing was changed.
    #[error(transparent)]
    NotBegun(ProposeError),
    /// May or may not have happened: the same request id again is safe and gives the first outcome.
    #[error("the outcome is unknown: {0}")]
    Unknown(String),
    /// This node is stopping.
    #[error("this node is stopping")]
    Stopped,
}

/// Why a peer did not answer a call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// No such member.
    #[error("node {0} is not a member")]
    NotAMember(u64),
    /// It did not answer before the deadline, or could not be reached.
    #[error("node {node} did not answer: {reason}")]
    Unreachable {
        /// The node.
        node: u64,
        /// Why not.
        reason: String,
    },
    /// It answered with an error.
    #[error("node {node}: {message}")]
    Failed {
        /// The node.
        node: u64,
        /// Its words.
        message: String,
    },
}
