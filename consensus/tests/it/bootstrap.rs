//! How a cluster comes to be.

use std::time::Duration;

use crate::cluster::{Cluster, LONG, until};

#[tokio::test(flavor = "multi_thread")]
async fn one_node_is_a_cluster() {
    let cluster = Cluster::start(1).await;
    cluster.write(1, "a=1").await;
    cluster.check_everywhere("a", "1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn first_members_may_start_in_any_order_and_nobody_begins_without_the_last() {
    let mut cluster = Cluster::new(3);
    let mut last = cluster.nodes.remove(0);
    let mut others: Vec<_> = cluster.nodes.drain(..).collect();
    let mut starting = Box::pin(futures_util::future::join_all(others.iter_mut().map(|node| node.start())));
    assert!(tokio::time::timeout(Duration::from_secs(1), &mut starting).await.is_err(), "began without node 1");
    let both = futures_util::future::join(last.start(), starting);
    tokio::time::timeout(LONG, both).await.unwrap();
    cluster.nodes.push(last);
    cluster.nodes.extend(others);
    cluster.write(2, "a=1").await;
    cluster.check_everywhere("a", "1").await;
    let ids: Vec<_> = cluster.nodes.iter().map(|node| node.get().status().cluster).collect();
    assert!(ids.iter().all(|id| *id == ids[0] && !id.is_empty()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_member_that_gave_up_while_it_waited_takes_its_place_later() {
    let mut cluster = Cluster::new(3);
    // Node 3 shows itself, and is stopped before or while the others begin.
    for wait in [50, 300, 700] {
        let given_up = tokio::time::timeout(Duration::from_millis(wait), cluster.nodes[2].try_start()).await;
        assert!(given_up.is_err());
    }
    let (first, last) = cluster.nodes.split_at_mut(2);
    let (one, two) = first.split_at_mut(1);
    futures_util::future::join3(one[0].start(), two[0].start(), last[0].start()).await;
    cluster.leader().await;
    let raft_ids: Vec<_> = cluster.nodes.iter().map(|node| node.get().status().raft_id).collect();
    assert_eq!(raft_ids, [1 << 16 | 1, 2 << 16 | 1, 3 << 16 | 1]);
    cluster.write(3, "a=1").await;
    cluster.check_everywhere("a", "1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_member_may_restart_right_after_the_founding() {
    let mut cluster = Cluster::new(3);
    cluster.start_all().await;
    for id in [1, 2, 3, 1] {
        cluster.node(id).stop().await;
        cluster.node(id).start().await;
    }
    cluster.leader().await;
    cluster.write(1, "a=1").await;
    cluster.check_everywhere("a", "1").await;
    until("three members", || cluster.nodes[0].get().status().members.len() == 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_are_told_of_each_other() {
    let cluster = Cluster::start(3).await;
    until("every node knows every address", || {
        cluster.running().all(|node| {
            let members = node.get().status().members;
            members.iter().map(|member| member.zone.clone()).collect::<Vec<_>>() == ["az-1", "az-2", "az-3"]
                && members.iter().all(|member| member.voter && !member.http.is_empty() && !member.admin.is_empty())
        })
    })
    .await;
}
