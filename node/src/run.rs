//! `tollgate run`: one node, in the foreground.

use std::{io, net::SocketAddr, path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::Context;
use clap::Args;
use tokio::net::{TcpListener, TcpSocket};
use tollgate_model::secret::ClusterKey;
use tracing::{error, info, warn};

use crate::{
    config::NodeConfig,
    lifecycle::{self, Signals},
    node::Node,
    telemetry,
};

/// Part of the message of a node that found one of its ports taken.
pub(crate) const ADDRESS_IN_USE: &str = "address already in use";

/// Connections that wait to be taken, as many as the kernel allows by default.
const BACKLOG: u32 = 4_096;

/// What `/readyz` says of a node that leaves.
const DRAINING: &str = "draining";
const REMOVED: &str = "removed from the cluster";

/// Run one node in the foreground.
///
/// SIGTERM or Ctrl-C drains and leaves cleanly: exit code 0. A second one ends at once: exit code 1 if that cut requests.
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
        Ok(code) => Ok(code),
        Err(error) => {
            error!(error = format!("{error:#}"), "the node can't go on");
            Ok(ExitCode::FAILURE)
        }
    }
}

async fn serve(config: NodeConfig) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::listen()?;
    let key = config.key_file.as_deref().map(ClusterKey::read).transpose().context("cluster.key_file")?.map(Arc::new);
    let (id, zone) = (config.id, config.zone.clone());
    info!(node = id, zone, version = env!("CARGO_PKG_VERSION"), "starting");
    let drain = lifecycle::Drain { delay: config.drain_delay, timeout: config.drain_timeout };
    let node = tokio::select! {
        node = Node::start(config, key) => node?,
        () = signals.stop() => {
            info!(node = id, "told to stop before it had found its cluster");
            return Ok(ExitCode::SUCCESS);
        }
    };
    signals.on_hangup(node.reloads());
    info!(node = id, zone, "ready");
    let ended = tokio::select! {
        () = signals.stop() => Ok(None),
        removed = node.consensus.removed() => Ok(Some(removed)),
        reason = node.must_end() => Err(reason),
    };
    let why = if matches!(ended, Ok(Some(_))) { REMOVED } else { DRAINING };
    let gateway = node.gateway.clone();
    let left = tokio::select! {
        () = lifecycle::stop(node, drain, why) => Left::Clean,
        // Counted before the node is let go of, which ends them.
        requests = async { signals.stop().await; gateway.in_flight() } => Left::Cut { requests },
    };
    left.log(id);
    if let Some(removed) = ended? {
        info!(node = id, "{removed}");
    }
    Ok(ExitCode::from(left.code()))
}

/// How a node that was told to stop has ended.
#[derive(Debug, Clone, Copy)]
enum Left {
    /// As it should.
    Clean,
    /// Told again, at once.
    Cut { requests: usize },
}

impl Left {
    fn log(self, node: u64) {
        match self {
            Left::Clean => info!(node, "left"),
            Left::Cut { requests: 0 } => info!(node, "told to stop again: ending at once, no request was in flight"),
            Left::Cut { requests } => warn!(node, requests, "told to stop again: ending at once, requests were cut"),
        }
    }

    /// Work that was cut is no success.
    fn code(self) -> u8 {
        match self {
            Left::Clean | Left::Cut { requests: 0 } => 0,
            Left::Cut { .. } => 1,
        }
    }
}

/// Binds a listening socket; a busy port is named with the key that says where it is set.
pub(crate) fn bind(key: &str, address: SocketAddr) -> anyhow::Result<std::net::TcpListener> {
    std::net::TcpListener::bind(address).map_err(|error| busy(key, address, &error))
}

/// A port that is taken and does not listen yet: whoever connects is refused at once, and asks another node.
#[derive(Debug)]
pub(crate) struct Port {
    key: &'static str,
    address: SocketAddr,
    socket: TcpSocket,
}

impl Port {
    /// Takes a port; one that another process listens on is named as [`bind`] does.
    pub(crate) fn take(key: &'static str, address: SocketAddr) -> anyhow::Result<Port> {
        let take = || {
            let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            // Connections of an earlier process may still be ending.
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            Ok(socket)
        };
        let socket = take().map_err(|error| busy(key, address, &error))?;
        Ok(Port { key, address, socket })
    }

    /// From now on connections are taken.
    pub(crate) fn listen(self) -> anyhow::Result<TcpListener> {
        let Port { key, address, socket } = self;
        socket.listen(BACKLOG).map_err(|error| busy(key, address, &error))
    }
}

fn busy(key: &str, address: SocketAddr, error: &io::Error) -> anyhow::Error {
    match error.kind() {
        io::ErrorKind::AddrInUse => anyhow::anyhow!("{key}: {address}: {ADDRESS_IN_USE}"),
        _ => anyhow::anyhow!("{key}: can't listen on {address}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[tokio::test]
    async fn a_taken_port_refuses_connections_until_it_listens_and_a_busy_one_is_named() {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut port = Port::take("http.listen", any).unwrap();
        port.address = port.socket.local_addr().unwrap();
        let address = port.address;
        let refused = tokio::net::TcpStream::connect(address).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        let late = Port::take("http.listen", address).unwrap();
        let listener = port.listen().unwrap();
        tokio::net::TcpStream::connect(address).await.unwrap();
        let expected = format!("http.listen: {address}: {ADDRESS_IN_USE}");
        assert_eq!(late.listen().unwrap_err().to_string(), expected, "two processes that start at once");
        assert_eq!(Port::take("http.listen", address).unwrap_err().to_string(), expected);
        drop(listener);
    }

    #[test]
    fn only_requests_that_were_cut_make_a_stop_a_failure() {
        assert_eq!(Left::Clean.code(), 0);
        assert_eq!(Left::Cut { requests: 0 }.code(), 0);
        assert_eq!(Left::Cut { requests: 3 }.code(), 1);
    }
}
