//! Streams whose holds grow as they go.

use std::{sync::atomic::Ordering, time::Duration};

use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::TcpStream};
use tollgate_quota::Outcome;

use crate::{
    ai::provider,
    clients::{call, post_text, raw, read_until},
    cluster::{Cluster, until},
    durable::with_disk,
    upstream::{self, Reply, Upstream, events},
};

/// A provider's pace: five tokens ten times a second, by an estimate of four bytes a token, slow enough for the busiest test
/// machine. Of the vocabulary nothing is known, so that holds are used up four times as fast.
pub(crate) const EVERY: Duration = Duration::from_millis(100);
pub(crate) const TEXT: &str = "twenty bytes of text";
pub(crate) const BOUND: u64 = 4_000;
/// Events of a stream that shows how fast its provider is.
pub(crate) const TELLING: usize = 54;

fn chunk(delta: &Value, finish: Option<&str>) -> String {
    let choice = json!({"index": 0, "delta": delta, "finish_reason": finish});
    let chunk = json!({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]});
    format!("data: {chunk}\n\n")
}

/// As it is on the wire after the head.
fn piece(event: &str) -> String {
    format!("{:x}\r\n{event}\r\n", event.len())
}

/// So many texts, then the end: what the provider says to have been used is one token in four of the bytes.
pub(crate) fn answer(texts: usize, every: Duration) -> Reply {
    let text = piece(&chunk(&json!({"content": TEXT}), None));
    let usage = json!({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [],
        "usage": {"prompt_tokens": 7, "completion_tokens": 5 * texts, "total_tokens": 7 + 5 * texts}});
    let mut pieces = vec![text; texts];
    pieces.push(piece(&chunk(&json!({}), Some("stop"))));
    pieces.push(piece(&format!("data: {usage}\n\n")));
    pieces.push(piece("data: [DONE]\n\n") + "0\r\n\r\n");
    match every {
        Duration::ZERO => Reply::Keep(events(&[]) + &pieces.concat()),
        _ => Reply::Paced(events(&[&chunk(&json!({"role": "assistant"}), None)]), pieces, every),
    }
}

/// Answers as many texts as the prompt says, with much that is no text between them if it says so.
pub(crate) async fn upstream(every: Duration) -> Upstream {
    Upstream::start(move |request| {
        let texts = request.split("texts:").nth(1).and_then(|it| it.split(['"', ' ']).next()?.parse().ok()).unwrap();
        if request.contains("refuse") && request.contains("\"m\"") {
            return Reply::Keep(upstream::answer(429, "", "{}"));
        }
        match answer(texts, every) {
            Reply::Paced(head, pieces, every) if request.contains("padded") => {
                let padding = piece(&format!(": {}\n\n", "x".repeat(200_000)));
                Reply::Paced(head, pieces.into_iter().map(|it| padding.clone() + &it).collect(), every)
            }
            reply => reply,
        }
    })
    .await
}

pub(crate) fn body(texts: usize, bound: u64) -> String {
    let messages = json!([{"role": "user", "content": format!("texts:{texts}")}]);
    json!({"model": "m", "stream": true, "max_tokens": bound, "messages": messages}).to_string()
}

pub(crate) fn limited(upstream: &Upstream, limit: u64) -> String {
    let limit = format!(
        "---\nkind: Limit\nmetadata: {{name: tpm}}\nspec: {{per: [consumer], unit: tokens, limit: {limit}, window: 1h}}\n"
    );
    provider(upstream, "openai").replace("request: 10s, firstByte: 500ms, idle: 700ms", "idle: 5s") + &limit
}

/// A cluster that knows how fast the provider is, by one stream of this caller.
async fn knowing(upstream: &Upstream, limit: u64) -> Cluster {
    knowing_with(upstream, limit, "").await
}

async fn knowing_with(upstream: &Upstream, limit: u64, more: &str) -> Cluster {
    let cluster = Cluster::start(&(limited(upstream, limit) + more)).await;
    show(&cluster).await;
    cluster
}

pub(crate) async fn show(cluster: &Cluster) {
    let first = call(cluster.address, "/v1/chat/completions", &body(TELLING, BOUND)).await;
    assert_eq!(first.status, 200, "{}", first.raw);
    cluster.settled(1).await;
    cluster.nothing_held().await;
}

const USED: u64 = 7 + 5 * TELLING as u64;

fn held(cluster: &Cluster) -> u64 {
    cluster.accounts("tpm").first().map_or(0, |account| account.held)
}

pub(crate) async fn open(cluster: &Cluster, texts: usize) -> TcpStream {
    let mut caller = TcpStream::connect(cluster.address).await.unwrap();
    let request = post_text("/v1/chat/completions", "authorization: Bearer sk-alice\r\n", &body(texts, BOUND));
    caller.write_all(request.as_bytes()).await.unwrap();
    caller
}

#[tokio::test]
async fn a_stream_holds_more_as_it_goes_and_is_charged_and_recorded_once() {
    let upstream = upstream(EVERY).await;
    let limit = |name: &str, unit: &str, more: &str| {
        format!(
            "---\nkind: Limit\nmetadata: {{name: {name}}}\nspec: {{unit: {unit}, limit: 20000, window: 1h{more}}}\n"
        )
    };
    let others = limit("rph", "requests", "") + &limit("oth", "outputTokens", "") + &limit("ith", "inputTokens", "");
    let cluster = knowing_with(&upstream, 20_000, &(others + &limit("looking", "tokens", ", mode: shadow"))).await;
    let mut caller = open(&cluster, 80).await;
    let head = read_until(&mut caller, "twenty bytes").await;
    assert!(!head.contains("x-tollgate-max-tokens"), "{head}");
    assert!(upstream.requests()[1].contains(&format!("\"max_tokens\":{BOUND}")), "{}", upstream.requests()[1]);
    until("what is held is told", || held(&cluster) > 512).await;
    let first = held(&cluster);
    assert!(first < BOUND / 2, "{first} held");
    until("more is held", || held(&cluster) >= first + 512).await;
    let rest = read_until(&mut caller, "[DONE]").await;
    assert!(rest.contains("\"finish_reason\":\"stop\""), "{rest}");
    let settled = cluster.settled(2).await;
    assert_eq!((settled[1].usage.input_tokens, settled[1].usage.output_tokens), (7, 400));
    assert_eq!(settled[1].outcome, Outcome::Settled);
    cluster.nothing_held().await;
    until("all is told", || held(&cluster) == 0).await;
    let account = &cluster.accounts("tpm")[0];
    assert_eq!((account.used, account.overrun, settled.len()), (USED + 407, 0, 2), "{account:?}");
    for (limit, used) in [("rph", 2), ("oth", USED - 7 + 400), ("ith", 14), ("looking", USED + 407)] {
        let account = &cluster.accounts(limit)[0];
        assert_eq!((account.used, account.held, account.overrun), (used, 0, 0), "{account:?}");
    }
}

/// What it holds does not grow, as nobody knows whether that provider could be stopped in time.
#[tokio::test]
async fn a_fallback_that_is_not_known_is_sent_what_is_held() {
    let (slow, other) = (upstream(EVERY).await, upstream(EVERY).await);
    let limits = limited(&slow, 20_000);
    let resources = limits.replacen(&slow.address.to_string(), "FIRST", 1);
    let resources = resources.replacen(&slow.address.to_string(), &other.address.to_string(), 1);
    let resources = resources.replacen("FIRST", &slow.address.to_string(), 1);
    let cluster = Cluster::start(&resources).await;
    let first = call(cluster.address, "/v1/chat/completions", &body(TELLING, BOUND)).await;
    assert_eq!(first.status, 200, "{}", first.raw);
    cluster.settled(1).await;
    let refused = body(3, BOUND).replace("texts:3", "texts:3 refuse");
    let answer = call(cluster.address, "/v1/chat/completions", &refused).await;
    assert_eq!((answer.status, answer.header("x-tollgate-provider")), (200, Some("second")), "{}", answer.raw);
    let held: u64 = answer.header("x-tollgate-max-tokens").unwrap().parse().unwrap();
    assert!((512..BOUND / 2).contains(&held), "{held}");
    assert!(other.requests()[0].contains(&format!("\"max_tokens\":{held}")), "{}", other.requests()[0]);
    assert!(slow.requests()[1].contains(&format!("\"max_tokens\":{BOUND}")), "{}", slow.requests()[1]);
    cluster.nothing_held().await;
}

/// A limit that counts output and holds none of it would miss what is held later.
#[tokio::test]
async fn a_limit_that_holds_prompts_alone_keeps_holds_from_growing() {
    let upstream = upstream(EVERY).await;
    let prompts = "---\nkind: Limit\nmetadata: {name: prompts}\nspec: {unit: tokens, limit: 20000, window: 1h, reserve: prompt}\n";
    let cluster = knowing_with(&upstream, 20_000, prompts).await;
    let mut caller = open(&cluster, 10).await;
    read_until(&mut caller, "twenty bytes").await;
    until("what is held is told", || held(&cluster) > 0).await;
    assert!(held(&cluster) > BOUND, "{}", held(&cluster));
    read_until(&mut caller, "[DONE]").await;
    cluster.settled(2).await;
    until("all that was used is counted", || {
        cluster.accounts("prompts").first().is_some_and(|it| it.used + it.overrun == USED + 57)
    })
    .await;
}

/// To keep a provider waiting does not stop it at once: what it has written by then is used. Long before the stream would
/// have grown so far, or would have come to what is left.
#[tokio::test]
async fn a_caller_that_takes_nothing_makes_its_stream_hold_all_or_end() {
    for (limit, bound, holds_all) in [(100_000, 18_000, true), (10_000, 9_500, false)] {
        let upstream = upstream(EVERY).await;
        let cluster = knowing(&upstream, limit).await;
        let filler = open_filler(&cluster, 3_000).await;
        let before = held(&cluster);
        let mut caller = TcpStream::connect(cluster.address).await.unwrap();
        let padded = body(1_000, bound).replace("texts:1000", "texts:1000 padded");
        let request = post_text("/v1/chat/completions", "authorization: Bearer sk-alice\r\n", &padded);
        caller.write_all(request.as_bytes()).await.unwrap();
        until("the stream has begun", || upstream.requests().len() == 3).await;
        if holds_all {
            until("all that the provider may write is held", || held(&cluster) > before + bound).await;
            assert_eq!(upstream.open.load(Ordering::SeqCst), 2);
        } else {
            until("the provider is let go", || upstream.open.load(Ordering::SeqCst) < 2).await;
            within(&cluster);
        }
        drop((caller, filler));
        cluster.nothing_held().await;
    }
}

/// R9: after a crash nobody would know of what was used of it.
#[tokio::test]
async fn what_is_not_durable_is_not_drawn_on() {
    let upstream = upstream(EVERY).await;
    let (cluster, disk) = with_disk(&limited(&upstream, 20_000)).await;
    show(&cluster).await;
    let mut caller = open(&cluster, 400).await;
    read_until(&mut caller, "twenty bytes").await;
    until("what is held is told", || held(&cluster) > 0).await;
    let first = usize::try_from(held(&cluster)).unwrap();
    disk.stop();
    let rest = read_until(&mut caller, "[DONE]").await;
    assert!(rest.contains("\"finish_reason\":\"length\""), "{rest}");
    let bytes = rest.matches(TEXT).count() * TEXT.len();
    assert!((150..first).contains(&bytes), "{bytes} bytes were passed on of a first hold of {first}");
    disk.go_on();
    cluster.settled(2).await;
    cluster.nothing_held().await;
    within(&cluster);
}

#[tokio::test]
async fn what_can_never_be_held_whole_is_refused_though_its_beginning_could_be() {
    let upstream = upstream(EVERY).await;
    let cluster = knowing(&upstream, BOUND + 500).await;
    let never = call(cluster.address, "/v1/chat/completions", &body(10, BOUND + 501)).await;
    assert_eq!((never.status, never.code().as_str()), (400, "request_exceeds_limit"), "{}", never.raw);
}

/// Enough for the beginning, not for the whole.
async fn cut_in_the_middle(path: &str, headers: &str) -> (Cluster, String) {
    let upstream = upstream(EVERY).await;
    let cluster = knowing(&upstream, BOUND + 500).await;
    // What is left is used up but for what such answers take and some hundred tokens, by a call that holds it and does not end.
    let filler = open_filler(&cluster, cluster.accounts("tpm")[0].capacity - USED - 2_000).await;
    let answer = raw(cluster.address, post_text(path, headers, &body(200, BOUND))).await;
    assert_eq!(answer.status, 200, "{}", answer.raw);
    drop(filler);
    until("the provider is let go", || upstream.open.load(Ordering::SeqCst) == 0).await;
    cluster.settled(3).await;
    cluster.nothing_held().await;
    (cluster, answer.body)
}

/// A stream that is held whole, as its bound is small, and lasts.
pub(crate) async fn open_filler(cluster: &Cluster, bound: u64) -> TcpStream {
    let mut filler = TcpStream::connect(cluster.address).await.unwrap();
    let whole = body(400, bound).replace("\"m\"", "\"another\"");
    let request = post_text("/v1/chat/completions", "authorization: Bearer sk-alice\r\n", &whole);
    filler.write_all(request.as_bytes()).await.unwrap();
    read_until(&mut filler, "twenty bytes").await;
    filler
}

#[tokio::test]
async fn a_stream_that_can_not_hold_more_ends_as_one_that_came_to_its_bound() {
    let (cluster, body) = cut_in_the_middle("/v1/chat/completions", "authorization: Bearer sk-alice\r\n").await;
    assert!(body.ends_with("data: [DONE]\n\n"), "{body}");
    assert_eq!(body.matches("\"finish_reason\":\"length\"").count(), 1, "{body}");
    assert!(!body.contains("\"error\"") && body.matches(TEXT).count() > 10, "{body}");
    within(&cluster);
}

/// Refused more for what others hold it asks again while its margin lasts.
#[tokio::test]
async fn a_stream_is_not_cut_for_what_others_give_back_in_time() {
    let upstream = upstream(EVERY).await;
    let cluster = knowing(&upstream, BOUND + 500).await;
    let mut caller = open(&cluster, 70).await;
    read_until(&mut caller, "twenty bytes").await;
    until("what is held is told", || held(&cluster) > 0).await;
    let others = cluster.hold("tpm", BOUND + 500 - USED - held(&cluster)).await;
    let refused = "tollgate_quota_decisions_total{limit=\"tpm\",decision=\"not_extended\"} ";
    let times = |metrics: &str| metrics.lines().find_map(|line| line.strip_prefix(refused)?.parse::<u64>().ok());
    until("more was refused again and again", || times(&cluster.metrics()) >= Some(3)).await;
    others.void();
    let body = read_until(&mut caller, "[DONE]").await;
    assert!(body.contains("\"finish_reason\":\"stop\""), "{body}");
    let settled = cluster.settled(2).await;
    assert_eq!((settled[1].outcome, settled[1].usage.output_tokens), (Outcome::Settled, 350));
    cluster.nothing_held().await;
    until("all is told", || held(&cluster) == 0).await;
    let account = &cluster.accounts("tpm")[0];
    assert_eq!((account.used, account.overrun), (USED + 357, 0), "{account:?}");
}

#[tokio::test]
async fn what_counts_by_its_bytes_is_fitted_where_it_would_be_cut() {
    let upstream = upstream(EVERY).await;
    let cluster = knowing(&upstream, BOUND + 500).await;
    // Enough for the answer, and not for its bytes.
    let others = cluster.hold("tpm", BOUND + 500 - USED - 600).await;
    let mut caller = open(&cluster, 80).await;
    let answer = read_until(&mut caller, "[DONE]").await;
    let sent = upstream.requests().pop().unwrap();
    let max = answer.lines().find_map(|line| line.strip_prefix("x-tollgate-max-tokens: ")).expect(&answer).trim();
    assert!(sent.contains(&format!("\"max_tokens\":{max}")) && max.parse::<u64>().unwrap() > 400, "{max}: {sent}");
    assert!(answer.contains("\"finish_reason\":\"stop\""), "{answer}");
    others.void();
    cluster.settled(2).await;
    until("all is told", || held(&cluster) == 0).await;
    assert_eq!(cluster.accounts("tpm")[0].used, USED + 407, "what its provider says");
}

/// To be cut at a hundred tokens is worse than to come again, while what is short is held and not used.
#[tokio::test]
async fn less_than_an_answer_takes_is_not_given_for_what_others_only_hold() {
    let upstream = upstream(EVERY).await;
    let cluster = knowing(&upstream, BOUND + 500).await;
    let others = cluster.hold("tpm", BOUND + 500 - USED - 250).await;
    let refused = call(cluster.address, "/v1/chat/completions", &body(3, BOUND)).await;
    assert_eq!((refused.status, refused.code().as_str()), (429, "rate_limit_exceeded"), "{}", refused.raw);
    assert_eq!(upstream.requests().len(), 1);
    others.void();
    until("all is told", || held(&cluster) == 0).await;
    let whole = call(cluster.address, "/v1/chat/completions", &body(3, BOUND)).await;
    assert_eq!(whole.status, 200, "{}", whole.raw);
}

#[tokio::test]
async fn an_anthropic_caller_is_told_so_in_its_own_words() {
    let (cluster, body) = cut_in_the_middle("/v1/messages", "x-api-key: sk-alice\r\n").await;
    assert!(body.contains("\"stop_reason\":\"max_tokens\""), "{body}");
    assert!(body.trim_end().ends_with("{\"type\":\"message_stop\"}") && !body.contains("\"error\""), "{body}");
    within(&cluster);
}

fn within(cluster: &Cluster) {
    let account = &cluster.accounts("tpm")[0];
    assert!(account.used <= account.capacity && account.overrun == 0, "{account:?}");
}

#[tokio::test]
async fn a_caller_that_leaves_leaves_nothing_held() {
    let upstream = upstream(EVERY).await;
    let cluster = knowing(&upstream, 20_000).await;
    let mut caller = open(&cluster, 400).await;
    read_until(&mut caller, "twenty bytes").await;
    until("what is held is told", || held(&cluster) > 0).await;
    let first = held(&cluster);
    until("more is held", || held(&cluster) >= first + 512).await;
    drop(caller);
    until("the provider is let go", || upstream.open.load(Ordering::SeqCst) == 0).await;
    let settled = cluster.settled(2).await;
    assert_eq!((settled[1].outcome, settled[1].usage.counted), (Outcome::Partial, true));
    assert!(settled[1].usage.output_tokens >= 30, "{:?}", settled[1]);
    cluster.nothing_held().await;
    until("all is told", || held(&cluster) == 0).await;
    let account = &cluster.accounts("tpm")[0];
    assert!(account.used >= USED + settled[1].usage.output_tokens && account.overrun == 0, "{account:?}");
}

#[tokio::test]
async fn a_provider_that_was_fast_once_is_held_for_whole() {
    let upstream = upstream(Duration::ZERO).await;
    let cluster = knowing(&upstream, 20_000).await;
    let slow = self::upstream(EVERY).await;
    cluster.apply(
        &format!(
            "kind: Provider\nmetadata: {{name: first}}\nspec: {{type: openai, endpoints: [{{url: 'http://{}/v1'}}], keys: [{{value: sk-secret}}], models: {{plain: m}}}}\n",
            slow.address
        ),
    );
    let mut caller = open(&cluster, 10).await;
    read_until(&mut caller, "twenty bytes").await;
    until("what is held is told", || held(&cluster) > 0).await;
    assert!(held(&cluster) > BOUND, "{}", held(&cluster));
}

/// It is never quiet for long: whether all that it has written was read, only its pace can tell.
#[tokio::test]
async fn a_stream_that_is_left_is_charged_its_bound_unless_its_provider_is_known_to_be_slow() {
    let [long, short] = [TEXT, "four"].map(|text| piece(&chunk(&json!({"content": text}), None)));
    let upstream = Upstream::start(move |_| match answer(300, Duration::from_millis(10)) {
        Reply::Paced(head, pieces, every) => {
            Reply::Paced(head, pieces.into_iter().map(|it| it.replace(&long, &short)).collect(), every)
        }
        reply => reply,
    })
    .await;
    for is_known in [false, true] {
        let cluster = Cluster::start(&limited(&upstream, 1_000_000)).await;
        if is_known {
            show(&cluster).await;
        }
        let used = || cluster.accounts("tpm").first().map_or(0, |account| account.used);
        let before = used();
        let mut caller = open(&cluster, 300).await;
        read_until(&mut caller, "four").await;
        drop(caller);
        until("it is charged", || used() > before).await;
        assert_eq!(used() - before < BOUND, is_known, "{} of {BOUND}", used() - before);
    }
}
