//! Endpoints that are not well are left alone, and those that are again are taken back.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{io::AsyncWriteExt as _, net::TcpStream, runtime, time::Instant};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tollgate_gateway::GatewayConfig;

use crate::{
    ai::{completion, provider},
    balancing::{ROUTE, service},
    clients::{call, get, post_text, raw, read_until},
    cluster::{Cluster, until},
    upstream::{Reply, Upstream, answer, events, json},
};

/// Answers 500 while it is told to.
async fn moody(fails: &Arc<AtomicBool>) -> Upstream {
    let fails = Arc::clone(fails);
    Upstream::start(move |_| {
        let status = if fails.load(Ordering::SeqCst) { 500 } else { 200 };
        Reply::Keep(answer(status, "", "moody"))
    })
    .await
}

async fn fine() -> Upstream {
    Upstream::always(Reply::Keep(answer(200, "", "fine"))).await
}

fn endpoints(cluster: &Cluster, state: &str) -> u64 {
    figure(cluster, &format!("tollgate_upstream_endpoints{{upstream=\"s\",kind=\"service\",state=\"{state}\"}}"))
}

fn ejections(cluster: &Cluster) -> u64 {
    figure(cluster, "tollgate_upstream_ejections_total{upstream=\"s\",kind=\"service\",by=\"errors\"}")
}

pub(crate) fn figure(cluster: &Cluster, name: &str) -> u64 {
    let text = cluster.metrics();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name} in {text}"));
    line.rsplit(' ').next().and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{line}"))
}

/// Asks until this is so.
async fn ask_until(cluster: &Cluster, what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        get(cluster.address, "/", "").await;
    }
}

#[tokio::test]
async fn an_endpoint_that_fails_again_and_again_is_left_alone_for_a_while() {
    let fails = Arc::new(AtomicBool::new(true));
    let upstreams = [moody(&fails).await, fine().await];
    let outliers = "outlierDetection: {consecutiveErrors: 3, ejectFor: 4s}";
    let cluster = Cluster::start(&(service(&upstreams, &[], outliers) + ROUTE)).await;
    let mut failed = 0;
    let began = Instant::now();
    for _ in 0..20 {
        failed += usize::from(get(cluster.address, "/", "").await.status == 500);
    }
    assert!(began.elapsed() < Duration::from_secs(4), "this machine is too slow for this test");
    assert_eq!((failed, upstreams[0].requests().len()), (3, 3));
    assert_eq!((endpoints(&cluster, "ejected"), endpoints(&cluster, "fit"), ejections(&cluster)), (1, 1, 1));
    fails.store(false, Ordering::SeqCst);
    ask_until(&cluster, "it to be taken back", || upstreams[0].requests().len() > 3).await;
    assert_eq!((endpoints(&cluster, "ejected"), endpoints(&cluster, "fit")), (0, 2));
}

#[tokio::test]
async fn errors_that_are_not_in_a_row_and_those_of_the_request_itself_make_nobody_bad() {
    let count = Arc::new(AtomicUsize::new(0));
    let upstream = Upstream::start(move |_| {
        let status = [500, 500, 200, 404][count.fetch_add(1, Ordering::SeqCst) % 4];
        Reply::Keep(answer(status, "", ""))
    });
    let upstreams = [upstream.await, fine().await];
    let outliers = "outlierDetection: {consecutiveErrors: 3}";
    let cluster = Cluster::start(&(service(&upstreams, &[], outliers) + ROUTE)).await;
    for _ in 0..40 {
        get(cluster.address, "/", "").await;
    }
    assert_eq!((upstreams[0].requests().len(), ejections(&cluster)), (20, 0));
}

#[tokio::test]
async fn the_last_endpoint_always_has_requests() {
    let fails = Arc::new(AtomicBool::new(true));
    for count in 1..=3 {
        let mut upstreams = Vec::new();
        for _ in 0..count {
            upstreams.push(moody(&fails).await);
        }
        let outliers = "outlierDetection: {consecutiveErrors: 1, maxEjectedPercent: 100, ejectFor: 1h}, loadBalancing: {panicThreshold: 0}";
        let cluster = Cluster::start(&(service(&upstreams, &[], outliers) + ROUTE)).await;
        for _ in 0..10 {
            assert_eq!(get(cluster.address, "/", "").await.status, 500, "an upstream's own answer");
        }
        assert_eq!((ejections(&cluster), endpoints(&cluster, "fit")), (count - 1, 1));
    }
}

#[tokio::test]
async fn an_endpoint_is_left_alone_whatever_is_said_of_its_service_meanwhile() {
    let fails = Arc::new(AtomicBool::new(true));
    let upstreams = [moody(&fails).await, fine().await];
    let outliers = "outlierDetection: {consecutiveErrors: 2, ejectFor: 1h}";
    let cluster = Cluster::start(&(service(&upstreams, &[], outliers) + ROUTE)).await;
    ask_until(&cluster, "it to be left alone", || ejections(&cluster) == 1).await;
    let before = upstreams[0].requests().len();
    for weight in 2..12 {
        cluster.apply(&service(&upstreams, &["weight: 1", &format!("weight: {weight}")], outliers));
        assert_eq!(get(cluster.address, "/", "").await.body, "fine");
    }
    assert_eq!((upstreams[0].requests().len(), endpoints(&cluster, "ejected")), (before, 1));
    // Who does not ask for it any more has both again.
    cluster.apply(&service(&upstreams, &[], "loadBalancing: {}"));
    ask_until(&cluster, "it to be asked again", || upstreams[0].requests().len() > before).await;
}

/// A request that began under a configuration before may still tell of what it met.
#[tokio::test]
async fn what_an_older_request_meets_is_known_to_newer_ones() {
    let upstreams = [Upstream::always(Reply::Hang(String::new())).await, fine().await];
    let route = ROUTE.replace("backends", "timeouts: {firstByte: 500ms}, backends");
    let spec = "outlierDetection: {consecutiveErrors: 1, ejectFor: 1h}";
    let cluster = Cluster::start(&(service(&upstreams, &[], spec) + &route)).await;
    let address = cluster.address;
    let asking = tokio::join!(get(address, "/", ""), async {
        until("it to be asked", || upstreams[0].requests().len() == 1).await;
        cluster.apply(&service(&upstreams, &["weight: 1", "weight: 2"], spec));
    });
    assert_eq!(asking.0.status, 504);
    for _ in 0..12 {
        assert_eq!(get(address, "/", "").await.body, "fine");
    }
}

/// What is waited for is the client's body, not the endpoint.
#[tokio::test]
async fn a_client_that_sends_slowly_makes_no_endpoint_bad() {
    let upstreams = [fine().await, fine().await];
    let route = ROUTE.replace("backends", "timeouts: {firstByte: 200ms}, backends");
    let spec = "outlierDetection: {consecutiveErrors: 1, ejectFor: 1h}";
    let cluster = Cluster::start(&(service(&upstreams, &[], spec) + &route)).await;
    for _ in 0..2 {
        let mut stream = TcpStream::connect(cluster.address).await.unwrap();
        stream.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\nxx").await.unwrap();
        read_until(&mut stream, "504").await;
    }
    assert_eq!(ejections(&cluster), 0);
    assert_eq!(raw(cluster.address, post_text("/", "", "xx")).await.status, 200);
}

/// Answers to `/healthz` with what it is told, and 200 to all else.
async fn checked(well: &Arc<AtomicBool>) -> Upstream {
    let well = Arc::clone(well);
    Upstream::start(move |request| {
        let is_check = request.starts_with("GET /healthz ");
        let status = if is_check && !well.load(Ordering::SeqCst) { 503 } else { 200 };
        Reply::Keep(answer(status, "", "checked"))
    })
    .await
}

/// Answers 200 to `/healthz`, and to all else that it wants to be left alone.
async fn busy() -> Upstream {
    Upstream::start(|request| match request.starts_with("GET /healthz ") {
        true => Reply::Keep(answer(200, "", "")),
        false => Reply::Keep(answer(503, "retry-after: 60\r\n", "")),
    })
    .await
}

/// There is another endpoint, but it has no requests.
#[tokio::test]
async fn who_asks_to_be_left_alone_is_while_the_others_are_not_well() {
    let upstreams = [checked(&Arc::new(AtomicBool::new(false))).await, busy().await];
    let route = ROUTE.replace("backends", "retries: {attempts: 3, on: ['503']}, backends");
    let spec = format!("{CHECKS}, loadBalancing: {{panicThreshold: 0}}");
    let cluster = Cluster::start(&(service(&upstreams, &[], &spec) + &route)).await;
    until("it to be found out", || endpoints(&cluster, "unwell") == 1).await;
    assert_eq!(get(cluster.address, "/", "").await.status, 503);
    assert_eq!(upstreams[1].requests().len() - checks(&upstreams[1]), 1);
}

const CHECKS: &str =
    "healthCheck: {path: /healthz, interval: 300ms, timeout: 300ms, unhealthyAfter: 2, healthyAfter: 2}";

fn checks(upstream: &Upstream) -> usize {
    upstream.requests().iter().filter(|request| request.starts_with("GET /healthz ")).count()
}

#[tokio::test]
async fn an_endpoint_that_says_that_it_is_not_well_gets_no_requests_until_it_is() {
    let well = Arc::new(AtomicBool::new(false));
    let upstreams = [checked(&well).await, fine().await];
    let cluster = Cluster::start(&(service(&upstreams, &[], CHECKS) + ROUTE)).await;
    until("it to be found out", || endpoints(&cluster, "unwell") == 1).await;
    for _ in 0..10 {
        assert_eq!(get(cluster.address, "/", "").await.body, "fine");
    }
    well.store(true, Ordering::SeqCst);
    until("it to be found well", || endpoints(&cluster, "unwell") == 0).await;
    let mut bodies: Vec<String> = Vec::new();
    for _ in 0..4 {
        bodies.push(get(cluster.address, "/", "").await.body);
    }
    assert!(bodies.iter().any(|body| body == "checked"), "{bodies:?}");
    let bad = figure(&cluster, "tollgate_upstream_health_checks_total{upstream=\"s\",kind=\"service\",result=\"bad\"}");
    assert!(bad >= 1, "{bad}");
}

#[tokio::test]
async fn who_does_not_answer_or_is_not_there_is_not_well() {
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let upstreams = [Upstream::always(Reply::Hang(String::new())).await, fine().await];
    let resources = service(&upstreams, &[], CHECKS);
    let resources = resources.replace("endpoints: [", &format!("endpoints: [{{address: '{closed}'}}, "));
    let cluster = Cluster::start(&(resources + ROUTE)).await;
    until("both to be found out", || endpoints(&cluster, "unwell") == 2).await;
    for _ in 0..10 {
        assert_eq!(get(cluster.address, "/", "").await.body, "fine");
    }
}

#[tokio::test]
async fn nobody_is_asked_any_more_once_the_configuration_says_so() {
    let well = Arc::new(AtomicBool::new(false));
    let upstreams = [checked(&well).await];
    let witness = [checked(&well).await];
    let other = service(&witness, &[], CHECKS).replace("name: s", "name: witness");
    let cluster = Cluster::start(&(service(&upstreams, &[], CHECKS) + "---\n" + &other + ROUTE)).await;
    until("both to be asked", || checks(&upstreams[0]) > 1 && checks(&witness[0]) > 1).await;
    cluster.apply(&service(&upstreams, &[], "loadBalancing: {}"));
    // One may have been on its way.
    let some = checks(&witness[0]);
    until("the other to be asked once more", || checks(&witness[0]) > some + 1).await;
    let (mine, others) = (checks(&upstreams[0]), checks(&witness[0]));
    until("the other to be asked on", || checks(&witness[0]) > others + 5).await;
    assert_eq!(checks(&upstreams[0]), mine);
    assert_eq!(endpoints(&cluster, "unwell"), 0, "what was known by asking is not asked for");
    // Nor when the gateway is gone.
    cluster.shutdown.stop.cancel();
    cluster.shutdown.abort.cancel();
    drop(cluster);
    until("its connections to end", || witness[0].open.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test]
async fn a_zone_that_is_gone_is_done_without_and_taken_back() {
    let near = Arc::new(AtomicBool::new(true));
    let upstreams = [checked(&near).await, fine().await];
    let cluster = Cluster::start(&(service(&upstreams, &["zone: az-a", "zone: az-b"], CHECKS) + ROUTE)).await;
    assert_eq!(get(cluster.address, "/", "").await.body, "checked");
    near.store(false, Ordering::SeqCst);
    until("it to be found out", || endpoints(&cluster, "unwell") == 1).await;
    for _ in 0..5 {
        assert_eq!(get(cluster.address, "/", "").await.body, "fine");
    }
    near.store(true, Ordering::SeqCst);
    until("it to be found well", || endpoints(&cluster, "unwell") == 0).await;
    for _ in 0..5 {
        assert_eq!(get(cluster.address, "/", "").await.body, "checked");
    }
}

/// Streams count until their last byte, and under every configuration.
#[tokio::test]
async fn what_is_too_much_is_refused_at_once() {
    let upstreams = [Upstream::start(|request| match request.contains("/stream") {
        true => Reply::Hang(events(&["one"])),
        false => Reply::Keep(answer(200, "", "")),
    })
    .await];
    let breaker = "circuitBreaker: {maxRequests: 2}";
    let cluster = Cluster::start(&(service(&upstreams, &[], breaker) + ROUTE)).await;
    let mut streams = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(cluster.address).await.unwrap();
        stream.write_all(b"GET /stream HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        read_until(&mut stream, "one").await;
        streams.push(stream);
    }
    for weight in 1..3 {
        let refused = get(cluster.address, "/", "").await;
        assert_eq!((refused.status, refused.code().as_str()), (503, "no_healthy_upstream"), "{}", refused.raw);
        cluster.apply(&service(&upstreams, &[&format!("weight: {weight}")], breaker));
    }
    assert_eq!(upstreams[0].requests().len(), 2);
    let name = "tollgate_upstream_breaker_refusals_total{upstream=\"s\",kind=\"service\",by=\"max_requests\"}";
    assert_eq!(figure(&cluster, name), 2);
    drop(streams.pop());
    until("a place to be free", || figure(&cluster, "tollgate_upstream_active_requests") == 1).await;
    assert_eq!(get(cluster.address, "/", "").await.status, 200);
}

#[tokio::test]
async fn who_takes_connections_is_well_where_that_is_all_that_is_asked() {
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let upstreams = [fine().await];
    let tcp = "healthCheck: {type: tcp, interval: 300ms, timeout: 300ms}";
    let resources = service(&upstreams, &[], tcp);
    let resources = resources.replace("endpoints: [", &format!("endpoints: [{{address: '{closed}'}}, "));
    let cluster = Cluster::start(&(resources + ROUTE)).await;
    until("it to be found out", || endpoints(&cluster, "unwell") == 1).await;
    let good = "tollgate_upstream_health_checks_total{upstream=\"s\",kind=\"service\",result=\"good\"}";
    until("the other to be asked", || figure(&cluster, good) >= 3).await;
    until("it to be fit, and it alone", || (endpoints(&cluster, "fit"), endpoints(&cluster, "unwell")) == (1, 1)).await;
    assert_eq!(upstreams[0].requests().len(), 0);
}

/// Says of itself how it is, by `grpc.health.v1`, and answers anything else.
async fn grpc(serves: &Arc<AtomicBool>) -> (std::net::SocketAddr, AbortOnDropHandle<()>) {
    let serves = Arc::clone(serves);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answer = move |request: Request<Incoming>| {
        let serves = serves.load(Ordering::SeqCst);
        async move {
            let is_check = request.uri().path() == "/grpc.health.v1.Health/Check";
            let is_grpc =
                request.headers()["content-type"] == "application/grpc" && request.headers()["te"] == "trailers";
            let asked = request.into_body().collect().await.unwrap().to_bytes();
            assert!(!is_check || is_grpc && *asked == [0; 5], "{asked:?}");
            let status: &[u8] = if serves { &[0, 0, 0, 0, 2, 8, 1] } else { &[0, 0, 0, 0, 2, 8, 2] };
            let body = if is_check { Bytes::copy_from_slice(status) } else { Bytes::from_static(b"grpc") };
            let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from_static("0"))]);
            let body = Full::new(body).with_trailers(std::future::ready(Some(Ok::<_, Infallible>(trailers))));
            Ok::<_, Infallible>(Response::new(body))
        }
    };
    let tasks = TaskTracker::new();
    let connections = tasks.clone();
    let accepting = tasks.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let serving = http2::Builder::new(TokioExecutor::new());
            let serving = serving.serve_connection(TokioIo::new(stream), service_fn(answer.clone()));
            connections.spawn(async move { drop(serving.await) });
        }
    });
    (address, AbortOnDropHandle::new(accepting))
}

#[tokio::test]
async fn who_speaks_grpc_says_by_its_protocol_how_it_is() {
    let (one, other) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
    let ((first, _first), (second, _second)) = (grpc(&one).await, grpc(&other).await);
    let resources = format!(
        "kind: Service\nmetadata: {{name: s}}\nspec: {{protocol: h2c, endpoints: [{{address: '{first}'}}, {{address: '{second}'}}], \
         healthCheck: {{type: grpc, interval: 300ms, timeout: 300ms, healthyAfter: 1}}}}\n"
    );
    let cluster = Cluster::start(&(resources + ROUTE)).await;
    until("it to be found out", || endpoints(&cluster, "unwell") == 1).await;
    other.store(true, Ordering::SeqCst);
    until("it to be found well", || endpoints(&cluster, "unwell") == 0).await;
    one.store(false, Ordering::SeqCst);
    until("the first to be found out", || endpoints(&cluster, "unwell") == 1).await;
}

/// Callers share the connections that checks have made: they must not be driven by those who keep the cluster together.
#[test]
fn checks_and_their_connections_are_where_callers_are_served() {
    let callers = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let cluster_own = runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let well = Arc::new(AtomicBool::new(true));
    let (address, _upstream) = callers.block_on(grpc(&well));
    let resources = |interval: &str| {
        format!(
            "kind: Service\nmetadata: {{name: s}}\nspec: {{protocol: h2c, endpoints: [{{address: '{address}'}}], \
             healthCheck: {{type: grpc, interval: {interval}, timeout: 300ms, healthyAfter: 1, unhealthyAfter: 1}}}}\n"
        )
    };
    let served_there = |config: &mut GatewayConfig| config.runtime = Some(callers.handle().clone());
    let cluster = cluster_own.block_on(Cluster::start_with(&(resources("300ms") + ROUTE), served_there));
    // From here on nothing goes on that runs on the cluster's own.
    let found = |is_well: bool| {
        well.store(is_well, Ordering::SeqCst);
        callers.block_on(until("it to be found out", || endpoints(&cluster, "unwell") == u64::from(!is_well)));
    };
    found(false);
    found(true);
    let on_cluster_own = cluster_own.enter();
    cluster.apply(&resources("301ms"));
    drop(on_cluster_own);
    found(false);
    found(true);
}

/// All of it is for providers as well, whose failures are told by their answers' bodies, too.
#[tokio::test]
async fn a_providers_endpoints_are_left_alone_and_asked_as_a_services_are() {
    let told = |data: &str| Reply::Keep(json(data));
    for (bad, calls) in
        [(Reply::Keep(answer(500, "", "{}")), 2), (Reply::Keep(answer(400, "", "{}")), 0), (told("<html>"), 2)]
    {
        let upstreams = [Upstream::always(bad.clone()).await, Upstream::always(told(&completion(9, 3))).await];
        let second = format!(
            "}}, {{url: 'http://{}/v1'}}], outlierDetection: {{consecutiveErrors: 2}}, keys",
            upstreams[1].address
        );
        let cluster = Cluster::start(&provider(&upstreams[0], "openai").replacen("}], keys", &second, 1)).await;
        for _ in 0..10 {
            call(cluster.address, "/v1/chat/completions", r#"{"model":"m","messages":[]}"#).await;
        }
        let ejected = "tollgate_upstream_endpoints{upstream=\"first\",kind=\"provider\",state=\"ejected\"}";
        assert_eq!(figure(&cluster, ejected), u64::from(calls > 0), "{bad:?}");
        let expected = if calls > 0 { calls } else { 5 };
        assert_eq!(upstreams[0].requests().len(), expected, "{bad:?}: what is refused is answered");
    }
    let well = Arc::new(AtomicBool::new(false));
    let upstream = checked(&well).await;
    let checks = format!("{CHECKS}, keys");
    let cluster = Cluster::start(&provider(&upstream, "openai").replacen("keys", &checks, 1)).await;
    let unwell = "tollgate_upstream_endpoints{upstream=\"first\",kind=\"provider\",state=\"unwell\"}";
    until("it to be found out", || figure(&cluster, unwell) == 1).await;
    assert!(upstream.requests().iter().all(|request| !request.contains("sk-secret")), "a key is for calls");
    assert_eq!(figure(&cluster, "tollgate_upstream_panic{upstream=\"first\",kind=\"provider\"}"), 1);
}
