//! Backends that mean a part of an upstream's endpoints.

use crate::{
    ai::{completion, provider},
    balancing::service,
    clients::{call, get},
    cluster::Cluster,
    health::figure,
    upstream::{Reply, Upstream, answer, json},
};

/// Each says its number; those in `failing` answer 500.
async fn numbered(count: usize, failing: &[usize]) -> Vec<Upstream> {
    let mut upstreams = Vec::new();
    for n in 0..count {
        let status = if failing.contains(&n) { 500 } else { 200 };
        upstreams.push(Upstream::always(Reply::Keep(answer(status, "", &n.to_string()))).await);
    }
    upstreams
}

const LABELS: [&str; 4] = [
    "labels: {version: v1, tier: a}",
    "labels: {version: v2, tier: a}",
    "labels: {version: v2, tier: b}",
    "labels: {version: v3}, weight: 0",
];

fn route(name: &str, backends: &str) -> String {
    format!(
        "---\nkind: Route\nmetadata: {{name: {name}}}\nspec: {{match: [{{path: {{prefix: /{name}}}}}], backends: [{backends}]}}\n"
    )
}

/// Who answers twelve requests, and how many each.
async fn served(cluster: &Cluster, path: &str) -> Vec<(String, usize)> {
    let mut served: Vec<(String, usize)> = Vec::new();
    for _ in 0..12 {
        let body = get(cluster.address, path, "").await.body;
        match served.iter_mut().find(|(by, _)| *by == body) {
            Some((_, count)) => *count += 1,
            None => served.push((body, 1)),
        }
    }
    served.sort();
    served
}

fn each(counts: &[(&str, usize)]) -> Vec<(String, usize)> {
    counts.iter().map(|(by, count)| ((*by).to_owned(), *count)).collect()
}

#[tokio::test]
async fn a_backend_that_means_some_endpoints_has_these_alone() {
    let upstreams = numbered(4, &[]).await;
    for policy in ["roundRobin", "leastRequest", "random", "maglev, hashOn: 'header:x-user'"] {
        let routes = [
            route("v2", "{service: s, subset: {version: v2}}"),
            route("one", "{service: s, subset: {version: v2, tier: b}}"),
            route("all", "{service: s}"),
            route(
                "split",
                "{service: s, subset: {version: v1}, weight: 3}, {service: s, subset: {version: v2, tier: b}}",
            ),
        ];
        let resources =
            service(&upstreams, &LABELS, &format!("loadBalancing: {{policy: {policy}}}")) + &routes.concat();
        let cluster = Cluster::start(&resources).await;
        assert!(served(&cluster, "/v2").await.iter().all(|(by, _)| by == "1" || by == "2"), "{policy}");
        assert_eq!(served(&cluster, "/one").await, each(&[("2", 12)]), "{policy}");
        assert_eq!(served(&cluster, "/split").await, each(&[("0", 9), ("2", 3)]), "{policy}");
        if policy == "roundRobin" {
            assert_eq!(served(&cluster, "/v2").await, each(&[("1", 6), ("2", 6)]));
            assert_eq!(served(&cluster, "/all").await, each(&[("0", 4), ("1", 4), ("2", 4)]));
        }
    }
}

#[tokio::test]
async fn where_no_endpoint_is_meant_nobody_is_asked_unless_any_will_do() {
    let upstreams = numbered(4, &[]).await;
    let nobody = "{service: s, subset: {version: v9}}";
    let routes = [
        route("none", nobody),
        route("weightless", "{service: s, subset: {version: v3}, subsetFallback: none}"),
        route("any", "{service: s, subset: {version: v9}, subsetFallback: any}"),
    ];
    let fallback = "}], fallbacks: [{service: s, subset: {version: v1}, on: [connectFailure]}]";
    let routes = routes.concat() + &route("else", nobody).replace("v9}}]", &format!("v9}}{fallback}"));
    let cluster = Cluster::start(&(service(&upstreams, &LABELS, "loadBalancing: {}") + &routes)).await;
    for path in ["/none", "/weightless"] {
        let refused = get(cluster.address, path, "").await;
        assert_eq!((refused.status, refused.code().as_str()), (503, "no_healthy_upstream"), "{path}");
    }
    assert_eq!(served(&cluster, "/any").await, each(&[("0", 4), ("1", 4), ("2", 4)]));
    assert_eq!(served(&cluster, "/else").await, each(&[("0", 12)]));
    // Labels are those of the configuration of the moment.
    cluster.apply(&service(&upstreams, &["labels: {version: v9}"], "loadBalancing: {}"));
    assert_eq!(served(&cluster, "/none").await, each(&[("0", 12)]));
}

#[tokio::test]
async fn what_is_known_of_an_endpoint_is_the_same_whatever_it_was_meant_for() {
    let upstreams = numbered(4, &[2]).await;
    let routes = [route("v2", "{service: s, subset: {version: v2}}"), route("all", "{service: s}")].concat();
    let terms = "outlierDetection: {consecutiveErrors: 2, ejectFor: 1h}, circuitBreaker: {maxRequests: 64}";
    let cluster = Cluster::start(&(service(&upstreams, &LABELS, terms) + &routes)).await;
    served(&cluster, "/v2").await;
    assert_eq!(upstreams[2].requests().len(), 2, "two in a row, and it is left alone");
    assert_eq!(served(&cluster, "/all").await, each(&[("0", 6), ("1", 6)]), "by all");
    let ejected = "tollgate_upstream_endpoints{upstream=\"s\",kind=\"service\",state=\"ejected\"}";
    assert_eq!(figure(&cluster, ejected), 1);
    // The last one of a subset always has requests.
    let alone = route("v2", "{service: s, subset: {tier: b}}");
    cluster.apply(alone.trim_start_matches("---\n"));
    assert_eq!(served(&cluster, "/v2").await, each(&[("2", 12)]));
}

#[tokio::test]
async fn calls_of_a_provider_mean_some_of_its_endpoints_too() {
    let reply = || Reply::Keep(json(&completion(1, 1)));
    let (one, other) = (Upstream::always(reply()).await, Upstream::always(reply()).await);
    let labelled = format!("endpoints: [{{url: 'http://{}/v1', labels: {{region: eu}}}}, ", other.address);
    let resources = provider(&one, "openai").replacen("endpoints: [", &labelled, 1);
    let cluster =
        Cluster::start(&resources.replace("{provider: first}", "{provider: first, subset: {region: eu}}")).await;
    for _ in 0..4 {
        let body = r#"{"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}"#;
        let answer = call(cluster.address, "/v1/chat/completions", body).await;
        assert_eq!(answer.status, 200, "{}", answer.raw);
    }
    assert_eq!((one.requests().len(), other.requests().len()), (0, 4));
}
