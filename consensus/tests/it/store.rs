//! The state store: a convenience that may be lost.

use std::{fs, path::Path};

use crate::cluster::Cluster;

async fn filled() -> Cluster {
    let cluster = Cluster::start(3).await;
    for n in 0..30 {
        cluster.write(1 + n % 3, &format!("k{n}=v")).await;
    }
    cluster
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_gone_is_rebuilt() {
    let mut cluster = filled().await;
    cluster.stop_all().await;
    for node in &cluster.nodes {
        fs::remove_dir_all(node.dir.join("state")).unwrap();
    }
    cluster.start_all().await;
    cluster.check_everywhere("count", "30").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_damaged_is_set_aside_and_rebuilt() {
    let mut cluster = filled().await;
    cluster.stop_all().await;
    for node in &cluster.nodes {
        damage(&node.dir.join("state"));
    }
    cluster.start_all().await;
    cluster.check_everywhere("count", "30").await;
    assert!(cluster.nodes.iter().all(|node| node.dir.join("state.damaged").exists()));
}

fn damage(path: &Path) {
    for entry in fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            damage(&path);
        } else {
            let bytes: Vec<u8> = fs::read(&path).unwrap().iter().map(|byte| byte ^ 0x5a).collect();
            fs::write(&path, bytes).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_store_is_brought_up_from_the_log() {
    let mut cluster = filled().await;
    cluster.stop_all().await;
    let (store, copy) = (cluster.nodes[0].dir.join("state"), cluster.nodes[0].dir.join("copy"));
    copy_all(&store, &copy);
    cluster.start_all().await;
    for n in 30..60 {
        cluster.write(1 + n % 3, &format!("k{n}=v")).await;
    }
    cluster.stop_all().await;
    fs::remove_dir_all(&store).unwrap();
    fs::rename(&copy, &store).unwrap();
    cluster.start_all().await;
    cluster.check_everywhere("count", "60").await;
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_all(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}
