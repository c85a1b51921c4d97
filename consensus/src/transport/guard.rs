//! What a peer may answer. openraft trusts the answers and panics on some that can't be, so none of those reaches it.
//!
//! Above all: a follower whose disk went back in time no longer has what it acknowledged. It must neither count into a
//! quorum as if it had never acknowledged anything, nor bring the leader down. Its refusals are errors of the transport
//! to openraft, which comes again later; the node itself finds out by asking (`node::memory`), and rejoins as another.

use std::collections::HashMap;

use openraft::{
    errors::{RPCError, Unreachable},
    raft::{AppendEntriesRequest, StreamAppendError, StreamAppendResult},
};
use parking_lot::Mutex;

use crate::{
    ids::node_of,
    types::{LogId, TypeConfig, Vote},
};

/// No peer may raise the term further at once: terms never run out, and no sum of them overflows.
const MAX_TERM_STEP: u64 = 1 << 32;

type Error = RPCError<TypeConfig>;

/// One request on an append stream, as far as its answer depends on it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    vote: Vote,
    prev: Option<LogId>,
    last: Option<LogId>,
}

impl From<&AppendEntriesRequest<TypeConfig>> for Asked {
    fn from(request: &AppendEntriesRequest<TypeConfig>) -> Self {
        let prev = request.prev_log_id;
        Self { vote: request.vote, prev, last: request.entries.last().map_or(prev, |entry| Some(entry.log_id)) }
    }
}

/// What each peer has acknowledged to this node as leader.
#[derive(Debug, Default)]
pub(crate) struct Guard {
    marks: Mutex<HashMap<u64, Mark>>,
}

#[derive(Debug)]
struct Mark {
    vote: Vote,
    acknowledged: Option<LogId>,
    /// It was said that the peer lost it.
    told: bool,
}

impl Guard {
    /// Passes on an answer that can be.
    pub(super) fn judge(
        &self,
        target: u64,
        asked: Asked,
        answer: StreamAppendResult<TypeConfig>,
    ) -> Result<StreamAppendResult<TypeConfig>, Error> {
        match &answer {
            Ok(matching) if *matching == asked.last => self.acknowledged(target, &asked.vote, asked.last),
            Err(StreamAppendError::Conflict(at)) if Some(*at) == asked.prev => {
                self.check_conflict(target, asked, *at)?
            }
            Err(StreamAppendError::HigherVote(vote)) => check_higher(&asked.vote, vote)?,
            Ok(_) | Err(StreamAppendError::Conflict(_)) => return Err(absurd(target, "an acknowledgement")),
        }
        Ok(answer)
    }

    /// Remembers what a peer has acknowledged, entries or a snapshot.
    pub(super) fn acknowledged(&self, target: u64, vote: &Vote, log_id: Option<LogId>) {
        let mut marks = self.marks.lock();
        let mark = mark(&mut marks, target, vote);
        mark.acknowledged = mark.acknowledged.max(log_id);
    }

    /// A peer that searches for the place where its log parts from ours never goes below what it acknowledged. A request
    /// without entries begins where the peer's log is known to match ours.
    fn check_conflict(&self, target: u64, asked: Asked, at: LogId) -> Result<(), Error> {
        let mut marks = self.marks.lock();
        let mark = mark(&mut marks, target, &asked.vote);
        let acknowledged = mark.acknowledged.is_some_and(|acknowledged| at.index <= acknowledged.index);
        if !acknowledged && asked.last != asked.prev {
            return Ok(());
        }
        if !std::mem::replace(&mut mark.told, true) {
            tracing::warn!(
                node = node_of(target),
                acknowledged = mark.acknowledged.max(Some(at)).map_or(0, |id| id.index),
                lost = at.index,
                "a node lost log entries that it had acknowledged, its disk is older than it was: it counts for nothing \
                 until it has been restarted, and then rejoins under its next incarnation"
            );
        }
        Err(Unreachable::from_string("the peer lost log entries that it had acknowledged").into())
    }
}

/// Of this leadership: another one begins with nothing known.
fn mark<'a>(marks: &'a mut HashMap<u64, Mark>, target: u64, vote: &Vote) -> &'a mut Mark {
    let mark = marks.entry(target).or_insert(Mark { vote: *vote, acknowledged: None, told: false });
    if mark.vote != *vote {
        *mark = Mark { vote: *vote, acknowledged: None, told: false };
    }
    mark
}

/// A vote that makes a leader step down: really higher, and not its own, which nobody but itself can raise.
pub(super) fn check_higher(own: &Vote, answered: &Vote) -> Result<(), Error> {
    let node = own.leader_id.node_id;
    match answered > own && answered.leader_id.node_id != node && within_step(own.leader_id.term, answered) {
        true => Ok(()),
        false => Err(Unreachable::from_string(format!("{answered} is no higher vote than {own}")).into()),
    }
}

/// The term in an answer to a candidate.
pub(super) fn check_term(own: &Vote, answered: &Vote) -> Result<(), Error> {
    match within_step(own.leader_id.term, answered) {
        true => Ok(()),
        false => Err(Unreachable::from_string(format!("{answered} is not a vote that can be")).into()),
    }
}

/// Whether a term can have come about since `term`.
pub(super) fn within_step(term: u64, vote: &Vote) -> bool {
    vote.leader_id.term <= term.saturating_add(MAX_TERM_STEP)
}

fn absurd(target: u64, what: &str) -> Error {
    tracing::warn!(node = node_of(target), "a node answers {what} of what it was not sent");
    Unreachable::from_string(format!("{what} of what was not sent")).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(term: u64, index: u64) -> LogId {
        LogId { leader_id: Vote::new(term, 1).leader_id, index }
    }

    fn asked(prev: u64, last: u64) -> Asked {
        Asked { vote: Vote::new_committed(3, 1), prev: Some(id(3, prev)), last: Some(id(3, last)) }
    }

    fn conflict(at: u64) -> StreamAppendResult<TypeConfig> {
        Err(StreamAppendError::Conflict(id(3, at)))
    }

    #[test]
    fn a_search_for_the_common_prefix_passes_and_a_loss_does_not() {
        let guard = Guard::default();
        assert!(guard.judge(2, asked(40, 50), conflict(40)).is_ok());
        assert!(guard.judge(2, asked(20, 30), Ok(Some(id(3, 30)))).is_ok());
        assert!(guard.judge(2, asked(35, 40), conflict(35)).is_ok());
        for lost in [20, 30] {
            assert!(guard.judge(2, asked(lost, 40), conflict(lost)).is_err(), "{lost}");
        }
        // Another peer, and the same one under the next leadership, have acknowledged nothing.
        assert!(guard.judge(3, asked(30, 40), conflict(30)).is_ok());
        let later = Asked { vote: Vote::new_committed(4, 1), ..asked(30, 40) };
        assert!(guard.judge(2, later, conflict(30)).is_ok());
    }

    #[test]
    fn a_heartbeat_or_a_snapshot_makes_a_mark_as_well() {
        let guard = Guard::default();
        assert!(guard.judge(2, asked(30, 30), conflict(30)).is_err());
        guard.acknowledged(3, &Vote::new_committed(3, 1), Some(id(3, 30)));
        assert!(guard.judge(3, asked(30, 40), conflict(30)).is_err());
    }

    #[test]
    fn an_answer_to_what_was_not_asked_is_refused() {
        let guard = Guard::default();
        for matching in [None, Some(id(3, 29)), Some(id(3, 31)), Some(id(2, 30)), Some(id(2, u64::MAX))] {
            assert!(guard.judge(2, asked(20, 30), Ok(matching)).is_err(), "{matching:?}");
        }
        for at in [19, 21, u64::MAX] {
            assert!(guard.judge(2, asked(20, 30), conflict(at)).is_err(), "{at}");
        }
    }

    #[test]
    fn a_higher_vote_is_another_nodes_and_within_reason() {
        let guard = Guard::default();
        let judge = |vote| guard.judge(2, asked(20, 30), Err(StreamAppendError::HigherVote(vote))).is_ok();
        assert!(judge(Vote::new(4, 2)));
        assert!(judge(Vote::new_committed(9, 3)));
        for wrong in [Vote::new(2, 2), Vote::new_committed(4, 1), Vote::new(u64::MAX, 2)] {
            assert!(!judge(wrong), "{wrong}");
        }
    }
}
