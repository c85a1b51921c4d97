//! Calls with ample budgets while the leader is killed, again and again.

use std::time::Duration;

use tokio::time;
use tokio_util::sync::CancellationToken;
use tollgate_chaos_tests::{SOON, calls::Call, resources::api_key};

use super::{
    Figure, Scene,
    load::{Tally, Target},
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
    let undisturbed = under_load(scene, 0).await?;
    let killed = under_load(scene, kills).await?;
    Ok(vec![
        Figure::new("no kill: calls that waited > 250 ms", waited(&undisturbed), "%").detail(told(&undisturbed)),
        Figure::new("leader killed: calls refused or undecided", ratio(unserved(&killed), 1), "")
            .at_most(0.0)
            .detail(format!("{kills} kills; {}", told(&killed))),
        Figure::new("leader killed: calls that waited > 250 ms", waited(&killed), "%").at_most(0.01),
    ])
}

fn unserved(tally: &Tally) -> u64 {
    tally.all() - tally.served
}

fn waited(tally: &Tally) -> f64 {
    percent(tally.longer_than(NOTICED), tally.all())
}

fn told(tally: &Tally) -> String {
    let Tally { served, refused, undecided, failed, moved, .. } = tally;
    let (p99, longest) = (tally.quantile_ms(990), tally.quantile_ms(1_000));
    format!(
        "{served} served, {refused} refused, {undecided} undecided, {failed} failed, {moved} had to go to another node; \
         p99 {p99:.1} ms, longest {longest:.1} ms"
    )
}

async fn under_load(scene: &mut Scene, kills: u32) -> anyhow::Result<Tally> {
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
    Ok(tokio::try_join!(load, fate)?.0)
}

async fn strike(scene: &mut Scene, kills: u32) -> anyhow::Result<()> {
    time::sleep(scene.time).await;
    for _ in 0..kills {
        let leader = scene.cluster.leader().await?;
        scene.cluster.node(leader).kill()?;
        time::sleep(DOWN).await;
        scene.cluster.node(leader).start()?;
        scene.cluster.node(leader).ready(SOON).await?;
        scene.cluster.converged_on_one_leader().await?;
        time::sleep(DOWN).await;
    }
    Ok(())
}
