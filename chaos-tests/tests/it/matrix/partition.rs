//! Networks in which some don't hear others. Clients reach everybody all the time.

use std::{sync::Arc, time::Duration};

use rand::RngExt;
use tokio::time::{self, Instant};
use tollgate_chaos_tests::{Cluster, Figures, Plan, Seed, eventually, faults::Network, nightly};

use super::{Skipped, stage::Stage};

const IDS: [u64; 3] = [1, 2, 3];
/// A cut between two others in the flapping row.
const FLAP_MS: std::ops::Range<u64> = 1_000..2_000;

/// A stage whose nodes have networks of their own.
async fn apart(seed: Seed) -> anyhow::Result<(Stage, Arc<Network>)> {
    let Some(network) = Network::build(3)? else { return Err(Skipped("network namespaces need root").into()) };
    let network = Arc::new(network);
    let mut cluster = Cluster::prepare(&Plan { network: Some(Arc::clone(&network)), ..Plan::default() })?;
    for node in &mut cluster.nodes {
        node.start()?;
    }
    Ok((Stage::on(cluster, seed).await?, network))
}

fn others(id: u64) -> impl Iterator<Item = u64> {
    IDS.into_iter().filter(move |&other| other != id)
}

/// Row 19: nobody hears the leader, then nobody a follower, and nightly nobody anybody; the rest carries on. T is the longest
/// time from the healing until all agree on one leader.
pub(super) async fn symmetric(seed: Seed) -> anyhow::Result<Figures> {
    let (stage, network) = apart(seed).await?;
    let mut recovery = Duration::ZERO;
    for of_leader in [true, false] {
        let leader = stage.cluster.leader().await?;
        let alone = if of_leader { leader } else { stage.cluster.follower().await? };
        for other in others(alone) {
            network.part(alone, other)?;
        }
        another_leads(&stage, alone, leader).await?;
        stage.goes_on_after(Instant::now()).await?;
        for other in others(alone) {
            network.join(alone, other)?;
        }
        recovery = recovery.max(whole_again(&stage).await?);
    }
    if nightly() {
        recovery = recovery.max(all_alone(&stage, &network).await?);
    }
    let figures = stage.judge(Some(recovery)).await?;
    if !nightly() {
        // With everybody alone there is nobody to answer.
        figures.served_at_least(100.0)?;
    }
    Ok(figures)
}

/// 1+1+1, then every plug pulled: no node may decide anything alone.
async fn all_alone(stage: &Stage, network: &Network) -> anyhow::Result<Duration> {
    for (one, other) in [(1, 2), (1, 3), (2, 3)] {
        network.part(one, other)?;
    }
    // The fault is a time here: longer than any election or lease of leadership.
    time::sleep(Duration::from_secs(10)).await;
    for (one, other) in [(1, 2), (1, 3), (2, 3)] {
        network.join(one, other)?;
    }
    let first = whole_again(stage).await?;
    for id in IDS {
        network.plug(id, false)?;
    }
    time::sleep(Duration::from_secs(10)).await;
    for id in IDS {
        network.plug(id, true)?;
    }
    Ok(first.max(whole_again(stage).await?))
}

/// Waits until those who hear each other have a leader; the one that is alone may still believe that it leads.
async fn another_leads(stage: &Stage, alone: u64, leader: u64) -> anyhow::Result<()> {
    if alone != leader {
        return Ok(());
    }
    let witness = others(alone).next().unwrap_or_default();
    eventually("another node leads", || async {
        let rows = stage.cluster.cli_of(witness).rows(&["cluster", "status"]).await?;
        let new = rows.iter().any(|row| row["role"] == "leader" && row["state"] == "ready" && row["id"] != alone);
        anyhow::ensure!(new, "{rows:?}");
        Ok(())
    })
    .await
}

async fn whole_again(stage: &Stage) -> anyhow::Result<Duration> {
    let healed = Instant::now();
    stage.cluster.converged_on_one_leader().await?;
    let took = healed.elapsed();
    stage.goes_on_after(Instant::now()).await?;
    Ok(took)
}

/// Row 20: packets are lost one way, for every ordered pair; then two that don't hear each other but both hear the third. T is
/// the longest time from the fault to the next acknowledged write, *during* the fault.
pub(super) async fn asymmetric(seed: Seed) -> anyhow::Result<Figures> {
    let (stage, network) = apart(seed).await?;
    let mut longest = Duration::ZERO;
    for from in IDS {
        for to in others(from) {
            network.cut(from, to)?;
            longest = longest.max(goes_on(&stage).await?);
            network.heal(from, to)?;
            whole_again(&stage).await?;
        }
    }
    for bridge in IDS {
        let apart: Vec<u64> = others(bridge).collect();
        network.part(apart[0], apart[1])?;
        longest = longest.max(goes_on(&stage).await?);
        network.join(apart[0], apart[1])?;
        whole_again(&stage).await?;
    }
    let figures = stage.judge(Some(longest)).await?;
    figures.served_at_least(100.0)?;
    Ok(figures)
}

/// Calls are served and writes acknowledged while the fault lasts; how long the first of these writes took.
async fn goes_on(stage: &Stage) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    stage.goes_on_after(begun).await?;
    let first = stage.first_write_after(begun).await? - begun;
    // The fault is a time here: long enough for an election that should not be, and for the one after it.
    time::sleep_until(begun + Duration::from_secs(3)).await;
    stage.goes_on_after(Instant::now()).await?;
    Ok(first)
}

/// Row 25: whoever leads is cut off for a second or two, again and again for a minute. T is the time from the last healing
/// until all agree on one leader.
pub(super) async fn flapping(seed: Seed) -> anyhow::Result<Figures> {
    let (stage, network) = apart(seed).await?;
    let mut rng = seed.rng("flaps");
    let end = Instant::now() + Duration::from_secs(60);
    while Instant::now() < end {
        let leader = stage.cluster.leader().await?;
        for other in others(leader) {
            network.part(leader, other)?;
        }
        time::sleep(Duration::from_millis(rng.random_range(FLAP_MS))).await;
        for other in others(leader) {
            network.join(leader, other)?;
        }
        time::sleep(Duration::from_millis(rng.random_range(FLAP_MS))).await;
    }
    let recovery = whole_again(&stage).await?;
    let figures = stage.judge(Some(recovery)).await?;
    figures.served_at_least(99.9)?;
    Ok(figures)
}
