//! A leader that can speak and can't be spoken to.
//!
//! Such a leader keeps its followers, as its heartbeats arrive and are answered on connections of its own; but whatever
//! they propose is lost on the way to it. Raft does not see that. So a leader has itself called back, and hands over when
//! most voters say that they do not reach it. The answers say two things more: what the voter's clock says, and whether its
//! disk is full. A leader whose own clock is off, or whose own disk is full, hands over to one that is better off.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures_util::future::join_all;
use openraft::{RaftMetrics, async_runtime::WatchReceiver, type_config::TypeConfigExt};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout, timeout_at};
use tollgate_proto::peer::v1::{CallBackRequest, CallBackResponse};

use super::{
    Core,
    clocks::{self, Clocks, Sample},
};
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

/// Rounds in a row in which something was wrong that a hand-over heals.
#[derive(Debug, Default)]
struct Trouble {
    rounds: u32,
    handed_over: Option<Instant>,
}

impl Trouble {
    /// Whether to hand over, after a round in which it was so or not.
    fn round(&mut self, is_so: bool, now: Instant) -> bool {
        self.rounds = if is_so { self.rounds + 1 } else { 0 };
        let rested = self.handed_over.is_none_or(|at| now.duration_since(at) >= HAND_OVER_AT_MOST_EVERY);
        let due = self.rounds >= ROUNDS && rested;
        if due {
            *self = Self { rounds: 0, handed_over: Some(now) };
        }
        due
    }
}

/// Rounds in which a majority did not reach this node.
#[derive(Debug, Default)]
struct Deafness(Trouble);

impl Deafness {
    /// Whether to hand over, after a round in which so many of all voters said that they do not reach the leader.
    fn round(&mut self, unreached: usize, voters: usize, now: Instant) -> bool {
        self.0.round(unreached > voters / 2, now)
    }
}

/// What another voter says when it is asked to call back.
#[derive(Debug, Clone, Copy)]
struct Answer {
    reached: bool,
    log_full: bool,
    clock: Sample,
}

/// What the leader knows from one round to the next.
#[derive(Default)]
struct Watch {
    deafness: Deafness,
    clocks: Clocks,
    wrong_time: Trouble,
    full_disk: Trouble,
}

/// Has this node called back while it leads, and hands over when it should not go on.
pub(super) async fn watch(core: Arc<Core>) {
    let mut ticks = interval(CALL_BACK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut watch = Watch::default();
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = core.stop.cancelled() => return,
        }
        if core.leads() {
            watch.round(&core).await;
        } else {
            watch.pause(&core);
        }
    }
}

impl Watch {
    async fn round(&mut self, core: &Core) {
        let voters = core.voters();
        let others = voters.iter().filter(|voter| **voter != core.raft_id);
        let answers: Vec<Answer> =
            join_all(others.map(|voter| core.called_back_by(*voter))).await.into_iter().flatten().collect();
        let now = Instant::now();
        let unreached = answers.iter().filter(|answer| !answer.reached).count();
        if self.deafness.round(unreached, voters.len(), now) {
            tracing::warn!(unreached, voters = voters.len(), "most voters can't reach this leader, which hands over");
            drop(core.hand_over(None, now + HAND_OVER).await);
            return;
        }
        let samples: Vec<Sample> = answers.iter().map(|answer| answer.clock).collect();
        let better = self.clocks.round(core, &samples, voters.len());
        if self.wrong_time.round(better.is_some(), now)
            && let Some(better) = better
        {
            clocks::say_why(core, better);
            drop(core.hand_over(Some(node_of(better)), now + HAND_OVER).await);
            return;
        }
        let roomy = answers.iter().find(|answer| answer.reached && !answer.log_full && answer.clock.wall_us != 0);
        if self.full_disk.round(core.memory.log.is_full() && roomy.is_some(), now)
            && let Some(roomy) = roomy
        {
            let to = node_of(roomy.clock.voter);
            tracing::warn!(to, "the disk of this leader is full, handing over to a voter that has space");
            drop(core.hand_over(Some(to), now + HAND_OVER).await);
        }
    }

    fn pause(&mut self, core: &Core) {
        for trouble in [&mut self.deafness.0, &mut self.wrong_time, &mut self.full_disk] {
            trouble.rounds = 0;
        }
        self.clocks.pause(core);
    }
}

fn named(ids: &BTreeSet<u64>) -> String {
    let nodes: Vec<String> = ids.iter().map(|id| format!("node {}", node_of(*id))).collect();
    nodes.join(", ")
}

impl Core {
    /// What another voter says; `None` when it says nothing: that is for Raft to judge.
    async fn called_back_by(&self, voter: u64) -> Option<Answer> {
        let (_, info) = self.member(node_of(voter))?;
        let target = self.target(voter, &info.peer);
        let mut client = self.peers.client(&target.peer, Lane::Control).ok()?;
        let asked = std::time::Instant::now();
        let answer = timeout(ASK_TIMEOUT, client.call_back(target.envelope.put(CallBackRequest {}))).await;
        let CallBackResponse { reached, clock_us, log_full } = answer.ok()?.ok()?.into_inner();
        let clock = Sample { voter, wall_us: clock_us, asked, answered: std::time::Instant::now() };
        Some(Answer { reached, log_full, clock })
    }

    /// What this node answers to a leader that asks to be called back. The clock is read last.
    pub(crate) async fn call_back(&self, leader: u64) -> CallBackResponse {
        let reached = self.reaches(leader).await;
        CallBackResponse { reached, log_full: self.memory.log.is_full(), clock_us: self.clock.now_us() }
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
    async fn reaches(&self, raft_id: u64) -> bool {
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
