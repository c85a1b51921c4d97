//! openraft's way to its peers.

use std::{collections::VecDeque, pin::Pin, sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt, future::BoxFuture, stream::BoxStream};
use openraft::{
    OptionalSend, RaftNetworkFactory,
    errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::{Backoff, RPCOption, RPCTypes, RaftNetworkV2},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
        TransferLeaderResponse, VoteRequest, VoteResponse,
    },
};
use parking_lot::Mutex;
use serde::{Serialize, de::DeserializeOwned};
use tollgate_proto::peer::v1::{RaftMessage, peer_client::PeerClient};
use tonic::{Code, Response, Status, transport::Channel};

use super::{
    client::{Lane, Peers, Target},
    guard::{self, Asked, Guard},
    snapshot,
    wire::{decode, encode},
};
use crate::{
    identity::Id,
    snapshot::MaybeSnapshot,
    types::{NodeInfo, TypeConfig, Vote},
};

/// An append stream on which a request stays unanswered for so long is given up: the peer or its disk is stuck.
const STALLED: Duration = Duration::from_secs(10);

/// To open an append stream: a connection may have to be made.
const OPEN_TIMEOUT: Duration = Duration::from_secs(2);

/// A vote is a few bytes and an fsync.
const VOTE_TIMEOUT: Duration = Duration::from_secs(1);

/// Between attempts at a peer that can't be reached.
const BACKOFF_FIRST: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_millis(500);

type Error = RPCError<TypeConfig>;

/// Makes the connections that openraft asks for.
pub(crate) struct Network {
    pub(crate) peers: Arc<Peers>,
    pub(crate) cluster: Id,
    pub(crate) raft_id: u64,
    pub(crate) guard: Arc<Guard>,
}

impl Network {
    fn connection(&self, target: u64, node: &NodeInfo, lane: Lane) -> Connection {
        let target = Target::new(self.cluster, self.raft_id, target, &node.peer);
        Connection { peers: Arc::clone(&self.peers), guard: Arc::clone(&self.guard), target, lane }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Connection;

    async fn new_client(&mut self, target: u64, node: &NodeInfo) -> Connection {
        self.connection(target, node, Lane::Append)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &NodeInfo) -> Connection {
        self.connection(target, node, Lane::Heartbeat)
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &NodeInfo) -> Connection {
        self.connection(target, node, Lane::Snapshot)
    }
}

/// To one peer, for one purpose.
pub(crate) struct Connection {
    peers: Arc<Peers>,
    guard: Arc<Guard>,
    target: Target,
    lane: Lane,
}

impl Connection {
    fn client(&self, lane: Lane) -> Result<PeerClient<Channel>, Error> {
        self.peers.client(&self.target.peer, lane).map_err(|error| Unreachable::from_string(error).into())
    }

    /// One small message and its answer, on the heartbeats' lane: it must not wait behind appends.
    async fn ask<Q, A, F>(&self, message: &Q, timeout: Duration, call: F) -> Result<A, Error>
    where
        Q: Serialize,
        A: DeserializeOwned,
        F: AsyncFnOnce(PeerClient<Channel>, tonic::Request<RaftMessage>) -> Result<Response<RaftMessage>, Status>,
    {
        let client = self.client(Lane::Heartbeat)?;
        let call = call(client, self.target.envelope.put(encode(message)));
        let answer = tokio::time::timeout(timeout, call).await.map_err(|_| self.timed_out(RPCTypes::Vote, timeout))?;
        decode(answer.map_err(|status| failed(&status))?.get_ref()).map_err(|status| failed(&status))
    }

    fn timed_out(&self, action: RPCTypes, timeout: Duration) -> Error {
        let envelope = &self.target.envelope;
        openraft::errors::Timeout { action, id: envelope.from, target: envelope.to, timeout }.into()
    }

    /// Nothing when there is nothing to append.
    ///
    /// openraft waits out its back-off where it is asked for the next request. So that one is asked for before a connection
    /// is: a peer that is down would be dialled without a pause.
    async fn open_append(
        &self,
        mut input: impl Stream<Item = AppendEntriesRequest<TypeConfig>> + Unpin + Send + 'static,
    ) -> Result<Option<Answers>, Error> {
        let Some(first) = input.next().await else { return Ok(None) };
        let input = futures_util::stream::iter([first]).chain(input);
        let mut client = self.client(self.lane)?;
        let unanswered = Arc::new(Mutex::new(VecDeque::new()));
        let asked = Arc::clone(&unanswered);
        let messages = input.map(move |request| {
            asked.lock().push_back(Asked::from(&request));
            encode(&request)
        });
        let call = client.append(self.target.envelope.put(messages));
        let opened = tokio::time::timeout(OPEN_TIMEOUT, call).await;
        let opened = opened.map_err(|_| self.timed_out(RPCTypes::AppendEntries, OPEN_TIMEOUT))?;
        let stream = opened.map_err(|status| failed(&status))?.into_inner();
        Ok(Some(Answers { stream, unanswered, guard: Arc::clone(&self.guard), target: self.target.envelope.to }))
    }
}

/// The answers on an append stream, in the order of the requests.
struct Answers {
    stream: tonic::Streaming<RaftMessage>,
    unanswered: Arc<Mutex<VecDeque<Asked>>>,
    guard: Arc<Guard>,
    target: u64,
}

impl Answers {
    /// The next answer; an error when one is due and does not come, or is none that could be.
    async fn next(&mut self) -> Option<Result<StreamAppendResult<TypeConfig>, Error>> {
        loop {
            match tokio::time::timeout(STALLED, self.stream.message()).await {
                Ok(Ok(None)) => return None,
                Ok(Ok(Some(message))) => return Some(self.judge(&message)),
                Ok(Err(status)) => return Some(Err(failed(&status))),
                Err(_) if self.unanswered.lock().is_empty() => {}
                Err(_) => return Some(Err(NetworkError::from_string("an append stays unanswered").into())),
            }
        }
    }

    fn judge(&self, message: &RaftMessage) -> Result<StreamAppendResult<TypeConfig>, Error> {
        let answer = decode(message).map_err(|status| failed(&status))?;
        let asked = self.unanswered.lock().pop_front();
        let asked = asked.ok_or_else(|| Unreachable::from_string("an answer to nothing"))?;
        self.guard.judge(self.target, asked, answer)
    }
}

/// An answer of the transport: whether it makes sense to come again at once.
fn failed(status: &Status) -> Error {
    match status.code() {
        Code::Unavailable | Code::PermissionDenied | Code::FailedPrecondition | Code::Unimplemented => {
            Unreachable::from_string(status).into()
        }
        _ => NetworkError::from_string(status).into(),
    }
}

impl RaftNetworkV2<TypeConfig> for Connection {
    type SnapshotData = MaybeSnapshot;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, Error> {
        let answers = self.open_append(futures_util::stream::iter([request])).await?;
        let answer = match answers {
            Some(mut answers) => answers.next().await,
            None => None,
        };
        match answer {
            Some(Ok(Ok(matching))) => Ok(AppendEntriesResponse::PartialSuccess(matching)),
            Some(Ok(Err(openraft::raft::StreamAppendError::Conflict(_)))) => Ok(AppendEntriesResponse::Conflict),
            Some(Ok(Err(openraft::raft::StreamAppendError::HigherVote(vote)))) => {
                Ok(AppendEntriesResponse::HigherVote(vote))
            }
            Some(Err(error)) => Err(error),
            None => Err(NetworkError::from_string("an append stays unanswered").into()),
        }
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<StreamAppendResult<TypeConfig>, Error>>, Error>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            let answers = self.open_append(input).await?;
            let stream = futures_util::stream::unfold(answers, |answers| async move {
                let mut answers = answers?;
                let answer = answers.next().await?;
                let goes_on = matches!(answer, Ok(Ok(_)));
                Some((answer, goes_on.then_some(answers)))
            });
            Ok(Box::pin(stream) as Pin<Box<dyn Stream<Item = _> + Send>>)
        })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, Error> {
        let call = async |mut client: PeerClient<Channel>, message| client.vote(message).await;
        let answer: VoteResponse<TypeConfig> = self.ask(&request, VOTE_TIMEOUT, call).await?;
        guard::check_term(&request.vote, &answer.vote)?;
        Ok(answer)
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, Error> {
        let call = async |mut client: PeerClient<Channel>, message| client.pre_vote(message).await;
        let answer: VoteResponse<TypeConfig> = self.ask(&request, VOTE_TIMEOUT, call).await?;
        guard::check_term(&request.vote, &answer.vote)?;
        Ok(answer)
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, Error> {
        self.ask(&request, VOTE_TIMEOUT, async |mut client, message| client.transfer_leader(message).await).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: openraft::alias::SnapshotOf<TypeConfig, MaybeSnapshot>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let Some(file) = snapshot.snapshot else {
            return Err(Unreachable::from_string("there is no snapshot to send: it could not be written").into());
        };
        let client = self.client(Lane::Snapshot)?;
        let sent = tokio::select! {
            sent = snapshot::send(client, &self.target.envelope, &vote, file) => sent,
            closed = cancel => return Err(closed.into()),
        };
        let answer = sent.map_err(|status| StreamingError::from(failed(&status)))?;
        if answer.vote > vote {
            guard::check_higher(&vote, &answer.vote)?;
        } else {
            self.guard.acknowledged(self.target.envelope.to, &vote, snapshot.meta.last_log_id);
        }
        Ok(answer)
    }

    fn backoff(&self) -> Option<Backoff> {
        let doubling = std::iter::successors(Some(BACKOFF_FIRST), |last| Some((*last * 2).min(BACKOFF_MAX)));
        Some(Backoff::new(doubling.map(|delay| delay.mul_f64(rand::random_range(0.5..1.0)))))
    }
}
