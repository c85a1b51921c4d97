//! Calls as the SDKs make them, in both dialects, through each node, to providers of both dialects.

use serde_json::{Value, json};
use tollgate_chaos_tests::{
    Cluster, Outcome, Plan, Provider,
    calls::{Call, Dialect, is_complete, streamed_text, text, usage},
    client::{End, LIMIT},
    resources::{self, api_key, provider_key},
};
use tollgate_mock_llm::Options;

/// What the default prompt costs by the provider's rule: four words and one message.
const INPUT: u64 = 5;
const OUTPUT: u64 = 16;

fn both(model: &str) -> [Call; 2] {
    let key = api_key("alice");
    [Call::chat(&key, model), Call::messages(&key, model)]
}

#[tokio::test]
async fn every_node_answers_both_dialects_from_providers_of_both() -> Outcome {
    let cluster = Cluster::start().await?;
    let provider = Provider::start(Options::default()).await?;
    let mut yaml = resources::provider("oai", "openai", &provider.url());
    yaml += &resources::provider("ant", "anthropic", &provider.url());
    for (name, host) in [("oai", "oai.test"), ("ant", "ant.test")] {
        yaml += &resources::route(name, &format!("[{{provider: {name}}}]"), &format!(", hosts: [{host}]"));
    }
    yaml += &(resources::tenant("acme") + &resources::consumer("alice", "acme"));
    cluster.cli().apply_and_wait(&yaml).await?;
    for origin in cluster.origins() {
        for host in ["oai.test", "ant.test"] {
            for call in both("mock-1") {
                let call = call.header("host", host);
                whole(&cluster, &origin, &call).await?;
                streamed(&cluster, &origin, &call.stream()).await?;
            }
        }
    }
    let total = provider.settled().await?.total;
    assert_eq!(total.finished, 3 * 2 * 2 * 2);
    assert_eq!((total.input_tokens, total.output_tokens), (24 * INPUT, 24 * OUTPUT));
    Ok(())
}

async fn whole(cluster: &Cluster, origin: &str, call: &Call) -> anyhow::Result<()> {
    let answer = cluster.client.send(call.request(origin), LIMIT).await?;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let body = answer.json()?;
    assert_eq!(text(call.dialect(), &body).split(' ').count(), 16, "{body}");
    assert_eq!(usage(call.dialect(), &body), (INPUT, OUTPUT), "{body}");
    assert!(!answer.header("x-request-id").is_empty());
    assert!(["oai", "ant"].contains(&answer.header("x-tollgate-provider")));
    assert_eq!(answer.header("x-tollgate-model"), "mock-1");
    Ok(())
}

async fn streamed(cluster: &Cluster, origin: &str, call: &Call) -> anyhow::Result<()> {
    let stream = cluster.client.open(call.request(origin), LIMIT).await?;
    assert_eq!(stream.status, 200);
    let (events, end) = stream.rest().await;
    assert_eq!(end, End::Framed);
    assert!(is_complete(call.dialect(), &events), "{events:?}");
    assert_eq!(streamed_text(call.dialect(), &events).split(' ').count(), 16, "{events:?}");
    let said = match call.dialect() {
        Dialect::OpenAi => events.iter().any(|event| event.json()["usage"]["completion_tokens"] == OUTPUT),
        Dialect::Anthropic => events.iter().any(|event| event.json()["usage"]["output_tokens"] == OUTPUT),
    };
    assert!(said, "{events:?}");
    Ok(())
}

#[tokio::test]
async fn a_stream_shows_usage_only_to_those_who_asked() -> Outcome {
    let cluster = Cluster::with(Plan { nodes: 1, ..Plan::default() }).await?;
    let _provider = cluster.with_standard(&[("alice", None)]).await?;
    let mut call = Call::chat(&api_key("alice"), "mock-1").stream();
    call.body.as_object_mut().unwrap().remove("stream_options");
    let stream = cluster.client.open(call.request(&cluster.origins()[0]), LIMIT).await?;
    let (events, _) = stream.rest().await;
    assert!(is_complete(Dialect::OpenAi, &events));
    assert!(events.iter().all(|event| event.json()["usage"].is_null()), "{events:?}");
    Ok(())
}

#[tokio::test]
async fn the_other_endpoints_answer_too() -> Outcome {
    let cluster = Cluster::with(Plan { nodes: 1, ..Plan::default() }).await?;
    let _provider = cluster.with_standard(&[("alice", None)]).await?;
    let origin = &cluster.origins()[0];
    let bearer = format!("Bearer {}", api_key("alice"));
    let headers = [("authorization", bearer.as_str())];
    let post = async |path: &str, body: Value| -> anyhow::Result<Value> {
        let answer = cluster.client.post(&format!("{origin}{path}"), &headers, &body).await?;
        anyhow::ensure!(answer.status == 200, "{path}: {} {}", answer.status, answer.text());
        answer.json()
    };
    let plain = post("/v1/completions", json!({"model": "m", "prompt": "hi you", "max_tokens": 4})).await?;
    assert_eq!(plain["usage"]["completion_tokens"], 4);
    let vectors = post("/v1/embeddings", json!({"model": "m", "input": ["hi you", "x"]})).await?;
    assert_eq!(vectors["data"].as_array().unwrap().len(), 2);
    let response = post("/v1/responses", json!({"model": "m", "input": "hi you", "max_output_tokens": 4})).await?;
    assert_eq!(response["usage"]["output_tokens"], 4);
    let tools = json!([{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]);
    let body = json!({"model": "m", "tools": tools, "tool_choice": "required", "messages": [{"role": "user", "content": "x"}]});
    let called = post("/v1/chat/completions", body).await?;
    assert_eq!(called["choices"][0]["message"]["tool_calls"][0]["function"]["name"], "look");
    let models = cluster.client.get(&format!("{origin}/v1/models"), &headers).await?.json()?;
    assert!(models["data"].is_array(), "{models}");
    let images =
        cluster.client.post(&format!("{origin}/v1/images/generations"), &headers, &json!({"model": "m"})).await?;
    assert_eq!(images.status, 501, "{}", images.text());
    Ok(())
}

#[tokio::test]
async fn the_callers_key_stays_here_and_unknown_things_pass() -> Outcome {
    let cluster = Cluster::with(Plan { nodes: 1, ..Plan::default() }).await?;
    let provider = cluster.with_standard(&[("alice", None)]).await?;
    let mut call = Call::chat(&api_key("alice"), "mock-1").header("x-extra", "kept").header("x-consumer", "root");
    call.body["unknown_field"] = json!({"deep": [1, 2.5, null]});
    let answer = cluster.client.send(call.request(&cluster.origins()[0]), LIMIT).await?;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let seen = provider.last().await?.pop().unwrap();
    let headers = seen["headers"].to_string();
    assert!(headers.contains(&provider_key("mock")), "{headers}");
    assert!(!seen.to_string().contains(&api_key("alice")), "{seen}");
    assert!(headers.contains("kept") && !headers.contains("x-consumer"), "{headers}");
    assert!(seen["body"].as_str().unwrap().contains(r#""unknown_field":{"deep":[1,2.5,null]}"#), "{seen}");
    Ok(())
}

#[tokio::test]
async fn who_is_unknown_or_goes_nowhere_is_told_in_its_own_dialect() -> Outcome {
    let cluster = Cluster::with(Plan { nodes: 1, ..Plan::default() }).await?;
    let provider = cluster.with_standard(&[("alice", None)]).await?;
    let origin = &cluster.origins()[0];
    let openai = cluster.client.send(Call::chat("sk-nobody", "m").request(origin), LIMIT).await?;
    assert_eq!((openai.status, &openai.json()?["error"]["code"]), (401, &json!("invalid_api_key")));
    let anthropic = cluster.client.send(Call::messages("sk-nobody", "m").request(origin), LIMIT).await?;
    assert_eq!((anthropic.status, &anthropic.json()?["type"]), (401, &json!("error")));
    let nowhere = cluster.client.get(&format!("{origin}/nowhere"), &[]).await?;
    assert_eq!((nowhere.status, &nowhere.json()?["error"]["code"]), (404, &json!("route_not_found")));
    assert_eq!(provider.settled().await?.total.requests, 0);
    Ok(())
}
