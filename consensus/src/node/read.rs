//! Linearizable reads: the leader proves that it leads and says how far, this node waits until it has applied that.

use std::time::Duration;

use openraft::{
    errors::{LinearizableReadError, RaftError},
    raft::linearizable_read::LinearizerOption,
};
use tokio::time::{Instant, timeout_at};
use tollgate_proto::peer::v1::ReadIndexRequest;

use super::{
    Attempt, Core,
    attempt::{Pause, timeout_ms},
    core::Leader,
};
use crate::{ReadError, transport::Lane};

/// A leader that does not hear from a quorum for so long is not asked again the same way.
const QUORUM_WAIT: Duration = Duration::from_millis(600);

impl Core {
    pub(crate) async fn read_barrier(&self, deadline: Instant) -> Result<u64, ReadError> {
        let needed = self.read_index(deadline).await?;
        let mut applied = self.progress.applied();
        let reached = timeout_at(deadline, applied.wait_for(|applied| *applied >= needed)).await;
        match reached {
            Ok(Ok(applied)) => Ok(*applied),
            Ok(Err(_)) => Err(ReadError::Stopped),
            Err(_) => Err(ReadError::Behind { applied: *self.progress.applied().borrow(), needed }),
        }
    }

    async fn read_index(&self, deadline: Instant) -> Result<u64, ReadError> {
        let mut pause = Pause::new();
        while !self.is_stopping() && Instant::now() < deadline {
            let attempt = match self.leader() {
                Some(leader) if leader.raft_id == self.raft_id => self.read_index_here(deadline).await,
                Some(leader) => self.read_index_at(&leader, deadline).await,
                None => Attempt::NotLeader,
            };
            match attempt {
                Attempt::Done(index) => return Ok(index),
                Attempt::Refused(error) => return Err(error),
                Attempt::NotLeader | Attempt::Unknown(_) => pause.wait(deadline).await,
            }
        }
        Err(if self.is_stopping() { ReadError::Stopped } else { ReadError::NoQuorum })
    }

    /// The index that covers everything acknowledged so far, if this node leads.
    pub(crate) async fn read_index_here(&self, deadline: Instant) -> Attempt<u64, ReadError> {
        // A lease of zero: a quorum must answer something that is sent after this call.
        let wait = deadline.saturating_duration_since(Instant::now()).min(QUORUM_WAIT);
        let option = LinearizerOption::new(Some(Duration::ZERO), true).with_wait_timeout(wait);
        match timeout_at(deadline, self.raft.get_read_linearizer(option)).await {
            Ok(Ok(linearizer)) => Attempt::Done(linearizer.read_log_id().index()),
            Ok(Err(RaftError::APIError(
                LinearizableReadError::ForwardToLeader(_) | LinearizableReadError::QuorumNotEnough(_),
            )))
            | Err(_) => Attempt::NotLeader,
            Ok(Err(RaftError::Fatal(_))) => Attempt::Refused(ReadError::Stopped),
        }
    }

    async fn read_index_at(&self, leader: &Leader, deadline: Instant) -> Attempt<u64, ReadError> {
        let target = self.target(leader.raft_id, &leader.peer);
        let Ok(mut client) = self.peers.client(&target.peer, Lane::Control) else { return Attempt::NotLeader };
        let request = ReadIndexRequest { timeout_ms: timeout_ms(deadline) };
        let call = timeout_at(deadline, client.read_index(target.envelope.put(request)));
        tokio::select! {
            answer = call => match answer {
                Ok(Ok(answer)) => answer.into_inner().into(),
                Ok(Err(_)) | Err(_) => Attempt::NotLeader,
            },
            () = self.leadership_moved(leader.raft_id) => Attempt::NotLeader,
        }
    }
}
