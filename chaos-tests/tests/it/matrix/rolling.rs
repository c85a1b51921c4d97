//! Nodes that are stopped and started one after the other, as for a new release.

use std::time::Duration;

use anyhow::Context;
use tokio::time::Instant;
use tollgate_chaos_tests::{
    Figures, Plan, SOON, Seed,
    calls::{self, Call, Dialect},
    careful::Careful,
    client::{End, LIMIT},
    eventually,
};

use super::{
    say,
    stage::{Stage, ample},
};

/// Longer than a balancer needs to see that a node is unready.
const DELAY: Duration = Duration::from_secs(1);
/// What may still take its time then.
const TIMEOUT: Duration = Duration::from_secs(30);
/// What a stream takes by itself.
const STREAM: Duration = Duration::from_secs(6);
const CALLERS: usize = 8;
/// What a process may take beside its delay and what was in flight.
const LEAVES: Duration = Duration::from_secs(2);

/// Row 8: every node in turn, under load, with a stream through each that goes on. Callers behind a balancer never fail, though they
/// try once. T is the longest time from the signal to the end of a process.
pub(super) async fn restart(seed: Seed) -> anyhow::Result<Figures> {
    let more_toml = format!("[drain]\ndelay = \"{}s\"\ntimeout = \"{}s\"\n", DELAY.as_secs(), TIMEOUT.as_secs());
    let mut stage = Stage::with(&Plan { more_toml, ..Plan::default() }, seed).await?;
    let careful = Careful::start(&stage.cluster.nodes, &[ample(), ample().stream()], CALLERS, seed);
    let mut longest = Duration::ZERO;
    for id in [1, 2, 3] {
        longest = longest.max(one(&mut stage, &careful, id).await.with_context(|| format!("node {id}"))?);
    }
    let tally = careful.stop().await;
    say(&format!("  {} calls behind a balancer, {} failed", tally.served, tally.failures.len()));
    anyhow::ensure!(tally.failures.is_empty(), "{:?}", &tally.failures[..tally.failures.len().min(10)]);
    let most = DELAY + TIMEOUT + LEAVES;
    anyhow::ensure!(longest <= most, "a process took {longest:?} to end, not {most:?}");
    let figures = stage.judge(Some(longest)).await?;
    figures.served_at_least(100.0)?;
    Ok(figures)
}

async fn one(stage: &mut Stage, careful: &Careful, id: u64) -> anyhow::Result<Duration> {
    let led = stage.cluster.leader().await? == id;
    let pieces = (STREAM.as_millis() / 100).to_string();
    let slow = slow(&pieces).request(&stage.cluster.node(id).http_url());
    let mut stream = stage.cluster.client.open(slow, LIMIT).await?;
    stream.next().await.map_err(|end| anyhow::anyhow!("the stream has not begun: {end:?}"))?;
    stage.cluster.node(id).terminate()?;
    let told = Instant::now();
    if led {
        let others = stage.cluster.cli_of(if id == 1 { 2 } else { 1 });
        eventually("another node leads before this one ends", || async {
            let rows = others.rows(&["cluster", "status"]).await?;
            let next = rows.iter().find(|row| row["role"] == "leader" && row["id"] != id);
            next.map(|_| ()).ok_or_else(|| anyhow::anyhow!("{rows:?}"))
        })
        .await?;
        anyhow::ensure!(stage.cluster.node(id).is_running(), "it was waited for until it was gone");
    }
    let (events, end) = stream.rest().await;
    let whole = end == End::Framed && calls::is_complete(Dialect::Anthropic, &events);
    anyhow::ensure!(whole, "its stream ended after {} events: {end:?}", events.len());
    let ended = Instant::now();
    let status = stage.cluster.node(id).exited(SOON).await?;
    say(&format!("  node {id}: its stream went on for {:.2?}, then it left in {:.2?}", ended - told, ended.elapsed()));
    let took = told.elapsed();
    anyhow::ensure!(status.success(), "it ended with {status}");
    stage.cluster.node(id).start()?;
    stage.cluster.node(id).ready(SOON).await?;
    let before = careful.so_far().served;
    eventually("callers are served", || async {
        let served = careful.so_far().served;
        anyhow::ensure!(served > before + 50, "{served}, before {before}");
        Ok(())
    })
    .await?;
    stage.cluster.converged_on_one_leader().await?;
    Ok(took)
}

fn slow(pieces: &str) -> Call {
    ample()
        .stream()
        .max_tokens(200)
        .header("x-mock-output", pieces)
        .header("x-mock-pace", "100ms")
        .header("x-mock-chunk", "1")
}
