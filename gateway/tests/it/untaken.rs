//! Clients of HTTP/2 that take nothing of an answer: its stream ends, and what it took of the node is for others.

use std::{sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use h2::{
    Reason, RecvStream,
    client::{Builder, SendRequest},
};
use http::Request;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout},
};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tollgate_gateway::{AccessLog, AccessLogField};

use crate::{
    ai::{EVENT, completion, provider},
    clients::get,
    cluster::{Cluster, until},
    grpc,
    upstream::{Reply, Upstream, answer, events, json},
};

/// Short for a client, and long for a machine with much to do.
const WITHIN: Duration = Duration::from_millis(500);
/// Who is cut is told so by then.
const PATIENCE: Duration = Duration::from_secs(20);

async fn cluster(resources: &str) -> Cluster {
    Cluster::start_with(resources, |config| config.bounds.taken_within = WITHIN).await
}

struct Client {
    sender: SendRequest<Bytes>,
    _driving: AbortOnDropHandle<()>,
}

impl Client {
    /// That answers PINGs, and has windows of this size.
    async fn connect(cluster: &Cluster, window: u32) -> Self {
        let stream = TcpStream::connect(cluster.address).await.unwrap();
        let (sender, connection) = Builder::new().initial_window_size(window).handshake(stream).await.unwrap();
        let driving = TaskTracker::new().spawn(async move { drop(connection.await) });
        Self { sender, _driving: AbortOnDropHandle::new(driving) }
    }

    /// The answer's status and what comes of its body.
    async fn ask(&mut self, request: http::request::Builder, body: Bytes) -> (u16, RecvStream) {
        let mut sender = self.sender.clone().ready().await.unwrap();
        let (answer, mut sending) = sender.send_request(request.body(()).unwrap(), false).unwrap();
        sending.send_data(body, true).unwrap();
        let (head, body) = answer.await.unwrap().into_parts();
        (head.status.as_u16(), body)
    }

    async fn get(&mut self, path: &str) -> (u16, RecvStream) {
        self.ask(Request::get(format!("http://test{path}")), Bytes::new()).await
    }

    async fn complete(&mut self, more: &str) -> (u16, RecvStream) {
        let body = format!(r#"{{"model":"m","max_tokens":100{more},"messages":[{{"role":"user","content":"hi"}}]}}"#);
        let request = Request::post("http://test/v1/chat/completions").header("authorization", "Bearer sk-alice");
        self.ask(request, body.into()).await
    }

    async fn call(&mut self) -> (u16, RecvStream) {
        let request = Request::post("http://test/test.v1.Test/Silent").header("content-type", "application/grpc");
        self.ask(request.header("te", "trailers"), Bytes::from_static(b"\0\0\0\0\x04\x0a\x02hi")).await
    }
}

/// What is left of an answer, and why it ended early, if it did. None of it is given room for.
async fn rest(body: &mut RecvStream) -> (usize, Option<Reason>) {
    let mut taken = 0;
    while let Some(data) = timeout(PATIENCE, body.data()).await.expect("it is told in time") {
        match data {
            Ok(data) => taken += data.len(),
            Err(error) => return (taken, error.reason()),
        }
    }
    (taken, None)
}

fn service(upstream: &Upstream) -> String {
    format!(
        "kind: Service\nmetadata: {{name: s}}\nspec: {{protocol: http, endpoints: [{{address: '{}'}}]}}\n---\n\
         kind: Route\nmetadata: {{name: all}}\nspec: {{backends: [{{service: s}}]}}\n",
        upstream.address
    )
}

/// The answer ends, and nothing of it is left here.
async fn is_cut(cluster: &Cluster, (status, mut body): (u16, RecvStream), told: u16) {
    assert_eq!(status, told);
    assert_eq!(rest(&mut body).await, (0, Some(Reason::CANCEL)));
    until("its place to be free", || cluster.gateway.in_flight() == 0).await;
}

#[tokio::test]
async fn an_answer_of_a_service_is_not_kept_for_who_takes_nothing() {
    for reply in [
        Reply::Keep(answer(200, "", "fine")),
        Reply::Keep(answer(200, "", &"x".repeat(300_000))),
        Reply::Endless("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_owned(), "4\r\nmore\r\n".to_owned()),
    ] {
        let upstream = Upstream::always(reply).await;
        let cluster = cluster(&service(&upstream)).await;
        let mut client = Client::connect(&cluster, 0).await;
        let answer = client.get("/").await;
        is_cut(&cluster, answer, 200).await;
    }
}

#[tokio::test]
async fn nor_is_one_that_holds_a_permit_or_an_error_or_a_fixed_one() {
    let upstream = Upstream::always(Reply::Keep(answer(200, "", "fine"))).await;
    let limit = "---\nkind: Limit\nmetadata: {name: open}\nspec: {unit: concurrency, limit: 1}\n";
    let held = cluster(&format!("{}{limit}", service(&upstream))).await;
    let mut client = Client::connect(&held, 0).await;
    let answer = client.get("/").await;
    is_cut(&held, answer, 200).await;
    held.nothing_held().await;

    let fixed = "kind: Route\nmetadata: {name: fixed}\nspec: {match: [{path: {exact: /f}}], response: {body: fine}}\n";
    let fixed = cluster(fixed).await;
    let mut client = Client::connect(&fixed, 0).await;
    for (path, status) in [("/f", 200), ("/elsewhere", 404)] {
        let answer = client.get(path).await;
        is_cut(&fixed, answer, status).await;
    }
}

#[tokio::test]
async fn nor_is_a_models_answer_and_its_room_is_for_others() {
    let text = "long ".repeat(60_000);
    let upstream = Upstream::always(Reply::Keep(json(&completion(9, 3).replace("Hello", &text)))).await;
    let cluster = Cluster::start_with(&provider(&upstream, "openai"), |config| {
        (config.bounds.taken_within, config.bounds.max_buffered_bytes) = (WITHIN, 200_000);
    })
    .await;
    let mut client = Client::connect(&cluster, 0).await;
    for _ in 0..2 {
        let answer = client.complete("").await;
        is_cut(&cluster, answer, 200).await;
    }
}

#[tokio::test]
async fn nor_is_a_stream_and_its_provider_is_let_go() {
    let more = format!("{:x}\r\n{EVENT}\r\n", EVENT.len());
    let upstream = Upstream::always(Reply::Drip(events(&[EVENT]), more)).await;
    let cluster = cluster(&provider(&upstream, "openai")).await;
    let mut client = Client::connect(&cluster, 0).await;
    let answer = client.complete(r#","stream":true"#).await;
    is_cut(&cluster, answer, 200).await;
    until("the provider to be let go", || upstream.open.load(Ordering::SeqCst) == 0).await;
    assert_eq!(cluster.settled(1).await.len(), 1);
    let metrics = cluster.metrics();
    assert!(metrics.contains("quota_streams_cut_total{by=\"caller\"} 1"), "{metrics}");
}

#[tokio::test]
async fn nor_is_a_call_of_grpc() {
    let (address, _server) = grpc::server().await;
    let cluster = cluster(&grpc::resources(address, "")).await;
    let mut client = Client::connect(&cluster, 0).await;
    let answer = client.call().await;
    is_cut(&cluster, answer, 200).await;
    // It is the client that is waited for: who takes all that is there may wait for more.
    let mut client = Client::connect(&cluster, 65_535).await;
    let (_, mut body) = client.call().await;
    assert_eq!(body.data().await.unwrap().unwrap().len(), 12);
    sleep(WITHIN * 3).await;
    assert_eq!(cluster.gateway.in_flight(), 1);
}

#[tokio::test]
async fn a_shut_connection_is_as_a_shut_stream() {
    let upstream = Upstream::always(Reply::Keep(answer(200, "", &"x".repeat(300_000)))).await;
    let cluster = cluster(&service(&upstream)).await;
    let mut client = Client::connect(&cluster, 1 << 20).await;
    let (_, mut first) = client.get("/").await;
    let (_, mut second) = client.get("/").await;
    // One has all of the connection's 65,535 bytes, or both some of them.
    let ((one, why), (other, why_other)) = tokio::join!(rest(&mut first), rest(&mut second));
    assert_eq!((one + other, why, why_other), (65_535, Some(Reason::CANCEL), Some(Reason::CANCEL)));
    until("their places to be free", || cluster.gateway.in_flight() == 0).await;
}

#[tokio::test]
async fn few_who_take_nothing_do_not_keep_all_others_out() {
    let upstream = Upstream::always(Reply::Keep(answer(200, "", "fine"))).await;
    let cluster = Cluster::start_with(&service(&upstream), |config| {
        (config.bounds.taken_within, config.bounds.max_requests) = (WITHIN * 6, 2);
    })
    .await;
    let mut client = Client::connect(&cluster, 0).await;
    let _unread = (client.get("/").await, client.get("/").await);
    assert_eq!(get(cluster.address, "/", "").await.status, 503);
    until("their places to be free", || cluster.gateway.in_flight() == 0).await;
    assert_eq!(get(cluster.address, "/", "").await.status, 200);
}

#[tokio::test]
async fn who_takes_little_and_steadily_gets_all_of_it() {
    let body = "0123456789".repeat(2_000);
    let upstream = Upstream::always(Reply::Keep(answer(200, "", &body))).await;
    let within = Duration::from_secs(2);
    let cluster = Cluster::start_with(&service(&upstream), |config| config.bounds.taken_within = within).await;
    let mut client = Client::connect(&cluster, 2_500).await;
    let (_, mut answer) = client.get("/").await;
    let mut taken = Vec::new();
    while let Some(data) = answer.data().await {
        let data = data.unwrap();
        sleep(within / 4).await;
        answer.flow_control().release_capacity(data.len()).unwrap();
        taken.extend(data);
    }
    assert!(taken == body.as_bytes());
}

/// Takes a byte at a time, and says how many came until the answer ended, and why it did.
async fn dribble(body: &mut RecvStream) -> (usize, Option<Reason>) {
    let mut taken = 0;
    while let Some(data) = timeout(PATIENCE, body.data()).await.expect("it is told in time") {
        match data {
            Ok(data) => taken += data.len(),
            Err(error) => return (taken, error.reason()),
        }
        sleep(Duration::from_millis(20)).await;
        body.flow_control().release_capacity(1).unwrap();
    }
    (taken, None)
}

/// What h2 has of an answer is not less on its way than what is here: its exchange is not over, and it is no longer there than others.
#[tokio::test]
async fn a_window_of_one_byte_is_as_a_shut_one() {
    let whole = |length: usize| Reply::Keep(answer(200, "", &"x".repeat(length)));
    let more = format!("2000\r\n{}\r\n", "x".repeat(0x2000));
    let endless = Reply::Endless("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_owned(), more);
    let mut last = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_owned();
    last += &format!("9c40\r\n{}\r\n0\r\n\r\n", "x".repeat(40_000));
    for reply in [whole(40_000), whole(300_000), endless, Reply::Keep(last)] {
        let upstream = Upstream::always(reply).await;
        let cluster = cluster(&service(&upstream)).await;
        for takes in [false, true] {
            let mut client = Client::connect(&cluster, 1).await;
            let (_, mut body) = client.get("/").await;
            assert_eq!(cluster.gateway.in_flight(), 1);
            let (taken, why) = if takes { dribble(&mut body).await } else { rest(&mut body).await };
            assert_eq!((why, taken < 1_000), (Some(Reason::CANCEL), true), "{taken}");
            until("its place to be free", || cluster.gateway.in_flight() == 0).await;
        }
    }
}

/// Its stream has come to its end, and can't be reset: the last of it ends its connection.
#[tokio::test]
async fn a_short_answer_of_which_a_byte_is_taken_keeps_its_place_and_no_longer_than_others() {
    let upstream = Upstream::always(Reply::Keep(answer(200, "", &"x".repeat(9_000)))).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("access.log");
    let log = AccessLog::open(&file, &[AccessLogField::End, AccessLogField::Bytes], 1.0).unwrap();
    let within = WITHIN * 4;
    let cluster = Cluster::start_with(&service(&upstream), |config| {
        (config.bounds.taken_within, config.access_log) = (within, Some(log));
    })
    .await;
    let mut client = Client::connect(&cluster, 1).await;
    let (_, mut body) = client.get("/").await;
    assert_eq!(body.data().await.unwrap().unwrap().len(), 1);
    // All of it is handed over, and most of it is there.
    sleep(within / 2).await;
    assert_eq!(cluster.gateway.in_flight(), 1);
    assert!(timeout(PATIENCE, body.data()).await.expect("it ends").is_none_or(|data| data.is_err()));
    until("its place to be free", || cluster.gateway.in_flight() == 0).await;
    let lines = || std::fs::read_to_string(&file).unwrap();
    until("a line", || lines().ends_with('\n')).await;
    assert_eq!(lines(), "{\"end\":\"left\",\"bytes\":1}\n");
    // Who takes it all is served as ever, and stays.
    let mut client = Client::connect(&cluster, 1 << 20).await;
    for _ in 0..4 {
        let (_, mut body) = client.get("/").await;
        assert_eq!(rest(&mut body).await, (9_000, None));
        body.flow_control().release_capacity(9_000).unwrap();
        sleep(within / 2).await;
    }
    until("both lines", || lines().lines().count() == 5).await;
    assert!(lines().lines().skip(1).all(|line| line == "{\"end\":\"complete\",\"bytes\":9000}"), "{}", lines());
}

#[tokio::test]
async fn an_answer_that_waits_for_its_upstream_is_not_one_that_nobody_takes() {
    let more = format!("{:x}\r\n{EVENT}\r\n", EVENT.len());
    let upstream = Upstream::always(Reply::Paced(events(&[EVENT]), vec![more; 3], WITHIN * 2)).await;
    let cluster = cluster(&service(&upstream)).await;
    let mut client = Client::connect(&cluster, 1 << 20).await;
    let (_, mut body) = client.get("/").await;
    let (begun, mut seen) = (Instant::now(), String::new());
    while seen.matches(EVENT).count() < 4 {
        let data = timeout(PATIENCE, body.data()).await.unwrap();
        let data = data.unwrap_or_else(|| panic!("it ended behind {seen}")).expect("it is not cut");
        seen += std::str::from_utf8(&data).unwrap();
    }
    assert!(begun.elapsed() > WITHIN * 5, "{:?}", begun.elapsed());
    assert_eq!(cluster.gateway.in_flight(), 1);
}

#[tokio::test]
async fn the_access_log_says_that_the_client_has_left() {
    let upstream = Upstream::always(Reply::Keep(answer(200, "", &"x".repeat(300_000)))).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("access.log");
    let log = AccessLog::open(&file, &[AccessLogField::End, AccessLogField::Bytes], 1.0).unwrap();
    let cluster = Cluster::start_with(&service(&upstream), |config| {
        (config.bounds.taken_within, config.access_log) = (WITHIN, Some(log));
    })
    .await;
    let mut client = Client::connect(&cluster, 1_000).await;
    let (_, mut body) = client.get("/").await;
    assert_eq!(rest(&mut body).await, (1_000, Some(Reason::CANCEL)));
    let lines = || std::fs::read_to_string(&file).unwrap();
    until("a line", || lines().ends_with('\n')).await;
    assert_eq!(lines(), "{\"end\":\"left\",\"bytes\":1000}\n");
}
