//! Ordinary upstreams, fixed answers, authentication.

use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::{
    clients::{call, get, post_text, raw, read_until},
    cluster::{Cluster, until},
    upstream::{Reply, Upstream, answer},
};

fn resources(first: &Upstream, second: &Upstream, on: &str) -> String {
    format!(
        "
kind: Service
metadata: {{name: first}}
spec: {{protocol: http, endpoints: [{{address: '{}'}}]}}
---
kind: Service
metadata: {{name: second}}
spec: {{protocol: http, endpoints: [{{address: '{}'}}]}}
---
kind: Route
metadata: {{name: both}}
spec:
  backends: [{{service: first}}]
  fallbacks: [{{service: second, on: [{on}]}}]
  timeouts: {{request: 3s, firstByte: 300ms, idle: 1s}}
---
kind: Route
metadata: {{name: private}}
spec:
  match: [{{path: {{prefix: /private}}}}]
  backends: [{{service: first}}]
  auth: {{required: true, allow: {{tenants: [acme]}}}}
---
kind: Route
metadata: {{name: moved}}
spec: {{match: [{{path: {{exact: /old}}}}], redirect: {{location: 'https://new/', status: 308}}}}
---
kind: Route
metadata: {{name: teapot}}
spec: {{match: [{{path: {{exact: /tea}}, headers: {{x-tea: {{exact: 'yes'}}}}}}], response: {{status: 418, body: short, headers: {{x-pot: stout}}}}}}
",
        first.address, second.address
    )
}

async fn fine(body: &str) -> Upstream {
    Upstream::always(Reply::Keep(answer(200, "x-up: 1\r\n", body))).await
}

#[tokio::test]
async fn routes_answer_redirect_and_forward() {
    let (first, second) = (fine("first").await, fine("second").await);
    let cluster = Cluster::start(&resources(&first, &second, "connectFailure")).await;
    let forwarded = get(cluster.address, "/x", "").await;
    assert_eq!((forwarded.status, forwarded.body.as_str(), forwarded.header("x-up")), (200, "first", Some("1")));
    let moved = get(cluster.address, "/old", "").await;
    assert_eq!((moved.status, moved.header("location")), (308, Some("https://new/")));
    let tea = get(cluster.address, "/tea", "x-tea: yes\r\n").await;
    assert_eq!((tea.status, tea.body.as_str(), tea.header("x-pot")), (418, "short", Some("stout")));
    assert_eq!(get(cluster.address, "/tea", "").await.body, "first");
}

#[tokio::test]
async fn a_host_without_a_route_is_told_so() {
    let cluster =
        Cluster::start("kind: Route\nmetadata: {name: r}\nspec: {hosts: [a.example], response: {body: x}}\n").await;
    let answer = get(cluster.address, "/", "").await;
    assert_eq!((answer.status, answer.code().as_str()), (404, "route_not_found"));
    assert_eq!(answer.json()["error"]["param"], serde_json::Value::Null);
}

#[tokio::test]
async fn only_known_and_allowed_callers_get_in() {
    let (first, second) = (fine("first").await, fine("second").await);
    let cluster = Cluster::start(&resources(&first, &second, "connectFailure")).await;
    for (headers, status, code) in [
        ("", 401, "invalid_api_key"),
        ("authorization: Bearer sk-nobody\r\n", 401, "invalid_api_key"),
        ("authorization: Bearer sk-bobby\r\n", 403, "access_denied"),
        ("x-api-key: sk-alice\r\nauthorization: Bearer sk-bobby\r\n", 401, "invalid_api_key"),
    ] {
        let answer = get(cluster.address, "/private", headers).await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{headers}");
    }
    for headers in ["authorization: bearer sk-alice\r\n", "x-api-key: sk-alice\r\n", "api-key: sk-alice\r\n"] {
        assert_eq!(get(cluster.address, "/private", headers).await.status, 200, "{headers}");
    }
    assert!(first.requests().iter().all(|request| !request.contains("sk-")));
    // On an open route a credential that is not ours is the upstream's business.
    get(cluster.address, "/open", "authorization: Bearer theirs\r\n").await;
    assert!(first.requests().last().unwrap().contains("Bearer theirs"));
}

/// Its keys are good on the other nodes: a refusal for good would be wrong, another node is to be tried.
#[tokio::test]
async fn a_node_under_another_cluster_key_does_not_say_that_a_key_is_bad() {
    let upstream = fine("fine").await;
    let cluster = Cluster::start(&resources(&upstream, &upstream, "connectFailure")).await;
    cluster.change_cluster_key();
    let answer = get(cluster.address, "/private", "x-api-key: sk-alice\r\n").await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "quota_unavailable"));
    let none = get(cluster.address, "/private", "").await;
    assert_eq!((none.status, none.code().as_str()), (401, "invalid_api_key"));
    assert_eq!(get(cluster.address, "/open", "").await.status, 200);
}

#[tokio::test]
async fn an_open_route_takes_our_credential_and_passes_on_its_upstreams() {
    let upstream = fine("fine").await;
    let old = "---\nkind: Consumer\nmetadata: {name: old}\nspec: {tenant: acme, credentials: [{apiKey: sk-oldie, expiresAt: '2020-01-01T00:00:00Z'}]}\n";
    let cluster = Cluster::start(&(resources(&upstream, &upstream, "connectFailure") + old)).await;
    for (headers, caller) in [
        ("authorization: Bearer theirs\r\nx-api-key: sk-alice\r\n", Some("alice")),
        ("x-api-key: theirs\r\nauthorization: Bearer sk-alice\r\n", Some("alice")),
        ("x-api-key: theirs\r\nx-api-key: sk-alice\r\napi-key: sk-alice\r\n", Some("alice")),
        ("authorization: Bearer theirs\r\napi-key: other\r\n", None),
        ("authorization: Basic theirs\r\nx-api-key: sk-oldie\r\n", None),
        ("authorization: sk-alice\r\nx-api-key: theirs\r\n", None),
        ("authorization: Bearer sk-oldie\r\nx-api-key: theirs\r\n", None),
        ("authorization: bearer  sk-oldie \r\nx-api-key: theirs\r\n", None),
        ("authorization: Bearer theirs\r\napi-key: sk-oldie\r\n", None),
        ("x-api-key: sk-oldie\r\nx-api-key: theirs\r\napi-key: Bearer sk-oldie\r\n", None),
        ("x-api-key: sk-oldie\r\napi-key: theirs\r\nauthorization: Bearer sk-alice\r\n", Some("alice")),
        ("authorization: Token sk-alice\r\nx-api-key: theirs\r\n", None),
    ] {
        assert_eq!(get(cluster.address, "/open", headers).await.status, 200, "{headers}");
        let sent = upstream.requests().pop().unwrap();
        assert!(sent.contains("theirs") && !sent.contains("sk-"), "{headers}: {sent}");
        let told = sent.lines().find_map(|line| line.strip_prefix("x-consumer: "));
        assert_eq!(told, caller, "{headers}: {sent}");
    }
    // Whose call is it?
    let two = get(cluster.address, "/open", "x-api-key: sk-alice\r\nauthorization: Bearer sk-bobby\r\n").await;
    assert_eq!((two.status, two.code().as_str()), (401, "invalid_api_key"));
    // Where a caller must be known, a second key could be read as another one further on.
    let required = get(cluster.address, "/private", "x-api-key: sk-alice\r\nauthorization: Bearer theirs\r\n").await;
    assert_eq!((required.status, required.code().as_str()), (401, "invalid_api_key"));
}

#[tokio::test]
async fn a_fallback_takes_what_it_is_for() {
    let second = fine("second").await;
    let down = Upstream::always(Reply::Reset(String::new())).await;
    let hanging = Upstream::always(Reply::Hang(String::new())).await;
    let failing = Upstream::always(Reply::Keep(answer(503, "", "busy"))).await;
    for (first, on) in [(&down, "reset"), (&hanging, "timeout"), (&failing, "'5xx'")] {
        let cluster = Cluster::start(&resources(first, &second, on)).await;
        assert_eq!(raw(cluster.address, post_text("/x", "", "body")).await.body, "second", "{on}");
    }
    for (first, status, code) in [(&down, 502, "upstream_error"), (&hanging, 504, "upstream_timeout")] {
        let cluster = Cluster::start(&resources(first, &second, "'429'")).await;
        let answer = raw(cluster.address, post_text("/x", "", "body")).await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code));
    }
    let cluster = Cluster::start(&resources(&failing, &second, "'429'")).await;
    assert_eq!(get(cluster.address, "/x", "").await.body, "busy");
}

#[tokio::test]
async fn an_upstream_that_is_not_there_is_a_502_or_a_fallback_with_the_streamed_body() {
    let second = fine("second").await;
    let gone = fine("gone").await;
    let address = gone.address;
    drop(gone);
    until("the port to be free", || std::net::TcpStream::connect(address).is_err()).await;
    let yaml = |on| resources(&second, &second, on).replacen(&second.address.to_string(), &address.to_string(), 1);
    let cluster = Cluster::start(&yaml("connectFailure")).await;
    let answer = call(cluster.address, "/x", &"long body ".repeat(2_000)).await;
    assert_eq!(answer.body, "second", "{}", answer.raw);
    assert!(second.requests()[0].ends_with("long body "));
    let cluster = Cluster::start(&yaml("timeout")).await;
    let answer = call(cluster.address, "/x", "body").await;
    assert_eq!((answer.status, answer.code().as_str()), (502, "upstream_error"));
}

#[tokio::test]
async fn connections_to_upstreams_are_kept_and_bodies_are_streamed_both_ways() {
    let first = Upstream::always(Reply::Keep(answer(200, "", "first"))).await;
    let cluster = Cluster::start(&resources(&first, &first, "reset")).await;
    for _ in 0..5 {
        assert_eq!(get(cluster.address, "/x", "").await.status, 200);
    }
    assert_eq!(first.open.load(std::sync::atomic::Ordering::SeqCst), 1);

    let slow = Upstream::always(Reply::Hang(crate::upstream::events(&["one"]))).await;
    let cluster = Cluster::start(&resources(&slow, &slow, "reset")).await;
    let mut stream = TcpStream::connect(cluster.address).await.unwrap();
    stream.write_all(b"GET /x HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    read_until(&mut stream, "one").await; // the first byte comes though the answer never ends
    drop(stream);
    until("the upstream to be let go", || slow.open.load(std::sync::atomic::Ordering::SeqCst) == 0).await;
    until("the exchange to end", || cluster.gateway.in_flight() == 0).await;
}

#[tokio::test]
async fn an_answer_that_outlasts_its_routes_time_is_cut_and_never_looks_whole() {
    let drip = Reply::Drip(crate::upstream::events(&["one"]), "3\r\ntwo\r\n".into());
    let first = Upstream::always(drip).await;
    let cluster = Cluster::start(&resources(&first, &first, "reset").replace("request: 3s", "request: 500ms")).await;
    let answer = get(cluster.address, "/x", "").await;
    assert!(answer.status == 200 && answer.body.starts_with("onetwo"), "{}", answer.raw);
    assert!(!answer.raw.ends_with("0\r\n\r\n"), "{}", answer.raw);
    until("the upstream to be let go", || first.open.load(std::sync::atomic::Ordering::SeqCst) == 0).await;
}

#[tokio::test]
async fn a_request_with_an_expectation_is_told_to_continue() {
    let first = fine("first").await;
    let cluster = Cluster::start(&resources(&first, &first, "reset")).await;
    let mut stream = TcpStream::connect(cluster.address).await.unwrap();
    let head = "POST /x HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 4\r\nconnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    read_until(&mut stream, "100 Continue").await;
    stream.write_all(b"body").await.unwrap();
    read_until(&mut stream, "first").await;
}

#[tokio::test]
async fn a_kept_connection_that_died_is_replaced_for_safe_requests() {
    let first = Upstream::start(|request| {
        // The first answer promises to keep the connection, and then does not.
        if request.contains("/die") {
            Reply::Close(answer(200, "", "dying"))
        } else {
            Reply::Keep(answer(200, "", "alive"))
        }
    })
    .await;
    let cluster = Cluster::start(&resources(&first, &first, "timeout")).await;
    for _ in 0..10 {
        assert_eq!(get(cluster.address, "/die", "").await.body, "dying");
        assert_eq!(get(cluster.address, "/x", "").await.body, "alive");
    }
}

#[tokio::test]
async fn an_answer_whose_framing_could_be_read_in_two_ways_is_none() {
    let chunked = "2\r\nhi\r\n0\r\n\r\n";
    for (headers, body, status) in [
        ("transfer-encoding: chunked\r\n", chunked, 200),
        ("transfer-encoding: Chunked\r\n", chunked, 200),
        ("transfer-encoding: gzip, chunked\r\n", chunked, 502),
        ("transfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n", chunked, 502),
        ("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n", chunked, 502),
        ("transfer-encoding: gzip\r\n", "hi", 502),
        ("transfer-encoding: identity\r\n", "hi", 502),
        ("content-length: 2\r\ntransfer-encoding: chunked\r\n", chunked, 502),
        ("transfer-encoding: chunked\r\ncontent-length: 12\r\n", chunked, 502),
        ("content-length: 2\r\ncontent-length: 3\r\n", "hi", 502),
    ] {
        let upstream = Upstream::always(Reply::Close(format!("HTTP/1.1 200 OK\r\n{headers}\r\n{body}"))).await;
        let cluster = Cluster::start(&resources(&upstream, &upstream, "connectFailure")).await;
        let told = get(cluster.address, "/open", "").await;
        assert_eq!(told.status, status, "{headers}: {}", told.raw);
        if status == 502 {
            assert_eq!(told.code(), "upstream_error", "{headers}: {}", told.raw);
        }
    }
}
