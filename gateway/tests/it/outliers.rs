//! Who fails too often, or is slower than its peers, is left alone for a while.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    ai::{completion, provider},
    balancing::{ROUTE, service},
    clients::{call, get},
    cluster::Cluster,
    health::figure,
    upstream::{Reply, Upstream, answer, json},
};

fn ejections(cluster: &Cluster, kind: &str, by: &str) -> u64 {
    let upstream = if kind == "service" { "s" } else { "first" };
    let name = format!("tollgate_upstream_ejections_total{{upstream=\"{upstream}\",kind=\"{kind}\",by=\"{by}\"}}");
    figure(cluster, &name)
}

/// Every second answer of it is 500, the first one, too.
async fn every_second() -> Upstream {
    let count = AtomicUsize::new(0);
    Upstream::start(move |_| {
        let status = [500, 200][count.fetch_add(1, Ordering::SeqCst) % 2];
        Reply::Keep(answer(status, "", ""))
    })
    .await
}

async fn always(body: &str) -> Upstream {
    Upstream::always(Reply::Keep(answer(200, "", body))).await
}

/// That long before it answers.
async fn slow(ms: u64, whole: String) -> Upstream {
    Upstream::always(Reply::Paced(String::new(), vec![whole], Duration::from_millis(ms))).await
}

#[tokio::test]
async fn who_fails_at_every_second_request_is_left_alone_by_its_rate_of_errors() {
    for (percent, asked, ejected) in [(50, 11, 1), (60, 30, 0)] {
        let upstreams = [every_second().await, always("fine").await];
        let rate = format!("errorRate: {{percent: {percent}, interval: 10m, minRequests: 10}}");
        let outliers = format!("outlierDetection: {{consecutiveErrors: 2, {rate}, ejectFor: 1h}}");
        let cluster = Cluster::start(&(service(&upstreams, &[], &outliers) + ROUTE)).await;
        for _ in 0..60 {
            get(cluster.address, "/", "").await;
        }
        assert_eq!(upstreams[0].requests().len(), asked, "{percent} %");
        assert_eq!(ejections(&cluster, "service", "error_rate"), ejected, "{percent} %");
        assert_eq!(ejections(&cluster, "service", "errors"), 0);
    }
}

#[tokio::test]
async fn who_is_slower_than_its_peers_is_left_alone_by_its_time() {
    let upstreams = [slow(300, answer(200, "", "slow")).await, always("fine").await, always("fine").await];
    let latency = "latency: {factor: 3, interval: 1s, minRequests: 2, minLatency: 20ms}";
    let outliers = format!("outlierDetection: {{consecutiveErrors: 0, {latency}, ejectFor: 1h}}");
    let cluster = Cluster::start(&(service(&upstreams, &[], &outliers) + ROUTE)).await;
    // At most one request in three takes long, so that some come together within the second.
    let deadline = Instant::now() + Duration::from_secs(30);
    while ejections(&cluster, "service", "latency") == 0 {
        assert!(Instant::now() < deadline, "waited in vain for it to be found out");
        tokio::join!(get(cluster.address, "/", ""), get(cluster.address, "/", ""), get(cluster.address, "/", ""));
    }
    let before = upstreams[0].requests().len();
    for _ in 0..20 {
        assert_eq!(get(cluster.address, "/", "").await.body, "fine");
    }
    assert_eq!((upstreams[0].requests().len(), ejections(&cluster, "service", "latency")), (before, 1));
}

/// A key that is refused at once makes nobody fast, nor does what one endpoint refuses make the others slow.
#[tokio::test]
async fn a_providers_endpoints_are_told_apart_by_their_time_as_a_services_are() {
    let told = json(&completion(9, 3));
    let upstreams = [slow(300, told.clone()).await, Upstream::always(Reply::Keep(told.clone())).await];
    let upstreams = upstreams.into_iter().chain([Upstream::always(Reply::Keep(told)).await]).collect::<Vec<_>>();
    let others: Vec<String> = upstreams[1..].iter().map(|it| format!("{{url: 'http://{}/v1'}}", it.address)).collect();
    let latency = "latency: {factor: 3, interval: 1s, minRequests: 2, minLatency: 20ms}";
    let more = format!("}}, {}], outlierDetection: {{ejectFor: 1h, {latency}}}, keys", others.join(", "));
    let cluster = Cluster::start(&provider(&upstreams[0], "openai").replacen("}], keys", &more, 1)).await;
    let ask = || call(cluster.address, "/v1/chat/completions", r#"{"model":"m","messages":[]}"#);
    let deadline = Instant::now() + Duration::from_secs(30);
    while ejections(&cluster, "provider", "latency") == 0 {
        assert!(Instant::now() < deadline, "waited in vain for it to be found out");
        tokio::join!(ask(), ask(), ask());
    }
    let before = upstreams[0].requests().len();
    for _ in 0..12 {
        assert_eq!(ask().await.status, 200);
    }
    assert_eq!((upstreams[0].requests().len(), ejections(&cluster, "provider", "latency")), (before, 1));
}

/// What comes at once because it is refused says nothing of how long answers take.
#[tokio::test]
async fn what_is_refused_at_once_makes_nobody_else_slow() {
    let refuses = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&refuses);
    let refusing = Upstream::start(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        Reply::Keep(answer(404, "", "none"))
    });
    let upstreams = [refusing.await, slow(40, answer(200, "", "slow")).await];
    let latency = "latency: {factor: 1.1, interval: 1s, minRequests: 1, minPeers: 1, minLatency: 1ms}";
    let outliers = format!("outlierDetection: {{consecutiveErrors: 0, {latency}, ejectFor: 1h}}");
    let cluster = Cluster::start(&(service(&upstreams, &[], &outliers) + ROUTE)).await;
    for _ in 0..60 {
        get(cluster.address, "/", "").await;
    }
    assert_eq!((refuses.load(Ordering::SeqCst), ejections(&cluster, "service", "latency")), (30, 0));
}
