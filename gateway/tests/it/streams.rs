//! Upstreams of HTTP/2 that take few requests at once over a connection, or none any more.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use h2::{Reason, server};
use http::Response;
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::{Barrier, Semaphore},
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::{
    ai::completion,
    clients::{Answer, call, get, post_text, raw},
    cluster::{Cluster, until},
    health::figure,
    pki::Authority,
    tls,
};

const SOON: Duration = Duration::from_secs(20);
const LIMIT: &str =
    "---\nkind: Limit\nmetadata: {name: out}\nspec: {per: [consumer], window: 1h, unit: outputTokens, limit: 1000}\n";
const CHAT: &str = "/v1/chat/completions";
const BODY: &str = r#"{"model":"m","max_tokens":100,"messages":[{"role":"user","content":"hi"}]}"#;

/// What an upstream does with a request.
#[derive(Clone)]
enum Does {
    Answer,
    /// Once so many are here.
    Together(Arc<Barrier>),
    /// Once there is a permit, which it uses up.
    Wait(Arc<Semaphore>),
    /// Says that it has not begun.
    Refuse,
    /// Answers, and says that nothing more is taken over this connection.
    AnswerAndGo,
}

#[derive(Default)]
struct Seen {
    /// Connections, from the first on.
    connections: AtomicUsize,
    requests: AtomicUsize,
    /// The most requests that one connection had at once.
    at_once: AtomicUsize,
}

struct Streams {
    address: SocketAddr,
    seen: Arc<Seen>,
    _accepting: AbortOnDropHandle<()>,
}

impl Streams {
    /// Takes `most` at once over a connection; what it does is told by the number of the request, from 0 on.
    async fn start(most: u32, tls: Option<ServerConfig>, does: impl Fn(usize) -> Does + Send + Sync + 'static) -> Self {
        let tls = tls.map(|tls| TlsAcceptor::from(Arc::new(tls)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (seen, does): (Arc<Seen>, _) = (Arc::default(), Arc::new(does));
        let (tasks, told) = (TaskTracker::new(), Arc::clone(&seen));
        let connections = tasks.clone();
        let accepting = tasks.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, told, does) = (tls.clone(), Arc::clone(&told), Arc::clone(&does));
                connections.spawn(async move {
                    match tls {
                        None => serve(stream, most, &told, &*does).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, most, &told, &*does).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, seen, _accepting: AbortOnDropHandle::new(accepting) }
    }

    fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }

    fn requests(&self) -> usize {
        self.seen.requests.load(Ordering::SeqCst)
    }
}

async fn serve<S>(stream: S, most: u32, seen: &Arc<Seen>, does: &(dyn Fn(usize) -> Does + Send + Sync))
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    seen.connections.fetch_add(1, Ordering::SeqCst);
    let handshake = server::Builder::new().max_concurrent_streams(most).handshake(stream);
    let Ok(mut connection) = handshake.await else { return };
    let (busy, mut answering) = (Arc::new(AtomicUsize::new(0)), JoinSet::new());
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let does = does(seen.requests.fetch_add(1, Ordering::SeqCst));
        if matches!(does, Does::AnswerAndGo) {
            connection.graceful_shutdown();
        }
        let (seen, busy) = (Arc::clone(seen), Arc::clone(&busy));
        answering.spawn(async move {
            seen.at_once.fetch_max(busy.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            match does {
                Does::Refuse => {
                    busy.fetch_sub(1, Ordering::SeqCst);
                    return respond.send_reset(Reason::REFUSED_STREAM);
                }
                Does::Together(barrier) => {
                    barrier.wait().await;
                }
                Does::Wait(permits) => permits.acquire().await.unwrap().forget(),
                Does::Answer | Does::AnswerAndGo => {}
            }
            let mut body = request.into_body();
            while let Some(Ok(piece)) = body.data().await {
                let _ = body.flow_control().release_capacity(piece.len());
            }
            busy.fetch_sub(1, Ordering::SeqCst);
            let answer = Response::builder().header("content-type", "application/json").body(()).unwrap();
            if let Ok(mut sending) = respond.send_response(answer, false) {
                let _ = sending.send_data(Bytes::from(completion(9, 3)), true);
            }
        });
    }
}

fn over_tls(authority: &Authority) -> ServerConfig {
    let mut config = tls::server(authority, "llm.internal");
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

fn service(upstream: &Streams, rest: &str) -> String {
    format!(
        "kind: Service\nmetadata: {{name: s}}\nspec: {{protocol: h2c, endpoints: [{{address: '{}'}}], {rest}}}\n---\n\
         kind: Route\nmetadata: {{name: r}}\nspec: {{backends: [{{service: s}}]}}\n",
        upstream.address
    )
}

/// Over TLS, where ALPN tells that it is HTTP/2.
fn provider(upstream: &Streams, authority: &Authority, rest: &str, timeouts: &str) -> String {
    let ca = serde_json::to_string(&authority.pem()).unwrap();
    format!(
        "kind: Provider\nmetadata: {{name: p}}\nspec: {{type: openai, endpoints: [{{url: 'https://{}/v1'}}], \
         tls: {{ca: {ca}, serverName: llm.internal}}, {rest}}}\n---\n\
         kind: Route\nmetadata: {{name: chat}}\nspec: {{match: [{{path: {{prefix: /v1}}}}], backends: [{{provider: p}}], \
         timeouts: {{{timeouts}}}}}\n",
        upstream.address
    )
}

/// So many calls at once.
async fn all(
    count: usize,
    ask: impl AsyncFn(SocketAddr) -> Answer + Copy + 'static,
    address: SocketAddr,
) -> Vec<Answer> {
    let set = tokio::task::LocalSet::new();
    let calls: Vec<_> = (0..count).map(|_| set.spawn_local(async move { ask(address).await })).collect();
    let asking = set.run_until(async move {
        let mut answers = Vec::new();
        for call in calls {
            answers.push(call.await.unwrap());
        }
        answers
    });
    timeout(SOON, asking).await.expect("all are answered")
}

/// None is answered before all are there: so as many streams are needed as there are calls.
#[tokio::test]
async fn as_many_connections_are_made_as_there_are_streams_needed() {
    let together = Does::Together(Arc::new(Barrier::new(50)));
    let upstream = Streams::start(2, None, move |_| together.clone()).await;
    let cluster = Cluster::start(&service(&upstream, "")).await;
    for answer in all(50, async |address| get(address, "/", "").await, cluster.address).await {
        assert_eq!(answer.status, 200, "{}", answer.raw);
    }
    let seen = &upstream.seen;
    assert_eq!((upstream.requests(), seen.at_once.load(Ordering::SeqCst)), (50, 2));
    assert!((25..=50).contains(&upstream.connections()), "{}", upstream.connections());
}

#[tokio::test]
async fn nor_does_a_call_of_a_model_wait_for_another_one_where_tls_says_that_it_is_http2() {
    let (authority, together) = (Authority::new(), Does::Together(Arc::new(Barrier::new(50))));
    let upstream = Streams::start(2, Some(over_tls(&authority)), move |_| together.clone()).await;
    let cluster = Cluster::start(&provider(&upstream, &authority, "", "request: 20s")).await;
    for _ in 0..2 {
        for answer in all(50, async |address| call(address, CHAT, BODY).await, cluster.address).await {
            assert_eq!(answer.status, 200, "{}", answer.raw);
        }
    }
    // Before it is known what is spoken, everybody connects.
    assert!((25..=50).contains(&upstream.connections()), "{}", upstream.connections());
    assert_eq!((upstream.requests(), upstream.seen.at_once.load(Ordering::SeqCst)), (100, 2));
    assert_eq!(cluster.settled(100).await.len(), 100);
}

#[tokio::test]
async fn beyond_the_bound_of_connections_requests_wait_for_streams() {
    let upstream = Streams::start(2, None, |_| Does::Answer).await;
    let cluster = Cluster::start(&service(&upstream, "circuitBreaker: {maxConnections: 3}")).await;
    for answer in all(50, async |address| get(address, "/", "").await, cluster.address).await {
        assert_eq!(answer.status, 200, "{}", answer.raw);
    }
    assert!(upstream.connections() <= 3, "{}", upstream.connections());
    assert!(upstream.seen.at_once.load(Ordering::SeqCst) <= 2);
    assert_eq!(figure(&cluster, "tollgate_upstream_pending_requests{upstream=\"s\""), 0);
}

/// It was never sent, so nobody is to blame, and nothing is billed.
#[tokio::test]
async fn a_call_that_found_no_stream_in_time_is_not_billed() {
    let (authority, permits) = (Authority::new(), Arc::new(Semaphore::new(0)));
    let wait = Does::Wait(Arc::clone(&permits));
    let upstream = Streams::start(1, Some(over_tls(&authority)), move |_| wait.clone()).await;
    let rest = "circuitBreaker: {maxConnections: 1}, outlierDetection: {consecutiveErrors: 1, ejectFor: 60s}";
    let resources = provider(&upstream, &authority, rest, "request: 20s") + LIMIT;
    let cluster = Cluster::start(&resources).await;
    let address = cluster.address;
    let mut first = JoinSet::new();
    first.spawn(async move { call(address, CHAT, BODY).await });
    until("the first to be there", || upstream.requests() == 1).await;
    cluster.apply(&resources.replace("request: 20s", "request: 300ms"));
    let late = call(address, CHAT, BODY).await;
    assert_eq!((late.status, late.code().as_str()), (503, "no_healthy_upstream"), "{}", late.raw);
    permits.add_permits(1);
    assert_eq!(first.join_next().await.unwrap().unwrap().status, 200);
    let rows = cluster.settled(1).await;
    cluster.nothing_held().await;
    assert_eq!((rows.len(), rows[0].usage.output_tokens, upstream.requests()), (1, 3, 1), "the first alone");
    assert_eq!(cluster.accounts("out")[0].used, 3);
    let of = |name: &str| figure(&cluster, &format!("tollgate_upstream_{name}"));
    assert_eq!(of("breaker_refusals_total{upstream=\"p\",kind=\"provider\",by=\"max_connections\"}"), 1);
    assert_eq!(of("endpoints{upstream=\"p\",kind=\"provider\",state=\"fit\"}"), 1);
    assert!(cluster.metrics().contains("upstream=\"p\",result=\"unasked\"} 1"), "{}", cluster.metrics());
}

/// Even what may be sent only once: the upstream has said that it did not begin (RFC 9113 §8.7).
#[tokio::test]
async fn what_was_refused_before_it_was_begun_is_sent_again() {
    let upstream = Streams::start(100, None, |n| if n % 3 < 2 { Does::Refuse } else { Does::Answer }).await;
    let rest = "outlierDetection: {consecutiveErrors: 1, ejectFor: 60s}";
    let cluster = Cluster::start(&service(&upstream, rest)).await;
    let answer = raw(cluster.address, post_text("/", "", "")).await;
    assert_eq!((answer.status, upstream.requests(), upstream.connections()), (200, 3, 1), "{}", answer.raw);
    let authority = Authority::new();
    let upstream = Streams::start(100, Some(over_tls(&authority)), |n| match n {
        0 => Does::Refuse,
        _ => Does::Answer,
    });
    let upstream = upstream.await;
    let cluster = Cluster::start(&provider(&upstream, &authority, rest, "request: 10s")).await;
    let answer = call(cluster.address, CHAT, BODY).await;
    assert_eq!((answer.status, upstream.requests()), (200, 2), "{}", answer.raw);
    let rows = cluster.settled(1).await;
    assert_eq!((rows[0].usage.output_tokens, rows[0].earlier.len()), (3, 0));
    assert_eq!(figure(&cluster, "tollgate_upstream_endpoints{upstream=\"p\",kind=\"provider\",state=\"fit\"}"), 1);
}

#[tokio::test]
async fn who_takes_nothing_at_all_is_left_after_three_times_and_costs_nothing() {
    let authority = Authority::new();
    let upstream = Streams::start(100, Some(over_tls(&authority)), |_| Does::Refuse).await;
    let cluster = Cluster::start(&(provider(&upstream, &authority, "", "request: 10s") + LIMIT)).await;
    let answer = call(cluster.address, CHAT, BODY).await;
    assert_eq!(
        (answer.status, answer.code().as_str(), upstream.requests()),
        (502, "upstream_error", 3),
        "{}",
        answer.raw
    );
    cluster.nothing_held().await;
    assert_eq!(cluster.accounts("out").first().map_or(0, |account| account.used), 0);
}

/// Each connection goes with its first request; what comes later is for a fresh one, and fails nowhere.
#[tokio::test]
async fn a_connection_that_goes_takes_nothing_new() {
    let upstream = Streams::start(100, None, |_| Does::AnswerAndGo).await;
    let cluster = Cluster::start(&service(&upstream, "")).await;
    for n in 1..=10 {
        let answer = raw(cluster.address, post_text("/", "", "once")).await;
        assert_eq!((answer.status, upstream.requests()), (200, n), "{}", answer.raw);
    }
    for answer in all(40, async |address| raw(address, post_text("/", "", "once")).await, cluster.address).await {
        assert_eq!(answer.status, 200, "{}", answer.raw);
    }
    assert_eq!(upstream.requests(), 50);
}
