//! A node whose disk went back in time: an old copy of its data directory, without what it has acknowledged since.

use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex},
};

use tollgate_consensus::{Consensus, OnFatal, Role, incarnation_of};

use crate::cluster::{Cluster, Map, until};

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), to).unwrap()),
        }
    }
}

/// A cluster of three in which the disk of a follower, which is stopped, is older than it was.
async fn with_a_stale_follower() -> (Cluster, u64) {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    cluster.write(leader, "a=1").await;
    let stale = cluster.follower().await;
    let dir = cluster.node(stale).dir.clone();
    // The others are a majority without it: its disk has to know of somebody before it is copied.
    until("it has the first entries", || cluster.node(stale).value("a").as_deref() == Some("1")).await;
    cluster.node(stale).stop().await;
    copy(&dir, &dir.with_extension("old"));
    cluster.node(stale).start().await;
    for n in 2..=30 {
        cluster.write(leader, &format!("a={n}")).await;
    }
    cluster.check_everywhere("a", "30").await;
    let watched = cluster.node(leader).get().clone();
    let last = watched.status().last_log_index;
    let follower = cluster.node(stale).get().clone();
    until("it has acknowledged everything", || follower.status().last_log_index >= last).await;
    cluster.node(stale).stop().await;
    fs::remove_dir_all(&dir).unwrap();
    copy(&dir.with_extension("old"), &dir);
    (cluster, stale)
}

async fn is_whole_again(cluster: &mut Cluster, stale: u64, incarnation: u16) {
    let back = cluster.node(stale).get().clone();
    assert_eq!(incarnation_of(back.status().raft_id), incarnation);
    until("its old self is gone and it votes", || {
        let status = back.status();
        status.members.len() == 3 && status.members.iter().all(|member| member.voter) && status.role != Role::Learner
    })
    .await;
    cluster.check_everywhere("a", "30").await;
    cluster.write(stale, "a=31").await;
    cluster.check_everywhere("a", "31").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_an_older_disk_comes_back_as_another_incarnation() {
    let (mut cluster, stale) = with_a_stale_follower().await;
    let leader = cluster.leader().await;
    cluster.node(stale).start().await;
    assert_eq!(cluster.leader().await, leader, "the leader went on");
    assert!(cluster.node(stale).dir.join("log.aside").exists());
    is_whole_again(&mut cluster, stale, 2).await;
}

/// Starts the node so that nobody answers it at first, waits until it ends and gives the reason.
async fn ends_with(cluster: &mut Cluster, stale: u64) -> String {
    let mut config = cluster.node(stale).config();
    config.formation = tollgate_consensus::Formation::Join(vec!["127.0.0.1:1".into()]);
    let ended = Arc::new(Mutex::new(None));
    let told = Arc::clone(&ended);
    config.on_fatal = OnFatal(Arc::new(move |reason| {
        told.lock().unwrap().get_or_insert(reason.to_owned());
    }));
    let rows = Arc::clone(&cluster.node(stale).rows);
    let started = Consensus::start(config, Box::new(Map(rows)), Default::default()).await.unwrap();
    assert_eq!(incarnation_of(started.status().raft_id), 1);
    until("it says why it can't go on", || ended.lock().unwrap().is_some()).await;
    cluster.node(stale).running = Some(started);
    cluster.node(stale).stop().await;
    ended.lock().unwrap().take().unwrap()
}

/// A cluster of three, one of which has come back under its second incarnation; it is stopped, and its disk is again the
/// one of its first.
async fn with_a_disk_of_an_earlier_incarnation() -> (Cluster, u64) {
    let (mut cluster, stale) = with_a_stale_follower().await;
    let dir = cluster.node(stale).dir.clone();
    cluster.node(stale).wipe();
    cluster.node(stale).start().await;
    is_whole_again(&mut cluster, stale, 2).await;
    cluster.write(stale, "a=30").await;
    cluster.node(stale).stop().await;
    fs::remove_dir_all(&dir).unwrap();
    copy(&dir.with_extension("old"), &dir);
    (cluster, stale)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_a_disk_of_an_earlier_incarnation_comes_back_as_the_next_one() {
    let (mut cluster, stale) = with_a_disk_of_an_earlier_incarnation().await;
    cluster.node(stale).start().await;
    assert!(cluster.node(stale).dir.join("log.aside").exists());
    is_whole_again(&mut cluster, stale, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_a_disk_of_an_earlier_incarnation_that_nobody_told_finds_out_and_heals_at_the_next_start() {
    let (mut cluster, stale) = with_a_disk_of_an_earlier_incarnation().await;
    let leader = cluster.leader().await;
    let reason = ends_with(&mut cluster, stale).await;
    assert!(reason.contains("earlier life") && reason.contains("Start the node again"), "{reason}");
    assert_eq!(cluster.leader().await, leader, "the leader went on");
    cluster.node(stale).start().await;
    is_whole_again(&mut cluster, stale, 3).await;
}

/// Nobody it knows answers at the start; then the leader finds it.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_an_older_disk_that_nobody_told_hurts_nobody_and_heals_at_the_next_start() {
    let (mut cluster, stale) = with_a_stale_follower().await;
    let leader = cluster.leader().await;
    let reason = ends_with(&mut cluster, stale).await;
    assert!(reason.contains("Start the node again"), "{reason}");
    assert_eq!(cluster.leader().await, leader, "the leader went on");
    cluster.write(leader, "a=30").await;

    cluster.node(stale).start().await;
    is_whole_again(&mut cluster, stale, 2).await;
}
