//! Where calls are admitted: from memory or by the log; what that writes, and how long the log takes.

use std::time::Duration;

use tokio::time;
use tokio_util::sync::CancellationToken;
use tollgate_chaos_tests::{calls::Call, figure::Figure, resources::api_key};

use super::{
    Scene,
    load::{Tally, Target},
    metrics::{LOCAL, Snapshot},
    percent, ratio,
};

const CALLERS: usize = 24;
/// Accounts that calls are spread over, but where they are cold.
const KEYS: u64 = 200;
/// Far below what two cores carry.
const MODERATE_PER_SECOND: u32 = 100;

const ENTRIES: &str = "tollgate_quota_entries_total";

pub(super) async fn measure(scene: &Scene) -> anyhow::Result<Vec<Figure>> {
    let per_key = |more: &str| format!("per: [\"header:x-key\"], {more}");
    let ample = "unit: tokens, limit: 1000000000, window: 1m";
    scene.consumer("ample", &[("tokens", &per_key(ample))]).await?;
    scene.consumer("cold", &[("tokens", &per_key(&format!("{ample}, algorithm: fixed")))]).await?;
    scene.consumer("cold-sliding", &[("tokens", &per_key(ample))]).await?;
    scene.consumer("quorum", &[("tokens", &per_key(&format!("{ample}, durability: quorum")))]).await?;
    scene.consumer("tiny", &[("requests", &per_key("unit: requests, limit: 10, window: 1s"))]).await?;
    let mut figures = warm(scene).await?;
    figures.extend(cold(scene).await?);
    figures.push(cold_sliding(scene).await?);
    figures.extend(slow(scene).await?);
    Ok(figures)
}

/// A call of one of some keys.
fn keyed(consumer: &'static str, key: u64) -> Call {
    Call::chat(&api_key(consumer), "mock-1").header("x-key", &format!("key-{key}"))
}

/// What a load came to.
struct Seen {
    tally: Tally,
    before: Snapshot,
    after: Snapshot,
    /// Quota entries of the busiest second.
    most_entries: u64,
}

impl Seen {
    async fn of(scene: &Scene, load: impl Future<Output = anyhow::Result<Tally>>) -> anyhow::Result<Seen> {
        let before = Snapshot::take(&scene.cluster).await?;
        let done = CancellationToken::new();
        let busiest = async {
            let (mut most, mut last) = (0, before.clone());
            while done.run_until_cancelled(time::sleep(Duration::from_secs(1))).await.is_some() {
                let now = Snapshot::take(&scene.cluster).await?;
                most = most.max(now.grown(&last, ENTRIES));
                last = now;
            }
            anyhow::Ok(most)
        };
        let load = async {
            let tally = load.await;
            done.cancel();
            tally
        };
        let (tally, most_entries) = tokio::try_join!(load, busiest)?;
        let after = Snapshot::take(&scene.cluster).await?;
        Ok(Seen { tally, before, after, most_entries })
    }

    fn grown(&self, name: &str) -> u64 {
        self.after.grown(&self.before, name)
    }

    fn local_share(&self) -> f64 {
        let local = self.grown(LOCAL);
        percent(local, local + self.after.by_log(&self.before))
    }

    fn told(&self, time: Duration) -> String {
        let Tally { served, refused, undecided, failed, .. } = self.tally;
        let rate = ratio(self.tally.all(), time.as_secs().max(1));
        format!("{rate:.0}/s, {served} served, {refused} refused, {undecided} undecided, {failed} failed")
    }
}

fn target(scene: &Scene) -> Target {
    Target { client: scene.cluster.client.clone(), origins: scene.cluster.origins() }
}

async fn warm(scene: &Scene) -> anyhow::Result<Vec<Figure>> {
    let ample = |number| keyed("ample", number % KEYS);
    target(scene).closed(CALLERS, Duration::from_secs(2), ample).await?;
    let seen = Seen::of(scene, target(scene).closed(CALLERS, scene.time, ample)).await?;
    let entries = seen.after.applied - seen.before.applied;
    Ok(vec![
        Figure::new("ample: admitted from memory", seen.local_share(), "%")
            .at_least(99.0)
            .detail(seen.told(scene.time)),
        Figure::new("ample: log entries a call, all kinds", ratio(entries, seen.tally.all()), "").at_most(0.02),
        Figure::new("ample: quota entries in the busiest second", ratio(seen.most_entries, 1), "").at_most(200.0),
    ])
}

/// Of three calls two have the same key, of a fixed window.
async fn cold(scene: &Scene) -> anyhow::Result<Vec<Figure>> {
    let once_or_twice = |number: u64| keyed("cold", number * 2 / 3);
    let seen = Seen::of(scene, target(scene).closed(CALLERS, scene.time, once_or_twice)).await?;
    Ok(vec![
        Figure::new("keys seen once or twice: admitted from memory", seen.local_share(), "%")
            .at_least(99.9)
            .detail(seen.told(scene.time)),
        Figure::new("keys seen once or twice: entries in the busiest second", ratio(seen.most_entries, 1), "")
            .at_most(200.0),
    ])
}

/// Nobody has a share of a window that slides before he has asked.
async fn cold_sliding(scene: &Scene) -> anyhow::Result<Figure> {
    let once_or_twice = |number: u64| keyed("cold-sliding", number * 2 / 3);
    let seen = Seen::of(scene, target(scene).closed(CALLERS, scene.time, once_or_twice)).await?;
    Ok(Figure::new("the same of a sliding window: admitted from memory", seen.local_share(), "%")
        .detail(seen.told(scene.time)))
}

/// Calls that only the log may admit, beside the commits that they wait for.
async fn slow(scene: &Scene) -> anyhow::Result<Vec<Figure>> {
    let quorum = |number| keyed("quorum", number % KEYS);
    target(scene).closed(CALLERS, Duration::from_secs(1), quorum).await?;
    let moderate = async {
        let stop = CancellationToken::new();
        let load = target(scene);
        let load = load.open(MODERATE_PER_SECOND, quorum(0), stop.clone());
        let ends = async {
            time::sleep(scene.time).await;
            stop.cancel();
        };
        tokio::join!(load, ends).0
    };
    let mut figures = waits(scene, "by the log, 100 calls/s", &Seen::of(scene, moderate).await?);
    let full = Seen::of(scene, target(scene).closed(CALLERS, scene.time, quorum)).await?;
    figures.extend(waits(scene, "by the log, full rate", &full));
    let tiny = |number| keyed("tiny", number % 20);
    let tiny = Seen::of(scene, target(scene).closed(CALLERS, scene.time, tiny)).await?;
    figures.extend(waits(scene, "budgets near zero, full rate", &tiny));
    Ok(figures)
}

fn waits(scene: &Scene, load: &'static str, seen: &Seen) -> Vec<Figure> {
    let commit = |q| 1e3 * seen.after.quantile(&seen.before, "tollgate_raft_commit_duration_seconds", "", q);
    let waited = |path, q| 1e3 * seen.after.quantile(&seen.before, "tollgate_quota_wait_seconds", path, q);
    let wait = |q| waited("path=\"central\"", q);
    let for_others = |q| waited("path=\"parked\"", q);
    let told = seen.told(scene.time);
    vec![Figure::new(load, wait(0.99), "ms").at_most(2.0 * commit(0.99) + 10.0).detail(format!(
        "p99 of the wait, p50 {:.2} ms; of a commit p50 {:.2}, p99 {:.2} ms; waits for others to end, besides: p50 {:.2}, p99 {:.2} ms; {told}",
        wait(0.5),
        commit(0.5),
        commit(0.99),
        for_others(0.5),
        for_others(0.99)
    ))]
}
