//! Proposals: from any node to the leader, gathered there, and their outcomes back.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::StreamExt;
use openraft::{async_runtime::WatchReceiver, errors::ClientWriteError, raft::WriteResult};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::{Instant, sleep_until, timeout_at},
};
use tollgate_proto::peer::v1::ProposeRequest;

use super::{
    Attempt, Core,
    attempt::{Pause, timeout_ms},
    core::Leader,
    share::{Pool, Submission, Waiting},
};
use crate::{
    Committed, Passage, ProposeError, node_of,
    stamp::{Stamp, Stamper},
    state::WINDOW_US,
    transport::Lane,
    types::{Asked, Proposal, Reply, TypeConfig},
};

/// Proposals that wait to be gathered.
pub(super) const QUEUE: usize = 1_024;

/// Gathered into one append.
const MAX_BATCH: usize = 256;

/// On their way through the log at a time; more wait.
const MAX_IN_FLIGHT: usize = 4_096;

/// After leadership moved, the old leader's answer may still come for so long.
const GRACE: Duration = Duration::from_millis(500);

pub(super) type Outcome = Attempt<Committed, ProposeError>;

/// A proposal and whoever waits for its outcome.
pub(crate) struct Queued {
    pub(super) request: Asked,
    pub(super) command: Bytes,
    pub(super) passage: Passage,
    pub(super) answer: oneshot::Sender<Outcome>,
}

impl Core {
    pub(crate) async fn propose(
        &self,
        request_id: Option<[u8; 16]>,
        command: Bytes,
        deadline: Instant,
    ) -> Result<Committed, ProposeError> {
        let max = self.max_command_bytes;
        if command.len() > max {
            return Err(ProposeError::TooLarge { size: command.len(), max });
        }
        let mut unknown = None;
        let mut pause = Pause::new();
        while !self.is_stopping() && Instant::now() < deadline {
            let attempt = match self.leader() {
                Some(leader) if leader.raft_id == self.raft_id => {
                    self.propose_here(node_of(self.raft_id), request_id.into(), command.clone(), deadline).await
                }
                Some(leader) => self.propose_at(&leader, request_id, command.clone(), deadline).await,
                None => Attempt::NotLeader,
            };
            match attempt {
                Attempt::Done(committed) => return Ok(committed),
                Attempt::Refused(error) => return Err(error),
                Attempt::NotLeader => {}
                Attempt::Unknown(reason) if request_id.is_none() => return Err(ProposeError::Unknown(reason)),
                Attempt::Unknown(reason) => unknown = Some(reason),
            }
            pause.wait(deadline).await;
        }
        Err(match unknown {
            Some(reason) => ProposeError::Unknown(reason),
            None if self.is_stopping() => ProposeError::Stopped,
            None => ProposeError::NoLeader,
        })
    }

    /// Proposes on this node, if it leads, what `node` has to say.
    pub(crate) async fn propose_here(&self, node: u64, request: Asked, command: Bytes, deadline: Instant) -> Outcome {
        if command.len() > self.max_command_bytes {
            return Attempt::Refused(ProposeError::TooLarge { size: command.len(), max: self.max_command_bytes });
        }
        // What is queued waits for space; to queue more would only make its outcome unknown.
        if self.memory.log.is_full() {
            return Attempt::Refused(ProposeError::DiskFull { node: node_of(self.raft_id) });
        }
        let passage = match self.passage(node, request, &command) {
            Ok(passage) => passage,
            Err(why) => return Attempt::Refused(ProposeError::NotACommand(why)),
        };
        let (answer, outcome) = oneshot::channel();
        match timeout_at(deadline, self.proposals.send(Queued { request, command, passage, answer })).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Attempt::Refused(ProposeError::Stopped),
            Err(_) => return Attempt::NotLeader,
        }
        match timeout_at(deadline, outcome).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Attempt::Unknown("this node is stopping".into()),
            Err(_) => Attempt::Unknown("not committed before the deadline".into()),
        }
    }

    /// How a proposal goes into the log, or why `apply` would not know it.
    fn passage(&self, node: u64, request: Asked, command: &[u8]) -> Result<Passage, String> {
        match request {
            Asked::Change { .. } => Ok(Passage::Alone),
            Asked::Once => self.gate.check(node, command),
            // What is remembered under a request id is the outcome of one entry.
            Asked::Command(_) => self.gate.check(node, command).map(|_| Passage::Alone),
        }
    }

    async fn propose_at(
        &self,
        leader: &Leader,
        request_id: Option<[u8; 16]>,
        command: Bytes,
        deadline: Instant,
    ) -> Outcome {
        let target = self.target(leader.raft_id, &leader.peer);
        let Ok(mut client) = self.peers.client(&target.peer, Lane::Control) else { return Attempt::NotLeader };
        let request_id = request_id.map(|id| Bytes::copy_from_slice(&id)).unwrap_or_default();
        let request = ProposeRequest { request_id, command, timeout_ms: timeout_ms(deadline) };
        let call = client.propose(target.envelope.put(request));
        tokio::select! {
            answer = timeout_at(deadline, call) => match answer {
                Ok(Ok(answer)) => answer.into_inner().into(),
                Ok(Err(status)) if surely_not_sent(&status) => Attempt::NotLeader,
                Ok(Err(status)) => Attempt::Unknown(status.to_string()),
                Err(_) => Attempt::Unknown("the leader did not answer before the deadline".into()),
            },
            () = self.leadership_moved(leader.raft_id) => Attempt::Unknown("leadership moved meanwhile".into()),
        }
    }

    /// Returns when `leader` has not led, as far as this node knows, for a while.
    pub(super) async fn leadership_moved(&self, leader: u64) {
        let mut metrics = self.raft.metrics();
        while metrics.borrow_and_update().current_leader == Some(leader) {
            if metrics.changed().await.is_err() {
                break;
            }
        }
        tokio::time::sleep(GRACE).await;
    }
}

/// Answers with which the peer never began: it is not a member yet, or another one, or could not be reached at all.
pub(super) fn surely_not_sent(status: &tonic::Status) -> bool {
    use std::error::Error;
    let refused = matches!(status.code(), tonic::Code::FailedPrecondition | tonic::Code::PermissionDenied);
    let mut source = status.source();
    while let Some(error) = source {
        if error.is::<std::io::Error>() && is_connect_error(error) {
            return true;
        }
        source = error.source();
    }
    refused
}

fn is_connect_error(error: &(dyn std::error::Error + 'static)) -> bool {
    let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
    matches!(kind, Some(std::io::ErrorKind::ConnectionRefused | std::io::ErrorKind::HostUnreachable))
}

/// Gathers what came meanwhile, stamps the time, and hands it to openraft in one go.
pub(super) async fn gather(core: Arc<Core>, mut queue: mpsc::Receiver<Queued>) {
    let in_flight = Arc::new(Semaphore::new(MAX_IN_FLIGHT));
    let mut batch = Vec::with_capacity(MAX_BATCH);
    let (mut pool, mut stamper) = (Pool::default(), Stamper::default());
    loop {
        let due = pool.due();
        tokio::select! {
            _ = queue.recv_many(&mut batch, MAX_BATCH) => {}
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            () = core.stop.cancelled() => return,
        }
        let submissions = pool.sort(batch.drain(..), core.gate.as_ref(), Instant::now());
        if submissions.is_empty() {
            continue;
        }
        let permits = u32::try_from(submissions.len()).expect("a batch is small");
        let permit = Arc::clone(&in_flight).acquire_many_owned(permits).await;
        let Ok(permit) = permit else { return };
        let stamp = core.stamp(&mut stamper);
        submit(&core, submissions, stamp, permit).await;
    }
}

impl Core {
    /// The times of what is proposed now.
    fn stamp(&self, stamper: &mut Stamper) -> Stamp {
        let (newest, known) = (self.progress.newest_leadership(), *self.known_time.lock());
        stamper.next(self.raft_id, newest, known, self.clock.now_us(), std::time::Instant::now())
    }
}

async fn submit(core: &Arc<Core>, submissions: Vec<Submission>, stamp: Stamp, permit: OwnedSemaphorePermit) {
    let (proposals, waiting): (Vec<_>, Vec<_>) = submissions
        .into_iter()
        .map(|Submission { request, command, waiting }| (Proposal { stamp, request, command }, waiting))
        .unzip();
    let answer = |core: &Core, waiting: Waiting, outcome| waiting.answer(outcome, core.gate.as_ref(), &core.shares);
    let begun = Instant::now();
    let mut outcomes = match core.raft.client_write_many(proposals).await {
        Ok(outcomes) => outcomes,
        Err(fatal) => {
            waiting.into_iter().for_each(|one| answer(core, one, Attempt::Unknown(fatal.to_string())));
            return;
        }
    };
    let core = Arc::clone(core);
    core.tracker.clone().spawn(async move {
        for one in waiting {
            let outcome = match outcomes.next().await {
                Some(Ok(written)) => {
                    if written.is_ok() {
                        core.commits.note(begun.elapsed());
                    }
                    outcome(written)
                }
                Some(Err(fatal)) => Attempt::Unknown(fatal.to_string()),
                None => Attempt::Unknown("consensus stopped".into()),
            };
            answer(&core, one, outcome);
        }
        drop(permit);
    });
}

fn outcome(written: WriteResult<TypeConfig>) -> Outcome {
    match written.map(|written| written.response) {
        Ok(Reply::Applied { index, outcome }) => Attempt::Done(Committed { index, outcome }),
        Ok(Reply::TooManyRequestIds) => {
            Attempt::Refused(ProposeError::TooManyRequestIds(Duration::from_micros(WINDOW_US)))
        }
        Ok(Reply::RequestIdUsed) => Attempt::Refused(ProposeError::RequestIdUsed),
        Ok(Reply::Nothing) => Attempt::Unknown("not a command's reply".into()),
        Err(ClientWriteError::ForwardToLeader(_)) => Attempt::NotLeader,
        Err(error) => Attempt::Unknown(error.to_string()),
    }
}
