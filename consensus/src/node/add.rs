//! Adding a node: the leader looks for it where it shall be, tells it whom to ask, and waits until it is in.

use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout};
use tollgate_proto::peer::v1::{IdentifyResponse, InviteRequest};

use super::{Attempt, Core, members::Outcome};
use crate::{
    ChangeError,
    state::Begun,
    transport::{Lane, Peer},
    types::NodeInfo,
};

/// For one question to the node.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);

/// How often the node is looked for.
const ASK_EVERY: Duration = Duration::from_millis(100);

impl Core {
    /// Done as well when the node is a member already, or has come and gone since this was first asked for.
    pub(super) async fn add(&self, node: u64, peer: &str, begun: &Begun, deadline: Instant) -> Outcome {
        let at = Peer { node, address: peer.to_owned() };
        loop {
            if !self.leads() {
                return Attempt::NotLeader;
            }
            if let Some((id, info)) = self.member(node) {
                return self.is_there(&at, id, &info, deadline).await;
            }
            if begun.member || self.progress.newest_incarnation(node) > begun.newest {
                return Attempt::Done(self.as_it_is());
            }
            let problem = match self.invite(&at, deadline).await {
                Err(ChangeError::NotYet(problem)) => problem,
                Err(error) => return Attempt::Refused(error),
                Ok(()) => format!("node {node} at {peer} is there and does not ask to join"),
            };
            if Instant::now() >= deadline {
                return Attempt::Refused(ChangeError::NotYet(problem));
            }
            sleep_until(deadline.min(Instant::now() + ASK_EVERY)).await;
        }
    }

    /// A member has one address, and may answer at others.
    async fn is_there(&self, at: &Peer, id: u64, info: &NodeInfo, deadline: Instant) -> Outcome {
        let answers = || async { self.ask_node(at, deadline).await.is_ok_and(|answer| answer.raft_id == id) };
        if info.peer == at.address || answers().await {
            return Attempt::Done(self.as_it_is());
        }
        let part = if self.voters().contains(&id) { "a voter" } else { "a learner" };
        Attempt::Refused(ChangeError::Invalid(format!(
            "node {} is a member already, {part} at {}, and does not answer at {}: a member that moves says so by itself when \
             it is started with its new [cluster] address",
            at.node, info.peer, at.address
        )))
    }

    /// Tells a node that waits outside where to ask; `NotYet` of one that is not there.
    async fn invite(&self, at: &Peer, deadline: Instant) -> Result<(), ChangeError> {
        let Peer { node, address } = at;
        let answer = self
            .ask_node(at, deadline)
            .await
            .map_err(|error| ChangeError::NotYet(format!("node {node} does not answer at {address}: {error}")))?;
        if !answer.cluster.is_empty() && answer.cluster[..] != self.cluster {
            return Err(ChangeError::Invalid(format!("node {node} at {address} is in another cluster")));
        }
        if answer.raft_id != 0 && self.has_departed(answer.raft_id) {
            return Err(ChangeError::Invalid(format!(
                "node {node} at {address} was removed from the cluster: empty its data directory and start it again"
            )));
        }
        let invitation = InviteRequest { node: crate::node_of(self.raft_id), peer: self.shared.info().peer.clone() };
        if answer.cluster.is_empty()
            && let Ok(mut client) = self.peers.client(at, Lane::Control)
            && let Ok(Err(status)) = timeout(within(deadline), client.invite(invitation)).await
        {
            tracing::debug!(node, %status, "not invited");
        }
        Ok(())
    }

    async fn ask_node(&self, at: &Peer, deadline: Instant) -> Result<IdentifyResponse, String> {
        self.identify(at, within(deadline)).await
    }
}

fn within(deadline: Instant) -> Duration {
    ASK_TIMEOUT.min(deadline.saturating_duration_since(Instant::now()))
}
