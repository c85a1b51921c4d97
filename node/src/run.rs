//! `tollgate run`: one node, in the foreground.

use std::{io, path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::Context;
use clap::Args;
use tollgate_model::secret::ClusterKey;
use tracing::{error, info};

use crate::{
    config::NodeConfig,
    lifecycle::{self, Signals},
    node::Node,
    telemetry,
};

/// Part of the message of a node that found one of its ports taken.
pub(crate) const ADDRESS_IN_USE: &str = "address already in use";

/// What `/readyz` says of a node that leaves.
const DRAINING: &str = "draining";
const REMOVED: &str = "removed from the cluster";

/// Run one node in the foreground.
///
/// SIGTERM or Ctrl-C drains and leaves cleanly, a second one ends at once.
#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    /// The node's configuration.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Leave when the process that started this one ends, however it ends.
    #[arg(long, hide = true)]
    exit_with_parent: bool,
}

/// Runs until told to stop. Problems of the configuration go to standard error, each with its place.
pub(crate) async fn run(args: RunArgs) -> anyhow::Result<ExitCode> {
    let config = match NodeConfig::load(&args.config) {
        Ok(config) => config,
        Err(problems) => {
            let file = args.config.display().to_string();
            for problem in problems {
                anstream::eprintln!("{}", problem.display(&file));
            }
            return Ok(ExitCode::FAILURE);
        }
    };
    if args.exit_with_parent {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))
            .context("can't watch the parent process")?;
    }
    telemetry::init(&config.log);
    match serve(config).await {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            error!(error = format!("{error:#}"), "the node can't go on");
            Ok(ExitCode::FAILURE)
        }
    }
}

async fn serve(config: NodeConfig) -> anyhow::Result<()> {
    let mut signals = Signals::listen()?;
    let key = config.key_file.as_deref().map(ClusterKey::read).transpose().context("cluster.key_file")?.map(Arc::new);
    let (id, zone) = (config.id, config.zone.clone());
    info!(node = id, zone, version = env!("CARGO_PKG_VERSION"), "starting");
    let drain = lifecycle::Drain { delay: config.drain_delay, timeout: config.drain_timeout };
    let node = tokio::select! {
        node = Node::start(config, key) => node?,
        () = signals.stop() => {
            info!(node = id, "told to stop before it had found its cluster");
            return Ok(());
        }
    };
    info!(node = id, zone, "ready");
    let ended = tokio::select! {
        () = signals.stop() => Ok(None),
        removed = node.consensus.removed() => Ok(Some(removed)),
        reason = node.must_end() => Err(reason),
    };
    let why = if matches!(ended, Ok(Some(_))) { REMOVED } else { DRAINING };
    tokio::select! {
        () = lifecycle::stop(node, drain, why) => info!(node = id, "left"),
        () = signals.stop() => info!(node = id, "told to stop again: ending at once"),
    }
    if let Some(removed) = ended? {
        info!(node = id, "{removed}");
    }
    Ok(())
}

/// Binds a listening socket; a busy port is named with the key that says where it is set.
pub(crate) fn bind(key: &str, address: std::net::SocketAddr) -> anyhow::Result<std::net::TcpListener> {
    std::net::TcpListener::bind(address).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => anyhow::anyhow!("{key}: {address}: {ADDRESS_IN_USE}"),
        _ => anyhow::anyhow!("{key}: can't listen on {address}: {error}"),
    })
}
