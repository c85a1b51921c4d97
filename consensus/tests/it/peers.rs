//! What nodes ask each other beside Raft.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tollgate_consensus::CallError;

use crate::cluster::{Cluster, soon, until};

#[tokio::test(flavor = "multi_thread")]
async fn every_member_says_how_it_is() {
    let mut cluster = Cluster::start(3).await;
    cluster.write(1, "a=1").await;
    let gone = cluster.follower().await;
    cluster.node(gone).stop().await;
    let asked = cluster.running().next().unwrap().get().clone();
    let statuses = asked.members_status(Instant::now() + Duration::from_secs(2)).await;
    assert_eq!(statuses.len(), 3);
    for status in statuses {
        assert_eq!(status.live.is_some(), status.member.node != gone);
        if let Some(live) = status.live {
            assert_eq!((live.local.state.as_str(), live.local.served_index), ("ready", status.member.node));
            assert_eq!(live.version, "test");
            assert!(live.log_bytes > 0 && !live.log_full);
            assert!(live.applied_index > 0 && live.last_log_index >= live.applied_index && live.term > 0);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_reaches_its_handler_and_an_error_comes_back() {
    let cluster = Cluster::start(3).await;
    until("members are known", || cluster.nodes[0].get().status().members.len() == 3).await;
    let one = cluster.nodes[0].get();
    for to in 1..=3 {
        let answer = one.call(to, "hello", Bytes::from_static(b"hi"), soon()).await.unwrap();
        assert_eq!(answer, format!("{to} hears 1: hi"));
        let failed = one.call(to, "hello", Bytes::new(), soon()).await.unwrap_err();
        assert_eq!(failed, CallError::Failed { node: to, message: "nothing was said".into() });
        assert!(matches!(one.call(to, "none", Bytes::new(), soon()).await, Err(CallError::Failed { .. })));
    }
    assert_eq!(one.call(9, "hello", Bytes::new(), soon()).await, Err(CallError::NotAMember(9)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_peer_is_not_dialled_without_a_pause() {
    const DIALS: usize = 60;
    let mut cluster = Cluster::start(3).await;
    let gone = cluster.follower().await;
    cluster.node(gone).stop().await;
    let address = cluster.node(gone).address.clone();
    // Where the node was, whoever dials is hung up on.
    let listener = tokio::net::TcpListener::bind(&address).await.unwrap();
    let leader = cluster.leader().await;
    cluster.write(leader, "a=1").await;
    let begun = Instant::now();
    for _ in 0..DIALS {
        drop(listener.accept().await.unwrap());
    }
    // Without a pause it is some ten thousand a second; heartbeats and attempts that wait longer each time are some thirty.
    assert!(begun.elapsed() > Duration::from_millis(500), "{DIALS} dials in {:?}", begun.elapsed());
}
