//! Questions to peers that are not Raft's: who are you, how are you, and what the program above wants to know.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::time::{Instant, timeout, timeout_at};
use tollgate_proto::peer::v1::{CallRequest, IdentifyRequest, IdentifyResponse};

use super::Core;
use crate::{
    CallError, Live, Local, Member, MemberStatus, Role, node_of,
    transport::{Lane, Peer, Peers},
};

/// Asks a node who it is.
pub(super) async fn identify(peers: &Peers, peer: &Peer, within: Duration) -> Result<IdentifyResponse, String> {
    let mut client = peers.client(peer, Lane::Control)?;
    match timeout(within, client.identify(IdentifyRequest {})).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(status.message().to_owned()),
        Err(_) => Err("no answer".into()),
    }
}

impl Core {
    pub(super) async fn identify(&self, peer: &Peer, within: Duration) -> Result<IdentifyResponse, String> {
        identify(&self.peers, peer, within).await
    }

    /// Every member, with what it says of itself if it answers in time.
    pub(crate) async fn members_status(&self, deadline: Instant) -> Vec<MemberStatus> {
        let members = self.status().members;
        join_all(members.into_iter().map(|member| self.member_status(member, deadline))).await
    }

    async fn member_status(&self, member: Member, deadline: Instant) -> MemberStatus {
        if member.raft_id == self.raft_id {
            let live = self.own_status();
            return MemberStatus { member, live: Some(live) };
        }
        let peer = Peer { node: member.node, address: member.peer.clone() };
        let within = deadline.saturating_duration_since(Instant::now());
        let answer = self.identify(&peer, within).await.ok();
        let live = answer.filter(|answer| answer.raft_id == member.raft_id).map(live);
        MemberStatus { member, live }
    }

    fn own_status(&self) -> Live {
        let (status, log) = (self.status(), self.log_stats());
        Live {
            role: status.role,
            term: status.term,
            last_log_index: status.last_log_index,
            applied_index: status.applied_index,
            log_bytes: log.disk_bytes,
            log_full: log.full,
            local: self.shared.local(),
            version: self.shared.version().to_owned(),
        }
    }

    pub(crate) async fn call(
        self: &Arc<Self>,
        node: u64,
        service: &str,
        body: Bytes,
        deadline: Instant,
    ) -> Result<Bytes, CallError> {
        let (id, info) = self.member(node).ok_or(CallError::NotAMember(node))?;
        let unreachable = |reason: &str| CallError::Unreachable { node, reason: reason.to_owned() };
        let failed = |message: &str| CallError::Failed { node, message: message.to_owned() };
        if id == self.raft_id {
            let handler = self.shared.handler(service).ok_or_else(|| failed("no such service"))?;
            let answer = timeout_at(deadline, handler(node_of(self.raft_id), body)).await;
            return answer.map_err(|_| unreachable("no answer"))?.map_err(|message| failed(&message));
        }
        let target = self.target(id, &info.peer);
        let mut client = self.peers.client(&target.peer, Lane::Control).map_err(|error| unreachable(&error))?;
        let request = target.envelope.put(CallRequest { service: service.to_owned(), body });
        match timeout_at(deadline, client.call(request)).await {
            Ok(Ok(answer)) => Ok(answer.into_inner().body),
            Ok(Err(status)) if matches!(status.code(), tonic::Code::Aborted | tonic::Code::Unimplemented) => {
                Err(failed(status.message()))
            }
            Ok(Err(status)) => Err(unreachable(status.message())),
            Err(_) => Err(unreachable("no answer")),
        }
    }
}

fn live(answer: IdentifyResponse) -> Live {
    let role = match answer.role.as_str() {
        "leader" => Role::Leader,
        "follower" => Role::Follower,
        _ => Role::Learner,
    };
    Live {
        role,
        term: answer.term,
        last_log_index: answer.last_log_index,
        applied_index: answer.applied_index,
        log_bytes: answer.log_bytes,
        log_full: answer.log_full,
        local: Local { state: answer.state, served_index: answer.served_index },
        version: answer.version,
    }
}
