//! How a node with an empty data directory finds its cluster, or founds it with the other first members.
//!
//! One of the first members, the one with the smallest id, founds the cluster, once every one of them has answered that
//! it is empty; it writes all their births down. The others then find the founder, or whoever follows it, in a cluster:
//! one whose birth is among the founders' has never lost its disk and takes its place; any other asks the leader to be
//! taken in. So whoever may have voted and forgotten never votes again under the same Raft id.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::time::sleep;
use tollgate_proto::peer::v1::IdentifyResponse;

use super::{
    Attempt, Shared,
    ask::identify,
    keeper::{join_at, join_request},
    memory::{self, Fit, Memory},
    standing::ask,
};
use crate::{
    ChangeError, FirstMember, Formation, StartError,
    identity::{DataDir, Founder, Id, Identity, Membership},
    node_of, raft_id,
    transport::{ANY_NODE, Peer, Peers, Target},
};

const ASK_TIMEOUT: Duration = Duration::from_secs(1);
const ASK_EVERY: Duration = Duration::from_millis(150);

/// How often it is said that peers are missing.
const SAY_EVERY: u32 = 40;

/// At a restart the peers are asked for their cluster, and not waited for.
const CHECK_TIMEOUT: Duration = Duration::from_millis(500);

pub(super) struct Former<'a> {
    pub(super) shared: &'a Arc<Shared>,
    pub(super) peers: &'a Peers,
    pub(super) formation: &'a Formation,
}

impl Former<'_> {
    /// Makes this node a member; what it is then is in `data`.
    pub(super) async fn form(&self, data: &mut DataDir) -> Result<(), StartError> {
        let identity = data.identity().clone();
        for round in 0u32.. {
            let answers = self.ask_all(ASK_TIMEOUT).await;
            if let Some(member) = self.decide(&identity, &answers).await? {
                data.become_member(member.clone())?;
                self.shared.set_member(member);
                return Ok(());
            }
            if round % SAY_EVERY == SAY_EVERY - 1 {
                let silent = answers.iter().filter(|(_, answer)| answer.is_none());
                let missing: Vec<_> = silent
                    .map(|(peer, _)| match self.peers.refusals().last(peer) {
                        Some(why) => format!("{peer}: {why}"),
                        None => format!("{peer}: no answer"),
                    })
                    .collect();
                tracing::info!(?missing, "waiting for peers to form a cluster");
            }
            sleep(ASK_EVERY.mul_f64(rand::random_range(0.7..1.3))).await;
        }
        Err(StartError::Stopped)
    }

    /// Asks the peers, at a restart, whether they still know this node as it knows itself. Who does not answer is not
    /// waited for.
    pub(super) async fn check(&self, data: &DataDir, memory: &Memory) -> Result<Fit, StartError> {
        let Some(member) = &data.identity().member else { return Ok(Fit::Unknown) };
        let answers = self.ask_all(CHECK_TIMEOUT).await;
        let answers: Vec<_> = answers.into_iter().filter_map(|(address, answer)| Some((address, answer?))).collect();
        for (_, IdentifyResponse { cluster, .. }) in &answers {
            if !cluster.is_empty() && cluster[..] != member.cluster {
                return Err(StartError::WrongCluster {
                    dir: data.path().to_owned(),
                    found: hex::encode(member.cluster),
                    expected: hex::encode(cluster),
                });
            }
        }
        let own = raft_id(data.identity().node, member.incarnation);
        let said = join_all(whom_to_ask(answers, member.cluster, own).iter().map(|one| ask(self.peers, one))).await;
        let fits: Vec<Fit> = said.into_iter().map(|said| memory.judge(said)).collect();
        let departed = fits.iter().find(|fit| matches!(fit, Fit::Departed(_)));
        let known = departed.or_else(|| fits.iter().find(|fit| **fit != Fit::Unknown));
        Ok(known.copied().unwrap_or(Fit::Unknown))
    }

    /// Whether there is nobody else to ask.
    pub(super) fn is_alone(&self) -> bool {
        let own = self.shared.identity().node;
        matches!(self.formation, Formation::Bootstrap(first) if first.iter().all(|first| first.node == own))
    }

    async fn decide(
        &self,
        identity: &Identity,
        answers: &[(String, Option<IdentifyResponse>)],
    ) -> Result<Option<Membership>, StartError> {
        let in_cluster = |answer: &&IdentifyResponse| !answer.cluster.is_empty();
        let mut members = answers.iter().filter_map(|(_, answer)| answer.as_ref()).filter(in_cluster).peekable();
        if members.peek().is_none() {
            return Ok(found(identity, self.formation, answers));
        }
        for member in members.clone() {
            if let Some(member) = take_place(identity, member) {
                return Ok(Some(member));
            }
        }
        for member in members {
            match self.join(identity, member).await {
                Attempt::Done((cluster, incarnation)) => {
                    tracing::info!(incarnation, "taken in by the cluster");
                    return Ok(Some(Membership { cluster, incarnation, founders: Vec::new() }));
                }
                Attempt::Refused(ChangeError::Invalid(reason)) => return Err(StartError::Refused(reason)),
                other => tracing::debug!(?other, "not taken in yet"),
            }
        }
        Ok(None)
    }

    /// Asks the leader that `member` knows of, or itself.
    async fn join(&self, identity: &Identity, member: &IdentifyResponse) -> Attempt<(Id, u16), ChangeError> {
        let peer = match member.leader_raft_id {
            0 => return Attempt::NotLeader,
            leader => Peer { node: node_of(leader), address: member.leader_peer.clone() },
        };
        join_at(self.peers, &peer, join_request(identity.node, 0, self.shared.info())).await
    }

    async fn ask_all(&self, within: Duration) -> Vec<(String, Option<IdentifyResponse>)> {
        let own = self.shared.identity();
        let peers: Vec<Peer> = match self.formation {
            Formation::Bootstrap(first) => {
                let others = first.iter().filter(|first| first.node != own.node);
                others.map(|FirstMember { node, peer }| Peer { node: *node, address: peer.clone() }).collect()
            }
            Formation::Join(addresses) => {
                let named = addresses.iter().map(|address| Peer { node: ANY_NODE, address: address.clone() });
                named.chain(self.shared.invited()).collect()
            }
        };
        join_all(peers.into_iter().map(|peer| async move {
            let answer = identify(self.peers, &peer, within).await;
            if let Err(error) = &answer {
                tracing::debug!(peer = %peer.address, %error, "no answer");
            }
            (peer.address, answer.ok())
        }))
        .await
    }
}

/// The leader, wherever it is, and then the members that answered, those first who have applied most: one that is behind
/// may not know yet that a node which was removed is back.
fn whom_to_ask(mut answers: Vec<(String, IdentifyResponse)>, cluster: Id, own: u64) -> Vec<Target> {
    answers.sort_by_key(|(_, answer)| std::cmp::Reverse(answer.applied_index));
    let others = answers.iter().filter(|(_, answer)| answer.raft_id != 0 && node_of(answer.raft_id) != node_of(own));
    let others = others.map(|(address, answer)| Target::new(cluster, own, answer.raft_id, address));
    memory::leader(answers.iter().map(|(_, answer)| answer), cluster, own).into_iter().chain(others).collect()
}

/// The place that the founder gave this node, if it has not lost its disk since.
fn take_place(identity: &Identity, member: &IdentifyResponse) -> Option<Membership> {
    let founders: Vec<Founder> = member
        .founders
        .iter()
        .map(|one| Some(Founder { node: one.node, birth: Id::try_from(one.birth.as_ref()).ok()? }))
        .collect::<Option<_>>()?;
    let place = Founder { node: identity.node, birth: identity.birth };
    let cluster = Id::try_from(member.cluster.as_ref()).ok()?;
    founders.contains(&place).then_some(Membership { cluster, incarnation: 1, founders })
}

/// A new cluster, if this node is the one to found it and all the others are there and empty.
fn found(
    identity: &Identity,
    formation: &Formation,
    answers: &[(String, Option<IdentifyResponse>)],
) -> Option<Membership> {
    let Formation::Bootstrap(first) = formation else { return None };
    if first.iter().any(|other| other.node < identity.node) {
        return None;
    }
    let mut founders = vec![Founder { node: identity.node, birth: identity.birth }];
    for (_, answer) in answers {
        let answer = answer.as_ref()?;
        founders.push(Founder { node: answer.node, birth: Id::try_from(answer.birth.as_ref()).ok()? });
    }
    founders.sort_by_key(|founder| founder.node);
    let mut hasher = blake3::Hasher::new();
    for founder in &founders {
        hasher.update(&founder.node.to_le_bytes()).update(&founder.birth);
    }
    let cluster = *hasher.finalize().as_bytes().first_chunk::<16>().expect("a hash has 32 bytes");
    Some(Membership { cluster, incarnation: 1, founders })
}

#[cfg(test)]
#[path = "form_tests.rs"]
mod tests;
