//! What a node answers to its peers.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt};
use openraft::raft::{AppendEntriesRequest, TransferLeaderRequest, VoteRequest};
use parking_lot::Mutex;
use tokio::time::Instant;
use tollgate_proto::peer::v1::{
    AddNode, CallBackRequest, CallBackResponse, CallRequest, CallResponse, ChangeMembershipRequest,
    ChangeMembershipResponse, Founder, IdentifyRequest, IdentifyResponse, InviteRequest, InviteResponse, JoinRequest,
    JoinResponse, ProposeRequest, ProposeResponse, RaftMessage, ReadIndexRequest, ReadIndexResponse, SnapshotPart,
    change_membership_request::Change as WireChange, peer_server,
};
use tonic::{Request, Response, Status, Streaming};

use super::{
    client::Peer,
    guard::within_step,
    snapshot,
    wire::{Envelope, check_certificate, decode, encode},
};
use crate::{
    ids::node_of,
    node::{Change, Core, Shared},
    types::{LogId, NodeInfo, TypeConfig, Vote},
};

/// No call may be kept waiting longer, whatever its caller would like.
const MAX_CALL_TIMEOUT: Duration = Duration::from_secs(60);

pub(crate) struct PeerService {
    pub(crate) shared: Arc<Shared>,
}

impl PeerService {
    /// Who calls, checked: its certificate, the cluster, and that it means this very incarnation.
    fn admit<T>(&self, request: &Request<T>) -> Result<(Envelope, Arc<Core>), Status> {
        let envelope = Envelope::take(request)?;
        let core = self.core()?;
        if envelope.cluster != core.cluster() {
            return Err(Status::permission_denied("this node is in another cluster"));
        }
        if envelope.to != core.raft_id() {
            return Err(Status::failed_precondition("this node has another incarnation"));
        }
        Ok((envelope, core))
    }

    fn core(&self) -> Result<Arc<Core>, Status> {
        self.shared.core().ok_or_else(|| Status::unavailable("this node is not in a cluster yet, or is stopping"))
    }
}

/// Nobody may vote or lead in another's name, or after it has left, or take the term where it could not come by itself.
fn check_vote(vote: &Vote, envelope: &Envelope, core: &Core) -> Result<(), Status> {
    if core.has_departed(envelope.from) {
        return Err(Status::failed_precondition("the caller is not a member any more"));
    }
    if vote.leader_id.node_id != envelope.from {
        return Err(Status::permission_denied("the vote is not the caller's"));
    }
    match within_step(core.status().term, vote) {
        true => Ok(()),
        false => Err(Status::invalid_argument("the vote's term is out of reach")),
    }
}

/// Entries of one log, of this leader or its predecessors: openraft takes that for granted.
fn check_append(request: &AppendEntriesRequest<TypeConfig>) -> Result<(), Status> {
    let mut last = request.prev_log_id;
    for entry in &request.entries {
        let next = last.map_or(Some(0), |last| last.index.checked_add(1));
        let leader_goes_on = last.is_none_or(|last| last.leader_id <= entry.log_id.leader_id);
        if next != Some(entry.log_id.index) || !leader_goes_on {
            return Err(Status::invalid_argument("the entries do not follow one another"));
        }
        last = Some(entry.log_id);
    }
    let of_the_future = |id: LogId| id.index == u64::MAX || id.leader_id > request.vote.leader_id;
    match !request.vote.committed || last.into_iter().chain(request.leader_commit).any(of_the_future) {
        true => Err(Status::invalid_argument("the caller could not lead with this")),
        false => Ok(()),
    }
}

/// A snapshot that this leader can have, and that does not contradict what was applied here.
fn check_snapshot(vote: &Vote, last: Option<LogId>, applied: Option<LogId>) -> Result<(), Status> {
    let of_the_future = last.is_some_and(|last| last.index == u64::MAX || last.leader_id > vote.leader_id);
    let contradicts = last > applied && last.map(|last| last.index) <= applied.map(|applied| applied.index);
    match !vote.committed || of_the_future || contradicts {
        true => Err(Status::invalid_argument("not a snapshot of this log")),
        false => Ok(()),
    }
}

fn deadline(timeout_ms: u64) -> Instant {
    Instant::now() + Duration::from_millis(timeout_ms).min(MAX_CALL_TIMEOUT)
}

fn request_id(bytes: &[u8]) -> Result<Option<[u8; 16]>, Status> {
    match bytes {
        [] => Ok(None),
        id => id.try_into().map(Some).map_err(|_| Status::invalid_argument("a request id has 16 bytes")),
    }
}

fn stopped(error: impl std::fmt::Display) -> Status {
    Status::unavailable(error.to_string())
}

/// The leader comes again later.
const DISK_FULL: &str = "the disk is full";

type Answers = Pin<Box<dyn Stream<Item = Result<RaftMessage, Status>> + Send>>;

#[tonic::async_trait]
impl peer_server::Peer for PeerService {
    type AppendStream = Answers;

    async fn identify(&self, _: Request<IdentifyRequest>) -> Result<Response<IdentifyResponse>, Status> {
        let shared = &self.shared;
        let identity = shared.identity();
        let mut answer = IdentifyResponse {
            node: identity.node,
            birth: identity.birth.to_vec().into(),
            zone: shared.info().zone.clone(),
            peer: shared.info().peer.clone(),
            http: shared.info().http.clone(),
            admin: shared.info().admin.clone(),
            version: shared.version().to_owned(),
            ..IdentifyResponse::default()
        };
        let local = shared.local();
        (answer.state, answer.served_index) = (local.state, local.served_index);
        if let Some(member) = identity.member {
            answer.cluster = member.cluster.to_vec().into();
            answer.raft_id = crate::raft_id(identity.node, member.incarnation);
            let founder = |one: crate::identity::Founder| Founder { node: one.node, birth: one.birth.to_vec().into() };
            answer.founders = member.founders.into_iter().map(founder).collect();
        }
        if let Some(core) = shared.core() {
            let status = core.status();
            answer.role = status.role.as_str().to_owned();
            answer.term = status.term;
            answer.last_log_index = status.last_log_index;
            answer.applied_index = status.applied_index;
            let log = core.log_stats();
            (answer.log_bytes, answer.log_full) = (log.disk_bytes, log.full);
            if let Some(leader) = core.leader() {
                answer.leader_raft_id = leader.raft_id;
                answer.leader_peer = leader.peer;
            }
        }
        Ok(Response::new(answer))
    }

    async fn append(&self, request: Request<Streaming<RaftMessage>>) -> Result<Response<Answers>, Status> {
        let (envelope, core) = self.admit(&request)?;
        let refused = Arc::new(Mutex::new(None));
        let (refuse, asked) = (Arc::clone(&refused), Arc::clone(&core));
        let requests = request.into_inner().scan((), move |(), message| {
            let request = message.and_then(|message| decode::<AppendEntriesRequest<TypeConfig>>(&message));
            let request = request.and_then(|request| {
                check_vote(&request.vote, &envelope, &asked)?;
                check_append(&request)?;
                match request.entries.is_empty() || asked.takes_entries() {
                    true => Ok(request),
                    false => Err(stopped(DISK_FULL)),
                }
            });
            // What can't be read, is said in another's name or has no space ends the stream.
            std::future::ready(request.map_err(|status| *refuse.lock() = Some(status)).ok())
        });
        // An idle stream ends with the node: its connection could not be closed otherwise.
        let judge = Arc::clone(&core);
        let answers = core.raft().stream_append(requests).take_until(core.stopped()).map(move |answer| match answer {
            Ok(Ok(matching)) if !judge.is_durable(matching) => Err(stopped(DISK_FULL)),
            Ok(answer) => Ok(encode(&answer)),
            Err(fatal) => Err(stopped(fatal)),
        });
        let end = futures_util::stream::once(async move { refused.lock().take() });
        Ok(Response::new(Box::pin(answers.chain(end.filter_map(async |status| status.map(Err))))))
    }

    async fn vote(&self, request: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        let (envelope, core) = self.admit(&request)?;
        let request: VoteRequest<TypeConfig> = decode(request.get_ref())?;
        check_vote(&request.vote, &envelope, &core)?;
        Ok(Response::new(encode(&core.raft().vote(request).await.map_err(stopped)?)))
    }

    async fn pre_vote(&self, request: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        let (envelope, core) = self.admit(&request)?;
        let request: VoteRequest<TypeConfig> = decode(request.get_ref())?;
        check_vote(&request.vote, &envelope, &core)?;
        Ok(Response::new(encode(&core.raft().pre_vote(request).await.map_err(stopped)?)))
    }

    async fn transfer_leader(&self, request: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        let (envelope, core) = self.admit(&request)?;
        let request: TransferLeaderRequest<TypeConfig> = decode(request.get_ref())?;
        check_vote(request.from_leader(), &envelope, &core)?;
        Ok(Response::new(encode(&core.raft().handle_transfer_leader(request).await.map_err(stopped)?)))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<SnapshotPart>>,
    ) -> Result<Response<RaftMessage>, Status> {
        let (envelope, core) = self.admit(&request)?;
        let Ok(_alone) = core.receiving().try_lock() else {
            return Err(Status::resource_exhausted("another snapshot is on its way"));
        };
        let parts = request.into_inner();
        let check = |vote: &Vote| check_vote(vote, &envelope, &core);
        let (vote, file) = snapshot::receive(parts, core.snapshots(), check).await?;
        check_snapshot(&vote, file.meta().last_log_id, core.last_applied())?;
        let snapshot = openraft::storage::Snapshot { meta: file.meta().clone(), snapshot: Some(file) };
        Ok(Response::new(encode(&core.raft().install_full_snapshot(vote, snapshot).await.map_err(stopped)?)))
    }

    async fn acknowledged(&self, request: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        let (envelope, core) = self.admit(&request)?;
        Ok(Response::new(encode(&core.standing_of(envelope.from))))
    }

    async fn call_back(&self, request: Request<CallBackRequest>) -> Result<Response<CallBackResponse>, Status> {
        let (envelope, core) = self.admit(&request)?;
        Ok(Response::new(core.call_back(envelope.from).await))
    }

    async fn propose(&self, request: Request<ProposeRequest>) -> Result<Response<ProposeResponse>, Status> {
        let (envelope, core) = self.admit(&request)?;
        let request = request.into_inner();
        let request_id = request_id(&request.request_id)?;
        if request.command.is_empty() {
            return Err(Status::invalid_argument("a proposal without a command"));
        }
        let deadline = deadline(request.timeout_ms);
        let node = node_of(envelope.from);
        Ok(Response::new(core.propose_here(node, request_id.into(), request.command, deadline).await.into()))
    }

    async fn read_index(&self, request: Request<ReadIndexRequest>) -> Result<Response<ReadIndexResponse>, Status> {
        let (_, core) = self.admit(&request)?;
        let deadline = deadline(request.get_ref().timeout_ms);
        Ok(Response::new(core.read_index_here(deadline).await.into()))
    }

    async fn change_membership(
        &self,
        request: Request<ChangeMembershipRequest>,
    ) -> Result<Response<ChangeMembershipResponse>, Status> {
        let (_, core) = self.admit(&request)?;
        let request = request.into_inner();
        let change = match request.change {
            Some(WireChange::Add(AddNode { node, peer })) => Change::Add { node, peer },
            Some(WireChange::Promote(node)) => Change::Promote(node),
            Some(WireChange::Remove(node)) => Change::Remove(node),
            Some(WireChange::TransferLeaderTo(node)) => Change::Transfer((node != 0).then_some(node)),
            None => return Err(Status::invalid_argument("no change")),
        };
        let request_id = request_id(&request.request_id)?;
        Ok(Response::new(core.change_here(request_id, &change, deadline(request.timeout_ms)).await.into()))
    }

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        check_certificate(&request, request.get_ref().node)?;
        let core = self.core()?;
        let request = request.into_inner();
        let incarnation = u16::try_from(request.incarnation).map_err(|_| Status::invalid_argument("incarnation"))?;
        let info = NodeInfo { zone: request.zone, peer: request.peer, http: request.http, admin: request.admin };
        Ok(Response::new(core.join_here(request.node, incarnation, info).await.into()))
    }

    async fn invite(&self, request: Request<InviteRequest>) -> Result<Response<InviteResponse>, Status> {
        check_certificate(&request, request.get_ref().node)?;
        let InviteRequest { node, peer } = request.into_inner();
        self.shared.invite(Peer { node, address: peer });
        Ok(Response::new(InviteResponse {}))
    }

    async fn call(&self, request: Request<CallRequest>) -> Result<Response<CallResponse>, Status> {
        let (envelope, _core) = self.admit(&request)?;
        let CallRequest { service, body } = request.into_inner();
        let handler = self.shared.handler(&service).ok_or_else(|| Status::unimplemented("no such service"))?;
        let body = handler(node_of(envelope.from), body).await.map_err(Status::aborted)?;
        Ok(Response::new(CallResponse { body }))
    }
}
