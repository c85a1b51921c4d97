//! Providers with several keys.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;
use tollgate_gateway::{KeyIsWell, KeyPlace, KeyRests, UpstreamsWord};
use tollgate_model::{LogIndex, Name};
use tollgate_quota::Outcome;

use crate::{
    ai::{completion, provider},
    clients::{Answer, call},
    cluster::{Cluster, until},
    upstream::{Reply, Upstream, answer, json},
};

const CHAT: &str = "/v1/chat/completions";
const BODY: &str = r#"{"model":"m","max_tokens":100,"messages":[{"role":"user","content":"hello"}]}"#;

/// Refuses calls with `sk-bad` so, while it is told to.
async fn picky(refuses: &Arc<AtomicBool>, refusal: Reply) -> Upstream {
    let refuses = Arc::clone(refuses);
    Upstream::start(move |request| match request.contains("sk-bad") && refuses.load(Ordering::SeqCst) {
        true => refusal.clone(),
        false => Reply::Keep(json(&completion(9, 3))),
    })
    .await
}

fn refusal(status: u16, code: &str) -> Reply {
    let body = format!(r#"{{"error":{{"message":"no","type":"{code}","code":"{code}","param":null}}}}"#);
    Reply::Keep(answer(status, "content-type: application/json\r\n", &body))
}

/// One provider with these keys behind a route.
async fn start(upstream: &Upstream, keys: &str, more: &str) -> Cluster {
    let resources = provider(upstream, "openai");
    assert!(resources.contains("keys: [{value: sk-secret}]"));
    Cluster::start(&resources.replace("keys: [{value: sk-secret}]", &format!("keys: [{keys}]{more}"))).await
}

const BAD_AND_GOOD: &str = "{value: sk-bad}, {value: sk-good}";

fn failover(threshold: u32, every: &str) -> String {
    format!(", keyFailover: {{failureThreshold: {threshold}, probeInterval: {every}}}")
}

fn sent_with(upstream: &Upstream, key: &str) -> usize {
    upstream.requests().iter().filter(|request| request.contains(&format!("Bearer {key}\r\n"))).count()
}

async fn ask(cluster: &Cluster) -> Answer {
    call(cluster.address, CHAT, BODY).await
}

fn resting(cluster: &Cluster, count: u32) -> bool {
    cluster.metrics().contains(&format!("tollgate_upstream_keys{{upstream=\"first\",state=\"resting\"}} {count}\n"))
}

#[tokio::test]
async fn keys_have_their_turns_by_weight() {
    let upstream = Upstream::always(Reply::Keep(json(&completion(9, 3)))).await;
    let cluster = start(&upstream, "{value: sk-a, weight: 3}, {value: sk-b}, {value: sk-c, weight: 0}", "").await;
    for _ in 0..8 {
        assert_eq!(ask(&cluster).await.status, 200);
    }
    assert_eq!(["sk-a", "sk-b", "sk-c"].map(|key| sent_with(&upstream, key)), [6, 2, 0]);
}

/// Its caller hears nothing of it, and nothing is charged for it.
#[tokio::test]
async fn a_key_that_is_refused_is_rested_and_another_one_taken_at_once() {
    for reply in [refusal(401, "invalid_api_key"), refusal(429, "insufficient_quota")] {
        let upstream = picky(&Arc::new(AtomicBool::new(true)), reply.clone()).await;
        let cluster = start(&upstream, BAD_AND_GOOD, &failover(3, "1h")).await;
        for _ in 0..20 {
            let got = ask(&cluster).await;
            assert_eq!(got.status, 200, "{reply:?}: {}", got.raw);
        }
        assert_eq!((sent_with(&upstream, "sk-bad"), sent_with(&upstream, "sk-good")), (3, 20), "{reply:?}");
        let rows = cluster.settled(20).await;
        assert!(rows.iter().all(|row| (row.outcome, row.earlier.len()) == (Outcome::Settled, 0)), "{reply:?}");
        assert!(resting(&cluster, 1), "{}", cluster.metrics());
        assert!(cluster.metrics().contains("tollgate_upstream_key_rests_total{upstream=\"first\"} 1\n"));
    }
}

#[tokio::test]
async fn what_is_not_about_the_key_rests_none() {
    for reply in [refusal(500, "server_error"), refusal(400, "invalid_request"), Reply::Reset(String::new())] {
        let upstream = picky(&Arc::new(AtomicBool::new(true)), reply.clone()).await;
        let cluster = start(&upstream, BAD_AND_GOOD, &failover(1, "1h")).await;
        for _ in 0..6 {
            ask(&cluster).await;
        }
        assert_eq!((sent_with(&upstream, "sk-bad"), resting(&cluster, 0)), (3, true), "{reply:?}");
    }
}

/// Any caller can be refused for what it asks for: nobody else loses a key by that.
#[tokio::test]
async fn what_may_be_about_the_request_rests_no_key() {
    let too_large = r#"{"error":{"message":"Request too large for m","type":"tokens","code":"rate_limit_exceeded"}}"#;
    let too_large = Reply::Keep(answer(429, "content-type: application/json\r\n", too_large));
    for (reply, other_is_tried) in
        [(refusal(403, "access_denied"), true), (refusal(429, "request_too_large"), false), (too_large, false)]
    {
        let upstream = picky(&Arc::new(AtomicBool::new(true)), reply.clone()).await;
        let cluster = start(&upstream, BAD_AND_GOOD, &failover(1, "1h")).await;
        for _ in 0..6 {
            let status = ask(&cluster).await.status;
            assert!(!other_is_tried || status == 200, "{reply:?}: {status}");
        }
        let bad = if other_is_tried { 6 } else { 3 };
        assert_eq!((sent_with(&upstream, "sk-bad"), resting(&cluster, 0)), (bad, true), "{reply:?}");
    }
}

#[tokio::test]
async fn a_key_is_left_alone_for_as_long_as_its_provider_asks_for() {
    let refused = Reply::Keep(answer(429, "retry-after: 3600\r\n", "{}"));
    let upstream = picky(&Arc::new(AtomicBool::new(true)), refused).await;
    let cluster = start(&upstream, BAD_AND_GOOD, &failover(1, "1ms")).await;
    for _ in 0..20 {
        assert_eq!(ask(&cluster).await.status, 200);
    }
    assert_eq!((sent_with(&upstream, "sk-bad"), resting(&cluster, 1)), (1, true));
}

/// One request makes four of itself at the most.
#[tokio::test]
async fn a_request_that_is_refused_with_every_key_is_not_sent_with_all_of_them() {
    let refused = Upstream::always(refusal(401, "invalid_api_key")).await;
    let keys: Vec<String> = (0..8).map(|n| format!("{{value: sk-{n}}}")).collect();
    let cluster = start(&refused, &keys.join(", "), &failover(100, "1h")).await;
    assert_eq!((ask(&cluster).await.status, refused.requests().len()), (401, 4));
}

#[tokio::test]
async fn a_key_that_rests_is_tried_now_and_then_and_taken_back() {
    let refuses = Arc::new(AtomicBool::new(true));
    let upstream = picky(&refuses, refusal(401, "invalid_api_key")).await;
    let cluster = start(&upstream, BAD_AND_GOOD, &failover(1, "200ms")).await;
    let deadline = Instant::now() + Duration::from_secs(20);
    // Found out, and tried twice more. Those who try it hear nothing of it.
    while sent_with(&upstream, "sk-bad") < 3 {
        assert_eq!(ask(&cluster).await.status, 200);
        assert!(Instant::now() < deadline);
    }
    assert!(resting(&cluster, 1));
    refuses.store(false, Ordering::SeqCst);
    while !resting(&cluster, 0) {
        assert_eq!(ask(&cluster).await.status, 200);
        assert!(Instant::now() < deadline);
    }
    let before = sent_with(&upstream, "sk-bad");
    for _ in 0..4 {
        ask(&cluster).await;
    }
    assert_eq!(sent_with(&upstream, "sk-bad"), before + 2);
}

#[tokio::test]
async fn the_last_key_is_never_rested() {
    let upstream = picky(&Arc::new(AtomicBool::new(true)), refusal(401, "invalid_api_key")).await;
    let cluster = start(&upstream, "{value: sk-bad}, {value: sk-bad-too}", &failover(1, "1h")).await;
    for _ in 0..5 {
        assert_eq!(ask(&cluster).await.status, 401, "the provider's own answer");
    }
    // The first call met both; then one is left, and asked each time.
    assert!(resting(&cluster, 1), "{}", cluster.metrics());
    assert_eq!(upstream.requests().len(), 6);
    cluster.nothing_held().await;
}

/// Whatever else is said of the provider, and until it is said that keys don't rest.
#[tokio::test]
async fn a_key_rests_over_changes_of_its_provider() {
    let upstream = picky(&Arc::new(AtomicBool::new(true)), refusal(401, "invalid_api_key")).await;
    let cluster = start(&upstream, BAD_AND_GOOD, &failover(1, "1h")).await;
    assert!(resting(&cluster, 0));
    for _ in 0..2 {
        assert_eq!(ask(&cluster).await.status, 200);
    }
    assert!(resting(&cluster, 1));
    let of = |keys: &str, more: &str| {
        let text = provider(&upstream, "openai");
        let text = text.split("---").next().unwrap_or_default().trim_start().to_owned();
        text.replace("keys: [{value: sk-secret}]", &format!("keys: [{keys}]{more}"))
    };
    cluster.apply(&of("{value: sk-new}, {value: sk-bad}, {value: sk-good}", &failover(1, "1h")));
    for _ in 0..4 {
        assert_eq!(ask(&cluster).await.status, 200);
    }
    assert_eq!((sent_with(&upstream, "sk-bad"), sent_with(&upstream, "sk-new")), (1, 2));
    cluster.apply(&of(BAD_AND_GOOD, ""));
    let mut statuses = [ask(&cluster).await.status, ask(&cluster).await.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 401], "in turn, and told to the caller");
}

/// And taken again with it, on each node by what the others have found.
#[tokio::test]
async fn what_one_node_finds_of_a_key_all_know() {
    let refuses = Arc::new(AtomicBool::new(true));
    let upstream = picky(&refuses, refusal(401, "invalid_api_key")).await;
    let (here, there) = (
        start(&upstream, BAD_AND_GOOD, &failover(3, "300ms")).await,
        start(&upstream, BAD_AND_GOOD, &failover(3, "300ms")).await,
    );
    while !resting(&here, 1) {
        assert_eq!(ask(&here).await.status, 200);
    }
    let word = here.gateway.upstreams_word();
    let said: Vec<_> = word.resting.iter().map(|it| (&*it.place.provider, it.place.key, it.status)).collect();
    assert_eq!(said, [("first", 0, 401)]);
    assert!(!format!("{word:?}").contains("sk-"), "{word:?}");
    there.gateway.hear_peer(1, &word);
    assert!(resting(&there, 1));
    let sent = sent_with(&upstream, "sk-bad");
    // Now and then it is tried, by whoever is asked.
    refuses.store(false, Ordering::SeqCst);
    let deadline = Instant::now() + Duration::from_secs(20);
    while resting(&there, 1) {
        assert_eq!(ask(&there).await.status, 200);
        assert!(Instant::now() < deadline, "{}", there.metrics());
    }
    assert_eq!(sent_with(&upstream, "sk-bad"), sent + 1, "no call but that one was sent with it");
    assert!(resting(&here, 1), "nobody has told it yet");
    // What was said before does not come back, whoever says it again.
    there.gateway.hear_peer(1, &here.gateway.upstreams_word());
    assert!(resting(&there, 0));
    here.gateway.hear_peer(2, &there.gateway.upstreams_word());
    assert!(resting(&here, 0), "{}", here.metrics());
    assert_eq!(here.gateway.upstreams_word().resting, []);
}

#[tokio::test]
async fn a_key_is_used_again_once_the_node_that_rested_it_says_so_no_longer() {
    let upstream = picky(&Arc::new(AtomicBool::new(true)), refusal(401, "invalid_api_key")).await;
    let (here, there) = (
        start(&upstream, BAD_AND_GOOD, &failover(3, "1h")).await,
        start(&upstream, BAD_AND_GOOD, &failover(3, "1h")).await,
    );
    while !resting(&here, 1) {
        assert_eq!(ask(&here).await.status, 200);
    }
    let word = here.gateway.upstreams_word();
    there.gateway.hear_peer(1, &word);
    there.gateway.hear_peer(2, &UpstreamsWord::default());
    assert!(resting(&there, 1), "another one has not met it");
    assert_eq!(there.gateway.upstreams_word().resting, [], "nobody says what he was told");
    there.gateway.hear_peer(1, &UpstreamsWord::default());
    assert!(resting(&there, 0));
    // Of another resource, or another key, it says nothing; nor does it rest the last one.
    for wrong in [
        KeyPlace { version: LogIndex(0), ..word.resting[0].place.clone() },
        KeyPlace { key: 2, ..word.resting[0].place.clone() },
        KeyPlace { provider: Name::new("second"), ..word.resting[0].place.clone() },
    ] {
        let mut word = word.clone();
        word.resting[0].place = wrong;
        there.gateway.hear_peer(1, &word);
        assert!(resting(&there, 0), "{word:?}");
    }
    let mut both = word.clone();
    both.resting
        .push(KeyRests { place: KeyPlace { key: 1, ..word.resting[0].place.clone() }, ..word.resting[0].clone() });
    there.gateway.hear_peer(1, &both);
    assert!(resting(&there, 1));
}

/// Another node has found it well while it was tried here: what came later is not lost.
#[tokio::test]
async fn a_key_whose_try_is_refused_rests_whatever_another_node_has_said_meanwhile() {
    let body = r#"{"error":{"message":"no","type":"x","code":"invalid_api_key","param":null}}"#;
    let refused = answer(401, "content-type: application/json\r\n", body);
    let is_slow = Arc::new(AtomicBool::new(false));
    let slow = Arc::clone(&is_slow);
    let upstream = Upstream::start(move |request| match (request.contains("sk-bad"), slow.load(Ordering::SeqCst)) {
        (true, true) => Reply::Paced(String::new(), vec![refused.clone()], Duration::from_secs(2)),
        (true, false) => Reply::Keep(refused.clone()),
        (false, _) => Reply::Keep(json(&completion(9, 3))),
    })
    .await;
    let keys = format!("keys: [{BAD_AND_GOOD}]{}", failover(3, "300ms"));
    let resources = provider(&upstream, "openai").replace("keys: [{value: sk-secret}]", &keys);
    let cluster = Cluster::start(&resources.replace("firstByte: 500ms, idle: 700ms", "firstByte: 8s, idle: 8s")).await;
    while !resting(&cluster, 1) {
        assert_eq!(ask(&cluster).await.status, 200);
    }
    is_slow.store(true, Ordering::SeqCst);
    let place = cluster.gateway.upstreams_word().resting[0].place.clone();
    let sent = sent_with(&upstream, "sk-bad");
    let tries = async {
        while sent_with(&upstream, "sk-bad") == sent {
            assert_eq!(ask(&cluster).await.status, 200);
        }
    };
    let is_told = async {
        until("it to be tried", || sent_with(&upstream, "sk-bad") > sent).await;
        let well = vec![KeyIsWell { place, age: Duration::ZERO }];
        cluster.gateway.hear_peer(2, &UpstreamsWord { well, ..UpstreamsWord::default() });
        assert!(resting(&cluster, 0));
    };
    tokio::join!(tries, is_told);
    assert!(resting(&cluster, 1), "{}", cluster.metrics());
    assert_eq!(cluster.gateway.upstreams_word().resting.len(), 1, "and the others are told");
}

/// What each node has in a file of its own may be good on all others.
#[tokio::test]
async fn nothing_is_said_of_keys_that_are_not_the_same_on_all_nodes() {
    let upstream = picky(&Arc::new(AtomicBool::new(true)), refusal(401, "invalid_api_key")).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("key");
    std::fs::write(&file, "sk-bad").unwrap();
    let keys = format!("{{file: {}}}, {{value: sk-good}}", file.display());
    let cluster = start(&upstream, &keys, &failover(3, "1h")).await;
    while !resting(&cluster, 1) {
        assert_eq!(ask(&cluster).await.status, 200);
    }
    assert_eq!(cluster.gateway.upstreams_word().resting, []);
}
