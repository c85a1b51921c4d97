//! The running node.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use openraft::async_runtime::WatchReceiver;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Shared,
    commits::{CommitClock, CommitTimes},
    memory::Memory,
    propose::Queued,
    share::{ShareCounters, ShareStats},
};
use crate::{
    Clock, Local, LogStats, OnFatal, Status,
    gate::Gate,
    identity::{DataDir, Id},
    snapshot::SnapshotDir,
    stamp::Reading,
    state::{Machine, Progress, StateStore},
    transport::{Peers, Target},
    types::{LogId, NodeInfo, StoredMembership, TypeConfig},
};

pub(crate) type Raft = openraft::Raft<TypeConfig, Machine>;

pub(crate) struct Core {
    pub(super) shared: Arc<Shared>,
    pub(super) raft: Raft,
    pub(super) raft_id: u64,
    pub(super) cluster: Id,
    pub(super) peers: Arc<Peers>,
    pub(super) progress: Arc<Progress>,
    pub(super) snapshots: Arc<SnapshotDir>,
    pub(super) memory: Memory,
    pub(super) store: Arc<StateStore>,
    pub(super) gate: Arc<dyn Gate>,
    pub(super) shares: ShareCounters,
    pub(super) commits: CommitClock,
    pub(super) proposals: mpsc::Sender<Queued>,
    pub(super) status: watch::Sender<Status>,
    pub(super) max_command_bytes: usize,
    /// Why no other node takes this node's certificate, if so.
    pub(super) certificate: watch::Sender<Option<String>>,
    pub(super) clock: Clock,
    /// What a majority of the voters' clocks said when this node last led and asked.
    pub(super) known_time: Mutex<Option<Reading>>,
    /// How far the clock is ahead of the voters' median, while this node leads and knows.
    pub(super) clock_offset: watch::Sender<Option<i64>>,
    pub(super) on_fatal: OnFatal,
    /// One snapshot comes in at a time.
    pub(super) receiving: tokio::sync::Mutex<()>,
    /// One membership change is made at a time.
    pub(super) changing: tokio::sync::Mutex<()>,
    pub(super) tracker: TaskTracker,
    pub(super) stop: CancellationToken,
    pub(super) stopping: AtomicBool,
    /// Once this node has learnt that it is a member no more.
    pub(super) removed: CancellationToken,
    /// The data directory.
    pub(super) dir: PathBuf,
    /// Locked until this node has stopped.
    pub(super) data_dir: Mutex<Option<DataDir>>,
}

/// Who leads and where.
#[derive(Debug, Clone)]
pub(crate) struct Leader {
    pub(crate) raft_id: u64,
    pub(crate) peer: String,
}

impl Core {
    pub(crate) fn raft(&self) -> &Raft {
        &self.raft
    }

    pub(crate) fn raft_id(&self) -> u64 {
        self.raft_id
    }

    pub(crate) fn cluster(&self) -> Id {
        self.cluster
    }

    pub(crate) fn snapshots(&self) -> &Arc<SnapshotDir> {
        &self.snapshots
    }

    pub(crate) fn receiving(&self) -> &tokio::sync::Mutex<()> {
        &self.receiving
    }

    pub(crate) fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    pub(crate) fn certificate(&self) -> watch::Receiver<Option<String>> {
        self.certificate.subscribe()
    }

    pub(crate) fn share_stats(&self) -> ShareStats {
        self.shares.stats()
    }

    pub(crate) fn commit_times(&self) -> CommitTimes {
        self.commits.times()
    }

    pub(crate) fn clock_offset_us(&self) -> Option<i64> {
        *self.clock_offset.borrow()
    }

    pub(crate) fn unreached(&self) -> Vec<String> {
        self.peers.refusals().all()
    }

    pub(crate) fn applied(&self) -> watch::Receiver<u64> {
        self.progress.applied()
    }

    /// Whether the log takes entries of a leader now.
    pub(crate) fn takes_entries(&self) -> bool {
        self.memory.log.takes_entries()
    }

    /// Whether the log has this entry, and all before it, on the disk.
    pub(crate) fn is_durable(&self, log_id: Option<LogId>) -> bool {
        self.memory.log.is_durable(log_id)
    }

    pub(crate) fn log_stats(&self) -> LogStats {
        self.memory.log.stats()
    }

    pub(crate) fn publish(&self, local: Local) {
        self.shared.set_local(local);
    }

    /// Ready when the node has stopped.
    pub(crate) fn stopped(&self) -> impl Future<Output = ()> + Send + use<> {
        self.stop.clone().cancelled_owned()
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    pub(super) fn membership(&self) -> Arc<StoredMembership> {
        Arc::clone(&self.raft.metrics().borrow_watched().membership_config)
    }

    /// The leader that this node knows of.
    pub(crate) fn leader(&self) -> Option<Leader> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let raft_id = metrics.current_leader?;
        let peer = metrics.membership_config.membership().get_node(&raft_id)?.peer.clone();
        Some(Leader { raft_id, peer })
    }

    pub(super) fn target(&self, raft_id: u64, peer: &str) -> Target {
        Target::new(self.cluster, self.raft_id, raft_id, peer)
    }

    /// The newest Raft id of a node among the members, and what is known of it.
    pub(super) fn member(&self, node: u64) -> Option<(u64, NodeInfo)> {
        let membership = self.membership();
        // They come in the order of their Raft ids: the last of a node's is its newest.
        let newest = membership.nodes().filter(|(id, _)| crate::node_of(**id) == node).last();
        newest.map(|(id, info)| (*id, info.clone()))
    }
}
