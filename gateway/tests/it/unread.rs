//! Callers who do not read their answers: what these hold does not last as long as they like.

use std::{sync::Arc, sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::Incoming,
    client::conn::http2::{self, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tollgate_gateway::{AccessLog, AccessLogField};
use tollgate_quota::journal::Forgetful;

use crate::{
    ai::{completion, provider},
    clients::{call, get},
    cluster::{Cluster, until},
    upstream::{Reply, Upstream, answer, json},
};

fn resources(upstream: &Upstream, route: &str) -> String {
    format!(
        "kind: Service\nmetadata: {{name: s}}\nspec: {{protocol: http, endpoints: [{{address: '{}'}}]}}\n---\n\
         kind: Route\nmetadata: {{name: all}}\nspec: {{backends: [{{service: s}}]{route}}}\n---\n\
         kind: Limit\nmetadata: {{name: open}}\nspec: {{unit: concurrency, limit: 1}}\n",
        upstream.address
    )
}

/// An answer that goes on for as long as somebody takes it.
async fn endless() -> Upstream {
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_owned();
    Upstream::always(Reply::Endless(head, format!("2000\r\n{}\r\n", "x".repeat(0x2000)))).await
}

/// A client that is there, answers PINGs, and lets nothing of a body be sent.
async fn client(cluster: &Cluster) -> (SendRequest<Full<Bytes>>, AbortOnDropHandle<()>) {
    let stream = TcpStream::connect(cluster.address).await.unwrap();
    let mut client = http2::Builder::new(TokioExecutor::new());
    let (sender, connection) = client.initial_stream_window_size(0).handshake(TokioIo::new(stream)).await.unwrap();
    let driving = TaskTracker::new().spawn(async move { drop(connection.await) });
    (sender, AbortOnDropHandle::new(driving))
}

async fn ask(sender: &mut SendRequest<Full<Bytes>>) -> Response<Incoming> {
    let request = Request::builder().uri("http://test/").body(Full::default()).unwrap();
    sender.send_request(request).await.unwrap()
}

fn is_held(cluster: &Cluster) -> bool {
    cluster.accounts("open").iter().any(|account| account.held == 1)
}

#[tokio::test]
async fn a_permit_comes_back_when_the_time_of_its_answer_is_over() {
    let upstream = endless().await;
    let cluster = Cluster::start(&resources(&upstream, ", timeouts: {request: 1s}")).await;
    let (mut sender, _driving) = client(&cluster).await;
    let unread = ask(&mut sender).await;
    assert_eq!((unread.status().as_u16(), is_held(&cluster)), (200, true));
    cluster.nothing_held().await;
    until("the upstream to be let go", || upstream.open.load(Ordering::SeqCst) == 0).await;
    assert_eq!(cluster.settled(1).await.len(), 1, "once");
    assert_eq!(get(cluster.address, "/", "connection: close\r\n").await.status, 200, "others get it");
    drop(unread);
}

#[tokio::test]
async fn a_permit_that_others_may_be_given_ends_its_answer() {
    let upstream = endless().await;
    let isolation = Duration::from_secs(3);
    let resources = resources(&upstream, "");
    let journal = Arc::new(Forgetful::default());
    let cluster = Cluster::start_at(&resources, journal, |desk| desk.isolation = isolation, |_| {}).await;
    let (mut sender, _driving) = client(&cluster).await;
    let unread = ask(&mut sender).await;
    assert_eq!((unread.status().as_u16(), is_held(&cluster)), (200, true));
    assert_eq!(upstream.open.load(Ordering::SeqCst), 1);
    cluster.set_reachable(false);
    until("the upstream to be let go", || upstream.open.load(Ordering::SeqCst) == 0).await;
    cluster.set_reachable(true);
    cluster.nothing_held().await;
    drop(unread);
}

#[tokio::test]
async fn a_permit_does_not_wait_for_the_caller_of_a_short_answer() {
    let upstream = Upstream::always(Reply::Keep(answer(200, "", "fine"))).await;
    let cluster = Cluster::start(&resources(&upstream, "")).await;
    let (mut sender, _driving) = client(&cluster).await;
    let unread = ask(&mut sender).await;
    cluster.nothing_held().await;
    assert_eq!(get(cluster.address, "/", "").await.body, "fine");
    drop(unread);
}

#[tokio::test]
async fn what_holds_something_comes_whole_to_who_reads_it() {
    let body = "0123456789".repeat(100_000);
    let upstream = Upstream::always(Reply::Keep(answer(200, "", &body))).await;
    let cluster = Cluster::start(&resources(&upstream, "")).await;
    let plain = get(cluster.address, "/", "").await;
    assert_eq!((plain.header("content-length"), plain.body == body), (Some("1000000"), true));
    let (mut sender, _driving) = crate::http2::connect::<Full<Bytes>>(&cluster).await;
    let taken = ask(&mut sender).await.into_body().collect().await.unwrap();
    assert!(taken.to_bytes() == body);
    cluster.nothing_held().await;
}

#[tokio::test]
async fn the_access_log_knows_a_whole_answer_with_and_without_a_hold() {
    let body = "x".repeat(100_000);
    let upstream = Upstream::always(Reply::Keep(answer(200, "", &body))).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("access.log");
    let log = AccessLog::open(&file, &[AccessLogField::End, AccessLogField::Bytes], 1.0).unwrap();
    let resources = resources(&upstream, "");
    let (without, _) = resources.rsplit_once("---").unwrap();
    for (n, resources) in [without, &resources].into_iter().enumerate() {
        let log = log.clone();
        let cluster = Cluster::start_with(resources, |config| config.access_log = Some(log)).await;
        let lines = || std::fs::read_to_string(&file).unwrap().lines().map(str::to_owned).collect::<Vec<_>>();
        assert!(get(cluster.address, "/", "").await.body == body);
        until("a line", || lines().len() == 2 * n + 1).await;
        let (mut sender, _driving) = crate::http2::connect::<Full<Bytes>>(&cluster).await;
        assert!(ask(&mut sender).await.into_body().collect().await.unwrap().to_bytes() == body);
        until("another", || lines().len() == 2 * n + 2).await;
        assert!(lines().iter().all(|line| line == r#"{"end":"complete","bytes":100000}"#), "{:?}", lines());
    }
}

#[tokio::test]
async fn a_models_answer_counts_as_buffered_until_it_is_taken() {
    let text = "long ".repeat(60_000);
    let upstream = Upstream::start(move |request| {
        let said = if request.contains("much") { text.as_str() } else { "Hello" };
        Reply::Keep(json(&completion(9, 3).replace("Hello", said)))
    })
    .await;
    let resources = provider(&upstream, "openai");
    let cluster = Cluster::start_with(&resources, |config| config.bounds.max_buffered_bytes = 200_000).await;
    let body = |word: &str| format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{word}"}}]}}"#);
    let (mut sender, _driving) = client(&cluster).await;
    let request = Request::post("http://test/v1/chat/completions").header("authorization", "Bearer sk-alice");
    let unread = sender.send_request(request.body(Full::from(body("much"))).unwrap()).await.unwrap();
    assert_eq!(unread.status(), 200);
    let little = body("little");
    for _ in 0..3 {
        let refused = call(cluster.address, "/v1/chat/completions", &little).await;
        assert_eq!(refused.status, 503, "{}", refused.raw);
    }
    drop(unread);
    until("it to be let go", || cluster.gateway.in_flight() == 0).await;
    assert_eq!(call(cluster.address, "/v1/chat/completions", &little).await.status, 200);
    let much = call(cluster.address, "/v1/chat/completions", &body("much")).await;
    assert!(much.status == 200 && much.body.len() > 300_000 && much.body.ends_with('}'), "{}", much.body.len());
}

#[tokio::test]
async fn a_node_that_stops_waits_for_nobody_who_does_not_read() {
    let upstream = endless().await;
    let cluster = Cluster::start(&resources(&upstream, "")).await;
    let (mut sender, _driving) = client(&cluster).await;
    let unread = ask(&mut sender).await;
    assert!(is_held(&cluster));
    cluster.shutdown.stop.cancel();
    cluster.shutdown.abort.cancel();
    until("the upstream to be let go", || upstream.open.load(Ordering::SeqCst) == 0).await;
    cluster.nothing_held().await;
    drop(unread);
}
