//! A fallback answers: what the provider before it may have used is charged as well.

use tokio::task::JoinSet;
use tollgate_quota::Outcome;

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
        // Who gave up on it says nothing of the work behind it.
        (Reply::Keep(answer(504, "", "{}")), true),
        (Reply::Keep(answer(524, "", "{}")), true),
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

/// A request that no connection has taken was never sent, however long that was waited for.
#[tokio::test]
async fn a_provider_that_lets_nobody_connect_has_not_worked() {
    let (first, second) = (Upstream::always(served()).await, Upstream::always(served()).await);
    let resources = two(&first, &second, "openai", "connectFailure");
    // It waits for a request in clear text, and so never shakes hands.
    let resources = resources.replace(&format!("http://{}", first.address), &format!("https://{}", first.address));
    let cluster = Cluster::start(&(resources + &limit("out", "outputTokens", MOST, ""))).await;
    let got = call(cluster.address, CHAT, &body()).await;
    assert_eq!((got.status, got.header("x-tollgate-provider")), (200, Some("second")), "{}", got.raw);
    assert_eq!(cluster.settled(1).await[0].earlier.len(), 0);
    cluster.nothing_held().await;
    assert_eq!(used(&cluster, "out"), SERVED.1);
}

/// Nobody could answer any more, and nobody is to bill for having been asked.
#[tokio::test]
async fn nobody_else_is_asked_once_the_time_of_the_whole_request_is_over() {
    let (first, second) = (Upstream::always(Reply::Hang(String::new())).await, Upstream::always(served()).await);
    let resources = two(&first, &second, "openai", "timeout, connectFailure")
        .replace("request: 10s, firstByte: 500ms, idle: 700ms", "request: 500ms");
    let cluster = Cluster::start(&(resources + &limit("out", "outputTokens", 1_000_000, ""))).await;
    let got = call(cluster.address, CHAT, &body()).await;
    assert_eq!((got.status, first.requests().len()), (504, 1), "{}", got.raw);
    let rows = cluster.settled(1).await;
    assert_eq!((rows[0].provider.as_str(), rows[0].earlier.len()), ("first", 0));
    cluster.nothing_held().await;
    until("the one attempt to be charged", || used(&cluster, "out") > 0).await;
    assert_eq!(used(&cluster, "out"), MOST);
}

/// What can't be asked says nothing of who could, and told its caller when to come back.
#[tokio::test]
async fn a_fallback_that_is_not_there_does_not_speak_for_the_one_that_answered() {
    let refused = Reply::Keep(answer(429, "retry-after: 7\r\n", "{}"));
    let (first, second) = (Upstream::always(refused).await, Upstream::always(Reply::Hang(String::new())).await);
    let of_second = format!("spec: {{type: openai, endpoints: [{{url: 'http://{}/v1'}}]", second.address);
    let resources = two(&first, &second, "openai", "'429'")
        .replace(&of_second, &format!("{of_second}, circuitBreaker: {{maxRequests: 1}}"))
        .replace("firstByte: 500ms, ", "");
    assert!(resources.contains("circuitBreaker"), "{resources}");
    let cluster = Cluster::start(&resources).await;
    let address = cluster.address;
    let mut waiting = JoinSet::new();
    waiting.spawn(async move { call(address, CHAT, &body()).await.status });
    until("the second to have a call", || second.requests().len() == 1).await;
    let got = call(address, CHAT, &body()).await;
    assert_eq!((got.status, got.header("retry-after")), (429, Some("7")), "{}", got.raw);
    assert_eq!((first.requests().len(), second.requests().len()), (2, 1));
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

/// What an upstream may bill of the attempts before, whether or not any limit counts tokens.
#[tokio::test]
async fn each_attempt_that_a_provider_may_bill_is_settled_with_the_one_that_answered() {
    for (reply, named) in [
        (Reply::Hang(String::new()), Some("")),
        (Reply::Keep(answer(200, "x-request-id: up-1\r\n", "<html>")), Some("up-1")),
        (Reply::Keep(answer(503, "x-request-id: up-1\r\n", "{}")), None),
    ] {
        for limits in ["", &limit("out", "outputTokens", 1_000_000, "")] {
            let (_first, _second, cluster) = behind(reply.clone(), served(), limits).await;
            let got = call(cluster.address, CHAT, &body()).await;
            assert_eq!((got.status, got.header("x-tollgate-provider")), (200, Some("second")), "{}", got.raw);
            let rows = cluster.settled(1).await;
            assert_eq!(
                (rows.len(), rows[0].provider.as_str(), rows[0].provider_model.as_str()),
                (1, "second", "served")
            );
            let told: Vec<_> =
                rows[0].earlier.iter().map(|it| (it.provider.as_str(), it.upstream_request_id.as_str())).collect();
            assert_eq!(told, named.map(|id| ("first", id)).into_iter().collect::<Vec<_>>(), "{reply:?}");
            for attempt in &rows[0].earlier {
                let usage = attempt.usage.unwrap();
                assert_eq!((attempt.provider_model.as_str(), usage.counted, usage.output_tokens), ("m", true, 0));
                assert!(0 < usage.input_tokens && usage.input_tokens <= usage.input_at_most, "{usage:?}");
                assert_eq!(usage.output_at_most, MOST, "all that was asked for");
            }
        }
    }
}

/// Nobody answered: the row is of the attempt that may be billed, whoever was asked after it.
#[tokio::test]
async fn a_request_that_nobody_answered_is_of_the_last_attempt_that_may_be_billed() {
    for (second, provider, earlier) in
        [(Reply::Keep(answer(503, "", "{}")), "first", 0), (Reply::Hang(String::new()), "second", 1)]
    {
        for limits in ["", &limit("out", "outputTokens", 1_000_000, "")] {
            let (_first, _second, cluster) = behind(Reply::Hang(String::new()), second.clone(), limits).await;
            let got = call(cluster.address, CHAT, &body()).await;
            assert!(got.status >= 500, "{}", got.raw);
            let rows = cluster.settled(1).await;
            let told = (rows.len(), rows[0].outcome, rows[0].provider.as_str(), rows[0].earlier.len());
            assert_eq!(told, (1, Outcome::Partial, provider, earlier), "{limits}");
            assert_eq!(rows[0].usage.output_at_most, MOST);
            assert!(rows[0].earlier.iter().all(|attempt| attempt.provider == "first"), "{:?}", rows[0].earlier);
        }
    }
}

/// A route may name as many fallbacks as it likes: what one settlement has to say stays small.
#[tokio::test]
async fn nobody_else_is_asked_once_sixteen_attempts_may_be_billed() {
    let reset = Reply::Reset(String::new());
    let (first, second) = (Upstream::always(reset.clone()).await, Upstream::always(reset).await);
    let fallback = "{provider: second, model: served, on: [reset]}";
    let resources = two(&first, &second, "openai", "reset").replace(fallback, &[fallback; 20].join(", "));
    let cluster = Cluster::start(&resources).await;
    let got = call(cluster.address, CHAT, &body()).await;
    assert_eq!((got.status, first.requests().len() + second.requests().len()), (502, 16), "{}", got.raw);
    assert_eq!(cluster.settled(1).await[0].earlier.len(), 15, "and the row's own");
}
