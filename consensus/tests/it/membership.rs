//! Nodes that come, go, and come back with nothing.

use std::time::{Duration, Instant};

use tollgate_consensus::{ChangeError, Formation, Role, StartError, incarnation_of};

use crate::cluster::{Cluster, LONG, soon, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_later_member_learns_and_then_votes() {
    let mut cluster = Cluster::start(3).await;
    cluster.write(1, "a=1").await;
    cluster.add(4).start().await;
    let four = cluster.nodes[3].get().clone();
    let address = cluster.nodes[3].address.clone();
    cluster.nodes[0].get().add_learner(4, address, soon()).await.unwrap();
    cluster.check_everywhere("a", "1").await;
    assert_eq!(four.status().role, Role::Learner);
    cluster.nodes[1].get().promote(4, soon()).await.unwrap();
    until("it votes", || four.status().role != Role::Learner).await;
    cluster.write(4, "a=2").await;
    cluster.check_everywhere("a", "2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_are_removed_dead_or_alive_and_never_the_last_voter() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let dead = cluster.follower().await;
    cluster.node(dead).stop().await;
    let rest = 6 - leader - dead;
    cluster.node(rest).get().clone().remove(dead, soon()).await.unwrap();
    // The leader itself: it hands over, and the next one removes it.
    cluster.node(rest).get().clone().remove(leader, soon()).await.unwrap();
    let last = cluster.node(rest).get().clone();
    until("one is left", || last.status().members.len() == 1).await;
    assert!(matches!(last.remove(rest, soon()).await, Err(ChangeError::Invalid(_))));
    assert!(matches!(last.remove(77, soon()).await, Err(ChangeError::Invalid(_))));
    cluster.node(leader).stop().await;
    cluster.write(rest, "a=1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_node_comes_back_as_another_incarnation_and_votes_once_it_has_caught_up() {
    let mut cluster = Cluster::start(3).await;
    cluster.write(1, "a=1").await;
    for round in 2..=3u16 {
        let wiped = cluster.follower().await;
        let before = cluster.node(wiped).get().status().raft_id;
        cluster.node(wiped).stop().await;
        cluster.node(wiped).wipe();
        cluster.node(wiped).start().await;
        let back = cluster.node(wiped).get().clone();
        assert_eq!(incarnation_of(back.status().raft_id), incarnation_of(before) + 1);
        until("its old self is gone and it votes", || {
            let status = back.status();
            status.members.len() == 3
                && status.members.iter().all(|member| member.voter)
                && status.role != Role::Learner
        })
        .await;
        cluster.write(wiped, &format!("a={round}")).await;
        cluster.check_everywhere("a", &round.to_string()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lost_only_its_log_is_as_good_as_wiped() {
    let mut cluster = Cluster::start(3).await;
    cluster.write(1, "a=1").await;
    let wiped = cluster.follower().await;
    cluster.node(wiped).stop().await;
    std::fs::remove_dir_all(cluster.node(wiped).dir.join("log")).unwrap();
    cluster.node(wiped).start().await;
    assert_eq!(incarnation_of(cluster.node(wiped).get().status().raft_id), 2);
    cluster.check_everywhere("a", "1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_does_not_come_is_not_waited_for_beyond_the_deadline() {
    let cluster = Cluster::start(1).await;
    let deadline = Instant::now() + Duration::from_millis(300);
    let refused = cluster.nodes[0].get().add_learner(9, "127.0.0.1:1".into(), deadline).await.unwrap_err();
    assert!(refused.to_string().contains("node 9 does not answer at 127.0.0.1:1"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_removed_learns_it_and_nobody_else_does() {
    let mut cluster = Cluster::start(3).await;
    cluster.add(4).start().await;
    cluster.nodes[0].get().promote(4, soon()).await.unwrap();
    // One that is cut off meanwhile is behind afterwards, and a member all the same.
    let behind = cluster.follower().await % 3 + 1;
    let behind = if behind == cluster.leader().await { behind % 3 + 1 } else { behind };
    cluster.node(behind).stop().await;
    let asked = cluster.leader().await;
    cluster.node(asked).get().clone().remove(4, soon()).await.unwrap();
    let four = cluster.node(4).get().clone();
    let removed = tokio::time::timeout(LONG, four.removed()).await.expect("it learns that it was removed");
    assert_eq!((removed.node, &removed.dir), (4, &cluster.node(4).dir));
    // What it has in flight can still be settled.
    four.propose(None, bytes::Bytes::from_static(b"a=1"), soon()).await.unwrap();

    cluster.node(4).stop().await;
    let refused = tokio::time::timeout(LONG, cluster.node(4).try_start()).await.expect("in time").unwrap_err();
    assert!(matches!(refused, StartError::Removed(_)), "{refused}");
    assert!(refused.to_string().contains("node 4 was removed from the cluster"), "{refused}");

    // Nobody that it asks at the start knows better: it finds out as it runs.
    let formation = cluster.node(4).formation.clone();
    cluster.node(4).formation = Formation::Join(vec!["127.0.0.1:1".into()]);
    cluster.node(4).start().await;
    let four = cluster.node(4).get().clone();
    tokio::time::timeout(LONG, four.removed()).await.expect("it learns that it was removed");
    cluster.node(4).stop().await;

    cluster.node(behind).start().await;
    cluster.check_everywhere("a", "1").await;
    let wait = Duration::from_secs(3);
    for node in cluster.running() {
        assert!(tokio::time::timeout(wait, node.get().removed()).await.is_err(), "node {} was not removed", node.id);
    }

    // Emptied, it comes in again.
    cluster.node(4).formation = formation;
    cluster.node(4).wipe();
    cluster.node(4).start().await;
    let four = cluster.node(4).get().clone();
    assert_eq!(incarnation_of(four.status().raft_id), 2);
    assert!(tokio::time::timeout(wait, four.removed()).await.is_err());
    cluster.check_everywhere("a", "1").await;
}
