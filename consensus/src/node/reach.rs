//! A leader that can speak and can't be spoken to.
//!
//! Such a leader keeps its followers, as its heartbeats arrive and are answered on connections of its own; but whatever
//! they propose is lost on the way to it. Raft does not see that. So a leader has itself called back, and hands over when
//! most voters say that they do not reach it.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures_util::future::join_all;
use openraft::{RaftMetrics, async_runtime::WatchReceiver, type_config::TypeConfigExt};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout, timeout_at};
use tollgate_proto::peer::v1::CallBackRequest;

use super::Core;
use crate::{
    node_of,
    transport::{Lane, Peer},
    types::TypeConfig,
};

type InstantOf = openraft::alias::InstantOf<TypeConfig>;

const CALL_BACK_EVERY: Duration = Duration::from_millis(200);

/// A voter that gets no answer for so long does not reach the leader.
const UNREACHED_AFTER: Duration = Duration::from_millis(400);

/// For the question and what it takes to find the answer.
const ASK_TIMEOUT: Duration = Duration::from_millis(800);

/// One round may have met a busy moment.
const ROUNDS: u32 = 2;

/// When everybody fails to reach anybody, moving leadership about helps nobody.
const HAND_OVER_AT_MOST_EVERY: Duration = Duration::from_secs(10);

/// Some heartbeats: who has not answered one until then can't be counted on.
const HEARD_WITHIN: Duration = Duration::from_secs(2);

/// For one attempt to hand over.
const HAND_OVER: Duration = Duration::from_secs(2);

/// Rounds in a row in which a majority did not reach this node.
#[derive(Debug, Default)]
struct Deafness {
    rounds: u32,
    handed_over: Option<Instant>,
}

impl Deafness {
    /// Whether to hand over, after a round in which so many of all voters said that they do not reach the leader.
    fn round(&mut self, unreached: usize, voters: usize, now: Instant) -> bool {
        self.rounds = if unreached > voters / 2 { self.rounds + 1 } else { 0 };
        let rested = self.handed_over.is_none_or(|at| now.duration_since(at) >= HAND_OVER_AT_MOST_EVERY);
        let due = self.rounds >= ROUNDS && rested;
        if due {
            *self = Self { rounds: 0, handed_over: Some(now) };
        }
        due
    }
}

/// Has this node called back while it leads, and hands over when it can't be reached.
pub(super) async fn watch(core: Arc<Core>) {
    let mut ticks = interval(CALL_BACK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut deafness = Deafness::default();
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = core.stop.cancelled() => return,
        }
        if !core.leads() {
            deafness.rounds = 0;
            continue;
        }
        let voters = core.voters();
        let answers = join_all(voters.iter().map(|voter| core.is_reached_from(*voter))).await;
        let unreached = answers.iter().filter(|reached| **reached == Some(false)).count();
        if deafness.round(unreached, voters.len(), Instant::now()) {
            tracing::warn!(unreached, voters = voters.len(), "most voters can't reach this leader, which hands over");
            drop(core.hand_over(None, Instant::now() + HAND_OVER).await);
        }
    }
}

fn named(ids: &BTreeSet<u64>) -> String {
    let nodes: Vec<String> = ids.iter().map(|id| format!("node {}", node_of(*id))).collect();
    nodes.join(", ")
}

impl Core {
    /// What a voter says; `None` when it says nothing: that is for Raft to judge.
    async fn is_reached_from(&self, voter: u64) -> Option<bool> {
        if voter == self.raft_id {
            return Some(true);
        }
        let (_, info) = self.member(node_of(voter))?;
        let target = self.target(voter, &info.peer);
        let mut client = self.peers.client(&target.peer, Lane::Control).ok()?;
        let answer = timeout(ASK_TIMEOUT, client.call_back(target.envelope.put(CallBackRequest {}))).await;
        Some(answer.ok()?.ok()?.into_inner().reached)
    }

    /// Whether a majority of these, were they the voters, answers this leader now; else why nothing could be decided.
    /// What was answered before the question does not count, so this takes a heartbeat.
    pub(super) async fn check_majority(&self, voters: &BTreeSet<u64>, deadline: Instant) -> Result<(), String> {
        let asked = TypeConfig::now();
        let until = deadline.min(Instant::now() + HEARD_WITHIN);
        let mut metrics = self.raft.metrics();
        loop {
            let silent = self.silent_since(asked, voters, &metrics.borrow_and_update());
            if 2 * silent.len() < voters.len() {
                return Ok(());
            }
            if !matches!(timeout_at(until, metrics.changed()).await, Ok(Ok(()))) {
                return Err(format!(
                    "the voters would be {}, of which {} can't be reached: no majority would be left, and nothing could be \
                     changed any more. Start again, or remove first, what can't be reached",
                    named(voters),
                    named(&silent)
                ));
            }
        }
    }

    /// Which of them have not acknowledged anything that this leader sent since then.
    fn silent_since(&self, then: InstantOf, of: &BTreeSet<u64>, metrics: &RaftMetrics<TypeConfig>) -> BTreeSet<u64> {
        let heard = |id: &u64| {
            let last = metrics.heartbeat.as_ref().and_then(|heard| heard.get(id)).and_then(Option::as_ref);
            last.is_some_and(|last| **last >= then)
        };
        of.iter().filter(|id| **id != self.raft_id && !heard(id)).copied().collect()
    }

    /// Whether a member answers this node.
    pub(crate) async fn reaches(&self, raft_id: u64) -> bool {
        // Who is not known here yet is about to be.
        let Some((_, info)) = self.member(node_of(raft_id)) else { return true };
        let peer = Peer { node: node_of(raft_id), address: info.peer };
        self.identify(&peer, UNREACHED_AFTER).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_majority_that_does_not_reach_the_leader_twice_moves_it() {
        let now = Instant::now();
        for (unreached, voters, moves) in [(1, 3, false), (2, 3, true), (2, 5, false), (3, 5, true), (1, 2, false)] {
            let mut deafness = Deafness::default();
            assert!(!deafness.round(unreached, voters, now), "{unreached} of {voters}, one round");
            assert_eq!(deafness.round(unreached, voters, now), moves, "{unreached} of {voters}");
        }
    }

    #[test]
    fn a_round_in_which_it_is_reached_begins_anew() {
        let (now, mut deafness) = (Instant::now(), Deafness::default());
        assert!(!deafness.round(2, 3, now));
        assert!(!deafness.round(1, 3, now));
        assert!(!deafness.round(2, 3, now));
        assert!(deafness.round(2, 3, now));
    }

    #[test]
    fn leadership_is_not_moved_about() {
        let (now, mut deafness) = (Instant::now(), Deafness::default());
        let rounds = |deafness: &mut Deafness, at| (0..ROUNDS).any(|_| deafness.round(3, 3, at));
        assert!(rounds(&mut deafness, now));
        assert!(!rounds(&mut deafness, now + HAND_OVER_AT_MOST_EVERY / 2));
        assert!(rounds(&mut deafness, now + HAND_OVER_AT_MOST_EVERY));
    }
}
