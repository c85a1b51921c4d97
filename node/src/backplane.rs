//! What the admin plane and the data plane need of the node beneath them, over consensus and the replicated state.
//!
//! The admin port answers from the first moment on, so that a node that still waits for its peers can say so; until this
//! node has found its cluster everything that needs the log is unavailable.

use std::{
    sync::{Arc, OnceLock},
    time::Instant,
};

use prost::Message;
use tokio::sync::watch;
use tollgate_admin::{
    TokenTable,
    backplane::{
        AccountPage, AccountQuery, Answer, Backplane, BackplaneError, Committed, ConfigState, Membership,
        MembershipChange, Readiness, RequestId,
    },
};
use tollgate_billing::{Query, UsageLine, UsageTable};
use tollgate_consensus::{ChangeError, Consensus, ProposeError, ReadError};
use tollgate_model::{LogIndex, NodeId, Timestamp};
use tollgate_proto::{admin::v1::NodeStatus, state::v1::Command};

use crate::{accounts, clock, state::Shared};

/// This node as the planes above it see it.
pub(crate) struct NodeBackplane {
    consensus: OnceLock<Consensus>,
    state: Arc<Shared>,
    readiness: watch::Sender<Readiness>,
}

impl NodeBackplane {
    /// A node that has not found its cluster yet.
    pub(crate) fn new(state: Arc<Shared>) -> NodeBackplane {
        let waiting = Readiness::NotReady("waiting for the cluster".to_owned());
        NodeBackplane { consensus: OnceLock::new(), state, readiness: watch::Sender::new(waiting) }
    }

    /// The node has found its cluster.
    pub(crate) fn join(&self, consensus: Consensus) {
        // The first one stays: a process is a member once.
        let _ = self.consensus.set(consensus);
    }

    /// From now on `/readyz` says so.
    pub(crate) fn set_readiness(&self, readiness: Readiness) {
        self.readiness.send_replace(readiness);
    }

    fn consensus(&self) -> Result<&Consensus, BackplaneError> {
        self.consensus
            .get()
            .ok_or_else(|| BackplaneError::Unavailable("this node is waiting for its cluster".to_owned()))
    }

    async fn changed(&self, change: MembershipChange, deadline: Instant) -> Result<u64, BackplaneError> {
        let consensus = self.consensus()?;
        let done = match change {
            MembershipChange::Add { node, peer } => consensus.add_learner(node.0, peer, deadline).await,
            MembershipChange::Promote(node) => consensus.promote(node.0, deadline).await,
            MembershipChange::Remove { node, lost: _ } => consensus.remove(node.0, deadline).await,
            MembershipChange::TransferLeader(to) => {
                consensus.transfer_leader(to.map(|to| to.0), deadline).await.map_err(not_changed)?;
                return Ok(consensus.status().applied_index);
            }
        };
        done.map_err(not_changed)
    }
}

impl Backplane for NodeBackplane {
    fn propose(&self, request_id: RequestId, command: Command, deadline: Instant) -> Answer<'_, Committed> {
        Box::pin(async move {
            let command = command.encode_to_vec().into();
            let committed =
                self.consensus()?.propose(Some(request_id), command, deadline).await.map_err(not_proposed)?;
            Ok(Committed { index: LogIndex(committed.index), outcome: committed.outcome })
        })
    }

    fn read_barrier(&self, deadline: Instant) -> Answer<'_, LogIndex> {
        Box::pin(async move { Ok(LogIndex(self.consensus()?.read_barrier(deadline).await.map_err(not_read)?)) })
    }

    fn config(&self) -> watch::Receiver<ConfigState> {
        self.state.config()
    }

    fn tokens(&self) -> Arc<TokenTable> {
        self.state.tokens()
    }

    fn node(&self) -> NodeId {
        NodeId(self.consensus.get().map_or(0, |consensus| consensus.status().node)) // 0 until it has found its cluster
    }

    fn now(&self) -> Timestamp {
        clock::now().max(self.state.log_time())
    }

    fn accounts(&self, query: &AccountQuery) -> AccountPage {
        accounts::page(&self.state, self.now(), query)
    }

    fn usage(&self, query: &Query) -> Vec<UsageLine> {
        // A clone costs a pointer for each hour; applying does not wait while it is added up.
        self.state.usage(UsageTable::clone).query(query)
    }

    fn members(&self, deadline: Instant) -> Answer<'_, Vec<NodeStatus>> {
        Box::pin(async move {
            let members = self.consensus()?.members_status(deadline).await;
            Ok(members.into_iter().map(crate::members::node_status).collect())
        })
    }

    fn change_membership(
        &self,
        _request_id: RequestId,
        change: MembershipChange,
        deadline: Instant,
    ) -> Answer<'_, Membership> {
        Box::pin(async move {
            let index = self.changed(change, deadline).await?;
            let leader = self.consensus()?.status().leader.map(NodeId);
            Ok(Membership { index: LogIndex(index), leader })
        })
    }

    fn readiness(&self) -> watch::Receiver<Readiness> {
        self.readiness.subscribe()
    }
}

fn not_proposed(error: ProposeError) -> BackplaneError {
    let text = error.to_string();
    match error {
        ProposeError::NoLeader | ProposeError::Stopped => BackplaneError::Unavailable(text),
        ProposeError::Unknown(_) => BackplaneError::Unknown(text),
        ProposeError::RequestIdUsed => BackplaneError::RequestIdUsed(text),
        ProposeError::DiskFull { .. } => BackplaneError::DiskFull(text),
        ProposeError::TooLarge { .. } => BackplaneError::TooLarge(text),
        ProposeError::TooManyRequestIds(_) => BackplaneError::Busy(text),
    }
}

fn not_changed(error: ChangeError) -> BackplaneError {
    let text = error.to_string();
    match error {
        ChangeError::NoLeader | ChangeError::Stopped => BackplaneError::Unavailable(text),
        ChangeError::Invalid(_) => BackplaneError::Refused(text),
        ChangeError::Busy => BackplaneError::Busy(text),
        ChangeError::Unknown(_) => BackplaneError::Unknown(text),
    }
}

fn not_read(error: ReadError) -> BackplaneError {
    BackplaneError::Unavailable(error.to_string())
}
