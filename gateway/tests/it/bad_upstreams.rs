//! Upstreams on their bad days: each is a clear answer or a broken one, never one that looks whole, and the next caller is served.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{Instant, sleep},
};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::{
    clients::{Answer, get, post_text, raw, read_all},
    cluster::{Cluster, until},
    upstream::{Reply, Upstream, answer},
};

const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
const FIRST_BYTE: Duration = Duration::from_millis(500);
/// On a machine with much to do.
const SOON: Duration = Duration::from_secs(10);

fn resources(address: SocketAddr) -> String {
    format!(
        "kind: Service\nmetadata: {{name: s}}\nspec: {{protocol: http, endpoints: [{{address: '{address}'}}]}}\n---\n\
         kind: Route\nmetadata: {{name: all}}\nspec: {{backends: [{{service: s}}], \
         timeouts: {{request: 5s, firstByte: 500ms, idle: 1s}}}}\n---\n\
         kind: Route\nmetadata: {{name: own}}\nspec: {{match: [{{path: {{exact: /own}}}}], response: {{body: fine}}}}\n"
    )
}

/// What a caller is told of an upstream like that. Others are served meanwhile and afterwards, and nothing is left of it.
async fn told(reply: &Reply) -> Answer {
    Answer::parse(&sent(reply).await)
}

async fn sent(reply: &Reply) -> Vec<u8> {
    let upstream = Upstream::always(reply.clone()).await;
    let cluster = Cluster::start(&resources(upstream.address)).await;
    let begun = Instant::now();
    let asks = async {
        let mut stream = TcpStream::connect(cluster.address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").await.unwrap();
        read_all(&mut stream).await
    };
    let (told, other) = tokio::join!(asks, get(cluster.address, "/own", ""));
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    assert_eq!(other.body, "fine");
    assert_eq!(get(cluster.address, "/own", "").await.body, "fine");
    until("nothing of it to be left", || cluster.gateway.in_flight() == 0).await;
    told
}

fn shown(reply: &Reply) -> String {
    format!("{reply:?}").chars().take(120).collect()
}

#[tokio::test]
async fn who_gives_no_answer_is_a_504_or_a_502() {
    let hints = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n";
    for (reply, status, code) in [
        // It takes the connection and the request, and that is all.
        (Reply::Hang(String::new()), 504, "upstream_timeout"),
        (Reply::Hang("HTTP/1.1 200 OK\r\ncontent-le".into()), 504, "upstream_timeout"),
        // Some head, for ever.
        (Reply::Drip("HTTP/1.1 200 OK\r\n".into(), "x: y\r\n".into()), 504, "upstream_timeout"),
        (Reply::Endless("HTTP/1.1 200 OK\r\n".into(), format!("x: {}\r\n", "y".repeat(500))), 502, "upstream_error"),
        (Reply::Endless("HTTP/1.1 200 OK\r\nx: ".into(), "y".repeat(4_096)), 502, "upstream_error"),
        (Reply::Endless("HTTP/1.1 200 ".into(), "OK ".repeat(1_000)), 502, "upstream_error"),
        (Reply::Endless(String::new(), "y".repeat(4_096)), 502, "upstream_error"),
        // Always about to answer.
        (Reply::Endless(String::new(), "HTTP/1.1 100 Continue\r\n\r\n".into()), 504, "upstream_timeout"),
        (Reply::Endless(String::new(), hints.repeat(100)), 504, "upstream_timeout"),
        (Reply::Drip(String::new(), "HTTP/1.1 102 Processing\r\n\r\n".into()), 504, "upstream_timeout"),
        (Reply::Reset(String::new()), 502, "upstream_error"),
        (Reply::Close(String::new()), 502, "upstream_error"),
        (Reply::Close("HTTP/1.1 200 OK\r\ncontent-le".into()), 502, "upstream_error"),
        (Reply::Close("HTTP/1.1 20x OK\r\n\r\n".into()), 502, "upstream_error"),
        (Reply::Close("HTTP/1.1 200 OK\r\nx y\r\n\r\n".into()), 502, "upstream_error"),
        (Reply::Close("HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n".into()), 502, "upstream_error"),
        (Reply::Close("HTTP/2.0 200 OK\r\n\r\n".into()), 502, "upstream_error"),
    ] {
        let told = told(&reply).await;
        assert_eq!((told.status, told.code().as_str()), (status, code), "{}: {}", shown(&reply), told.raw);
    }
}

#[tokio::test]
async fn who_hints_before_it_answers_has_answered() {
    let few = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n".repeat(5);
    let told = told(&Reply::Keep(few + &answer(200, "", "whole"))).await;
    assert_eq!((told.status, told.body.as_str()), (200, "whole"), "{}", told.raw);
}

/// How a caller over HTTP/1.1 knows that an answer is all of it.
fn is_whole(answer: &Answer) -> bool {
    match answer.header("content-length").and_then(|length| length.parse::<usize>().ok()) {
        Some(length) => answer.body.len() == length,
        None => answer.raw.ends_with("\r\n0\r\n\r\n"),
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_or_makes_no_sense_never_looks_whole() {
    let chunked = |body: &str| Reply::Close(format!("{CHUNKED}{body}"));
    // The caller has the head by the time that the rest comes.
    let paced = |rest: &str| Reply::Paced(format!("{CHUNKED}4\r\nsome\r\n"), vec![rest.to_owned()], FIRST_BYTE);
    for reply in [
        paced("zz\r\nmore\r\n0\r\n\r\n"),
        paced("\r\n0\r\n\r\n"),
        paced("4\r\nsomething\r\n0\r\n\r\n"),
        Reply::Close("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this".into()),
        Reply::Reset("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this".into()),
        Reply::Hang("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this".into()),
        Reply::Reset(format!("{CHUNKED}4\r\nsome\r\n")),
        Reply::Hang(format!("{CHUNKED}4\r\nsome\r\n")),
        chunked("4\r\nsome\r\n"),
        chunked("4\r\nsome\r\n0\r\n"),
        chunked("4\r\nsome\r\n9\r\nmore"),
        chunked("4\r\nsome\r\nzz\r\nmore\r\n0\r\n\r\n"),
        chunked("4\r\nsome\r\n-4\r\nmore\r\n0\r\n\r\n"),
        chunked("4\r\nsome\r\n0x4\r\nmore\r\n0\r\n\r\n"),
        chunked("4\r\nsomething\r\n0\r\n\r\n"),
        chunked("4\r\nsome\r\n\r\n0\r\n\r\n"),
        chunked("4\r\nsome\r\nfffffffffffffffff\r\nmore\r\n0\r\n\r\n"),
        chunked("4\r\nsome\r\n4\rmore\r\n0\r\n\r\n"),
        Reply::Endless(format!("{CHUNKED}4\r\nsome\r\n4;"), "x".repeat(4_096)),
        Reply::Endless(format!("{CHUNKED}4\r\nsome\r\n"), "0".repeat(4_096)),
        Reply::Endless(format!("{CHUNKED}4\r\nsome\r\n0\r\n"), "x-more: trailers\r\n".repeat(100)),
    ] {
        let sent = sent(&reply).await;
        // What breaks off as it comes may do so before its head is out; what waits first has a head.
        if sent.is_empty() && !matches!(reply, Reply::Hang(_) | Reply::Paced(..)) {
            continue;
        }
        assert!(!sent.is_empty(), "no answer to {}", shown(&reply));
        let told = Answer::parse(&sent);
        assert!(!is_whole(&told) || told.status == 502, "{}: {}", shown(&reply), told.raw);
        assert!(told.status == 502 || told.body.starts_with("some") || told.body == "only this", "{}", told.raw);
    }
}

#[tokio::test]
async fn what_follows_an_answer_is_nobodys() {
    let evil = answer(200, "x-evil: 1\r\n", "evil");
    for behind in [evil.clone(), evil.repeat(50), "surplus".into(), "\r\n\r\n".into()] {
        let upstream = Upstream::always(Reply::Keep(answer(200, "", "good") + &behind)).await;
        let cluster = Cluster::start(&resources(upstream.address)).await;
        for _ in 0..20 {
            let told = get(cluster.address, "/", "").await;
            assert_eq!((told.status, told.body.as_str()), (200, "good"), "{}", told.raw);
        }
        // Between two requests, when nobody listens.
        let upstream = Upstream::always(Reply::Paced(answer(200, "", "good"), vec![behind], FIRST_BYTE / 5)).await;
        let cluster = Cluster::start(&resources(upstream.address)).await;
        for _ in 0..5 {
            let told = get(cluster.address, "/", "").await;
            assert_eq!((told.status, told.body.as_str()), (200, "good"), "{}", told.raw);
            sleep(FIRST_BYTE / 4).await; // the shape of the load
        }
    }
}

/// Answers as soon as there is a head, and closes: at once, or once the rest was read.
async fn hasty(polite: bool) -> (SocketAddr, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepting = TaskTracker::new().spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.windows(4).any(|it| it == b"\r\n\r\n")
                && stream.read_buf(&mut head).await.is_ok_and(|it| it > 0)
            {}
            let early = answer(403, "connection: close\r\n", "not you");
            if stream.write_all(early.as_bytes()).await.is_ok() && polite && stream.shutdown().await.is_ok() {
                let mut sink = vec![0; 65_536];
                while stream.read(&mut sink).await.is_ok_and(|it| it > 0) {}
            }
        }
    });
    (address, AbortOnDropHandle::new(accepting))
}

#[tokio::test]
async fn who_answers_early_and_closes_has_answered_and_what_was_lost_by_a_reset_is_a_502() {
    let body = "x".repeat(5_000_000);
    for polite in [true, false] {
        let (address, _accepting) = hasty(polite).await;
        let cluster = Cluster::start(&resources(address)).await;
        for _ in 0..3 {
            let told = raw(cluster.address, post_text("/", "", &body)).await;
            match told.status {
                403 => assert_eq!(told.body, "not you"),
                // A reset may overtake what was sent before it.
                502 if !polite => assert_eq!(told.code(), "upstream_error"),
                _ => panic!("{}", told.raw),
            }
        }
        assert_eq!(get(cluster.address, "/own", "").await.body, "fine");
        until("nothing of it to be left", || cluster.gateway.in_flight() == 0).await;
    }
}
