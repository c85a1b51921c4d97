//! A membership change from whoever asks for it to the leader, made once under its request id.
//!
//! The change itself is an entry of another kind than a command. So the leader first writes down under the request id what
//! is asked for, and which incarnation of the node is meant; then it makes the change; then it writes down what that came
//! to. A leader that dies in between leaves a change that was begun: whoever is asked again finds out whether it was made,
//! as no incarnation that is gone comes back, and goes on. What was refused is not made, and may be asked for again.

use bytes::Bytes;
use serde::Serialize;
use tokio::time::{Duration, Instant, timeout_at};
use tollgate_proto::peer::v1::{AddNode, ChangeMembershipRequest, change_membership_request::Change as WireChange};

use super::{
    Attempt, Core,
    attempt::{Pause, timeout_ms},
    core::Leader,
    members::Outcome,
};
use crate::{
    ChangeError, Changed, Committed, ProposeError, fingerprint_of, incarnation_of,
    machine::Fingerprint,
    node_of,
    state::Begun,
    transport::Lane,
    types::{Asked, ChangeStep},
};

/// Of the time that is left, for the leader's answer to travel.
const MARGIN: Duration = Duration::from_millis(100);

/// What shall be changed. Nodes are meant by their ids, whatever their incarnation is when it is first asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Change {
    /// A node becomes a learner: it is invited, and asks to be taken in.
    Add {
        /// Its id.
        node: u64,
        /// `host:port` of its peer plane.
        peer: String,
    },
    /// A learner votes, once it has caught up.
    Promote(u64),
    /// A member is none any more; a leader hands over first.
    Remove(u64),
    /// This voter leads; `None` lets the leader choose.
    Transfer(Option<u64>),
}

impl Change {
    /// What the same request must say again: never what a command says.
    fn fingerprint(&self) -> Fingerprint {
        let said = postcard::to_stdvec(&("membership change", self)).expect("plain data always encodes");
        fingerprint_of(&said)
    }

    fn node(&self) -> Option<u64> {
        match self {
            Self::Add { node, .. } | Self::Promote(node) | Self::Remove(node) => Some(*node),
            Self::Transfer(to) => *to,
        }
    }
}

impl Core {
    pub(crate) async fn change(
        &self,
        request_id: Option<[u8; 16]>,
        change: &Change,
        deadline: Instant,
    ) -> Result<Changed, ChangeError> {
        let mut pause = Pause::new();
        let mut last = ChangeError::NoLeader;
        while !self.is_stopping() && Instant::now() < deadline {
            let attempt = match self.leader() {
                Some(leader) if leader.raft_id == self.raft_id => self.change_here(request_id, change, deadline).await,
                Some(leader) => self.change_at(&leader, request_id, change, deadline).await,
                None => Attempt::NotLeader,
            };
            match attempt {
                Attempt::Done(changed) => return Ok(changed),
                Attempt::Refused(ChangeError::Busy) if matches!(last, ChangeError::Unknown(_)) => {}
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

    async fn change_at(
        &self,
        leader: &Leader,
        request_id: Option<[u8; 16]>,
        change: &Change,
        deadline: Instant,
    ) -> Outcome {
        let target = self.target(leader.raft_id, &leader.peer);
        let Ok(mut client) = self.peers.client(&target.peer, Lane::Control) else { return Attempt::NotLeader };
        let wire = match change.clone() {
            Change::Add { node, peer } => WireChange::Add(AddNode { node, peer }),
            Change::Promote(node) => WireChange::Promote(node),
            Change::Remove(node) => WireChange::Remove(node),
            Change::Transfer(to) => WireChange::TransferLeaderTo(to.unwrap_or(0)),
        };
        let left = deadline.saturating_duration_since(Instant::now());
        let request = ChangeMembershipRequest {
            change: Some(wire),
            timeout_ms: timeout_ms(deadline - MARGIN.min(left / 10)),
            request_id: request_id.map(|id| Bytes::copy_from_slice(&id)).unwrap_or_default(),
        };
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

    /// Makes the change, if this node leads, unless it was made under its request id already.
    pub(crate) async fn change_here(
        &self,
        request_id: Option<[u8; 16]>,
        change: &Change,
        deadline: Instant,
    ) -> Outcome {
        if !self.leads() {
            return Attempt::NotLeader;
        }
        let Some(request_id) = request_id else { return self.make(change, &self.as_of_now(change), deadline).await };
        let step = |step| Asked::Change { request_id, fingerprint: change.fingerprint(), step };
        let begin = ChangeStep::Begin { node: change.node().unwrap_or(0), leader: self.raft_id };
        let begun = match self.propose_here(node_of(self.raft_id), step(begin), Bytes::new(), deadline).await {
            Attempt::Done(committed) => Begun::decode(&committed.outcome),
            // Nothing was changed yet.
            Attempt::NotLeader | Attempt::Unknown(_) => return Attempt::NotLeader,
            Attempt::Refused(error) => return Attempt::Refused(ChangeError::NotBegun(error)),
        };
        let changed = match begun {
            Some(Begun { made: Some(made), .. }) => return Attempt::Done(made),
            Some(begun) => match self.make(change, &begun, deadline).await {
                Attempt::Done(changed) => changed,
                other => return other,
            },
            None => return Attempt::Refused(ChangeError::NotBegun(ProposeError::RequestIdUsed)),
        };
        first_outcome(
            self.propose_here(node_of(self.raft_id), step(ChangeStep::Made(changed)), Bytes::new(), deadline).await,
        )
    }

    async fn make(&self, change: &Change, begun: &Begun, deadline: Instant) -> Outcome {
        match change {
            Change::Add { node, peer } => self.add(*node, peer, begun, deadline).await,
            Change::Promote(node) => self.promote(*node, begun, deadline).await,
            Change::Remove(node) => self.remove(*node, begun, deadline).await,
            // Whoever led then has handed over.
            Change::Transfer(None) if begun.leader != self.raft_id => Attempt::Done(self.as_it_is()),
            Change::Transfer(to) => self.hand_over(*to, deadline).await,
        }
    }

    /// What a change is about that is asked for once.
    fn as_of_now(&self, change: &Change) -> Begun {
        let node = change.node().unwrap_or(0);
        let member = self.member(node).map(|(id, _)| incarnation_of(id));
        let newest = self.progress.newest_incarnation(node).max(member.unwrap_or(0));
        Begun { newest, member: member.is_some(), leader: self.raft_id, made: None }
    }
}

fn first_outcome(attempt: Attempt<Committed, ProposeError>) -> Outcome {
    match attempt {
        Attempt::Done(committed) => match Begun::decode(&committed.outcome).and_then(|begun| begun.made) {
            Some(first) => Attempt::Done(first),
            None => Attempt::Unknown("what it came to is not an outcome".into()),
        },
        // The next leader sees that it was made, and writes it down.
        Attempt::NotLeader => Attempt::NotLeader,
        Attempt::Unknown(reason) => Attempt::Unknown(reason),
        Attempt::Refused(error) => Attempt::Unknown(format!("made, but not written down: {error}")),
    }
}
