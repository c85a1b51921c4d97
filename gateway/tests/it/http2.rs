//! HTTP/2 with prior knowledge, on the same port: hyper's client, and raw frames for floods.

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::Incoming,
    client::conn::http2::{SendRequest, handshake},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{Duration, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::{
    ai::{completion, provider},
    cluster::Cluster,
    upstream::{Reply, Upstream, json},
};

const FIXED: &str = "kind: Route\nmetadata: {name: fixed}\nspec: {response: {status: 200, body: fine}}\n";

pub(crate) async fn connect<B>(cluster: &Cluster) -> (SendRequest<B>, AbortOnDropHandle<()>)
where
    B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Unpin + Send + 'static,
{
    let stream = TcpStream::connect(cluster.address).await.unwrap();
    let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let driving = TaskTracker::new().spawn(async move { drop(connection.await) });
    (sender, AbortOnDropHandle::new(driving))
}

/// An upstream of HTTP/2, over TLS where it has what that needs.
pub(crate) async fn served<S, B, F>(service: S, tls: Option<ServerConfig>) -> (SocketAddr, AbortOnDropHandle<()>)
where
    S: Fn(Request<Incoming>) -> F + Copy + Send + 'static,
    F: Future<Output = Result<Response<B>, Infallible>> + Send + 'static,
    B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    let tls = tls.map(|tls| TlsAcceptor::from(Arc::new(tls)));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tasks, http) = (TaskTracker::new(), hyper::server::conn::http2::Builder::new(TokioExecutor::new()));
    let connections = tasks.clone();
    let accepting = tasks.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (http, tls) = (http.clone(), tls.clone());
            connections.spawn(async move {
                match tls {
                    None => drop(http.serve_connection(TokioIo::new(stream), service_fn(service)).await),
                    Some(tls) => {
                        let stream = tls.accept(stream).await?;
                        drop(http.serve_connection(TokioIo::new(stream), service_fn(service)).await);
                    }
                }
                std::io::Result::Ok(())
            });
        }
    });
    (address, AbortOnDropHandle::new(accepting))
}

fn get(uri: &str) -> http::request::Builder {
    Request::builder().uri(uri)
}

#[tokio::test]
async fn requests_share_a_connection_and_have_ids() {
    let upstream = Upstream::always(Reply::Keep(json(&completion(9, 3)))).await;
    let cluster = Cluster::start(&provider(&upstream, "openai")).await;
    let (mut sender, _driving) = connect::<Full<Bytes>>(&cluster).await;
    let body = r#"{"model":"m","max_tokens":10,"messages":[{"role":"user","content":"hi"}]}"#;
    let request = || {
        let request = Request::post("http://test/v1/chat/completions").header("authorization", "Bearer sk-alice");
        request.body(Full::from(body)).unwrap()
    };
    sender.ready().await.unwrap();
    let (one, two) = (sender.send_request(request()), sender.send_request(request()));
    for answer in [one.await.unwrap(), two.await.unwrap()] {
        assert_eq!((answer.status(), answer.headers()["x-request-id"].len()), (StatusCode::OK, 36));
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), completion(9, 3));
    }
}

#[tokio::test]
async fn ambiguity_is_refused_here_too_and_crumbs_are_joined() {
    let route =
        "kind: Route\nmetadata: {name: c}\nspec: {match: [{cookies: {b: {exact: '2'}}}], response: {body: crumbs}}\n";
    let cluster = Cluster::start(route).await;
    let (mut sender, _driving) = connect::<Full<Bytes>>(&cluster).await;
    let crumbs = get("http://test/").header("cookie", "a=1").header("cookie", "b=2").body(Full::default()).unwrap();
    assert_eq!(sender.send_request(crumbs).await.unwrap().status(), 200);
    for (request, status) in [
        (get("http://test/").header("host", "other"), 400),
        (get("http://user@test/"), 400),
        (get("http://test/%2e%2e/"), 400),
        (get("http://test/").header("x", "y".repeat(70_000)), 431),
        (get("http://test/").header("content-length", "0").header("content-length", "0"), 400),
    ] {
        let answer = sender.send_request(request.body(Full::default()).unwrap()).await.unwrap();
        assert_eq!(answer.status(), status);
        assert_eq!(answer.headers()["x-request-id"].len(), 36);
    }
}

#[tokio::test]
async fn headers_beyond_64_kilobytes_are_told_so_however_many_they_are() {
    let cluster = Cluster::start(FIXED).await;
    let (mut sender, _driving) = connect::<Full<Bytes>>(&cluster).await;
    for size in [70_000, 100_000, 200_000] {
        let request = get("http://test/").header("x", "y".repeat(size)).body(Full::default()).unwrap();
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.headers()["x-request-id"].len()), (431, 36), "{size}");
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        assert!(body.starts_with(b"{\"error\":{") && body.windows(17).any(|it| it == b"request_too_large"), "{body:?}");
    }
    assert_eq!(sender.send_request(get("http://test/").body(Full::default()).unwrap()).await.unwrap().status(), 200);
}

#[tokio::test]
async fn many_small_headers_are_no_reason_to_refuse() {
    let cluster = Cluster::start(FIXED).await;
    let (mut sender, _driving) = connect::<Full<Bytes>>(&cluster).await;
    for (count, status) in [(150, 200), (1_500, 200), (2_000, 431)] {
        let many = (0..count).fold(get("http://test/"), |request, n| request.header(format!("x{n}"), "a"));
        let answer = sender.send_request(many.body(Full::default()).unwrap()).await.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{count}");
    }
}

/// A raw HTTP/2 connection past its preface and settings.
pub(crate) async fn raw(cluster: &Cluster) -> TcpStream {
    let mut stream = TcpStream::connect(cluster.address).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00").await.unwrap();
    stream
}

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Sends until the other side has had enough; fails when it takes everything.
async fn is_ended(mut stream: TcpStream, flood: impl Fn(u32) -> Vec<u8>) {
    let (mut reader, mut writer) = stream.split();
    let send = async {
        for n in 0..200_000 {
            if writer.write_all(&flood(n)).await.is_err() {
                return;
            }
        }
        std::future::pending().await
    };
    let read = async {
        let mut sink = vec![0; 65_536];
        while reader.read(&mut sink).await.is_ok_and(|read| read > 0) {}
    };
    let ended = timeout(Duration::from_secs(20), async {
        tokio::select! { () = send => {}, () = read => {} }
    })
    .await;
    assert!(ended.is_ok(), "the connection lives on");
}

#[tokio::test]
async fn floods_end_the_connection() {
    let cluster = Cluster::start(FIXED).await;
    is_ended(raw(&cluster).await, |_| frame(4, 0, 0, &[])).await; // SETTINGS
    is_ended(raw(&cluster).await, |_| frame(6, 0, 0, &[0; 8])).await; // PING
    is_ended(raw(&cluster).await, |_| frame(8, 0, 0, &[0, 0, 0, 1])).await; // WINDOW_UPDATE
    is_ended(raw(&cluster).await, |_| frame(0xaa, 0, 0, &[0; 8])).await; // unknown
    is_ended(raw(&cluster).await, |n| {
        // Rapid reset: GET http://test/ by the static table, then RST_STREAM.
        let stream = 2 * n + 1;
        let block = [&[0x82, 0x86, 0x84, 0x41, 4][..], b"test"].concat();
        [frame(1, 5, stream, &block), frame(3, 0, stream, &[0, 0, 0, 8])].concat()
    })
    .await;
    let block = [&[0x82, 0x86, 0x84, 0x41, 4][..], b"test"].concat();
    is_ended(raw(&cluster).await, |n| match n {
        0 => frame(1, 0, 1, &block),
        _ => frame(9, 0, 1, &[0x40, 1, b'x', 1, b'y']), // CONTINUATION
    })
    .await;
    let (mut sender, _driving) = connect::<Full<Bytes>>(&cluster).await;
    assert_eq!(sender.send_request(get("http://test/").body(Full::default()).unwrap()).await.unwrap().status(), 200);
}

/// A byte a second, for ever: less than the floor, and more than silence.
#[tokio::test]
async fn a_body_that_dribbles_is_answered_408() {
    let upstream = Upstream::always(Reply::Keep(json(&completion(9, 3)))).await;
    let cluster = Cluster::start(&provider(&upstream, "openai")).await;
    let mut stream = raw(&cluster).await;
    // POST http://test/v1/chat/completions by alice, as literals.
    let field = |name: &str, value: &str| {
        let length = |text: &str| u8::try_from(text.len()).unwrap();
        [&[0, length(name)], name.as_bytes(), &[length(value)], value.as_bytes()].concat()
    };
    let block = [
        vec![0x83, 0x86],
        field(":path", "/v1/chat/completions"),
        field(":authority", "test"),
        field("authorization", "Bearer sk-alice"),
    ];
    stream.write_all(&frame(1, 4, 1, &block.concat())).await.unwrap();
    let (mut reader, mut writer) = stream.split();
    let send = async {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await; // what makes it slow
            if writer.write_all(&frame(0, 0, 1, b"{")).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    let mut answer = Vec::new();
    let read = async {
        while !answer.windows(15).any(|it| it == b"request_timeout") {
            assert!(reader.read_buf(&mut answer).await.unwrap() > 0, "{answer:?}");
        }
    };
    let begun = tokio::time::Instant::now();
    tokio::select! { () = send => {}, told = timeout(Duration::from_secs(60), read) => told.expect("it is told") }
    assert!(begun.elapsed() >= Duration::from_secs(15), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn draining_sends_goaway_and_lets_streams_end() {
    let cluster = Cluster::start(FIXED).await;
    let (mut sender, driving) = connect::<Full<Bytes>>(&cluster).await;
    let request = || get("http://test/").body(Full::<Bytes>::default()).unwrap();
    assert_eq!(sender.send_request(request()).await.unwrap().status(), 200);
    cluster.shutdown.draining.cancel();
    assert!(timeout(Duration::from_secs(10), driving).await.is_ok(), "GOAWAY ends an idle connection");
    cluster.shutdown.stop.cancel();
}

#[tokio::test]
async fn who_connects_while_a_node_leaves_is_served_and_told_to_go_when_nothing_more_is_accepted() {
    let cluster = Cluster::start(FIXED).await;
    let request = || get("http://test/").body(Full::<Bytes>::default()).unwrap();
    cluster.shutdown.draining.cancel();
    let (mut sender, driving) = connect::<Full<Bytes>>(&cluster).await;
    for _ in 0..3 {
        assert_eq!(sender.send_request(request()).await.unwrap().status(), 200);
    }
    cluster.shutdown.stop.cancel();
    assert!(timeout(Duration::from_secs(10), driving).await.is_ok(), "GOAWAY ends an idle connection");
}

#[tokio::test]
async fn a_node_of_a_drained_zone_sends_goaway_on_what_is_open_and_serves_what_comes() {
    let cluster = Cluster::start(FIXED).await;
    let request = || get("http://test/").body(Full::<Bytes>::default()).unwrap();
    let (mut sender, driving) = connect::<Full<Bytes>>(&cluster).await;
    assert_eq!(sender.send_request(request()).await.unwrap().status(), 200);
    cluster.gateway.set_drained([tollgate_model::Name::new("az-a")].into());
    assert!(timeout(Duration::from_secs(10), driving).await.is_ok(), "GOAWAY ends an idle connection");
    let (mut sender, driving) = connect::<Full<Bytes>>(&cluster).await;
    for _ in 0..3 {
        assert_eq!(sender.send_request(request()).await.unwrap().status(), 200);
    }
    assert!(timeout(Duration::from_secs(20), driving).await.is_ok(), "it is told to go after a while");
}
