//! A fallback answers: what the provider before it may have used is charged as well.

use crate::{
    ai::{completion, two},
    clients::call,
    cluster::{Cluster, until},
    upstream::{Reply, Upstream, answer, json},
};

const CHAT: &str = "/v1/chat/completions";
const PROMPT: &str = "{(x)=>y;}[0]=a<b?c:d;";
/// The caller's own bound.
const MOST: u64 = 100;
/// What the second provider says.
const SERVED: (u64, u64) = (9, 3);

fn body() -> String {
    format!(r#"{{"model":"m","max_tokens":{MOST},"messages":[{{"role":"user","content":"{PROMPT}"}}]}}"#)
}

fn limit(name: &str, unit: &str, limit: u64, more: &str) -> String {
    format!(
        "---\nkind: Limit\nmetadata: {{name: {name}}}\nspec: {{per: [consumer], window: 1h, unit: {unit}, limit: {limit}{more}}}\n"
    )
}

fn served() -> Reply {
    Reply::Keep(json(&completion(SERVED.0, SERVED.1)))
}

/// A gateway whose providers always answer so.
async fn behind(first: Reply, second: Reply, limits: &str) -> (Upstream, Upstream, Cluster) {
    let (first, second) = (Upstream::always(first).await, Upstream::always(second).await);
    let resources = two(&first, &second, "openai", "timeout, reset, connectFailure, '5xx'");
    let cluster = Cluster::start(&(resources + limits)).await;
    (first, second, cluster)
}

fn used(cluster: &Cluster, limit: &str) -> u64 {
    cluster.accounts(limit).first().map_or(0, |account| account.used)
}

#[tokio::test]
async fn what_a_provider_may_have_used_that_brought_no_answer_is_charged_beside_what_the_fallback_used() {
    for (reply, charged) in [
        (Reply::Hang(String::new()), true),
        (Reply::Reset(String::new()), true),
        (Reply::Keep(answer(200, "", "<html>")), true),
        (Reply::Keep(answer(503, "", "{}")), false),
    ] {
        let limits = limit("all", "tokens", 1_000_000, "")
            + &limit("out", "outputTokens", 1_000_000, "")
            + &limit("in", "inputTokens", 1_000_000, "")
            + &limit("calls", "requests", 10, "")
            + &limit("looking", "tokens", 1_000_000, ", mode: shadow");
        let (_first, _second, cluster) = behind(reply.clone(), served(), &limits).await;
        let got = call(cluster.address, CHAT, &body()).await;
        assert_eq!((got.status, got.header("x-tollgate-provider")), (200, Some("second")), "{}", got.raw);
        let rows = cluster.settled(1).await;
        let usage = rows[0].usage;
        assert_eq!((rows.len(), usage.input_tokens, usage.output_tokens), (1, 9, 3), "one row, of the one that served");
        cluster.nothing_held().await;
        let (input, output) = if charged { (PROMPT.len() as u64, MOST) } else { (0, 0) };
        let is_charged = || used(&cluster, "out") == SERVED.1 + output;
        until(&format!("{reply:?} to be charged"), is_charged).await;
        let least = SERVED.0 + input;
        assert!((least..least + 100).contains(&used(&cluster, "in")), "{reply:?}: {}", used(&cluster, "in"));
        assert_eq!(used(&cluster, "all"), used(&cluster, "in") + used(&cluster, "out"), "{reply:?}");
        assert_eq!(used(&cluster, "looking"), used(&cluster, "all"), "{reply:?}");
        assert_eq!(used(&cluster, "calls"), 1, "to its caller it is one request");
        for limit in ["all", "in", "out", "calls"] {
            assert_eq!((cluster.accounts(limit)[0].held, cluster.accounts(limit)[0].overrun), (0, 0), "{limit}");
        }
    }
}

/// The limit holds one of them and not two: what may not be used is not sent out.
#[tokio::test]
async fn a_fallback_that_the_limits_do_not_hold_beside_the_attempt_before_is_not_asked() {
    for (most, is_served) in [(2 * MOST - 1, false), (2 * MOST, true)] {
        let (_first, second, cluster) =
            behind(Reply::Hang(String::new()), served(), &limit("out", "outputTokens", most, "")).await;
        let got = call(cluster.address, CHAT, &body()).await;
        let expected = if is_served { 200 } else { 504 };
        assert_eq!((got.status, second.requests().len()), (expected, usize::from(is_served)), "{}", got.raw);
        cluster.nothing_held().await;
        let charged = MOST + if is_served { SERVED.1 } else { 0 };
        until("what may have been used to be charged", || used(&cluster, "out") == charged).await;
    }
}

/// What is held for an attempt that no provider worked for is given back, and what was before it stays charged.
#[tokio::test]
async fn a_fallback_that_does_no_work_costs_nothing() {
    let limits = limit("out", "outputTokens", 1_000_000, "");
    let refused = Reply::Keep(answer(503, "", "{}"));
    let (_first, second, cluster) = behind(Reply::Hang(String::new()), refused, &limits).await;
    let got = call(cluster.address, CHAT, &body()).await;
    assert_eq!((got.status, second.requests().len()), (503, 1), "{}", got.raw);
    assert_eq!(cluster.settled(1).await.len(), 1, "the first attempt is recorded");
    cluster.nothing_held().await;
    until("the first attempt to be charged", || used(&cluster, "out") > 0).await;
    assert_eq!(used(&cluster, "out"), MOST);
}
