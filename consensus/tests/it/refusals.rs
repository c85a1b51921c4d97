//! Who is not let in.

use std::time::Duration;

use rcgen::CertificateParams;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tollgate_consensus::{Formation, StartError};

use crate::cluster::{Authority, Cluster, LONG};

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_on_a_data_directory_is_refused() {
    let mut cluster = Cluster::start(1).await;
    let (dir, tls) = (cluster.nodes[0].dir.clone(), cluster.nodes[0].tls.clone());
    let twin = cluster.add(1);
    (twin.dir, twin.tls) = (dir, tls);
    assert!(matches!(twin.try_start().await, Err(StartError::Locked(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_of_another_node_is_refused() {
    let mut cluster = Cluster::start(1).await;
    cluster.node(1).stop().await;
    let dir = cluster.nodes[0].dir.clone();
    let other = cluster.add(2);
    other.dir = dir;
    let refused = other.try_start().await.unwrap_err();
    assert!(matches!(refused, StartError::WrongNode { found: 1, expected: 2, .. }), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_of_another_cluster_is_refused() {
    let mut here = Cluster::start(2).await;
    here.node(2).stop().await;
    let mut there = Cluster::new(2);
    // The other cluster, under the same authority, so that they can talk at all.
    for id in [1, 2] {
        there.node(id).tls = here.authority.node(id);
    }
    there.start_all().await;
    let dir = there.node(2).dir.clone();
    there.node(2).stop().await;
    here.node(2).dir = dir;
    let refused = here.node(2).try_start().await.unwrap_err();
    assert!(matches!(refused, StartError::WrongCluster { .. }), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_runs_already_is_not_replaced_by_another_of_its_id() {
    let mut cluster = Cluster::start(3).await;
    let twin = cluster.add(3);
    twin.dir = twin.dir.with_file_name("twin");
    let refused = tokio::time::timeout(LONG, twin.try_start()).await.unwrap().unwrap_err();
    assert!(refused.to_string().contains("node 3 runs already"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_another_node_or_one_that_has_expired_is_refused_at_the_start() {
    let mut cluster = Cluster::new(1);
    cluster.nodes[0].tls = cluster.authority.node(2);
    let refused = cluster.nodes[0].try_start().await.unwrap_err();
    assert!(refused.to_string().contains("is no certificate for node 1"), "{refused}");

    let mut expired = CertificateParams::new(vec!["node-1.tollgate.internal".to_owned()]).unwrap();
    expired.not_after = rcgen::date_time_ymd(2020, 1, 1);
    cluster.nodes[0].tls = cluster.authority.issue("expired", expired);
    let refused = cluster.nodes[0].try_start().await.unwrap_err();
    assert!(refused.to_string().to_lowercase().contains("expired"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_a_foreign_authority_gets_nowhere() {
    let mut cluster = Cluster::start(1).await;
    let foreign = Authority::new();
    let stranger = cluster.add(4);
    stranger.tls = foreign.node(4);
    let waited = tokio::time::timeout(Duration::from_secs(1), stranger.try_start()).await;
    assert!(waited.is_err(), "it must not have found a cluster");
    assert_eq!(cluster.nodes[0].get().status().members.len(), 1);
    cluster.write(1, "a=1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_the_peer_port_hurts_nobody() {
    let cluster = Cluster::start(1).await;
    for n in 0..200u32 {
        let mut socket = TcpStream::connect(&cluster.nodes[0].address).await.unwrap();
        let garbage: Vec<u8> = (0..n * 7).map(|at| (at * 31 + n).to_le_bytes()[0]).collect();
        let _ = socket.write_all(&garbage).await;
        if n % 3 == 0 {
            let _ = socket.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
            let mut answer = [0; 64];
            let _ = tokio::time::timeout(Duration::from_millis(20), socket.read(&mut answer)).await;
        }
    }
    cluster.write(1, "a=1").await;
    cluster.check_everywhere("a", "1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_cannot_be_are_refused() {
    let mut cluster = Cluster::new(1);
    let node = &mut cluster.nodes[0];
    node.id = 5;
    assert!(matches!(node.try_start().await, Err(StartError::Config(_))));
    node.formation = Formation::Join(Vec::new());
    assert!(matches!(node.try_start().await, Err(StartError::Config(_))));
    node.id = 0;
    assert!(matches!(node.try_start().await, Err(StartError::Config(_))));
}
