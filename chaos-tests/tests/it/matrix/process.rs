//! Processes that are killed or stand still.

use std::time::Duration;

use tokio::time::{self, Instant};
use tollgate_chaos_tests::{Figures, SOON, Seed, eventually, nightly};

use super::stage::Stage;

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
        stage.goes_on_after(Instant::now()).await?;
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
