//! A provider that refuses, hangs or dies, and the one behind it.

use serde_json::json;
use tollgate_chaos_tests::{
    Cluster, Outcome, Plan, Provider,
    calls::{Call, error_of, is_complete, streamed_text},
    client::LIMIT,
    free_port,
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
