//! Limits that only count, limits that hold a part, and limits at the ends of what numbers can say.

use crate::{
    ai::{completion, provider},
    clients::{call, get},
    cluster::Cluster,
    upstream::{Reply, Upstream, json as json_answer},
};

const CHAT: &str = "/v1/chat/completions";
const BODY: &str = r#"{"model":"m","max_tokens":100,"messages":[{"role":"user","content":"hi"}]}"#;

fn limit(name: &str, spec: &str) -> String {
    format!("---\nkind: Limit\nmetadata: {{name: {name}}}\nspec: {{per: [consumer], window: 1h, {spec}}}\n")
}

#[tokio::test]
async fn a_shadow_limit_counts_and_reports_and_refuses_nothing_until_it_is_in_force() {
    let upstream = Upstream::always(Reply::Keep(json_answer(&completion(7, 5)))).await;
    let shadow = limit("trial", "unit: outputTokens, limit: 20, mode: shadow");
    let cluster = Cluster::start(&(provider(&upstream, "openai") + &shadow)).await;
    for call_number in 1..=3 {
        // 100 tokens of output alone are more than it holds: in force, each of them would be a 400.
        let answer = call(cluster.address, CHAT, BODY).await;
        assert_eq!(answer.status, 200, "{}", answer.raw);
        assert_eq!(answer.header("ratelimit"), None, "what refuses nothing is not told: {}", answer.raw);
        assert!(answer.header("x-tollgate-max-tokens").is_none(), "nor does it bound anything");
        cluster.settled(call_number).await;
    }
    let account = cluster.accounts("trial").remove(0);
    assert_eq!((account.used, account.held, account.free, account.shadow), (15, 0, 5, true));
    let metrics = cluster.metrics();
    assert!(
        metrics.contains("tollgate_quota_decisions_total{limit=\"trial\",decision=\"shadow_refused\"} 3"),
        "{metrics}"
    );

    cluster.apply(&limit("trial", "unit: outputTokens, limit: 500, mode: enforce")[4..]);
    let answer = call(cluster.address, CHAT, BODY).await;
    assert_eq!((answer.status, answer.header("x-ratelimit-limit-tokens")), (200, Some("500")), "{}", answer.raw);
    cluster.settled(4).await;
    assert_eq!(cluster.accounts("trial")[0].used, 20, "what was counted is used");
    cluster.apply(&limit("trial", "unit: outputTokens, limit: 110, mode: enforce")[4..]);
    assert_eq!(call(cluster.address, CHAT, BODY).await.status, 429);
    cluster.apply(&limit("trial", "unit: outputTokens, limit: 110, mode: shadow")[4..]);
    assert_eq!(call(cluster.address, CHAT, BODY).await.status, 200);
    cluster.settled(5).await;
    assert_eq!(cluster.accounts("trial")[0].used, 25);
    cluster.nothing_held().await;
}

#[tokio::test]
async fn a_shadow_limit_counts_beside_one_in_force_and_what_is_refused_is_not_counted() {
    let upstream = Upstream::always(Reply::Keep(json_answer(&completion(7, 5)))).await;
    let limits =
        limit("trial", "unit: requests, limit: 1000, mode: shadow") + &limit("few", "unit: requests, limit: 2");
    let cluster = Cluster::start(&(provider(&upstream, "openai") + &limits)).await;
    for status in [200, 200, 429] {
        assert_eq!(call(cluster.address, CHAT, BODY).await.status, status);
    }
    cluster.settled(2).await;
    assert_eq!(cluster.accounts("trial")[0].used, 2);
    let metrics = cluster.metrics();
    assert!(metrics.contains("limit=\"trial\",decision=\"shadow_granted\"} 2"), "{metrics}");
    assert!(metrics.contains("tollgate_quota_wait_seconds_count{path=\"central\"} 2"), "{metrics}");
}

#[tokio::test]
async fn of_a_limit_that_reserves_the_prompt_the_rest_is_counted_after_and_blocks_while_it_is_over() {
    let upstream = Upstream::always(Reply::Keep(json_answer(&completion(7, 150)))).await;
    let prompt = limit("prompt", "unit: tokens, limit: 300, reserve: prompt");
    let cluster = Cluster::start(&(provider(&upstream, "openai") + &prompt)).await;
    let generous = BODY.replace("100", "100000");
    let first = call(cluster.address, CHAT, &generous).await;
    assert_eq!(first.status, 200, "the answer's bound is not held: {}", first.raw);
    assert!(first.header("x-tollgate-max-tokens").is_none(), "{}", first.raw);
    cluster.settled(1).await;
    let account = cluster.accounts("prompt").remove(0);
    assert_eq!((account.used + account.overrun, account.held), (157, 0));
    assert!(account.overrun > 0, "{account:?}");
    assert_eq!(call(cluster.address, CHAT, &generous).await.status, 200, "some is left");
    cluster.settled(2).await;
    let refused = call(cluster.address, CHAT, &generous).await;
    assert_eq!((refused.status, refused.code().as_str()), (429, "rate_limit_exceeded"), "{}", refused.raw);
    assert_eq!(refused.header("x-ratelimit-remaining-tokens"), Some("0"));
    cluster.nothing_held().await;
}

#[tokio::test]
async fn output_that_is_counted_after_needs_something_left_before() {
    let upstream = Upstream::always(Reply::Keep(json_answer(&completion(7, 100)))).await;
    let prompt = limit("out", "unit: outputTokens, limit: 100, reserve: prompt");
    let cluster = Cluster::start(&(provider(&upstream, "openai") + &prompt)).await;
    assert_eq!(call(cluster.address, CHAT, BODY).await.status, 200);
    cluster.settled(1).await;
    assert_eq!(call(cluster.address, CHAT, BODY).await.status, 429, "exactly used up");
}

#[tokio::test]
async fn the_greatest_limit_is_told_in_full_and_in_structured_fields_as_far_as_they_go() {
    let open = "kind: Route\nmetadata: {name: open}\nspec: {match: [{path: {prefix: /}}], response: {body: fine}}\n";
    let most =
        "---\nkind: Limit\nmetadata: {name: most}\nspec: {unit: requests, window: 1h, limit: 9223372036854775807}\n";
    let cluster = Cluster::start(&format!("{open}{most}")).await;
    let answer = get(cluster.address, "/", "").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("x-ratelimit-limit-requests"), Some("9223372036854775807"));
    assert_eq!(answer.header("x-ratelimit-remaining-requests"), Some("9223372036854775806"));
    assert!(answer.header("ratelimit-policy").is_some_and(|it| it.contains(";q=999999999999999;")), "{}", answer.raw);
    assert!(answer.header("ratelimit").is_some_and(|it| it.contains(";r=999999999999999;")), "{}", answer.raw);
}

#[tokio::test]
async fn a_limit_lowered_below_what_is_used_refuses_until_the_window_turns() {
    let upstream = Upstream::always(Reply::Keep(json_answer(&completion(7, 5)))).await;
    let cluster = Cluster::start(&(provider(&upstream, "openai") + &limit("few", "unit: requests, limit: 5"))).await;
    for left in ["4", "3", "2"] {
        let answer = call(cluster.address, CHAT, BODY).await;
        assert_eq!(answer.header("x-ratelimit-remaining-requests"), Some(left));
    }
    cluster.settled(3).await;
    cluster.apply(&limit("few", "unit: requests, limit: 2")[4..]);
    let refused = call(cluster.address, CHAT, BODY).await;
    assert_eq!((refused.status, refused.header("x-ratelimit-remaining-requests")), (429, Some("0")), "{}", refused.raw);
    let account = cluster.accounts("few").remove(0);
    assert_eq!((account.capacity, account.used, account.free), (2, 3, -1));
    cluster.apply(&limit("few", "unit: requests, limit: 4")[4..]);
    assert_eq!(call(cluster.address, CHAT, BODY).await.status, 200);
}
