//! Who is let in by address, scripts of other origins, and failures on purpose.

use std::time::{Duration, Instant};

use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::{
    clients::{Answer, get, post_text, raw, read_until},
    cluster::Cluster,
    upstream::{Reply, Upstream, answer},
};

fn fixed(name: &str, fields: &str) -> String {
    format!("---\nkind: Route\nmetadata: {{name: {name}}}\nspec: {{{fields}, response: {{body: fine}}}}\n")
}

#[tokio::test]
async fn an_address_is_let_in_or_not_before_anybody_is_asked_who_they_are() {
    let resources = [
        fixed("inside", "match: [{path: {exact: /inside}}], ips: {allow: [10.0.0.0/8], deny: [10.1.0.0/16]}"),
        fixed("outside", "match: [{path: {exact: /outside}}], ips: {deny: [127.0.0.0/8]}, auth: {required: true}"),
    ]
    .concat();
    let cluster =
        Cluster::start_with(&resources, |config| config.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()]);
    let cluster = cluster.await;
    for (path, from, status, code) in [
        ("/inside", "10.2.0.1", 200, ""),
        ("/inside", "10.1.0.1", 403, "access_denied"),
        ("/inside", "11.0.0.1", 403, "access_denied"),
        ("/inside", "::ffff:10.2.0.1", 200, ""),
        ("/inside", "10.2.0.1, 11.0.0.1", 403, "access_denied"),
        ("/outside", "127.0.0.9", 403, "access_denied"),
        ("/outside", "10.0.0.1", 401, "invalid_api_key"),
    ] {
        let answer = get(cluster.address, path, &format!("x-forwarded-for: {from}\r\n")).await;
        assert_eq!(answer.status, status, "{path} from {from}: {}", answer.raw);
        assert!(status == 200 || answer.code() == code, "{path} from {from}: {}", answer.raw);
    }
    // A client can't say where it is from: what counts is whom the proxy names.
    let untrusted = Cluster::start(&resources).await;
    assert_eq!(get(untrusted.address, "/inside", "x-forwarded-for: 10.2.0.1\r\n").await.status, 403);
}

async fn preflight(cluster: &Cluster, path: &str, headers: &str) -> Answer {
    let request = format!("OPTIONS {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n{headers}\r\n");
    raw(cluster.address, request).await
}

/// What the answer says about scripts, in order.
fn says(answer: &Answer) -> Vec<&str> {
    let mut lines: Vec<&str> = answer.head.lines().filter(|line| line.starts_with("access-control-")).collect();
    lines.sort_unstable();
    lines
}

#[tokio::test]
async fn a_preflight_is_answered_without_credentials_and_without_the_upstream() {
    let up = "access-control-allow-origin: *\r\nvary: accept\r\n";
    let upstream = Upstream::always(Reply::Keep(answer(200, up, "fine"))).await;
    let cluster = Cluster::start(&format!(
        "
kind: Service
metadata: {{name: s}}
spec: {{endpoints: [{{address: '{}'}}]}}
---
kind: Route
metadata: {{name: api}}
spec:
  match: [{{path: {{prefix: /api}}, methods: [PUT]}}]
  backends: [{{service: s}}]
  auth: {{required: true}}
  cors:
    origins: ['https://app.example', 'https://*.app.example']
    methods: [PUT, DELETE]
    headers: [authorization, x-one]
    exposeHeaders: [x-request-id]
    credentials: true
    maxAge: 10m
",
        upstream.address
    ))
    .await;
    let asked = "access-control-request-method: PUT\r\naccess-control-request-headers: x-one\r\n";
    let told = preflight(&cluster, "/api/x", &format!("origin: https://app.example\r\n{asked}")).await;
    assert_eq!((told.status, told.body.as_str()), (204, ""), "{}", told.raw);
    assert_eq!(
        says(&told),
        [
            "access-control-allow-credentials: true",
            "access-control-allow-headers: authorization, x-one",
            "access-control-allow-methods: PUT, DELETE",
            "access-control-allow-origin: https://app.example",
            "access-control-expose-headers: x-request-id",
            "access-control-max-age: 600",
        ]
    );
    let vary: Vec<&str> = told.head.lines().filter(|line| line.starts_with("vary")).collect();
    assert_eq!(vary, ["vary: access-control-request-method, access-control-request-headers", "vary: origin"]);
    for origin in ["https://evil.example", "https://app.example.evil", "http://app.example", "null"] {
        let told = preflight(&cluster, "/api/x", &format!("origin: {origin}\r\n{asked}")).await;
        assert_eq!((told.status, says(&told)), (204, vec![]), "{origin}");
    }
    assert_eq!(upstream.requests().len(), 0, "no preflight went on");
    // What is no preflight is any request: nobody has a route for OPTIONS here.
    assert_eq!(preflight(&cluster, "/api/x", "origin: https://app.example\r\n").await.status, 404);
    assert_eq!(preflight(&cluster, "/other", &format!("origin: https://app.example\r\n{asked}")).await.status, 404);

    let call = |origin: &str, key: &str| {
        raw(
            cluster.address,
            format!("PUT /api/x HTTP/1.1\r\nhost: test\r\nconnection: close\r\n{origin}{key}content-length: 0\r\n\r\n"),
        )
    };
    let key = "authorization: Bearer sk-alice\r\n";
    let fine = call("origin: https://x.app.example\r\n", key).await;
    let read = [
        "access-control-allow-credentials: true",
        "access-control-allow-origin: https://x.app.example",
        "access-control-expose-headers: x-request-id",
    ];
    assert_eq!((fine.status, says(&fine)), (200, read.to_vec()), "{}", fine.raw);
    assert!(fine.head.contains("vary: accept\r\nvary: origin"), "{}", fine.raw);
    // A script can read why it was refused; one of another origin can't read anything, whatever the upstream says.
    let refused = call("origin: https://x.app.example\r\n", "").await;
    assert_eq!((refused.status, says(&refused)), (401, read.to_vec()));
    let foreign = call("origin: https://evil.example\r\n", key).await;
    assert_eq!((foreign.status, says(&foreign)), (200, vec![]));
    assert!(foreign.head.contains("vary: origin"), "{}", foreign.raw);
}

/// A preflight names no model, and has no body to look for one in.
#[tokio::test]
async fn a_preflight_of_an_ai_route_that_asks_for_a_model_is_answered() {
    let cluster = Cluster::start(
        "
kind: Provider
metadata: {name: p}
spec: {type: openai, endpoints: [{url: 'http://127.0.0.1:1/v1'}]}
---
kind: Route
metadata: {name: ai}
spec:
  match: [{path: {prefix: /v1}, methods: [POST], models: ['gpt-4*']}]
  backends: [{provider: p}]
  cors: {origins: ['https://app.example'], headers: [authorization, content-type]}
",
    )
    .await;
    let asked = "origin: https://app.example\r\naccess-control-request-method: POST\r\n";
    let told = preflight(&cluster, "/v1/chat/completions", asked).await;
    assert_eq!(
        (told.status, told.header("access-control-allow-methods")),
        (204, Some("GET, HEAD, POST")),
        "{}",
        told.raw
    );
}

#[tokio::test]
async fn a_route_for_everybody_says_so_and_names_what_was_asked_for() {
    let cluster =
        Cluster::start(&fixed("open", "cors: {origins: ['*'], methods: ['*'], headers: ['*'], exposeHeaders: ['*']}"))
            .await;
    let asked =
        "origin: null\r\naccess-control-request-method: PATCH\r\naccess-control-request-headers: authorization,x-a\r\n";
    let told = preflight(&cluster, "/x", asked).await;
    assert_eq!(
        says(&told),
        [
            "access-control-allow-headers: authorization,x-a",
            "access-control-allow-methods: PATCH",
            "access-control-allow-origin: *",
            "access-control-expose-headers: *",
        ]
    );
    assert!(!told.head.contains("vary: origin"), "{}", told.raw);
    assert_eq!(get(cluster.address, "/x", "").await.header("access-control-allow-origin"), Some("*"));
}

#[tokio::test]
async fn a_call_that_is_aborted_on_purpose_uses_no_limit_and_reaches_nobody() {
    let limit = "---\nkind: Limit\nmetadata: {name: some}\nspec: {match: {routes: [bad]}, unit: requests, limit: 1, window: 1h}\n";
    let bad = fixed(
        "bad",
        "match: [{path: {exact: /bad}}], faults: {abort: {percent: 100, status: 503}}, auth: {required: true}",
    );
    let cluster = Cluster::start(
        &(bad + &fixed("good", "match: [{path: {exact: /good}}], faults: {abort: {percent: 0, status: 500}}") + limit),
    )
    .await;
    for _ in 0..3 {
        let answer = get(cluster.address, "/bad", "x-api-key: sk-alice\r\n").await;
        assert_eq!((answer.status, answer.code().as_str()), (503, "fault_injected"), "{}", answer.raw);
    }
    assert!(cluster.accounts("some").iter().all(|account| account.used == 0), "{:?}", cluster.accounts("some"));
    assert_eq!(get(cluster.address, "/bad", "").await.status, 401, "first who calls");
    assert_eq!(get(cluster.address, "/good", "").await.status, 200);
    assert!(
        cluster.metrics().contains("tollgate_http_faults_injected_total{fault=\"abort\"} 3"),
        "{}",
        cluster.metrics()
    );
}

#[tokio::test]
async fn a_call_that_is_delayed_on_purpose_waits_and_is_served() {
    let cluster = Cluster::start(&fixed("slow", "faults: {delay: {percent: 100, for: 300ms}}")).await;
    let since = Instant::now();
    assert_eq!(get(cluster.address, "/x", "").await.body, "fine");
    assert!(since.elapsed() >= Duration::from_millis(300), "{:?}", since.elapsed());
    assert!(cluster.metrics().contains("tollgate_http_faults_injected_total{fault=\"delay\"} 1"));
}

/// Nobody's body is read for routes that are not for its address; one that may be for a route that is, is.
#[tokio::test]
async fn an_address_that_no_route_is_for_is_refused_before_the_body() {
    let route = |name: &str, models: &str, rest: &str| {
        format!(
            "---\nkind: Route\nmetadata: {{name: {name}}}\nspec: {{match: [{{path: {{prefix: /{name}}}, models: [{models}]}}, {{path: {{prefix: /both}}, models: [{models}]}}], backends: [{{provider: p}}], auth: {{required: false}}{rest}}}\n"
        )
    };
    let provider =
        "kind: Provider\nmetadata: {name: p}\nspec: {type: openai, endpoints: [{url: 'http://127.0.0.1:1/v1'}]}\n";
    let closed = route("closed", "'gpt-*'", ", ips: {deny: [127.0.0.0/8]}");
    let cluster = Cluster::start(&format!("{provider}{closed}{}", route("open", "claude", ""))).await;
    let mut stream = TcpStream::connect(cluster.address).await.unwrap();
    let head = "POST /closed/v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let refused = read_until(&mut stream, "not for this address").await;
    assert!(refused.starts_with("HTTP/1.1 403 "), "{refused}");

    let ask = async |model: &str| {
        let body = format!(r#"{{"model":"{model}","messages":[{{"role":"user","content":"a"}}]}}"#);
        raw(cluster.address, post_text("/both/v1/chat/completions", "", &body)).await.status
    };
    assert_eq!(ask("gpt-4").await, 403, "it is the final route's to say");
    assert_ne!(ask("claude").await, 403);
}
