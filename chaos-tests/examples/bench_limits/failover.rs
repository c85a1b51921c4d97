//! Calls with ample budgets while the leader is killed, again and again.

use std::{fmt, time::Duration};

use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;
use tollgate_chaos_tests::{SOON, calls::Call, figure::Figure, resources::api_key};

use super::{
    Scene,
    load::{Tally, Target, Wait},
    percent, ratio,
};

/// Far below what two cores carry, so that what is seen is the leader's absence and not theirs.
const PER_SECOND: u32 = 100;
/// A caller that waits for longer notices.
const NOTICED: Duration = Duration::from_millis(250);
/// The leader lies down for so long: others are elected, and serve without it.
const DOWN: Duration = Duration::from_secs(3);

pub(super) async fn measure(scene: &mut Scene, kills: u32) -> anyhow::Result<Vec<Figure>> {
    scene.consumer("steady", &[("tokens", "unit: tokens, limit: 1000000000, window: 1m")]).await?;
    let (undisturbed, _) = under_load(scene, 0).await?;
    let (killed, strokes) = under_load(scene, kills).await?;
    Ok(vec![
        Figure::new("no kill: calls that waited > 250 ms", waited(&undisturbed), "%").detail(told(&undisturbed)),
        Figure::new("leader killed: calls refused or undecided", ratio(unserved(&killed), 1), "")
            .at_most(0.0)
            .detail(format!("{kills} kills; {}", told(&killed))),
        Figure::new("leader killed: calls that waited > 250 ms", waited(&killed), "%")
            .at_most(0.01)
            .detail(Noticed::of(&killed, &strokes).to_string()),
    ])
}

fn unserved(tally: &Tally) -> u64 {
    tally.all() - tally.served
}

fn waited(tally: &Tally) -> f64 {
    percent(tally.longer_than(NOTICED).count() as u64, tally.all())
}

fn told(tally: &Tally) -> String {
    let Tally { served, refused, undecided, failed, moved, .. } = tally;
    let (p99, longest) = (tally.quantile_ms(990), tally.quantile_ms(1_000));
    format!(
        "{served} served, {refused} refused, {undecided} undecided, {failed} failed, {moved} had to go to another node; \
         p99 {p99:.1} ms, longest {longest:.1} ms"
    )
}

/// One leader's end, and its next beginning.
#[derive(Clone, Copy, Debug)]
struct Stroke {
    /// Its place among the nodes.
    node: usize,
    killed: Instant,
    started: Instant,
    ready: Instant,
}

/// Where those were who waited for long, and when.
#[derive(Debug, Default)]
struct Noticed {
    without_leader: u64,
    at_starting: u64,
    beside_starting: u64,
    at_started: u64,
    beside_started: u64,
}

impl Noticed {
    fn of(tally: &Tally, strokes: &[Stroke]) -> Noticed {
        let mut noticed = Noticed::default();
        for wait in tally.longer_than(NOTICED) {
            *noticed.counter(wait, strokes) += 1;
        }
        noticed
    }

    fn counter(&mut self, wait: &Wait, strokes: &[Stroke]) -> &mut u64 {
        // Whoever began just before a kill waited because of it.
        let last = strokes.iter().rfind(|stroke| stroke.killed < wait.begun + wait.time);
        match last {
            Some(it) if wait.begun < it.started && wait.begun + wait.time < it.started => &mut self.without_leader,
            Some(it) if wait.begun < it.ready && wait.node == it.node => &mut self.at_starting,
            Some(it) if wait.begun < it.ready => &mut self.beside_starting,
            Some(it) if wait.node == it.node => &mut self.at_started,
            _ => &mut self.beside_started,
        }
    }
}

impl fmt::Display for Noticed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Noticed { without_leader, at_starting, beside_starting, at_started, beside_started } = self;
        write!(
            f,
            "{without_leader} while it was down; while it started {at_starting} at its node, {beside_starting} elsewhere; \
             once it was ready {at_started} and {beside_started}"
        )
    }
}

async fn under_load(scene: &mut Scene, kills: u32) -> anyhow::Result<(Tally, Vec<Stroke>)> {
    let target = Target { client: scene.cluster.client.clone(), origins: scene.cluster.origins() };
    let call = Call::chat(&api_key("steady"), "mock-1");
    target
        .closed(6, Duration::from_secs(2), {
            let call = call.clone();
            move |_| call.clone()
        })
        .await?;
    let stop = CancellationToken::new();
    let load = target.open(PER_SECOND, call, stop.clone());
    let fate = async {
        let done = strike(scene, kills).await;
        stop.cancel();
        done
    };
    tokio::try_join!(load, fate)
}

async fn strike(scene: &mut Scene, kills: u32) -> anyhow::Result<Vec<Stroke>> {
    time::sleep(scene.time).await;
    let mut strokes = Vec::new();
    for _ in 0..kills {
        let leader = scene.cluster.leader().await?;
        let killed = Instant::now();
        scene.cluster.node(leader).kill()?;
        time::sleep(DOWN).await;
        let started = Instant::now();
        scene.cluster.node(leader).start()?;
        scene.cluster.node(leader).ready(SOON).await?;
        let ready = Instant::now();
        let node = scene.cluster.nodes.iter().position(|node| node.id == leader).unwrap_or_default();
        strokes.push(Stroke { node, killed, started, ready });
        scene.cluster.converged_on_one_leader().await?;
        time::sleep(DOWN).await;
    }
    Ok(strokes)
}
