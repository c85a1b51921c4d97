//! Connections that are no calls of one answer: WebSockets and gRPC, through real nodes.

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Full, combinators::BoxBody};
use hyper::{body::Incoming, client, server, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};
use tollgate_chaos_tests::{
    Cluster, Outcome, Plan, eventually,
    resources::{api_key, consumer, document, tenant},
};

/// RFC 6455 §1.3's own example, and what answers it.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
const PATIENCE: Duration = Duration::from_secs(20);

/// Whatever is served on a free port, until it is dropped.
async fn listening<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> anyhow::Result<(SocketAddr, JoinSet<()>)>
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            connections.spawn(serve(stream));
        }
    });
    Ok((address, tasks))
}

async fn head(stream: &mut TcpStream) -> anyhow::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(PATIENCE, stream.read_u8()).await??);
    }
    Ok(String::from_utf8(head)?)
}

/// A WebSocket upstream that gives back what it gets.
async fn echo(mut stream: TcpStream) {
    let Ok(asked) = head(&mut stream).await else { return };
    let agreed = format!(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: {ACCEPT}\r\n\r\n"
    );
    if asked.contains(KEY) && stream.write_all(agreed.as_bytes()).await.is_ok() {
        let (mut reader, mut writer) = stream.split();
        let _ = tokio::io::copy(&mut reader, &mut writer).await;
    }
}

/// Asks a node for a WebSocket.
async fn ask(address: SocketAddr) -> anyhow::Result<(TcpStream, String)> {
    let mut stream = TcpStream::connect(address).await?;
    let asked = format!(
        "GET /live HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
         sec-websocket-key: {KEY}\r\nauthorization: Bearer {}\r\n\r\n",
        api_key("alice")
    );
    stream.write_all(asked.as_bytes()).await?;
    let answer = head(&mut stream).await?;
    Ok((stream, answer))
}

async fn says_back(stream: &mut TcpStream, bytes: &[u8]) -> anyhow::Result<()> {
    stream.write_all(bytes).await?;
    let mut back = vec![0; bytes.len()];
    timeout(PATIENCE, stream.read_exact(&mut back)).await??;
    anyhow::ensure!(back == bytes, "{back:?}");
    Ok(())
}

#[tokio::test]
async fn a_websocket_has_its_permit_on_all_nodes_until_it_closes_and_one_line_in_the_log_then() -> Outcome {
    let env = vec![("TOLLGATE_TELEMETRY_LOG".to_owned(), "info,access=debug".to_owned())];
    let mut cluster = Cluster::with(Plan { env, ..Plan::default() }).await?;
    cluster.ready().await?;
    let (address, _upstream) = listening(echo).await?;
    let yaml = document("Service", "live", &format!("{{endpoints: [{{address: '{address}'}}]}}"))
        + &document(
            "Route",
            "live",
            "{match: [{path: {exact: /live}}], backends: [{service: live}], auth: {required: true}}",
        )
        + &tenant("acme")
        + &consumer("alice", "acme")
        + &document("Limit", "one", "{per: [consumer], unit: concurrency, limit: 1}");
    cluster.cli().apply_and_wait(&yaml).await?;
    let (mut stream, answer) = ask(cluster.nodes[0].http).await?;
    assert!(answer.starts_with("HTTP/1.1 101 ") && answer.contains(ACCEPT), "{answer}");
    says_back(&mut stream, b"GET / HTTP/1.1\nno head\n\n").await?;
    for node in &cluster.nodes {
        let (_, answer) = ask(node.http).await?;
        assert!(answer.starts_with("HTTP/1.1 429 "), "node {}: {answer}", node.id);
    }
    says_back(&mut stream, &[0xff; 100_000]).await?;
    drop(stream);
    let other = cluster.nodes[1].http;
    let mut next = eventually("the permit is free on another node", || async {
        let (stream, answer) = ask(other).await?;
        anyhow::ensure!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        Ok(stream)
    })
    .await?;
    says_back(&mut next, b"hello").await?;
    let log = cluster.node(1).log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("received_bytes")).collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    for part in ["\"received_bytes\":100024", "\"bytes\":100024", "\"status\":101", "\"route\":\"live\""] {
        assert!(lines[0].contains(part), "{part} is not in {}", lines[0]);
    }
    Ok(())
}

type Body = BoxBody<Bytes, Infallible>;

/// A gRPC upstream: one message back for each, and its status behind them.
async fn method(request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let trailers = HeaderMap::from_iter([("grpc-status".parse().expect("a name"), HeaderValue::from_static("0"))]);
    let body = request.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let body = Full::new(body).with_trailers(std::future::ready(Some(Ok(trailers)))).boxed();
    Ok(Response::builder().header("content-type", "application/grpc").body(body).expect("it is whole"))
}

async fn grpc(stream: TcpStream) {
    let _ = server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service_fn(method))
        .await;
}

/// One call: its status, where that was told, and its body.
async fn call(address: SocketAddr, key: &str) -> anyhow::Result<(String, &'static str, Bytes)> {
    let io = TokioIo::new(TcpStream::connect(address).await?);
    let (mut sender, connection) = client::conn::http2::handshake(TokioExecutor::new(), io).await?;
    let mut driving = JoinSet::new();
    driving.spawn(async move { drop(connection.await) });
    let request = Request::post("http://test/shop.v1.Cart/Add")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("authorization", format!("Bearer {key}"))
        .body(Full::<Bytes>::from(&b"\0\0\0\0\x02hi"[..]))?;
    let answer = timeout(PATIENCE, sender.send_request(request)).await??;
    anyhow::ensure!(answer.status() == 200, "{answer:?}");
    let told =
        |headers: &HeaderMap| headers.get("grpc-status").map(|it| String::from_utf8_lossy(it.as_bytes()).into_owned());
    if let Some(status) = told(answer.headers()) {
        return Ok((status, "headers", Bytes::new()));
    }
    let body = timeout(PATIENCE, answer.into_body().collect()).await??;
    let status = body.trailers().and_then(told).unwrap_or_default();
    Ok((status, "trailers", body.to_bytes()))
}

#[tokio::test]
async fn grpc_calls_are_served_and_refused_in_their_own_words_on_every_node_and_browsers_are_translated_for() -> Outcome
{
    let mut cluster = Cluster::start().await?;
    cluster.ready().await?;
    let (address, _upstream) = listening(grpc).await?;
    let yaml = document("Service", "cart", &format!("{{protocol: grpc, endpoints: [{{address: '{address}'}}]}}"))
        + &document(
            "Route",
            "cart",
            "{match: [{grpc: {service: shop.v1.Cart}}], backends: [{service: cart}], auth: {required: true}}",
        )
        + &tenant("acme")
        + &consumer("alice", "acme")
        + &document("Limit", "few", "{per: [consumer], unit: requests, limit: 4, window: 1d, algorithm: fixed}");
    cluster.cli().apply_and_wait(&yaml).await?;
    let alice = api_key("alice");
    let message = Bytes::from_static(b"\0\0\0\0\x02hi");
    for node in &cluster.nodes {
        assert_eq!(call(node.http, &alice).await?, ("0".to_owned(), "trailers", message.clone()));
        assert_eq!(call(node.http, "sk-nobody").await?.0, "16");
    }
    let url = format!("{}/shop.v1.Cart/Add", cluster.origins()[0]);
    let headers = [("content-type", "application/grpc-web-text"), ("authorization", &format!("Bearer {alice}"))];
    let text = Bytes::from(BASE64_STANDARD.encode(&message));
    let request = tollgate_chaos_tests::client::request(http::Method::POST, &url, &headers, text);
    let answer = cluster.client.send(request, PATIENCE).await?;
    let body = answer.body.chunks(4).map(|quad| BASE64_STANDARD.decode(quad)).collect::<Result<Vec<_>, _>>()?.concat();
    assert_eq!(body, [&message[..], b"\x80\0\0\0\x10grpc-status: 0\r\n"].concat(), "{}", answer.text());
    for node in &cluster.nodes {
        assert_eq!(call(node.http, &alice).await?, ("14".to_owned(), "headers", Bytes::new()), "the limit is one");
    }
    Ok(())
}
