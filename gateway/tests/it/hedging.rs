//! Requests that are sent to another endpoint as well when they are not answered for a while.

use std::time::Duration;

use tokio::{task::JoinSet, time::Instant};

use crate::{
    balancing::{ROUTE, service},
    clients::{Answer, get, post_text, raw},
    cluster::{Cluster, until},
    health::figure,
    retries::{always, asked},
    upstream::{Reply, Upstream, answer},
};

const SLOW: Duration = Duration::from_secs(2);

fn fast(status: u16) -> Reply {
    Reply::Keep(answer(status, "", "fast"))
}

fn slow(status: u16) -> Reply {
    Reply::Paced(String::new(), vec![answer(status, "", "slow")], SLOW)
}

/// One service of these upstreams, in turn.
async fn start(upstreams: &[Upstream], retries: &str) -> Cluster {
    start_by(upstreams, retries, "loadBalancing: {}").await
}

async fn start_by(upstreams: &[Upstream], retries: &str, terms: &str) -> Cluster {
    let route = format!("retries: {{{retries}}}, timeouts: {{request: 8s}}, backends");
    Cluster::start(&(service(upstreams, &[], terms) + &ROUTE.replace("backends", &route))).await
}

fn retries(cluster: &Cluster, decision: &str) -> u64 {
    figure(
        cluster,
        &format!("tollgate_upstream_retries_total{{upstream=\"s\",kind=\"service\",decision=\"{decision}\"}}"),
    )
}

async fn timed(asking: impl Future<Output = Answer>) -> (Answer, bool) {
    let began = Instant::now();
    let answer = asking.await;
    (answer, began.elapsed() < SLOW)
}

#[tokio::test]
async fn who_is_not_answered_in_time_takes_the_answer_of_another_one() {
    let upstreams = always(&[slow(200), fast(200)]).await;
    let terms = "outlierDetection: {consecutiveErrors: 1, maxEjectedPercent: 100}";
    let cluster = start_by(&upstreams, "hedge: {after: 50ms}", terms).await;
    let (got, soon) = timed(get(cluster.address, "/", "")).await;
    assert_eq!((got.status, got.body.as_str(), soon), (200, "fast", true));
    assert_eq!((asked(&upstreams), retries(&cluster, "sent")), (vec![1, 1], 1));
    until("whoever was outrun to be let go of", || upstreams[0].open.load(std::sync::atomic::Ordering::SeqCst) == 0)
        .await;
    let metrics = cluster.metrics();
    for (result, count) in [("answered", 1), ("outrun", 1)] {
        let line = format!("tollgate_upstream_attempts_total{{upstream=\"s\",result=\"{result}\"}} {count}\n");
        assert!(metrics.contains(&line), "{metrics}");
    }
    let ejected = "tollgate_upstream_ejections_total{upstream=\"s\",kind=\"service\",by=\"errors\"}";
    assert_eq!(figure(&cluster, ejected), 0, "it has not failed");
}

#[tokio::test]
async fn what_must_not_be_done_twice_is_sent_once() {
    let upstreams = always(&[slow(200), slow(200)]).await;
    let cluster = start(&upstreams, "hedge: {after: 50ms, max: 3}").await;
    let large = "x".repeat(70 << 10);
    let put = |body: &str| post_text("/", "", body).replacen("POST", "PUT", 1);
    for (request, count) in [(post_text("/", "", "small"), 1), (put(&large), 1), (put("small"), 2)] {
        let before: usize = asked(&upstreams).iter().sum();
        let got = raw(cluster.address, &request).await;
        assert_eq!((got.status, got.body.as_str()), (200, "slow"));
        assert_eq!(asked(&upstreams).iter().sum::<usize>() - before, count, "{}", &request[..9]);
    }
}

#[tokio::test]
async fn a_failure_wins_nothing_while_somebody_else_may_do_better() {
    for (replies, expected) in [
        ([slow(200), fast(500)], (200, "slow")),
        ([slow(503), fast(500)], (500, "fast")),
        ([slow(503), Reply::Close(String::new())], (503, "slow")),
    ] {
        let upstreams = always(&replies).await;
        let cluster = start(&upstreams, "hedge: {after: 50ms}").await;
        let got = get(cluster.address, "/", "").await;
        assert_eq!((got.status, got.body.as_str()), expected, "{replies:?}");
    }
    let upstreams = always(&[fast(503), slow(200), fast(200)]).await;
    let cluster = start(&upstreams, "on: ['503'], hedge: {after: 50ms}").await;
    let (got, soon) = timed(get(cluster.address, "/", "")).await;
    assert_eq!(
        (got.body.as_str(), soon, asked(&upstreams)),
        ("fast", true, vec![1, 1, 1]),
        "a repetition is hedged, too"
    );
}

#[tokio::test]
async fn nobody_is_asked_twice_and_no_more_than_the_budget_of_retries_has() {
    let alone = always(&[slow(200)]).await;
    let cluster = start(&alone, "hedge: {after: 50ms, max: 3}").await;
    assert_eq!(get(cluster.address, "/", "").await.status, 200);
    assert_eq!((asked(&alone), retries(&cluster, "sent")), (vec![1], 0));
    let upstreams = always(&[slow(200), slow(200)]).await;
    let cluster = start(&upstreams, "hedge: {after: 50ms}").await;
    let mut callers = JoinSet::new();
    for _ in 0..20 {
        let address = cluster.address;
        callers.spawn(async move { get(address, "/", "").await.status });
    }
    while let Some(status) = callers.join_next().await {
        assert_eq!(status.unwrap(), 200);
    }
    let (sent, over) = (retries(&cluster, "sent"), retries(&cluster, "over_budget"));
    // A fifth of what is in flight, and three.
    assert!((3..=8).contains(&sent) && sent + over == 20, "{sent} {over}");
    assert_eq!(asked(&upstreams).iter().sum::<usize>() as u64, 20 + sent);
}
