//! A node that can't start says why, and ends.

use std::{fs, net::TcpListener, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use tollgate_chaos_tests::{
    Cluster, Outcome, Plan, Run, calls::Call, client::LIMIT, faults::SmallDisk, resources::api_key,
};

use crate::matrix::say;

/// A node that is refused ends soon.
const SOON: Duration = Duration::from_secs(30);

fn one() -> anyhow::Result<Cluster> {
    Cluster::prepare(&Plan { nodes: 1, ..Plan::default() })
}

fn edit(cluster: &Cluster, from: &str, to: &str) -> anyhow::Result<()> {
    let config = cluster.nodes[0].config();
    let text = fs::read_to_string(&config)?;
    anyhow::ensure!(text.contains(from), "{from} is not in the file");
    Ok(fs::write(config, text.replace(from, to))?)
}

/// Starts the node, and expects it to end with a failure whose log holds all of `words`.
async fn is_refused(cluster: &mut Cluster, words: &[&str]) -> anyhow::Result<()> {
    let node = cluster.node(1);
    node.start()?;
    let status = node.exited(SOON).await?;
    let log = node.log();
    assert!(!status.success() && status.code().is_some(), "{status}: {log}");
    for word in words {
        assert!(log.contains(word), "no {word:?} in: {log}");
    }
    Ok(())
}

#[tokio::test]
async fn an_unknown_key_is_named_with_its_line_and_the_nearest_one() -> Outcome {
    let mut cluster = one()?;
    edit(&cluster, "data_dir", "data_dirr")?;
    is_refused(&mut cluster, &["node.toml:4", "data_dirr", "data_dir"]).await?;
    let checked = Run::offline(&["check", "node-1/node.toml"], cluster.dir(), &[]).await?;
    assert_eq!(checked.code, 1);
    assert!(checked.stderr.contains("data_dirr"), "{}", checked.stderr);
    Ok(())
}

#[tokio::test]
async fn a_good_file_passes_the_check() -> Outcome {
    let cluster = one()?;
    Run::offline(&["check", "node-1/node.toml"], cluster.dir(), &[]).await?.ok()?;
    Ok(())
}

#[tokio::test]
async fn files_that_are_missing_are_named_with_line_and_key_by_check_and_run() -> Outcome {
    let mut cluster = one()?;
    fs::remove_file(cluster.node(1).dir.join("node.key"))?;
    fs::remove_file(cluster.dir().join("cluster.key"))?;
    let expected = ["node.toml:16:1: peer.tls.key: ", "cluster.key_file: ", "No such file"];
    let checked = Run::offline(&["check", "node-1/node.toml"], cluster.dir(), &[]).await?;
    assert_eq!(checked.code, 1);
    for word in expected {
        assert!(checked.stderr.contains(word), "no {word:?} in {}", checked.stderr);
    }
    is_refused(&mut cluster, &expected).await?;
    Ok(())
}

#[tokio::test]
async fn a_busy_port_is_named() -> Outcome {
    for port in ["http", "admin", "peer"] {
        let mut cluster = one()?;
        let node = cluster.node(1);
        let address = match port {
            "http" => node.http,
            "admin" => node.admin,
            _ => node.peer,
        };
        let _busy = TcpListener::bind(address)?;
        is_refused(&mut cluster, &[&address.to_string()]).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_data_directory_that_is_a_file_is_refused() -> Outcome {
    let mut cluster = one()?;
    fs::write(cluster.node(1).data_dir(), "not a directory")?;
    is_refused(&mut cluster, &["data"]).await?;
    Ok(())
}

#[tokio::test]
async fn an_unwritable_data_directory_is_refused() -> Outcome {
    let mut cluster = one()?;
    // Nobody can write there, not even root.
    edit(&cluster, "data_dir = \"data\"", "data_dir = \"/proc/tollgate-data\"")?;
    is_refused(&mut cluster, &["node.data_dir", "/proc/tollgate-data"]).await?;
    Ok(())
}

#[tokio::test]
async fn a_full_disk_is_told_and_not_retried_for_ever() -> Outcome {
    let mut cluster = one()?;
    let data = cluster.node(1).data_dir();
    fs::create_dir_all(&data)?;
    let Some(_disk) = SmallDisk::mount(&data, 1) else {
        say("SKIPPED: a full data directory can't be tested without the right to mount a tmpfs (run as root)");
        return Ok(());
    };
    fs::write(data.join("filler"), vec![1; 900 << 10])?;
    is_refused(&mut cluster, &["space"]).await?;
    Ok(())
}

#[tokio::test]
async fn a_second_process_on_the_same_data_is_refused() -> Outcome {
    let mut cluster = one()?;
    cluster.node(1).start()?;
    cluster.ready().await?;
    let text = fs::read_to_string(cluster.nodes[0].config())?;
    let [http, admin, peer] =
        [tollgate_chaos_tests::free_port(), tollgate_chaos_tests::free_port(), tollgate_chaos_tests::free_port()];
    let node = &cluster.nodes[0];
    let other = text
        .replace(&format!("[http]\nlisten = \"{}\"", node.http), &format!("[http]\nlisten = \"{http}\""))
        .replace(&format!("[admin]\nlisten = \"{}\"", node.admin), &format!("[admin]\nlisten = \"{admin}\""))
        .replace(&format!("[peer]\nlisten = \"{}\"", node.peer), &format!("[peer]\nlisten = \"{peer}\""));
    fs::write(node.dir.join("second.toml"), other)?;
    let second = Run::offline(&["run", "--config", "second.toml"], &node.dir, &[]).await?;
    assert_ne!(second.code, 0);
    assert!(second.stderr.contains("data"), "{}", second.stderr);
    cluster.ready().await?;
    Ok(())
}

#[tokio::test]
async fn data_of_another_node_is_refused() -> Outcome {
    let mut cluster = one()?;
    cluster.node(1).start()?;
    cluster.ready().await?;
    cluster.node(1).kill()?;
    edit(&cluster, "id = 1", "id = 2")?;
    edit(&cluster, "\"1@", "\"2@")?;
    let identity = cluster.ca.node(2)?;
    identity.write(&cluster.ca, &cluster.nodes[0].dir)?;
    is_refused(&mut cluster, &["1", "2"]).await?;
    Ok(())
}

#[tokio::test]
async fn a_node_with_another_cluster_key_is_not_ready_and_says_why() -> Outcome {
    let mut cluster = Cluster::start().await?;
    let _provider = cluster.with_standard(&[("alice", None)]).await?;
    cluster.node(3).kill()?;
    fs::write(cluster.node(3).dir.join("other.key"), BASE64_STANDARD.encode(rand::random::<[u8; 32]>()))?;
    let config = cluster.node(3).config();
    let text = fs::read_to_string(&config)?;
    fs::write(&config, text.replace("../cluster.key", "other.key"))?;
    cluster.node(3).start()?;
    let (client, cli) = (cluster.client.clone(), cluster.cli_of(1));
    let readyz = format!("{}/readyz", cluster.node(3).admin_url());
    tollgate_chaos_tests::eventually("node 3 says what is wrong", || async {
        let answer = client.get(&readyz, &[]).await?;
        anyhow::ensure!(answer.status == 503, "readyz says {}", answer.status);
        anyhow::ensure!(answer.text().contains("cluster key does not fit"), "{}", answer.text());
        let rows = cli.rows(&["cluster", "status"]).await?;
        let third = rows.iter().find(|row| row["id"] == 3).map(|row| row["state"].clone());
        anyhow::ensure!(third == Some("unready".into()), "cluster status says {third:?}");
        Ok(())
    })
    .await?;
    let call = Call::chat(&api_key("alice"), "mock-1");
    let answer = client.send(call.request(&cluster.node(3).http_url()), LIMIT).await?;
    assert_eq!(answer.status, 503, "{}", answer.text());
    let answer = client.send(call.request(&cluster.node(1).http_url()), LIMIT).await?;
    assert_eq!(answer.status, 200, "{}", answer.text());
    Ok(())
}
