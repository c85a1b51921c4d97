//! CPU time of the nodes for one proxied call, with limits and without, in turns.

use std::time::Duration;

use tollgate_chaos_tests::{
    Cluster,
    calls::Call,
    figure::{Figure, median},
    resources::api_key,
    usage::processor_time,
};

use super::{
    Scene,
    load::Target,
    metrics::{LOCAL, Snapshot},
    percent, ratio,
};

const CALLERS: usize = 12;
/// Each kind of call has one turn in each round; what the machine does beside hits all kinds alike.
const ROUNDS: usize = 15;
const TURN: Duration = Duration::from_millis(1_500);

/// A call that meets no limit, one, and four.
const KINDS: [&str; 3] = ["unlimited", "limited", "limited-fourfold"];

pub(super) async fn measure(scene: &Scene) -> anyhow::Result<Vec<Figure>> {
    let tokens = "unit: tokens, limit: 1000000000000, window: 1m";
    let requests = "unit: requests, limit: 1000000000000, window: 1m";
    scene.consumer(KINDS[0], &[]).await?;
    scene.consumer(KINDS[1], &[("tokens", tokens)]).await?;
    let per_model = format!("per: [model], {tokens}");
    let a_day = "per: [tenant], unit: tokens, limit: 1000000000000, window: 1d";
    let four = [("minute", tokens), ("model", per_model.as_str()), ("requests", requests), ("day", a_day)];
    scene.consumer(KINDS[2], &four).await?;

    let mut kinds: [Turns; KINDS.len()] = Default::default();
    for round in 0..=ROUNDS {
        for (kind, turns) in KINDS.iter().zip(&mut kinds) {
            // The first round warms up.
            if round == 0 {
                turn(scene, kind, &mut Turns::default()).await?;
            } else {
                turn(scene, kind, turns).await?;
            }
        }
    }
    let [without, with_one, with_four] = kinds;
    Ok(vec![
        without.figure("CPU of the nodes for a call without limits"),
        with_one.figure("CPU of the nodes for a call with a limit"),
        with_four.figure("CPU of the nodes for a call with four limits"),
        Figure::ratio("CPU with a limit, to without", &with_one.costs, &without.costs).at_most(1.05),
        Figure::ratio("CPU with four limits, to without", &with_four.costs, &without.costs),
    ])
}

/// What the turns of one kind of call came to.
#[derive(Default)]
struct Turns {
    /// Microseconds of CPU for each call, by turn.
    costs: Vec<f64>,
    calls: u64,
    entries: u64,
    local: u64,
    central: u64,
}

impl Turns {
    fn figure(&self, name: &'static str) -> Figure {
        let Turns { costs, calls, entries, local, central } = self;
        let told = format!(
            "{calls} calls, {:.4} log entries each, {:.2} % of admissions from memory",
            ratio(*entries, *calls),
            percent(*local, local + central)
        );
        Figure::new(name, median(costs), "µs").detail(told)
    }
}

#[expect(clippy::cast_precision_loss, reason = "some thousand calls")]
async fn turn(scene: &Scene, consumer: &'static str, turns: &mut Turns) -> anyhow::Result<()> {
    let target = Target { client: scene.cluster.client.clone(), origins: scene.cluster.origins() };
    let seen = Snapshot::take(&scene.cluster).await?;
    let before = used(&scene.cluster)?;
    let tally = target.closed(CALLERS, TURN, move |_| Call::chat(&api_key(consumer), "mock-1")).await?;
    let used = used(&scene.cluster)? - before;
    anyhow::ensure!(tally.served == tally.all() && tally.served > 0, "{tally:?}");
    let after = Snapshot::take(&scene.cluster).await?;
    turns.costs.push(used / tally.served as f64);
    turns.calls += tally.served;
    turns.entries += after.applied - seen.applied;
    turns.local += after.grown(&seen, LOCAL);
    turns.central += after.by_log(&seen);
    Ok(())
}

/// Microseconds of CPU time that all nodes have used so far.
fn used(cluster: &Cluster) -> anyhow::Result<f64> {
    let mut all = Duration::ZERO;
    for node in &cluster.nodes {
        all += processor_time(node.pid()?)?;
    }
    Ok(all.as_secs_f64() * 1e6)
}
