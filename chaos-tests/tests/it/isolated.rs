//! A node that nobody hears, and the permits that its streams hold.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::Context;
use tokio::{
    task::JoinSet,
    time::{self, Instant},
};
use tollgate_chaos_tests::{
    Cluster, Outcome, Plan, Provider,
    calls::{Call, is_complete},
    client::{End, Event, EventStream, LIMIT},
    eventually, eventually_within,
    faults::Network,
    resources::{self, api_key},
};
use tollgate_mock_llm::Record;

use crate::matrix::say;

/// Streams at once that the limit allows.
const PERMITS: usize = 4;
/// T_iso. Its streams would last for minutes.
const ISOLATION: Duration = Duration::from_secs(4);
/// Others have the permits well within this.
const GIVEN_WITHIN: Duration = Duration::from_secs(60);
/// Between two tries of those who wait for a permit.
const AGAIN: Duration = Duration::from_millis(50);

/// A stream that lasts for minutes, and tells its usage.
fn long() -> Call {
    let call = Call::chat(&api_key("alice"), "mock-1").stream().max_tokens(4_000);
    call.header("x-mock-output", "4000").header("x-mock-pace", "100ms")
}

async fn cluster(network: Option<&Arc<Network>>) -> anyhow::Result<(Cluster, Provider)> {
    let more_toml = format!("[limits]\nisolation = \"{}s\"\n", ISOLATION.as_secs());
    let plan = Plan { network: network.cloned(), more_toml, ..Plan::default() };
    let mut cluster = Cluster::with(plan).await?;
    cluster.ready().await?;
    let provider = cluster.with_standard(&[("alice", None)]).await?;
    let limit = format!("{{per: [consumer], unit: concurrency, limit: {PERMITS}}}");
    cluster.cli().apply_and_wait(&resources::document("Limit", "open", &limit)).await?;
    Ok((cluster, provider))
}

/// As many streams as there are permits for, from one node. What it refuses is asked again.
async fn fill(cluster: &Cluster, origin: &str) -> anyhow::Result<Vec<EventStream>> {
    let mut streams = Vec::new();
    while streams.len() < PERMITS {
        let stream = cluster.client.open(long().request(origin), LIMIT).await?;
        match stream.status {
            200 => streams.push(stream),
            429 | 503 => time::sleep(AGAIN).await,
            status => anyhow::bail!("status {status}"),
        }
    }
    Ok(streams)
}

/// The most that were answered at the same time, by the provider's own clock.
fn most_at_once(records: &[Record]) -> usize {
    let mut changes = BTreeMap::<(u64, bool), usize>::new();
    for record in records.iter().filter(|record| record.status == 200) {
        // Who ends at the moment at which another begins was there together with it.
        *changes.entry((record.started_us, false)).or_default() += 1;
        if record.ended_us > 0 {
            *changes.entry((record.ended_us, true)).or_default() += 1;
        }
    }
    let (mut now, mut most) = (0_usize, 0);
    for ((_, ends), count) in changes {
        now = if ends { now - count } else { now + count };
        most = most.max(now);
    }
    most
}

/// The stream ended as one that came to its bound, with its usage.
fn is_cut_cleanly(events: &[Event], end: &End) -> anyhow::Result<()> {
    let dialect = long().dialect();
    anyhow::ensure!(is_complete(dialect, events) && *end == End::Framed, "{end:?} after {:?}", events.last());
    let said = |pick: fn(&Event) -> bool| events.iter().any(pick);
    anyhow::ensure!(said(|it| it.json()["choices"][0]["finish_reason"] == "length"), "no finish: {events:?}");
    anyhow::ensure!(said(|it| it.json()["usage"]["completion_tokens"].as_u64().is_some()), "no usage: {events:?}");
    Ok(())
}

/// The node is given up and lives all the same: nobody can tell. Others are given its permits when it has ended its streams.
#[tokio::test]
async fn a_node_that_nobody_hears_ends_its_streams_before_others_have_their_permits() -> Outcome {
    let Some(network) = Network::build(3)? else {
        say("SKIPPED: streams of an isolated node: network namespaces need root");
        return Ok(());
    };
    let network = Arc::new(network);
    let (mut cluster, provider) = cluster(Some(&network)).await?;
    let alone = cluster.follower().await?;
    let origin = cluster.node(alone).http_url();
    let others: Vec<u64> = [1, 2, 3].into_iter().filter(|id| *id != alone).collect();
    let streams = fill(&cluster, &origin).await?;
    let other = cluster.node(others[0]).http_url();
    let refused = cluster.client.open(long().request(&other), LIMIT).await?;
    assert_eq!(refused.status, 429, "all permits are taken");

    for other in &others {
        network.part(alone, *other)?;
    }
    let mut callers = JoinSet::new();
    streams.into_iter().for_each(|stream| drop(callers.spawn(stream.rest())));
    let (cli, id) = (cluster.cli_of(others[0]), alone.to_string());
    eventually("it is given up", || async { cli.run(&["cluster", "remove", &id, "--lost"]).await?.ok() }).await?;
    let next = time::timeout(GIVEN_WITHIN, fill(&cluster, &other)).await.context("nobody is given its permits")??;

    let most = most_at_once(&provider.records().await?);
    say(&format!("streams of an isolated node: permits={PERMITS} most_at_once={most}"));
    assert_eq!((most, next.len()), (PERMITS, PERMITS));
    while let Some(ended) = callers.join_next().await {
        let (events, end) = ended?;
        is_cut_cleanly(&events, &end)?;
    }
    drop(next);
    eventually_within(LIMIT, "the provider is let go", || async {
        let active = provider.witness().await?.total.active;
        anyhow::ensure!(active == 0, "{active}");
        Ok(())
    })
    .await?;
    Ok(())
}

/// It has nothing else to say, and says so now and then.
#[tokio::test]
async fn streams_of_a_node_that_is_heard_go_on_for_longer_than_its_isolation() -> Outcome {
    let (mut cluster, _provider) = cluster(None).await?;
    let follower = cluster.follower().await?;
    let origin = cluster.node(follower).http_url();
    let begun = Instant::now();
    let mut streams = fill(&cluster, &origin).await?;
    while begun.elapsed() < ISOLATION * 3 {
        for stream in &mut streams {
            let event = stream.next().await.map_err(|end| anyhow::anyhow!("{end:?} after {:?}", begun.elapsed()))?;
            let finish = event.json()["choices"][0]["finish_reason"].clone();
            if !finish.is_null() {
                return Err(anyhow::anyhow!("{finish} after {:?}", begun.elapsed()).into());
            }
        }
    }
    Ok(())
}
