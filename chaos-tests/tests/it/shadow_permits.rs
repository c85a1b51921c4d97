//! A limit on concurrency that is tried out before it is put into force.

use serde_json::Value;
use tollgate_chaos_tests::{
    Cluster, Outcome,
    calls::Call,
    client::{EventStream, LIMIT},
    eventually,
    resources::{api_key, document},
};

/// Of the limit.
const PERMITS: u64 = 4;
/// In flight through each of three nodes.
const EACH: usize = 3;

/// A stream that lasts for minutes.
async fn open(cluster: &Cluster, origin: &str) -> anyhow::Result<EventStream> {
    let call = Call::chat(&api_key("alice"), "mock-1").stream().max_tokens(4_000);
    let call = call.header("x-mock-output", "4000").header("x-mock-pace", "100ms");
    Ok(cluster.client.open(call.request(origin), LIMIT).await?)
}

async fn set(cluster: &Cluster, mode: &str) -> anyhow::Result<()> {
    let spec = format!("{{per: [consumer], unit: concurrency, limit: {PERMITS}, mode: {mode}}}");
    cluster.cli().apply_and_wait(&document("Limit", "open", &spec)).await.map(drop)
}

/// Until `limits show` says that so many are held, of an account that adds up.
async fn held(cluster: &Cluster, held: u64) -> anyhow::Result<Value> {
    let row = eventually("the account shows what is in flight", || async {
        let rows = cluster.cli().rows(&["limits", "show", "--limit", "open"]).await?;
        let row = rows.into_iter().next().unwrap_or_default();
        anyhow::ensure!(row["held"].as_u64().unwrap_or(0) == held, "not {held}: {row}");
        Ok(row)
    })
    .await?;
    let figure = |name: &str| row[name].as_i64().unwrap_or(0);
    let sum: i64 = ["used", "held", "leased", "free", "suspense", "lost"].into_iter().map(figure).sum();
    anyhow::ensure!(row.is_null() || sum == figure("capacity"), "{row} does not add up");
    Ok(row)
}

/// What nodes have said that the limit would have done.
async fn would_refuse(cluster: &mut Cluster) -> anyhow::Result<u64> {
    let mut sum = 0;
    for node in 1..=3 {
        let url = cluster.node(node).admin_url();
        let text = cluster.client.get(&format!("{url}/metrics"), &[]).await?.text();
        let name = "tollgate_quota_decisions_total{limit=\"open\",decision=\"shadow_refused\"} ";
        sum += text.lines().find_map(|line| line.strip_prefix(name)).map_or(Ok(0), |it| it.trim().parse::<u64>())?;
    }
    Ok(sum)
}

#[tokio::test]
async fn concurrency_is_counted_over_all_nodes_and_those_in_flight_count_once_it_is_in_force() -> Outcome {
    let mut cluster = Cluster::start().await?;
    let _provider = cluster.with_standard(&[("alice", None)]).await?;
    set(&cluster, "shadow").await?;
    let mut streams = Vec::new();
    for origin in cluster.origins() {
        let mut of_node = Vec::new();
        for _ in 0..EACH {
            let stream = open(&cluster, &origin).await?;
            assert_eq!(stream.status, 200, "a shadow refuses nothing");
            of_node.push(stream);
        }
        streams.push(of_node);
        held(&cluster, u64::try_from(EACH * streams.len())?).await?;
    }
    assert_eq!(held(&cluster, 9).await?["free"], -5);
    assert_eq!(would_refuse(&mut cluster).await?, 9 - PERMITS, "each node knows of the others, once they have said it");

    set(&cluster, "enforce").await?;
    assert_eq!(open(&cluster, &cluster.origins()[0]).await?.status, 429, "nine are in flight");
    let dead = cluster.follower().await?;
    cluster.node(dead).kill()?;
    streams.remove(usize::try_from(dead - 1)?);
    cluster.node(dead).start()?;
    cluster.ready().await?;
    // The others' are in flight, and those of a process that is proven to be dead are not.
    held(&cluster, 6).await?;
    streams.pop();
    let row = held(&cluster, 3).await?;
    assert_eq!((&row["free"], &row["suspense"]), (&1.into(), &0.into()), "{row}");
    let last = open(&cluster, &cluster.origins()[0]).await?;
    assert_eq!(last.status, 200);
    assert_eq!(open(&cluster, &cluster.origins()[1]).await?.status, 429, "{PERMITS} are in flight");
    drop((last, streams));
    held(&cluster, 0).await?;
    Ok(())
}
