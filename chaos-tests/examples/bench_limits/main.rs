//! What exact limits cost in a cluster of three real processes on this machine, and what they give.
//!
//! `cargo run --release -p tollgate-chaos-tests --example bench_limits -- [--only cpu] [--for 5s] [--kills 5] [-o json]`
//!
//! Every figure stands beside its target; what it depends on of the machine (the disk, the number of cores) is measured in the
//! same run. The load comes from this process, the answers from a simulated provider in another: they share the cores.

mod cpu;
mod failover;
mod load;
mod metrics;
mod paths;
mod usable;

use std::time::Duration;

use anyhow::Context;
use clap::{Parser, ValueEnum};
use tollgate_chaos_tests::{
    Cluster, ProviderProcess, day_with_room,
    figure::{self, Figure, Output},
    resources,
};

/// Measures what limits cost in a cluster of three processes.
#[derive(Debug, Parser)]
struct Options {
    /// Measures this alone.
    #[arg(long, value_enum)]
    only: Option<Subject>,
    /// How long each load lasts.
    #[arg(long = "for", value_parser = figure::seconds, default_value = "5s")]
    time: Duration,
    /// How often the leader is killed.
    #[arg(long, default_value_t = 5)]
    kills: u32,
    /// How the result is printed.
    #[arg(short, long, default_value = "text")]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Subject {
    /// Where calls are admitted, and what that writes.
    Paths,
    /// What a limit admits of what a perfect counter would.
    Usable,
    /// CPU time of a call with limits and without.
    Cpu,
    /// Calls while the leader is killed.
    Failover,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let figures = runtime.block_on(bench(&options))?;
    let cores = std::thread::available_parallelism()?;
    let title = format!("three nodes, their provider and their callers on {cores} cores");
    figure::print(&figures, &title, options.output)
}

/// Three nodes and a provider that the load goes to.
struct Scene {
    cluster: Cluster,
    /// Killed when it is dropped.
    _provider: ProviderProcess,
    time: Duration,
}

async fn bench(options: &Options) -> anyhow::Result<Vec<Figure>> {
    day_with_room(Duration::from_secs(600)).await;
    let cluster = Cluster::start().await.context("the cluster does not start")?;
    let provider = ProviderProcess::start(&[]).await?;
    let url = format!("{}/v1", provider.url);
    let yaml = resources::provider("mock", "openai", &url)
        + &resources::route("chat", "[{provider: mock}]", "")
        + &resources::tenant("acme");
    cluster.cli().apply_and_wait(&yaml).await?;
    let mut scene = Scene { cluster, _provider: provider, time: options.time };
    let mut figures = Vec::new();
    let wanted = |subject| options.only.is_none_or(|only| only == subject);
    if wanted(Subject::Paths) {
        figures.extend(paths::measure(&scene).await.context("where calls are admitted")?);
    }
    if wanted(Subject::Usable) {
        figures.extend(usable::measure(&scene).await.context("what a limit admits")?);
    }
    if wanted(Subject::Cpu) {
        figures.extend(cpu::measure(&scene).await.context("CPU time of a call")?);
    }
    if wanted(Subject::Failover) {
        figures.extend(failover::measure(&mut scene, options.kills).await.context("the leader killed")?);
    }
    Ok(figures)
}

impl Scene {
    /// A consumer of this name with these limits: a name and a spec in flow style each, without braces.
    async fn consumer(&self, name: &str, limits: &[(&str, &str)]) -> anyhow::Result<()> {
        let mut yaml = resources::consumer(name, "acme");
        for (limit, spec) in limits {
            let spec = format!("{{match: {{consumers: [{name}]}}, {spec}}}");
            yaml += &resources::document("Limit", &format!("{name}-{limit}"), &spec);
        }
        self.cluster.cli().apply_and_wait(&yaml).await?;
        Ok(())
    }
}

/// `part` of `whole` in percent; of nothing, all.
#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 100.0 } else { 100.0 * part as f64 / whole as f64 }
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}
