//! Peers of HTTP/2 that are played here, frame by frame.

use std::time::Duration;

use http::{Method, Request, Response, Uri};
use http_body_util::BodyExt as _;
use prometheus_client::registry::Registry;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    runtime::Handle,
    task::JoinSet,
    time::timeout,
};
use tokio_util::task::TaskTracker;
use tollgate_model::CircuitBreaker;

use super::*;
use crate::{
    GatewayConfig,
    config::Bounds,
    metrics::Metrics,
    overload::Overload,
    tracked::Tracked,
    upstream::{
        At, Means, Pool, SendError, UpstreamBody, Wire, Within,
        lane::{Given, Lacks},
        own::{Speaks, Wanted},
    },
};

const SOON: Duration = Duration::from_secs(10);
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;

struct Scene {
    pool: Arc<Pool>,
    wire: Wire,
    listener: Option<TcpListener>,
    uri: Uri,
}

impl Scene {
    async fn new(terms: CircuitBreaker) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default(); // another test may have done so
        let config = GatewayConfig::new(tollgate_model::Name::new("here"));
        let overload = Overload::new(Bounds::default(), &Metrics::register(&mut Registry::default()));
        let means = Means::new(Tracked::on(TaskTracker::new(), Handle::current()), &overload, Bounds::default());
        let pool = Arc::new(Pool::new(&config, means));
        let wire = match terms.max_connections {
            Some(_) => pool.own(Wanted::new(None, None, Speaks::ClearHttp2), terms, None),
            None => Wire::Http2,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
        Self { pool, wire, listener: Some(listener), uri }
    }

    /// One connection and no more.
    async fn of_one() -> Self {
        Self::new(CircuitBreaker { max_connections: Some(1), ..CircuitBreaker::default() }).await
    }

    fn lane(&self) -> Arc<Lane> {
        Arc::clone(&self.pool.place(&self.wire, &self.uri, Some(&At::Itself)).unwrap().lane)
    }

    async fn accept(&self) -> Upstream {
        let listener = self.listener.as_ref().unwrap();
        let (stream, _) = timeout(SOON, listener.accept()).await.expect("somebody connects").unwrap();
        Upstream::new(stream).await
    }

    fn ask(&self, asking: &mut JoinSet<Result<Response<UpstreamBody>, SendError>>, within: Duration) {
        let mut request = Request::new(UpstreamRequestBody::Whole(None));
        (*request.method_mut(), *request.uri_mut()) = (Method::POST, self.uri.clone());
        let (pool, place) = (Arc::clone(&self.pool), self.pool.place(&self.wire, &self.uri, Some(&At::Itself)));
        asking.spawn(async move {
            pool.send_by(&mut Within::new(None, Instant::now() + within), place, request, None).await
        });
    }
}

struct Upstream(TcpStream);

impl Upstream {
    async fn new(mut stream: TcpStream) -> Self {
        timeout(SOON, stream.read_exact(&mut [0; 24])).await.expect("a preface comes").unwrap();
        Self(stream)
    }

    async fn say(&mut self, kind: u8, flags: u8, stream: u32, content: &[u8]) {
        let length = u32::try_from(content.len()).unwrap().to_be_bytes();
        let frame = [&length[1..], &[kind, flags], &stream.to_be_bytes(), content].concat();
        self.0.write_all(&frame).await.unwrap();
    }

    async fn takes(&mut self, most: u32) {
        self.say(SETTINGS, 0, 0, &[&[0, 3], &most.to_be_bytes()[..]].concat()).await;
    }

    async fn answers(&mut self, stream: u32) {
        self.say(HEADERS, 5, stream, &[0x88]).await; // `:status: 200`, and nothing else
    }

    async fn goes(&mut self, last: u32) {
        self.say(GOAWAY, 0, 0, &[last.to_be_bytes(), 0_u32.to_be_bytes()].concat()).await;
    }

    /// The next frame of a kind, and the stream that it is of.
    async fn next(&mut self, kind: u8) -> u32 {
        loop {
            let mut head = [0; 9];
            timeout(SOON, self.0.read_exact(&mut head)).await.expect("a frame comes").unwrap();
            let [a, b, c, found, _, stream @ ..] = head;
            let mut content = vec![0; usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap()];
            self.0.read_exact(&mut content).await.unwrap();
            if found == kind {
                return u32::from_be_bytes(stream);
            }
        }
    }

    /// The stream of the next request.
    async fn asked(&mut self) -> u32 {
        self.next(HEADERS).await
    }
}

async fn is_answered(asking: &mut JoinSet<Result<Response<UpstreamBody>, SendError>>) {
    let answer = timeout(SOON, asking.join_next()).await.expect("soon").unwrap().unwrap();
    let body = answer.expect("an answer").into_body().collect();
    timeout(SOON, body).await.expect("it ends").expect("well");
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(SOON, waiting).await.unwrap_or_else(|_| panic!("waited in vain for {what}"));
}

#[tokio::test]
async fn a_peer_is_asked_one_thing_before_it_has_said_how_much_it_takes_and_then_no_more_than_that() {
    let (scene, mut asking) = (Scene::of_one().await, JoinSet::new());
    (0..4).for_each(|_| scene.ask(&mut asking, SOON));
    let mut upstream = scene.accept().await;
    assert_eq!(upstream.asked().await, 1);
    let lane = scene.lane();
    until("the others to wait", || lane.state.lock().waits() == 3).await;
    assert_eq!(lane.state.lock().lacks(1), Lacks::Nothing);
    upstream.takes(2).await;
    assert_eq!(upstream.asked().await, 3);
    until("two to wait", || lane.state.lock().waits() == 2).await;
    upstream.takes(3).await;
    assert_eq!(upstream.asked().await, 5);
    upstream.takes(1).await; // from now on
    upstream.answers(1).await;
    is_answered(&mut asking).await;
    upstream.answers(3).await;
    is_answered(&mut asking).await;
    assert_eq!(lane.state.lock().waits(), 1, "three at once were too many already");
    upstream.answers(5).await;
    assert_eq!(upstream.asked().await, 7);
    upstream.answers(7).await;
    is_answered(&mut asking).await;
    is_answered(&mut asking).await;
}

#[tokio::test]
async fn who_finds_no_stream_in_time_was_never_sent() {
    let (scene, mut first, mut second) = (Scene::of_one().await, JoinSet::new(), JoinSet::new());
    scene.ask(&mut first, SOON);
    let mut upstream = scene.accept().await;
    assert_eq!(upstream.asked().await, 1);
    upstream.takes(1).await;
    let lane = scene.lane();
    until("its settings", || lane.state.lock().shared.iter().all(|it| it.peer.most() == Some(1))).await;
    scene.ask(&mut second, Duration::from_millis(50));
    assert!(matches!(second.join_next().await.unwrap().unwrap(), Err(SendError::Full)));
    // Nor where the peer takes nothing at all.
    upstream.takes(0).await;
    upstream.answers(1).await;
    is_answered(&mut first).await;
    until("its settings", || lane.state.lock().shared.iter().all(|it| it.peer.most() == Some(0))).await;
    scene.ask(&mut second, Duration::from_millis(50));
    assert!(matches!(second.join_next().await.unwrap().unwrap(), Err(SendError::Full)));
    assert_eq!(scene.lane().breaker.standing().pending, 0);
    upstream.takes(1).await;
    scene.ask(&mut second, SOON);
    assert_eq!(upstream.asked().await, 3);
}

#[tokio::test]
async fn an_answer_that_is_let_go_of_ends_its_stream_before_the_next_one_begins() {
    let (scene, mut asking) = (Scene::of_one().await, JoinSet::new());
    scene.ask(&mut asking, SOON);
    let mut upstream = scene.accept().await;
    assert_eq!(upstream.asked().await, 1);
    upstream.takes(1).await;
    scene.ask(&mut asking, SOON);
    upstream.say(HEADERS, 4, 1, &[0x88]).await; // there is more to come
    let answer = timeout(SOON, asking.join_next()).await.expect("soon").unwrap().unwrap().expect("a head");
    drop(answer);
    assert_eq!(upstream.next(RST_STREAM).await, 1);
    assert_eq!(upstream.asked().await, 3);
}

/// What it had is answered, what was behind that goes to another, and so does what comes.
#[tokio::test]
async fn who_goes_has_no_more_requests() {
    let (scene, mut asking) = (Scene::new(CircuitBreaker::default()).await, JoinSet::new());
    scene.ask(&mut asking, SOON);
    let mut upstream = scene.accept().await;
    assert_eq!(upstream.asked().await, 1);
    upstream.takes(10).await;
    scene.ask(&mut asking, SOON);
    assert_eq!(upstream.asked().await, 3);
    upstream.goes(1).await;
    let refused = timeout(SOON, asking.join_next()).await.expect("soon").unwrap().unwrap();
    assert!(matches!(refused, Err(SendError::Refused)), "{refused:?}");
    scene.ask(&mut asking, SOON);
    let mut fresh = scene.accept().await;
    assert_eq!(fresh.asked().await, 1);
    upstream.answers(1).await;
    is_answered(&mut asking).await;
    fresh.answers(1).await;
    is_answered(&mut asking).await;
}

/// One that can't be made leaves those alone who can have a stream of the one that is there.
#[tokio::test]
async fn where_no_second_connection_can_be_made_the_first_one_is_waited_for() {
    let (mut scene, mut asking) = (Scene::new(CircuitBreaker::default()).await, JoinSet::new());
    scene.ask(&mut asking, SOON);
    let mut upstream = scene.accept().await;
    assert_eq!(upstream.asked().await, 1);
    upstream.takes(1).await;
    let lane = scene.lane();
    until("its settings", || lane.state.lock().shared.iter().all(|it| it.peer.most() == Some(1))).await;
    drop(scene.listener.take());
    (0..3).for_each(|_| scene.ask(&mut asking, SOON));
    until("all to wait", || lane.breaker.standing().pending == 3).await;
    for stream in [1, 3, 5, 7] {
        upstream.answers(stream).await;
        is_answered(&mut asking).await;
        if stream < 7 {
            assert_eq!(upstream.asked().await, stream + 2);
        }
    }
}

#[tokio::test]
async fn a_connection_that_ends_is_replaced_for_those_who_wait() {
    let (scene, mut asking) = (Scene::of_one().await, JoinSet::new());
    scene.ask(&mut asking, SOON);
    let mut upstream = scene.accept().await;
    assert_eq!(upstream.asked().await, 1);
    upstream.takes(1).await;
    let lane = scene.lane();
    scene.ask(&mut asking, SOON);
    until("the second to wait", || lane.breaker.standing().pending == 1).await;
    drop(upstream);
    let mut fresh = scene.accept().await;
    assert_eq!(fresh.asked().await, 1);
    fresh.answers(1).await;
    let ends: Vec<bool> =
        [asking.join_next().await, asking.join_next().await].map(|it| it.unwrap().unwrap().is_ok()).into();
    assert!(ends.contains(&true) && ends.contains(&false), "{ends:?}");
    assert_eq!(lane.breaker.standing().open, 1);
}

/// One that begins when those who waited have been told is not forgotten as the one before ends.
#[tokio::test]
async fn a_connection_that_failed_is_not_counted_twice() {
    let lane = Scene::new(CircuitBreaker::default()).await.lane();
    let begin = || {
        let permit = lane.breaker.permit().unwrap();
        lane.begin(&mut lane.state.lock(), permit)
    };
    let first = begin();
    first.fails(SendError::Connect);
    let second = begin();
    drop(first);
    let stands = |state: &crate::upstream::lane::State| (state.dialing, state.lacks(1));
    assert_eq!(stands(&lane.state.lock()), (1, Lacks::Nothing));
    drop(second);
    assert_eq!(stands(&lane.state.lock()), (0, Lacks::Connection));
    assert_eq!(lane.breaker.standing().open, 0);
}

#[tokio::test]
async fn who_has_gone_leaves_a_stream_to_the_next_one_however_many_have() {
    let scene = Scene::of_one().await;
    let lane = scene.lane();
    let (given, mut upstream) = tokio::join!(lane.connection(None, None), scene.accept());
    let given: Given = given.unwrap();
    upstream.takes(1).await;
    let gone: Vec<_> = (0..100_000).map(|_| lane.waits()).collect();
    let last = lane.waits();
    drop(gone);
    drop(given);
    assert!(timeout(SOON, last).await.expect("soon").is_ok_and(|given| given.is_ok()));
    assert!(lane.take().is_some(), "and then it is free");
}

#[tokio::test]
async fn a_connection_that_has_a_long_stream_is_there_for_others_until_that_is_over() {
    let (scene, mut asking) = (Scene::of_one().await, JoinSet::new());
    scene.ask(&mut asking, SOON);
    let mut upstream = scene.accept().await;
    assert_eq!(upstream.asked().await, 1);
    upstream.takes(100).await;
    let lane = scene.lane();
    until("its settings", || lane.state.lock().shared.iter().all(|it| it.peer.most() == Some(100))).await;
    lane.sweep(Instant::now() + Duration::from_secs(60));
    assert!(lane.has_any(), "it has a stream");
    scene.ask(&mut asking, SOON);
    assert_eq!(upstream.asked().await, 3);
    asking.abort_all();
    until("both to be over", || lane.state.lock().shared.iter().all(|it| it.streams == 0)).await;
    lane.sweep(Instant::now() + Duration::from_secs(60));
    assert!(!lane.has_any());
}
