//! Whether this node still has what it acknowledged.
//!
//! A data directory that was put back from a copy, or a disk that dropped what it had synced, makes a node forget what
//! it promised. Its log alone does not show it; the leader, which counted on the promise, knows better. So a node asks
//! the leader: at its start, and once whenever it has found a new one. One that has less than it acknowledged under this
//! very leadership must not go on under its Raft id; it sets its log aside and comes back as its next incarnation.

use std::{sync::Arc, time::Duration};

use openraft::async_runtime::WatchReceiver;
use tokio::time::timeout;
use tollgate_proto::peer::v1::IdentifyResponse;

use super::Core;
use crate::{
    log::LogReader,
    snapshot::SnapshotDir,
    transport::{Lane, Peers, Target, wire},
    types::{LogId, Vote},
};

const ASK_TIMEOUT: Duration = Duration::from_millis(500);

/// What a leader, under its vote, has heard a node acknowledge.
pub(crate) type Acknowledged = (Vote, Option<LogId>);

/// Where to look up what this node has.
pub(super) struct Memory {
    pub(super) log: LogReader,
    pub(super) snapshots: Arc<SnapshotDir>,
}

impl Memory {
    /// Whether less is here than was acknowledged. Nothing can be said when the own vote is newer than the leader's: a
    /// newer leader may have had entries removed.
    fn has_lost(&self, (vote, log_id): Acknowledged) -> bool {
        // In this order: whoever has entries removed has the vote changed before.
        let (_, in_log) = self.log.ends();
        let in_snapshot = self.snapshots.current().and_then(|snapshot| snapshot.meta().last_log_id);
        let is_older = self.log.vote().is_none_or(|own| own <= vote);
        is_older && log_id > in_log.max(in_snapshot)
    }

    /// Asks the leader; `None` when it does not answer, or does not lead.
    pub(super) async fn is_lost(&self, peers: &Peers, leader: &Target) -> Option<bool> {
        let mut client = peers.client(&leader.peer, Lane::Control).ok()?;
        let call = client.acknowledged(leader.envelope.put(wire::encode(&())));
        let answer = timeout(ASK_TIMEOUT, call).await.ok()?.ok()?;
        let known: Option<Acknowledged> = wire::decode(answer.get_ref()).ok()?;
        Some(self.has_lost(known?))
    }
}

/// The leader by what the peers say, unless they still take this node for it.
pub(super) fn leader(answers: &[IdentifyResponse], cluster: crate::identity::Id, own: u64) -> Option<Target> {
    let known = answers.iter().filter(|answer| answer.leader_raft_id != 0 && answer.cluster[..] == cluster);
    let newest = known.max_by_key(|answer| answer.term)?;
    (newest.leader_raft_id != own).then(|| Target::new(cluster, own, newest.leader_raft_id, &newest.leader_peer))
}

impl Core {
    /// What this node, as leader, has heard a peer acknowledge; `None` when it does not lead.
    pub(crate) fn acknowledged_by(&self, raft_id: u64) -> Option<Acknowledged> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let leads = metrics.current_leader == Some(self.raft_id);
        let replication = metrics.replication.as_ref().filter(|_| leads)?;
        Some((metrics.vote, replication.get(&raft_id).copied().flatten()))
    }

    pub(crate) fn last_applied(&self) -> Option<LogId> {
        self.raft.metrics().borrow_watched().last_applied
    }

    /// Asks the leader, once it is another one than `asked`; ends the process when it knows of more than is here.
    pub(super) async fn compare_memories(&self, asked: &mut Option<(u64, u64)>) {
        let Some(leader) = self.leader().filter(|leader| leader.raft_id != self.raft_id) else { return };
        let leadership = Some((leader.raft_id, self.status().term));
        if *asked == leadership {
            return;
        }
        match self.memory.is_lost(&self.peers, &self.target(leader.raft_id, &leader.peer)).await {
            Some(true) => self.forget_everything(),
            Some(false) => *asked = leadership,
            None => {}
        }
    }

    fn forget_everything(&self) {
        let marked = self.data_dir.lock().as_ref().map_or(Ok(()), crate::identity::DataDir::mark_to_rejoin);
        if let Err(error) = marked {
            tracing::error!(%error, "can't write down that this node must rejoin");
        }
        (self.on_fatal.0)(
            "the log on this disk ends before entries that this node has acknowledged: the data directory is older than \
             it was. Start the node again: it sets its log aside and rejoins under its next incarnation",
        );
    }
}
