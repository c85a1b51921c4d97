//! Many changes at once.

use std::time::Duration;

use tokio::{task::JoinSet, time::Instant};
use tollgate_chaos_tests::{Cli, Figures, Seed, nightly, resources::document};

use super::stage::Stage;
use crate::config::version_of;

fn contested(version: u64, round: usize, writer: usize) -> String {
    let text = document("Tenant", "contested", "{billing: {mode: none}}");
    text.replace(
        "{name: contested}",
        &format!("{{name: contested, resourceVersion: {version}, labels: {{by: w{writer}, round: r{round}}}}}"),
    )
}

/// Row 33: writers of their own resources, and writers who want the same one: of those exactly one wins each round.
pub(super) async fn storm(seed: Seed) -> anyhow::Result<Figures> {
    let stage = Stage::set(seed).await?;
    let cli = stage.cluster.cli();
    cli.apply(&document("Tenant", "contested", "{billing: {mode: none}}")).await?;
    let (rounds, writers) = if nightly() { (50, 8) } else { (5, 4) };
    let begun = Instant::now();
    for round in 0..rounds {
        let version = version_of(&cli.rows(&["get", "tenant", "contested"]).await?[0]);
        let mut tasks = JoinSet::new();
        for writer in 0..writers {
            let cli = stage.cluster.cli_from(writer);
            tasks.spawn(async move { write(cli, round, writer, version).await });
        }
        let mut winners = 0;
        while let Some(won) = tasks.join_next().await {
            winners += usize::from(won??);
        }
        anyhow::ensure!(winners == 1, "round {round} has {winners} winners");
    }
    let took = begun.elapsed();
    let own = cli.rows(&["get", "tenants"]).await?;
    let own = own.iter().filter(|row| row["metadata"]["name"].as_str().is_some_and(|name| name.starts_with("own-")));
    anyhow::ensure!(own.count() == rounds * writers, "changes of their own were lost");
    let figures = stage.judge(Some(took / u32::try_from(rounds)?)).await?;
    figures.served_at_least(100.0)?;
    Ok(figures)
}

/// Writes something of its own, then what everybody wants; whether it got that.
async fn write(cli: Cli, round: usize, writer: usize, version: u64) -> anyhow::Result<bool> {
    cli.apply(&document("Tenant", &format!("own-{round}-{writer}"), "{billing: {mode: none}}")).await?;
    let run = tokio::time::timeout(
        Duration::from_secs(60),
        cli.run_with(&["apply", "-f", "-"], &contested(version, round, writer)),
    )
    .await??;
    anyhow::ensure!(run.code == 0 || run.stderr.contains("conflict"), "neither done nor a conflict: {}", run.stderr);
    Ok(run.code == 0)
}
