//! Requests that are sent once more, and those that are not.

use std::time::Duration;

use tokio::{task::JoinSet, time::Instant};
use tollgate_gateway::{UpstreamLoad, UpstreamsWord};
use tollgate_model::{Kind, Name};

use crate::{
    ai::{completion, provider},
    balancing::{ROUTE, service},
    clients::{call, get, post_text, raw},
    cluster::{Cluster, until},
    upstream::{Reply, Upstream, answer, json},
};

fn status(status: u16) -> Reply {
    Reply::Keep(answer(status, "", &status.to_string()))
}

pub(crate) async fn always(replies: &[Reply]) -> Vec<Upstream> {
    let mut upstreams = Vec::new();
    for reply in replies {
        upstreams.push(Upstream::always(reply.clone()).await);
    }
    upstreams
}

/// One service of these upstreams, in turn.
async fn start(upstreams: &[Upstream], retries: &str) -> Cluster {
    start_within(upstreams, retries, "300ms").await
}

async fn start_within(upstreams: &[Upstream], retries: &str, first_byte: &str) -> Cluster {
    let route = format!("retries: {{{retries}}}, timeouts: {{request: 8s, firstByte: {first_byte}}}, backends");
    Cluster::start(&(service(upstreams, &[], "loadBalancing: {}") + &ROUTE.replace("backends", &route))).await
}

pub(crate) fn asked(upstreams: &[Upstream]) -> Vec<usize> {
    upstreams.iter().map(|it| it.requests().len()).collect()
}

#[tokio::test]
async fn a_failure_that_is_named_is_tried_at_another_endpoint() {
    for (reply, on) in [
        (status(503), "'503'"),
        (status(500), "'5xx'"),
        (status(429), "'429'"),
        (Reply::Hang(String::new()), "timeout"),
        (Reply::Keep("nonsense\r\n\r\n".into()), "'5xx'"),
    ] {
        let upstreams = always(&[reply.clone(), status(200)]).await;
        let cluster = start(&upstreams, &format!("on: [{on}]")).await;
        let got = get(cluster.address, "/", "").await;
        assert_eq!((got.status, asked(&upstreams)), (200, vec![1, 1]), "{reply:?}: {}", got.raw);
        let counted = cluster
            .metrics()
            .contains("tollgate_upstream_retries_total{upstream=\"s\",kind=\"service\",decision=\"sent\"} 1\n");
        assert!(counted, "{}", cluster.metrics());
    }
}

#[tokio::test]
async fn what_is_not_named_is_passed_on() {
    for (reply, on, expected) in
        [(status(503), "'500', '429'", 503), (status(404), "'5xx'", 404), (Reply::Hang(String::new()), "reset", 504)]
    {
        let upstreams = always(&[reply.clone(), status(200)]).await;
        let cluster = start(&upstreams, &format!("on: [{on}]")).await;
        assert_eq!(
            (get(cluster.address, "/", "").await.status, asked(&upstreams)),
            (expected, vec![1, 0]),
            "{reply:?}"
        );
    }
}

/// Twice more, and every endpoint before any of them twice.
#[tokio::test]
async fn no_more_than_was_said() {
    let upstreams = always(&[status(503), status(503), status(503), status(503)]).await;
    let cluster = start(&upstreams, "attempts: 2, on: ['503']").await;
    assert_eq!(get(cluster.address, "/", "").await.body, "503", "the last answer is the caller's");
    assert_eq!(asked(&upstreams), [1, 1, 1, 0]);
    let alone = always(&[status(503)]).await;
    let cluster = start(&alone, "attempts: 3, on: ['503']").await;
    assert_eq!((get(cluster.address, "/", "").await.status, asked(&alone)), (503, vec![4]), "there is no other");
}

/// Whatever it does: nothing of it has reached anybody.
#[tokio::test]
async fn what_never_reached_an_endpoint_is_sent_again_whatever_it_is() {
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let upstreams = always(&[status(200)]).await;
    let route = ROUTE.replace("backends", "retries: {on: [connectFailure]}, backends");
    let resources = service(&upstreams, &[], "loadBalancing: {}") + &route;
    let resources = resources.replace("endpoints: [", &format!("endpoints: [{{address: '{closed}'}}, "));
    let cluster = Cluster::start(&resources).await;
    for n in 1..=10 {
        let got = raw(cluster.address, post_text("/", "", "body")).await;
        assert_eq!((got.status, asked(&upstreams)), (200, vec![n]), "{}", got.raw);
    }
    assert!(upstreams[0].requests().iter().all(|request| request.ends_with("\r\n\r\nbody")));
}

#[tokio::test]
async fn what_may_have_begun_is_repeated_only_where_reset_is_named() {
    for (reply, on, repeated) in [
        (Reply::Hang(String::new()), "timeout", false),
        (Reply::Hang(String::new()), "timeout, reset", true),
        (Reply::Reset(String::new()), "connectFailure, '5xx'", false),
        (Reply::Reset(String::new()), "reset", true),
        (Reply::Keep("nonsense\r\n\r\n".into()), "'5xx'", false),
        (Reply::Keep("nonsense\r\n\r\n".into()), "'5xx', reset", true),
        // It has said what came of it, and the route says what that means.
        (status(503), "'503'", true),
    ] {
        let upstreams = always(&[reply.clone(), status(200)]).await;
        let cluster = start(&upstreams, &format!("on: [{on}]")).await;
        let got = raw(cluster.address, post_text("/", "", "body")).await;
        let expected = vec![1, usize::from(repeated)];
        assert_eq!((got.status == 200, asked(&upstreams)), (repeated, expected), "{reply:?} {on}: {}", got.raw);
    }
}

#[tokio::test]
async fn once_the_caller_has_a_byte_nothing_is_sent_again() {
    let begun = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nbegun";
    let upstreams = always(&[Reply::Reset(begun.into()), status(200)]).await;
    let cluster = start(&upstreams, "attempts: 5, on: [reset, timeout, '5xx']").await;
    let got = get(cluster.address, "/", "").await;
    assert!(got.body.starts_with("begun"), "{}", got.raw);
    assert_eq!(asked(&upstreams), [1, 0]);
}

/// A body that is streamed is gone once any of it was asked for.
#[tokio::test]
async fn a_body_that_is_gone_is_not_sent_again() {
    let upstreams = always(&[status(503), status(200)]).await;
    let cluster = start(&upstreams, "on: ['503', reset]").await;
    let large = "x".repeat(100 * 1024);
    let got = raw(cluster.address, post_text("/", "", &large)).await;
    assert_eq!((got.status, asked(&upstreams)), (503, vec![1, 0]));
    let small = raw(cluster.address, post_text("/", "", &large[..60 * 1024])).await;
    assert_eq!(small.status, 200, "it is its turn");
    let small = raw(cluster.address, post_text("/", "", &large[..60 * 1024])).await;
    assert_eq!((small.status, asked(&upstreams)), (200, vec![2, 2]));
}

/// The retries of a route are for its fallbacks as well.
#[tokio::test]
async fn fallbacks_come_after_retries() {
    let upstreams = always(&[status(503)]).await;
    let second = always(&[status(503)]).await;
    let other = service(&second, &[], "loadBalancing: {}").replace("name: s", "name: other");
    let retries = "retries: {attempts: 3, on: ['503']}, fallbacks: [{service: other, on: ['5xx']}], backends";
    let route = ROUTE.replace("backends", retries);
    let cluster = Cluster::start(&(service(&upstreams, &[], "loadBalancing: {}") + "---\n" + &other + &route)).await;
    assert_eq!(get(cluster.address, "/", "").await.status, 503);
    assert_eq!((asked(&upstreams), asked(&second)), (vec![4], vec![1]), "four in all, and the fallback once");
}

/// When all fail, an upstream has a fifth more to do, and not twice as much.
#[tokio::test]
async fn few_are_sent_again_at_once() {
    const CALLS: usize = 60;
    let upstreams = always(&[Reply::Hang(String::new())]).await;
    let cluster = start_within(&upstreams, "on: [timeout]", "3s").await;
    let mut calls = JoinSet::new();
    for _ in 0..CALLS {
        let address = cluster.address;
        calls.spawn(async move { get(address, "/", "").await.status });
    }
    let statuses = calls.join_all().await;
    assert!(statuses.iter().all(|&status| status == 504), "{statuses:?}");
    let again = asked(&upstreams)[0] - CALLS;
    // All sent again together with all that wait: a fifth, and three.
    assert!((3..=CALLS / 5 + 3).contains(&again), "{again}");
    let refused = "tollgate_upstream_retries_total{upstream=\"s\",kind=\"service\",decision=\"over_budget\"} ";
    assert!(cluster.metrics().contains(&format!("{refused}{}\n", CALLS - again)), "{}", cluster.metrics());
}

/// What is sent again because a connection may have been closed just then is no exception.
#[tokio::test]
async fn few_are_sent_again_at_once_where_an_upstream_resets() {
    const CALLS: usize = 60;
    let upstreams = always(&[Reply::Reset(String::new())]).await;
    let cluster = start_within(&upstreams, "on: ['503']", "3s").await;
    let mut calls = JoinSet::new();
    for _ in 0..CALLS {
        let address = cluster.address;
        calls.spawn(async move { get(address, "/", "").await.status });
    }
    let statuses = calls.join_all().await;
    assert!(statuses.iter().all(|&status| status == 502), "{statuses:?}");
    let told = |decision: &str| {
        let name =
            format!("tollgate_upstream_retries_total{{upstream=\"s\",kind=\"service\",decision=\"{decision}\"}} ");
        let text = cluster.metrics();
        text.lines().find_map(|line| line.strip_prefix(&name)?.parse::<usize>().ok())
    };
    let again = asked(&upstreams)[0] - CALLS;
    assert_eq!((told("sent"), told("over_budget")), (Some(again), Some(CALLS - again)), "{}", cluster.metrics());
}

/// A request whose time is over is nobody's: who would be asked then could not answer.
#[tokio::test]
async fn nobody_is_asked_once_the_time_of_the_whole_request_is_over() {
    let hangs = always(&[Reply::Hang(String::new())]).await;
    let second = always(&[status(200)]).await;
    let other = service(&second, &[], "loadBalancing: {}").replace("name: s", "name: other");
    let more = "timeouts: {request: 300ms}, fallbacks: [{service: other, on: [timeout, connectFailure]}], backends";
    let resources = service(&hangs, &[], "loadBalancing: {}") + "---\n" + &other + &ROUTE.replace("backends", more);
    let cluster = Cluster::start(&resources).await;
    assert_eq!((get(cluster.address, "/", "").await.status, asked(&hangs)), (504, vec![1]));
    let attempts: Vec<String> =
        cluster.metrics().lines().filter(|line| line.contains("attempts_total{")).map(str::to_owned).collect();
    assert!(attempts.iter().any(|line| line.contains("\"s\"")), "{attempts:?}");
    assert!(!attempts.iter().any(|line| line.contains("\"other\"")), "{attempts:?}");
}

#[tokio::test]
async fn who_asks_to_be_left_alone_is_waited_for_or_not_asked_again() {
    let patient = always(&[Reply::Keep(answer(503, "retry-after: 1\r\n", ""))]).await;
    let cluster = start(&patient, "on: ['503']").await;
    let began = Instant::now();
    let got = get(cluster.address, "/", "").await;
    assert_eq!((got.header("retry-after"), asked(&patient)), (Some("1"), vec![2]));
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
    let away = always(&[Reply::Keep(answer(503, "retry-after: 60\r\n", ""))]).await;
    let cluster = start(&away, "on: ['503']").await;
    assert_eq!((get(cluster.address, "/", "").await.status, asked(&away)), (503, vec![1]));
    let two = always(&[Reply::Keep(answer(503, "retry-after: 60\r\n", "")), status(200)]).await;
    let cluster = start(&two, "on: ['503']").await;
    assert_eq!((get(cluster.address, "/", "").await.status, asked(&two)), (200, vec![1, 1]), "another one did not ask");
}

const CHAT: &str = "/v1/chat/completions";
const MOST: u64 = 100;

fn chat() -> String {
    format!(r#"{{"model":"m","max_tokens":{MOST},"messages":[{{"role":"user","content":"hello"}}]}}"#)
}

/// One provider of two endpoints, and no fallback.
async fn behind(replies: [Reply; 2], on: &str, limit: u64) -> (Vec<Upstream>, Cluster) {
    let upstreams = always(&replies).await;
    let second = format!("}}, {{url: 'http://{}/v1'}}], keys", upstreams[1].address);
    let resources = provider(&upstreams[0], "openai").replacen("}], keys", &second, 1);
    let retries = format!("retries: {{on: [{on}]}}\n  timeouts");
    let resources = resources
        .replace("timeouts", &retries)
        .replace("  fallbacks: [{provider: second, model: served, on: ['429']}]\n", "");
    assert!(!resources.contains("fallbacks"), "{resources}");
    let limit = format!(
        "---\nkind: Limit\nmetadata: {{name: out}}\nspec: {{per: [consumer], window: 1h, unit: outputTokens, limit: {limit}}}\n"
    );
    (upstreams, Cluster::start(&(resources + &limit)).await)
}

fn used(cluster: &Cluster) -> u64 {
    cluster.accounts("out").first().map_or(0, |account| account.used)
}

#[tokio::test]
async fn a_call_that_a_provider_may_bill_is_held_and_charged_again() {
    let served = || Reply::Keep(json(&completion(9, 3)));
    for (reply, on, charged) in [
        (Reply::Hang(String::new()), "timeout, reset", MOST + 3),
        (Reply::Keep(answer(200, "", "<html>")), "'5xx', reset", MOST + 3),
        (status(503), "'503'", 3),
        (status(429), "'429'", 3),
    ] {
        let (upstreams, cluster) = behind([reply.clone(), served()], on, 1_000_000).await;
        let got = call(cluster.address, CHAT, &chat()).await;
        assert_eq!((got.status, asked(&upstreams)), (200, vec![1, 1]), "{reply:?}: {}", got.raw);
        let rows = cluster.settled(1).await;
        assert_eq!((rows.len(), rows[0].usage.output_tokens, rows[0].provider.as_str()), (1, 3, "first"));
        assert_eq!(rows[0].earlier.len(), usize::from(charged > 3), "{reply:?}: what may be billed is said");
        cluster.nothing_held().await;
        until(&format!("{reply:?} to be charged"), || used(&cluster) == charged).await;
    }
}

/// An answer costs something each time it is made.
#[tokio::test]
async fn a_call_that_may_have_begun_is_made_again_only_where_reset_is_named() {
    for (reply, on) in [(Reply::Hang(String::new()), "timeout"), (Reply::Keep(answer(200, "", "<html>")), "'5xx'")] {
        let (upstreams, cluster) = behind([reply.clone(), Reply::Keep(json(&completion(9, 3)))], on, 1_000_000).await;
        let got = call(cluster.address, CHAT, &chat()).await;
        assert_eq!((got.status >= 500, asked(&upstreams)), (true, vec![1, 0]), "{reply:?}: {}", got.raw);
        cluster.nothing_held().await;
        until("what may have been used to be charged", || used(&cluster) == MOST).await;
    }
}

/// The limit holds one of them and not two.
#[tokio::test]
async fn a_call_that_the_limits_do_not_hold_again_is_not_made_again() {
    for (limit, is_served) in [(2 * MOST - 1, false), (2 * MOST, true)] {
        let replies = [Reply::Hang(String::new()), Reply::Keep(json(&completion(9, 3)))];
        let (upstreams, cluster) = behind(replies, "timeout, reset", limit).await;
        let got = call(cluster.address, CHAT, &chat()).await;
        let expected = if is_served { 200 } else { 504 };
        assert_eq!((got.status, asked(&upstreams)), (expected, vec![1, usize::from(is_served)]), "{}", got.raw);
        cluster.nothing_held().await;
        let charged = MOST + if is_served { 3 } else { 0 };
        until("what may have been used to be charged", || used(&cluster) == charged).await;
    }
}

/// A fifth of what all nodes have on its way, and three.
#[tokio::test]
async fn what_other_nodes_send_again_counts_as_well_as_what_they_have_on_its_way() {
    let upstreams = always(&[status(503), status(503)]).await;
    let cluster = start(&upstreams, "on: ['503']").await;
    let asks = async |in_flight: u64, again: u64| {
        let load = UpstreamLoad { kind: Kind::Service, name: Name::new("s"), in_flight, again };
        cluster.gateway.hear_peer(2, &UpstreamsWord { loads: vec![load], ..UpstreamsWord::default() });
        cluster.gateway.begin_interval();
        let before: usize = asked(&upstreams).iter().sum();
        assert_eq!(get(cluster.address, "/", "").await.status, 503);
        asked(&upstreams).iter().sum::<usize>() - before
    };
    for (in_flight, again, asked) in
        [(0, 0, 2), (0, 3, 1), (3, 3, 1), (3, 2, 2), (1_000, 202, 2), (1_000, 203, 1), (1_000, 5_000, 1)]
    {
        assert_eq!(asks(in_flight, again).await, asked, "{in_flight} {again}");
    }
    // Whoever has nothing under way any more has no part in it.
    cluster.gateway.hear_peer(2, &UpstreamsWord::default());
    cluster.gateway.begin_interval();
    let before: usize = asked(&upstreams).iter().sum();
    get(cluster.address, "/", "").await;
    assert_eq!(asked(&upstreams).iter().sum::<usize>() - before, 2);
    let word = cluster.gateway.upstreams_word();
    let said: Vec<_> = word.loads.iter().map(|load| (&*load.name, load.in_flight, load.again)).collect();
    assert_eq!(
        said,
        [("s", 0, 1)],
        "nothing is on its way, and of three one is this node's until it says something else"
    );
}
