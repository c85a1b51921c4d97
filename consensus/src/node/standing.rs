//! Whether this node is still one of the members.
//!
//! A node that was removed, or whose disk is that of an earlier incarnation, hears nothing from the leader any more, and
//! nothing of it stands in its own log. The members know: an incarnation that was in the membership once and is not any
//! more never comes back. That is a fact of the log, so whoever knows it may say it, however far behind it is; and nobody
//! who has not applied both the coming and the going says it, so a node that joins, is behind or cut off is never meant.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::{Core, memory::Fit};
use crate::{
    Removed, node_of,
    transport::{Lane, Peers, Target, wire},
    types::{Departure, LogId, Vote},
};

/// One member is asked at a time, each in its turn.
const ASK_EVERY: Duration = Duration::from_millis(500);

const ASK_TIMEOUT: Duration = Duration::from_millis(500);

/// What a member says of the node that asks. In postcard the first two are what an `Option` of a pair is, which is all
/// that earlier versions say and know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Standing {
    /// It has nothing to say.
    Nothing,
    /// It leads, and under its vote it has heard the node acknowledge this.
    Acknowledged(Vote, Option<LogId>),
    /// The node is gone, in this incarnation or for good.
    Departed(Departure),
}

/// Asks a member; `None` when it does not answer.
pub(super) async fn ask(peers: &Peers, member: &Target) -> Option<Standing> {
    let mut client = peers.client(&member.peer, Lane::Control).ok()?;
    let call = client.acknowledged(member.envelope.put(wire::encode(&())));
    let answer = timeout(ASK_TIMEOUT, call).await.ok()?.ok()?;
    wire::decode(answer.get_ref()).ok()
}

/// Asks one member after the other, as long as the node runs.
pub(super) async fn watch(core: Arc<Core>) {
    let mut ticks = interval(ASK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut turn = 0usize;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = core.stop.cancelled() => return,
            () = core.removed.cancelled() => return,
        }
        let others = core.others();
        let Some(member) = others.get(turn % others.len().max(1)) else { continue };
        turn = turn.wrapping_add(1);
        if let Some(Standing::Departed(departure)) = ask(&core.peers, member).await {
            core.depart(departure);
        }
    }
}

impl Core {
    /// What this node says of another: only what it has applied, or, of what it has heard, what it leads by.
    pub(crate) fn standing_of(&self, raft_id: u64) -> Standing {
        if let Some(departure) = self.progress.departure(raft_id) {
            return Standing::Departed(departure);
        }
        self.acknowledged_by(raft_id).map_or(Standing::Nothing, |(vote, log_id)| Standing::Acknowledged(vote, log_id))
    }

    /// Whether this incarnation was a member and is none any more.
    pub(crate) fn has_departed(&self, raft_id: u64) -> bool {
        self.progress.departure(raft_id).is_some()
    }

    /// All members but this node, whatever their incarnation.
    fn others(&self) -> Vec<Target> {
        let membership = self.membership();
        let others = membership.nodes().filter(|(id, _)| node_of(**id) != node_of(self.raft_id));
        others.map(|(id, info)| self.target(*id, &info.peer)).collect()
    }

    pub(super) fn act_on(&self, fit: Fit) {
        match fit {
            Fit::Sound | Fit::Unknown => {}
            Fit::Forgetful => self.start_over(
                "the log on this disk ends before entries that this node has acknowledged: the data directory is older \
                 than it was",
            ),
            Fit::Departed(departure) => self.depart(departure),
        }
    }

    fn depart(&self, departure: Departure) {
        match departure {
            Departure::Replaced => self.start_over(
                "a later incarnation of this node is a member already: the data directory is one of an earlier life",
            ),
            Departure::Removed => {
                tracing::warn!(node = node_of(self.raft_id), "this node was removed from the cluster");
                self.removed.cancel();
            }
        }
    }

    /// Ends the process; the next one begins with an empty log.
    fn start_over(&self, why: &str) {
        let marked = self.data_dir.lock().as_ref().map_or(Ok(()), crate::identity::DataDir::mark_to_rejoin);
        if let Err(error) = marked {
            tracing::error!(%error, "can't write down that this node must rejoin");
        }
        (self.on_fatal.0)(&format!(
            "{why}. Start the node again: it sets its log aside and rejoins under its next incarnation"
        ));
    }

    /// Resolves once this node has learnt that it was removed.
    pub(crate) async fn removed(&self) -> Removed {
        self.removed.cancelled().await;
        Removed { node: node_of(self.raft_id), dir: self.dir.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn earlier_versions_understand_what_they_know() {
        let vote = Vote::new_committed(3, 1);
        let pair: Option<(Vote, Option<LogId>)> = Some((vote, None));
        let known = Standing::Acknowledged(vote, None);
        assert_eq!(postcard::to_stdvec(&known).unwrap(), postcard::to_stdvec(&pair).unwrap());
        let nothing: Option<(Vote, Option<LogId>)> = None;
        assert_eq!(postcard::to_stdvec(&Standing::Nothing).unwrap(), postcard::to_stdvec(&nothing).unwrap());
    }
}
