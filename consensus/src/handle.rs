//! The handle that everybody else holds.

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::sync::watch;

use crate::{
    CallError, Change, ChangeError, Changed, CommitTimes, Config, Local, LogStats, MemberStatus, ProposeError,
    ReadError, Removed, ShareStats, StartError, StateMachine, Status,
    node::{self, Core},
};

/// A command's place in the log and its outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The index at which it was applied.
    pub index: u64,
    /// What the state machine answered.
    pub outcome: Bytes,
}

/// A future of a handler.
pub type CallFuture = Pin<Box<dyn Future<Output = Result<Bytes, String>> + Send>>;

/// Answers what peers ask with `Consensus::call`: the caller's node id and the body in, the answer out.
pub type CallHandler = Arc<dyn Fn(u64, Bytes) -> CallFuture + Send + Sync>;

/// The handlers by service name.
pub type CallHandlers = HashMap<String, CallHandler>;

/// A node's part in the cluster. Cheap to clone; nothing in it is generic.
#[derive(Clone)]
pub struct Consensus {
    core: Arc<Core>,
}

impl Consensus {
    /// Starts this node's part: restores its state, listens, and finds its cluster. Returns once this node is a member;
    /// with an empty data directory that needs its peers, so it may wait for them as long as it takes.
    ///
    /// # Errors
    /// When it could never become a member as things are.
    ///
    /// # Cancel safety
    /// Safe: dropping the future stops what it had started.
    pub async fn start(
        config: Config,
        machine: Box<dyn StateMachine>,
        calls: CallHandlers,
    ) -> Result<Self, StartError> {
        Ok(Self { core: Box::pin(node::start(config, machine, calls)).await? })
    }

    /// Proposes a command, on any node, and waits for its outcome.
    ///
    /// With a request id it is applied once however often it is sent, for at least ten minutes of log time; that makes
    /// retrying after `Unknown` safe, and it is retried in here until the deadline. The same id with another command (see
    /// `StateMachine::fingerprint`) is refused. Commands that are told apart by
    /// their own content need none: an id costs a remembered row.
    ///
    /// # Errors
    /// `Unknown` when it may or may not have happened; all others mean that it has not.
    ///
    /// # Cancel safety
    /// The command may be applied or not.
    pub async fn propose(
        &self,
        request_id: Option<[u8; 16]>,
        command: Bytes,
        deadline: Instant,
    ) -> Result<Committed, ProposeError> {
        self.core.propose(request_id, command, deadline.into()).await
    }

    /// Waits until this node has applied everything that was acknowledged anywhere before the call; gives the index.
    ///
    /// # Errors
    /// When no leader with a quorum could be reached, or this node is behind, until the deadline.
    pub async fn read_barrier(&self, deadline: Instant) -> Result<u64, ReadError> {
        self.core.read_barrier(deadline.into()).await
    }

    /// What this node knows now.
    #[must_use]
    pub fn status(&self) -> Status {
        self.core.status()
    }

    /// What this node knows, as it changes.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Status> {
        self.core.watch()
    }

    /// The figures of this node's log: what it takes on the disk, and whether the disk is full.
    #[must_use]
    pub fn log(&self) -> LogStats {
        self.core.log_stats()
    }

    /// Why no other node takes this node's certificate, while that is so; it may expire in service, and be renewed.
    #[must_use]
    pub fn certificate(&self) -> watch::Receiver<Option<String>> {
        self.core.certificate()
    }

    /// How many entries that commands share this node has written while it led.
    #[must_use]
    pub fn share_stats(&self) -> ShareStats {
        self.core.share_stats()
    }

    /// How long the latest snapshot took that this process has written, from the image of the state to the disk; zero before
    /// there was one.
    #[must_use]
    pub fn snapshot_time(&self) -> Duration {
        self.core.snapshots().took()
    }

    /// How long the entries took that this node has written while it led.
    #[must_use]
    pub fn commit_times(&self) -> CommitTimes {
        self.core.commit_times()
    }

    /// How far this node's wall clock is ahead of the median of the voters' clocks, in µs, or behind it: below 0. `None` while
    /// it does not lead, or too few of them were read.
    #[must_use]
    pub fn clock_offset_us(&self) -> Option<i64> {
        self.core.clock_offset_us()
    }

    /// The addresses that could not be connected to the last time, each with the reason.
    #[must_use]
    pub fn unreached(&self) -> Vec<String> {
        self.core.unreached()
    }

    /// The last index that this node has applied, as it changes. Its effects are there when the number is.
    #[must_use]
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.core.applied()
    }

    /// Resolves once this node has learnt from a member that it was removed from the cluster. It applies nothing any more
    /// then, but what it proposes is still carried out, so that what is in flight can be settled.
    pub async fn removed(&self) -> Removed {
        self.core.removed().await
    }

    /// What the other nodes shall know about this one, from now on.
    pub fn publish(&self, local: Local) {
        self.core.publish(local);
    }

    /// Asks every member; who does not answer before the deadline is unreachable.
    pub async fn members_status(&self, deadline: Instant) -> Vec<MemberStatus> {
        self.core.members_status(deadline.into()).await
    }

    /// Asks the handler `service` of a member (this node too).
    ///
    /// # Errors
    /// When it could not be reached before the deadline, or answered with an error.
    pub async fn call(&self, node: u64, service: &str, body: Bytes, deadline: Instant) -> Result<Bytes, CallError> {
        self.core.call(node, service, body, deadline.into()).await
    }

    /// Changes who is a member, who votes, or who leads.
    ///
    /// With a request id the change is made once however often it is asked for, for at least ten minutes of log time: the
    /// same id again gives the first outcome, and with another change or command it is refused. What was refused was not
    /// made, and may be asked for again under its id. One thing is not told apart: leadership that was handed to a named
    /// node, by a leader that died before it was written down, is handed to it again.
    ///
    /// # Errors
    /// `Unknown` when it may or may not have happened; all others mean that it has not.
    ///
    /// # Cancel safety
    /// The change may be made or not.
    pub async fn change(
        &self,
        request_id: Option<[u8; 16]>,
        change: Change,
        deadline: Instant,
    ) -> Result<Changed, ChangeError> {
        self.core.change(request_id, &change, deadline.into()).await
    }

    /// Looks for a node at `peer`, invites it if it waits there, and waits until it is in, as a learner. Gives the index
    /// of the change.
    ///
    /// # Errors
    /// When it does not answer at `peer` or does not ask until the deadline, is in another cluster, or is a member
    /// elsewhere.
    pub async fn add_learner(&self, node: u64, peer: String, deadline: Instant) -> Result<u64, ChangeError> {
        Ok(self.change(None, Change::Add { node, peer }, deadline).await?.index)
    }

    /// Makes a learner a voter once it has caught up. Gives the index of the change.
    ///
    /// # Errors
    /// When it is no member, has not caught up until the deadline, or too few of the voters could be reached then.
    pub async fn promote(&self, node: u64, deadline: Instant) -> Result<u64, ChangeError> {
        Ok(self.change(None, Change::Promote(node), deadline).await?.index)
    }

    /// Removes a member, dead or alive; a leader hands over first. Gives the index of the change.
    ///
    /// # Errors
    /// When it is no member, or the last voter, or too few of the other voters can be reached to decide anything.
    pub async fn remove(&self, node: u64, deadline: Instant) -> Result<u64, ChangeError> {
        Ok(self.change(None, Change::Remove(node), deadline).await?.index)
    }

    /// Hands leadership to a voter: `None` lets the leader choose. Gives the new leader.
    ///
    /// # Errors
    /// When it does not vote, or did not take over until the deadline.
    pub async fn transfer_leader(&self, to: Option<u64>, deadline: Instant) -> Result<u64, ChangeError> {
        Ok(self.change(None, Change::Transfer(to), deadline).await?.leader)
    }

    /// Hands over leadership if it has it, then stops: no more votes, no more answers; everything is on disk, and the
    /// data directory is free. Handles may still be held; what they are asked fails.
    pub async fn shutdown(&self, deadline: Instant) {
        self.core.shutdown(deadline.into()).await;
    }
}

impl fmt::Debug for Consensus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consensus").field("raft_id", &self.core.raft_id()).finish_non_exhaustive()
    }
}
