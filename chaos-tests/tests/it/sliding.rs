//! A sliding limit and nodes that start again: what was used counts on, and nothing else is withheld.

use std::{sync::Arc, time::Duration};

use tokio::task::JoinSet;
use tollgate_chaos_tests::{
    Cluster, Outcome, Provider, calls::Call, client::LIMIT, eventually, resources, resources::api_key,
};

const CAPACITY: u64 = 30_000;
/// More than any of these calls may reserve.
const LARGEST_RESERVATION: u64 = 400;
const CALLERS: usize = 50;
/// A node is back, or gone, within this.
const SOON: Duration = Duration::from_secs(60);

#[tokio::test]
async fn what_was_used_of_a_sliding_limit_is_known_after_a_restart_and_the_rest_is_there() -> Outcome {
    let mut cluster = Cluster::start().await?;
    let provider = cluster.with_standard(&[("alice", None)]).await?;
    let spec = format!("{{per: [consumer], unit: tokens, limit: {CAPACITY}, window: 1h, algorithm: sliding}}");
    cluster.cli().apply_and_wait(&resources::document("Limit", "sliding", &spec)).await?;
    for id in 1..=3 {
        call_everyone(&cluster, 20).await?;
        adds_up(&cluster, &provider, "before anything").await?;
        let node = cluster.node(id);
        if id == 3 {
            node.terminate()?;
            node.exited(SOON).await?;
        } else {
            node.kill()?;
        }
        node.start()?;
        node.ready(SOON).await?;
        cluster.converged().await?;
        adds_up(&cluster, &provider, if id == 3 { "after a stop" } else { "after a kill" }).await?;
    }
    let cluster = Arc::new(cluster);
    let mut callers = JoinSet::new();
    for first in 0..CALLERS {
        callers.spawn(until_refused(Arc::clone(&cluster), first));
    }
    while let Some(done) = callers.join_next().await {
        done??;
    }
    until_refused(Arc::clone(&cluster), 0).await?;
    let total = provider.settled().await?.total;
    let tokens = total.input_tokens + total.output_tokens;
    assert!((CAPACITY - LARGEST_RESERVATION..=CAPACITY).contains(&tokens), "{tokens} of {CAPACITY}");
    Ok(())
}

/// So many calls, one after the other, by all nodes in turn.
async fn call_everyone(cluster: &Cluster, calls: usize) -> anyhow::Result<()> {
    for origin in cluster.origins().iter().cycle().take(calls) {
        let answer = cluster.client.send(Call::chat(&api_key("alice"), "mock-1").request(origin), LIMIT).await?;
        anyhow::ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
    }
    Ok(())
}

/// The account shows as used what the provider counted, nothing as withheld, and adds up.
async fn adds_up(cluster: &Cluster, provider: &Provider, when: &str) -> anyhow::Result<()> {
    let total = provider.settled().await?.total;
    let tokens = total.input_tokens + total.output_tokens;
    eventually(&format!("{when}: used is what the provider counted"), || async {
        let rows = cluster.cli().rows(&["limits", "show"]).await?;
        let row = rows.iter().find(|row| row["limit"] == "sliding").ok_or_else(|| anyhow::anyhow!("{rows:?}"))?;
        let of = |figure: &str| row[figure].as_u64().unwrap_or(u64::MAX);
        anyhow::ensure!((of("used"), of("held"), of("suspense")) == (tokens, 0, 0), "{tokens} were used: {row}");
        anyhow::ensure!(of("used") + of("leased") + of("free") == CAPACITY, "{row}");
        Ok(())
    })
    .await
}

/// Calls one after the other until the limit says no.
async fn until_refused(cluster: Arc<Cluster>, first: usize) -> anyhow::Result<()> {
    for origin in cluster.origins().iter().cycle().skip(first) {
        let answer = cluster.client.send(Call::chat(&api_key("alice"), "mock-1").request(origin), LIMIT).await?;
        match answer.status {
            200 => (),
            429 => return Ok(()),
            other => anyhow::bail!("{other}: {}", answer.text()),
        }
    }
    unreachable!("the limit is finite");
}
