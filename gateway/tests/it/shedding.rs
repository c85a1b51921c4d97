//! What a node refuses before it has all that it takes on: by priority, the least first.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    runtime,
    task::{JoinSet, yield_now},
};

use crate::{
    ai::completion,
    clients::{Answer, call, get, read_until},
    cluster::{Cluster, until},
    upstream::{Reply, Upstream, answer, json},
};

/// What they ask for waits for ever where its path, or its body, says so.
async fn upstream() -> Upstream {
    Upstream::start(|request| match request {
        it if it.contains("hang") => Reply::Hang(String::new()),
        it if it.starts_with("POST") => Reply::Keep(json(&completion(1, 1))),
        _ => Reply::Keep(answer(200, "", "fine")),
    })
    .await
}

/// Routes of each priority, and callers who have one of their own.
fn resources(upstream: &Upstream) -> String {
    let route = |name: &str, priority: &str| {
        format!(
            "kind: Route\nmetadata: {{name: {name}}}\nspec: {{match: [{{path: {{prefix: /{name}}}}}], backends: [{{service: s}}]{priority}}}\n---\n"
        )
    };
    let consumer = |name: &str, priority: &str| {
        format!(
            "kind: Consumer\nmetadata: {{name: {name}}}\nspec: {{tenant: acme, credentials: [{{apiKey: sk-{name}}}], priority: {priority}}}\n---\n"
        )
    };
    format!(
        "kind: Service\nmetadata: {{name: s}}\nspec: {{protocol: http, endpoints: [{{address: '{}'}}]}}\n---\n{}{}{}{}{}",
        upstream.address,
        route("batch", ", priority: sheddable"),
        route("shop", ""),
        route("pay", ", priority: critical"),
        consumer("carol", "critical"),
        consumer("daemon", "sheddable"),
    )
}

/// How often requests of this priority were turned away.
fn shed(cluster: &Cluster, by: &str, priority: &str) -> u64 {
    let line = format!("tollgate_http_server_shed_total{{by=\"{by}\",priority=\"{priority}\"}} ");
    let metrics = cluster.metrics();
    metrics.lines().find_map(|it| it.strip_prefix(&line)).unwrap_or_else(|| panic!("{metrics}")).parse().unwrap()
}

async fn send(cluster: &Cluster, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(cluster.address).await.unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes()).await.unwrap();
    stream
}

fn is_shed(answer: &Answer) -> bool {
    let refused = answer.status == 503;
    assert!(!refused || answer.code() == "overloaded" && answer.header("retry-after") == Some("1"), "{}", answer.raw);
    refused
}

#[tokio::test]
async fn critical_calls_all_succeed_while_sheddable_ones_come_in_floods() {
    let upstream = upstream().await;
    let cluster = Cluster::start_with(&resources(&upstream), |config| config.bounds.max_requests = 10).await;
    let mut flood = Vec::new();
    for _ in 0..40 {
        flood.push(send(&cluster, "/batch/hang").await);
    }
    until("seven to wait, and the rest to be refused", || {
        upstream.requests().len() == 7 && shed(&cluster, "requests", "sheddable") == 33
    })
    .await;
    // Some who take no notice of the refusals.
    let is_over = Arc::new(AtomicBool::new(false));
    let mut floods = JoinSet::new();
    for _ in 0..8 {
        let (address, is_over) = (cluster.address, Arc::clone(&is_over));
        floods.spawn(async move {
            while !is_over.load(Ordering::Relaxed) {
                assert!(is_shed(&get(address, "/batch", "").await));
            }
        });
    }
    for n in 0..100 {
        let paid = get(cluster.address, "/pay", "").await;
        assert_eq!(paid.status, 200, "{n}: {}", paid.raw);
        assert_eq!(get(cluster.address, "/shop", "").await.status, 200, "{n}");
    }
    is_over.store(true, Ordering::Relaxed);
    floods.join_all().await;
    // Standard calls to nine tenths, critical ones to the last place.
    let _two = [send(&cluster, "/shop/hang").await, send(&cluster, "/shop/hang").await];
    until("nine to wait", || upstream.requests().iter().filter(|it| it.contains("hang")).count() == 9).await;
    assert!(is_shed(&get(cluster.address, "/shop", "").await));
    assert_eq!(get(cluster.address, "/pay", "").await.status, 200);
    let _last = send(&cluster, "/pay/hang").await;
    until("ten to wait", || upstream.requests().iter().filter(|it| it.contains("hang")).count() == 10).await;
    assert!(is_shed(&get(cluster.address, "/pay", "").await));
    assert_eq!((shed(&cluster, "requests", "standard"), shed(&cluster, "requests", "any")), (1, 1));
    drop(flood);
    until("places to be free", || cluster.gateway.in_flight() == 3).await;
    assert_eq!(get(cluster.address, "/batch", "").await.status, 200);
}

#[tokio::test]
async fn the_priority_of_who_calls_goes_before_that_of_the_route() {
    let upstream = upstream().await;
    let cluster = Cluster::start_with(&resources(&upstream), |config| config.bounds.max_requests = 10).await;
    let mut waiting = Vec::new();
    for _ in 0..7 {
        waiting.push(send(&cluster, "/batch/hang").await);
    }
    until("seven to wait", || upstream.requests().len() == 7).await;
    for (path, key, refused) in [
        ("/batch", "", true),
        ("/batch", "x-api-key: sk-alice\r\n", true),
        ("/batch", "x-api-key: sk-carol\r\n", false),
        ("/pay", "x-api-key: sk-daemon\r\n", true),
        ("/shop", "x-api-key: sk-daemon\r\n", true),
        ("/shop", "x-api-key: sk-alice\r\n", false),
    ] {
        assert_eq!(is_shed(&get(cluster.address, path, key).await), refused, "{path} {key}");
    }
}

#[tokio::test]
async fn where_nothing_is_critical_no_place_is_kept_for_it() {
    let upstream = upstream().await;
    let resources = resources(&upstream).replace("critical", "standard");
    let cluster = Cluster::start_with(&resources, |config| config.bounds.max_requests = 10).await;
    let mut waiting = Vec::new();
    for _ in 0..9 {
        waiting.push(send(&cluster, "/shop/hang").await);
    }
    until("nine to wait", || upstream.requests().len() == 9).await;
    assert_eq!(get(cluster.address, "/shop", "").await.status, 200);
    assert!(is_shed(&get(cluster.address, "/batch", "").await));
}

/// Their bodies are read before anybody knows how they rank, and the places that they may have are looked at again.
#[tokio::test]
async fn a_route_found_by_its_model_is_refused_by_its_own_priority() {
    let upstream = upstream().await;
    let route = |name: &str, models: &str, priority: &str| {
        format!(
            "kind: Route\nmetadata: {{name: {name}}}\nspec: {{match: [{{models: [{models}]}}], backends: [{{provider: p}}], priority: {priority}, auth: {{required: false}}}}\n"
        )
    };
    let resources = format!(
        "kind: Provider\nmetadata: {{name: p}}\nspec: {{type: openai, endpoints: [{{url: 'http://{}/v1'}}], keys: [{{value: sk-up}}]}}\n---\n{}---\n{}",
        upstream.address,
        route("small", "small", "sheddable"),
        route("large", "large", "critical")
    );
    let cluster = Cluster::start_with(&resources, |config| config.bounds.max_requests = 10).await;
    let body = |model: &str, text: &str| {
        format!(r#"{{"model":"{model}","max_tokens":5,"messages":[{{"role":"user","content":"{text}"}}]}}"#)
    };
    let address = cluster.address;
    let chat = |model: &str, text: &str| {
        let body = body(model, text);
        async move { call(address, "/v1/chat/completions", &body).await }
    };
    let mut waiting = JoinSet::new();
    for _ in 0..7 {
        waiting.spawn(chat("small", "hang"));
    }
    until("seven to wait", || upstream.requests().len() == 7).await;
    for _ in 0..5 {
        assert!(is_shed(&chat("small", "hi").await));
        assert_eq!(chat("large", "hi").await.status, 200);
    }
    assert_eq!(shed(&cluster, "requests", "sheddable"), 5);
    waiting.abort_all();
    until("their places to be free", || cluster.gateway.in_flight() == 0).await;
    assert_eq!(chat("small", "hi").await.status, 200);
}

/// Nothing is known of them but that no route is for them: they wait in no place that is kept for others.
#[tokio::test]
async fn strangers_do_not_fill_what_is_kept_for_critical_calls() {
    let upstream = upstream().await;
    let route = |name: &str, more: &str| {
        format!(
            "---\nkind: Route\nmetadata: {{name: {name}}}\nspec: {{match: [{{models: [{name}]}}], backends: [{{provider: p}}]{more}}}\n"
        )
    };
    let provider = format!(
        "kind: Provider\nmetadata: {{name: p}}\nspec: {{type: openai, endpoints: [{{url: 'http://{}/v1'}}], keys: [{{value: sk-up}}]}}\n{}",
        upstream.address,
        route("large", ", priority: critical"),
    );
    let open = |priority: &str| route("small", &format!(", priority: {priority}, auth: {{required: false}}"));
    // As many as the highest may that is open to them.
    for (more, places) in
        [(route("small", ""), 7), (open("sheddable"), 7), (open("standard"), 9), (open("critical"), 10)]
    {
        let resources = format!("{provider}{more}");
        let cluster = Cluster::start_with(&resources, |config| config.bounds.max_requests = 10).await;
        let mut waiting = Vec::new();
        for key in ["", "x-api-key: sk-nobodys\r\n"].repeat(6) {
            let mut stream = TcpStream::connect(cluster.address).await.unwrap();
            let head = format!("POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\n{key}content-length: 100\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            waiting.push(stream);
        }
        let refused = || ["any", "sheddable", "standard"].map(|it| shed(&cluster, "requests", it)).iter().sum::<u64>();
        until("some to wait, and the rest to be refused", || refused() == 12 - places).await;
        assert_eq!(cluster.gateway.in_flight() as u64, places, "{more}");
        let body = r#"{"model":"large","max_tokens":5,"messages":[{"role":"user","content":"hi"}]}"#;
        let paid = call(cluster.address, "/v1/chat/completions", body).await;
        assert_eq!(paid.status == 200, places < 10, "{more}: {}", paid.raw);
    }
}

#[tokio::test]
async fn sheddable_calls_give_their_connections_back_before_there_are_none() {
    let upstream = upstream().await;
    let cluster = Cluster::start_with(&resources(&upstream), |config| config.bounds.max_connections = 10).await;
    let mut open = Vec::new();
    for _ in 0..7 {
        let mut stream = send(&cluster, "/shop").await;
        read_until(&mut stream, "fine").await;
        open.push(stream);
    }
    let mut eighth = send(&cluster, "/pay").await;
    assert!(read_until(&mut eighth, "fine").await.starts_with("HTTP/1.1 200 "));
    eighth.write_all(b"GET /batch HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let refused = read_until(&mut eighth, "another one").await;
    assert!(refused.starts_with("HTTP/1.1 503 ") && refused.contains("\r\nconnection: close\r\n"), "{refused}");
    assert_eq!(shed(&cluster, "connections", "sheddable"), 1);
    // Its own place is free again: the next one is the eighth, too.
    let mut next = send(&cluster, "/shop").await;
    assert!(read_until(&mut next, "fine").await.starts_with("HTTP/1.1 200 "));
}

/// The threads have more to do than they can, long before any bound is near.
#[test]
fn sheddable_calls_are_refused_while_tasks_wait_to_be_run() {
    const ROUTES: &str = "
kind: Route
metadata: {name: batch}
spec: {match: [{path: {prefix: /batch}}], response: {status: 200, body: fine}, priority: sheddable}
---
kind: Route
metadata: {name: pay}
spec: {match: [{path: {prefix: /pay}}], response: {status: 200, body: fine}, priority: critical}
";
    let plane = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let test = runtime::Builder::new_current_thread().enable_all().build().unwrap();
    test.block_on(async {
        let handle = plane.handle().clone();
        let cluster = Cluster::start_with(ROUTES, |config| {
            (config.runtime, config.bounds.sheds_when_late) = (Some(handle), true);
        })
        .await;
        let batch = async |refused: bool| {
            let deadline = Instant::now() + Duration::from_secs(30);
            while is_shed(&get(cluster.address, "/batch", "").await) != refused {
                assert!(Instant::now() < deadline, "refused: {refused}");
            }
        };
        assert!(!is_shed(&get(cluster.address, "/batch", "").await));
        let is_busy = Arc::new(AtomicBool::new(true));
        let hog = {
            let is_busy = Arc::clone(&is_busy);
            plane.spawn(async move {
                while is_busy.load(Ordering::Relaxed) {
                    let until = Instant::now() + Duration::from_millis(60);
                    while Instant::now() < until {
                        std::hint::spin_loop();
                    }
                    yield_now().await;
                }
            })
        };
        batch(true).await;
        assert!(shed(&cluster, "delay", "sheddable") > 0);
        for _ in 0..50 {
            assert_eq!(get(cluster.address, "/pay", "").await.status, 200);
        }
        is_busy.store(false, Ordering::Relaxed);
        hog.await.unwrap();
        batch(false).await;
    });
}
