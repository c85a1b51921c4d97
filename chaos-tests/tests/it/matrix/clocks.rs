//! Clocks that are wrong.

use std::time::Duration;

use tokio::time::{self, Instant};
use tollgate_chaos_tests::{
    Cluster, Figures, Plan, Seed,
    burst::{Manner, alike, burst},
    eventually,
    faults::{Skew, SkewedClock},
    now,
};

use super::{
    say,
    stage::{Stage, tight},
};

const SECOND: i64 = 1_000;
const HOUR: i64 = 3_600 * SECOND;
const DAY: i64 = 24 * HOUR;

/// A cluster each of whose nodes has a clock of its own, right at first and not yet ready.
pub(crate) fn with_clocks() -> anyhow::Result<(Cluster, Vec<SkewedClock>)> {
    with_clocks_on(&Plan::default())
}

/// The same by a plan.
pub(crate) fn with_clocks_on(plan: &Plan) -> anyhow::Result<(Cluster, Vec<SkewedClock>)> {
    let mut cluster = Cluster::prepare(plan)?;
    let mut clocks = Vec::new();
    for node in &mut cluster.nodes {
        let clock = SkewedClock::build()?;
        node.env = clock.env();
        node.start()?;
        clocks.push(clock);
    }
    Ok((cluster, clocks))
}

struct Clocks {
    stage: Stage,
    clocks: Vec<SkewedClock>,
}

impl Clocks {
    async fn set(seed: Seed) -> anyhow::Result<Clocks> {
        let (cluster, clocks) = with_clocks()?;
        Ok(Clocks { stage: Stage::on(cluster, seed).await?, clocks })
    }

    /// The leader's clock, or a follower's, is wrong for a while; how long it took until a write was acknowledged.
    async fn wrong(&self, skew: Skew, of_leader: bool) -> anyhow::Result<Duration> {
        let cluster = &self.stage.cluster;
        let id = if of_leader { cluster.leader().await? } else { cluster.follower().await? };
        let clock = &self.clocks[usize::try_from(id)? - 1];
        clock.set(skew)?;
        let begun = Instant::now();
        let wrong = self.goes_on(begun).await?;
        clock.set(Skew::default())?;
        let begun = Instant::now();
        Ok(wrong.max(self.goes_on(begun).await?))
    }

    /// Calls are served and writes acknowledged, and still are after some heartbeats and elections that should not be.
    async fn goes_on(&self, begun: Instant) -> anyhow::Result<Duration> {
        self.stage.goes_on_after(begun).await?;
        let first = self.stage.first_write_after(begun).await? - begun;
        time::sleep_until(begun + Duration::from_secs(3)).await;
        self.stage.goes_on_after(Instant::now()).await?;
        Ok(first)
    }

    /// Each of these, on the leader and on a follower. T is the longest time to the next acknowledged write.
    async fn play(self, skews: &[Skew]) -> anyhow::Result<Figures> {
        let mut longest = Duration::ZERO;
        for &skew in skews {
            for of_leader in [true, false] {
                longest = longest.max(self.wrong(skew, of_leader).await?);
            }
        }
        let figures = self.stage.judge(Some(longest)).await?;
        figures.served_at_least(100.0)?;
        Ok(figures)
    }
}

/// Row 28: steps that stay within the day.
pub(super) async fn steps(seed: Seed) -> anyhow::Result<Figures> {
    let steps = [SECOND, -SECOND, HOUR, -HOUR].map(Skew::step);
    Clocks::set(seed).await?.play(&steps).await
}

/// Row 28: steps beyond the day. A window of a day is not over because a clock says so: an account that was used up before
/// each of them is called again after it.
pub(super) async fn leaps(seed: Seed) -> anyhow::Result<Figures> {
    let since_1970 = i64::try_from(now().as_millis())?;
    let clocks = Clocks::set(seed).await?;
    let accounts = &clocks.stage.accounts;
    let (used_up, round) = accounts.now(&tight());
    let mut longest = Duration::ZERO;
    for leap in [DAY, -DAY, -since_1970] {
        for of_leader in [true, false] {
            eventually("the account is used up", || async {
                anyhow::ensure!(accounts.rounds() > round, "callers are on it still");
                Ok(())
            })
            .await?;
            longest = longest.max(clocks.wrong(Skew::step(leap), of_leader).await?);
            let cluster = &clocks.stage.cluster;
            let told = burst(&cluster.client, &cluster.origins(), alike(&used_up, 20), Manner::Stays, seed).await?;
            say(&format!(
                "  after a leap of {leap} ms, of the leader: {of_leader}: {told:?} on an account that was used up"
            ));
        }
    }
    let figures = clocks.stage.judge(Some(longest)).await?;
    figures.served_at_least(100.0)?;
    Ok(figures)
}

/// Row 29: clocks that are fast or slow, wall time alone and all time.
pub(super) async fn rates(seed: Seed) -> anyhow::Result<Figures> {
    let one_and_ten_percent = [10_000, -10_000, 100_000, -100_000];
    let skews: Vec<Skew> = [false, true]
        .into_iter()
        .flat_map(|both| one_and_ten_percent.map(|ppm| Skew { ppm, both, ..Skew::default() }))
        .collect();
    Clocks::set(seed).await?.play(&skews).await
}
