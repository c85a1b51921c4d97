//! Configuration: one change is one change, everywhere, and no request fails because of it.

use serde_json::Value;
use tollgate_chaos_tests::{
    Cluster, Outcome, Plan, Seed,
    calls::Call,
    resources::{self, api_key, document},
    workload::Load,
};

/// A route that answers by itself, so that it shows which configuration a node serves.
fn answering(name: &str, body: &str) -> String {
    document(
        "Route",
        name,
        &format!("{{match: [{{path: {{exact: /{name}}}}}], response: {{status: 200, body: \"{body}\"}}}}"),
    )
}

#[tokio::test]
async fn changes_under_load_are_served_everywhere_and_fail_nobody() -> Outcome {
    let cluster = Cluster::start().await?;
    let _provider = cluster.with_standard(&[("alice", None)]).await?;
    let key = api_key("alice");
    let slow = Call::chat(&key, "mock-1").stream().header("x-mock-pace", "30ms");
    let calls = [Call::chat(&key, "mock-1"), Call::messages(&key, "mock-1").stream(), slow];
    let load = Load::start(&cluster.client, &cluster.origins(), &calls, 6, Seed::from_env());
    for round in 0..10 {
        let yaml = answering("state", &format!("round {round}")) + &answering(&format!("extra-{round}"), "here");
        cluster.cli_from(round).apply_and_wait(&yaml).await?;
        for origin in cluster.origins() {
            let state = cluster.client.get(&format!("{origin}/state"), &[]).await?;
            assert_eq!(state.text(), format!("round {round}"));
            let extra = cluster.client.get(&format!("{origin}/extra-{round}"), &[]).await?;
            assert_eq!(extra.status, 200);
        }
    }
    let tally = load.stop().await;
    assert_eq!((tally.failed, tally.retried, tally.limited), (0, 0, 0), "{:?}", tally.failures);
    assert!(tally.served > 0);
    Ok(())
}

#[tokio::test]
async fn an_apply_is_all_or_nothing_and_says_what_it_would_do() -> Outcome {
    let cluster = Cluster::with(Plan { nodes: 1, ..Plan::default() }).await?;
    let cli = cluster.cli();
    let good = resources::tenant("acme");
    let broken = resources::consumer("alice", "nobody");
    let run = cli.run_with(&["apply", "-f", "-"], &(good.clone() + &broken)).await?;
    assert_eq!(run.code, 1);
    assert!(run.stderr.contains("nobody"), "{}", run.stderr);
    assert!(cli.rows(&["get", "tenants"]).await?.is_empty());
    cli.run_with(&["apply", "-f", "-", "--dry-run"], &good).await?.ok()?;
    assert!(cli.rows(&["get", "tenants"]).await?.is_empty());
    cli.apply(&good).await?;
    assert_eq!(cli.rows(&["get", "tenants"]).await?.len(), 1);
    cli.apply(&resources::consumer("alice", "acme")).await?;
    let refused = cli.run(&["delete", "tenant", "acme"]).await?;
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("alice"), "{}", refused.stderr);
    Ok(())
}

#[tokio::test]
async fn an_older_version_is_refused() -> Outcome {
    let cluster = Cluster::with(Plan { nodes: 1, ..Plan::default() }).await?;
    let cli = cluster.cli();
    cli.apply(&answering("state", "one")).await?;
    let version = version_of(&cli.rows(&["get", "route", "state"]).await?[0]);
    let with = |version: u64, body: &str| {
        answering("state", body).replace("{name: state}", &format!("{{name: state, resourceVersion: {version}}}"))
    };
    cli.apply(&with(version, "two")).await?;
    let conflict = cli.run_with(&["apply", "-f", "-"], &with(version, "three")).await?;
    assert_eq!(conflict.code, 1);
    assert!(conflict.stderr.contains("conflict") || conflict.stderr.contains("resourceVersion"), "{}", conflict.stderr);
    let now = cli.rows(&["get", "route", "state"]).await?;
    assert_eq!(now[0]["spec"]["response"]["body"], "two");
    Ok(())
}

pub(crate) fn version_of(resource: &Value) -> u64 {
    let version = &resource["metadata"]["resourceVersion"];
    version.as_u64().or_else(|| version.as_str()?.parse().ok()).unwrap_or_default()
}

#[tokio::test]
async fn an_export_makes_the_same_cluster_again() -> Outcome {
    let first = Cluster::with(Plan { nodes: 1, ..Plan::default() }).await?;
    let provider = first.with_standard(&[("alice", Some(1_000_000))]).await?;
    let exported = first.cli().run(&["export"]).await?.ok()?.stdout;

    let mut second = Cluster::prepare(&Plan { nodes: 1, ..Plan::default() })?;
    std::fs::copy(first.dir().join("cluster.key"), second.dir().join("cluster.key"))?;
    second.node(1).start()?;
    second.ready().await?;
    second.cli().apply_and_wait(&exported).await?;
    let call = Call::chat(&api_key("alice"), "mock-1");
    let answer = second.client.send(call.request(&second.origins()[0]), tollgate_chaos_tests::client::LIMIT).await?;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(provider.settled().await?.total.finished, 1);

    let foreign = Cluster::with(Plan { nodes: 1, ..Plan::default() }).await?;
    let refused = foreign.cli().run_with(&["apply", "-f", "-"], &exported).await?;
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("key"), "{}", refused.stderr);
    Ok(())
}
