//! Limits as callers meet them.

use serde_json::json;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::{
    ai::{completion, provider},
    clients::{Answer, call, get, raw},
    cluster::{Cluster, until},
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
        let bob = get(cluster.address, "/v1/models", "authorization: Bearer sk-bobby\r\n").await;
        assert!(bob.header("ratelimit").is_some_and(|it| it.contains("\"rpm\";r=20;t=")), "{}", bob.raw);

        let stranger = get(cluster.address, "/v1/models", "").await;
        assert_eq!(stranger.status, 401);
        // Whoever that is: a caller of whom nothing is known yet has all of its own, and shares the rest.
        let left = stranger.header("ratelimit").unwrap();
        assert!(
            left.contains("\"rpm\";r=20;") && left.contains("\"tpm\";r=1000;") && left.contains("\"shared\";r=69;")
        );
        for (header, value) in [("limit-tokens", "1000"), ("remaining-tokens", "1000"), ("remaining-requests", "69")] {
            assert_eq!(stranger.header(&format!("x-ratelimit-{header}")), Some(value), "{}", stranger.raw);
        }
        assert!(
            stranger.header("x-ratelimit-reset-tokens").is_some() && !left.contains("elsewhere"),
            "{}",
            stranger.raw
        );
        assert_eq!(get(cluster.address, "/elsewhere", "").await.header("ratelimit-policy"), None, "no route, no limit");
        cluster.nothing_held().await;
    }
}

#[tokio::test]
async fn a_limit_holds_where_the_route_itself_answers() {
    let fixed = |path: &str, action: &str| {
        format!(
            "---\nkind: Route\nmetadata: {{name: {path}}}\nspec: {{match: [{{path: {{exact: /{path}}}}}], {action}}}\n"
        )
    };
    let of_route = |path: &str| {
        format!(
            "---\nkind: Limit\nmetadata: {{name: of-{path}}}\nspec: {{match: {{routes: [{path}]}}, unit: requests, limit: 2, window: 1h}}\n"
        )
    };
    let resources = fixed("fine", "response: {status: 418, body: fine}")
        + &fixed("moved", "redirect: {location: 'https://example.com/', status: 302}")
        + &fixed("free", "response: {body: free}")
        + &of_route("fine")
        + &of_route("moved")
        + "---\nkind: Limit\nmetadata: {name: tokens}\nspec: {match: {routes: [fine]}, unit: tokens, limit: 50, window: 1h}\n";
    let cluster = Cluster::start(&resources[4..]).await;
    for (path, status) in [("/fine", 418), ("/moved", 302)] {
        for left in ["1", "0"] {
            let answer = get(cluster.address, path, "").await;
            let stands = (answer.header("x-ratelimit-limit-requests"), answer.header("x-ratelimit-remaining-requests"));
            assert_eq!((answer.status, stands), (status, (Some("2"), Some(left))), "{}", answer.raw);
        }
        let refused = get(cluster.address, path, "").await;
        assert_eq!((refused.status, refused.code().as_str()), (429, "rate_limit_exceeded"), "{}", refused.raw);
        assert!(refused.header("retry-after").is_some() && refused.body.contains(&path[1..]), "{}", refused.raw);
        assert_eq!(refused.header("x-ratelimit-remaining-requests"), Some("0"));
    }
    assert_eq!(get(cluster.address, "/fine", "").await.header("x-ratelimit-remaining-tokens"), Some("50"));
    assert!(cluster.settled(4).await.iter().all(|it| it.usage.input_tokens + it.usage.output_tokens == 0));
    let free = get(cluster.address, "/free", "").await;
    assert_eq!((free.status, free.header("ratelimit-policy")), (200, None), "{}", free.raw);
    cluster.nothing_held().await;
}

#[tokio::test]
async fn what_no_route_serves_says_how_its_limits_stand() {
    let upstream = Upstream::always(Reply::Keep(json_answer(&completion(7, 5)))).await;
    let limits = limit("tpm", "tokens", 1_000) + &limit("rpm", "requests", 20);
    let shared = "---\nkind: Limit\nmetadata: {name: shared}\nspec: {unit: requests, limit: 70, window: 1h}\n";
    let cluster = Cluster::start(&(provider(&upstream, "openai") + &limits + shared)).await;
    assert_eq!(call(cluster.address, "/v1/chat/completions", BODY).await.status, 200);
    cluster.settled(1).await;
    let alice = "authorization: Bearer sk-alice\r\n";
    let upgrade = format!("connection: upgrade\r\nupgrade: websocket\r\n{alice}");
    let refused = get(cluster.address, "/v1/responses", &upgrade).await;
    assert_eq!((refused.status, refused.code().as_str()), (501, "not_supported"), "{}", refused.raw);
    says_how_it_stands(&refused, 19, 988);
    let trace = format!("TRACE /v1/models HTTP/1.1\r\nhost: test\r\nconnection: close\r\n{alice}\r\n");
    let refused = raw(cluster.address, trace).await;
    assert_eq!((refused.status, refused.code().as_str()), (405, "invalid_request"), "{}", refused.raw);
    assert!(refused.header("allow").is_some_and(|it| it.contains("POST") && !it.contains("TRACE")), "{}", refused.raw);
    says_how_it_stands(&refused, 19, 988);
    assert_eq!(upstream.requests().len(), 1);
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
         kind: Limit\nmetadata: {{name: rps}}\nspec: {{match: {{routes: [limited]}}, unit: requests, limit: 5, window: 1h, durability: quorum}}\n",
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
    assert_eq!(refused.header("x-ratelimit-remaining-requests"), Some("4"), "the last that this node knows");
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

#[tokio::test]
async fn a_permit_is_taken_while_a_request_is_in_flight_and_no_header_counts_it() {
    let upstream = Upstream::start(|request| {
        if request.contains("slow") { Reply::Hang(String::new()) } else { Reply::Keep(answer(200, "", "fine")) }
    })
    .await;
    let resources = format!(
        "kind: Service\nmetadata: {{name: s}}\nspec: {{protocol: http, endpoints: [{{address: '{}'}}]}}\n---\n\
         kind: Route\nmetadata: {{name: all}}\nspec: {{backends: [{{service: s}}]}}\n---\n\
         kind: Limit\nmetadata: {{name: open}}\nspec: {{unit: concurrency, limit: 1}}\n",
        upstream.address
    );
    let cluster = Cluster::start(&resources).await;
    let mut slow = TcpStream::connect(cluster.address).await.unwrap();
    slow.write_all(b"GET /slow HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
    until("the slow request is with its upstream", || upstream.requests().len() == 1).await;
    let refused = get(cluster.address, "/quick", "").await;
    assert_eq!((refused.status, refused.code().as_str()), (429, "rate_limit_exceeded"), "{}", refused.raw);
    assert!(refused.header("retry-after").is_some() && refused.body.contains("`open`"), "{}", refused.raw);
    assert_eq!(refused.header("ratelimit-policy"), Some("\"open\";q=1;qu=\"concurrency\""));
    assert!(!refused.raw.contains("x-ratelimit-"), "{}", refused.raw);
    drop(slow);
    cluster.nothing_held().await;
    for _ in 0..3 {
        assert_eq!(get(cluster.address, "/quick", "").await.status, 200, "one after the other");
        cluster.nothing_held().await;
    }
}

#[tokio::test]
async fn a_limit_of_nothing_admits_nothing() {
    let upstream = Upstream::always(Reply::Keep(json_answer(&completion(7, 5)))).await;
    for (unit, window) in [("tokens", ", window: 1m"), ("requests", ", window: 1h"), ("concurrency", "")] {
        let limit = format!("---\nkind: Limit\nmetadata: {{name: none}}\nspec: {{unit: {unit}, limit: 0{window}}}\n");
        let cluster = Cluster::start(&(provider(&upstream, "openai") + &limit)).await;
        let never = call(cluster.address, "/v1/chat/completions", BODY).await;
        assert_eq!((never.status, never.code().as_str()), (400, "request_exceeds_limit"), "{}", never.raw);
    }
    assert!(upstream.requests().is_empty());
}
