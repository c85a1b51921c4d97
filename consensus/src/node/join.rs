//! Taking nodes in: new ones, and ones that come back without their disk, under their next incarnation.
//!
//! Such a node comes as a learner. Its old Raft id keeps its vote, which nobody casts any more, until the new one has
//! caught up; then one membership change puts the new one in its place.

use std::{collections::BTreeSet, time::Duration};

use openraft::ChangeMembers;
use tokio::time::Instant;

use super::{Attempt, Core};
use crate::{ChangeError, identity::Id, incarnation_of, node_of, raft_id, transport::Peer, types::NodeInfo};

/// To find out whether the node that a newcomer says it is still runs.
const ALIVE_TIMEOUT: Duration = Duration::from_millis(500);

const CHANGE_TIMEOUT: Duration = Duration::from_secs(5);

impl Core {
    /// Takes a node in, or notes where it is now to be found. `incarnation` 0 asks for a new one.
    pub(crate) async fn join_here(
        &self,
        node: u64,
        incarnation: u16,
        info: NodeInfo,
    ) -> Attempt<(Id, u16), ChangeError> {
        if !self.leads() {
            return Attempt::NotLeader;
        }
        let incarnation = match incarnation {
            0 => match self.next_incarnation(node).await {
                Ok(next) => next,
                Err(problem) => return Attempt::Refused(ChangeError::Invalid(problem)),
            },
            own if self.membership().membership().get_node(&raft_id(node, own)).is_none() => {
                let message = format!("node {node} is not a member any more");
                return Attempt::Refused(ChangeError::Invalid(message));
            }
            own => own,
        };
        let nodes = [(raft_id(node, incarnation), info)].into();
        let known = self.membership().membership().get_node(&raft_id(node, incarnation)).is_some();
        let change = if known { ChangeMembers::SetNodes(nodes) } else { ChangeMembers::AddNodes(nodes) };
        match self.change_members(change, true, Instant::now() + CHANGE_TIMEOUT).await {
            Attempt::Done(_) => Attempt::Done((self.cluster, incarnation)),
            Attempt::Refused(error) => Attempt::Refused(error),
            Attempt::NotLeader => Attempt::NotLeader,
            Attempt::Unknown(reason) => Attempt::Unknown(reason),
        }
    }

    async fn next_incarnation(&self, node: u64) -> Result<u16, String> {
        let mut newest = self.progress.newest_incarnation(node);
        if let Some((id, info)) = self.member(node) {
            newest = newest.max(incarnation_of(id));
            let peer = Peer { node, address: info.peer };
            if self.identify(&peer, ALIVE_TIMEOUT).await.is_ok_and(|answer| answer.raft_id == id) {
                return Err(format!("node {node} runs already, at {}", peer.address));
            }
        }
        newest.checked_add(1).ok_or_else(|| format!("node {node} has used up its incarnations"))
    }

    /// Removes the incarnations that nodes have left behind, one step at a time.
    pub(super) async fn tidy_incarnations(&self) {
        let membership = self.membership();
        let ids: Vec<u64> = membership.nodes().map(|(id, _)| *id).collect();
        let voters = self.voters();
        // They are in order: whoever is followed by the same node is an old one.
        let old: Vec<(u64, u64)> = ids
            .iter()
            .filter_map(|id| {
                let newest = ids.iter().rev().find(|other| node_of(**other) == node_of(*id))?;
                (newest != id).then_some((*id, *newest))
            })
            .collect();
        let deadline = Instant::now() + CHANGE_TIMEOUT;
        let learners: BTreeSet<u64> = old.iter().map(|(old, _)| *old).filter(|old| !voters.contains(old)).collect();
        if !learners.is_empty() {
            tracing::info!(?learners, "removing incarnations that are gone");
            let removed = self.change_members(ChangeMembers::RemoveNodes(learners), false, deadline).await;
            tracing::debug!(?removed, "old incarnations");
            return;
        }
        let replaceable = old.iter().find(|(_, newest)| voters.contains(newest) || self.has_caught_up(*newest));
        if let Some((old, newest)) = replaceable {
            let mut next = voters.clone();
            next.remove(old);
            next.insert(*newest);
            tracing::info!(
                node = node_of(*old),
                "a node is back without its old disk and has caught up, it votes again"
            );
            let replaced = self.change_members(ChangeMembers::ReplaceAllVoters(next), false, deadline).await;
            tracing::debug!(?replaced, "old incarnation");
        }
    }
}
