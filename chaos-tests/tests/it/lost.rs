//! A node that dies with its disk: what becomes of the credit that it had, and of the calls that were in flight on it.

use std::collections::BTreeSet;

use anyhow::Context;
use serde_json::Value;
use tollgate_chaos_tests::{
    Cluster, Outcome, Plan, Provider,
    calls::Call,
    client::{EventStream, LIMIT},
    eventually,
    resources::{self, api_key, document},
};

use crate::ledger::whole;

/// Each in flight on the node that dies. Of the one the log has each call, of the other nothing before it ends.
const TENANTS: [(&str, &str, &str); 2] = [("careful", "carla", "quorum"), ("plain", "paul", "journal")];
/// Of each.
const IN_FLIGHT: usize = 3;
/// What a call holds: one request, and 16 tokens of output, at a thousandth of a dollar.
const HELD: i128 = 17;

/// Thousandths of a dollar.
fn milli(text: &Value) -> anyhow::Result<i128> {
    let text = text.as_str().context("it is no decimal")?;
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    anyhow::ensure!(part.len() <= 3, "{text} has more than three places");
    Ok(format!("{whole}{part:0<3}").parse()?)
}

async fn paying() -> anyhow::Result<(Cluster, Provider)> {
    let more_toml = "[limits]\nisolation = \"2s\"\n".to_owned();
    let cluster = Cluster::with(Plan { more_toml, ..Plan::default() }).await?;
    let provider = cluster.with_standard(&[]).await?;
    let mut all = String::new();
    for (tenant, consumer, durability) in TENANTS {
        let billing = format!("{{billing: {{mode: prepaid, currency: USD, durability: {durability}}}}}");
        all += &(document("Tenant", tenant, &billing) + &resources::consumer(consumer, tenant));
    }
    let price = "{currency: USD, match: {models: [mock-1]}, per: 1, input: 0, output: '0.001', request: '0.001'}";
    cluster.cli().apply_and_wait(&(all + &document("Price", "mock", price))).await?;
    for (tenant, ..) in TENANTS {
        cluster.cli().run(&["credits", "grant", tenant, "10", "--key", "first"]).await?.ok()?;
    }
    Ok((cluster, provider))
}

/// Granted, spent, held, suspense and balance of a tenant, which always add up, as one of these nodes says.
async fn credit(cluster: &Cluster, of: u64, tenant: &str) -> anyhow::Result<[i128; 5]> {
    let row = cluster.cli_of(of).rows(&["credits", "show", tenant]).await?.remove(0);
    let mut figures = [0; 5];
    for (figure, name) in figures.iter_mut().zip(["granted", "spent", "held", "suspense", "balance"]) {
        *figure = milli(&row[name]).with_context(|| row.to_string())?;
    }
    anyhow::ensure!(figures[0] == figures[1..].iter().sum(), "it does not add up: {row}");
    Ok(figures)
}

/// Waits until a tenant's credit is as it has to be, on each of these nodes.
async fn stands(
    cluster: &Cluster,
    nodes: &[u64],
    tenant: &str,
    is_right: impl Fn([i128; 5]) -> bool,
) -> anyhow::Result<[i128; 5]> {
    let mut last = [0; 5];
    for node in nodes {
        last = eventually(&format!("node {node} says of {tenant} what it has to"), || async {
            let figures = credit(cluster, *node, tenant).await?;
            anyhow::ensure!(is_right(figures), "granted, spent, held, suspense, balance are {figures:?}");
            Ok(figures)
        })
        .await?;
    }
    Ok(last)
}

/// What was written off of a tenant's credit, and who has done that; and who has granted it.
async fn written_off(cluster: &Cluster, tenant: &str) -> anyhow::Result<(i128, BTreeSet<String>, String)> {
    let history = cluster.cli().rows(&["credits", "history", tenant]).await?;
    let actor = |row: &Value| row["actor"].as_str().unwrap_or_default().to_owned();
    let granted = history.iter().find(|row| row["kind"] == "granted").context("somebody has granted it")?;
    let (mut sum, mut actors) = (0, BTreeSet::new());
    for row in history.iter().filter(|row| row["kind"] == "writtenOff") {
        sum += milli(&row["amount"])?;
        actors.insert(actor(row));
    }
    Ok((sum, actors, actor(granted)))
}

/// Streams that last, with the ids of their requests.
async fn in_flight(cluster: &Cluster, origin: &str) -> anyhow::Result<(Vec<EventStream>, BTreeSet<String>)> {
    let (mut streams, mut careful) = (Vec::new(), BTreeSet::new());
    for (_, consumer, durability) in TENANTS {
        let slow = Call::chat(&api_key(consumer), "mock-1").stream().header("x-mock-pace", "10s");
        for _ in 0..IN_FLIGHT {
            let mut stream = cluster.client.open(slow.request(origin), LIMIT).await?;
            anyhow::ensure!(stream.status == 200 && stream.next().await.is_ok(), "it has not begun: {}", stream.status);
            if durability == "quorum" {
                careful.insert(stream.headers["x-request-id"].to_str()?.to_owned());
            }
            streams.push(stream);
        }
    }
    Ok((streams, careful))
}

#[tokio::test]
async fn what_died_with_a_disk_is_in_suspense_and_then_rows_without_a_cost_and_the_operators_loss() -> Outcome {
    let (mut cluster, provider) = paying().await?;
    let gone = cluster.follower().await?;
    let others: Vec<u64> = [1, 2, 3].into_iter().filter(|id| *id != gone).collect();
    let origin = cluster.node(gone).http_url();
    for (_, consumer, _) in TENANTS {
        let answer = cluster.client.send(Call::chat(&api_key(consumer), "mock-1").request(&origin), LIMIT).await?;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    provider.settled().await?;
    let (streams, careful) = in_flight(&cluster, &origin).await?;
    let held = HELD * i128::try_from(IN_FLIGHT)?;
    for (tenant, ..) in TENANTS {
        stands(&cluster, &others, tenant, |[_, spent, now, suspense, _]| spent > 0 && now == held && suspense == 0)
            .await?;
    }
    cluster.node(gone).kill()?;
    cluster.node(gone).wipe()?;
    drop(streams);

    // Nobody can have any of it until the node is back, or given up.
    let mut before = Vec::new();
    for (tenant, ..) in TENANTS {
        before.push(stands(&cluster, &others, tenant, |[_, _, now, suspense, _]| now == 0 && suspense >= held).await?);
    }
    let id = gone.to_string();
    eventually("it is given up", || async { cluster.cli().run(&["cluster", "remove", &id, "--lost"]).await?.ok() })
        .await?;
    let (mut lost, mut spent) = (0, 0);
    for ((tenant, ..), [granted, used, _, suspense, balance]) in TENANTS.into_iter().zip(before) {
        let all = [granted, used, 0, 0, balance + suspense];
        stands(&cluster, &others, tenant, |figures| figures == all).await?;
        let (sum, by, operator) = written_off(&cluster, tenant).await?;
        assert_eq!((sum, by.len(), by.first()), (suspense, 1, Some(&operator)), "{tenant}: {by:?}");
        assert!(!operator.is_empty());
        (lost, spent) = (lost + sum, spent + used);
    }

    let asked = ["billing", "export", "--format", "jsonl", "--from", "2026-01-01", "--to", "2999-01-01"];
    let export = cluster.cli().run(&asked).await?.ok()?;
    let rows = export.stdout.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
    let text = |row: &Value, name: &str| row[name].as_str().unwrap_or_default().to_owned();
    let orphaned: Vec<&Value> = rows.iter().filter(|row| row["outcome"] == "orphaned").collect();
    let ids: BTreeSet<String> = orphaned.iter().map(|row| text(row, "request_id")).collect();
    assert_eq!((orphaned.len(), &ids), (IN_FLIGHT, &careful), "each once, and of no other: {rows:?}");
    for row in orphaned {
        let told = ["tenant", "consumer", "model", "cost", "usage_source"].map(|name| text(row, name));
        assert_eq!(told, ["careful", "carla", "mock-1", "0", "recovered"], "{row}");
        assert!(row["node"] == gone && row["output_tokens"] == 0 && row["corrects"].is_null(), "{row}");
    }
    for node in others {
        let told = whole(&cluster, node).await?;
        let balances = told["balances"].as_array().cloned().unwrap_or_default();
        let sum = |of: &dyn Fn(&str) -> bool| -> anyhow::Result<i128> {
            balances.iter().filter(|it| it["account"].as_str().is_some_and(of)).map(|it| milli(&it["amount"])).sum()
        };
        assert_eq!(sum(&|account| account == "provider:loss")?, lost, "{balances:?}");
        assert_eq!(sum(&|account| account.ends_with(":forgiven"))?, -lost, "{balances:?}");
        assert_eq!(sum(&|account| account.ends_with(":consumed"))?, spent, "{balances:?}");
        assert_eq!(sum(&|_| true)?, 0, "{balances:?}");
    }
    // All of it can be spent: by whoever comes next.
    let (tenant, consumer, _) = TENANTS[0];
    let origin = cluster.node(if gone == 1 { 2 } else { 1 }).http_url();
    let answer = cluster.client.send(Call::chat(&api_key(consumer), "mock-1").request(&origin), LIMIT).await?;
    assert_eq!(answer.status, 200, "{}", answer.text());
    stands(&cluster, &[if gone == 1 { 2 } else { 1 }], tenant, |[.., held, suspense, _]| (held, suspense) == (0, 0))
        .await?;
    Ok(())
}

/// What the log knows to be its own, a node that comes back without its disk says at once: nobody else can.
#[tokio::test]
async fn a_node_that_comes_back_without_its_disk_has_a_row_of_each_call_that_the_log_had() -> Outcome {
    let (mut cluster, _provider) = paying().await?;
    let gone = cluster.follower().await?;
    let origin = cluster.node(gone).http_url();
    let (streams, careful) = in_flight(&cluster, &origin).await?;
    cluster.node(gone).kill()?;
    cluster.node(gone).wipe()?;
    drop(streams);
    cluster.node(gone).start()?;
    cluster.ready().await?;
    for id in &careful {
        let rows = eventually(&format!("request {id} has its row"), || async {
            cluster.cli().rows(&["ledger", "show", id]).await
        })
        .await?;
        let told = (rows.len(), rows[0]["outcome"].as_str(), rows[0]["cost"].as_str());
        assert_eq!(told, (1, Some("orphaned"), Some("0")), "{rows:?}");
    }
    whole(&cluster, gone).await?;
    Ok(())
}
