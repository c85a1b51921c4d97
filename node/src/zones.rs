//! Makes what the log says of drained zones so on this node: endpoints there get no new requests, a node there is unready and
//! tells its callers to go elsewhere, and does not lead where another can.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tollgate_admin::DrainedZones;
use tollgate_consensus::{Change, Consensus, Live, MemberStatus, Role, Status};
use tollgate_gateway::Gateway;
use tollgate_model::Name;
use tracing::{info, warn};

use crate::backplane::NodeBackplane;

/// Between two looks at who leads, while this node's zone is drained.
const LOOK: Duration = Duration::from_millis(500);
/// For the other nodes to say how they are.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(5);
/// State of a member that gets traffic.
const READY: &str = "ready";

/// Serves by the zones that are drained now.
pub(crate) fn apply(zones: &DrainedZones, own: &str, gateway: &Gateway, backplane: &NodeBackplane) {
    gateway.set_drained(zones.names().map(Name::new).collect());
    backplane.set_zone_drained(zones.is_drained(own).then_some(own));
}

/// The same for every later change, until the state's owner is gone.
pub(crate) async fn follow(
    mut zones: watch::Receiver<Arc<DrainedZones>>,
    own: String,
    gateway: Gateway,
    backplane: Arc<NodeBackplane>,
) {
    zones.mark_changed(); // what came since the first look
    while zones.changed().await.is_ok() {
        let now = Arc::clone(&zones.borrow_and_update());
        let (gateway, backplane, own) = (gateway.clone(), Arc::clone(&backplane), own.clone());
        // A configuration may be compiled just now, which is waited for.
        let applied = tokio::task::spawn_blocking(move || apply(&now, &own, &gateway, &backplane)).await;
        if let Err(error) = applied {
            warn!(%error, "drained zones were not applied: the former ones stay in force");
        }
    }
}

/// Hands leadership over while this node's zone is drained and another voter may get traffic.
pub(crate) async fn hand_over(mut zones: watch::Receiver<Arc<DrainedZones>>, own: String, consensus: Consensus) {
    loop {
        let drained = Arc::clone(&zones.borrow_and_update());
        if !drained.is_drained(&own) {
            if zones.changed().await.is_err() {
                return;
            }
            continue;
        }
        lead_elsewhere(&drained, &consensus, "its zone is drained").await;
        // Whoever is elected next may be of this zone again.
        sleep(LOOK).await;
    }
}

/// Hands leadership over, if this node leads and a voter that gets traffic can.
pub(crate) async fn lead_elsewhere(drained: &DrainedZones, consensus: &Consensus, why: &str) {
    if consensus.status().role != Role::Leader {
        return;
    }
    let members = consensus.members_status((Instant::now() + ASK_TIMEOUT).into_std()).await;
    let Some(to) = successor(&members, &consensus.status(), drained) else { return };
    let deadline = Instant::now() + HAND_OVER_TIMEOUT;
    match consensus.change(None, Change::Transfer(Some(to)), deadline.into_std()).await {
        Ok(_) => info!(to, why, "leadership was handed over"),
        Err(error) => warn!(to, why, %error, "leadership was not handed over"),
    }
}

/// The voter that has the most of the log, among those that get traffic in zones that are not drained.
fn successor(members: &[MemberStatus], own: &Status, drained: &DrainedZones) -> Option<u64> {
    let fit =
        |it: &&MemberStatus| it.member.voter && it.member.node != own.node && !drained.is_drained(&it.member.zone);
    let ready = |live: &Live| live.local.state == READY;
    let candidates = members.iter().filter(fit).filter(|it| it.live.as_ref().is_some_and(ready));
    candidates.max_by_key(|it| it.live.as_ref().map(|live| live.last_log_index)).map(|it| it.member.node)
}

#[cfg(test)]
mod tests {
    use tollgate_consensus::{Local, Member};
    use tollgate_model::Timestamp;
    use tollgate_proto::state::v1::ZoneChange;

    use super::*;

    fn member(node: u64, zone: &str, voter: bool, live: Option<(&str, u64)>) -> MemberStatus {
        let local = |state: &str| Local { state: state.to_owned(), ..Local::default() };
        let live = live.map(|(state, last_log_index)| Live { last_log_index, local: local(state), ..Live::default() });
        MemberStatus { member: Member { node, zone: zone.to_owned(), voter, ..Member::default() }, live }
    }

    #[test]
    fn leadership_goes_to_a_ready_voter_of_another_zone_with_the_most_of_the_log() {
        let mut drained = DrainedZones::default();
        let of_nodes = vec!["b".to_owned()];
        let change = ZoneChange { zone: "a".to_owned(), drained: true, of_nodes, ..ZoneChange::default() };
        assert!(drained.apply(Timestamp(1), &change, &mut Vec::new()).changed);
        let own = Status { node: 1, ..Status::default() };
        let mut members = vec![
            member(1, "a", true, Some(("draining", 9))),
            member(2, "a", true, Some(("ready", 9))),
            member(3, "b", false, Some(("ready", 9))),
            member(4, "b", true, None),
            member(5, "b", true, Some(("draining", 9))),
        ];
        assert_eq!(successor(&members, &own, &drained), None);
        members.push(member(6, "b", true, Some(("ready", 7))));
        members.push(member(7, "c", true, Some(("ready", 8))));
        assert_eq!(successor(&members, &own, &drained), Some(7));
    }
}
