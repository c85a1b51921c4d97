//! Bursts over the edges of windows: each window by itself, by the provider's own times.

use std::time::Duration;

use tokio::time::{self, Instant};
use tollgate_chaos_tests::{
    Figures, Outcome, Seed,
    burst::{Manner, alike, burst},
    calls::Call,
    checkers,
    faults::Skew,
    nightly, now,
    resources::{self, api_key, document},
};

use super::{CALLERS, Scene};
use crate::matrix::{clocks, say};

/// From the admission of a call to its beginning at the provider, on a machine that is busy. A call that began so shortly
/// after an edge may belong to the window before.
const SLACK: Duration = Duration::from_millis(400);

/// A limit that opens anew with every window, and callers who never stop asking, for so many windows and a half.
async fn rolls(scene: Scene, name: &str, windows: u32, limit: u64) -> anyhow::Result<Figures> {
    let (window, length) = match name {
        "minute" => ("1m", Duration::from_secs(60)),
        _ => ("1s", Duration::from_secs(1)),
    };
    let spec = format!("{{per: [consumer], unit: tokens, limit: {limit}, window: {window}, algorithm: fixed}}");
    let yaml = resources::consumer(name, "acme") + &document("Limit", &format!("{name}-tokens"), &spec);
    scene.cluster.cli().apply_and_wait(&yaml).await?;
    let call = Call::chat(&api_key(name), name).max_tokens(100).header("x-mock-output", "100");
    let begun = now();
    let end = Instant::now() + length * windows + length / 2;
    let (mut admitted, mut refused) = (0, 0);
    while Instant::now() < end {
        let calls = alike(&call, CALLERS);
        let told = burst(&scene.cluster.client, &scene.cluster.origins(), calls, Manner::Stays, scene.seed).await?;
        admitted += told.admitted;
        refused += told.refused;
        // The load between two bursts of a window that is used up.
        time::sleep(length / 20).await;
    }
    scene.provider.settled().await?;
    let records = scene.provider.records().await?;
    let over = checkers::over_admitted_in_windows(&records, length, SLACK, limit);
    let witnessed = scene.provider.tokens(name).await?;
    // Even the calls that might belong to either of two windows have to fit into all windows that there were.
    let number = |time: Duration| time.as_micros() / length.as_micros();
    let touched = u64::try_from(number(now()) - number(begun) + 1)?;
    let over_in_all = checkers::over_admitted(witnessed, limit * touched);
    say(&format!(
        "overshoot (windows of {window} rolling over) limit={limit} windows={touched} witnessed={witnessed} \
         admitted={admitted} refused={refused} over={over} over_in_all={over_in_all} seed={}",
        scene.seed
    ));
    anyhow::ensure!((over, over_in_all) == (0, 0), "{over} tokens over in a window, {over_in_all} in all");
    anyhow::ensure!(refused > 0 && witnessed > limit, "no window was contested, or none rolled over");
    Ok(Figures { over_admitted: Some(over), served: admitted + refused, ..Figures::default() })
}

#[tokio::test]
async fn windows_of_a_second_roll_over_under_bursts() -> Outcome {
    rolls(Scene::set().await?, "second", 6, 2_000).await?;
    Ok(())
}

#[tokio::test]
async fn windows_of_a_minute_roll_over_under_bursts() -> Outcome {
    if !nightly() {
        say("SKIPPED: two edges of a minute take two minutes (set TOLLGATE_NIGHTLY=1)");
        return Ok(());
    }
    rolls(Scene::set().await?, "minute", 2, 10_000).await?;
    Ok(())
}

/// Row 30 of the fault matrix: twenty edges, and no two nodes agree on when they are.
pub(crate) async fn skewed(seed: Seed) -> anyhow::Result<Figures> {
    let (cluster, clocks) = clocks::with_clocks()?;
    for (clock, offset_ms) in clocks.iter().zip([-50, 0, 50]) {
        clock.set(Skew::step(offset_ms))?;
    }
    rolls(Scene { seed, ..Scene::on(cluster).await? }, "skewed", 20, 2_000).await
}
