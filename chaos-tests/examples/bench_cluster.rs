//! Figures of a real cluster of three processes on this machine:
//!
//! - one route changed among many: how long until every node serves the change, counted from the moment the change was
//!   acknowledged and from the start of the `tollgate apply` that made it;
//! - the leader killed: how long until the next write is acknowledged.
//!
//! `cargo run --release -p tollgate-chaos-tests --example bench_cluster -- [--routes 10000] [--changes 20] [--kills 20]`

use std::{env, fmt::Write, time::Duration};

use anyhow::{Context, ensure};
use tokio::{task::JoinSet, time::Instant};
use tollgate_chaos_tests::{Cluster, SOON, client::Client, resources::document};

/// A node that was killed may take this long to be there again before the next one is killed.
const BACK: Duration = Duration::from_secs(30);
/// A write is tried this long after a kill.
const WRITE: Duration = Duration::from_secs(30);

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(bench())
}

async fn bench() -> anyhow::Result<()> {
    let (routes, changes, kills) = (option("--routes", 10_000)?, option("--changes", 20)?, option("--kills", 20)?);
    let mut cluster = Cluster::start().await?;
    print("three nodes, one machine", format_args!("{} cores", std::thread::available_parallelism()?));
    configuration(&cluster, routes, changes).await?;
    failover(&mut cluster, kills).await
}

fn option(name: &str, default: usize) -> anyhow::Result<usize> {
    let mut args = env::args().skip_while(|arg| arg != name);
    match (args.next(), args.next()) {
        (Some(_), Some(value)) => value.parse().with_context(|| format!("{name} takes a number, not {value}")),
        (Some(_), None) => anyhow::bail!("{name} takes a number"),
        (None, _) => Ok(default),
    }
}

#[expect(clippy::print_stdout, reason = "figures are what this program is for")]
fn print(what: &str, figure: impl std::fmt::Display) {
    println!("{what:<58} {figure}");
}

async fn configuration(cluster: &Cluster, routes: usize, changes: usize) -> anyhow::Result<()> {
    let mut many = String::new();
    for n in 0..routes {
        write!(many, "{}\n---\n", probe(&format!("other-{n}"), "other"))?;
    }
    let begun = Instant::now();
    cluster.cli().apply_and_wait(&many).await?;
    print(&format!("{routes} routes applied and served by all nodes"), format_args!("{:?}", begun.elapsed()));

    let (mut after_ack, mut whole) = (Vec::new(), Vec::new());
    for change in 0..changes {
        let body = format!("change-{change}");
        let begun = Instant::now();
        let mut watchers = JoinSet::new();
        for origin in cluster.origins() {
            watchers.spawn(served(format!("{origin}/probe"), body.clone()));
        }
        cluster.cli().apply(&probe("probe", &body)).await?;
        let acknowledged = Instant::now();
        let mut last = begun;
        while let Some(at) = watchers.join_next().await {
            last = last.max(at??);
        }
        after_ack.push(last.saturating_duration_since(acknowledged));
        whole.push(last - begun);
    }
    print("one change on all nodes, after it was acknowledged", Spread(after_ack));
    print("one change on all nodes, from the start of the command", Spread(whole));
    Ok(())
}

/// A route that answers by itself.
fn probe(name: &str, body: &str) -> String {
    document("Route", name, &format!("{{match: [{{path: {{prefix: /{name}}}}}], response: {{body: {body}}}}}"))
}

/// Asks until the answer is `body`; when that was.
async fn served(url: String, body: String) -> anyhow::Result<Instant> {
    let client = Client::new();
    let begun = Instant::now();
    loop {
        let answer = client.get(&url, &[]).await?;
        let now = Instant::now();
        if answer.text() == body {
            return Ok(now);
        }
        ensure!(begun.elapsed() < SOON, "{url} does not serve {body}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn failover(cluster: &mut Cluster, kills: usize) -> anyhow::Result<()> {
    let mut gaps = Vec::new();
    for kill in 0..kills {
        cluster.converged().await?;
        let leader = cluster.leader().await?;
        let cli = cluster.cli_from(usize::try_from(leader)?);
        cluster.node(leader).kill()?;
        let killed = Instant::now();
        let tenant = document("Tenant", &format!("after-kill-{kill}"), "{billing: {mode: none}}");
        tokio::time::timeout(WRITE, cli.apply(&tenant)).await.context("no write after the kill")??;
        gaps.push(killed.elapsed());
        cluster.node(leader).start()?;
        cluster.node(leader).ready(BACK).await?;
    }
    print(&format!("next write after SIGKILL of the leader, {kills} kills"), Spread(gaps));
    Ok(())
}

/// Minimum, median and maximum.
struct Spread(Vec<Duration>);

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        match (sorted.first(), sorted.get(sorted.len() / 2), sorted.last()) {
            (Some(min), Some(median), Some(max)) => write!(f, "min {min:.1?}  median {median:.1?}  max {max:.1?}"),
            _ => f.write_str("none"),
        }
    }
}
