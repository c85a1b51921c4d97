//! Which endpoint has a request.

use std::collections::BTreeSet;

use tokio::{io::AsyncWriteExt as _, net::TcpStream};
use tollgate_model::Name;

use crate::{
    clients::{get, read_until},
    cluster::Cluster,
    upstream::{Reply, Upstream, answer, events},
};

/// Upstreams that answer their numbers.
async fn numbered(count: usize) -> Vec<Upstream> {
    let mut upstreams = Vec::new();
    for n in 0..count {
        upstreams.push(Upstream::always(Reply::Keep(answer(200, "", &n.to_string()))).await);
    }
    upstreams
}

/// A service of these endpoints, each with what is said of it beside its address.
pub(crate) fn service(upstreams: &[Upstream], more: &[&str], rest: &str) -> String {
    let endpoint = |(n, it): (usize, &Upstream)| {
        format!("{{address: '{}'{}}}", it.address, more.get(n).map(|more| format!(", {more}")).unwrap_or_default())
    };
    let endpoints: Vec<String> = upstreams.iter().enumerate().map(endpoint).collect();
    format!("kind: Service\nmetadata: {{name: s}}\nspec: {{endpoints: [{}], {rest}}}\n", endpoints.join(", "))
}

/// A route to it for everything.
pub(crate) const ROUTE: &str = "---\nkind: Route\nmetadata: {name: r}\nspec: {backends: [{service: s}]}\n";

async fn start(upstreams: &[Upstream], more: &[&str], balancing: &str) -> Cluster {
    let service = service(upstreams, more, &format!("loadBalancing: {{{balancing}}}"));
    Cluster::start(&(service + ROUTE)).await
}

async fn served_by(cluster: &Cluster, path: &str, headers: &str) -> String {
    let answer = get(cluster.address, path, headers).await;
    assert_eq!(answer.status, 200, "{}", answer.raw);
    answer.body
}

#[tokio::test]
async fn requests_are_spread_by_weight() {
    let upstreams = numbered(3).await;
    let cluster = start(&upstreams, &["weight: 3", "weight: 1", "weight: 0"], "policy: roundRobin").await;
    for _ in 0..20 {
        get(cluster.address, "/", "").await;
    }
    let counts: Vec<usize> = upstreams.iter().map(|it| it.requests().len()).collect();
    assert_eq!(counts, [15, 5, 0]);
}

/// Everybody is drawn some time: that it takes so long is as likely as a stroke of lightning.
#[tokio::test]
async fn what_is_drawn_reaches_all_endpoints() {
    for policy in ["random", "leastRequest"] {
        let upstreams = numbered(3).await;
        let cluster = start(&upstreams, &[], &format!("policy: {policy}")).await;
        let mut seen = BTreeSet::new();
        for _ in 0..200 {
            seen.insert(served_by(&cluster, "/", "").await);
        }
        assert_eq!(seen.len(), 3, "{policy}");
    }
}

#[tokio::test]
async fn of_two_the_one_with_streams_on_their_way_gets_less() {
    let busy = Upstream::always(Reply::Hang(events(&["on"]))).await;
    let free = Upstream::always(Reply::Keep(answer(200, "", "free on"))).await;
    let upstreams = [busy, free];
    let cluster = start(&upstreams, &[], "policy: leastRequest").await;
    let mut streams = Vec::new();
    for _ in 0..100 {
        let mut stream = TcpStream::connect(cluster.address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        read_until(&mut stream, "on").await;
        streams.push(stream);
    }
    // One in four: where both that were drawn are the busy one. In turn it would be half.
    assert!((5..45).contains(&upstreams[0].requests().len()), "{}", upstreams[0].requests().len());
}

#[tokio::test]
async fn what_says_the_same_goes_to_the_same_endpoint() {
    for policy in ["ringHash", "maglev"] {
        for (hash_on, says) in [
            ("header:x-user", (|n| ("/".to_owned(), format!("x-user: {n}\r\n"))) as fn(usize) -> (String, String)),
            ("cookie:user", |n| ("/".to_owned(), format!("cookie: a=b; user={n}\r\n"))),
            ("query:user", |n| (format!("/?user={n}"), String::new())),
        ] {
            let upstreams = numbered(3).await;
            let cluster = start(&upstreams, &[], &format!("policy: {policy}, hashOn: '{hash_on}'")).await;
            let mut seen = BTreeSet::new();
            for n in 0..80 {
                let (path, headers) = says(n);
                let first = served_by(&cluster, &path, &headers).await;
                for _ in 0..2 {
                    assert_eq!(served_by(&cluster, &path, &headers).await, first, "{policy} {hash_on} {n}");
                }
                seen.insert(first);
            }
            assert_eq!(seen.len(), 3, "{policy} {hash_on}: different users go to different endpoints");
            seen.clear();
            for _ in 0..200 {
                seen.insert(served_by(&cluster, "/", "").await);
            }
            assert_eq!(seen.len(), 3, "{policy} {hash_on}: those who say nothing go anywhere");
        }
    }
}

/// Where alice's calls go, and bob's.
async fn homes(hash_on: &str) -> (String, String) {
    let upstreams = numbered(8).await;
    let cluster = start(&upstreams, &[], &format!("policy: maglev, hashOn: {hash_on}")).await;
    let private = ROUTE.replace("backends", "auth: {required: true}, backends");
    cluster.apply(private.trim_start_matches("---\n"));
    let alice = served_by(&cluster, "/", "x-api-key: sk-alice\r\n").await;
    for _ in 0..5 {
        assert_eq!(served_by(&cluster, "/", "x-api-key: sk-alice\r\n").await, alice, "{hash_on}");
    }
    (alice, served_by(&cluster, "/", "x-api-key: sk-bobby\r\n").await)
}

#[tokio::test]
async fn a_consumer_and_an_address_stay_where_they_are() {
    for _ in 0..3 {
        let (alice, bob) = homes("ip").await;
        assert_eq!(alice, bob, "both call from here");
    }
    // One in eight times two of them have the same by chance, as upstreams are elsewhere each time.
    for _ in 0..20 {
        let (alice, bob) = homes("consumer").await;
        if alice != bob {
            return;
        }
    }
    panic!("alice and bob always go to the same endpoint");
}

/// The gateway of these tests is in az-a.
#[tokio::test]
async fn requests_stay_in_their_zone_unless_any_will_do() {
    for (zones, expected) in [("preferLocal", [10, 0]), ("any", [5, 5])] {
        let upstreams = numbered(2).await;
        let cluster = start(&upstreams, &["zone: az-a", "zone: az-b"], &format!("zones: {zones}")).await;
        for _ in 0..10 {
            get(cluster.address, "/", "").await;
        }
        let counts: Vec<usize> = upstreams.iter().map(|it| it.requests().len()).collect();
        assert_eq!(counts, expected, "{zones}");
    }
    let upstreams = numbered(2).await;
    let cluster = start(&upstreams, &["zone: az-b", "zone: az-c"], "zones: preferLocal").await;
    assert_ne!(served_by(&cluster, "/", "").await, served_by(&cluster, "/", "").await, "nothing is here");
    assert!(cluster.metrics().contains("tollgate_upstream_spill_ratio{upstream=\"s\",kind=\"service\"} 1.0"));
}

/// The zones of the endpoints come in another order than requests go to them.
#[tokio::test]
async fn zones_come_one_after_the_other_where_an_order_is_told() {
    let upstreams = numbered(4).await;
    let more = ["zone: az-a", "zone: az-b", "zone: az-c", "zone: az-d"];
    let failover = "failover: [{from: az-b, to: [az-d]}, {to: [az-d, az-c]}]";
    let cluster = start(&upstreams, &more, &format!("slowStart: 1ms, {failover}")).await;
    for (drained, expected) in [
        (&[][..], "0"),
        (&["az-a"], "3"),
        (&["az-a", "az-d"], "2"),
        (&["az-a", "az-d", "az-c"], "1"),
        (&["az-a", "az-c"], "3"),
    ] {
        cluster.gateway.set_drained(zones(drained));
        tokio::time::sleep(std::time::Duration::from_millis(2)).await; // the whole slow start
        for _ in 0..10 {
            assert_eq!(served_by(&cluster, "/", "").await, expected, "without {drained:?}");
        }
    }
    // Another order is one for what comes from now on.
    let other = service(&upstreams, &more, "loadBalancing: {slowStart: 1ms, failover: [{from: az-a, to: [az-c]}]}");
    cluster.gateway.set_drained(zones(&["az-a"]));
    cluster.apply(&other);
    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    for _ in 0..10 {
        assert_eq!(served_by(&cluster, "/", "").await, "2");
    }
}

fn zones(names: &[&str]) -> BTreeSet<Name> {
    names.iter().copied().map(Name::new).collect()
}

fn counts(upstreams: &[Upstream]) -> Vec<usize> {
    upstreams.iter().map(|it| it.requests().len()).collect()
}

#[tokio::test]
async fn a_drained_zone_has_no_new_requests_until_it_is_taken_back() {
    let upstreams = numbered(2).await;
    let more = ["zone: az-a", "zone: az-b"];
    let cluster = start(&upstreams, &more, "zones: preferLocal, slowStart: 1ms").await;
    served_by(&cluster, "/", "").await;
    cluster.gateway.set_drained(zones(&["az-a"]));
    for _ in 0..10 {
        assert_eq!(served_by(&cluster, "/", "").await, "1");
    }
    let drained = "tollgate_upstream_endpoints{upstream=\"s\",kind=\"service\",state=\"drained\"} 1";
    assert!(cluster.metrics().contains(drained));
    // Another configuration has the same zones.
    let other = service(&upstreams, &more, "loadBalancing: {zones: preferLocal, slowStart: 1ms, policy: random}");
    cluster.apply(&other);
    for _ in 0..10 {
        assert_eq!(served_by(&cluster, "/", "").await, "1");
    }
    cluster.gateway.set_drained(zones(&[]));
    tokio::time::sleep(std::time::Duration::from_millis(2)).await; // the whole slow start
    for _ in 0..10 {
        assert_eq!(served_by(&cluster, "/", "").await, "0");
    }
    assert_eq!(counts(&upstreams), [11, 20]);
}

#[tokio::test]
async fn who_has_endpoints_nowhere_else_is_served_still() {
    let upstreams = numbered(2).await;
    let cluster = start(&upstreams, &["zone: az-b", "zone: az-c"], "policy: roundRobin").await;
    cluster.gateway.set_drained(zones(&["az-b"]));
    for _ in 0..4 {
        assert_eq!(served_by(&cluster, "/", "").await, "1");
    }
    cluster.gateway.set_drained(zones(&["az-b", "az-c"]));
    for _ in 0..4 {
        served_by(&cluster, "/", "").await;
    }
    assert_eq!(counts(&upstreams), [2, 6]);
}

#[tokio::test]
async fn a_node_of_a_drained_zone_serves_and_tells_its_callers_to_go_elsewhere() {
    let upstreams = numbered(1).await;
    let cluster = start(&upstreams, &[], "policy: roundRobin").await;
    for (drained, closes) in [(zones(&["az-b"]), false), (zones(&["az-a"]), true), (zones(&[]), false)] {
        cluster.gateway.set_drained(drained);
        let mut stream = TcpStream::connect(cluster.address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let answer = read_until(&mut stream, "\r\n\r\n0").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert_eq!(answer.to_ascii_lowercase().contains("connection: close"), closes, "{answer}");
    }
}
