//! Limits as callers meet them.

use serde_json::json;

use crate::{
    ai::{completion, provider},
    clients::{call, get},
    cluster::Cluster,
    upstream::{Reply, Upstream, answer, json as json_answer},
};

const BODY: &str = r#"{"model":"m","max_tokens":100,"messages":[{"role":"user","content":"hi"}]}"#;

fn limit(name: &str, unit: &str, limit: u64) -> String {
    format!(
        "---\nkind: Limit\nmetadata: {{name: {name}}}\nspec: {{per: [consumer], unit: {unit}, limit: {limit}, window: 1h}}\n"
    )
}

#[tokio::test]
async fn every_answer_of_a_limited_route_says_how_its_limits_stand() {
    let upstream = Upstream::always(Reply::Keep(json_answer(&completion(7, 5)))).await;
    let resources = provider(&upstream, "openai") + &limit("tpm", "tokens", 1_000) + &limit("rpm", "requests", 2);
    let cluster = Cluster::start(&resources).await;
    let first = call(cluster.address, "/v1/chat/completions", BODY).await;
    assert_eq!(first.status, 200, "{}", first.raw);
    assert_eq!(first.header("x-ratelimit-limit-requests"), Some("2"));
    assert_eq!(first.header("x-ratelimit-remaining-requests"), Some("1"));
    assert_eq!(first.header("x-ratelimit-limit-tokens"), Some("1000"));
    assert!(first.header("x-ratelimit-reset-tokens").is_some_and(|it| it.ends_with('s')));
    let policy = first.header("ratelimit-policy").unwrap();
    assert!(policy.contains("\"tpm\";q=1000;w=3600;qu=\"tokens\""), "{policy}");
    assert!(first.header("ratelimit").unwrap().contains("\"rpm\";r=1;t="));
    cluster.settled(1).await;

    assert_eq!(call(cluster.address, "/v1/chat/completions", BODY).await.status, 200);
    let settled = cluster.settled(2).await;
    assert_eq!((settled[1].usage.input_tokens, settled[1].usage.output_tokens), (7, 5));
    let third = call(cluster.address, "/v1/chat/completions", BODY).await;
    assert_eq!((third.status, third.code().as_str()), (429, "rate_limit_exceeded"), "{}", third.raw);
    assert!(third.json()["error"]["message"].as_str().unwrap().contains("rpm"));
    assert_eq!(third.header("x-ratelimit-remaining-requests"), Some("0"));
    assert!(third.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
    cluster.nothing_held().await;
}

#[tokio::test]
async fn a_request_that_can_never_fit_is_a_400_and_a_default_shrinks_to_what_fits() {
    let upstream = Upstream::always(Reply::Keep(json_answer(&completion(7, 5)))).await;
    let cluster = Cluster::start(&(provider(&upstream, "openai") + &limit("tpm", "tokens", 500))).await;
    let body = json!({"model": "m", "max_tokens": 600, "messages": [{"role": "user", "content": "hi"}]});
    let too_much = call(cluster.address, "/v1/chat/completions", &body.to_string()).await;
    assert_eq!((too_much.status, too_much.code().as_str()), (400, "request_exceeds_limit"), "{}", too_much.raw);
    assert!(too_much.json()["error"]["message"].as_str().unwrap().contains("tpm"));
    assert_eq!(too_much.header("x-ratelimit-limit-tokens"), Some("500"));
    let open = r#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#;
    assert_eq!(call(cluster.address, "/v1/chat/completions", open).await.status, 200);
    let sent = upstream.requests().remove(0);
    let sent: serde_json::Value = serde_json::from_str(sent.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    let max = sent["max_tokens"].as_u64().or(sent["max_completion_tokens"].as_u64()).unwrap();
    assert!(max > 0 && max < 500, "{sent}");
}

#[tokio::test]
async fn without_the_log_a_limited_request_is_refused_and_an_ordinary_one_is_not() {
    let upstream = Upstream::always(Reply::Keep(answer(200, "", "fine"))).await;
    let service = format!(
        "kind: Service\nmetadata: {{name: s}}\nspec: {{protocol: http, endpoints: [{{address: '{}'}}]}}\n---\n\
         kind: Route\nmetadata: {{name: limited}}\nspec: {{match: [{{path: {{prefix: /limited}}}}], backends: [{{service: s}}]}}\n---\n\
         kind: Route\nmetadata: {{name: open}}\nspec: {{backends: [{{service: s}}]}}\n---\n\
         kind: Limit\nmetadata: {{name: rps}}\nspec: {{match: {{routes: [limited]}}, unit: requests, limit: 5, window: 1h}}\n",
        upstream.address
    );
    let cluster = Cluster::start(&service).await;
    let limited = get(cluster.address, "/limited", "").await;
    assert_eq!((limited.status, limited.header("x-ratelimit-remaining-requests")), (200, Some("4")), "{}", limited.raw);
    cluster.settled(1).await;
    cluster.set_reachable(false);
    let refused = get(cluster.address, "/limited", "").await;
    assert_eq!((refused.status, refused.code().as_str()), (503, "quota_unavailable"));
    assert!(refused.header("retry-after").is_some() && refused.body.contains("rps"));
    assert_eq!(refused.header("x-ratelimit-limit-requests"), Some("5"));
    assert_eq!(get(cluster.address, "/open", "").await.status, 200);
    cluster.set_reachable(true);
    assert_eq!(get(cluster.address, "/limited", "").await.status, 200);
}

#[tokio::test]
async fn a_changed_limit_is_met_with_the_newest_configuration() {
    let upstream = Upstream::always(Reply::Keep(json_answer(&completion(7, 5)))).await;
    let cluster = Cluster::start(&(provider(&upstream, "openai") + &limit("rpm", "requests", 5))).await;
    assert_eq!(call(cluster.address, "/v1/chat/completions", BODY).await.status, 200);
    cluster.apply(&limit("rpm", "requests", 50).replace("---\n", ""));
    let answer = call(cluster.address, "/v1/chat/completions", BODY).await;
    assert_eq!((answer.status, answer.header("x-ratelimit-limit-requests")), (200, Some("50")));
}
