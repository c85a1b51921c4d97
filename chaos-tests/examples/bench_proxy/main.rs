//! What a proxied call costs beside nginx, on the same core of this machine and in the same run.
//!
//! `cargo run --release -p tollgate-chaos-tests --example bench_proxy -- [--only http] [--for 2s] [--rounds 7] [-o json]`
//!
//! Needs `nginx` and `wrk`, and `h2load` for what comes in over HTTP/2 or at a fixed rate, and installs nothing. Both proxies run on the first core with
//! one worker each, one after the other in turns; load, services and providers run on the second. Each figure of CPU is all that the
//! process used, its log and its consensus too, by the calls that were answered.

mod added;
mod closed;
mod memory;
mod nginx;
mod paced;
mod scene;

use std::time::Duration;

use anyhow::Context;
use clap::{Parser, ValueEnum};
use tollgate_chaos_tests::figure::{self, Figure, Output};

use scene::Scene;

/// Measures what a proxied call costs beside nginx.
#[derive(Debug, Parser)]
struct Options {
    /// Measures this alone.
    #[arg(long, value_enum)]
    only: Option<Subject>,
    /// How long each turn of a side lasts.
    #[arg(long = "for", value_parser = figure::seconds, default_value = "2s")]
    time: Duration,
    /// How many turns each side has.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// How many streams, and how many idle connections, are open when memory is measured.
    #[arg(long, default_value_t = 4_000)]
    open: usize,
    /// How the result is printed.
    #[arg(short, long, default_value = "text")]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Subject {
    /// Plain answers of 1 KB, as many as there is time for.
    Http,
    /// The same over HTTP/2 from the client.
    Http2,
    /// Calls of a model with key, limit, price and ledger, as many as there is time for.
    Ai,
    /// The same at a fixed rate: CPU and added latency.
    Paced,
    /// Streams of events.
    Streams,
    /// Open streams and idle connections.
    Memory,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    // One thread, so that whatever it starts inherits the core that it is on.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let figures = runtime.block_on(bench(&options))?;
    figure::print(&figures, "Tollgate and nginx on one core, load and upstreams on another", options.output)
}

async fn bench(options: &Options) -> anyhow::Result<Vec<Figure>> {
    let scene = Scene::start().await?;
    let mut figures = Vec::new();
    let wanted = |subject| options.only.is_none_or(|only| only == subject);
    let turns = closed::Turns { rounds: options.rounds, time: options.time };
    if wanted(Subject::Http) {
        figures.extend(closed::http(&scene, turns).context("plain HTTP")?);
        figures.extend(closed::http_at_a_rate(&scene, turns).context("plain HTTP at a fixed rate")?);
    }
    if wanted(Subject::Http2) {
        figures.extend(closed::http2(&scene, turns).context("HTTP/2 from the client")?);
    }
    if wanted(Subject::Ai) {
        figures.extend(closed::ai(&scene, turns).context("calls of a model")?);
    }
    if wanted(Subject::Paced) {
        figures.extend(paced::measure(&scene, turns).await.context("calls at a fixed rate")?);
    }
    if wanted(Subject::Streams) {
        figures.extend(closed::streams(&scene, turns).context("streams")?);
        figures.extend(added::first_events(&scene).await.context("the first event of a stream")?);
    }
    if wanted(Subject::Memory) {
        figures.extend(memory::measure(options.open).await.context("memory")?);
    }
    Ok(figures)
}
