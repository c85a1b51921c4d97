//! Structured logs on standard error: for people on a terminal, JSON lines anywhere else.

use std::io::{self, IsTerminal};

use tracing_subscriber::{EnvFilter, fmt};

/// openraft logs every message at `info` and every attempt at a dead peer at `warn`: what an operator must know of elections
/// and members, consensus and the cluster's status say.
const QUIET: &str = "openraft=error";

/// Installs the subscriber. `filter` was checked with the configuration; what it says of openraft goes before our own.
pub(crate) fn init(filter: &str) {
    let filter = EnvFilter::try_new(format!("{QUIET},{filter}")).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = fmt().with_env_filter(filter).with_writer(io::stderr);
    if io::stderr().is_terminal() {
        builder.init();
    } else {
        builder.json().flatten_event(true).init();
    }
}
