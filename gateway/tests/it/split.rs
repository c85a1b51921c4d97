//! Which backend a request goes to: by what it is for, by weight, and by staying.

use std::collections::BTreeMap;

use crate::{
    clients::{call, get},
    cluster::Cluster,
    upstream::{Reply, Upstream, answer},
};

async fn named(name: &str) -> Upstream {
    Upstream::always(Reply::Keep(answer(200, "", name))).await
}

fn services(upstreams: &[(&str, &Upstream)]) -> String {
    let service = |(name, upstream): &(&str, &Upstream)| {
        format!(
            "---\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{endpoints: [{{address: '{}'}}]}}\n",
            upstream.address
        )
    };
    upstreams.iter().map(service).collect()
}

fn route(spec: &str) -> String {
    format!("---\nkind: Route\nmetadata: {{name: split}}\nspec: {{{spec}}}\n")
}

#[tokio::test]
async fn a_canary_takes_what_it_is_for_and_the_rest_is_split() {
    let (stable, canary) = (named("stable").await, named("canary").await);
    let spec = "backends: [{service: canary, when: {headers: {x-canary: {exact: 'yes'}}}}, \
                {service: canary, when: {consumers: [alice]}}, {service: canary, when: {query: {v: {exact: '2'}}}}, \
                {service: canary, when: {cookies: {beta: {present: true}}}}, {service: stable}, {service: canary, weight: 0}]";
    let cluster = Cluster::start(&(services(&[("stable", &stable), ("canary", &canary)]) + &route(spec))).await;
    for (path, headers, expected) in [
        ("/", "", "stable"),
        ("/", "x-canary: yes\r\n", "canary"),
        ("/", "x-canary: no\r\n", "stable"),
        ("/", "x-api-key: sk-alice\r\n", "canary"),
        ("/", "x-api-key: sk-bobby\r\n", "stable"),
        ("/?v=2", "", "canary"),
        ("/?v=3", "", "stable"),
        ("/", "cookie: beta=1\r\n", "canary"),
    ] {
        assert_eq!(get(cluster.address, path, headers).await.body, expected, "{path} {headers}");
    }
}

#[tokio::test]
async fn a_caller_stays_with_its_backend_on_every_node_while_weights_stand() {
    let (a, b) = (named("a").await, named("b").await);
    let services = services(&[("a", &a), ("b", &b)]);
    let by = |weights: (u32, u32)| {
        let (a, b) = weights;
        route(&format!(
            "backends: [{{service: a, weight: {a}}}, {{service: b, weight: {b}}}], sticky: {{header: x-user}}"
        ))
    };
    let (one, other) =
        (Cluster::start(&(services.clone() + &by((50, 50)))).await, Cluster::start(&(services + &by((50, 50)))).await);
    let mut at: BTreeMap<String, String> = BTreeMap::new();
    for user in 0..40 {
        let header = format!("x-user: user-{user}\r\n");
        let body = get(one.address, "/", &header).await.body;
        for address in [one.address, other.address] {
            assert_eq!(get(address, "/", &header).await.body, body, "{header}");
        }
        at.insert(header, body);
    }
    let count = |name: &str| at.values().filter(|body| *body == name).count();
    assert!(count("a") > 8 && count("b") > 8, "{at:?}");
    // More for the second: whoever was there stays.
    one.apply(&by((20, 80)));
    let mut moved = 0;
    for (header, was) in &at {
        let is = get(one.address, "/", header).await.body;
        assert!(is == *was || is == "b", "{header}: {was} to {is}");
        moved += usize::from(is != *was);
    }
    assert!(moved > 0, "{at:?}");
}

#[tokio::test]
async fn a_cookie_keeps_a_browser_where_it_is() {
    let (a, b) = (named("a").await, named("b").await);
    let spec = "backends: [{service: a}, {service: b}], sticky: {cookie: tg, maxAge: 1h}, auth: {required: false}";
    let cluster = Cluster::start(&(services(&[("a", &a), ("b", &b)]) + &route(spec))).await;
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..24 {
        let first = get(cluster.address, "/", "").await;
        let told = first.header("set-cookie").unwrap_or_else(|| panic!("no cookie in {}", first.raw)).to_owned();
        assert!(told.ends_with("; Path=/; HttpOnly; SameSite=Lax; Max-Age=3600"), "{told}");
        let cookie = told.split(';').next().unwrap();
        for _ in 0..3 {
            let again = get(cluster.address, "/", &format!("cookie: x=y; {cookie}\r\n")).await;
            assert_eq!((again.body.as_str(), again.header("set-cookie")), (first.body.as_str(), None));
        }
        *seen.entry(first.body).or_default() += 1;
    }
    assert_eq!(seen.len(), 2, "{seen:?}");
    let forged = get(cluster.address, "/", "cookie: tg=backend-a\r\n").await;
    assert!(forged.header("set-cookie").is_some(), "{}", forged.raw);
}

#[tokio::test]
async fn a_consumer_stays_with_its_provider() {
    let body = |name: &str| {
        format!(
            r#"{{"id":"x","object":"chat.completion","created":1,"model":"{name}","choices":[{{"index":0,"message":{{"role":"assistant","content":"{name}"}},"finish_reason":"stop"}}],"usage":{{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}}}"#
        )
    };
    let mut resources = String::new();
    let mut upstreams = Vec::new();
    for name in ["p", "q"] {
        let upstream =
            Upstream::always(Reply::Keep(answer(200, "content-type: application/json\r\n", &body(name)))).await;
        resources += &format!(
            "---\nkind: Provider\nmetadata: {{name: {name}}}\nspec: {{type: openai, endpoints: [{{url: 'http://{}/v1'}}]}}\n",
            upstream.address
        );
        upstreams.push(upstream);
    }
    let cluster =
        Cluster::start(&(resources + &route("backends: [{provider: p}, {provider: q}], sticky: {consumer: true}")))
            .await;
    let request = r#"{"model":"m","messages":[{"role":"user","content":"a"}]}"#;
    let first = call(cluster.address, "/v1/chat/completions", request).await;
    assert_eq!(first.status, 200, "{}", first.raw);
    for _ in 0..5 {
        let again = call(cluster.address, "/v1/chat/completions", request).await;
        assert_eq!(again.header("x-tollgate-provider"), first.header("x-tollgate-provider"), "{}", again.raw);
    }
}
