//! Connections to an upstream that is played here, byte by byte.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::BodyExt as _;
use prometheus_client::registry::Registry;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    runtime::Handle,
    time::{Instant, timeout},
};
use tokio_util::task::TaskTracker;

use super::{
    At, Means, SendError, UpstreamBody, Within,
    lanes::{Dial, Lanes},
};
use crate::{
    GatewayConfig, body::UpstreamRequestBody, config::Bounds, metrics::Metrics, overload::Overload, tracked::Tracked,
};

const SOON: Duration = Duration::from_secs(10);
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

struct Scene {
    pool: super::Pool,
    listener: TcpListener,
}

impl Scene {
    async fn new() -> Self {
        // Another test may have done so.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let config = GatewayConfig::new(tollgate_model::Name::new("here"));
        let overload = Overload::new(Bounds::default(), &Metrics::register(&mut Registry::default()));
        let means = Means::new(
            Tracked::on(TaskTracker::new(), Handle::current()),
            &overload,
            Bounds { max_file: Some(64), ..Bounds::default() },
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        Self { pool: super::Pool::new(&config, means), listener }
    }

    async fn ask(&self, method: Method, body: Bytes) -> Result<Response<UpstreamBody>, SendError> {
        let mut request = Request::new(UpstreamRequestBody::Whole(Some(body)));
        *request.method_mut() = method;
        let address = self.listener.local_addr().expect("it is bound");
        *request.uri_mut() = format!("http://{address}/path?query").parse().expect("a URI");
        let place = self.pool.place(&super::Wire::Negotiated, request.uri(), Some(&At::Itself));
        self.pool.send_by(&mut Within::new(None, Instant::now() + SOON), place, request, None).await
    }

    async fn get(&self) -> Result<Response<UpstreamBody>, SendError> {
        self.ask(Method::GET, Bytes::new()).await
    }

    async fn accept(&self) -> TcpStream {
        timeout(SOON, self.listener.accept()).await.expect("somebody connects").expect("it works").0
    }

    /// Whatever had come over any socket is known.
    async fn turn(&self) {
        let address = self.listener.local_addr().expect("it is bound");
        let (mut near, mut far) = (TcpStream::connect(address).await.expect("there is room"), self.accept().await);
        near.write_u8(0).await.expect("it is read");
        far.read_u8().await.expect("it was written");
    }

    /// A connection that has had one request.
    async fn used(&self) -> TcpStream {
        let (answer, upstream) = tokio::join!(self.get(), async {
            let mut upstream = self.accept().await;
            let head = read_head(&mut upstream).await;
            assert!(head.starts_with("GET /path?query HTTP/1.1\r\n") && head.contains("host: 127.0.0.1:"), "{head}");
            upstream.write_all(OK.as_bytes()).await.expect("it is read");
            upstream
        });
        assert_eq!(whole(answer).await, "ok");
        upstream
    }
}

async fn whole(answer: Result<Response<UpstreamBody>, SendError>) -> Bytes {
    let body = answer.expect("an answer").into_body();
    timeout(SOON, body.collect()).await.expect("it ends").expect("well").to_bytes()
}

async fn read_head(upstream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(SOON, upstream.read_u8()).await.expect("a head comes").expect("whole"));
    }
    String::from_utf8(head).expect("text")
}

async fn is_closed(upstream: &mut TcpStream) -> bool {
    matches!(timeout(SOON, upstream.read(&mut [0; 1_024])).await, Ok(Ok(0) | Err(_)))
}

#[tokio::test]
async fn a_connection_is_used_again_and_by_another_task() {
    let scene = Scene::new().await;
    let mut upstream = scene.used().await;
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move { whole(scene.get().await).await });
    read_head(&mut upstream).await;
    upstream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n").await.expect("it is read");
    tokio::task::yield_now().await;
    upstream.write_all(b"1\r\nb\r\n0\r\n\r\n").await.expect("it is read");
    assert_eq!(tasks.join_next().await.expect("one").expect("it ends"), "ab");
}

#[tokio::test]
async fn what_was_closed_meanwhile_is_not_used_even_for_what_may_be_sent_only_once() {
    let scene = Scene::new().await;
    drop(scene.used().await);
    scene.turn().await;
    let (answer, _upstream) = tokio::join!(scene.ask(Method::POST, Bytes::from_static(b"once")), async {
        let mut upstream = scene.accept().await;
        assert!(read_head(&mut upstream).await.starts_with("POST "));
        upstream.write_all(OK.as_bytes()).await.expect("it is read");
        upstream
    });
    assert_eq!(whole(answer).await, "ok");
}

#[tokio::test]
async fn nobody_waits_for_an_answer_that_was_let_go_of() {
    let scene = Scene::new().await;
    let (answer, mut upstream) = tokio::join!(scene.get(), async {
        let mut upstream = scene.accept().await;
        read_head(&mut upstream).await;
        upstream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nsome").await.expect("it is read");
        upstream
    });
    drop(answer);
    assert!(is_closed(&mut upstream).await);
}

#[tokio::test]
async fn a_connection_whose_answer_came_too_early_is_used_again_once_its_request_is_out() {
    let scene = Scene::new().await;
    let large = Bytes::from(vec![b'a'; 16 * 1024 * 1024]);
    let (answer, mut upstream) = tokio::join!(scene.ask(Method::POST, large.clone()), async {
        let mut upstream = scene.accept().await;
        read_head(&mut upstream).await;
        upstream.write_all(OK.as_bytes()).await.expect("it is read");
        upstream
    });
    assert_eq!(whole(answer).await, "ok");
    let mut rest = large.len();
    let mut piece = vec![0; 64 * 1024];
    while rest > 0 {
        rest -= timeout(SOON, upstream.read(&mut piece)).await.expect("it goes on").expect("to its end").min(rest);
    }
    let (answer, ()) = tokio::join!(scene.get(), async {
        assert!(read_head(&mut upstream).await.starts_with("GET "));
        upstream.write_all(OK.as_bytes()).await.expect("it is read");
    });
    assert_eq!(whole(answer).await, "ok");
}

#[tokio::test]
async fn idle_connections_are_bounded_and_swept() {
    let overload = Overload::new(Bounds::default(), &Metrics::register(&mut Registry::default()));
    let means = Means::new(
        Tracked::on(TaskTracker::new(), Handle::current()),
        &overload,
        Bounds { max_file: Some(1), ..Bounds::default() },
    );
    let lanes = Lanes::new(Dial::ClearText, false, means);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let uri = format!("http://{}/", listener.local_addr().expect("it is bound")).parse().expect("a URI");
    let place = lanes.place(&uri, &At::Itself).expect("it is absolute");
    let (one, other) = (
        place.lane.connection(None, None).await.expect("it connects"),
        place.lane.connection(None, None).await.expect("too"),
    );
    let (mut upstream, _) = listener.accept().await.expect("the first");
    let (mut bounded, _) = listener.accept().await.expect("the second");
    for given in [one, other] {
        let super::lane::Connection::Http1(mut connection) = given.connection else { panic!("it is HTTP/1.1") };
        connection.look();
        super::lane::Lane::give_back(&place.lane, connection);
    }
    assert!(is_closed(&mut bounded).await, "one is kept");
    place.lane.sweep(Instant::now());
    assert!(place.lane.has_any());
    place.lane.sweep(Instant::now() + Duration::from_secs(60));
    assert!(!place.lane.has_any(), "not for ever");
    assert!(is_closed(&mut upstream).await);
}

#[tokio::test]
async fn whoever_waits_gets_what_another_gives_back() {
    let scene = Scene::new().await;
    let uri = format!("http://{}/", scene.listener.local_addr().expect("it is bound")).parse().expect("a URI");
    let place = scene.pool.place(&super::Wire::Negotiated, &uri, Some(&At::Itself)).expect("it is absolute");
    let given = place.lane.connection(None, None).await.expect("it connects");
    let waiting = place.lane.waits();
    let super::lane::Connection::Http1(mut connection) = given.connection else { panic!("it is HTTP/1.1") };
    connection.look();
    super::lane::Lane::give_back(&place.lane, connection);
    assert!(waiting.await.is_ok_and(|given| given.is_ok_and(|given| given.is_kept)));
    assert!(place.lane.take().is_none());
}

#[tokio::test]
async fn whoever_waits_for_what_all_share_hears_that_it_can_not_be_had_and_the_next_one_tries_anew() {
    let scene = Scene::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    drop(listener);
    let uri = format!("http://{address}/").parse().expect("a URI");
    let place = scene.pool.place(&super::Wire::Http2, &uri, Some(&At::Itself)).expect("it is absolute");
    let both = async { tokio::join!(place.lane.connection(None, None), place.lane.connection(None, None)) };
    let (one, other) = timeout(SOON, both).await.expect("soon");
    assert!(matches!((one, other), (Err(SendError::Connect), Err(SendError::Connect))));
    let _listener = TcpListener::bind(address).await.expect("it is free again");
    let given = timeout(SOON, place.lane.connection(None, None)).await.expect("soon").expect("it connects");
    assert!(matches!(given.connection, super::lane::Connection::Http2(_)));
    drop(given);
    assert!(place.lane.take().is_some());
    place.lane.sweep(Instant::now());
    assert!(place.lane.has_any());
    place.lane.sweep(Instant::now() + Duration::from_secs(60));
    assert!(!place.lane.has_any(), "not for ever");
}
