//! gRPC-Web, from browsers over HTTP/1.1, to a server that speaks gRPC alone.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use crate::{
    clients::read_all,
    cluster::Cluster,
    grpc::{framed, resources, server},
};

/// A string in protobuf.
fn message(text: &str) -> Vec<u8> {
    framed(&[&[0x0a, u8::try_from(text.len()).unwrap()], text.as_bytes()].concat()).to_vec()
}

/// Head and body of the answer.
async fn post(cluster: &Cluster, method: &str, content_type: &str, more: &str, body: &[u8]) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(cluster.address).await.unwrap();
    let head = format!(
        "POST /test.v1.Test/{method} HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-type: {content_type}\r\n\
         content-length: {}\r\n{more}\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body].concat()).await.unwrap();
    let raw = read_all(&mut stream).await;
    let end = raw.windows(4).position(|it| it == b"\r\n\r\n").unwrap() + 4;
    let head = String::from_utf8(raw[..end].to_vec()).unwrap();
    let body = if head.contains("transfer-encoding: chunked") { joined(&raw[end..]) } else { raw[end..].to_vec() };
    (head, body)
}

fn joined(mut chunks: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(line) = chunks.windows(2).position(|it| it == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&chunks[..line]).unwrap(), 16).unwrap();
        body.extend_from_slice(&chunks[line + 2..line + 2 + size]);
        if size == 0 {
            break;
        }
        chunks = &chunks[line + 2 + size + 2..];
    }
    body
}

/// The messages of an answer, and its trailers.
fn taken_apart(mut body: &[u8]) -> (Vec<Vec<u8>>, String) {
    let mut messages = Vec::new();
    while let [flag, a, b, c, d, rest @ ..] = body {
        let length = usize::try_from(u32::from_be_bytes([*a, *b, *c, *d])).unwrap();
        let (message, after) = rest.split_at(length);
        if *flag == 0x80 {
            assert!(after.is_empty(), "trailers are last");
            return (messages, String::from_utf8(message.to_vec()).unwrap());
        }
        messages.push(message.to_vec());
        body = after;
    }
    panic!("no trailers in {body:?}");
}

fn text(message: &[u8]) -> String {
    String::from_utf8(message[2..].to_vec()).unwrap()
}

#[tokio::test]
async fn a_browser_calls_a_server_that_speaks_grpc_alone() {
    let (address, _server) = server().await;
    let cluster = Cluster::start(&resources(address, "")).await;
    let two = [message("a"), message("b")].concat();
    let (head, body) = post(&cluster, "Echo", "application/grpc-web+proto", "x-grpc-web: 1\r\n", &two).await;
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("content-type: application/grpc-web+proto"), "{head}");
    assert!(head.contains("x-first: 1"), "{head}");
    let (messages, trailers) = taken_apart(&body);
    assert_eq!(messages.iter().map(|it| text(it)).collect::<Vec<_>>(), ["echo a", "echo b"]);
    assert_eq!(trailers, "grpc-status: 0\r\n");

    // Padded wherever the client flushed.
    let padded = [BASE64_STANDARD.encode(message("a")), BASE64_STANDARD.encode(message("bc"))].concat();
    assert!(padded.find('=').is_some_and(|at| at + 2 < padded.len()), "{padded}");
    let (head, body) = post(&cluster, "Echo", "application/grpc-web-text", "", padded.as_bytes()).await;
    assert!(head.contains("content-type: application/grpc-web-text+proto"), "{head}");
    let quads: Vec<u8> = body.chunks(4).flat_map(|quad| BASE64_STANDARD.decode(quad).unwrap()).collect();
    let (messages, trailers) = taken_apart(&quads);
    assert_eq!(messages.iter().map(|it| text(it)).collect::<Vec<_>>(), ["echo a", "echo bc"]);
    assert_eq!(trailers, "grpc-status: 0\r\n");
    let (_, body) = post(&cluster, "Told", "application/grpc-web", "grpc-timeout: 10S\r\n", &message("x")).await;
    let (messages, _) = taken_apart(&body);
    assert!(text(&messages[0]).starts_with("trailers ") && text(&messages[0]).ends_with('u'), "{messages:?}");
}

#[tokio::test]
async fn ends_are_told_where_a_browser_can_read_them() {
    let (address, _server) = server().await;
    let cluster = Cluster::start(&resources(address, "")).await;
    let web = "application/grpc-web+proto";
    let (head, body) = post(&cluster, "Fail", web, "", &message("x")).await;
    assert!(head.contains("grpc-status: 9\r\n") && head.contains("grpc-message: not%20now"), "{head}");
    assert_eq!(body, b"");
    let (_, body) = post(&cluster, "FailLate", web, "", &message("x")).await;
    let (messages, trailers) = taken_apart(&body);
    assert_eq!((messages.len(), trailers.contains("grpc-status: 10\r\n")), (1, true), "{trailers}");
    let (_, body) = post(&cluster, "Silent", web, "grpc-timeout: 300m\r\n", &message("x")).await;
    assert!(taken_apart(&body).1.contains("grpc-status: 4\r\n"));
    let (head, _) = post(&cluster, "Hang", web, "grpc-timeout: 300m\r\n", &message("x")).await;
    assert!(head.contains("grpc-status: 4\r\n") && head.contains("content-type: application/grpc-web+proto"), "{head}");
    for (no_base64, content_type) in [("AAAA!", "application/grpc-web-text"), ("AAAAAA", "application/grpc-web-text")] {
        let (head, _) = post(&cluster, "Echo", content_type, "", no_base64.as_bytes()).await;
        assert!(head.contains("grpc-status: 13\r\n"), "{head}");
    }
}

#[tokio::test]
async fn scripts_of_other_origins_may_call_where_cors_says_so() {
    let (address, _server) = server().await;
    let cors = ", cors: {origins: ['https://app.example'], methods: [POST], headers: [content-type, x-grpc-web], \
                exposeHeaders: [grpc-status, grpc-message]}, auth: {required: true}";
    let cluster = Cluster::start(&resources(address, cors)).await;
    let origin = "origin: https://app.example\r\n";
    let preflight = format!(
        "OPTIONS /test.v1.Test/Echo HTTP/1.1\r\nhost: test\r\nconnection: close\r\n{origin}\
         access-control-request-method: POST\r\naccess-control-request-headers: x-grpc-web\r\n\r\n"
    );
    let answer = crate::clients::raw(cluster.address, preflight).await;
    assert_eq!((answer.status, answer.header("access-control-allow-methods")), (204, Some("POST")), "{}", answer.raw);
    for (more, status) in [("", "grpc-status: 16\r\n"), ("x-api-key: sk-alice\r\n", "x-first: 1\r\n")] {
        let web = "application/grpc-web+proto";
        let (head, _) = post(&cluster, "Echo", web, &format!("{origin}{more}"), &message("x")).await;
        assert!(head.starts_with("HTTP/1.1 200") && head.contains(status), "{head}");
        assert!(head.contains("access-control-allow-origin: https://app.example\r\n"), "{head}");
        assert!(head.contains("access-control-expose-headers: grpc-status, grpc-message\r\n"), "{head}");
    }
}

#[tokio::test]
async fn services_of_other_protocols_are_asked_as_it_came() {
    let (address, _server) = server().await;
    let h2c = resources(address, "").replace("protocol: grpc", "protocol: h2c");
    let cluster = Cluster::start(&h2c).await;
    let (head, body) = post(&cluster, "Told", "application/grpc-web+proto", "", &message("x")).await;
    assert!(head.contains("content-type: application/grpc\r\n"), "{head}");
    assert!(String::from_utf8_lossy(&body).ends_with("none none"), "{body:?}");
}
