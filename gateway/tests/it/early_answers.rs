//! Answers to requests whose bodies are still on their way: whoever sends on can read them whole.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};

use crate::{
    ai::{completion, provider},
    clients::{Answer, get},
    cluster::Cluster,
    http2,
    upstream::{Reply, Upstream, json},
};

const LARGE: usize = 11 * 1024 * 1024;
const PIECE: usize = 64 * 1024;
const ALICE: &str = "authorization: Bearer sk-alice\r\n";

/// An AI route below `/v1`, a service that alice may call once a month at `/once`, and nothing else.
async fn start() -> (Cluster, Upstream) {
    let upstream = Upstream::always(Reply::Keep(json(&completion(9, 3)))).await;
    let resources = format!(
        "{}---
kind: Service
metadata: {{name: once}}
spec: {{endpoints: [{{address: '{}'}}]}}
---
kind: Route
metadata: {{name: once}}
spec: {{match: [{{path: {{prefix: /once}}}}], backends: [{{service: once}}], auth: {{required: true}}, bodyLimit: 20MiB}}
---
kind: Limit
metadata: {{name: once}}
spec: {{match: {{routes: [once]}}, unit: requests, limit: 1, window: month}}
",
        provider(&upstream, "openai"),
        upstream.address
    );
    let cluster = Cluster::start(&resources).await;
    assert_eq!(get(cluster.address, "/once", ALICE).await.status, 200);
    (cluster, upstream)
}

fn head(path: &str, headers: &str, framing: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nhost: test\r\n{headers}{framing}\r\n\r\n")
}

fn announced() -> String {
    format!("content-length: {LARGE}")
}

/// Sends 11 MB in pieces, and reads meanwhile or only afterwards. Everything must go through without an error.
async fn send(cluster: &Cluster, head: String, pause: Duration, meanwhile: bool) -> Answer {
    let mut stream = TcpStream::connect(cluster.address).await.unwrap();
    let (mut reader, mut writer) = stream.split();
    let chunked = head.contains("chunked");
    let writing = async {
        writer.write_all(head.as_bytes()).await.unwrap();
        for _ in 0..LARGE / PIECE {
            if chunked {
                writer.write_all(format!("{PIECE:x}\r\n").as_bytes()).await.unwrap();
            }
            writer.write_all(&[b'x'; PIECE]).await.expect("the body is taken to its end");
            if chunked {
                writer.write_all(b"\r\n").await.unwrap();
            }
            tokio::time::sleep(pause).await;
        }
    };
    let mut answer = Vec::new();
    let reading = async {
        timeout(Duration::from_secs(30), reader.read_to_end(&mut answer)).await.unwrap().expect("an end, not a reset");
    };
    if meanwhile {
        tokio::join!(writing, reading);
    } else {
        writing.await;
        reading.await;
    }
    Answer::parse(&answer)
}

#[tokio::test]
async fn whoever_sends_a_large_body_can_read_why_it_was_refused() {
    let (cluster, upstream) = start().await;
    let cluster = std::sync::Arc::new(cluster);
    let chunked = "transfer-encoding: chunked".to_owned();
    let mut sending = JoinSet::new();
    for (path, headers, framing, status) in [
        ("/v1/chat/completions", ALICE, announced(), 413),
        ("/v1/messages", ALICE, chunked.clone(), 413),
        ("/v1/chat/completions", "", announced(), 401),
        ("/once", "", chunked, 401),
        ("/nowhere", ALICE, announced(), 404),
        ("/once", ALICE, announced(), 429),
        ("/%2e%2e/", ALICE, announced(), 400),
    ] {
        // 15 ms: longer in all than a silent client is waited for. Once is enough.
        let slowly = (status == 413).then_some((15, true));
        for (pause, meanwhile) in slowly.into_iter().chain([(0, true), (0, false)]) {
            let (cluster, head) = (std::sync::Arc::clone(&cluster), head(path, headers, &framing));
            sending.spawn(async move {
                let what = head.clone();
                let answer = send(&cluster, head, Duration::from_millis(pause), meanwhile).await;
                assert_eq!(answer.status, status, "{what}: {}", answer.raw);
                assert_eq!(answer.header("connection"), Some("close"), "{what}: {}", answer.raw);
                assert_eq!(answer.header("content-length"), Some(answer.body.len().to_string().as_str()));
                assert!(answer.json()["error"]["message"].is_string());
            });
        }
    }
    while let Some(sent) = sending.join_next().await {
        sent.unwrap();
    }
    assert_eq!(upstream.requests().len(), 1);
}

#[tokio::test]
async fn an_ordinary_client_library_gets_the_answer_too() {
    let (cluster, _upstream) = start().await;
    let client = Client::builder(TokioExecutor::new()).build::<_, Full<Bytes>>(HttpConnector::new());
    let large = Bytes::from(vec![b'x'; LARGE]);
    for round in 0..5 {
        for (path, key, status) in [
            ("/v1/chat/completions", "Bearer sk-alice", 413),
            ("/v1/messages", "Bearer sk-nobody", 401),
            ("/nowhere", "Bearer sk-alice", 404),
        ] {
            let request = Request::post(format!("http://{}{path}", cluster.address)).header("authorization", key);
            let answer = client.request(request.body(Full::from(large.clone())).unwrap()).await;
            let answer = answer.unwrap_or_else(|error| panic!("{path} in round {round}: {error:?}"));
            assert_eq!(answer.status(), status);
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            assert!(body.starts_with(b"{") && body.ends_with(b"}"), "{body:?}");
        }
    }
}

#[tokio::test]
async fn an_expectation_is_refused_without_asking_for_the_body() {
    let (cluster, _upstream) = start().await;
    for (path, headers, status) in [
        ("/v1/chat/completions", ALICE, 413),
        ("/v1/chat/completions", "", 401),
        ("/nowhere", ALICE, 404),
        ("/once", ALICE, 429),
    ] {
        let mut stream = TcpStream::connect(cluster.address).await.unwrap();
        let head = head(path, headers, &format!("expect: 100-continue\r\n{}", announced()));
        stream.write_all(head.as_bytes()).await.unwrap();
        let answer = Answer::parse(&crate::clients::read_all(&mut stream).await);
        assert_eq!(answer.status, status, "{}", answer.raw);
        assert_eq!(answer.header("connection"), Some("close"), "{}", answer.raw);
        assert!(answer.json()["error"]["message"].is_string());
    }
}

#[tokio::test]
async fn a_refused_request_whose_body_is_here_keeps_its_connection() {
    let (cluster, _upstream) = start().await;
    let mut stream = TcpStream::connect(cluster.address).await.unwrap();
    for _ in 0..3 {
        let request = head("/nowhere", "", "content-length: 4") + "body";
        stream.write_all(request.as_bytes()).await.unwrap();
        let answer = crate::clients::read_until(&mut stream, "}}").await;
        assert!(answer.starts_with("HTTP/1.1 404") && !answer.contains("connection: close"), "{answer}");
    }
}

#[tokio::test]
async fn http2_refuses_a_large_body_and_goes_on() {
    let (cluster, _upstream) = start().await;
    let (mut sender, _driving) = http2::connect::<Full<Bytes>>(&cluster).await;
    let large = Bytes::from(vec![b'x'; LARGE]);
    for (path, key, status) in [
        ("/v1/chat/completions", "Bearer sk-alice", 413),
        ("/v1/chat/completions", "Bearer sk-nobody", 401),
        ("/nowhere", "Bearer sk-alice", 404),
        ("/once", "Bearer sk-alice", 429),
        ("/v1/messages", "Bearer sk-alice", 413),
    ] {
        sender.ready().await.unwrap();
        let request = Request::post(format!("http://test{path}")).header("authorization", key);
        let answer = sender.send_request(request.body(Full::from(large.clone())).unwrap()).await.unwrap();
        assert_eq!(answer.status(), status);
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert!(body["error"]["message"].is_string());
    }
    let body = r#"{"model":"m","max_tokens":10,"messages":[{"role":"user","content":"hi"}]}"#;
    let request = Request::post("http://test/v1/chat/completions").header("authorization", "Bearer sk-alice");
    sender.ready().await.unwrap();
    assert_eq!(sender.send_request(request.body(Full::from(body)).unwrap()).await.unwrap().status(), 200);
}

#[tokio::test]
async fn http2_says_that_no_more_of_a_body_is_wanted() {
    let (cluster, _upstream) = start().await;
    let mut stream = http2::raw(&cluster).await;
    let block = [&[0x83, 0x86, 0x84, 0x41, 4][..], b"test"].concat(); // POST http://test/, by the static table
    let request = [http2::frame(1, 4, 1, &block), http2::frame(0, 0, 1, b"the beginning")].concat();
    stream.write_all(&request).await.unwrap();
    let frames = read_until(&mut stream, |kind, _, _| kind == RST_STREAM).await;
    let ended = frames.iter().position(|(kind, flags, _)| *kind == 0 && flags & 1 == 1);
    assert!(ended.is_some_and(|at| at + 1 < frames.len()), "the whole answer comes first: {frames:?}");
    assert_eq!(frames.last().unwrap().2, [0; 4], "NO_ERROR");
}

type Frame = (u8, u8, Vec<u8>);
const DATA: u8 = 0;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;

/// All frames up to the one that was waited for: kind, flags, payload.
async fn read_until(stream: &mut TcpStream, is_it: impl Fn(u8, u8, &[u8]) -> bool) -> Vec<Frame> {
    let mut frames: Vec<Frame> = Vec::new();
    let reading = async {
        while frames.last().is_none_or(|(kind, flags, payload)| !is_it(*kind, *flags, payload)) {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await.unwrap();
            let mut payload = vec![0; usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2])];
            stream.read_exact(&mut payload).await.unwrap();
            frames.push((head[3], head[4], payload));
        }
    };
    let done = timeout(Duration::from_secs(10), reading).await;
    assert!(done.is_ok(), "waited in vain for a frame behind {frames:?}");
    frames
}

/// So much of a body, in frames of stream 1.
fn data(size: usize, last: bool) -> Vec<u8> {
    let pieces = size.div_ceil(16_384);
    let piece = |n: usize| {
        let flags = u8::from(last && n + 1 == pieces);
        http2::frame(DATA, flags, 1, &vec![b'x'; (size - n * 16_384).min(16_384)])
    };
    (0..pieces).flat_map(piece).collect()
}

/// The answer comes before the body, whose rest is sent then. Nothing is reset: many clients would lose the answer.
async fn the_stream_ends_by_itself(cluster: &Cluster, path: &str, size: usize, says: &str) {
    let mut stream = http2::raw(cluster).await;
    read_until(&mut stream, |kind, flags, _| (kind, flags) == (SETTINGS, 0)).await;
    let length = size.to_string();
    let block = [
        &[0x83, 0x86, 0x04, u8::try_from(path.len()).unwrap()][..], // POST http, a path
        path.as_bytes(),
        &[0x41, 4],
        b"test",
        &[0x0f, 0x0d, u8::try_from(length.len()).unwrap()], // content-length
        length.as_bytes(),
    ]
    .concat();
    let request = [http2::frame(SETTINGS, 1, 0, &[]), http2::frame(1, 4, 1, &block), data(size / 2, false)].concat();
    stream.write_all(&request).await.unwrap();
    let mut frames = read_until(&mut stream, |kind, _, payload| kind == DATA && !payload.is_empty()).await;
    stream.write_all(&data(size / 2, true)).await.unwrap();
    if frames.last().unwrap().1 & 1 == 0 {
        frames.extend(read_until(&mut stream, |kind, flags, _| kind == DATA && flags & 1 == 1).await);
    }
    stream.write_all(&http2::frame(PING, 0, 0, &[7; 8])).await.unwrap();
    frames.extend(read_until(&mut stream, |kind, flags, _| (kind, flags) == (PING, 1)).await);
    assert!(frames.iter().all(|(kind, ..)| *kind != RST_STREAM), "{path} {size}: {frames:?}");
    let answer: Vec<u8> =
        frames.into_iter().filter(|(kind, ..)| *kind == DATA).flat_map(|(.., payload)| payload).collect();
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.contains(says), "{path} {size}: {answer}");
}

#[tokio::test]
async fn http2_does_not_reset_a_stream_behind_its_answer() {
    let upstream = Upstream::always(Reply::Keep(crate::upstream::answer(200, "", "early"))).await;
    let resources = format!(
        "{}---
kind: Route
metadata: {{name: teapot}}
spec: {{match: [{{path: {{exact: /teapot}}}}], response: {{status: 418, body: short and stout}}}}
---
kind: Route
metadata: {{name: small}}
spec: {{match: [{{path: {{exact: /small}}}}], backends: [{{service: small}}], bodyLimit: 64B}}
---
kind: Service
metadata: {{name: small}}
spec: {{endpoints: [{{address: '{}'}}]}}
",
        provider(&upstream, "openai"),
        upstream.address
    );
    let cluster = Cluster::start(&resources).await;
    for size in [100, 200_000] {
        for (path, says) in [
            ("/v1/chat/completions", "invalid_api_key"),
            ("/small", "request_too_large"),
            ("/teapot", "short and stout"),
            ("/nowhere", "route_not_found"),
        ] {
            the_stream_ends_by_itself(&cluster, path, size, says).await;
        }
    }
    assert_eq!(upstream.requests(), Vec::<String>::new());
    crate::cluster::until("every exchange to end", || cluster.gateway.in_flight() == 0).await;
}
