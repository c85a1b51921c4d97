//! Routes that lead back: a request that was here before goes no further.

use std::{net::SocketAddr, sync::atomic::Ordering};

use crate::{
    ai::completion,
    clients::{call, get},
    cluster::{Cluster, until},
    upstream::{Reply, Upstream, answer, json},
};

fn leads_to(address: SocketAddr, protocol: &str) -> String {
    format!(
        "kind: Service\nmetadata: {{name: s}}\nspec: {{protocol: {protocol}, endpoints: [{{address: '{address}'}}]}}\n---\n\
         kind: Route\nmetadata: {{name: all}}\nspec: {{backends: [{{service: s}}]}}\n---\n\
         kind: Route\nmetadata: {{name: own}}\nspec: {{match: [{{path: {{exact: /own}}}}], response: {{body: fine}}}}\n"
    )
}

fn asks(address: SocketAddr) -> String {
    format!(
        "kind: Provider\nmetadata: {{name: p}}\nspec: {{type: openai, endpoints: [{{url: 'http://{address}/v1'}}], \
         keys: [{{value: sk-alice}}]}}\n---\n\
         kind: Route\nmetadata: {{name: ai}}\nspec: {{match: [{{path: {{prefix: /v1}}}}], backends: [{{provider: p}}]}}\n"
    )
}

#[tokio::test]
async fn a_node_that_is_its_own_upstream_says_so_at_once() {
    let cluster = Cluster::start("kind: Tenant\nmetadata: {name: nobody}\n").await;
    for protocol in ["http", "h2c"] {
        cluster.apply(&leads_to(cluster.address, protocol));
        let told = get(cluster.address, "/", "").await;
        assert_eq!((told.status, told.code().as_str()), (508, "loop_detected"), "{protocol}: {}", told.raw);
        assert_eq!(get(cluster.address, "/own", "").await.body, "fine");
    }
    until("nothing to go round", || cluster.gateway.in_flight() == 0).await;
    // Each went as far as back here, and no further.
    let metrics = cluster.metrics();
    let counts = metrics.lines().filter(|it| it.contains("duration_seconds_count{") && it.contains("\"508\""));
    let count = counts.filter_map(|it| it.rsplit(' ').next()?.parse::<u32>().ok()).sum::<u32>();
    assert_eq!(count, 4, "{metrics}");
}

#[tokio::test]
async fn nodes_that_are_each_others_upstreams_say_so() {
    let [one, other] = [Cluster::start("").await, Cluster::start("").await];
    one.apply(&leads_to(other.address, "http"));
    other.apply(&leads_to(one.address, "http"));
    for cluster in [&one, &other] {
        let told = get(cluster.address, "/", "").await;
        assert_eq!((told.status, told.code().as_str()), (508, "loop_detected"), "{}", told.raw);
    }
    until("nothing to go round", || one.gateway.in_flight() + other.gateway.in_flight() == 0).await;
}

#[tokio::test]
async fn a_provider_that_is_this_node_is_no_end_of_calls_nor_of_lists_of_models() {
    let cluster = Cluster::start("").await;
    cluster.apply(&asks(cluster.address));
    let body = r#"{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"hi"}]}"#;
    let told = call(cluster.address, "/v1/chat/completions", body).await;
    assert_eq!((told.status, told.code().as_str()), (508, "loop_detected"), "{}", told.raw);
    let models = get(cluster.address, "/v1/models", "authorization: Bearer sk-alice\r\n").await;
    assert_eq!(models.status, 200, "{}", models.raw);
    until("nothing to go round", || cluster.gateway.in_flight() == 0).await;
}

#[tokio::test]
async fn what_went_through_others_goes_on_with_our_name_behind_theirs() {
    let upstream = Upstream::always(Reply::Keep(answer(200, "", "fine"))).await;
    let cluster = Cluster::start(&leads_to(upstream.address, "http")).await;
    assert_eq!(get(cluster.address, "/", "cdn-loop: other, tollgate-0123456789abcdef;v=1\r\n").await.status, 200);
    let seen = upstream.requests().remove(0);
    let hops: Vec<&str> = seen.lines().filter_map(|line| line.strip_prefix("cdn-loop: ")).collect();
    assert_eq!((hops.len(), hops[0]), (2, "other, tollgate-0123456789abcdef;v=1"), "{seen}");
    let own = hops[1].to_owned();
    assert!(own.len() == 25 && own.starts_with("tollgate-"), "{seen}");
    let back = get(cluster.address, "/", &format!("CDN-Loop: a, {own} ; v=2\r\n")).await;
    assert_eq!((back.status, upstream.requests().len()), (508, 1), "{}", back.raw);

    let provider = Upstream::always(Reply::Keep(json(&completion(9, 3)))).await;
    cluster.apply(&asks(provider.address));
    let body = r#"{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"hi"}]}"#;
    assert_eq!(call(cluster.address, "/v1/chat/completions", body).await.status, 200);
    assert!(provider.requests()[0].contains(&format!("cdn-loop: {own}\r\n")), "{:?}", provider.requests());
    assert_eq!(upstream.open.load(Ordering::SeqCst), 1);
}
