//! A zone that is gone: its node and the endpoints in it at once.

use std::time::Duration;

use tokio::time::Instant;
use tollgate_chaos_tests::{
    Figures, Seed,
    careful::Careful,
    eventually,
    faults::{Mode, Relay},
    nightly,
    resources::{document, provider_key},
};

use super::{
    say,
    stage::{Stage, ample},
};

/// Calls that other zones must have served meanwhile, and after.
const SERVED: u64 = 100;
const CALLERS: usize = 6;

fn rounds() -> usize {
    if nightly() { 10 } else { 2 }
}

/// Row 26: each zone has an endpoint of the provider: a relay to the one that counts. The zone of the leader is lost, and comes back.
/// Callers who retry once are always served; callers of the other zones, who try once, never fail. T is the longest time from the
/// return of the zone until its node is ready and its own endpoint has all of the node's calls again, nobody having done anything.
pub(super) async fn zone_loss(seed: Seed) -> anyhow::Result<Figures> {
    let mut stage = Stage::set(seed).await?;
    let mut relays = Vec::new();
    for _ in &stage.cluster.nodes {
        relays.push(Relay::start(stage.provider.address())?);
    }
    stage.cluster.cli().apply_and_wait(&in_zones(&stage, &relays)).await?;
    let mut longest = Duration::ZERO;
    for _ in 0..rounds() {
        let lost = stage.cluster.leader().await?;
        let at = usize::try_from(lost)? - 1;
        let others = stage.cluster.nodes.iter().filter(|node| node.id != lost);
        let careful = Careful::blind(others, &[ample(), ample().stream()], CALLERS, seed);
        served_more(&careful).await?;
        relays[at].set(Mode::Cut);
        stage.cluster.node(lost).kill()?;
        let gone = Instant::now();
        served_more(&careful).await?;
        stage.goes_on_after(gone).await?;

        relays[at].set(Mode::Pass);
        let back = Instant::now();
        stage.cluster.node(lost).start()?;
        stage.cluster.ready().await?;
        own_endpoint_serves(&stage, at).await?;
        longest = longest.max(back.elapsed());
        served_more(&careful).await?;
        let tally = careful.stop().await;
        say(&format!("  zone of node {lost} lost: {} calls of others, {} failed", tally.served, tally.failures.len()));
        anyhow::ensure!(tally.failures.is_empty(), "{:?}", &tally.failures[..tally.failures.len().min(10)]);
    }
    let figures = stage.judge(Some(longest)).await?;
    figures.served_at_least(100.0)?;
    Ok(figures)
}

/// The provider of the stage, with an endpoint in the zone of each node.
fn in_zones(stage: &Stage, relays: &[Relay]) -> String {
    let endpoint = |(node, relay): (&tollgate_chaos_tests::Node, &Relay)| {
        format!("{{url: \"http://{}/v1\", zone: {}}}", relay.address(), node.zone)
    };
    let endpoints: Vec<String> = stage.cluster.nodes.iter().zip(relays).map(endpoint).collect();
    let checks = "healthCheck: {type: tcp, interval: 200ms, timeout: 200ms}, loadBalancing: {slowStart: 1s}";
    let key = provider_key("mock");
    let spec =
        format!("{{type: openai, endpoints: [{}], keys: [{{value: \"{key}\"}}], {checks}}}", endpoints.join(", "));
    document("Provider", "mock", &spec)
}

async fn served_more(careful: &Careful) -> anyhow::Result<()> {
    let before = careful.so_far().served;
    eventually("the other zones serve", || async {
        let tally = careful.so_far();
        anyhow::ensure!(tally.served > before + SERVED, "{} after {before}: {:?}", tally.served, tally.failures.last());
        Ok(())
    })
    .await
}

/// The node sends nothing to other zones: all three endpoints are fit, as it sees them, and none of its calls spills over.
async fn own_endpoint_serves(stage: &Stage, at: usize) -> anyhow::Result<()> {
    let url = format!("{}/metrics", stage.cluster.nodes[at].admin_url());
    let labels = "upstream=\"mock\",kind=\"provider\"";
    eventually("its zone is taken back", || async {
        let metrics = stage.cluster.client.get(&url, &[]).await?.text();
        for line in [
            format!("tollgate_upstream_endpoints{{{labels},state=\"fit\"}} 3"),
            format!("tollgate_upstream_spill_ratio{{{labels}}} 0"),
        ] {
            anyhow::ensure!(metrics.lines().any(|it| it.starts_with(&line)), "no {line}");
        }
        Ok(())
    })
    .await
}
