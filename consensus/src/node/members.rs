//! Membership: who is in, who votes, who leads. Changes are made by the leader, one at a time.

use std::{collections::BTreeSet, time::Duration};

use openraft::{
    ChangeMembers,
    async_runtime::WatchReceiver,
    errors::{ChangeMembershipError, ClientWriteError, RaftError},
    raft::ClientWriteResponse,
};
use tokio::time::{Instant, sleep, timeout_at};
use tollgate_proto::peer::v1::{AddNode, ChangeMembershipRequest, change_membership_request::Change as WireChange};

use super::{
    Attempt, Core,
    attempt::{Pause, timeout_ms},
    core::Leader,
    wire::Changed,
};
use crate::{
    ChangeError, node_of,
    transport::Lane,
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

/// What shall be changed. Nodes are meant, whatever their incarnation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    Add { node: u64, peer: String },
    Promote(u64),
    Remove(u64),
    Transfer(Option<u64>),
}

impl Core {
    pub(crate) async fn change(&self, change: &Change, deadline: Instant) -> Result<Changed, ChangeError> {
        let mut pause = Pause::new();
        let mut last = ChangeError::NoLeader;
        while !self.is_stopping() && Instant::now() < deadline {
            let attempt = match self.leader() {
                Some(leader) if leader.raft_id == self.raft_id => self.change_here(change, deadline).await,
                Some(leader) => self.change_at(&leader, change, deadline).await,
                None => Attempt::NotLeader,
            };
            match attempt {
                Attempt::Done(changed) => return Ok(changed),
                Attempt::Refused(ChangeError::Busy) => last = ChangeError::Busy,
                Attempt::Refused(error) => return Err(error),
                Attempt::NotLeader => {}
                // Every change says what shall be, not what shall happen: to ask again does no harm.
                Attempt::Unknown(reason) => last = ChangeError::Unknown(reason),
            }
            pause.wait(deadline).await;
        }
        Err(if self.is_stopping() { ChangeError::Stopped } else { last })
    }

    async fn change_at(&self, leader: &Leader, change: &Change, deadline: Instant) -> Outcome {
        let target = self.target(leader.raft_id, &leader.peer);
        let Ok(mut client) = self.peers.client(&target.peer, Lane::Control) else { return Attempt::NotLeader };
        let wire = match change.clone() {
            Change::Add { node, peer } => WireChange::Add(AddNode { node, peer }),
            Change::Promote(node) => WireChange::Promote(node),
            Change::Remove(node) => WireChange::Remove(node),
            Change::Transfer(to) => WireChange::TransferLeaderTo(to.unwrap_or(0)),
        };
        let request = ChangeMembershipRequest { change: Some(wire), timeout_ms: timeout_ms(deadline) };
        let call = timeout_at(deadline, client.change_membership(target.envelope.put(request)));
        tokio::select! {
            answer = call => match answer {
                Ok(Ok(answer)) => answer.into_inner().into(),
                Ok(Err(status)) => Attempt::Unknown(status.to_string()),
                Err(_) => Attempt::Unknown("the leader did not answer before the deadline".into()),
            },
            () = self.leadership_moved(leader.raft_id) => Attempt::Unknown("leadership moved meanwhile".into()),
        }
    }

    /// Makes the change, if this node leads.
    pub(crate) async fn change_here(&self, change: &Change, deadline: Instant) -> Outcome {
        if !self.leads() {
            return Attempt::NotLeader;
        }
        match change {
            Change::Add { node, peer } => self.await_joined(*node, peer, deadline).await,
            Change::Promote(node) => self.promote(*node, deadline).await,
            Change::Remove(node) => self.remove(*node, deadline).await,
            Change::Transfer(to) => self.hand_over(*to, deadline).await,
        }
    }

    pub(super) fn leads(&self) -> bool {
        self.raft.metrics().borrow_watched().current_leader == Some(self.raft_id)
    }

    pub(super) fn voters(&self) -> BTreeSet<u64> {
        self.membership().voter_ids().collect()
    }

    /// A node joins by asking; this looks whether it is there to ask, and waits until it has.
    async fn await_joined(&self, node: u64, peer: &str, deadline: Instant) -> Outcome {
        while self.member(node).is_none() {
            if let Err(problem) = self.may_join(node, peer).await {
                return Attempt::Refused(ChangeError::Invalid(problem));
            }
            if Instant::now() >= deadline {
                let message = format!("node {node} at {peer} is there and does not ask to join");
                return Attempt::Refused(ChangeError::Invalid(message));
            }
            sleep(LOOK).await;
        }
        Attempt::Done(self.as_it_is())
    }

    async fn may_join(&self, node: u64, peer: &str) -> Result<(), String> {
        let target = crate::transport::Peer { node, address: peer.to_owned() };
        let answer = self.identify(&target, Duration::from_secs(1)).await;
        let answer = answer.map_err(|error| format!("node {node} does not answer at {peer}: {error}"))?;
        match answer.cluster.is_empty() || answer.cluster[..] == self.cluster {
            true => Ok(()),
            false => Err(format!("node {node} at {peer} is in another cluster")),
        }
    }

    async fn promote(&self, node: u64, deadline: Instant) -> Outcome {
        let Some((id, _)) = self.member(node) else { return not_a_member(node) };
        if self.voters().contains(&id) {
            return Attempt::Done(self.as_it_is());
        }
        while !self.has_caught_up(id) {
            if !self.leads() {
                return Attempt::NotLeader;
            }
            if Instant::now() >= deadline {
                return Attempt::Refused(ChangeError::Invalid(format!("node {node} has not caught up")));
            }
            sleep(LOOK).await;
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

    async fn remove(&self, node: u64, deadline: Instant) -> Outcome {
        let membership = self.membership();
        let (mut voters, mut learners) = (BTreeSet::new(), BTreeSet::new());
        let all_voters = self.voters();
        for (id, _) in membership.nodes().filter(|(id, _)| node_of(**id) == node) {
            if all_voters.contains(id) { &mut voters } else { &mut learners }.insert(*id);
        }
        if voters.is_empty() && learners.is_empty() {
            return not_a_member(node);
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

    fn as_it_is(&self) -> Changed {
        let index = self.membership().log_id().as_ref().map_or(0, |id| id.index);
        Changed { index, leader: self.leader().map_or(0, |leader| node_of(leader.raft_id)) }
    }
}

fn not_a_member(node: u64) -> Outcome {
    Attempt::Refused(ChangeError::Invalid(format!("node {node} is not a member")))
}
