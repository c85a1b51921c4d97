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
use tollgate_quota::journal::Forgetful;

use crate::{
    clients::get,
    cluster::{Cluster, until},
    upstream::{Reply, Upstream, answer},
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
