//! Writes and reads through any node.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tollgate_consensus::{Config, ProposeError, ReadError};

use crate::cluster::{Cluster, soon, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_write_through_any_node_is_read_on_every_node() {
    let cluster = Cluster::start(3).await;
    for id in 1..=3 {
        cluster.write(id, &format!("k{id}=v{id}")).await;
        cluster.check_everywhere(&format!("k{id}"), &format!("v{id}")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_writes_at_once_all_get_their_own_outcome() {
    let cluster = Cluster::start(3).await;
    let follower = cluster.follower().await;
    let writes = (0..200).map(|n| {
        let cluster = &cluster;
        async move { cluster.write(if n % 2 == 0 { follower } else { 1 }, &format!("k{n}=v")).await }
    });
    let outcomes = futures_util::future::join_all(writes).await;
    let mut counts: Vec<u64> =
        outcomes.iter().map(|(_, outcome)| outcome.split(' ').nth(1).unwrap().parse().unwrap()).collect();
    counts.sort_unstable();
    assert_eq!(counts, (1..=200).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_request_id_gives_the_first_outcome_on_any_node_and_after_a_restart() {
    let mut cluster = Cluster::start(3).await;
    let propose = async |cluster: &Cluster, on: usize, command: &'static str| {
        cluster.nodes[on].get().propose(Some([7; 16]), Bytes::from_static(command.as_bytes()), soon()).await.unwrap()
    };
    let first = propose(&cluster, 0, "a=1").await;
    assert_eq!(propose(&cluster, 1, "a=1").await, first);
    cluster.write(2, "a=2").await;
    cluster.stop_all().await;
    cluster.start_all().await;
    assert_eq!(propose(&cluster, 2, "a=1").await, first);
    cluster.check_everywhere("a", "2").await;
    cluster.check_everywhere("count", "2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_id_that_comes_with_another_command_is_refused_on_any_node_and_after_a_restart() {
    let mut cluster = Cluster::start(3).await;
    let propose = async |cluster: &Cluster, on: usize, command: &'static str| {
        cluster.nodes[on].get().propose(Some([7; 16]), Bytes::from_static(command.as_bytes()), soon()).await
    };
    let first = propose(&cluster, 0, "a=1").await.unwrap();
    for restarted in [false, true] {
        if restarted {
            cluster.stop_all().await;
            cluster.start_all().await;
        }
        for on in 0..3 {
            assert_eq!(propose(&cluster, on, "a=2").await, Err(ProposeError::RequestIdUsed), "{restarted}");
            assert_eq!(propose(&cluster, on, "a=1").await.as_ref(), Ok(&first), "{restarted}");
        }
    }
    cluster.check_everywhere("a", "1").await;
    cluster.check_everywhere("count", "1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_quorum_a_write_is_unknown_or_had_no_leader_and_its_retry_is_applied_once() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    for id in &others {
        cluster.node(*id).stop().await;
    }
    let alone = cluster.node(leader).get().clone();
    let id = Some([9; 16]);
    let command = Bytes::from_static(b"a=1");
    let failed = alone.propose(id, command.clone(), Instant::now() + Duration::from_millis(700)).await.unwrap_err();
    assert!(matches!(failed, ProposeError::Unknown(_) | ProposeError::NoLeader), "{failed}");
    let read = alone.read_barrier(Instant::now() + Duration::from_millis(300)).await.unwrap_err();
    assert_eq!(read, ReadError::NoQuorum);
    for id in &others {
        cluster.node(*id).start().await;
    }
    let first = alone.propose(id, command.clone(), soon()).await.unwrap();
    let again = cluster.node(others[0]).get().propose(id, command, soon()).await.unwrap();
    assert_eq!(first, again);
    cluster.check_everywhere("count", "1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_is_too_large_is_refused_and_one_that_is_large_is_not() {
    let cluster = Cluster::start(3).await;
    let follower = cluster.follower().await;
    let node = cluster.nodes.iter().find(|node| node.id == follower).unwrap();
    let large = |len: usize| Bytes::from([b"large=".as_slice(), &vec![b'x'; len]].concat());
    let refused = node.get().propose(None, large(Config::MAX_COMMAND_BYTES), soon()).await.unwrap_err();
    assert!(matches!(refused, ProposeError::TooLarge { .. }));
    node.get().propose(None, large(Config::MAX_COMMAND_BYTES - 6), soon()).await.unwrap();
    cluster.check_everywhere("count", "1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_acknowledged_is_there_after_all_have_stopped() {
    let mut cluster = Cluster::start(3).await;
    for n in 0..50 {
        cluster.write(1 + n % 3, &format!("k={n}")).await;
    }
    for _ in 0..2 {
        cluster.stop_all().await;
        assert!(cluster.nodes[0].value("k").is_none());
        cluster.start_all().await;
        cluster.check_everywhere("k", "49").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn log_time_never_goes_back_across_leaders() {
    let cluster = Cluster::start(3).await;
    let mut last = 0;
    for n in 0..4 {
        let (_, outcome) = cluster.write(1, "a=b").await;
        let time: u64 = outcome.split(' ').next().unwrap().parse().unwrap();
        assert!(time >= last, "round {n}");
        last = time;
        cluster.nodes[0].get().transfer_leader(None, soon()).await.ok();
        until("a leader", || cluster.nodes[0].get().status().leader.is_some()).await;
    }
}
