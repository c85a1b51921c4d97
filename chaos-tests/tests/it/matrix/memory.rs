//! Memory that runs out.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Context;
use serde_json::Value;
use tokio::{task::JoinSet, time::Instant};
use tollgate_chaos_tests::{
    Cluster, Figures, Plan, SOON, Seed,
    calls::Call,
    client::{CallError, Client, LIMIT},
    eventually,
    faults::MemoryCage,
    resources::api_key,
    tollgate,
};

use super::{Skipped, say, stage::Stage};

/// Beside what the node uses already, which a control group does not count.
const CAGE_BYTES: u64 = 64 << 20;
/// Prompts of so many bytes, below the limit of a body.
const PROMPT_BYTES: usize = 4 << 20;
/// Together some three times what there is.
const CALLERS: usize = 50;

/// Row 36: more prompts at once than fit in a node's memory. It sheds them, or is killed and comes back; the others carry on.
/// T is the time until it is ready again.
pub(super) async fn pressure(seed: Seed) -> anyhow::Result<Figures> {
    let cage =
        MemoryCage::build(CAGE_BYTES).ok_or(Skipped("a memory cage needs root and control groups of version 1"))?;
    let mut stage = Stage::set(seed).await?;
    let follower = stage.cluster.follower().await?;
    cage.put(stage.cluster.node(follower).pid()?)?;
    let origin = stage.cluster.node(follower).http_url();
    let mut call = Call::chat(&api_key("ample"), "ample-1");
    call.body["messages"][0]["content"] = Value::from("x ".repeat(PROMPT_BYTES / 2));
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let (call, origin) = (call.clone(), origin.clone());
        callers
            .spawn(async move { Client::new().send(call.request(&origin), LIMIT).await.map(|answer| answer.status) });
    }
    let (mut served, mut shed, mut broken, mut why) = (0, 0, 0, BTreeMap::<String, u32>::new());
    while let Some(done) = callers.join_next().await {
        match done? {
            Ok(200) => served += 1,
            Ok(status) => {
                shed += 1;
                *why.entry(status.to_string()).or_default() += 1;
            }
            Err(error) => {
                broken += 1;
                *why.entry(error.to_string()).or_default() += 1;
            }
        }
    }
    let killed = !stage.cluster.node(follower).is_running();
    let peak = cage.peak()? >> 20;
    say(&format!(
        "  {CALLERS} large prompts: {served} served, {shed} shed, {broken} without an answer; peak {peak} MiB, killed: {killed}"
    ));
    say(&format!("  {why:?}"));
    stage.goes_on_after(Instant::now()).await?;
    let begun = Instant::now();
    if killed {
        stage.cluster.node(follower).start()?;
    }
    stage.cluster.node(follower).ready(SOON).await?;
    let recovery: Duration = begun.elapsed();
    let figures = stage.judge(Some(recovery)).await?;
    figures.served_at_least(100.0)?;
    Ok(figures)
}

/// All that the caged node has, from its start.
const SMALL_BYTES: u64 = 512 << 20;
/// What it keeps of it for bodies, when nobody says more: a quarter.
const BUFFERED_BYTES: u64 = 128 << 20;
/// So many at once are more than that, and with what the node has by itself more than all there is.
const SMALL_CALLERS: usize = 80;
/// So long a provider keeps each prompt waiting, so that they are all there at once.
const DELAY: &str = "3s";

/// Row 36: a node with 512 MB that was told nothing finds that out, and refuses prompts before it is killed: those that it took are answered, and
/// others after them. T is the time until a call is served again.
pub(super) async fn small(_seed: Seed) -> anyhow::Result<Figures> {
    let cage =
        MemoryCage::build(SMALL_BYTES).ok_or(Skipped("a memory cage needs root and control groups of version 1"))?;
    let mut cluster = Cluster::prepare(&Plan { nodes: 1, ..Plan::default() })?;
    let program = cage.program(tollgate(), cluster.dir())?;
    cluster.node(1).program = Some(program);
    cluster.node(1).start()?;
    cluster.ready().await?;
    let log = cluster.node(1).log();
    let told = log.lines().find(|line| line.contains("bounds of the data plane")).context("it says what it found")?;
    for part in [
        format!("\"max_buffered_bytes\":{BUFFERED_BYTES}"),
        format!("\"memory_bytes\":{SMALL_BYTES}"),
        "memory.limit_in_bytes".to_owned(),
    ] {
        anyhow::ensure!(told.contains(&part), "{part} is not in {told}");
    }
    let _provider = cluster.with_standard(&[("ample", None)]).await?;
    let origin = cluster.node(1).http_url();
    let mut call = Call::chat(&api_key("ample"), "ample-1").header("x-mock-delay", DELAY);
    call.body["messages"][0]["content"] = Value::from("x ".repeat(PROMPT_BYTES / 2));
    // Made once: to write so many would take this process longer than a node waits for the head of a request.
    let (request, mut callers) = (call.request(&origin), JoinSet::new());
    for _ in 0..SMALL_CALLERS {
        let request = request.clone();
        callers.spawn(async move { Client::new().send(request, SOON * 2).await });
    }
    let (mut served, mut shed, mut cut) = (0, 0, Vec::new());
    while let Some(done) = callers.join_next().await {
        match done? {
            Ok(answer) if answer.status == 200 => served += 1,
            Ok(answer) if answer.status == 503 && answer.text().contains("overloaded") => shed += 1,
            Ok(answer) => anyhow::bail!("{}: {}", answer.status, answer.text()),
            // Who is refused while still sending may not get to read it.
            Err(CallError::Broken(why)) => cut.push(why),
            Err(CallError::TimedOut) => anyhow::bail!("a prompt had no answer at all"),
        }
    }
    let over = Instant::now();
    anyhow::ensure!(cluster.node(1).is_running(), "it was killed");
    eventually("a call is served", || async {
        let answer = Client::new().send(Call::chat(&api_key("ample"), "ample-1").request(&origin), LIMIT).await?;
        anyhow::ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
        Ok(())
    })
    .await?;
    let recovery = over.elapsed();
    let metrics = cluster.client.get(&format!("{}/metrics", cluster.nodes[0].admin_url()), &[]).await?.text();
    let line = metrics
        .lines()
        .find_map(|line| line.strip_prefix("tollgate_http_server_shed_total{by=\"buffers\",priority=\"standard\"} "));
    let refused: usize = line.context("the metric is there")?.parse()?;
    say(&format!(
        "  {SMALL_CALLERS} large prompts: {served} served, {shed} shed, {} cut; {refused} refused; peak {} MiB of 512; {cut:?}",
        cut.len(),
        cage.peak()? >> 20
    ));
    anyhow::ensure!(
        served > 0 && shed > 0 && refused >= shed + cut.len(),
        "it served {served} and shed {shed} of which it says {refused}"
    );
    Ok(Figures { served, recovery: Some(recovery), ..Figures::default() })
}
