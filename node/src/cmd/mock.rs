//! `tollgate mock-llm`: the simulated provider by itself.

use std::net::SocketAddr;

use anyhow::Context;
use clap::Args;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;
use tollgate_mock_llm::{KNOBS, Knobs, Options, serve};

/// Run a simulated LLM provider that counts what it serves (OpenAI, Anthropic and Gemini wire formats).
#[derive(Args, Debug)]
#[command(after_help = knobs_help())]
pub(crate) struct MockArgs {
    /// Address to listen on; port 0 takes any, and the first line printed says which.
    #[arg(long, value_name = "ADDR")]
    listen: SocketAddr,
    /// Ask every call for this key.
    #[arg(long, value_name = "KEY")]
    api_key: Option<String>,
    /// A model that the models endpoint lists; any other is served as well. May be repeated.
    #[arg(long = "model", value_name = "NAME")]
    models: Vec<String>,
    /// Decides which requests fail when only a part of them shall.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How calls are answered that say nothing themselves, see below. May be repeated.
    #[arg(long = "knob", value_name = "NAME=VALUE", value_parser = knob)]
    knobs: Vec<(String, String)>,
}

/// Serves until Ctrl-C or SIGTERM.
pub(crate) async fn run(args: MockArgs) -> anyhow::Result<()> {
    let mut knobs = Knobs::default();
    for (name, value) in &args.knobs {
        knobs.set(name, value)?;
    }
    let mut options = Options { api_key: args.api_key, seed: args.seed, knobs, ..Options::default() };
    if !args.models.is_empty() {
        options.models = args.models;
    }
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let listener = TcpListener::bind(args.listen).await.with_context(|| format!("can't listen on {}", args.listen))?;
    anstream::println!("listening on http://{}", listener.local_addr()?);
    let stop = CancellationToken::new();
    let server = serve(listener, options, stop.clone());
    tokio::pin!(server);
    tokio::select! {
        ended = &mut server => return Ok(ended?),
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    stop.cancel();
    Ok(server.await?)
}

/// Every knob is tried here already, so that a typo is wrong usage and not a failure.
fn knob(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write it as NAME=VALUE")?;
    Knobs::default().set(name, value).map_err(|error| error.to_string())?;
    Ok((name.to_owned(), value.to_owned()))
}

fn knobs_help() -> String {
    let width = KNOBS.iter().map(|knob| knob.name.len()).max().unwrap_or_default();
    let mut help = String::from(
        "Knobs, also as a header (x-mock-NAME), in a model's name (mock-1+NAME=VALUE) and at POST /__mock/knobs:\n",
    );
    for knob in KNOBS {
        help.push_str(&format!("  {:width$}  {}\n", knob.name, knob.help));
    }
    help.push_str("\nWhat was served: GET /__mock/witness, GET /__mock/requests?since=0");
    help
}
