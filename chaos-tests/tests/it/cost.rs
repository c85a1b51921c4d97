//! Limits on what calls cost, on all nodes at once: the provider's own count times the price is what they say, and never more
//! than they hold.

use serde_json::Value;
use tollgate_chaos_tests::{
    Cluster, Outcome, Provider, Seed,
    burst::{Manner, Told, alike, burst},
    calls::Call,
    client::{End, LIMIT},
    eventually,
    resources::{self, api_key, document},
};

use crate::matrix::say;

/// Millionths of a dollar for one token of output; what comes in is free, so that what a call holds is what it costs.
const TOKEN: u64 = 2;
/// And for a call.
const CALL: u64 = 1_000;

fn price(token: u64, call: u64) -> String {
    let figures = format!("input: 0, output: {token}, request: '{}'", dollars(call));
    document("Price", "mock", &format!("{{currency: USD, match: {{models: [mock-1]}}, {figures}}}"))
}

/// Millionths, as they are written.
fn dollars(micros: u64) -> String {
    let text = format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn budget(micros: u64) -> String {
    document("Limit", "budget", &format!("{{per: [tenant], unit: cost, limit: '{}', window: 1d}}", dollars(micros)))
}

/// Three nodes, a provider, and a tenant that pays, with so many millionths of a dollar a day.
async fn paying(micros: u64) -> anyhow::Result<(Cluster, Provider)> {
    let cluster = Cluster::start().await?;
    let provider = cluster.with_standard(&[]).await?;
    let payer = document("Tenant", "payer", "{billing: {mode: postpaid, currency: USD}}");
    let all = payer + &resources::consumer("penny", "payer") + &price(TOKEN, CALL) + &budget(micros);
    cluster.cli().apply_and_wait(&all).await?;
    Ok((cluster, provider))
}

fn call() -> Call {
    Call::chat(&api_key("penny"), "mock-1")
}

/// Waits until so much is used of the limit and billed to the tenant, to the millionth, and nothing is held.
async fn stands_at(cluster: &Cluster, micros: u64) -> anyhow::Result<()> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    eventually("the limit says what the bill says", || async {
        let limits = cluster.cli().rows(&["limits", "show", "--limit", "budget"]).await?;
        let bills = cluster.cli().rows(&["usage", "--by", "tenant"]).await?;
        let ([limit], [bill]) = (limits.as_slice(), bills.as_slice()) else {
            anyhow::bail!("{limits:?} {bills:?}");
        };
        let told = (text(&limit["used"]), text(&limit["held"]), text(&limit["overrun"]), text(&bill["cost"]));
        let (zero, due) = (Some("0".to_owned()), Some(dollars(micros)));
        anyhow::ensure!(told == (due.clone(), zero.clone(), zero, due), "{limit} {bill}");
        anyhow::ensure!((limit["unit"].as_str(), limit["currency"].as_str()) == (Some("cost"), Some("USD")), "{limit}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_race_for_the_last_money_admits_exactly_those_who_can_pay() -> Outcome {
    const CALLERS: usize = 100;
    const PLACES: u64 = 20;
    let each = CALL + 16 * TOKEN;
    // What is over pays for no further call.
    let (cluster, provider) = paying(PLACES * each + each - 1).await?;
    let seed = Seed::from_env();
    let told = burst(&cluster.client, &cluster.origins(), alike(&call(), CALLERS), Manner::Stays, seed).await?;
    let witnessed = provider.settled().await?.total;
    say(&format!("race for money: {told:?} witnessed={} {}", witnessed.finished, witnessed.output_tokens));
    assert_eq!(told, Told { admitted: PLACES, refused: CALLERS as u64 - PLACES, undecided: told.undecided });
    let cost = witnessed.finished * CALL + witnessed.output_tokens * TOKEN;
    assert_eq!(cost, PLACES * each, "the provider's own count");
    stands_at(&cluster, cost).await?;
    let shown = cluster.cli().rows(&["limits", "show", "--limit", "budget"]).await?.remove(0);
    assert_eq!(shown["capacity"].as_str(), Some(dollars(PLACES * each + each - 1).as_str()), "{shown}");
    Ok(())
}

#[tokio::test]
async fn a_stream_is_paid_for_to_its_last_token_and_by_the_price_that_it_began_with() -> Outcome {
    // For two calls and 1,500 tokens.
    let all = 2 * CALL + 1_500 * TOKEN;
    let (mut cluster, provider) = paying(all).await?;
    let origins = cluster.origins();
    let whole = call().max_tokens(300).header("x-mock-output", "300");
    assert_eq!(cluster.client.send(whole.request(&origins[0]), LIMIT).await?.status, 200);
    stands_at(&cluster, CALL + 300 * TOKEN).await?;

    // There is money for 1,200 tokens more; who asks for more is given that, on any node.
    let dry = call().stream().max_tokens(1_250).header("x-mock-output", "1250");
    let stream = cluster.client.open(dry.request(&origins[1]), LIMIT).await?;
    assert_eq!((stream.status, stream.headers["x-tollgate-max-tokens"].to_str()?), (200, "1200"));
    let (events, end) = stream.rest().await;
    assert_eq!(end, End::Framed);
    let finish = |it: &tollgate_chaos_tests::client::Event| it.json()["choices"][0]["finish_reason"] == "length";
    assert!(events.iter().any(finish), "{events:?}");
    let witnessed = provider.settled().await?.total;
    assert_eq!(witnessed.finished * CALL + witnessed.output_tokens * TOKEN, all, "{witnessed:?}");
    stands_at(&cluster, all).await?;
    assert_eq!(cluster.client.send(call().request(&origins[2]), LIMIT).await?.status, 429);

    // A stream that is under way when its price changes; one that comes after; and all processes die.
    let each = CALL + 16 * TOKEN;
    cluster.cli().apply_and_wait(&budget(all + 12 * each)).await?;
    let slow = call().stream().header("x-mock-pace", "250ms");
    let stream = cluster.client.open(slow.request(&origins[0]), LIMIT).await?;
    assert_eq!(stream.status, 200);
    cluster.cli().apply_and_wait(&price(10 * TOKEN, 10 * CALL)).await?;
    assert_eq!(cluster.client.send(call().request(&origins[1]), LIMIT).await?.status, 200);
    assert_eq!(stream.rest().await.1, End::Framed);
    let all = all + 11 * each;
    stands_at(&cluster, all).await?;
    // What is left paid for a call before, and does not any more.
    assert_eq!(cluster.client.send(call().request(&origins[2]), LIMIT).await?.status, 429);
    for id in 1..=3 {
        cluster.node(id).kill()?;
    }
    for id in 1..=3 {
        cluster.node(id).start()?;
    }
    cluster.ready().await?;
    stands_at(&cluster, all).await?;
    assert_eq!(cluster.client.send(call().request(&cluster.origins()[0]), LIMIT).await?.status, 429);
    Ok(())
}

#[tokio::test]
async fn money_that_can_not_be_counted_is_refused_with_the_cure() -> Outcome {
    let cluster = Cluster::with(tollgate_chaos_tests::Plan { nodes: 1, ..Default::default() }).await?;
    let limit = |spec: &str| document("Limit", "budget", &format!("{{unit: cost, window: 1d, {spec}}}"));
    let refused = |yaml: String, said: &'static str| {
        let cli = cluster.cli();
        async move {
            let run = cli.run_with(&["apply", "-f", "-"], &yaml).await?;
            anyhow::ensure!(run.code == 1 && run.stderr.contains(said), "{said}: {run:?}");
            anyhow::Ok(())
        }
    };
    refused(limit("limit: 5"), "spec.currency: is missing: nobody whom the limit is about is billed yet").await?;
    refused(limit("limit: 9223373, currency: USD"), "spec.limit: must be at most 9223372.036854775807").await?;
    refused(limit("limit: '-1', currency: USD"), "spec.limit: must be a whole number").await?;
    let paying = |name: &str, code: &str| {
        document("Tenant", name, &format!("{{billing: {{mode: postpaid, currency: {code}}}}}"))
    };
    cluster.cli().apply(&(paying("one", "USD") + &limit("limit: 12.50"))).await?;
    let shown = cluster.cli().run(&["get", "limit", "budget", "-o", "yaml"]).await?.ok()?.stdout;
    assert!(shown.contains("limit: \"12.50\"") && shown.contains("currency: USD"), "{shown}");
    cluster.cli().apply(&paying("two", "EUR")).await?;
    refused(limit("limit: 6"), "spec.currency: is missing: those whom the limit is about pay in EUR and USD").await?;
    cluster.cli().apply(&limit("limit: 6, currency: EUR")).await?;
    Ok(())
}
