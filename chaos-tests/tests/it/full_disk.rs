//! A log that has no space left.

use std::{
    fs,
    time::{Duration, Instant},
};

use tollgate_chaos_tests::{Cluster, Outcome, Plan, eventually, faults::SmallDisk, resources::document};

use crate::matrix::say;

/// One segment of the log fits, a second does not.
const SMALL_MIB: u32 = 24;
const LARGE_MIB: u32 = 256;

/// A megabyte for the log.
fn large(number: u32) -> String {
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
