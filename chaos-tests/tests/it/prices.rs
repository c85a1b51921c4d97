//! What usage costs, by the prices that a request was admitted under.

use serde_json::Value;
use tollgate_chaos_tests::{
    Cluster, Outcome,
    calls::Call,
    client::{End, LIMIT},
    eventually,
    resources::{self, api_key, document},
};

/// Every call's: four words and one message, and the answer that it allows.
const INPUT: u64 = 5;
const OUTPUT: u64 = 16;

/// Figures for a million tokens, so in millionths of a currency unit for one.
fn price(input: u64, output: u64) -> String {
    document(
        "Price",
        "mock",
        &format!("{{currency: USD, match: {{models: [mock-1]}}, input: {input}, output: {output}}}"),
    )
}

/// As `usage` writes it.
fn micros(amount: u64) -> String {
    let text = format!("{}.{:06}", amount / 1_000_000, amount % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn paying(tenant: &str, billing: &str) -> String {
    document("Tenant", tenant, &format!("{{billing: {billing}}}"))
        + &resources::consumer(&format!("of-{tenant}"), tenant)
}

async fn call(cluster: &Cluster, origin: &str, consumer: &str) -> anyhow::Result<()> {
    let answer = cluster.client.send(Call::chat(&api_key(consumer), "mock-1").request(origin), LIMIT).await?;
    anyhow::ensure!(answer.status == 200, "{}", answer.text());
    Ok(())
}

/// A line of `usage --by tenant`.
#[derive(Clone, Debug)]
struct Line {
    tenant: &'static str,
    requests: u64,
    cost: Option<String>,
    currency: Option<&'static str>,
    unpriced: u64,
}

/// So many requests for so many millionths of a dollar.
fn dollars(requests: u64, cost: u64) -> Line {
    Line { tenant: "dollars", requests, cost: Some(micros(cost)), currency: Some("USD"), unpriced: 0 }
}

/// Waits until usage is this, and what the other tenants used at first: nothing is priced in euros, and nothing billed of
/// those who are free.
async fn bills(cluster: &Cluster, dollars: Line) -> anyhow::Result<()> {
    let euros = Line { tenant: "euros", requests: 3, cost: Some("0".into()), currency: Some("EUR"), unpriced: 3 };
    let free = Line { tenant: "free", requests: 3, cost: None, currency: None, unpriced: 0 };
    let text = |value: &Value| value.as_str().map(str::to_owned);
    eventually("usage has its cost", || async {
        let rows = cluster.cli().rows(&["usage", "--by", "tenant"]).await?;
        anyhow::ensure!(rows.len() == 3, "{rows:?}");
        for (row, line) in rows.iter().zip([&dollars, &euros, &free]) {
            let figures = (row["requests"].as_u64(), row["unpricedRequests"].as_u64());
            let told = (row["tenant"].as_str(), figures, text(&row["cost"]), row["currency"].as_str());
            let figures = (Some(line.requests), Some(line.unpriced));
            let expected = (Some(line.tenant), figures, line.cost.clone(), line.currency);
            anyhow::ensure!(told == expected, "not {line:?}: {row}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn usage_costs_what_it_did_when_it_was_admitted() -> Outcome {
    let mut cluster = Cluster::start().await?;
    let _provider = cluster.with_standard(&[]).await?;
    let tenants = paying("dollars", "{mode: postpaid, currency: USD}")
        + &paying("euros", "{mode: postpaid, currency: EUR}")
        + &paying("free", "{mode: none, currency: USD}");
    cluster.cli().apply_and_wait(&(price(150_000, 600_000) + &tenants)).await?;
    let origins = cluster.origins();
    for origin in &origins {
        for consumer in ["of-dollars", "of-euros", "of-free"] {
            call(&cluster, origin, consumer).await?;
        }
    }
    let cheap = INPUT * 150_000 + OUTPUT * 600_000;
    bills(&cluster, dollars(3, 3 * cheap)).await?;

    // A stream that began before a change ends by the price that it began with.
    let slow = Call::chat(&api_key("of-dollars"), "mock-1").stream().header("x-mock-pace", "250ms");
    let stream = cluster.client.open(slow.request(&origins[0]), LIMIT).await?;
    assert_eq!(stream.status, 200);
    cluster.cli().apply_and_wait(&price(1_000_000, 2_000_000)).await?;
    call(&cluster, &origins[1], "of-dollars").await?;
    let dear = INPUT * 1_000_000 + OUTPUT * 2_000_000;
    let (_, end) = stream.rest().await;
    assert_eq!(end, End::Framed);
    bills(&cluster, dollars(5, 4 * cheap + dear)).await?;

    // Nobody forgets it.
    for id in 1..=3 {
        cluster.node(id).kill()?;
    }
    for id in 1..=3 {
        cluster.node(id).start()?;
    }
    cluster.ready().await?;
    call(&cluster, &origins[2], "of-dollars").await?;
    bills(&cluster, dollars(6, 4 * cheap + 2 * dear)).await?;
    Ok(())
}

#[tokio::test]
async fn prices_that_nobody_can_be_billed_by_are_refused() -> Outcome {
    let cluster = Cluster::with(tollgate_chaos_tests::Plan { nodes: 1, ..Default::default() }).await?;
    cluster.cli().apply(&paying("euros", "{mode: postpaid, currency: EUR}")).await?;
    let forty = "1".repeat(40);
    for (spec, said) in [
        ("{currency: USD, input: -1}".to_owned(), "spec.input: must not be negative"),
        (format!("{{currency: USD, input: '{forty}'}}"), "spec.input: `1111"),
        ("{currency: USD, input: '0.0000001'}".to_owned(), "spec.input: `0.0000001` for 1000000 tokens is no whole"),
        (
            "{currency: USD, input: 1, table: contract, match: {tenants: [euros]}}".to_owned(),
            "spec.match.tenants[0]: tenant `euros` pays in EUR, and this price is in USD",
        ),
    ] {
        let refused = cluster.cli().run_with(&["apply", "-f", "-"], &document("Price", "wrong", &spec)).await?;
        assert!(refused.code == 1 && refused.stderr.contains(said), "{spec}: {refused:?}");
    }
    Ok(())
}
