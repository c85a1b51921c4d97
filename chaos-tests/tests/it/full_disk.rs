//! A log that has no space left; and a whole data directory that has none.

use std::{
    fs,
    io::Write,
    path::Path,
    time::{Duration, Instant},
};

use tollgate_chaos_tests::{Cluster, Outcome, Plan, eventually, faults::SmallDisk, resources::document};

use crate::matrix::say;

/// One segment of the log fits, a second does not.
const SMALL_MIB: u32 = 24;
const LARGE_MIB: u32 = 256;

/// A megabyte for the log.
pub(crate) fn large(number: u32) -> String {
    let spec = format!(
        "{{match: [{{path: {{exact: /large}}}}], response: {{status: 200, body: \"{number}{}\"}}}}",
        "x".repeat(1 << 20)
    );
    document("Route", "large", &spec)
}

#[tokio::test]
async fn a_full_log_is_told_at_once_and_heals_by_itself() -> Outcome {
    let mut cluster = Cluster::prepare(&Plan { nodes: 1, ..Plan::default() })?;
    let log = cluster.node(1).data_dir().join("log");
    fs::create_dir_all(&log)?;
    let Some(disk) = SmallDisk::mount(&log, SMALL_MIB) else {
        say("SKIPPED: a full log can't be tested without the right to mount a tmpfs (run as root)");
        return Ok(());
    };
    cluster.node(1).start()?;
    cluster.ready().await?;
    let metrics = format!("{}/metrics", cluster.node(1).admin_url());
    let (client, cli) = (cluster.client.clone(), cluster.cli());
    let told = async |line: &str| {
        let text = client.get(&metrics, &[]).await?.text();
        anyhow::ensure!(text.contains(line), "no {line:?} in {text}");
        anyhow::Ok(())
    };
    told("\ntollgate_log_full 0\n").await?;
    told("\ntollgate_log_bytes ").await?;

    // The one that meets the end of the disk may wait for space; its outcome is unknown.
    let apply = async |number: u32, timeout: &str| {
        cli.run_with(&["apply", "-f", "-", "--timeout", timeout], &large(number)).await
    };
    let mut number = 0;
    while apply(number, "5s").await?.code == 0 {
        number += 1;
        assert!(number < 2 * SMALL_MIB, "the log is never full");
    }
    told("\ntollgate_log_full 1\n").await?;
    let rows = cli.rows(&["cluster", "status"]).await?;
    assert!(rows[0]["logFull"] == true && rows[0]["logBytes"].as_u64() > Some(0), "{rows:?}");
    let began = Instant::now();
    let refused = apply(1_000, "2s").await?;
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("the disk of node 1, which leads, is full"), "{}", refused.stderr);
    assert!(!refused.stderr.contains("may or may not"), "{}", refused.stderr);
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert!(cluster.node(1).is_running());

    disk.grow(LARGE_MIB)?;
    eventually("there is space again", || told("\ntollgate_log_full 0\n")).await?;
    apply(2_000, "10s").await?.ok()?;
    let large = client.get(&format!("{}/large", cluster.node(1).http_url()), &[]).await?;
    assert!(large.text().starts_with("2000x"));
    Ok(())
}

/// Enough for a log of two segments, a store and a snapshot.
const DATA_MIB: u32 = 64;

/// Takes all the space that is left.
pub(crate) fn fill(dir: &Path) -> anyhow::Result<()> {
    let mut filler = fs::File::options().create(true).append(true).open(dir.join("filler"))?;
    for block in [vec![1; 64 << 10], vec![1; 4 << 10]] {
        while filler.write_all(&block).is_ok() {}
    }
    Ok(())
}

/// A snapshot every few changes, and little kept behind it.
fn snapshots_soon() -> Plan {
    let env = [("TOLLGATE_SNAPSHOT_LOG_SIZE", "1KiB"), ("TOLLGATE_SNAPSHOT_KEEP_ENTRIES", "2")];
    let env = env.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    Plan { nodes: 1, env, ..Plan::default() }
}

#[tokio::test]
async fn a_node_outlives_a_full_data_directory_and_starts_on_one() -> Outcome {
    let mut cluster = Cluster::prepare(&snapshots_soon())?;
    let data = cluster.node(1).data_dir();
    fs::create_dir_all(&data)?;
    let Some(_disk) = SmallDisk::mount(&data, DATA_MIB) else {
        say("SKIPPED: a full data directory can't be tested without the right to mount a tmpfs (run as root)");
        return Ok(());
    };
    cluster.node(1).start()?;
    cluster.ready().await?;
    let cli = cluster.cli();
    for number in 0..20 {
        cli.apply(&document("Tenant", &format!("before-{number}"), "{}")).await?;
    }
    let said = async |cluster: &Cluster, from: usize, words: &str| {
        let node = &cluster.nodes[0];
        eventually(words, || async {
            anyhow::ensure!(node.log()[from..].contains(words), "not said yet");
            Ok(())
        })
        .await
    };
    let before = cluster.node(1).log().len();
    fill(&data)?;
    // There is room in the log's segment: what is written still arrives, and snapshot and store have none.
    let mut number = 0;
    while !(cluster.nodes[0].log()[before..].contains("snapshot can't be written")
        && cluster.nodes[0].log()[before..].contains("no space for the state store"))
    {
        number += 1;
        assert!(number < 200, "neither snapshot nor store met the full disk");
        cli.apply(&document("Tenant", &format!("full-{number}"), "{}")).await?;
        fill(&data)?;
    }
    assert!(cluster.node(1).is_running());
    assert!(
        !fs::read_dir(data.join("snapshots"))?
            .any(|file| { file.is_ok_and(|file| file.path().extension().is_some_and(|extension| extension == "tmp")) })
    );

    cluster.node(1).kill()?;
    fill(&data)?;
    let restarted = cluster.node(1).log().len();
    cluster.node(1).start()?;
    said(&cluster, restarted, "no space").await?;
    fs::remove_file(data.join("filler"))?;
    cluster.ready().await?;
    for number in 0..5 {
        cli.apply(&document("Tenant", &format!("after-{number}"), "{}")).await?;
    }
    // The store is begun anew once there is space, with the next change.
    eventually("the store is whole again", || async {
        cli.apply(&document("Tenant", &format!("healed-{}", rand::random::<u32>()), "{}")).await?;
        anyhow::ensure!(cluster.nodes[0].log()[restarted..].contains("space for the state store again"), "not yet");
        Ok(())
    })
    .await?;
    assert!(!data.join("state.damaged").exists(), "a good store was set aside");
    let names = cli.run(&["get", "tenants"]).await?.ok()?.stdout;
    for name in ["before-0", "before-19", "full-1", "after-4"] {
        assert!(names.contains(name), "{name} is missing in {names}");
    }
    Ok(())
}

#[tokio::test]
async fn a_state_store_that_is_gone_or_old_is_told_at_the_start() -> Outcome {
    const TOLD: &str = "state store is gone or old";
    let mut cluster = Cluster::with(snapshots_soon()).await?;
    let (data, cli) = (cluster.node(1).data_dir(), cluster.cli());
    let apply = async |name: &str, count: u32| {
        for number in 0..count {
            cli.apply(&document("Tenant", &format!("{name}-{number}"), "{}")).await?;
        }
        anyhow::Ok(())
    };
    apply("first", 5).await?;
    cluster.node(1).terminate()?;
    cluster.node(1).exited(Duration::from_secs(30)).await?;
    let old = cluster.dir().join("old-state");
    fs::rename(data.join("state"), &old)?;
    assert!(!cluster.node(1).log().contains(TOLD), "told at a first start");

    cluster.node(1).start()?;
    cluster.ready().await?;
    assert!(cluster.node(1).log().contains(TOLD), "nothing is said of a store that is gone");
    apply("second", 30).await?;
    eventually("there is a snapshot", || async {
        let some = fs::read_dir(data.join("snapshots"))?.count() > 0;
        anyhow::ensure!(some, "none yet");
        Ok(())
    })
    .await?;
    let from = cluster.node(1).log().len();
    cluster.node(1).terminate()?;
    cluster.node(1).exited(Duration::from_secs(30)).await?;
    cluster.node(1).start()?;
    cluster.ready().await?;
    assert!(!cluster.node(1).log()[from..].contains(TOLD), "told of a store that is whole");
    cluster.node(1).terminate()?;
    cluster.node(1).exited(Duration::from_secs(30)).await?;
    fs::remove_dir_all(data.join("state"))?;
    fs::rename(&old, data.join("state"))?;
    cluster.node(1).start()?;
    cluster.ready().await?;
    assert!(cluster.node(1).log()[from..].contains(TOLD), "nothing is said of a store that is old");
    let names = cli.run(&["get", "tenants"]).await?.ok()?.stdout;
    for name in ["first-0", "second-29"] {
        assert!(names.contains(name), "{name} is missing in {names}");
    }
    Ok(())
}

#[tokio::test]
async fn a_leader_with_a_full_disk_hands_over_to_a_voter_that_has_space() -> Outcome {
    const TOLD: &str = "the disk of this leader is full, handing over";
    let mut cluster = Cluster::prepare(&Plan::default())?;
    let log = cluster.node(1).data_dir().join("log");
    fs::create_dir_all(&log)?;
    let Some(disk) = SmallDisk::mount(&log, SMALL_MIB) else {
        say("SKIPPED: a full log can't be tested without the right to mount a tmpfs (run as root)");
        return Ok(());
    };
    for node in &mut cluster.nodes {
        node.start()?;
    }
    cluster.ready().await?;
    // Whatever node 1 is then, it leads when its disk is full: that of the others is not.
    let others = cluster.cli_from(1);
    let mut number = 0;
    while !cluster.node(1).log().contains(TOLD) {
        assert!(number < 4 * SMALL_MIB, "node 1 keeps the lead");
        if cluster.leader().await? != 1 {
            // It may refuse the lead while it lags behind.
            others.run(&["cluster", "transfer-leader", "1", "--timeout", "2s"]).await?;
        }
        others.run_with(&["apply", "-f", "-", "--timeout", "5s"], &large(number)).await?;
        number += 1;
    }
    eventually("another node leads, and writes go on", || async {
        others.run_with(&["apply", "-f", "-", "--timeout", "5s"], &large(1_000)).await?.ok()?;
        let leader = cluster.leader().await?;
        anyhow::ensure!(leader != 1, "node 1 leads");
        anyhow::Ok(())
    })
    .await?;
    assert!(cluster.node(1).is_running());
    disk.grow(LARGE_MIB)?;
    cluster.converged().await?;
    cluster.converged_on_one_leader().await?;
    Ok(())
}
