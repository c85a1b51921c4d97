//! Limits as callers meet them.

use serde_json::json;

use crate::{
    ai::{completion, provider},
    clients::{Answer, call, get},
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
    assert_eq!(too_much.header("x-ratelimit-remaining-tokens"), Some("500"), "{}", too_much.raw);
    assert!(too_much.header("x-ratelimit-reset-tokens").is_some() && too_much.header("ratelimit").is_some());
    let open = r#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#;
    assert_eq!(call(cluster.address, "/v1/chat/completions", open).await.status, 200);
    let sent = upstream.requests().remove(0);
    let sent: serde_json::Value = serde_json::from_str(sent.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    let max = sent["max_tokens"].as_u64().or(sent["max_completion_tokens"].as_u64()).unwrap();
    assert!(max > 0 && max < 500, "{sent}");
}

#[tokio::test]
async fn an_answer_for_which_nothing_was_reserved_says_how_the_limits_stand_too() {
    let upstream = Upstream::always(Reply::Keep(json_answer(&completion(7, 5)))).await;
    let per_model = "---\nkind: Limit\nmetadata: {name: by-model}\nspec: {per: [model], unit: inputTokens, limit: 100000, window: 1h}\n";
    let elsewhere = "---\nkind: Route\nmetadata: {name: other}\nspec: {match: [{path: {exact: /other}}], response: {body: fine}}\n---\nkind: Limit\nmetadata: {name: elsewhere}\nspec: {match: {routes: [other]}, unit: requests, limit: 9, window: 1h}\n";
    let shared = "---\nkind: Limit\nmetadata: {name: shared}\nspec: {unit: requests, limit: 70, window: 1h}\n";
    let limits = limit("tpm", "tokens", 1_000) + &limit("rpm", "requests", 20) + per_model + elsewhere + shared;
    let by_model =
        provider(&upstream, "openai").replace("{path: {prefix: /v1}}", "{path: {prefix: /v1}, models: ['*']}");
    for resources in [provider(&upstream, "openai") + &limits, by_model + &limits] {
        let cluster = Cluster::start(&resources).await;
        assert_eq!(call(cluster.address, "/v1/chat/completions", BODY).await.status, 200);
        cluster.settled(1).await;
        cluster.nothing_held().await;
        let large = "x".repeat(11 << 20);
        for (path, body, status) in [
            ("/v1/chat/completions", "not json", 400),
            ("/v1/chat/completions", "{}", 400),
            ("/v1/chat/completions", large.as_str(), 413),
            ("/v1/images/generations", "{}", 501),
            ("/v1/unknown", "{}", 404),
        ] {
            let refused = call(cluster.address, path, body).await;
            assert_eq!(refused.status, status, "{path} {}", refused.raw);
            says_how_it_stands(&refused, 19, 988);
        }
        let list = get(cluster.address, "/v1/models", "authorization: Bearer sk-alice\r\n").await;
        assert_eq!(list.status, 200);
        says_how_it_stands(&list, 19, 988);
        let bob = get(cluster.address, "/v1/models", "authorization: Bearer sk-bob\r\n").await;
        assert!(bob.header("ratelimit").is_some_and(|it| it.contains("\"rpm\";r=20;t=")), "{}", bob.raw);

        let stranger = get(cluster.address, "/v1/models", "").await;
        assert_eq!(
            (stranger.status, stranger.header("ratelimit-policy")),
            (401, Some("\"shared\";q=70;w=3600;qu=\"requests\""))
        );
        assert_eq!(stranger.header("x-ratelimit-remaining-requests"), Some("69"), "{}", stranger.raw);
        assert_eq!(get(cluster.address, "/elsewhere", "").await.header("ratelimit-policy"), None, "no route, no limit");
        assert_eq!(
            get(cluster.address, "/other", "").await.header("ratelimit-policy"),
            None,
            "nothing is limited here"
        );
        cluster.nothing_held().await;
    }
}

/// By the consumer's two limits; the shared one is there as well.
fn says_how_it_stands(answer: &Answer, requests: u64, tokens: u64) {
    for (header, value) in [
        ("x-ratelimit-limit-requests", "20".to_owned()),
        ("x-ratelimit-remaining-requests", requests.to_string()),
        ("x-ratelimit-limit-tokens", "1000".to_owned()),
        ("x-ratelimit-remaining-tokens", tokens.to_string()),
    ] {
        assert_eq!(answer.header(header), Some(value.as_str()), "{header}: {}", answer.raw);
    }
    for header in ["x-ratelimit-reset-requests", "x-ratelimit-reset-tokens"] {
        assert!(answer.header(header).is_some_and(|it| it.ends_with('s')), "{header}: {}", answer.raw);
    }
    let (policy, left) = (answer.header("ratelimit-policy").unwrap(), answer.header("ratelimit").unwrap());
    assert!(policy.contains("\"tpm\";q=1000;w=3600;qu=\"tokens\"") && policy.contains("\"shared\""), "{policy}");
    assert!(left.contains(&format!("\"rpm\";r={requests};t=")) && left.contains("\"shared\";r=69;"), "{left}");
    assert!(!policy.contains("by-model") && !policy.contains("elsewhere"), "{policy}");
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
