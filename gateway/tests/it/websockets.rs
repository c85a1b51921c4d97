//! WebSockets through services: asked for over HTTP/1.1 and HTTP/2, and what becomes of bytes before, during and after.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt as _, Empty};
use hyper::{ext::Protocol, upgrade};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::{Instant, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::{
    clients::{Answer, get, raw, read_all},
    cluster::{Cluster, until},
    http2::connect,
    pki::Authority,
    tls,
};

/// RFC 6455 §1.3's own example.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
/// Bytes that would end a connection if they were read as HTTP.
const NO_HTTP: &[u8] = b"\x81\x05Hello\r\n\r\nGET / HTTP/1.1\nX : y\n\n\0\xff";

fn handshake(path: &str, more: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nhost: test\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: {KEY}\r\n{more}\r\n"
    )
}

/// An upstream whose paths say what it does.
struct Sockets {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    _accepting: AbortOnDropHandle<()>,
}

impl Sockets {
    async fn start() -> Self {
        Self::start_as(None).await
    }

    /// Over TLS, if it has any.
    async fn start_as(tls: Option<ServerConfig>) -> Self {
        let tls = tls.map(|tls| TlsAcceptor::from(Arc::new(tls)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heads: Arc<Mutex<Vec<String>>> = Arc::default();
        let (tasks, seen) = (TaskTracker::new(), Arc::clone(&heads));
        let connections = tasks.clone();
        let accepting = tasks.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (seen, tls) = (Arc::clone(&seen), tls.clone());
                connections.spawn(async move {
                    match tls {
                        None => drop(converse(stream, &seen).await),
                        Some(tls) => drop(converse(tls.accept(stream).await?, &seen).await),
                    }
                    std::io::Result::Ok(())
                });
            }
        });
        Self { address, heads, _accepting: AbortOnDropHandle::new(accepting) }
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().clone()
    }

    /// A route to it.
    fn route(&self, spec: &str) -> String {
        format!(
            "kind: Service\nmetadata: {{name: sockets}}\nspec: {{endpoints: [{{address: '{}'}}]}}\n---\n\
             kind: Route\nmetadata: {{name: sockets}}\nspec: {{backends: [{{service: sockets}}]{spec}}}\n",
            self.address
        )
    }
}

async fn converse<S>(mut stream: S, heads: &Mutex<Vec<String>>) -> std::io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut read = Vec::new();
    loop {
        while !read.windows(4).any(|it| it == b"\r\n\r\n") {
            if stream.read_buf(&mut read).await? == 0 {
                return Ok(());
            }
        }
        let head = String::from_utf8_lossy(&std::mem::take(&mut read)).into_owned();
        heads.lock().push(head.clone());
        let key = head.lines().find_map(|line| line.strip_prefix("sec-websocket-key: ")).unwrap_or_default();
        let accept = BASE64_STANDARD
            .encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11").as_bytes()));
        let agreed = format!(
            "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-accept: {accept}\r\nsec-websocket-protocol: chat\r\n\r\n"
        );
        match head.split(' ').nth(1).unwrap_or_default() {
            "/echo" => {
                stream.write_all(agreed.as_bytes()).await?;
                let (mut reader, mut writer) = tokio::io::split(stream);
                tokio::io::copy(&mut reader, &mut writer).await?;
                writer.write_all(b"<end>").await?;
                return writer.shutdown().await;
            }
            "/first" => {
                stream.write_all(format!("{agreed}said at once").as_bytes()).await?;
                return stream.shutdown().await;
            }
            "/hold" => {
                stream.write_all(agreed.as_bytes()).await?;
                return std::future::pending().await;
            }
            "/lie" => stream.write_all(agreed.replace(&accept, ACCEPT).replace("ZRbK", "ZRbL").as_bytes()).await?,
            "/no" => stream.write_all(b"HTTP/1.1 403 No\r\ncontent-length: 4\r\n\r\nno!\n").await?,
            _ => stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nplain").await?,
        }
    }
}

/// A WebSocket that was agreed to: its connection, and the answer's head.
async fn open(cluster: &Cluster, path: &str, more: &str) -> (TcpStream, Answer) {
    let mut stream = TcpStream::connect(cluster.address).await.unwrap();
    stream.write_all(handshake(path, more).as_bytes()).await.unwrap();
    let answer = Answer::parse(head_of(&mut stream).await.as_bytes());
    assert_eq!(answer.status, 101, "{}", answer.raw);
    (stream, answer)
}

/// Not a byte more than the head.
async fn head_of(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let read = async {
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
    };
    assert!(timeout(Duration::from_secs(20), read).await.is_ok(), "{head:?}");
    String::from_utf8(head).unwrap()
}

async fn exactly(stream: &mut (impl tokio::io::AsyncRead + Unpin), bytes: usize) -> Vec<u8> {
    let mut read = vec![0; bytes];
    timeout(Duration::from_secs(20), stream.read_exact(&mut read)).await.expect("in time").unwrap();
    read
}

fn counted(cluster: &Cluster, line: &str) -> bool {
    cluster.metrics().lines().any(|it| it == line)
}

#[tokio::test]
async fn bytes_go_both_ways_as_they_are_and_either_end_is_passed_on() {
    let sockets = Sockets::start().await;
    let cluster = Cluster::start(&sockets.route("")).await;
    let (mut stream, answer) = open(&cluster, "/echo", "sec-websocket-protocol: chat\r\nx-consumer: me\r\n").await;
    for (name, value) in [
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-accept", ACCEPT),
        ("sec-websocket-protocol", "chat"),
    ] {
        assert_eq!(answer.header(name), Some(value), "{}", answer.raw);
    }
    assert_eq!(answer.header("x-request-id").map(str::len), Some(36), "{}", answer.raw);
    assert_eq!(answer.header("content-length"), None, "{}", answer.raw);
    assert!(counted(&cluster, "tollgate_http_websockets_open{route=\"sockets\"} 1"), "{}", cluster.metrics());
    let asked = &sockets.heads()[0];
    for line in
        ["connection: upgrade", "upgrade: websocket", "sec-websocket-protocol: chat", "x-forwarded-for: 127.0.0.1"]
    {
        assert!(asked.contains(&format!("\r\n{line}\r\n")), "{asked}");
    }
    assert!(asked.contains(KEY) && !asked.contains("x-consumer"), "{asked}");

    stream.write_all(NO_HTTP).await.unwrap();
    assert_eq!(exactly(&mut stream, NO_HTTP.len()).await, NO_HTTP);
    let much = vec![b'm'; 1 << 20];
    let (mut reader, mut writer) = stream.split();
    let (_, back) = tokio::join!(writer.write_all(&much), exactly(&mut reader, much.len()));
    assert!(back == much);
    stream.shutdown().await.unwrap();
    assert_eq!(read_all(&mut stream).await, b"<end>", "the other side goes on until it ends");

    until("the WebSocket to be over", || cluster.gateway.in_flight() == 0).await;
    let (up, down) = (much.len() + NO_HTTP.len(), much.len() + NO_HTTP.len() + "<end>".len());
    for line in [
        format!("tollgate_http_websocket_bytes_total{{route=\"sockets\",direction=\"received\"}} {up}"),
        format!("tollgate_http_websocket_bytes_total{{route=\"sockets\",direction=\"sent\"}} {down}"),
        "tollgate_http_websockets_open{route=\"sockets\"} 0".to_owned(),
    ] {
        assert!(counted(&cluster, &line), "{line} is not in\n{}", cluster.metrics());
    }
}

#[tokio::test]
async fn what_either_side_says_at_once_arrives() {
    let sockets = Sockets::start().await;
    let cluster = Cluster::start(&sockets.route("")).await;
    let mut stream = TcpStream::connect(cluster.address).await.unwrap();
    stream.write_all(&[handshake("/echo", "").as_bytes(), NO_HTTP].concat()).await.unwrap();
    assert!(head_of(&mut stream).await.starts_with("HTTP/1.1 101"));
    assert_eq!(exactly(&mut stream, NO_HTTP.len()).await, NO_HTTP);
    assert!(sockets.heads()[0].ends_with("\r\n\r\n"), "{:?}", sockets.heads());
    let (mut stream, _) = open(&cluster, "/first", "").await;
    assert_eq!(read_all_but_stay(&mut stream).await, b"said at once");
}

/// To its end, without ending this side.
async fn read_all_but_stay(stream: &mut TcpStream) -> Vec<u8> {
    let mut read = Vec::new();
    timeout(Duration::from_secs(20), stream.read_to_end(&mut read)).await.expect("an end").unwrap();
    read
}

#[tokio::test]
async fn behind_a_refused_upgrade_come_requests_and_nothing_else() {
    let sockets = Sockets::start().await;
    let cluster = Cluster::start(&sockets.route("")).await;
    let hidden = "GET /hidden HTTP/1.1\r\nhost: test\r\nx-consumer: admin\r\n";
    for path in ["/no", "/other"] {
        let bad = format!("{}{hidden}X : y\r\n\r\n", handshake(path, ""));
        let answers = raw(cluster.address, bad).await.raw;
        assert_eq!(answers.matches("HTTP/1.1 ").count(), 2, "{answers}");
        assert!(answers.ends_with("}}") && answers.contains("HTTP/1.1 400"), "{answers}");
    }
    assert!(!sockets.heads().concat().contains("/hidden"), "{:?}", sockets.heads());
    // What is a good request is one, inspected and with nothing but its own headers.
    let good = format!("{}{}{hidden}connection: close\r\n\r\n", handshake("/no", ""), handshake("/no", ""));
    let answers = raw(cluster.address, good).await.raw;
    assert_eq!((answers.matches("no!").count(), answers.matches("plain").count()), (2, 1), "{answers}");
    let hidden = sockets.heads().into_iter().find(|head| head.starts_with("GET /hidden ")).unwrap();
    assert!(hidden.contains("x-request-id: ") && !hidden.contains("x-consumer"), "{hidden}");
    // Frames for which nobody asked are no requests.
    let frames = [handshake("/no", "").as_bytes(), b"\x81\x85\0\0\0\0Hello\r\n\r\n"].concat();
    let answers = raw(cluster.address, frames).await.raw;
    assert!(answers.contains("HTTP/1.1 403") && answers.contains("HTTP/1.1 400"), "{answers}");
}

#[tokio::test]
async fn an_upstream_that_switches_without_agreeing_is_not_believed() {
    let sockets = Sockets::start().await;
    let cluster = Cluster::start(&sockets.route("")).await;
    let refused = raw(cluster.address, handshake("/lie", "connection: close\r\n")).await;
    assert_eq!((refused.status, refused.code().as_str()), (502, "upstream_error"), "{}", refused.raw);
    for path in ["/echo", "/lie"] {
        let unasked = get(cluster.address, path, "").await;
        assert_eq!((unasked.status, unasked.code().as_str()), (502, "upstream_error"), "{}", unasked.raw);
    }
    assert_eq!(get(cluster.address, "/plain", "").await.body, "plain");
}

#[tokio::test]
async fn a_malformed_handshake_is_refused_and_asks_nobody() {
    let sockets = Sockets::start().await;
    let cluster = Cluster::start(&sockets.route("")).await;
    let good = handshake("/plain", "connection: close\r\n");
    for (from, to, status) in [
        ("GET ", "POST ", 400),
        ("HTTP/1.1", "HTTP/1.0", 400),
        ("\r\nconnection: Upgrade", "", 400),
        ("key: dGhl", "key: ", 400),
        ("version: 13", "version: 8", 400),
        ("host: test", "host: test\r\ncontent-length: 0\r\nupgrade: h2c", 501),
        ("upgrade: websocket", "upgrade: websocket\r\ntransfer-encoding: chunked", 400),
        ("upgrade: websocket", "upgrade: tls/1.0", 501),
        ("upgrade: websocket", "upgrade: h2c, websocket", 200),
    ] {
        assert!(good.contains(from), "{from}");
        let answer = raw(cluster.address, good.replacen(from, to, 1) + "0\r\n\r\n").await;
        assert_eq!(answer.status, status, "{to}: {}", answer.raw);
        assert_eq!(answer.header("sec-websocket-version").is_some(), to == "version: 8", "{}", answer.raw);
        let asked = std::mem::take(&mut *sockets.heads.lock());
        assert_eq!(asked.len(), usize::from(status == 200), "{asked:?}");
        assert!(!asked.concat().contains("upgrade"), "{asked:?}");
    }
}

#[tokio::test]
async fn a_permit_is_held_until_the_websocket_closes() {
    let sockets = Sockets::start().await;
    let limits = "---\nkind: Limit\nmetadata: {name: one}\nspec: {per: [consumer], unit: concurrency, limit: 1}\n---\n\
                  kind: Limit\nmetadata: {name: rpm}\nspec: {per: [consumer], unit: requests, limit: 100, window: 1h}\n";
    let cluster = Cluster::start(&(sockets.route(", auth: {required: true}") + limits)).await;
    assert_eq!(raw(cluster.address, handshake("/echo", "connection: close\r\n")).await.status, 401);
    let alice = "authorization: Bearer sk-alice\r\n";
    let (mut stream, answer) = open(&cluster, "/echo", alice).await;
    assert_eq!(answer.header("x-ratelimit-limit-requests"), Some("100"), "{}", answer.raw);
    assert!(!sockets.heads()[0].contains("sk-alice"), "{:?}", sockets.heads());
    let second = raw(cluster.address, handshake("/echo", &format!("connection: close\r\n{alice}"))).await;
    assert_eq!((second.status, second.code().as_str()), (429, "rate_limit_exceeded"), "{}", second.raw);
    stream.write_all(b"still here").await.unwrap();
    assert_eq!(exactly(&mut stream, 10).await, b"still here");
    drop(stream);
    until("the permit to be back", || cluster.accounts("one").iter().all(|account| account.held == 0)).await;
    cluster.settled(1).await;
    open(&cluster, "/echo", alice).await;
}

#[tokio::test]
async fn silence_ends_it_and_so_does_the_end_of_its_time() {
    let sockets = Sockets::start().await;
    let cluster = Cluster::start(&sockets.route(", timeouts: {idle: 2s}")).await;
    let (mut stream, _) = open(&cluster, "/echo", "").await;
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(250)).await;
        stream.write_all(b"ping").await.unwrap();
        assert_eq!(exactly(&mut stream, 4).await, b"ping");
    }
    let silent = Instant::now();
    assert_eq!(read_all_but_stay(&mut stream).await, b"");
    assert!(silent.elapsed() >= Duration::from_millis(1_990), "{:?}", silent.elapsed());
    cluster.apply(&sockets.route(", timeouts: {request: 500ms, idle: 10s}"));
    let began = Instant::now();
    let (mut stream, _) = open(&cluster, "/echo", "").await;
    while stream.write_all(b"x").await.is_ok() && began.elapsed() < Duration::from_secs(10) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!((500..5_000).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_client_that_leaves_leaves_nothing_behind_and_an_abort_cuts_the_rest() {
    let sockets = Sockets::start().await;
    let cluster = Cluster::start(&sockets.route("")).await;
    let (stream, _) = open(&cluster, "/hold", "").await;
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream); // a reset
    until("the WebSocket to be over", || cluster.gateway.in_flight() == 0).await;
    let (mut stream, _) = open(&cluster, "/echo", "").await;
    cluster.shutdown.draining.cancel();
    cluster.shutdown.stop.cancel();
    stream.write_all(b"goes on").await.unwrap();
    assert_eq!(exactly(&mut stream, 7).await, b"goes on");
    cluster.shutdown.abort.cancel();
    let _ = timeout(Duration::from_secs(20), stream.read_to_end(&mut Vec::new())).await.expect("an end");
    until("the WebSocket to be cut", || cluster.gateway.in_flight() == 0).await;
}

#[tokio::test]
async fn only_services_that_speak_http1_have_websockets() {
    let sockets = Sockets::start().await;
    let h2c = sockets.route("").replace("spec: {endpoints", "spec: {protocol: h2c, endpoints");
    let fixed =
        "---\nkind: Route\nmetadata: {name: fixed}\nspec: {match: [{path: {exact: /fixed}}], response: {body: no}}\n";
    let cluster = Cluster::start(&(h2c + fixed)).await;
    for path in ["/echo", "/fixed"] {
        let refused = raw(cluster.address, handshake(path, "connection: close\r\n")).await;
        assert_eq!((refused.status, refused.code().as_str()), (501, "not_supported"), "{}", refused.raw);
    }
    assert_eq!(sockets.heads(), [""; 0]);
}

fn extended(path: &str) -> Request<Empty<Bytes>> {
    let request = Request::builder().method(Method::CONNECT).uri(format!("http://test{path}"));
    let request = request.header("sec-websocket-version", "13").header("sec-websocket-protocol", "chat");
    request.extension(Protocol::from_static("websocket")).body(Empty::new()).unwrap()
}

#[tokio::test]
async fn over_http2_a_websocket_is_one_stream() {
    let sockets = Sockets::start().await;
    let cluster = Cluster::start(&sockets.route(", match: [{methods: [GET]}]")).await;
    let (mut sender, _driving) = connect::<Empty<Bytes>>(&cluster).await;
    sender.ready().await.unwrap();
    // The server's settings allow it once they are here.
    assert_eq!(
        sender.send_request(Request::get("http://test/plain").body(Empty::new()).unwrap()).await.unwrap().status(),
        200
    );
    let answer = sender.send_request(extended("/echo")).await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers()["sec-websocket-protocol"].as_bytes()), (200, &b"chat"[..]));
    for absent in ["sec-websocket-accept", "connection", "upgrade"] {
        assert!(!answer.headers().contains_key(absent), "{answer:?}");
    }
    let asked = sockets.heads().pop().unwrap();
    assert!(asked.starts_with("GET /echo HTTP/1.1\r\n") && asked.contains("sec-websocket-key: "), "{asked}");
    let mut stream = TokioIo::new(upgrade::on(answer).await.unwrap());
    stream.write_all(NO_HTTP).await.unwrap();
    assert_eq!(exactly(&mut stream, NO_HTTP.len()).await, NO_HTTP);
    let much = vec![b'm'; 1 << 20];
    let (mut reader, mut writer) = tokio::io::split(stream);
    let (_, back) = tokio::join!(writer.write_all(&much), exactly(&mut reader, much.len()));
    assert!(back == much);
    writer.shutdown().await.unwrap();
    let mut end = Vec::new();
    timeout(Duration::from_secs(20), reader.read_to_end(&mut end)).await.expect("an end").unwrap();
    assert_eq!(end, b"<end>");
    until("the WebSocket to be over", || cluster.gateway.in_flight() == 0).await;

    // Success of another kind would be read as a WebSocket.
    let answer = sender.send_request(extended("/plain")).await.unwrap();
    assert_eq!(answer.status(), 502);
    let answer = sender.send_request(extended("/no")).await.unwrap();
    assert_eq!(answer.status(), 403);
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "no!\n");
    let mut other = extended("/echo");
    other.extensions_mut().insert(Protocol::from_static("connect-udp"));
    assert_eq!(sender.send_request(other).await.unwrap().status(), 501);
    let mut old = extended("/echo");
    old.headers_mut().insert("sec-websocket-version", "8".parse().unwrap());
    assert_eq!(sender.send_request(old).await.unwrap().status(), 400);
}

#[tokio::test]
async fn a_connection_that_ends_takes_its_websockets_with_it() {
    let sockets = Sockets::start().await;
    let cluster = Cluster::start(&sockets.route("")).await;
    let (mut sender, driving) = connect::<Empty<Bytes>>(&cluster).await;
    sender.send_request(Request::get("http://test/plain").body(Empty::new()).unwrap()).await.unwrap();
    let answer = sender.send_request(extended("/hold")).await.unwrap();
    assert_eq!((answer.status().as_u16(), cluster.gateway.in_flight()), (200, 1));
    drop((sender, driving, answer));
    until("the WebSocket to be over", || cluster.gateway.in_flight() == 0).await;
}

#[tokio::test]
async fn whoever_asks_and_leaves_is_not_asked_for() {
    let sockets = Sockets::start().await;
    let hangs = crate::upstream::Upstream::always(crate::upstream::Reply::Hang(String::new())).await;
    let route = sockets.route("").replace(&sockets.address.to_string(), &hangs.address.to_string());
    let cluster = Cluster::start(&route).await;
    let mut stream = TcpStream::connect(cluster.address).await.unwrap();
    stream.write_all(handshake("/echo", "").as_bytes()).await.unwrap();
    until("the upstream to be asked", || hangs.requests().len() == 1).await;
    drop(stream);
    until("the request to be given up", || cluster.gateway.in_flight() == 0).await;
    let mut late = TcpStream::connect(cluster.address).await.unwrap();
    late.write_all(b"GET /fine HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
    until("the next one to be asked for", || hangs.requests().len() == 2).await;
}

/// An upstream that would speak HTTP/2 if it were offered is not offered it: a WebSocket knows nothing of it.
#[tokio::test]
async fn over_tls_a_websocket_is_http1() {
    let authority = Authority::new();
    let mut tls = tls::server(&authority, "127.0.0.1");
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let sockets = Sockets::start_as(Some(tls)).await;
    let route = sockets.route("").replace("spec: {endpoints", "spec: {protocol: https, endpoints");
    let cluster = Cluster::start_with(&route, |config| config.extra_roots = vec![authority.certificate()]).await;
    let (mut stream, _) = open(&cluster, "/echo", "").await;
    stream.write_all(NO_HTTP).await.unwrap();
    assert_eq!(exactly(&mut stream, NO_HTTP.len()).await, NO_HTTP);
    stream.shutdown().await.unwrap();
    assert_eq!(read_all(&mut stream).await, b"<end>");
}

/// Writes until nothing more is taken.
async fn until_full(stream: &mut (impl AsyncWrite + Unpin)) -> usize {
    let mut taken = 0;
    while let Ok(wrote) = timeout(Duration::from_secs(1), stream.write(&[7; 65_536])).await {
        taken += wrote.unwrap();
        assert!(taken < 64 << 20, "more than sockets hold, and nobody takes it");
    }
    taken
}

#[tokio::test]
async fn what_nobody_takes_is_not_collected() {
    let sockets = Sockets::start().await;
    let cluster = Cluster::start(&sockets.route("")).await;
    let (mut stream, _) = open(&cluster, "/hold", "").await;
    assert!(until_full(&mut stream).await > 0);
    let (mut sender, _driving) = connect::<Empty<Bytes>>(&cluster).await;
    sender.send_request(Request::get("http://test/plain").body(Empty::new()).unwrap()).await.unwrap();
    let answer = sender.send_request(extended("/hold")).await.unwrap();
    assert!(until_full(&mut TokioIo::new(upgrade::on(answer).await.unwrap())).await > 0);
    // The connection has other streams meanwhile.
    assert_eq!(
        sender.send_request(Request::get("http://test/plain").body(Empty::new()).unwrap()).await.unwrap().status(),
        200
    );
}
