//! Upstreams that may have only so many connections, and only so many requests that wait for one.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::{
    ai::{completion, provider},
    balancing::{ROUTE, service},
    clients::{call, get, read_until},
    cluster::{Cluster, until},
    health::figure,
    upstream::{Reply, Upstream, answer, events, json},
};

const BODY: &str = r#"{"model":"m","max_tokens":100,"messages":[{"role":"user","content":"hi"}]}"#;

async fn fine() -> Upstream {
    Upstream::start(|request| match request.contains("/stream") {
        true => Reply::Hang(events(&["one"])),
        false => Reply::Keep(answer(200, "", "fine")),
    })
    .await
}

fn of(cluster: &Cluster, what: &str) -> u64 {
    figure(cluster, &format!("tollgate_upstream_{what}{{upstream=\"s\",kind=\"service\""))
}

fn refusals(cluster: &Cluster, by: &str) -> u64 {
    figure(cluster, &format!("tollgate_upstream_breaker_refusals_total{{upstream=\"s\",kind=\"service\",by=\"{by}\"}}"))
}

/// A caller who has a connection of the upstream for as long as it stays.
async fn stream(cluster: &Cluster) -> TcpStream {
    let mut stream = TcpStream::connect(cluster.address).await.unwrap();
    stream.write_all(b"GET /stream HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    read_until(&mut stream, "one").await;
    stream
}

async fn is_refused(cluster: &Cluster) {
    let refused = get(cluster.address, "/", "").await;
    assert_eq!((refused.status, refused.code().as_str()), (503, "no_healthy_upstream"), "{}", refused.raw);
}

#[tokio::test]
async fn forty_callers_share_two_connections() {
    let upstreams = [fine().await];
    let cluster = Cluster::start(&(service(&upstreams, &[], "circuitBreaker: {maxConnections: 2}") + ROUTE)).await;
    let (address, mut callers) = (cluster.address, JoinSet::new());
    for _ in 0..40 {
        callers.spawn(async move {
            for _ in 0..5 {
                let answer = get(address, "/", "").await;
                assert_eq!(answer.status, 200, "{}", answer.raw);
            }
        });
    }
    while let Some(ended) = callers.join_next().await {
        ended.unwrap();
        assert!(of(&cluster, "connections") <= 2);
    }
    let most = upstreams[0].most_open.load(Ordering::SeqCst);
    assert!((1..=2).contains(&most), "{most}");
    assert_eq!((upstreams[0].requests().len(), of(&cluster, "pending_requests")), (200, 0));
    assert_eq!((refusals(&cluster, "max_pending"), refusals(&cluster, "max_connections")), (0, 0));
}

#[tokio::test]
async fn who_is_beyond_those_that_may_wait_is_refused_at_once_and_nobody_is_blamed() {
    let upstreams = [fine().await];
    let rest =
        "circuitBreaker: {maxConnections: 1, maxPending: 1}, outlierDetection: {consecutiveErrors: 1, ejectFor: 60s}";
    let cluster = Cluster::start(&(service(&upstreams, &[], rest) + ROUTE)).await;
    let first = stream(&cluster).await;
    let (address, mut waiting) = (cluster.address, JoinSet::new());
    waiting.spawn(async move { get(address, "/", "").await.status });
    until("one to wait", || of(&cluster, "pending_requests") == 1).await;
    is_refused(&cluster).await;
    assert_eq!((refusals(&cluster, "max_pending"), of(&cluster, "connections")), (1, 1));
    drop(first);
    assert_eq!(waiting.join_next().await.unwrap().unwrap(), 200, "it comes free");
    let fit = "tollgate_upstream_endpoints{upstream=\"s\",kind=\"service\",state=\"fit\"}";
    assert_eq!((figure(&cluster, fit), of(&cluster, "pending_requests")), (1, 0));
    assert_eq!(upstreams[0].requests().len(), 2);
    assert!(upstreams[0].most_open.load(Ordering::SeqCst) <= 2, "the second is made once the first is closed");
}

/// The time that an upstream has for its answer begins when it is asked.
#[tokio::test]
async fn to_stand_in_line_takes_nothing_of_the_time_that_an_upstream_has() {
    let answer = || Reply::Paced(String::new(), vec![answer(200, "", "late")], Duration::from_millis(1_200));
    let upstreams = [Upstream::start(move |_| answer()).await];
    let rest = "circuitBreaker: {maxConnections: 1}, outlierDetection: {consecutiveErrors: 1, ejectFor: 60s}";
    let route = ROUTE.replace("spec: {", "spec: {timeouts: {firstByte: 2s}, ");
    let cluster = Cluster::start(&(service(&upstreams, &[], rest) + &route)).await;
    let (address, mut callers) = (cluster.address, JoinSet::new());
    for _ in 0..2 {
        callers.spawn(async move { get(address, "/", "").await.status });
    }
    assert_eq!(callers.join_all().await, [200, 200]);
    let fit = "tollgate_upstream_endpoints{upstream=\"s\",kind=\"service\",state=\"fit\"}";
    assert_eq!((figure(&cluster, fit), upstreams[0].most_open.load(Ordering::SeqCst)), (1, 1));
}

#[tokio::test]
async fn nobody_waits_for_longer_than_for_a_connection_and_nothing_is_billed() {
    let upstream = Upstream::start(|request| match request.contains("\"stream\":true") {
        true => Reply::Hang(events(&[crate::ai::EVENT])),
        false => Reply::Keep(json(&completion(9, 3))),
    })
    .await;
    let resources = provider(&upstream, "openai")
        .replacen("keys:", "circuitBreaker: {maxConnections: 1}, outlierDetection: {consecutiveErrors: 1}, keys:", 1)
        .replace("idle: 700ms", "idle: 10s");
    assert!(resources.contains("circuitBreaker"), "{resources}");
    let cluster = Cluster::start(&resources).await;
    let mut first = TcpStream::connect(cluster.address).await.unwrap();
    let streamed = BODY.replacen('{', "{\"stream\":true,", 1);
    first
        .write_all(
            crate::clients::post_text("/v1/chat/completions", "authorization: Bearer sk-alice\r\n", &streamed)
                .as_bytes(),
        )
        .await
        .unwrap();
    read_until(&mut first, "Hello").await;
    let late = call(cluster.address, "/v1/chat/completions", BODY).await;
    assert_eq!((late.status, late.code().as_str()), (503, "no_healthy_upstream"), "{}", late.raw);
    assert_eq!(upstream.requests().len(), 1);
    let line = "tollgate_upstream_breaker_refusals_total{upstream=\"first\",kind=\"provider\",by=\"max_connections\"}";
    assert_eq!(figure(&cluster, line), 1);
    let fit = "tollgate_upstream_endpoints{upstream=\"first\",kind=\"provider\",state=\"fit\"}";
    assert_eq!(figure(&cluster, fit), 1);
    drop(first);
    assert_eq!(call(cluster.address, "/v1/chat/completions", BODY).await.status, 200);
    let rows = cluster.settled(2).await;
    cluster.nothing_held().await;
    let billed = rows.iter().filter(|row| row.usage.output_tokens > 0).count();
    assert_eq!((rows.iter().filter(|row| !row.provider.is_empty()).count(), billed), (2, 2), "{:?}", rows.len());
}

/// Whatever is idle elsewhere makes room: nobody has to wait, so nobody is refused.
#[tokio::test]
async fn an_idle_connection_of_another_endpoint_makes_room() {
    let upstreams = [fine().await, fine().await, fine().await];
    let rest = "circuitBreaker: {maxConnections: 1, maxPending: 0}, loadBalancing: {policy: roundRobin}";
    let cluster = Cluster::start(&(service(&upstreams, &[], rest) + ROUTE)).await;
    for _ in 0..12 {
        let answer = get(cluster.address, "/", "").await;
        assert_eq!((answer.status, of(&cluster, "connections")), (200, 1), "{}", answer.raw);
    }
    assert!(upstreams.iter().all(|it| it.requests().len() == 4));
}

#[tokio::test]
async fn callers_of_all_endpoints_come_to_their_turn() {
    let upstreams = [fine().await, fine().await, fine().await];
    let rest = "circuitBreaker: {maxConnections: 2}, loadBalancing: {policy: roundRobin}";
    let cluster = Cluster::start(&(service(&upstreams, &[], rest) + ROUTE)).await;
    let (address, mut callers) = (cluster.address, JoinSet::new());
    for _ in 0..30 {
        callers.spawn(async move {
            for _ in 0..5 {
                let answer = get(address, "/", "").await;
                assert_eq!(answer.status, 200, "{}", answer.raw);
            }
        });
    }
    while let Some(ended) = callers.join_next().await {
        ended.unwrap();
        assert!(of(&cluster, "connections") <= 2);
    }
}

#[tokio::test]
async fn a_bound_that_is_moved_is_for_those_who_wait_already() {
    let upstreams = [fine().await];
    let resources = |most| service(&upstreams, &[], &format!("circuitBreaker: {{maxConnections: {most}}}")) + ROUTE;
    let cluster = Cluster::start(&resources(1)).await;
    let _first = stream(&cluster).await;
    let (address, mut waiting) = (cluster.address, JoinSet::new());
    waiting.spawn(async move { get(address, "/", "").await.status });
    until("one to wait", || of(&cluster, "pending_requests") == 1).await;
    cluster.apply(&resources(2));
    assert_eq!(waiting.join_next().await.unwrap().unwrap(), 200);
    assert_eq!(of(&cluster, "connections"), 2);
    let _other = stream(&cluster).await;
    waiting.spawn(async move { get(address, "/", "").await.status });
    until("one to wait", || of(&cluster, "pending_requests") == 1).await;
    cluster.apply(&(service(&upstreams, &[], "protocol: http") + ROUTE));
    assert_eq!(waiting.join_next().await.unwrap().unwrap(), 200, "nor is there a bound any more");
}

/// Switches to whatever it is asked for, and keeps it.
async fn switching() -> (std::net::SocketAddr, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, tasks) = (listener.local_addr().unwrap(), TaskTracker::new());
    let connections = tasks.clone();
    let accepting = tasks.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            connections.spawn(async move {
                let mut read = Vec::new();
                while !read.ends_with(b"\r\n\r\n") {
                    if stream.read_buf(&mut read).await.unwrap_or(0) == 0 {
                        return;
                    }
                }
                let switches = String::from_utf8_lossy(&read).contains("upgrade: websocket");
                let said = match switches {
                    true => "HTTP/1.1 101 X\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n".to_owned(),
                    false => answer(200, "connection: close\r\n", "fine"),
                };
                let _ = stream.write_all(said.as_bytes()).await;
                while switches && stream.read_buf(&mut read).await.unwrap_or(0) > 0 {}
            });
        }
    });
    (address, AbortOnDropHandle::new(accepting))
}

#[tokio::test]
async fn a_websocket_is_a_connection_until_it_closes() {
    let (address, _switching) = switching().await;
    let resources = format!(
        "kind: Service\nmetadata: {{name: s}}\nspec: {{protocol: http, endpoints: [{{address: '{address}'}}], \
         circuitBreaker: {{maxConnections: 1, maxPending: 0}}}}\n{ROUTE}"
    );
    let cluster = Cluster::start(&resources).await;
    let mut socket = TcpStream::connect(cluster.address).await.unwrap();
    let asks = "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    socket.write_all(asks.as_bytes()).await.unwrap();
    assert!(read_until(&mut socket, "\r\n\r\n").await.starts_with("HTTP/1.1 101 "));
    is_refused(&cluster).await;
    assert_eq!(of(&cluster, "connections"), 1);
    drop(socket);
    until("it to be closed", || of(&cluster, "connections") == 0).await;
    assert_eq!(get(cluster.address, "/", "").await.status, 200);
}

/// Where no connection is free an endpoint can't be asked how it is, which says nothing of it.
#[tokio::test]
async fn an_endpoint_is_not_unwell_as_all_its_connections_are_taken() {
    let upstreams = [fine().await];
    let rest = "circuitBreaker: {maxConnections: 1}, healthCheck: {path: /up, interval: 400ms, timeout: 400ms, unhealthyAfter: 1}";
    let cluster = Cluster::start(&(service(&upstreams, &[], rest) + ROUTE)).await;
    let checks = |result| {
        format!("tollgate_upstream_health_checks_total{{upstream=\"s\",kind=\"service\",result=\"{result}\"}}")
    };
    until("it to be asked", || figure(&cluster, &checks("good")) >= 1).await;
    let _stream = stream(&cluster).await;
    until("it to be asked in vain", || refusals(&cluster, "max_connections") >= 3).await;
    let fit = "tollgate_upstream_endpoints{upstream=\"s\",kind=\"service\",state=\"fit\"}";
    assert_eq!((figure(&cluster, &checks("bad")), figure(&cluster, fit)), (0, 1));
}

/// Two upstreams of the same address have connections of their own where one of them is bounded.
#[tokio::test]
async fn another_upstream_of_the_same_address_is_not_bounded() {
    let upstream = Arc::new(fine().await);
    let named = |name: &str, rest: &str| {
        format!(
            "kind: Service\nmetadata: {{name: {name}}}\nspec: {{endpoints: [{{address: '{}'}}]{rest}}}\n---\n",
            upstream.address
        )
    };
    let routes = "kind: Route\nmetadata: {name: a}\nspec: {match: [{path: {prefix: /stream}}], backends: [{service: s}]}\n---\n\
                  kind: Route\nmetadata: {name: b}\nspec: {backends: [{service: free}]}\n";
    let bounded = named("s", ", circuitBreaker: {maxConnections: 1, maxPending: 0}");
    let cluster = Cluster::start(&(bounded + &named("free", "") + routes)).await;
    let _stream = stream(&cluster).await;
    assert_eq!(get(cluster.address, "/stream", "").await.status, 503);
    assert_eq!(get(cluster.address, "/", "").await.status, 200);
    assert!(!cluster.metrics().contains("tollgate_upstream_connections{upstream=\"free\""));
}
