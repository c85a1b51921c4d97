//! Paths, hosts and headers that a route changes on the way, and redirects that it builds.

use crate::{
    clients::{call, get, post_text, raw},
    cluster::Cluster,
    upstream::{Reply, Upstream, answer},
};

async fn echo() -> Upstream {
    Upstream::always(Reply::Keep(answer(200, "x-up: 1\r\nserver: theirs\r\nx-both: theirs\r\n", "fine"))).await
}

fn service(upstream: &Upstream, protocol: &str, route: &str) -> String {
    format!(
        "
kind: Service
metadata: {{name: orders}}
spec: {{protocol: {protocol}, endpoints: [{{address: '{}'}}]}}
---
kind: Route
metadata: {{name: orders}}
spec: {{backends: [{{service: orders}}], {route}}}
",
        upstream.address
    )
}

/// The request line and the value of a header, as the upstream had them.
fn last(upstream: &Upstream, header: &str) -> (String, Option<String>) {
    let request = upstream.requests().pop().expect("a request came");
    let line = request.lines().next().unwrap_or_default().to_owned();
    let value = request.lines().find_map(|line| line.strip_prefix(&format!("{header}: ")).map(str::to_owned));
    (line, value)
}

#[tokio::test]
async fn the_matched_prefix_is_replaced_and_the_rest_and_the_query_stay() {
    let upstream = echo().await;
    let cluster = Cluster::start(&service(
        &upstream,
        "http",
        "match: [{path: {prefix: /shop}}, {path: {prefix: /shop/old}}], rewrite: {prefix: /v2/}",
    ))
    .await;
    for (path, expected) in [
        ("/shop/a/b?x=%2f&y", "/v2/a/b?x=%2f&y"),
        ("/shop", "/v2"),
        ("/shop/", "/v2/"),
        ("/shop/old/a", "/v2/a"),
        ("/shop//%61", "/v2/a"),
    ] {
        assert_eq!(get(cluster.address, path, "").await.status, 200, "{path}");
        assert_eq!(last(&upstream, "host"), (format!("GET {expected} HTTP/1.1"), Some("test".into())), "{path}");
    }
    assert_eq!(get(cluster.address, "/shopping", "").await.status, 404);
}

#[tokio::test]
async fn a_host_is_rewritten_and_the_one_asked_for_is_told() {
    let upstream = echo().await;
    let route = "rewrite: {host: 'Inner.example:8080', path: /fixed}";
    let cluster = Cluster::start(&service(&upstream, "http", route)).await;
    get(cluster.address, "/a?b", "").await;
    assert_eq!(last(&upstream, "host"), ("GET /fixed?b HTTP/1.1".into(), Some("inner.example:8080".into())));
    assert_eq!(last(&upstream, "x-forwarded-host").1.as_deref(), Some("test"));
}

#[tokio::test]
async fn a_pattern_makes_another_path_of_its_groups() {
    let upstream = echo().await;
    let route = "rewrite: {regex: {pattern: '/(?<team>[a-z]+)/v([0-9]+)(/.*)?', to: '/v$2/teams/${team}$3'}}";
    let cluster = Cluster::start(&service(&upstream, "http", route)).await;
    for (path, expected) in [("/red/v1/x?q", "/v1/teams/red/x?q"), ("/red/v1", "/v1/teams/red"), ("/Red/v1", "/Red/v1")]
    {
        get(cluster.address, path, "").await;
        assert_eq!(last(&upstream, "host").0, format!("GET {expected} HTTP/1.1"), "{path}");
    }
    let many = "rewrite: {regex: {pattern: '(/.*)', to: '$1$1$1$1$1$1$1$1'}}";
    cluster.apply(&service(&upstream, "http", many));
    let before = upstream.requests().len();
    let refused = get(cluster.address, &format!("/{}", "a".repeat(5_000)), "").await;
    assert_eq!((refused.status, refused.code().as_str()), (400, "invalid_request"));
    assert_eq!(upstream.requests().len(), before, "nothing was sent");
}

/// What a pattern takes stays within what its template puts before it.
#[tokio::test]
async fn no_group_leads_out_of_a_template() {
    let upstream = echo().await;
    let route = "rewrite: {regex: {pattern: '/v(.*)', to: '/api/$1'}}";
    let cluster = Cluster::start(&service(&upstream, "http", route)).await;
    for path in ["/v../admin", "/v%2e./admin", "/v./admin", "/v.."] {
        let refused = get(cluster.address, path, "").await;
        assert_eq!((refused.status, refused.code().as_str()), (400, "invalid_request"), "{path}");
    }
    assert!(upstream.requests().is_empty(), "{:?}", upstream.requests());
    get(cluster.address, "/v..1/x", "").await;
    assert_eq!(last(&upstream, "host").0, "GET /api/..1/x HTTP/1.1");
}

#[tokio::test]
async fn a_path_that_leads_out_is_refused_and_not_tried_elsewhere() {
    let upstream = echo().await;
    let route =
        "rewrite: {regex: {pattern: '/v(.*)', to: '/api/$1'}}, fallbacks: [{service: orders, on: [connectFailure]}],
       retries: {attempts: 3, on: [connectFailure]}";
    let cluster = Cluster::start(&service(&upstream, "http", route)).await;
    let refused = get(cluster.address, "/v../admin", "").await;
    assert_eq!((refused.status, refused.code().as_str()), (400, "invalid_request"), "{}", refused.raw);
    let metrics = cluster.metrics();
    assert!(!metrics.contains("attempts_total{upstream=\"orders\""), "{metrics}");
}

#[tokio::test]
async fn headers_are_edited_both_ways_and_no_client_can_take_them_back() {
    let upstream = echo().await;
    let route = "requestHeaders: {set: {x-env: prod, user-agent: gateway}, add: {x-tag: b}, remove: [x-debug]},
       responseHeaders: {set: {x-frame-options: DENY}, add: {x-both: ours}, remove: [server]}";
    let cluster = Cluster::start(&service(&upstream, "http", route)).await;
    let sent = "connection: close, x-env\r\nx-env: theirs\r\nx-tag: a\r\nx-debug: 1\r\nuser-agent: curl\r\n";
    let request = format!("GET / HTTP/1.1\r\nhost: test\r\n{sent}\r\n");
    let answer = raw(cluster.address, request).await;
    let request = upstream.requests().pop().unwrap();
    let all = |name: &str| request.lines().filter(|line| line.starts_with(name)).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(all("x-env"), ["x-env: prod"]);
    assert_eq!(all("user-agent"), ["user-agent: gateway"]);
    assert_eq!(all("x-tag"), ["x-tag: a", "x-tag: b"]);
    assert_eq!(all("x-debug"), Vec::<String>::new());
    assert_eq!((answer.header("x-frame-options"), answer.header("server")), (Some("DENY"), None), "{}", answer.raw);
    let both: Vec<&str> = answer.head.lines().filter(|line| line.starts_with("x-both")).collect();
    assert_eq!(both, ["x-both: theirs", "x-both: ours"]);
}

#[tokio::test]
async fn what_the_route_says_of_answers_is_on_its_refusals_and_its_own_answers_too() {
    let cluster = Cluster::start(
        "
kind: Route
metadata: {name: fixed}
spec: {match: [{path: {exact: /fixed}}], response: {body: x}, responseHeaders: {set: {x-policy: strict}}}
---
kind: Route
metadata: {name: private}
spec:
  match: [{path: {exact: /private}}]
  response: {body: x}
  auth: {required: true}
  responseHeaders: {set: {x-policy: strict}}
---
kind: Route
metadata: {name: plain}
spec: {response: {body: x}}
",
    )
    .await;
    for (path, status, policy) in
        [("/fixed", 200, Some("strict")), ("/private", 401, Some("strict")), ("/x", 200, None)]
    {
        let answer = get(cluster.address, path, "").await;
        assert_eq!((answer.status, answer.header("x-policy")), (status, policy), "{path}");
    }
}

#[tokio::test]
async fn a_provider_is_sent_the_routes_headers_and_its_key() {
    let body = r#"{"id":"x","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"a"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}"#;
    let upstream = Upstream::always(Reply::Keep(answer(200, "content-type: application/json\r\n", body))).await;
    let cluster = Cluster::start(&format!(
        "
kind: Provider
metadata: {{name: p}}
spec: {{type: openai, endpoints: [{{url: 'http://{}/v1'}}], keys: [{{value: sk-upstream}}]}}
---
kind: Route
metadata: {{name: ai}}
spec:
  backends: [{{provider: p}}]
  requestHeaders: {{set: {{openai-organization: org-1}}, remove: [x-internal]}}
  responseHeaders: {{set: {{x-served: here}}}}
",
        upstream.address
    ))
    .await;
    let request = r#"{"model":"m","messages":[{"role":"user","content":"a"}]}"#;
    let headers = "authorization: Bearer sk-alice\r\nx-internal: 1\r\n";
    let answer = raw(cluster.address, post_text("/v1/chat/completions", headers, request)).await;
    assert_eq!((answer.status, answer.header("x-served")), (200, Some("here")), "{}", answer.raw);
    let sent = upstream.requests().pop().unwrap();
    assert!(sent.contains("openai-organization: org-1\r\n") && !sent.contains("x-internal"), "{sent}");
    assert!(sent.contains("authorization: Bearer sk-upstream\r\n"), "{sent}");
    assert_eq!(call(cluster.address, "/v1/chat/completions", request).await.status, 200);
}

#[tokio::test]
async fn a_redirect_is_built_of_the_request_and_keeps_its_query() {
    let redirect = |name: &str, prefix: &str, fields: &str| {
        format!(
            "---\nkind: Route\nmetadata: {{name: {name}}}\nspec: {{match: [{{path: {{prefix: {prefix}}}}}], redirect: {{{fields}}}}}\n"
        )
    };
    let cluster = Cluster::start(
        &[
            redirect("tls", "/tls", "scheme: https, status: 301"),
            redirect("host", "/host", "host: 'other.example:81', status: 307"),
            redirect("path", "/path", "path: /new, status: 308"),
            redirect("moved", "/old", "prefix: /new, scheme: https, host: b.example"),
            redirect("up", "/up", "prefix: /"),
        ]
        .concat(),
    )
    .await;
    for (path, status, location) in [
        ("/tls/a?b=1", 301, "https://test/tls/a?b=1"),
        ("/host/a", 307, "//other.example:81/host/a"),
        ("/path/a?x", 308, "/new?x"),
        ("/old/a/b?x", 302, "https://b.example/new/a/b?x"),
        ("/up//evil.example", 302, "/evil.example"),
        ("/up", 302, "/"),
    ] {
        let answer = get(cluster.address, path, "").await;
        assert_eq!((answer.status, answer.header("location")), (status, Some(location)), "{path}");
    }
}
