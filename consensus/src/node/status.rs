//! The status that is shown, made from openraft's metrics.

use std::sync::Arc;

use openraft::{RaftMetrics, ServerState, async_runtime::WatchReceiver};

use super::Core;
use crate::{
    Member, Role, Status, node_of,
    types::{StoredMembership, TypeConfig},
};

/// Shows every change, until the node stops. A core that ended, or died without a word, ends the process: it would live
/// on as a node that answers its peers and takes part in nothing.
pub(super) async fn show(core: Arc<Core>) {
    tokio::select! {
        () = core.stop.cancelled() => {}
        reason = show_until_it_ends(&core) => if !core.is_stopping() {
            (core.on_fatal.0)(&reason);
        }
    }
}

async fn show_until_it_ends(core: &Core) -> String {
    let mut metrics = core.raft.metrics();
    let mut applied = core.progress.applied();
    loop {
        if let Err(fatal) = metrics.borrow_and_update().running_state.clone() {
            return format!("consensus ended: {fatal}");
        }
        applied.mark_unchanged();
        core.show_status();
        tokio::select! {
            changed = metrics.changed() => if changed.is_err() {
                return "the consensus core is gone, it has panicked".into();
            },
            changed = applied.changed() => if changed.is_err() {
                return "the state machine is gone, it has panicked".into();
            },
        }
    }
}

impl Core {
    /// Shows the status as it is now.
    pub(super) fn show_status(&self) {
        let status = make(self, *self.progress.applied().borrow());
        self.status.send_if_modified(|shown| {
            let changed = *shown != status;
            *shown = status;
            changed
        });
    }
}

fn make(core: &Core, applied_index: u64) -> Status {
    let metrics = core.raft.metrics();
    let metrics = metrics.borrow_watched();
    Status {
        node: node_of(core.raft_id),
        raft_id: core.raft_id,
        cluster: hex::encode(core.cluster),
        role: role(&metrics),
        term: metrics.current_term,
        leader: metrics.current_leader.map(node_of),
        last_log_index: metrics.last_log_index.unwrap_or(0),
        applied_index,
        snapshot_index: metrics.snapshot.as_ref().map_or(0, |id| id.index),
        purged_index: metrics.purged.as_ref().map_or(0, |id| id.index),
        members: members(&metrics.membership_config),
    }
}

fn role(metrics: &RaftMetrics<TypeConfig>) -> Role {
    match metrics.state {
        ServerState::Leader => Role::Leader,
        ServerState::Follower | ServerState::Candidate => Role::Follower,
        ServerState::Learner | ServerState::Shutdown => Role::Learner,
    }
}

/// One for each node: of one that came back without its disk, the newest incarnation.
fn members(membership: &StoredMembership) -> Vec<Member> {
    let voters: Vec<u64> = membership.voter_ids().collect();
    let mut members: Vec<Member> = Vec::new();
    for (id, info) in membership.nodes() {
        let member = Member {
            node: node_of(*id),
            raft_id: *id,
            voter: voters.contains(id),
            zone: info.zone.clone(),
            peer: info.peer.clone(),
            http: info.http.clone(),
            admin: info.admin.clone(),
        };
        match members.last_mut() {
            Some(last) if last.node == member.node => *last = member,
            _ => members.push(member),
        }
    }
    members
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
