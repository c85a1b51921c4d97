//! Whether this node still has what it acknowledged.
//!
//! A data directory that was put back from a copy, or a disk that dropped what it had synced, makes a node forget what
//! it promised. Its log alone does not show it; the leader, which counted on the promise, knows better. So a node asks
//! the leader: at its start, and once whenever it has found a new one. One that has less than it acknowledged under this
//! very leadership must not go on under its Raft id; it sets its log aside and comes back as its next incarnation.

use std::sync::Arc;

use openraft::async_runtime::WatchReceiver;
use tollgate_proto::peer::v1::IdentifyResponse;

use super::{
    Core,
    standing::{Standing, ask},
};
use crate::{
    log::LogReader,
    snapshot::SnapshotDir,
    transport::Target,
    types::{Departure, LogId, Vote},
};

/// What a leader, under its vote, has heard a node acknowledge.
pub(crate) type Acknowledged = (Vote, Option<LogId>);

/// How what is on the disk fits to what the members know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    /// Everything is there that this node acknowledged to the leader.
    Sound,
    /// Some of it is not.
    Forgetful,
    /// This incarnation is no member any more.
    Departed(Departure),
    /// Nobody could say; they are asked again while the node runs.
    Unknown,
}

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

    /// What follows from what a member said.
    pub(super) fn judge(&self, said: Option<Standing>) -> Fit {
        match said {
            None | Some(Standing::Nothing) => Fit::Unknown,
            Some(Standing::Departed(departure)) => Fit::Departed(departure),
            Some(Standing::Acknowledged(vote, log_id)) if self.has_lost((vote, log_id)) => Fit::Forgetful,
            Some(Standing::Acknowledged(..)) => Fit::Sound,
        }
    }
}

/// The leader by what the peers say, unless they still take this node for it.
pub(super) fn leader<'a>(
    answers: impl Iterator<Item = &'a IdentifyResponse>,
    cluster: crate::identity::Id,
    own: u64,
) -> Option<Target> {
    let known = answers.filter(|answer| answer.leader_raft_id != 0 && answer.cluster[..] == cluster);
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
        let fit = self.memory.judge(ask(&self.peers, &self.target(leader.raft_id, &leader.peer)).await);
        if fit == Fit::Sound {
            *asked = leadership;
        }
        self.act_on(fit);
    }
}
