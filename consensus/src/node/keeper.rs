//! What goes on beside the log: snapshots when they are due, old incarnations, and where this node is to be found.

use std::{sync::Arc, time::Duration};

use openraft::async_runtime::WatchReceiver;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tollgate_proto::peer::v1::JoinRequest;

use super::{Attempt, Core};
use crate::{ChangeError, SnapshotPolicy, identity::Id, incarnation_of, node_of, transport::Lane};

const LOOK_EVERY: Duration = Duration::from_millis(250);

/// A snapshot that could not be written is tried again after so long: mostly the disk is full, and each attempt fills it.
const PUT_OFF: Duration = Duration::from_secs(10);

/// For a call to the leader.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) async fn keep(core: Arc<Core>, policy: SnapshotPolicy) {
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut schedule = Schedule { policy, last: Instant::now(), put_off: None };
    let mut asked = None;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = core.stop.cancelled() => return,
        }
        if core.progress.take_snapshot_put_off() {
            schedule.put_off = Some(Instant::now());
        }
        if schedule.is_due(core.progress.bytes_since_snapshot(), Instant::now())
            && core.raft.trigger().snapshot().await.is_err()
        {
            return;
        }
        core.compare_memories(&mut asked).await;
        if core.leads() {
            core.tidy_incarnations().await;
        }
        if !core.is_where_it_says() {
            core.say_where_it_is().await;
        }
    }
}

/// When the next snapshot is due.
struct Schedule {
    policy: SnapshotPolicy,
    last: Instant,
    /// Since when one is owed that could not be written.
    put_off: Option<Instant>,
}

impl Schedule {
    /// Whether one is due now, that has so many bytes of log to replace; then it counts as begun.
    fn is_due(&mut self, bytes: u64, now: Instant) -> bool {
        let due = match self.put_off {
            // What it would have held is no longer counted among the bytes.
            Some(at) => now.duration_since(at) >= PUT_OFF,
            None => {
                bytes >= self.policy.log_bytes || (bytes > 0 && now.duration_since(self.last) >= self.policy.interval)
            }
        };
        if due {
            (self.last, self.put_off) = (now, None);
        }
        due
    }
}

impl Core {
    fn is_where_it_says(&self) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let said = metrics.membership_config.membership().get_node(&self.raft_id);
        said.is_none_or(|said| said == self.shared.info())
    }

    /// Addresses may change from one start to the next: the leader writes the new ones down.
    async fn say_where_it_is(&self) {
        let (node, incarnation) = (node_of(self.raft_id), incarnation_of(self.raft_id));
        let said = match self.leader() {
            Some(leader) if leader.raft_id == self.raft_id => {
                self.join_here(node, incarnation, self.shared.info().clone()).await
            }
            Some(leader) => {
                let peer = self.target(leader.raft_id, &leader.peer).peer;
                join_at(&self.peers, &peer, self.join_request(incarnation)).await
            }
            None => Attempt::NotLeader,
        };
        if let Attempt::Refused(error) = said {
            tracing::warn!(%error, "the leader does not take this node's addresses");
        }
    }

    fn join_request(&self, incarnation: u16) -> JoinRequest {
        join_request(node_of(self.raft_id), incarnation, self.shared.info())
    }
}

pub(super) fn join_request(node: u64, incarnation: u16, info: &crate::types::NodeInfo) -> JoinRequest {
    JoinRequest {
        node,
        incarnation: incarnation.into(),
        zone: info.zone.clone(),
        peer: info.peer.clone(),
        http: info.http.clone(),
        admin: info.admin.clone(),
    }
}

pub(super) async fn join_at(
    peers: &crate::transport::Peers,
    peer: &crate::transport::Peer,
    request: JoinRequest,
) -> Attempt<(Id, u16), ChangeError> {
    let Ok(mut client) = peers.client(peer, Lane::Control) else { return Attempt::NotLeader };
    match tokio::time::timeout(CALL_TIMEOUT, client.join(request)).await {
        Ok(Ok(answer)) => answer.into_inner().into(),
        Ok(Err(status)) => Attempt::Unknown(status.to_string()),
        Err(_) => Attempt::Unknown("no answer".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_that_could_not_be_written_is_due_again_after_a_pause() {
        let begun = Instant::now();
        let policy = SnapshotPolicy { log_bytes: 100, interval: Duration::from_secs(3600), keep_entries: 0 };
        let mut schedule = Schedule { policy, last: begun, put_off: None };
        assert!(!schedule.is_due(99, begun));
        assert!(schedule.is_due(100, begun));
        schedule.put_off = Some(begun);
        assert!(!schedule.is_due(1_000, begun + PUT_OFF / 2), "not in a loop");
        assert!(schedule.is_due(0, begun + PUT_OFF), "it is owed, whatever was applied since");
        assert!(!schedule.is_due(0, begun + PUT_OFF * 2), "and begun once");
    }
}
