//! Membership: who is in, who votes, who leads. Changes are made by the leader, one at a time.

use std::{collections::BTreeSet, time::Duration};

use openraft::{
    ChangeMembers,
    async_runtime::WatchReceiver,
    errors::{ChangeMembershipError, ClientWriteError, RaftError},
    raft::ClientWriteResponse,
};
use tokio::time::{Instant, sleep, timeout_at};

use super::{Attempt, Core};
use crate::{
    ChangeError, Changed, node_of, raft_id,
    state::Begun,
    types::{NodeInfo, TypeConfig},
};

/// A learner this close behind is caught up: the rest comes while it is made a voter.
const CAUGHT_UP_ENTRIES: u64 = 256;

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// A leader that was told to hand over and still leads after this is told again.
const HAND_OVER: Duration = Duration::from_secs(1);

pub(super) type Members = ChangeMembers<u64, NodeInfo>;
pub(super) type Outcome = Attempt<Changed, ChangeError>;

impl Core {
    pub(super) fn leads(&self) -> bool {
        self.raft.metrics().borrow_watched().current_leader == Some(self.raft_id)
    }

    pub(super) fn voters(&self) -> BTreeSet<u64> {
        self.membership().voter_ids().collect()
    }

    /// Lets the incarnation vote that was a member when it was asked for.
    pub(super) async fn promote(&self, node: u64, begun: &Begun, deadline: Instant) -> Outcome {
        let id = raft_id(node, begun.newest);
        match self.member(node) {
            Some((newest, _)) if begun.member && newest == id => {}
            Some(_) if begun.member => return has_come_back(node),
            _ => return not_a_member(node),
        }
        let mut voters = self.voters();
        if !voters.insert(id) {
            return Attempt::Done(self.as_it_is());
        }
        while !self.has_caught_up(id) {
            if !self.leads() {
                return Attempt::NotLeader;
            }
            if Instant::now() >= deadline {
                return Attempt::Refused(ChangeError::NotYet(format!("node {node} has not caught up")));
            }
            sleep(LOOK).await;
        }
        if let Err(problem) = self.check_majority(&voters, deadline).await {
            return Attempt::Refused(ChangeError::Invalid(problem));
        }
        self.change_members(ChangeMembers::AddVoterIds([id].into()), true, deadline).await
    }

    pub(super) fn has_caught_up(&self, id: u64) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let last = metrics.last_log_index.unwrap_or(0);
        let matched = metrics.replication.as_ref().and_then(|replication| replication.get(&id)).cloned().flatten();
        matched.is_some_and(|matched| matched.index + CAUGHT_UP_ENTRIES >= last)
    }

    /// Removes the incarnations that were members when it was asked for: one that has come since is not meant.
    pub(super) async fn remove(&self, node: u64, begun: &Begun, deadline: Instant) -> Outcome {
        if !begun.member {
            return not_a_member(node);
        }
        let last = raft_id(node, begun.newest);
        let membership = self.membership();
        let (mut voters, mut learners) = (BTreeSet::new(), BTreeSet::new());
        let all_voters = self.voters();
        for (id, _) in membership.nodes().filter(|(id, _)| node_of(**id) == node && **id <= last) {
            if all_voters.contains(id) { &mut voters } else { &mut learners }.insert(*id);
        }
        if voters.is_empty() && learners.is_empty() {
            return Attempt::Done(self.as_it_is());
        }
        if voters == all_voters {
            return Attempt::Refused(ChangeError::Invalid(format!("node {node} is the last voter")));
        }
        if voters.contains(&self.raft_id) {
            // Then the next leader is asked.
            return match self.hand_over(None, deadline).await {
                Attempt::Done(_) => Attempt::NotLeader,
                other => other,
            };
        }
        let rest = all_voters.difference(&voters).copied().collect();
        if !voters.is_empty()
            && let Err(problem) = self.check_majority(&rest, deadline).await
        {
            return Attempt::Refused(ChangeError::Invalid(problem));
        }
        let mut done = Attempt::NotLeader;
        if !learners.is_empty() {
            done = self.change_members(ChangeMembers::RemoveNodes(learners), false, deadline).await;
        }
        if !voters.is_empty() {
            done = self.change_members(ChangeMembers::RemoveVoters(voters), false, deadline).await;
        }
        done
    }

    /// Hands leadership to a node, or to the voter whose log is longest.
    pub(super) async fn hand_over(&self, to: Option<u64>, deadline: Instant) -> Outcome {
        let id = match to {
            Some(node) if node == node_of(self.raft_id) => return Attempt::Done(self.as_it_is()),
            Some(node) => match self.member(node) {
                Some((id, _)) if self.voters().contains(&id) => id,
                Some(_) => return Attempt::Refused(ChangeError::Invalid(format!("node {node} does not vote"))),
                None => return not_a_member(node),
            },
            None => match self.longest_follower() {
                Some(id) => id,
                None => return Attempt::Refused(ChangeError::Invalid("there is no other voter".into())),
            },
        };
        let mut metrics = self.raft.metrics();
        while Instant::now() < deadline {
            if self.raft.trigger().transfer_leader(id).await.is_err() {
                return Attempt::Refused(ChangeError::Stopped);
            }
            let until = deadline.min(Instant::now() + HAND_OVER);
            while metrics.borrow_and_update().current_leader.is_none_or(|leader| leader == self.raft_id) {
                if !matches!(timeout_at(until, metrics.changed()).await, Ok(Ok(()))) {
                    break;
                }
            }
            match self.leader() {
                Some(leader) if leader.raft_id == id => return Attempt::Done(self.as_it_is()),
                Some(leader) if leader.raft_id != self.raft_id => {
                    return match to {
                        None => Attempt::Done(self.as_it_is()),
                        Some(_) => Attempt::NotLeader,
                    };
                }
                _ => {}
            }
        }
        Attempt::Refused(ChangeError::Invalid(format!("node {} did not take over", node_of(id))))
    }

    fn longest_follower(&self) -> Option<u64> {
        let voters = self.voters();
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let replication = metrics.replication.as_ref()?;
        let others = replication.iter().filter(|(id, _)| voters.contains(id) && **id != self.raft_id);
        others.max_by_key(|(_, matched)| matched.as_ref().map(|log_id| log_id.index)).map(|(id, _)| *id)
    }

    pub(super) async fn change_members(&self, members: Members, retain: bool, deadline: Instant) -> Outcome {
        let Ok(_alone) = timeout_at(deadline, self.changing.lock()).await else {
            return Attempt::Refused(ChangeError::Busy);
        };
        match timeout_at(deadline, self.raft.change_membership(members, retain)).await {
            Ok(changed) => self.changed(changed),
            Err(_) => Attempt::Unknown("not committed before the deadline".into()),
        }
    }

    pub(super) fn changed(
        &self,
        changed: Result<ClientWriteResponse<TypeConfig>, RaftError<TypeConfig, ClientWriteError<TypeConfig>>>,
    ) -> Outcome {
        match changed {
            Ok(written) => Attempt::Done(Changed { index: written.log_id.index, ..self.as_it_is() }),
            Err(RaftError::APIError(error)) => match error {
                ClientWriteError::ForwardToLeader(_) => Attempt::NotLeader,
                ClientWriteError::LogEntryDiscarded(_) => Attempt::Unknown(error.to_string()),
                ClientWriteError::ChangeMembershipError(
                    ChangeMembershipError::InProgress(_) | ChangeMembershipError::UncommittedLeaderLog(_),
                ) => Attempt::Refused(ChangeError::Busy),
                error => Attempt::Refused(ChangeError::Invalid(error.to_string())),
            },
            Err(RaftError::Fatal(fatal)) => Attempt::Unknown(fatal.to_string()),
        }
    }

    pub(super) fn as_it_is(&self) -> Changed {
        let index = self.membership().log_id().as_ref().map_or(0, |id| id.index);
        Changed { index, leader: self.leader().map_or(0, |leader| node_of(leader.raft_id)) }
    }
}

fn has_come_back(node: u64) -> Outcome {
    let message = format!(
        "node {node} has lost its disk and come back since this was first asked for: look at its status, and ask under a \
         new request id"
    );
    Attempt::Refused(ChangeError::Invalid(message))
}

fn not_a_member(node: u64) -> Outcome {
    Attempt::Refused(ChangeError::Invalid(format!("node {node} is not a member")))
}
