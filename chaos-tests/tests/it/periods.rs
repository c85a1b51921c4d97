//! Months of a tenant: closed by log time on all nodes alike, and their statements checked by the file alone.

use std::{fs, path::Path, sync::Arc};

use serde_json::Value;
use tollgate_chaos_tests::{
    Cli, Cluster, Run, SOON,
    calls::Call,
    client::LIMIT,
    eventually,
    faults::Skew,
    resources::{api_key, document},
};

use crate::matrix::clocks::with_clocks;

const CALLS: usize = 30;
/// From any day of a month into a later one, and past the tenant's grace.
const LEAP_MS: i64 = 40 * 24 * 3_600_000;

const TENANT: &str = "{timeZone: Australia/Lord_Howe, billing: {mode: postpaid, currency: USD, grace: 1h}}";
/// So that lines have something to round.
const PRICE: &str = "{currency: USD, match: {models: [mock-1]}, input: 0.153, output: 0.617}";

async fn call(cluster: &Cluster, count: usize) -> anyhow::Result<()> {
    let client = Arc::new(cluster.client.clone());
    for n in 0..count {
        let origin = &cluster.origins()[n % cluster.nodes.len()];
        eventually("the call is answered", || async {
            let answer = client.send(Call::chat(&api_key("alice"), "mock-1").request(origin), LIMIT).await?;
            anyhow::ensure!(answer.status == 200, "{}", answer.text());
            Ok(())
        })
        .await?;
    }
    Ok(())
}

async fn periods(cli: &Cli) -> anyhow::Result<Vec<Value>> {
    cli.rows(&["billing", "periods", "--tenant", "acme"]).await
}

/// The statement of a month, as a node writes it.
async fn statement(cluster: &Cluster, node: u64, month: &str, to: &Path) -> anyhow::Result<Vec<u8>> {
    let path = to.to_string_lossy();
    cluster.cli_of(node).run(&["billing", "statement", "acme", month, "--output", &path]).await?.ok()?;
    Ok(fs::read(to)?)
}

#[tokio::test]
async fn a_month_is_closed_by_log_time_and_its_statement_is_the_same_everywhere() -> anyhow::Result<()> {
    let (mut cluster, clocks) = with_clocks()?;
    cluster.ready().await?;
    let _provider = cluster.with_standard(&[("alice", None)]).await?;
    cluster.cli().apply_and_wait(&(document("Tenant", "acme", TENANT) + &document("Price", "mock", PRICE))).await?;
    call(&cluster, CALLS).await?;
    let month = eventually("every call is in the month", || async {
        let rows = periods(&cluster.cli()).await?;
        let [row] = &rows[..] else { anyhow::bail!("{rows:?}") };
        anyhow::ensure!(row["rows"] == CALLS && row["state"] == "open", "{row}");
        Ok(row["period"].as_str().unwrap_or_default().to_owned())
    })
    .await?;
    let refused = cluster.cli().run(&["billing", "statement", "acme", &month]).await?;
    assert!(refused.code == 1 && refused.stderr.contains("is open, and not closed"), "{refused:?}");

    // Nobody writes anything: the leader lets log time pass.
    for clock in &clocks {
        clock.set(Skew::step(LEAP_MS))?;
    }
    for node in [1, 2, 3] {
        eventually("the month is closed", || async {
            let rows = periods(&cluster.cli_of(node)).await?;
            anyhow::ensure!(rows[0]["state"] == "closed" && rows[0]["rows"] == CALLS, "{rows:?}");
            Ok(())
        })
        .await?;
    }
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("statement.jsonl");
    let bytes = statement(&cluster, 1, &month, &path).await?;
    for node in [2, 3] {
        assert!(statement(&cluster, node, &month, &dir.path().join("other.jsonl")).await? == bytes);
    }
    checks(&cluster, &path, &bytes, &month).await?;

    // What comes later, and another process, change nothing.
    call(&cluster, 3).await?;
    let node = cluster.node(2);
    node.kill()?;
    node.start()?;
    node.ready(SOON).await?;
    let rows = eventually("the calls are in another month", || async {
        let rows = periods(&cluster.cli_of(2)).await?;
        let later: u64 = rows.iter().filter(|row| row["period"] != *month).filter_map(|row| row["rows"].as_u64()).sum();
        anyhow::ensure!(later == 3, "{rows:?}");
        Ok(rows)
    })
    .await?;
    assert_eq!((&rows[0]["period"], &rows[0]["rows"]), (&Value::from(month.as_str()), &Value::from(CALLS)));
    assert!(statement(&cluster, 2, &month, &path).await? == bytes);
    Ok(())
}

/// What the file says is believed, and nothing else.
async fn checks(cluster: &Cluster, path: &Path, bytes: &[u8], month: &str) -> anyhow::Result<()> {
    let (cli, file) = (cluster.cli(), path.to_string_lossy());
    let key = cli.rows(&["billing", "key"]).await?[0]["fingerprint"].as_str().unwrap_or_default().to_owned();
    let offline = |args: Vec<String>| async move {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        Run::offline(&args, Path::new("."), &[]).await
    };
    let verify = |file: &str, key: &str| {
        offline(["billing", "verify", file, "--key", key, "-o", "json"].map(String::from).to_vec())
    };
    let found = verify(&file, &key).await?.ok()?.json()?;
    assert_eq!((&found[0]["ok"], &found[0]["rows"]), (&Value::from(true), &Value::from(CALLS)));
    let another = verify(&file, &"0".repeat(64)).await?;
    assert!(another.code == 1 && another.stderr.contains("somebody else has signed it"), "{another:?}");

    let changed = path.with_file_name("changed.jsonl");
    let at = bytes.windows(16).rposition(|bytes| bytes == b"\"output_tokens\":").expect("rows have tokens") + 16;
    let line = 1 + bytes[..at].iter().filter(|byte| **byte == b'\n').count();
    let mut other = bytes.to_vec();
    other[at] ^= 1;
    fs::write(&changed, other)?;
    let found = verify(&changed.to_string_lossy(), &key).await?;
    assert!(found.code == 1 && found.stderr.contains(&format!("line {line}, event ")), "{found:?}");

    let repriced = cli.rows(&["billing", "reprice", "acme", month]).await?;
    assert_eq!((&repriced[0]["ok"], &repriced[0]["billed"]), (&Value::from(true), &repriced[0]["repriced"]));
    let export = path.with_file_name("export.csv");
    let range = ["--from", "2026-01-01", "--to", "2999-01-01", "--output"];
    cli.run(&[&["billing", "export"], &range[..], &[&*export.to_string_lossy()]].concat()).await?.ok()?;
    let plain = offline(["billing", "verify", &export.to_string_lossy()].map(String::from).to_vec()).await?.ok()?;
    assert!(plain.stderr.contains("a plain export is not signed"), "{plain:?}");
    Ok(())
}
