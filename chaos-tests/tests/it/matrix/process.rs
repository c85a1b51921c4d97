//! Processes that are killed or stand still.

use std::time::Duration;

use anyhow::Context;
use rand::RngExt;
use tokio::time::{self, Instant};
use tollgate_chaos_tests::{
    Cluster, Figures, Plan, Run, SOON, Seed,
    burst::{Manner, alike, burst},
    eventually, nightly,
};

use super::{
    say,
    stage::{Stage, tight},
};

/// Kills of the row that does nothing else.
const MANY_KILLS: u32 = 50;
/// T_iso where the program takes it from its configuration, and where it has to be waited for.
const SHORT_ISOLATION: Duration = Duration::from_secs(3);
const LONG_ISOLATION: Duration = Duration::from_secs(30);

/// How often a row kills.
fn rounds() -> usize {
    if nightly() { 20 } else { 2 }
}

/// Row 1: ready again within 2 s; T is the longest time.
pub(super) async fn killed_follower(seed: Seed) -> anyhow::Result<Figures> {
    let mut stage = Stage::set(seed).await?;
    let mut longest = Duration::ZERO;
    for _ in 0..rounds() {
        let follower = stage.cluster.follower().await?;
        stage.cluster.node(follower).kill()?;
        stage.goes_on_after(Instant::now()).await?;
        let begun = Instant::now();
        stage.cluster.node(follower).start()?;
        stage.cluster.node(follower).ready(SOON).await?;
        longest = longest.max(begun.elapsed());
        stage.is_past_the_fault().await?;
    }
    let figures = stage.judge(Some(longest)).await?;
    figures.served_at_least(100.0)?;
    Ok(figures)
}

/// Row 2: T is the longest time from a kill to the first acknowledged write.
pub(super) async fn killed_leader(seed: Seed) -> anyhow::Result<Figures> {
    let mut stage = Stage::set(seed).await?;
    let mut longest = Duration::ZERO;
    for _ in 0..rounds() {
        let leader = stage.cluster.leader().await?;
        stage.cluster.node(leader).kill()?;
        let killed = Instant::now();
        let written = stage.first_write_after(killed).await?;
        longest = longest.max(written - killed);
        stage.cluster.node(leader).start()?;
        stage.cluster.ready().await?;
        stage.is_past_the_fault().await?;
    }
    let figures = stage.judge(Some(longest)).await?;
    figures.served_at_least(100.0)?;
    Ok(figures)
}

/// Row 4: T is the longest time from the restart of all to the first acknowledged write.
pub(super) async fn killed_all(seed: Seed) -> anyhow::Result<Figures> {
    let mut stage = Stage::set(seed).await?;
    let mut longest = Duration::ZERO;
    for _ in 0..rounds() {
        for node in &mut stage.cluster.nodes {
            node.kill()?;
        }
        let begun = Instant::now();
        for node in &mut stage.cluster.nodes {
            node.start()?;
        }
        let written = stage.first_write_after(begun).await?;
        longest = longest.max(written - begun);
        stage.cluster.ready().await?;
    }
    // Calls made while nobody was there had nobody to answer them: R is not judged here.
    stage.judge(Some(longest)).await
}

/// Row 6: a leader that stands still, and wakes believing that it leads. T is the time from its waking until everybody
/// agrees on one leader.
pub(super) async fn frozen_leader(seed: Seed) -> anyhow::Result<Figures> {
    let stage = Stage::set(seed).await?;
    let leader = stage.cluster.leader().await?;
    let node = &stage.cluster.nodes[usize::try_from(leader)? - 1];
    node.freeze()?;
    let frozen = Instant::now();
    let others = stage.cluster.nodes.iter().map(|node| node.id).filter(|&id| id != leader);
    let other = others.min().unwrap_or_default();
    eventually("another node leads", || async {
        let rows = stage.cluster.cli_of(other).rows(&["cluster", "status"]).await?;
        let new = rows.iter().any(|row| row["role"] == "leader" && row["state"] == "ready" && row["id"] != leader);
        anyhow::ensure!(new, "{rows:?}");
        Ok(())
    })
    .await?;
    if nightly() {
        // The fault itself is a time here: a leader that was away for long.
        time::sleep_until(frozen + Duration::from_secs(15)).await;
    }
    stage.cluster.nodes[usize::try_from(leader)? - 1].thaw()?;
    let thawed = Instant::now();
    stage.cluster.converged_on_one_leader().await?;
    let recovery = thawed.elapsed();
    stage.goes_on_after(Instant::now()).await?;
    let figures = stage.judge(Some(recovery)).await?;
    figures.served_at_least(100.0)?;
    Ok(figures)
}

/// Row 3: a learner is killed and comes back; T is the time until it is ready.
pub(super) async fn killed_learner(seed: Seed) -> anyhow::Result<Figures> {
    let mut stage = Stage::set(seed).await?;
    let learner = stage.cluster.add()?;
    learner.start()?;
    let peer = learner.peer.to_string();
    stage.cluster.cli().run(&["cluster", "add", "4", &peer]).await?.ok()?;
    stage.cluster.node(4).ready(SOON).await?;
    stage.cluster.node(4).kill()?;
    stage.goes_on_after(Instant::now()).await?;
    let begun = Instant::now();
    stage.cluster.node(4).start()?;
    stage.cluster.node(4).ready(SOON).await?;
    let recovery = begun.elapsed();
    let figures = stage.judge(Some(recovery)).await?;
    figures.served_at_least(100.0)?;
    Ok(figures)
}

/// Row 5: somebody is killed again as soon as all are there, and a random moment later. T is the time from the last start
/// until all agree on one leader.
pub(super) async fn killed_in_a_loop(seed: Seed) -> anyhow::Result<Figures> {
    let mut stage = Stage::set(seed).await?;
    let mut rng = seed.rng("kills");
    let mut started = Instant::now();
    for _ in 0..MANY_KILLS {
        time::sleep(Duration::from_millis(rng.random_range(300..3_000))).await;
        let id = rng.random_range(1..=3);
        stage.cluster.node(id).kill()?;
        stage.cluster.node(id).start()?;
        started = Instant::now();
        stage.cluster.node(id).ready(SOON).await?;
    }
    stage.cluster.converged_on_one_leader().await?;
    let recovery = started.elapsed();
    stage.goes_on_after(Instant::now()).await?;
    let figures = stage.judge(Some(recovery)).await?;
    figures.served_at_least(99.9)?;
    Ok(figures)
}

/// Row 7: a follower stands still for longer than it may spend alone, while others use accounts up of which it may have a
/// lease. Awake, it may not spend what has been given to others. T is the time from its waking until all agree on one leader.
pub(super) async fn frozen_follower(seed: Seed) -> anyhow::Result<Figures> {
    let (plan, isolation) = isolated().await?;
    let stage = Stage::with(&plan, seed).await?;
    let follower = stage.cluster.follower().await?;
    let node = stage.cluster.nodes.iter().find(|node| node.id == follower).context("it is a member")?;
    let before = stage.accounts.now(&tight()).0;
    node.freeze()?;
    let frozen = Instant::now();
    stage.goes_on_after(Instant::now()).await?;
    // The fault is a time here.
    time::sleep_until(frozen + isolation + isolation / 5).await;
    let during = stage.accounts.now(&tight()).0;
    node.thaw()?;
    let thawed = Instant::now();
    let calls = [alike(&before, 20), alike(&during, 20)].concat();
    burst(&stage.cluster.client, &[node.http_url()], calls, Manner::Stays, seed).await?;
    stage.cluster.converged_on_one_leader().await?;
    let recovery = thawed.elapsed();
    stage.goes_on_after(Instant::now()).await?;
    let figures = stage.judge(Some(recovery)).await?;
    figures.served_at_least(100.0)?;
    Ok(figures)
}

/// A plan with a short T_iso, if the program takes one.
async fn isolated() -> anyhow::Result<(Plan, Duration)> {
    let line = format!("[limits]\nisolation = \"{}s\"\n", SHORT_ISOLATION.as_secs());
    let plan = Plan { more_toml: line, ..Plan::default() };
    let probe = Cluster::prepare(&Plan { nodes: 1, ..plan.clone() })?;
    let config = probe.nodes[0].config();
    let checked = Run::offline(&["check", &config.to_string_lossy()], probe.dir(), &[]).await?;
    if checked.code == 0 {
        return Ok((plan, SHORT_ISOLATION));
    }
    anyhow::ensure!(checked.stderr.contains("limits.isolation"), "{}", checked.stderr);
    say(&format!("  `limits.isolation` is not taken yet: waiting for the default, {LONG_ISOLATION:?}"));
    Ok((Plan::default(), LONG_ISOLATION))
}
