//! Membership changes that are asked for again, that would leave no majority, and that need a node to come.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tollgate_consensus::{Change, ChangeError, Consensus, Formation, ProposeError, Role, incarnation_of};

use crate::cluster::{Cluster, soon, until};

const USED: ChangeError = ChangeError::NotBegun(ProposeError::RequestIdUsed);

async fn with_a_learner(id: u64) -> Cluster {
    let mut cluster = Cluster::start(3).await;
    cluster.add(id).start().await;
    cluster
}

fn is_member(node: &Consensus, id: u64) -> bool {
    node.status().members.iter().any(|member| member.node == id)
}

async fn comes_back_empty(cluster: &mut Cluster, id: u64) {
    cluster.node(id).stop().await;
    cluster.node(id).wipe();
    cluster.node(id).start().await;
    assert_eq!(incarnation_of(cluster.node(id).get().status().raft_id), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_that_is_asked_for_again_gives_the_first_outcome_and_removes_nobody() {
    let mut cluster = with_a_learner(4).await;
    let (id, remove) = (Some([7; 16]), Change::Remove(4));
    let first = cluster.nodes[0].get().change(id, remove.clone(), soon()).await.unwrap();
    comes_back_empty(&mut cluster, 4).await;
    for restarted in [false, true] {
        if restarted {
            cluster.stop_all().await;
            cluster.start_all().await;
        }
        for on in 0..4 {
            assert_eq!(cluster.nodes[on].get().change(id, remove.clone(), soon()).await, Ok(first), "{restarted} {on}");
        }
        cluster.write(1, "a=1").await;
        cluster.check_everywhere("a", "1").await;
        assert!(cluster.running().all(|node| is_member(node.get(), 4)), "{restarted}");
    }
    // Under a new id it is another request.
    cluster.nodes[1].get().change(Some([8; 16]), remove, soon()).await.unwrap();
    assert!(!is_member(cluster.nodes[usize::try_from(cluster.leader().await).unwrap() - 1].get(), 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_whose_outcome_was_lost_is_known_by_the_incarnation_that_was_meant() {
    let mut cluster = with_a_learner(4).await;
    let leader = cluster.leader().await;
    let leader = cluster.node(leader).get().clone();
    let (id, remove) = (Some([7; 16]), Change::Remove(4));
    // Given up once the change is in the log: what it came to is not written down.
    let mut status = leader.watch();
    tokio::select! {
        biased;
        gone = status.wait_for(|status| status.members.iter().all(|member| member.node != 4)) => drop(gone.unwrap()),
        changed = leader.change(id, remove.clone(), soon()) => drop(changed.unwrap()),
    }
    comes_back_empty(&mut cluster, 4).await;
    let again = leader.change(id, remove.clone(), soon()).await.unwrap();
    assert_eq!(cluster.nodes[1].get().change(id, remove, soon()).await, Ok(again));
    assert!(is_member(&leader, 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_refused_is_not_done_later_to_a_node_that_was_not_meant() {
    let mut cluster = Cluster::start(3).await;
    let (id, remove) = (Some([7; 16]), Change::Remove(4));
    for come in [false, true] {
        if come {
            cluster.add(4).start().await;
        }
        let refused = cluster.nodes[0].get().change(id, remove.clone(), soon()).await;
        assert!(matches!(&refused, Err(ChangeError::Invalid(why)) if why == "node 4 is not a member"), "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_id_is_of_one_request_whatever_its_kind() {
    let mut cluster = with_a_learner(4).await;
    let leader = cluster.leader().await;
    let ask = async |cluster: &Cluster, id: u8, change: Change| {
        cluster.nodes[0].get().change(Some([id; 16]), change, soon()).await
    };
    let promoted = ask(&cluster, 1, Change::Promote(4)).await.unwrap();
    assert_eq!(ask(&cluster, 1, Change::Remove(4)).await, Err(USED));
    assert_eq!(ask(&cluster, 1, Change::Promote(3)).await, Err(USED));
    assert_eq!(ask(&cluster, 1, Change::Promote(4)).await, Ok(promoted));

    let propose = async |cluster: &Cluster, id: u8| {
        cluster.nodes[1].get().propose(Some([id; 16]), Bytes::from_static(b"a=1"), soon()).await
    };
    propose(&cluster, 2).await.unwrap();
    assert_eq!(ask(&cluster, 2, Change::Transfer(None)).await, Err(USED));
    assert_eq!(cluster.leader().await, leader);
    assert_eq!(propose(&cluster, 1).await, Err(ProposeError::RequestIdUsed));
    cluster.stop_all().await;
    cluster.start_all().await;
    assert_eq!(ask(&cluster, 1, Change::Remove(4)).await, Err(USED));
    assert!(is_member(cluster.nodes[0].get(), 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_is_handed_over_once_under_one_request_id() {
    let cluster = Cluster::start(3).await;
    for (id, named) in [(1u8, false), (2, true)] {
        let first = cluster.leader().await;
        let to = named.then_some(first % 3 + 1);
        let ask = async |on: usize| cluster.nodes[on].get().change(Some([id; 16]), Change::Transfer(to), soon()).await;
        let changed = ask(0).await.unwrap();
        assert_ne!(changed.leader, first);
        assert!(to.is_none_or(|to| to == changed.leader));
        cluster.nodes[0].get().transfer_leader(Some(first), soon()).await.unwrap();
        until("all agree", || cluster.running().all(|node| node.get().status().leader == Some(first))).await;
        for on in 0..3 {
            assert_eq!(ask(on).await, Ok(changed));
        }
        assert_eq!(cluster.leader().await, first);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_would_leave_no_majority_is_refused() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let (alive, dead) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    cluster.node(dead).stop().await;
    for asked in [leader, alive] {
        let refused = cluster.node(asked).get().remove(alive, soon()).await.unwrap_err().to_string();
        assert!(refused.contains(&format!("of which node {dead} can't be reached")), "{refused}");
    }
    cluster.write(alive, "a=1").await;
    cluster.node(leader).get().remove(dead, soon()).await.unwrap();
    cluster.node(leader).get().remove(alive, soon()).await.unwrap();

    // A learner that has died does not get the vote that would be missing then.
    cluster.node(alive).stop().await;
    cluster.add(4).start().await;
    cluster.write(leader, "a=2").await;
    cluster.check_everywhere("a", "2").await;
    cluster.node(4).stop().await;
    let refused = cluster.node(leader).get().promote(4, soon()).await.unwrap_err().to_string();
    assert!(refused.contains("of which node 4 can't be reached"), "{refused}");
    cluster.write(leader, "a=3").await;
    cluster.node(4).start().await;
    cluster.node(leader).get().promote(4, soon()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_is_added_again_only_where_it_is() {
    let cluster = Cluster::start(3).await;
    let there = cluster.nodes[1].address.clone();
    let add = async |peer: &str| cluster.nodes[0].get().add_learner(2, peer.to_owned(), soon()).await;
    add(&there).await.unwrap();
    add(&there.replace("127.0.0.1", "localhost")).await.unwrap();
    for elsewhere in ["127.0.0.1:1", &cluster.nodes[2].address] {
        let refused = add(elsewhere).await.unwrap_err().to_string();
        assert!(refused.starts_with(&format!("node 2 is a member already, a voter at {there}, and")), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_knows_nobody_who_is_there_is_invited() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let leader = cluster.node(leader).get().clone();
    let node = cluster.add(4);
    node.formation = Formation::Join(vec!["127.0.0.1:1".into()]);
    let address = node.address.clone();
    let ((), added) = tokio::join!(node.start(), leader.add_learner(4, address, soon()));
    added.unwrap();
    assert_eq!(cluster.node(4).get().status().role, Role::Learner);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_does_not_listen_yet_is_waited_for() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let leader = cluster.node(leader).get().clone();
    let node = cluster.add(4);
    node.release_port();
    let address = node.address.clone();
    let early = leader.add_learner(4, address.clone(), Instant::now() + Duration::from_millis(300)).await;
    assert!(matches!(&early, Err(ChangeError::NotYet(why)) if why.contains("does not answer at")), "{early:?}");
    let (added, ()) = tokio::join!(leader.add_learner(4, address, soon()), node.start());
    added.unwrap();
}
