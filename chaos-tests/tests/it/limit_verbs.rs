//! What people do with limits besides setting them: try them out, ask about them, forgive.

use std::time::Duration;

use serde_json::Value;
use tollgate_chaos_tests::{
    Cluster, Outcome,
    calls::Call,
    client::LIMIT,
    day_with_room, eventually,
    resources::{api_key, document},
};

/// Of the limit in force.
const TOKENS: u64 = 1_000_000;

async fn calls(cluster: &Cluster, count: usize) -> anyhow::Result<Vec<u16>> {
    let origins = cluster.origins();
    let mut told = Vec::new();
    for number in 0..count {
        let call = Call::chat(&api_key("alice"), "mock-1");
        told.push(cluster.client.send(call.request(&origins[number % origins.len()]), LIMIT).await?.status);
    }
    Ok(told)
}

fn trial(mode: &str, limit: u64) -> String {
    let spec =
        format!("{{per: [consumer], unit: requests, limit: {limit}, window: 1d, algorithm: fixed, mode: {mode}}}");
    document("Limit", "trial", &spec)
}

async fn row(cluster: &Cluster, args: &[&str]) -> anyhow::Result<Value> {
    let rows = cluster.cli().rows(args).await?;
    rows.iter()
        .find(|row| row["limit"] == "trial")
        .cloned()
        .ok_or_else(|| anyhow::anyhow!("no row of the trial: {rows:?}"))
}

async fn used(cluster: &Cluster, requests: u64) -> anyhow::Result<()> {
    eventually("the account shows what was used", || async {
        let row = row(cluster, &["limits", "show", "--limit", "trial"]).await?;
        anyhow::ensure!(row["used"] == requests && row["held"] == 0, "not {requests}: {row}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_limit_is_tried_out_put_into_force_explained_and_reset() -> Outcome {
    day_with_room(Duration::from_secs(180)).await;
    let cluster = Cluster::start().await?;
    let provider = cluster.with_standard(&[("alice", Some(TOKENS))]).await?;
    cluster.cli().apply_and_wait(&trial("shadow", 2)).await?;
    assert_eq!(calls(&cluster, 5).await?, [200; 5], "a shadow refuses nothing");
    used(&cluster, 5).await?;
    let shown = row(&cluster, &["limits", "show", "--sort", "utilisation", "--min-utilisation", "100"]).await?;
    assert_eq!((&shown["mode"], &shown["free"]), (&"shadow".into(), &(-3).into()), "{shown}");

    let told = row(&cluster, &["limits", "explain", "alice"]).await?;
    assert_eq!((&told["verdict"], &told["account"]), (&"wouldRefuse".into(), &"alice".into()), "{told}");
    cluster.cli().apply_and_wait(&trial("enforce", 6)).await?;
    let told = row(&cluster, &["limits", "explain", "alice", "--model", "mock-1"]).await?;
    assert_eq!((&told["verdict"], &told["used"], &told["free"]), (&"admits".into(), &5.into(), &1.into()), "{told}");
    assert_eq!(calls(&cluster, 2).await?, [200, 429], "what was counted is used from the edit on");
    used(&cluster, 6).await?;
    let told = row(&cluster, &["limits", "explain", "alice", "--route", "chat"]).await?;
    assert_eq!(told["verdict"], "refuses", "{told}");
    assert!(told["retryAfter"].as_u64().is_some_and(|wait| wait > 0 && wait <= 86_400), "{told}");
    let nobody = cluster.cli().run(&["limits", "explain", "alic"]).await?;
    assert!(nobody.code == 1 && nobody.stderr.contains("did you mean `alice`?"), "{nobody:?}");

    let id = "000102030405060708090a0b0c0d0e0f";
    let reset = ["limits", "reset", "trial", "alice", "--request-id", id];
    let rows = cluster.cli().rows(&reset).await?;
    assert_eq!((&rows[0]["used"], &rows[1]["used"], &rows[1]["free"]), (&6.into(), &0.into(), &6.into()), "{rows:?}");
    assert_eq!(calls(&cluster, 2).await?, [200, 200]);
    used(&cluster, 2).await?;
    assert_eq!(cluster.cli().rows(&reset).await?, rows, "the same request is done once");
    assert_eq!(calls(&cluster, 5).await?, [200, 200, 200, 200, 429], "exactly what was used came back");
    for (limit, account, said) in [("trail", "alice", "`trial`"), ("trial", "bob", "bob")] {
        let refused = cluster.cli().run(&["limits", "reset", limit, account]).await?;
        assert!(refused.code == 1 && refused.stderr.contains(said), "{refused:?}");
    }
    assert_eq!(provider.settled().await?.total.finished, 5 + 1 + 6);
    Ok(())
}
