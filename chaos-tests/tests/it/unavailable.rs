//! What becomes of limited calls when nobody can decide on them.

use std::time::Duration;

use tokio::time::Instant;
use tollgate_chaos_tests::{
    Cluster, Outcome, Plan,
    calls::Call,
    client::LIMIT,
    day_with_room, eventually,
    resources::{api_key, consumer, document},
};

const TOKENS: u64 = 1_000_000;
/// How long a node spends its leases without an answer.
const SOON_ISOLATED: &str = "[limits]\nisolation = \"2s\"\n";

fn limit(name: &str, when_unavailable: &str) -> String {
    let spec = format!(
        "{{match: {{consumers: [{name}]}}, per: [consumer], unit: tokens, limit: {TOKENS}, window: 1d, \
         algorithm: fixed, whenUnavailable: {when_unavailable}}}"
    );
    consumer(name, "acme") + &document("Limit", name, &spec)
}

fn call(consumer: &str) -> Call {
    Call::chat(&api_key(consumer), &format!("{consumer}-1"))
}

async fn status(cluster: &Cluster, consumer: &str, origin: &str) -> anyhow::Result<u16> {
    let answer = cluster.client.send(call(consumer).request(origin), LIMIT).await?;
    if answer.status != 200 {
        anyhow::ensure!(answer.text().contains("quota_unavailable"), "{}: {}", answer.status, answer.text());
    }
    Ok(answer.status)
}

/// A figure of a limit on one node.
async fn metric(cluster: &Cluster, admin: &str, name: &str) -> anyhow::Result<u64> {
    let text = cluster.client.get(&format!("{admin}/metrics"), &[]).await?.text();
    let line = text.lines().find(|line| line.starts_with(name));
    Ok(line.and_then(|line| line.rsplit(' ').next()).map_or(Ok(0), str::parse)?)
}

#[tokio::test]
async fn without_a_quorum_a_limit_denies_or_lets_through_and_counts_apart_and_all_adds_up_after() -> Outcome {
    day_with_room(Duration::from_secs(180)).await;
    let mut cluster = Cluster::with(Plan { more_toml: SOON_ISOLATED.to_owned(), ..Plan::default() }).await?;
    let provider = cluster.with_standard(&[]).await?;
    let beside = "{match: {consumers: [strict]}, unit: requests, limit: 1000, window: 1d, whenUnavailable: allow}";
    let limits = limit("strict", "deny") + &limit("open", "allow") + &document("Limit", "beside", beside);
    cluster.cli().apply_and_wait(&limits).await?;
    let alone = cluster.follower().await?;
    let (origin, admin) = (cluster.node(alone).http_url(), cluster.node(alone).admin_url());
    for consumer in ["strict", "open"] {
        assert_eq!(status(&cluster, consumer, &origin).await?, 200);
    }
    let through = "tollgate_quota_unprotected_total{limit=\"open\"}";
    assert_eq!(metric(&cluster, &admin, through).await?, 0, "while there is a quorum nothing goes past it");

    for other in [1, 2, 3].into_iter().filter(|id| *id != alone) {
        cluster.node(other).kill()?;
    }
    eventually("what is strict is refused", || async {
        let status = status(&cluster, "strict", &origin).await?;
        anyhow::ensure!(status == 503, "{status}");
        Ok(())
    })
    .await?;
    let refused = cluster.client.send(call("strict").request(&origin), LIMIT).await?.text();
    assert!(refused.contains("`strict`") && !refused.contains("`beside`"), "only what it can't go without: {refused}");
    eventually("what nobody decided on while it was cut off is told apart", || async {
        assert_eq!(status(&cluster, "strict", &origin).await?, 503);
        let cut_off = metric(&cluster, &admin, "tollgate_quota_refusals_total{by=\"iso\"}").await?;
        anyhow::ensure!(cut_off > 0, "{cut_off}");
        Ok(())
    })
    .await?;
    let begun = Instant::now();
    for _ in 0..10 {
        assert_eq!(status(&cluster, "open", &origin).await?, 200);
    }
    // Ten times the patience of an admission would be fifty seconds.
    assert!(begun.elapsed() < Duration::from_secs(10), "who is known to be alone answers at once: {begun:?}");
    let went_past = metric(&cluster, &admin, through).await?;
    assert!(went_past >= 10, "{went_past}");
    assert_eq!(status(&cluster, "strict", &origin).await?, 503, "and what is strict stays so");
    assert_eq!(metric(&cluster, &admin, "tollgate_quota_unprotected_total{limit=\"strict\"}").await?, 0);

    for other in [1, 2, 3].into_iter().filter(|id| *id != alone) {
        cluster.node(other).start()?;
    }
    cluster.ready().await?;
    cluster.converged().await?;
    eventually("both are decided on again", || async {
        for consumer in ["strict", "open"] {
            let status = status(&cluster, consumer, &origin).await?;
            anyhow::ensure!(status == 200, "{consumer}: {status}");
        }
        Ok(())
    })
    .await?;
    provider.settled().await?;
    let (strict, open) = (provider.tokens("strict-1").await?, provider.tokens("open-1").await?);
    eventually("all that was used is in an account, or went past it", || async {
        let rows = cluster.cli().rows(&["limits", "show"]).await?;
        let used = |limit: &str| rows.iter().find(|row| row["limit"] == limit).and_then(|row| row["used"].as_u64());
        let apart = metric(&cluster, &admin, "tollgate_quota_unprotected_units_total{limit=\"open\"}").await?;
        anyhow::ensure!(used("strict") == Some(strict), "of {strict}: {rows:?}");
        let row = rows.iter().find(|row| row["limit"] == "open");
        let row = row.ok_or_else(|| anyhow::anyhow!("{rows:?}"))?;
        let shown = (row["unprotected"].as_u64(), row["unprotectedRequests"].as_u64());
        anyhow::ensure!(shown == (Some(apart), Some(went_past)), "{apart}, {went_past}: {row}");
        anyhow::ensure!(
            apart > 0 && used("open").map(|used| used + apart) == Some(open),
            "of {open}, {apart}: {rows:?}"
        );
        let bill = cluster.cli().rows(&["usage", "--by", "consumer"]).await?;
        let billed = |name: &str| {
            let row = bill.iter().find(|row| row["consumer"] == name);
            row.map(|row| row["inputTokens"].as_u64().unwrap_or(0) + row["outputTokens"].as_u64().unwrap_or(0))
        };
        anyhow::ensure!((billed("strict"), billed("open")) == (Some(strict), Some(open)), "{bill:?}");
        Ok(())
    })
    .await?;
    assert_eq!(metric(&cluster, &admin, through).await?, went_past, "and nothing goes past them any more");
    Ok(())
}
