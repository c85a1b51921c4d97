//! Streams that are given what is left of a limit.

use serde_json::{Value, json};

use crate::{
    ai::{completion, provider},
    clients::{Answer, call},
    cluster::Cluster,
    upstream::{Reply, Upstream, events, json as json_answer},
};

fn limit(name: &str, unit: &str, limit: u64, more: &str) -> String {
    format!(
        "---\nkind: Limit\nmetadata: {{name: {name}}}\nspec: {{per: [consumer], unit: {unit}, limit: {limit}, window: 1h{more}}}\n"
    )
}

const USED: u64 = 600;

/// Whole answers use 600 tokens, streams 10.
async fn upstream() -> Upstream {
    Upstream::start(|request| {
        if !request.contains("\"stream\":true") {
            return Reply::Keep(json_answer(&completion(7, USED - 7)));
        }
        let word = r#"data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":"length"}]}"#;
        let usage = r#"data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}"#;
        let (word, usage) = (format!("{word}\n\n"), format!("{usage}\n\n"));
        Reply::Close(events(&[&word, &usage, "data: [DONE]\n\n"]) + "0\r\n\r\n")
    })
    .await
}

fn body(more: Value) -> String {
    let mut body = json!({"model": "m", "stream": true, "messages": [{"role": "user", "content": "hi"}]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body.to_string()
}

/// A cluster in which so much of every limit is used.
async fn used_up(upstream: &Upstream, limits: &str) -> Cluster {
    let cluster = Cluster::start(&(provider(upstream, "openai") + limits)).await;
    let whole = body(json!({"stream": false, "max_tokens": USED - 7}));
    assert_eq!(call(cluster.address, "/v1/chat/completions", &whole).await.status, 200);
    cluster.settled(1).await;
    cluster.nothing_held().await;
    cluster
}

async fn ask(cluster: &Cluster, more: Value) -> Answer {
    call(cluster.address, "/v1/chat/completions", &body(more)).await
}

fn was_sent(upstream: &Upstream) -> Value {
    let sent = upstream.requests().pop().unwrap();
    serde_json::from_str(sent.split("\r\n\r\n").nth(1).unwrap()).unwrap()
}

/// What the bound on a call's input comes to.
async fn input_of(upstream: &Upstream) -> u64 {
    let cluster = Cluster::start(&(provider(upstream, "openai") + &limit("tpm", "tokens", 5_000, ""))).await;
    let first = ask(&cluster, json!({"max_tokens": 100})).await;
    let left: u64 = first.header("x-ratelimit-remaining-tokens").unwrap().parse().unwrap();
    5_000 - 100 - left
}

#[tokio::test]
async fn a_stream_whose_whole_bound_is_not_left_is_given_what_is() {
    let upstream = upstream().await;
    let input = input_of(&upstream).await;
    let cluster = used_up(&upstream, &limit("tpm", "tokens", 1_000, "")).await;
    let fitted = ask(&cluster, json!({"max_tokens": 800})).await;
    assert_eq!(fitted.status, 200, "{}", fitted.raw);
    let max = 1_000 - USED - input;
    assert_eq!(was_sent(&upstream)["max_tokens"], max);
    assert_eq!(fitted.header("x-tollgate-max-tokens"), Some(max.to_string().as_str()));
    assert_eq!(fitted.header("x-ratelimit-remaining-tokens"), Some("0"));
    assert!(fitted.body.contains("\"finish_reason\":\"length\"") && fitted.body.contains("[DONE]"), "{}", fitted.body);
    cluster.settled(2).await;
    cluster.nothing_held().await;
    let account = &cluster.accounts("tpm")[0];
    assert_eq!((account.held, account.overrun), (0, 0), "{account:?}");
}

#[tokio::test]
async fn of_several_limits_the_least_that_is_left_counts() {
    let upstream = upstream().await;
    let limits = limit("tpm", "tokens", 10_000, "") + &limit("otpm", "outputTokens", 700, "");
    let cluster = used_up(&upstream, &(limits + &limit("rpm", "requests", 2, ""))).await;
    let fitted = ask(&cluster, json!({"max_completion_tokens": 300, "max_tokens": 500})).await;
    assert_eq!((fitted.status, fitted.header("x-tollgate-max-tokens")), (200, Some("107")), "{}", fitted.raw);
    let sent = was_sent(&upstream);
    assert_eq!((&sent["max_completion_tokens"], &sent["max_tokens"]), (&json!(107), &json!(107)));
    cluster.settled(2).await;
    let refused = ask(&cluster, json!({"max_tokens": 500})).await;
    assert_eq!((refused.status, refused.code().as_str()), (429, "rate_limit_exceeded"), "{}", refused.raw);
    assert_eq!(upstream.requests().len(), 2, "less output is no request less");
}

#[tokio::test]
async fn a_default_is_fitted_too() {
    let upstream = upstream().await;
    let input = input_of(&upstream).await;
    let cluster = used_up(&upstream, &limit("tpm", "tokens", 1_000, "")).await;
    let fitted = ask(&cluster, json!({})).await;
    let max = (1_000 - USED - input).to_string();
    assert_eq!((fitted.status, fitted.header("x-tollgate-max-tokens")), (200, Some(max.as_str())), "{}", fitted.raw);
}

#[tokio::test]
async fn what_can_not_be_fitted_is_refused_as_ever() {
    let upstream = upstream().await;
    let input = input_of(&upstream).await;
    let tight = limit("tpm", "tokens", USED + input + 63, "");
    let loose = limit("tpm", "tokens", 1_000, "");
    let prompts = limit("tpm", "tokens", USED + input - 1, ", reserve: prompt");
    for (limits, more, why) in [
        (&tight, json!({"max_tokens": 500}), "the last scraps"),
        (&tight, json!({"max_tokens": 64}), "a small bound that does not fit"),
        (&loose, json!({"max_tokens": 800, "stream": false}), "an answer that is not streamed"),
        (&loose, json!({"max_tokens": 800, "reasoning_effort": "high"}), "thoughts that nobody sees"),
        (&prompts, json!({"max_tokens": 500}), "a prompt alone that does not fit"),
    ] {
        let cluster = used_up(&upstream, limits).await;
        let before = upstream.requests().len();
        let refused = ask(&cluster, more).await;
        assert_eq!((refused.status, refused.code().as_str()), (429, "rate_limit_exceeded"), "{why}: {}", refused.raw);
        assert!(refused.header("retry-after").is_some(), "{why}: {}", refused.raw);
        assert_eq!((upstream.requests().len(), refused.header("x-tollgate-max-tokens")), (before, None), "{why}");
        cluster.nothing_held().await;
        assert!(!cluster.metrics().contains("decision=\"refused\"} 2"), "{why}: one refusal, whatever was tried");
    }
    let cluster = used_up(&upstream, &loose).await;
    let never = ask(&cluster, json!({"max_tokens": 1_001})).await;
    assert_eq!((never.status, never.code().as_str()), (400, "request_exceeds_limit"), "{}", never.raw);
    let small = used_up(&upstream, &limit("tpm", "tokens", USED + input + 63, "")).await;
    assert_eq!(ask(&small, json!({"max_tokens": 63})).await.status, 200, "what fits whole is not too little");
}
