//! Snapshots: made, kept, sent, damaged.

use std::{fs, path::PathBuf, time::Duration};

use tollgate_consensus::{SnapshotPolicy, StartError, incarnation_of};

use crate::cluster::{Cluster, LONG, until};

const OFTEN: SnapshotPolicy =
    SnapshotPolicy { log_bytes: 20_000, interval: Duration::from_secs(3600), keep_entries: 10 };

async fn cluster_with_snapshots() -> Cluster {
    let mut cluster = Cluster::new(3);
    for node in &mut cluster.nodes {
        node.snapshots = OFTEN;
    }
    cluster.start_all().await;
    fill(&cluster, 0).await;
    until("all have a snapshot and a shorter log", || {
        cluster.running().all(|node| {
            let status = node.get().status();
            status.snapshot_index > 0 && status.purged_index > 0
        })
    })
    .await;
    cluster
}

/// Enough for some snapshots.
async fn fill(cluster: &Cluster, round: u32) {
    let value = "x".repeat(200);
    for batch in 0..3 {
        let writes = (0..100).map(|n| {
            let command = format!("k{round}-{batch}-{n}={value}");
            async move { cluster.write(1, &command).await }
        });
        futures_util::future::join_all(writes).await;
    }
    cluster.write(1, &format!("round={round}")).await;
}

fn snapshot_files(dir: &std::path::Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(dir.join("snapshots")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "snap"));
    files
}

fn damage_snapshots(dir: &std::path::Path) {
    for file in snapshot_files(dir) {
        let mut bytes = fs::read(&file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 4;
        fs::write(&file, bytes).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_follower_is_filled_by_a_snapshot() {
    let mut cluster = cluster_with_snapshots().await;
    let wiped = cluster.follower().await;
    cluster.node(wiped).stop().await;
    cluster.node(wiped).wipe();
    cluster.node(wiped).start().await;
    cluster.check_everywhere("round", "0").await;
    cluster.check_everywhere("count", "301").await;
    assert!(!snapshot_files(&cluster.node(wiped).dir).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_newest_is_kept_and_it_survives_a_restart() {
    let mut cluster = cluster_with_snapshots().await;
    let before = cluster.nodes[0].get().status().snapshot_index;
    fill(&cluster, 1).await;
    until("a newer one", || cluster.nodes[0].get().status().snapshot_index > before).await;
    assert_eq!(snapshot_files(&cluster.nodes[0].dir).len(), 1);
    let newest = cluster.nodes[0].get().status().snapshot_index;
    cluster.stop_all().await;
    fs::remove_dir_all(cluster.nodes[0].dir.join("state")).unwrap();
    cluster.start_all().await;
    assert!(cluster.nodes[0].get().status().snapshot_index >= newest);
    cluster.check_everywhere("round", "1").await;
    cluster.check_everywhere("count", "602").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_snapshot_is_never_sent_and_made_anew() {
    let mut cluster = cluster_with_snapshots().await;
    // On every node, as any may lead.
    for node in &cluster.nodes {
        damage_snapshots(&node.dir);
    }
    cluster.add(4).start().await;
    cluster.check_everywhere("round", "0").await;
    cluster.check_everywhere("count", "301").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_dies_in_the_middle_begins_again() {
    let mut cluster = cluster_with_snapshots().await;
    cluster.add(4);
    for wait in [20, 60, 120] {
        let _ = tokio::time::timeout(Duration::from_millis(wait), cluster.nodes[3].try_start()).await;
    }
    cluster.nodes[3].start().await;
    fs::write(cluster.nodes[3].dir.join("snapshots/77.tmp"), "half").unwrap();
    cluster.nodes[3].stop().await;
    cluster.nodes[3].start().await;
    assert!(!cluster.nodes[3].dir.join("snapshots/77.tmp").exists());
    cluster.check_everywhere("count", "301").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_has_neither_state_nor_snapshot_for_its_log_fetches_them_from_the_others() {
    let mut cluster = cluster_with_snapshots().await;
    let damaged = cluster.follower().await;
    cluster.node(damaged).stop().await;
    let dir = cluster.node(damaged).dir.clone();
    damage_snapshots(&dir);
    fs::remove_dir_all(dir.join("state")).unwrap();
    cluster.node(damaged).start().await;
    assert_eq!(incarnation_of(cluster.node(damaged).get().status().raft_id), 2);
    assert!(dir.join("log.aside").exists());
    cluster.check_everywhere("count", "301").await;
}

/// To rejoin would be to found a new cluster and forget everything.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_anybody_to_fetch_from_refuses_and_touches_nothing() {
    let mut cluster = Cluster::new(1);
    cluster.nodes[0].snapshots = OFTEN;
    cluster.start_all().await;
    fill(&cluster, 0).await;
    until("a snapshot and a shorter log", || cluster.nodes[0].get().status().purged_index > 0).await;
    cluster.node(1).stop().await;
    let dir = cluster.node(1).dir.clone();
    damage_snapshots(&dir);
    fs::remove_dir_all(dir.join("state")).unwrap();
    for _ in 0..2 {
        let refused = tokio::time::timeout(LONG, cluster.node(1).try_start()).await.expect("in time").unwrap_err();
        assert!(matches!(refused, StartError::Incomplete { .. }), "{refused}");
        let said = refused.to_string();
        assert!(said.contains(".damaged: the snapshot is damaged at byte ") && said.contains("To heal"), "{said}");
        assert!(!dir.join("log.aside").exists());
    }
}
