//! What is refused at the edge, on raw sockets (DESIGN.md, "Refusals").

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    clients::{get, post_text, raw, read_all, read_until},
    cluster::Cluster,
    upstream::{Reply, Upstream, answer},
};

const FIXED: &str = "
kind: Route
metadata: {name: fixed}
spec: {match: [{path: {prefix: /}}], response: {status: 200, body: fine}}
";

fn service(upstream: &Upstream) -> String {
    format!(
        "
kind: Service
metadata: {{name: orders}}
spec: {{protocol: http, endpoints: [{{address: '{}'}}]}}
---
kind: Route
metadata: {{name: orders}}
spec: {{match: [{{path: {{prefix: /}}}}], backends: [{{service: orders}}], bodyLimit: 100KiB}}
",
        upstream.address
    )
}

#[tokio::test]
async fn ambiguous_requests_are_answered_400_and_the_connection_closes() {
    let upstream = Upstream::always(Reply::Keep(answer(200, "", ""))).await;
    let cluster = Cluster::start(&service(&upstream)).await;
    let heads: [&[u8]; 24] = [
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\nx",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\nHost: a\n\n",
        b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX\0: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX : b\r\n\r\n",
        b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: user@a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: \r\n\r\n",
        b"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /../x HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /%2e%2e%2fx HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /a%00b HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"garbage\r\n\r\n",
    ];
    for head in heads {
        let answer = raw(cluster.address, head).await;
        assert_eq!(answer.status, 400, "{:?} got {}", String::from_utf8_lossy(head), answer.raw);
        assert_eq!(answer.code(), "invalid_request");
        assert_eq!(answer.header("connection"), Some("close"));
        assert_eq!(answer.header("x-request-id").map(str::len), Some(36));
    }
    assert_eq!(upstream.requests(), Vec::<String>::new());
}

#[tokio::test]
async fn what_is_refused_before_it_is_read_is_told_in_the_callers_dialect() {
    let cluster = Cluster::start(FIXED).await;
    let large = format!("X: {}", "a".repeat(70_000));
    for (version, lines, status) in [
        ("HTTP/1.1", "Host: b", 400),
        ("HTTP/1.1", "Transfer-Encoding: gzip", 400),
        ("HTTP/1.1", "Content-Length: 4\r\nTransfer-Encoding: chunked", 400),
        ("HTTP/1.0", "Transfer-Encoding: chunked", 400),
        ("HTTP/1.1", large.as_str(), 431),
    ] {
        for (target, anthropic) in [
            ("/v1/messages", true),
            ("/v1/messages?beta=true", true),
            ("http://a/v1/messages", true),
            ("/v1/chat/completions", false),
        ] {
            let head = format!("POST {target} {version}\r\nHost: a\r\n{lines}\r\n\r\n");
            let answer = raw(cluster.address, head).await;
            assert_eq!(answer.status, status, "{target} {}", answer.raw);
            let body = answer.json();
            assert_eq!(body["type"] == "error", anthropic, "{target} {body}");
            assert!(body["error"]["message"].is_string() && body["error"]["type"].is_string(), "{body}");
        }
    }
}

#[tokio::test]
async fn a_refusal_names_its_cause() {
    let cluster = Cluster::start(FIXED).await;
    for (head, cause) in [
        ("GET foo HTTP/1.1\r\nHost: a\r\n\r\n", "the request target is malformed"),
        ("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "in HTTP/1.0"),
    ] {
        let answer = raw(cluster.address, head).await;
        assert!(answer.status == 400 && answer.body.contains(cause), "{}", answer.raw);
    }
}

#[tokio::test]
async fn a_refused_request_behind_good_ones_is_answered_in_its_turn() {
    let cluster = Cluster::start(FIXED).await;
    let good = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let answers =
        raw(cluster.address, format!("{good}{good}GET / HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n{good}")).await.raw;
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 2, "{answers}");
    assert_eq!(answers.matches("HTTP/1.1 400").count(), 1, "{answers}");
    assert!(answers.find("HTTP/1.1 400") > answers.rfind("HTTP/1.1 200"), "{answers}");
}

#[tokio::test]
async fn connect_and_upgrades_are_not_supported() {
    let cluster = Cluster::start(FIXED).await;
    assert_eq!(raw(cluster.address, "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n").await.status, 501);
    assert_eq!(get(cluster.address, "/", "connection: upgrade\r\nupgrade: websocket\r\n").await.status, 501);
    assert_eq!(get(cluster.address, "/", "connection: upgrade\r\nupgrade: h2c\r\n").await.status, 200);
}

#[tokio::test]
async fn headers_beyond_64_kilobytes_or_two_thousand_lines_are_too_large() {
    let upstream = Upstream::always(Reply::Keep(answer(200, "", ""))).await;
    let cluster = Cluster::start(&service(&upstream)).await;
    for headers in [format!("x: {}\r\n", "a".repeat(70_000)), "x: y\r\n".repeat(2_001)] {
        let answer = get(cluster.address, "/", &headers).await;
        assert_eq!((answer.status, answer.code().as_str()), (431, "request_too_large"));
    }
    // Not the number of them: 64 KB are what counts.
    for (lines, value) in [(150, "a".to_owned()), (1_500, "a".repeat(20))] {
        let headers: String = (0..lines).map(|n| format!("x{n}: {value}\r\n")).collect();
        let answer = get(cluster.address, "/", &headers).await;
        assert_eq!(answer.status, 200, "{}", answer.raw);
        let sent = upstream.requests().pop().unwrap();
        assert!(sent.contains(&format!("\r\nx{}: {value}\r\n", lines - 1)), "{sent}");
    }
    assert_eq!(get(cluster.address, "/", &format!("x: {}\r\n", "a".repeat(60_000))).await.status, 200);
}

#[tokio::test]
async fn a_body_beyond_the_routes_limit_is_too_large_whether_announced_or_not() {
    let upstream = Upstream::always(Reply::Keep(answer(200, "", ""))).await;
    let cluster = Cluster::start(&service(&upstream)).await;
    let body = "x".repeat(200_000);
    let announced = raw(cluster.address, post_text("/", "", &body)).await;
    assert_eq!((announced.status, announced.code().as_str()), (413, "request_too_large"));
    let chunked =
        format!("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n30d40\r\n{body}\r\n0\r\n\r\n");
    let chunked = raw(cluster.address, chunked).await;
    assert_eq!((chunked.status, chunked.code().as_str()), (413, "request_too_large"));
}

#[tokio::test]
async fn headers_that_take_longer_than_ten_seconds_are_answered_408() {
    let cluster = Cluster::start(FIXED).await;
    let mut stream = TcpStream::connect(cluster.address).await.unwrap();
    let started = Instant::now();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n").await.unwrap();
    let answer = String::from_utf8(read_all(&mut stream).await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("request_timeout"), "{answer}");
    assert!((9..15).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_body_that_is_silent_for_twenty_seconds_is_answered_408() {
    let upstream = Upstream::always(Reply::Keep(answer(200, "", ""))).await;
    let cluster = Cluster::start(&service(&upstream)).await;
    let mut stream = TcpStream::connect(cluster.address).await.unwrap();
    stream.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nabc").await.unwrap();
    let answer = String::from_utf8(read_all(&mut stream).await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("connection: close"), "{answer}");
}

#[tokio::test]
async fn identity_credentials_and_hop_by_hop_headers_go_no_further() {
    let upstream = Upstream::always(Reply::Keep(answer(200, "", ""))).await;
    let cluster = Cluster::start(&service(&upstream)).await;
    let headers = "authorization: Bearer sk-alice\r\nx-consumer: root\r\nX-Tenant: root\r\nx-tollgate-x: 1\r\n\
                   connection: x-named\r\nx-named: 1\r\nkeep-alive: 5\r\nproxy-authorization: x\r\nx-request-id: mine\r\n\
                   x-forwarded-for: 9.9.9.9\r\nexpect: 100-continue\r\nx-kept: 1\r\n";
    let answer = get(cluster.address, "/a//b/%2e/c?x=%20y", headers).await;
    assert_eq!(answer.status, 200, "{}", answer.raw);
    let sent = upstream.requests().remove(0).to_ascii_lowercase();
    assert!(sent.starts_with("get /a/b/c?x=%20y http/1.1\r\n"), "{sent}");
    for gone in [
        "sk-alice",
        "root",
        "x-tollgate",
        "x-named",
        "keep-alive",
        "proxy-auth",
        "mine",
        "9.9.9.9",
        "expect",
        "connection",
    ] {
        assert!(!sent.contains(gone), "{gone} in {sent}");
    }
    for there in ["x-kept: 1", "x-consumer: alice", "x-tenant: acme", "x-forwarded-for: 127.0.0.1", "host: test\r\n"] {
        assert!(sent.contains(there), "{there} not in {sent}");
    }
    assert_eq!(sent.matches("\r\nhost:").count(), 1);
}

#[tokio::test]
async fn a_chunked_body_with_loose_framing_is_not_passed_on() {
    let upstream = Upstream::always(Reply::Keep(answer(200, "", ""))).await;
    let cluster = Cluster::start(&service(&upstream)).await;
    for body in ["3\nabc\r\n0\r\n\r\n", "3\r\nabcd\r\n0\r\n\r\n", "-3\r\nabc\r\n0\r\n\r\n"] {
        let request = format!("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{body}");
        let answer = raw(cluster.address, request).await;
        assert_eq!(answer.status, 400, "{}", answer.raw);
    }
}

#[tokio::test]
async fn draining_says_close_and_stopping_ends_idle_connections() {
    let cluster = Cluster::start(FIXED).await;
    let mut idle = TcpStream::connect(cluster.address).await.unwrap();
    idle.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let answer = read_until(&mut idle, "fine").await;
    assert!(!answer.contains("connection: close"), "{answer}");
    let mut other = TcpStream::connect(cluster.address).await.unwrap();
    other.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    read_until(&mut other, "fine").await;

    cluster.shutdown.draining.cancel();
    idle.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let answer = String::from_utf8(read_all(&mut idle).await).unwrap();
    assert!(answer.contains("connection: close") && answer.ends_with("fine"), "{answer}");
    assert_eq!(get(cluster.address, "/", "").await.status, 200);

    cluster.shutdown.stop.cancel();
    assert_eq!(other.read(&mut [0; 10]).await.unwrap(), 0);
    crate::cluster::until("the listener to close", || std::net::TcpStream::connect(cluster.address).is_err()).await;
}

/// What `/metrics` says of those that were turned away.
fn shed(cluster: &Cluster, by: &str) -> u64 {
    let line = format!("tollgate_http_server_shed_total{{by=\"{by}\",priority=\"any\"}} ");
    let metrics = cluster.metrics();
    metrics.lines().find_map(|it| it.strip_prefix(&line)).and_then(|count| count.parse().ok()).unwrap_or(0)
}

#[tokio::test]
async fn connections_beyond_the_bound_are_told_so_at_once_and_places_come_back() {
    let cluster = Cluster::start_with(FIXED, |config| config.bounds.max_connections = 1).await;
    let mut first = TcpStream::connect(cluster.address).await.unwrap();
    first.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    read_until(&mut first, "fine").await;
    for request in [&b""[..], b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"] {
        let mut second = TcpStream::connect(cluster.address).await.unwrap();
        second.write_all(request).await.unwrap();
        let answer = read_until(&mut second, "another one").await;
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("\r\nretry-after: 1\r\n"), "{answer}");
        assert!(answer.contains("\r\nx-request-id: ") && answer.contains("\"code\":\"overloaded\""), "{answer}");
        read_all(&mut second).await;
    }
    assert_eq!(shed(&cluster, "connections"), 2);
    first.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    read_until(&mut first, "fine").await;
    drop(first);
    let deadline = Instant::now() + Duration::from_secs(20);
    while get(cluster.address, "/", "").await.status != 200 {
        assert!(Instant::now() < deadline, "the place never came back");
    }
}

#[tokio::test]
async fn connections_that_would_take_the_last_files_are_closed() {
    let cluster = Cluster::start_with(FIXED, |config| config.bounds.max_file = Some(0)).await;
    let mut refused = TcpStream::connect(cluster.address).await.unwrap();
    assert!(matches!(refused.read(&mut [0; 1]).await, Ok(0) | Err(_)));
    assert_eq!(shed(&cluster, "files"), 1);
}

/// Those that nobody calls for, too: what can't be asked is neither well nor unwell.
#[tokio::test]
async fn connections_to_upstreams_that_would_take_the_last_files_are_closed() {
    for (protocol, question) in [("http", "path: /, "), ("h2c", "path: /, "), ("http", "type: tcp, ")] {
        let upstream = Upstream::always(Reply::Keep(answer(200, "", "fine"))).await;
        let resources = format!(
            "kind: Service\nmetadata: {{name: s}}\nspec: {{protocol: {protocol}, endpoints: [{{address: '{}'}}], \
             healthCheck: {{{question}interval: 300ms, timeout: 300ms, unhealthyAfter: 1}}}}\n",
            upstream.address
        );
        let cluster = Cluster::start_with(&resources, |config| config.bounds.max_file = Some(0)).await;
        crate::cluster::until("it to be refused", || shed(&cluster, "files") > 2).await;
        let metrics = cluster.metrics();
        let fit = r#"tollgate_upstream_endpoints{upstream="s",kind="service",state="fit"} 1"#;
        assert!(metrics.contains(fit), "{metrics}");
        for told in ["good", "bad"] {
            let none = format!("result=\"{told}\"}} 0");
            assert!(
                metrics.lines().any(|it| it.contains("_checks_total{") && it.ends_with(&none)),
                "{told}: {metrics}"
            );
        }
        assert_eq!(upstream.requests(), Vec::<String>::new(), "{protocol}");
        crate::cluster::until("all to be closed", || upstream.open.load(Ordering::SeqCst) == 0).await;
    }
}

#[tokio::test]
async fn requests_beyond_the_bound_are_503_at_once_and_their_connection_goes_on() {
    let upstream = Upstream::always(Reply::Hang(String::new())).await; // it never answers
    let cluster = Cluster::start_with(&service(&upstream), |config| config.bounds.max_requests = 1).await;
    let mut first = TcpStream::connect(cluster.address).await.unwrap();
    first.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    crate::cluster::until("the first to be in flight", || cluster.gateway.in_flight() == 1).await;
    let mut other = TcpStream::connect(cluster.address).await.unwrap();
    for _ in 0..2 {
        other.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let answer = read_until(&mut other, "another one").await;
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("retry-after: 1"), "{answer}");
        assert!(answer.contains("\"code\":\"overloaded\"") && !answer.contains("connection: close"), "{answer}");
    }
    assert_eq!(shed(&cluster, "requests"), 2);
    drop(first);
    crate::cluster::until("the first to be gone", || cluster.gateway.in_flight() == 0).await;
    assert_eq!(upstream.requests().len(), 1, "nobody else was sent on");
}
