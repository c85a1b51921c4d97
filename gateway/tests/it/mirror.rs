//! Copies of requests: what they are, and that nobody waits for them.

use std::time::{Duration, Instant};

use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::{
    clients::{get, post_text, raw, read_until},
    cluster::{Cluster, until},
    durable::with_disk,
    upstream::{Reply, Upstream, answer},
};

fn resources(service: &Upstream, mirror: std::net::SocketAddr, rest: &str) -> String {
    format!(
        "
kind: Service
metadata: {{name: first}}
spec: {{endpoints: [{{address: '{}'}}]}}
---
kind: Service
metadata: {{name: shadow}}
spec: {{endpoints: [{{address: '{mirror}'}}]}}
---
kind: Route
metadata: {{name: r}}
spec: {{backends: [{{service: first}}], mirror: {{service: shadow{rest}}}}}
",
        service.address
    )
}

fn result(result: &str, count: u32) -> String {
    format!("tollgate_http_mirrored_requests_total{{route=\"r\",result=\"{result}\"}} {count}\n")
}

async fn told(cluster: &Cluster, fate: &str, count: u32) {
    until(&format!("{count} copies to be {fate}"), || cluster.metrics().contains(&result(fate, count))).await;
}

async fn fine(body: &str) -> Upstream {
    Upstream::always(Reply::Keep(answer(200, "x-up: 1\r\n", body))).await
}

#[tokio::test]
async fn a_copy_is_the_request_and_its_answer_goes_nowhere() {
    let (first, shadow) = (fine("first").await, fine("shadow").await);
    let cluster = Cluster::start(&resources(&first, shadow.address, "")).await;
    let chunked = "POST /x?y HTTP/1.1\r\nhost: test\r\nconnection: close\r\ntransfer-encoding: chunked\r\nx-own: 1\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    for request in [chunked.to_owned(), post_text("/x?y", "x-own: 1\r\n", "abcde")] {
        let before = shadow.requests().len();
        assert_eq!(raw(cluster.address, request).await.body, "first");
        until("the copy to come", || shadow.requests().len() > before).await;
        let copy = shadow.requests().pop().unwrap();
        assert!(copy.starts_with("POST /x?y HTTP/1.1\r\n") && copy.ends_with("\r\n\r\nabcde"), "{copy}");
        assert!(copy.contains("x-own: 1\r\n") && copy.contains("x-tollgate-mirrored: true\r\n"), "{copy}");
        assert!(copy.contains("x-request-id: ") && copy.contains("host: test\r\n"), "{copy}");
    }
    assert_eq!(get(cluster.address, "/get", "").await.body, "first");
    told(&cluster, "answered", 3).await;
    assert!(first.requests().iter().all(|request| !request.contains("x-tollgate")), "{:?}", first.requests());
}

#[tokio::test]
async fn a_copy_that_hangs_or_fails_is_nobodys_business() {
    let first = fine("first").await;
    let hanging = Upstream::always(Reply::Hang(String::new())).await;
    let cluster = Cluster::start(&resources(&first, hanging.address, "")).await;
    let since = Instant::now();
    for _ in 0..20 {
        assert_eq!(get(cluster.address, "/", "").await.body, "first");
    }
    until("the copies to come", || hanging.requests().len() == 20).await;
    assert!(since.elapsed() < Duration::from_secs(8), "{:?}", since.elapsed());
    // A stop does not wait for them either.
    cluster.shutdown.stop.cancel();
    until("the copies to be let go", || hanging.open.load(std::sync::atomic::Ordering::SeqCst) == 0).await;
    assert!(since.elapsed() < Duration::from_secs(9), "sooner than their own time: {:?}", since.elapsed());

    let gone = fine("gone").await.address;
    until("the port to be free", || std::net::TcpStream::connect(gone).is_err()).await;
    let cluster = Cluster::start(&resources(&first, gone, "")).await;
    assert_eq!(get(cluster.address, "/", "").await.body, "first");
    told(&cluster, "failed", 1).await;
}

#[tokio::test]
async fn no_more_copies_are_made_than_there_are_places() {
    let first = fine("first").await;
    let hanging = Upstream::always(Reply::Hang(String::new())).await;
    let cluster = Cluster::start(&resources(&first, hanging.address, "")).await;
    let mut stream = TcpStream::connect(cluster.address).await.unwrap();
    for _ in 0..260 {
        stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        read_until(&mut stream, "first").await;
    }
    told(&cluster, "too_many", 4).await;
}

#[tokio::test]
async fn what_is_too_long_is_not_copied_and_goes_on_all_the_same() {
    let (first, shadow) = (fine("first").await, fine("shadow").await);
    let cluster = Cluster::start(&resources(&first, shadow.address, "")).await;
    let long = "x".repeat(64 * 1024 + 1);
    assert_eq!(raw(cluster.address, post_text("/", "", &long)).await.body, "first");
    told(&cluster, "too_large", 1).await;
    let head = "POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunked = format!("{head}{:x}\r\n{long}\r\n0\r\n\r\n", long.len());
    assert_eq!(raw(cluster.address, chunked).await.body, "first");
    told(&cluster, "too_large", 2).await;
    assert_eq!(shadow.requests().len(), 0);
}

/// The request is on its way while its body still comes: a copy is no reason to wait for the rest of it.
#[tokio::test]
async fn a_body_is_streamed_as_if_there_were_no_copy() {
    let first = Upstream::start(|_| Reply::Keep(answer(200, "", "first"))).await;
    let shadow = fine("shadow").await;
    let cluster = Cluster::start(&resources(&first, shadow.address, "")).await;
    let mut stream = TcpStream::connect(cluster.address).await.unwrap();
    let head = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nab";
    stream.write_all(head.as_bytes()).await.unwrap();
    until("the upstream to have a connection", || first.open.load(std::sync::atomic::Ordering::SeqCst) == 1).await;
    assert_eq!(shadow.requests().len(), 0);
    stream.write_all(b"cd").await.unwrap();
    read_until(&mut stream, "first").await;
    told(&cluster, "answered", 1).await;
    assert!(shadow.requests()[0].ends_with("abcd"), "{:?}", shadow.requests());
    // One that never comes to its end is not copied.
    let mut broken = TcpStream::connect(cluster.address).await.unwrap();
    broken.write_all(head.as_bytes()).await.unwrap();
    drop(broken);
    told(&cluster, "unfinished", 1).await;
    assert_eq!(shadow.requests().len(), 1);
}

#[tokio::test]
async fn none_of_nothing_is_copied() {
    let (first, shadow) = (fine("first").await, fine("shadow").await);
    let cluster = Cluster::start(&resources(&first, shadow.address, ", percent: 0")).await;
    for _ in 0..50 {
        assert_eq!(get(cluster.address, "/", "").await.body, "first");
    }
    assert_eq!(shadow.requests().len(), 0);
    assert!(!cluster.metrics().contains("http_mirrored_requests_total{"), "{}", cluster.metrics());
}

/// An upload that takes its time is no load of the mirror's endpoints until it is there.
#[tokio::test]
async fn a_copy_takes_no_endpoint_before_its_body_is_there() {
    let (first, shadow) = (fine("first").await, fine("shadow").await);
    let narrow = resources(&first, shadow.address, "")
        .replace("}]}\n---\nkind: Route", "}], circuitBreaker: {maxRequests: 1}}\n---\nkind: Route");
    assert!(narrow.contains("maxRequests"), "{narrow}");
    let cluster = Cluster::start(&narrow).await;
    let mut slow = TcpStream::connect(cluster.address).await.unwrap();
    slow.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nab").await.unwrap();
    until("the upload to go on", || first.open.load(std::sync::atomic::Ordering::SeqCst) == 1).await;
    assert_eq!(get(cluster.address, "/", "").await.body, "first");
    told(&cluster, "answered", 1).await;
    slow.write_all(b"cd").await.unwrap();
    told(&cluster, "answered", 2).await;
}

#[tokio::test]
async fn failed_copies_take_no_endpoint_from_those_who_wait() {
    let fails = || async {
        Upstream::start(|request| {
            let is_copy = request.contains("x-tollgate-mirrored");
            Reply::Keep(answer(if is_copy { 500 } else { 200 }, "", "first"))
        })
        .await
    };
    let (a, b) = (fails().await, fails().await);
    let cluster = Cluster::start(&format!(
        "
kind: Service
metadata: {{name: first}}
spec:
  endpoints: [{{address: '{}'}}, {{address: '{}'}}]
  outlierDetection: {{consecutiveErrors: 1, ejectFor: 1h}}
---
kind: Route
metadata: {{name: r}}
spec: {{backends: [{{service: first}}], mirror: {{service: first}}}}
",
        a.address, b.address
    ))
    .await;
    for _ in 0..6 {
        assert_eq!(get(cluster.address, "/", "").await.body, "first");
    }
    told(&cluster, "answered", 6).await;
    let none = "tollgate_upstream_ejections_total{upstream=\"first\",kind=\"service\",by=\"errors\"} 0\n";
    assert!(cluster.metrics().contains(none), "{}", cluster.metrics());
}

/// Its copies come back to where they were made.
#[tokio::test]
async fn a_copy_is_not_copied_again() {
    let (first, shadow) = (fine("first").await, fine("shadow").await);
    let cluster = Cluster::start(&resources(&first, shadow.address, "")).await;
    assert_eq!(get(cluster.address, "/", "x-tollgate-mirrored: true\r\n").await.body, "first");
    assert_eq!(get(cluster.address, "/", "").await.body, "first");
    told(&cluster, "answered", 1).await;
    assert_eq!(shadow.requests().len(), 1);
    assert!(first.requests().iter().all(|request| !request.contains("x-tollgate")), "{:?}", first.requests());
}

#[tokio::test]
async fn what_is_refused_because_it_cannot_be_written_down_is_not_copied() {
    let (first, shadow) = (fine("first").await, fine("shadow").await);
    let limit =
        "---\nkind: Limit\nmetadata: {name: rph}\nspec: {unit: requests, limit: 50, window: 1h, durability: journal}\n";
    let route = resources(&first, shadow.address, "").replace("backends:", "timeouts: {request: 1s}, backends:");
    let (cluster, disk) = with_disk(&(route + limit)).await;
    disk.stop();
    let refused = get(cluster.address, "/", "").await;
    assert_eq!((refused.status, refused.code().as_str()), (503, "quota_unavailable"), "{}", refused.raw);
    disk.go_on();
    assert_eq!(get(cluster.address, "/", "").await.body, "first");
    told(&cluster, "answered", 1).await;
    assert_eq!((first.requests().len(), shadow.requests().len()), (1, 1));
}
