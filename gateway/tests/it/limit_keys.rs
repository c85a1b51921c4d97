//! Which requests share an account of a limit, and which each have their own.

use crate::{
    ai::{completion, provider, two},
    clients::{Answer, call, get, raw},
    cluster::Cluster,
    upstream::{Reply, Upstream, json as json_answer},
};

/// A route that answers by itself, and a limit of two requests an hour on it.
fn limited(matched: &str, per: &str) -> String {
    format!(
        "kind: Route\nmetadata: {{name: open}}\nspec: {{match: [{{path: {{prefix: /}}}}], response: {{body: fine}}}}\n---\nkind: Limit\nmetadata: {{name: few}}\nspec: {{match: {{{matched}}}, per: [{per}], unit: requests, limit: 2, window: 1h}}\n"
    )
}

fn left(answer: &Answer) -> Option<u64> {
    answer.header("x-ratelimit-remaining-requests").map(|left| left.parse().unwrap())
}

async fn left_with(cluster: &Cluster, path: &str, headers: &str) -> Option<u64> {
    left(&get(cluster.address, path, headers).await)
}

#[tokio::test]
async fn each_address_has_its_own_account_and_only_a_trusted_proxy_names_it() {
    let resources = limited("cidrs: [127.0.0.0/8, 192.0.2.0/24, '2001:db8::/32']", "ip");
    let cluster = Cluster::start(&resources).await;
    // Nobody believes a stranger: all of these are the peer.
    assert_eq!(left_with(&cluster, "/", "x-forwarded-for: 192.0.2.1\r\n").await, Some(1));
    assert_eq!(left_with(&cluster, "/", "x-forwarded-for: 203.0.113.1\r\n").await, Some(0));

    let trusting = |config: &mut tollgate_gateway::GatewayConfig| {
        config.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
    };
    let cluster = Cluster::start_with(&resources, trusting).await;
    for (client, expected) in [
        ("192.0.2.1", Some(1)),
        ("192.0.2.2", Some(1)),
        ("6.6.6.6, 192.0.2.1", Some(0)),
        ("::ffff:192.0.2.2", Some(0)),
        ("2001:db8::7", Some(1)),
        ("2001:0db8:0::7", Some(0)),
        ("203.0.113.1", None),
    ] {
        assert_eq!(left_with(&cluster, "/", &format!("x-forwarded-for: {client}\r\n")).await, expected, "{client}");
    }
    let refused = get(cluster.address, "/", "x-forwarded-for: 192.0.2.1\r\n").await;
    assert_eq!((refused.status, refused.code().as_str()), (429, "rate_limit_exceeded"), "{}", refused.raw);
}

#[tokio::test]
async fn what_a_client_sends_names_its_account_whatever_it_sends() {
    let cluster = Cluster::start(&limited("", "'header:X-Team', 'query:app', 'cookie:sid'")).await;
    let long = "x".repeat(10_000);
    let longer = "x".repeat(10_001);
    for (path, headers, expected) in [
        ("/", String::new(), 1),
        ("/?app=", "x-team:\r\ncookie: sid=\r\n".to_owned(), 0), // empty is absent
        ("/?app=a", "x-team: red\r\n".to_owned(), 1),
        ("/?b=1&%61pp=a&app=b", "x-team: red\r\n".to_owned(), 0),
        ("/?app=a", "x-team: red\r\ncookie: sid=1\r\n".to_owned(), 1),
        ("/?app=%00%0d%0a", String::new(), 1),
        ("/?app=%00%0d%0a", String::new(), 0),
        ("/", format!("x-team: {long}\r\n"), 1),
        ("/", format!("x-team: {longer}\r\n"), 1),
        ("/", format!("x-team: {long}\r\n"), 0),
    ] {
        let answer = get(cluster.address, path, &headers).await;
        assert_eq!((answer.status, left(&answer)), (200, Some(expected)), "{path} {} {}", headers.len(), answer.raw);
    }
    let latin = raw(cluster.address, b"GET / HTTP/1.1\r\nhost: a\r\nx-team: \xe9\r\nconnection: close\r\n\r\n").await;
    assert_eq!(left(&latin), Some(1), "{}", latin.raw);
    let accounts = cluster.accounts("few");
    assert!(accounts.iter().all(|account| account.key.iter().all(|value| value.len() <= 1_024)), "{accounts:?}");
    let cookies = accounts.iter().filter(|account| account.key[2].starts_with("sha256:")).count();
    assert_eq!(cookies, 1, "a cookie is not shown: {accounts:?}");
}

#[tokio::test]
async fn a_credential_names_an_account_though_it_goes_no_further() {
    let upstream = Upstream::always(Reply::Keep(json_answer(&completion(7, 5)))).await;
    let limit = "---\nkind: Limit\nmetadata: {name: few}\nspec: {per: ['header:authorization'], unit: requests, limit: 2, window: 1h}\n";
    let cluster = Cluster::start(&(provider(&upstream, "openai") + limit)).await;
    let body = r#"{"model":"m","max_tokens":10,"messages":[{"role":"user","content":"hi"}]}"#;
    assert_eq!(left(&call(cluster.address, "/v1/chat/completions", body).await), Some(1));
    assert_eq!(left(&get(cluster.address, "/v1/models", "authorization: Bearer sk-bobby\r\n").await), Some(2));
    let accounts = cluster.accounts("few");
    assert_eq!(accounts.len(), 1);
    assert!(accounts[0].account.starts_with("sha256:") && !accounts[0].account.contains("sk-"), "{accounts:?}");
}

#[tokio::test]
async fn the_provider_that_is_tried_first_is_charged_for_what_a_fallback_serves() {
    let broken = Upstream::always(Reply::Keep("HTTP/1.1 503 no\r\ncontent-length: 0\r\n\r\n".into())).await;
    let good = Upstream::always(Reply::Keep(json_answer(&completion(7, 5)))).await;
    let limit =
        "---\nkind: Limit\nmetadata: {name: few}\nspec: {per: [provider], unit: tokens, limit: 1000, window: 1h}\n";
    let resources = two(&broken, &good, "openai", "'503'") + limit;
    let cluster = Cluster::start(&resources).await;
    let body = r#"{"model":"m","max_tokens":10,"messages":[{"role":"user","content":"hi"}]}"#;
    let answer = call(cluster.address, "/v1/chat/completions", body).await;
    assert_eq!((answer.status, answer.header("x-tollgate-provider")), (200, Some("second")), "{}", answer.raw);
    cluster.settled(1).await;
    cluster.nothing_held().await;
    let accounts = cluster.accounts("few");
    assert_eq!(accounts.len(), 1, "{accounts:?}");
    assert_eq!((accounts[0].account.as_str(), accounts[0].used), ("first", 12));
}
