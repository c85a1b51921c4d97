//! A provider that refuses, hangs or dies, and the one behind it.

use std::{collections::BTreeMap, time::Duration};

use serde_json::json;
use tokio::task::JoinSet;
use tollgate_chaos_tests::{
    Cluster, Outcome, Plan, Provider,
    accounts::SHOWN_WITHIN,
    calls::{Call, error_of, is_complete, streamed_text},
    client::LIMIT,
    day_with_room, eventually_within, free_port,
    resources::{self, api_key},
};
use tollgate_mock_llm::Options;

/// Both dialects, whole and streamed.
fn calls() -> Vec<Call> {
    let key = api_key("alice");
    let both = [Call::chat(&key, "mock-1"), Call::messages(&key, "mock-1")];
    both.iter().cloned().chain(both.iter().cloned().map(Call::stream)).collect()
}

/// One node; `first` is tried before a healthy provider, for every kind of failure.
async fn before_a_healthy_one(first_url: &str) -> anyhow::Result<(Cluster, Provider)> {
    let cluster = Cluster::with(Plan { nodes: 1, ..Plan::default() }).await?;
    let second = Provider::start(Options::default()).await?;
    let mut yaml = resources::provider("first", "openai", first_url);
    yaml += &resources::provider("second", "openai", &second.url());
    let more = ", fallbacks: [{provider: second, on: [connectFailure, reset, \"5xx\", \"429\", timeout]}], timeouts: {firstByte: 1s, idle: 1s}";
    yaml += &resources::route("chat", "[{provider: first}]", more);
    yaml += &(resources::tenant("acme") + &resources::consumer("alice", "acme"));
    cluster.cli().apply_and_wait(&yaml).await?;
    Ok((cluster, second))
}

async fn is_served(cluster: &Cluster, call: &Call) -> anyhow::Result<()> {
    let origin = &cluster.origins()[0];
    if call.is_stream() {
        let stream = cluster.client.open(call.request(origin), LIMIT).await?;
        assert_eq!(stream.status, 200);
        let (events, end) = stream.rest().await;
        assert!(is_complete(call.dialect(), &events), "{end:?} {events:?}");
    } else {
        let answer = cluster.client.send(call.request(origin), LIMIT).await?;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.header("x-tollgate-provider"), "second");
    }
    Ok(())
}

#[tokio::test]
async fn nobody_notices_a_provider_that_is_not_there() -> Outcome {
    let (cluster, second) = before_a_healthy_one(&format!("http://{}/v1", free_port())).await?;
    for call in calls() {
        is_served(&cluster, &call).await?;
    }
    assert_eq!(second.settled().await?.total.finished, 4);
    Ok(())
}

#[tokio::test]
async fn nobody_notices_a_provider_that_hangs_closes_or_fails() -> Outcome {
    let first = Provider::start(Options::default()).await?;
    let (cluster, second) = before_a_healthy_one(&first.url()).await?;
    let mut expected = 0;
    for knob in
        [("hang", "true"), ("close", "true"), ("status", "503"), ("status", "500"), ("status", "429"), ("delay", "30s")]
    {
        first.reset().await?;
        first.turn(&[knob]).await?;
        for call in calls() {
            is_served(&cluster, &call).await?;
            expected += 1;
            assert_eq!(second.settled().await?.total.finished, expected, "{knob:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn what_the_caller_did_wrong_is_not_tried_elsewhere() -> Outcome {
    let first = Provider::start(Options::default()).await?;
    let (cluster, second) = before_a_healthy_one(&first.url()).await?;
    first.turn(&[("status", "422")]).await?;
    let call = Call::chat(&api_key("alice"), "mock-1");
    let answer = cluster.client.send(call.request(&cluster.origins()[0]), LIMIT).await?;
    assert_eq!(answer.status, 422, "{}", answer.text());
    assert_eq!(second.settled().await?.total.requests, 0);
    Ok(())
}

#[tokio::test]
async fn a_stream_that_dies_in_the_middle_ends_with_an_error_and_never_looks_complete() -> Outcome {
    let first = Provider::start(Options::default()).await?;
    let (cluster, second) = before_a_healthy_one(&first.url()).await?;
    for cut in ["rst", "fin", "end", "silence"] {
        first.turn(&[("cut", cut), ("pace", "2ms")]).await?;
        for call in calls().into_iter().filter(Call::is_stream) {
            let stream = cluster.client.open(call.request(&cluster.origins()[0]), LIMIT).await?;
            let (events, end) = stream.rest().await;
            assert!(!is_complete(call.dialect(), &events), "{cut}: {events:?}");
            assert!(error_of(&events).is_some(), "{cut}: {end:?} {events:?}");
            assert!(streamed_text(call.dialect(), &events).starts_with("one two three"), "{cut}: {events:?}");
        }
    }
    assert_eq!(second.settled().await?.total.requests, 0, "a started answer is never begun again");
    Ok(())
}

#[tokio::test]
async fn without_a_fallback_the_failure_is_told_in_the_callers_dialect() -> Outcome {
    let cluster = Cluster::with(Plan { nodes: 1, ..Plan::default() }).await?;
    let provider = cluster.with_standard(&[("alice", None)]).await?;
    let origin = &cluster.origins()[0];
    provider.turn(&[("status", "500")]).await?;
    let openai = cluster.client.send(Call::chat(&api_key("alice"), "m").request(origin), LIMIT).await?;
    assert_eq!((openai.status, &openai.json()?["error"]["code"]), (502, &json!("upstream_error")));
    let anthropic = cluster.client.send(Call::messages(&api_key("alice"), "m").request(origin), LIMIT).await?;
    assert_eq!((anthropic.status, &anthropic.json()?["type"]), (502, &json!("error")));
    provider.turn(&[("status", "429"), ("retry-after", "7")]).await?;
    let limited = cluster.client.send(Call::chat(&api_key("alice"), "m").request(origin), LIMIT).await?;
    assert_eq!((limited.status, limited.header("retry-after")), (429, "7"));
    Ok(())
}

/// Callers who find room for an attempt with each provider, and those who come all at once after them.
const WAVES: [usize; 2] = [5, 40];
/// Tokens of one call, by the provider's rule.
const TOKENS: u64 = 5 + 200;

/// The first provider works every answer out and bills it, though nobody waits for it any more.
#[tokio::test]
async fn a_provider_that_bills_after_its_time_out_and_the_fallback_that_answers_stay_within_the_limit() -> Outcome {
    day_with_room(Duration::from_secs(120)).await;
    let mut cluster = Cluster::start().await?;
    cluster.ready().await?;
    let (first, second) = (Provider::start(Options::default()).await?, Provider::start(Options::default()).await?);
    first.turn(&[("delay", "30s")]).await?;
    let limit = 15 * TOKENS;
    let mut yaml = resources::provider("first", "openai", &first.url());
    yaml += &resources::provider("second", "openai", &second.url());
    let more = ", fallbacks: [{provider: second, on: [timeout]}], timeouts: {firstByte: 1s}";
    yaml += &resources::route("chat", "[{provider: first}]", more);
    yaml += &(resources::tenant("acme") + &resources::consumer("alice", "acme"));
    yaml += &resources::tokens_per_day("alice-tokens", "alice", limit);
    cluster.cli().apply_and_wait(&yaml).await?;
    let mut told = BTreeMap::<u16, u64>::new();
    for callers in WAVES {
        let mut wave = JoinSet::new();
        for number in 0..callers {
            let call = Call::chat(&api_key("alice"), "gpt-4o-mini").max_tokens(200).header("x-mock-output", "200");
            let call = if number % 2 == 0 { call } else { call.stream() };
            let (client, origins) = (cluster.client.clone(), cluster.origins());
            let request = call.request(&origins[number % origins.len()]);
            wave.spawn(async move { client.send(request, LIMIT).await.map(|answer| answer.status) });
        }
        while let Some(status) = wave.join_next().await {
            *told.entry(status??).or_default() += 1;
        }
    }
    let billed = first.settled().await?.total;
    let served = second.settled().await?.total;
    let witnessed = billed.input_tokens + billed.planned_tokens + served.input_tokens + served.output_tokens;
    println!("fallback (billed after its time-out) limit={limit} witnessed={witnessed} told={told:?}");
    assert!(told.contains_key(&200) && told.contains_key(&429), "{told:?}");
    assert_eq!(told.get(&200).copied().unwrap_or_default(), served.finished, "{told:?}");
    assert!(told.keys().all(|status| [200, 429, 504].contains(status)), "{told:?}");
    assert!(witnessed <= limit, "{witnessed} of {limit}: {told:?}");
    eventually_within(SHOWN_WITHIN, "what both may bill is charged", || async {
        let rows = cluster.cli().rows(&["limits", "show"]).await?;
        let row = rows.iter().find(|row| row["limit"] == "alice-tokens");
        let row = row.ok_or_else(|| anyhow::anyhow!("no account in {rows:?}"))?;
        anyhow::ensure!(row["held"] == 0, "{row}");
        let used = row["used"].as_u64().unwrap_or_default();
        anyhow::ensure!((witnessed..=limit).contains(&used), "{witnessed} witnessed: {row}");
        Ok(())
    })
    .await?;
    Ok(())
}
