//! Limits of tenants that live in several zones: each account has the days and months of its own, by a calendar that is asked
//! beside the program.

use std::time::Duration;

use anyhow::Context;
use jiff::{Timestamp, ToSpan, Zoned, tz::TimeZone};
use serde_json::Value;
use tollgate_chaos_tests::{
    Cluster, Outcome, Seed,
    calls::Call,
    client::LIMIT,
    eventually, now as wall_clock,
    resources::{api_key, consumer, document},
    workload::Load,
};

const AUCKLAND: &str = "Pacific/Auckland";
const ANGELES: &str = "America/Los_Angeles";
const KATHMANDU: &str = "Asia/Kathmandu";
/// No day of any of them ends while a test runs.
const ROOM: Duration = Duration::from_secs(240);

fn now() -> anyhow::Result<Timestamp> {
    Ok(Timestamp::new(i64::try_from(wall_clock().as_secs())?, 0)?)
}

fn local(zone: &str) -> anyhow::Result<Zoned> {
    Ok(now()?.to_zoned(TimeZone::get(zone)?))
}

/// Start and end of the day that it is there.
fn day(zone: &str) -> anyhow::Result<(String, String)> {
    let start = local(zone)?.start_of_day()?;
    Ok((start.timestamp().to_string(), start.tomorrow()?.start_of_day()?.timestamp().to_string()))
}

fn month(zone: &str) -> anyhow::Result<(String, String)> {
    let start = local(zone)?.first_of_month()?.start_of_day()?;
    Ok((start.timestamp().to_string(), start.checked_add(1.month())?.start_of_day()?.timestamp().to_string()))
}

/// Waits, if need be, until no day of these zones ends soon.
async fn days_with_room() -> anyhow::Result<()> {
    for zone in [AUCKLAND, ANGELES, KATHMANDU, "UTC"] {
        loop {
            let left = local(zone)?.tomorrow()?.start_of_day()?.timestamp().duration_since(now()?);
            if left.unsigned_abs() > ROOM {
                break;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
    Ok(())
}

fn tenant(name: &str, zone: &str) -> String {
    document("Tenant", name, &format!("{{billing: {{mode: none}}, timeZone: {zone}}}"))
}

fn limits() -> String {
    document("Limit", "days", "{per: [tenant], unit: tokens, limit: 100000000, window: 1d, algorithm: fixed}")
        + &document(
            "Limit",
            "months",
            "{per: [consumer], unit: requests, limit: 1000000, window: month, algorithm: fixed}",
        )
}

/// One row of `limits show`.
async fn row(cluster: &Cluster, limit: &str, account: &str) -> anyhow::Result<Value> {
    let rows = cluster.cli().rows(&["limits", "show", "--limit", limit]).await?;
    let found = rows.iter().find(|row| row["account"] == account).cloned();
    found.with_context(|| format!("no {account} among {rows:?}"))
}

fn used(row: &Value) -> anyhow::Result<u64> {
    row["used"].as_u64().with_context(|| format!("no use in {row}"))
}

async fn is_of(cluster: &Cluster, limit: &str, account: &str, (start, end): (String, String)) -> anyhow::Result<Value> {
    eventually("an account is in its window", || async {
        let row = row(cluster, limit, account).await?;
        let shown = (row["windowStart"].as_str(), row["windowEnd"].as_str());
        anyhow::ensure!(shown == (Some(start.as_str()), Some(end.as_str())), "not {start} to {end}: {row}");
        Ok(row)
    })
    .await
}

async fn calls(cluster: &Cluster, consumer: &str, count: usize) -> anyhow::Result<Vec<u16>> {
    let (origins, mut told) = (cluster.origins(), Vec::new());
    for number in 0..count {
        let call = Call::chat(&api_key(consumer), "mock-1").request(&origins[number % origins.len()]);
        told.push(cluster.client.send(call, LIMIT).await?.status);
    }
    Ok(told)
}

#[tokio::test]
async fn each_account_has_the_windows_of_its_tenant_and_an_edit_of_the_zone_forgets_nothing() -> Outcome {
    days_with_room().await?;
    let cluster = Cluster::start().await?;
    let provider = cluster.with_standard(&[("alice", None)]).await?;
    let people = consumer("kiri", "kiwi") + &consumer("lana", "angel");
    let yaml = tenant("kiwi", AUCKLAND) + &tenant("angel", ANGELES) + &people + &limits();
    cluster.cli().apply_and_wait(&yaml).await?;

    let load_calls = ["kiri", "lana", "alice"].map(|name| Call::chat(&api_key(name), "mock-1"));
    let load = Load::start(&cluster.client, &cluster.origins(), &load_calls, 6, Seed::from_env());
    for (tenant, caller, zone) in [("kiwi", "kiri", AUCKLAND), ("angel", "lana", ANGELES), ("acme", "alice", "UTC")] {
        is_of(&cluster, "days", tenant, day(zone)?).await?;
        is_of(&cluster, "months", caller, month(zone)?).await?;
    }
    let mut before = 0;
    for zone in [KATHMANDU, ANGELES, "UTC", AUCKLAND, KATHMANDU] {
        cluster.cli().apply_and_wait(&tenant("kiwi", zone)).await?;
        let shown = is_of(&cluster, "days", "kiwi", day(zone)?).await?;
        is_of(&cluster, "months", "kiri", month(zone)?).await?;
        let is_used = used(&shown)?;
        assert!(is_used >= before, "{before} were used before the edit: {shown}");
        before = is_used;
    }
    is_of(&cluster, "days", "angel", day(ANGELES)?).await?;
    let tally = load.stop().await;
    assert_eq!((tally.failed, tally.limited), (0, 0), "{:?}", tally.failures);

    let witnessed = provider.settled().await?.total.finished;
    let tokens = provider.tokens("mock-1").await?;
    eventually("what is used is what was served", || async {
        for (limit, accounts, served) in
            [("days", ["kiwi", "angel", "acme"], tokens), ("months", ["kiri", "lana", "alice"], witnessed)]
        {
            let mut sum = 0;
            for account in accounts {
                let row = row(&cluster, limit, account).await?;
                anyhow::ensure!(row["held"] == 0 && row["suspense"] == 0, "something is open: {row}");
                sum += used(&row)?;
            }
            anyhow::ensure!(sum == served, "{limit}: {sum} used of {served}");
        }
        Ok(())
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn no_edit_of_a_zone_gives_a_spent_day_again() -> Outcome {
    days_with_room().await?;
    let cluster = Cluster::start().await?;
    let provider = cluster.with_standard(&[]).await?;
    let people = consumer("kiri", "kiwi") + &consumer("lana", "angel");
    let few = "{per: [tenant], unit: requests, limit: 5, window: 1d, algorithm: fixed}";
    // All live in one zone first: nodes have shares of one window.
    let yaml = tenant("kiwi", "UTC") + &tenant("angel", "UTC") + &people + &document("Limit", "few", few);
    cluster.cli().apply_and_wait(&yaml).await?;
    assert_eq!(calls(&cluster, "kiri", 5).await?, [200; 5]);
    for zone in [AUCKLAND, ANGELES, KATHMANDU] {
        cluster.cli().apply_and_wait(&tenant("kiwi", zone)).await?;
        assert_eq!(calls(&cluster, "kiri", 3).await?, [429; 3], "{zone}");
        let row = is_of(&cluster, "few", "kiwi", day(zone)?).await?;
        assert_eq!((&row["used"], &row["free"]), (&5.into(), &0.into()), "{row}");
        let told = cluster.cli().rows(&["limits", "explain", "kiri"]).await?;
        let told = told.iter().find(|row| row["limit"] == "few").context("it meets the limit")?;
        assert_eq!(
            (told["verdict"].as_str(), told["windowEnd"].as_str()),
            (Some("refuses"), Some(day(zone)?.1.as_str()))
        );
    }
    assert_eq!(calls(&cluster, "lana", 6).await?, [200, 200, 200, 200, 200, 429]);
    is_of(&cluster, "few", "angel", day("UTC")?).await?;
    cluster.cli().rows(&["limits", "reset", "few", "kiwi"]).await?;
    assert_eq!(calls(&cluster, "kiri", 6).await?, [200, 200, 200, 200, 200, 429]);
    is_of(&cluster, "few", "kiwi", day(KATHMANDU)?).await?;
    // Everybody lives in one zone again.
    cluster.cli().apply_and_wait(&tenant("kiwi", "UTC")).await?;
    assert_eq!(calls(&cluster, "kiri", 3).await?, [429; 3]);
    is_of(&cluster, "few", "kiwi", day("UTC")?).await?;
    assert_eq!(provider.settled().await?.total.finished, 15);
    Ok(())
}
