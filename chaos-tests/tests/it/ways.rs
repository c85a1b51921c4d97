//! Limits that come to count in another way, fixed or sliding: what was used is what the provider counted, and nothing is over.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::task::JoinSet;
use tollgate_chaos_tests::{
    Cluster, Outcome, calls::Call, client::LIMIT, eventually, now, resources, resources::api_key,
};

const CAPACITY: u64 = 400;
const CALLERS: usize = 24;
/// No hour ends while a test runs.
const ROOM: Duration = Duration::from_secs(120);
/// How a limit counts, and how after a change of that; each has a part of it in the hands of nodes.
const CHANGES: [(&str, &str); 4] = [
    ("{per: [consumer], unit: tokens, limit: 100000, window: 1h, algorithm: fixed}", "algorithm: sliding"),
    ("{per: [consumer], unit: requests, limit: 400, window: 1h, algorithm: fixed}", "algorithm: sliding"),
    ("{per: [consumer], unit: requests, limit: 400, window: 1h, algorithm: sliding}", "algorithm: fixed"),
    ("{per: [consumer], unit: requests, limit: 400, window: 1m, algorithm: sliding}", "window: 1h"),
];

/// Waits, if need be, until the hour does not end soon.
async fn an_hour_with_room() {
    while now().as_secs() % 3_600 + ROOM.as_secs() > 3_600 {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

#[tokio::test]
async fn a_limit_that_counts_in_another_way_has_used_what_was_used() -> Outcome {
    let cluster = Cluster::start().await?;
    let provider = cluster.with_standard(&[("alice", None)]).await?;
    for (nth, (was, change)) in CHANGES.into_iter().enumerate() {
        an_hour_with_room().await;
        let name = format!("ways-{nth}");
        let key = change.split(':').next().unwrap_or_default();
        let kept: Vec<&str> = was.trim_matches(['{', '}']).split(", ").filter(|part| !part.starts_with(key)).collect();
        let is = format!("{{{}, {change}}}", kept.join(", "));
        cluster.cli().apply_and_wait(&resources::document("Limit", &name, was)).await?;
        let before = provider.settled().await?.total;
        for origin in cluster.origins().iter().cycle().take(10) {
            let answer = cluster.client.send(Call::chat(&api_key("alice"), "mock-1").request(origin), LIMIT).await?;
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
        let after = provider.settled().await?.total;
        let tokens = after.input_tokens + after.output_tokens - before.input_tokens - before.output_tokens;
        cluster.cli().apply_and_wait(&resources::document("Limit", &name, &is)).await?;
        let used = if was.contains("tokens") { tokens } else { 10 };
        shows(&cluster, &name, used, &format!("{was}, then {change}")).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_limit_that_counts_now_so_now_so_under_load_is_never_over_and_all_of_it_is_had() -> Outcome {
    an_hour_with_room().await;
    let cluster = Arc::new(Cluster::start().await?);
    let provider = cluster.with_standard(&[("alice", None)]).await?;
    let ways = ["fixed", "sliding"].map(|way| {
        let spec = format!("{{per: [consumer], unit: requests, limit: {CAPACITY}, window: 1h, algorithm: {way}}}");
        resources::document("Limit", "ways", &spec)
    });
    cluster.cli().apply_and_wait(&ways[0]).await?;
    let is_changing = Arc::new(AtomicBool::new(true));
    let mut callers = JoinSet::new();
    for first in 0..CALLERS {
        callers.spawn(until_refused(Arc::clone(&cluster), first, Arc::clone(&is_changing)));
    }
    for way in ways.iter().rev().cycle().take(7) {
        cluster.cli().apply_and_wait(way).await?;
    }
    is_changing.store(false, Ordering::Release);
    while let Some(done) = callers.join_next().await {
        done??;
    }
    let served = provider.settled().await?.total.requests;
    assert_eq!(served, CAPACITY);
    shows(&cluster, "ways", served, "after seven changes").await?;
    Ok(())
}

/// The account has used this, and nothing is held or withheld.
async fn shows(cluster: &Cluster, limit: &str, used: u64, when: &str) -> anyhow::Result<()> {
    eventually(when, || async {
        let rows = cluster.cli().rows(&["limits", "show"]).await?;
        let row = rows.iter().find(|row| row["limit"] == limit).ok_or_else(|| anyhow::anyhow!("{rows:?}"))?;
        let of = |figure: &str| row[figure].as_u64().unwrap_or(u64::MAX);
        anyhow::ensure!((of("used"), of("held"), of("suspense")) == (used, 0, 0), "{used} were used: {row}");
        Ok(())
    })
    .await
}

/// Calls one after the other, with a pause while the limit changes, until it says no after the last change.
async fn until_refused(cluster: Arc<Cluster>, first: usize, is_changing: Arc<AtomicBool>) -> anyhow::Result<()> {
    for origin in cluster.origins().iter().cycle().skip(first) {
        let changes = is_changing.load(Ordering::Acquire);
        let answer = cluster.client.send(Call::chat(&api_key("alice"), "mock-1").request(origin), LIMIT).await?;
        match answer.status {
            200 | 503 => (),
            429 if changes => (),
            429 => return Ok(()),
            other => anyhow::bail!("{other}: {}", answer.text()),
        }
        if changes {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
    unreachable!("the limit is finite");
}
