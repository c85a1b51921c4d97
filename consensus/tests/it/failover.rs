//! Leaders that go.

use std::time::Duration;

use tollgate_consensus::Role;

use crate::cluster::{Cluster, soon, until};

#[tokio::test(flavor = "multi_thread")]
async fn writes_go_on_when_the_leader_stops() {
    let mut cluster = Cluster::start(3).await;
    for round in 0..3 {
        let leader = cluster.leader().await;
        cluster.node(leader).stop().await;
        let on = cluster.running().next().unwrap().id;
        cluster.write(on, &format!("k={round}")).await;
        cluster.check_everywhere("k", &round.to_string()).await;
        cluster.node(leader).start().await;
        cluster.check_everywhere("k", &round.to_string()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_goes_where_it_is_sent() {
    let cluster = Cluster::start(3).await;
    for to in [2, 3, 1, 1] {
        let asked = 1 + to % 3;
        let node = cluster.nodes.iter().find(|node| node.id == asked).unwrap();
        assert_eq!(node.get().transfer_leader(Some(to), soon()).await.unwrap(), to);
        assert_eq!(cluster.leader().await, to);
    }
    assert_eq!(cluster.nodes[0].get().status().role, Role::Leader);
    let refused = cluster.nodes[0].get().transfer_leader(Some(9), soon()).await.unwrap_err();
    assert_eq!(refused.to_string(), "node 9 is not a member");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_leader_hands_over_first() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let other = cluster.follower().await;
    let term = cluster.node(other).get().status().term;
    cluster.node(leader).stop().await;
    // With the lease of the old leader still running, only a hand-over makes a new one so soon.
    let node = cluster.nodes.iter().find(|node| node.id == other).unwrap();
    let status = node.get().status();
    assert!(status.leader.is_some_and(|now| now != leader) || status.term > term, "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_alone_says_who_led_no_more() {
    let mut cluster = Cluster::start(3).await;
    cluster.node(2).stop().await;
    cluster.node(3).stop().await;
    let statuses = cluster.nodes[0].get().members_status(std::time::Instant::now() + Duration::from_millis(500)).await;
    let live: Vec<_> = statuses.iter().filter(|status| status.live.is_some()).map(|s| s.member.node).collect();
    assert_eq!(live, [1]);
    until("it is listed", || cluster.nodes[0].get().status().members.len() == 3).await;
}
