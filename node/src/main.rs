//! The `tollgate` program: one binary with a verb for everything.

mod accounts;
mod alerts;
mod audit;
mod backplane;
mod certificates;
mod clock;
mod cmd;
mod config;
mod credits;
mod data_plane;
mod demo;
mod explain;
mod gossip;
mod journal;
mod ledger;
mod lifecycle;
mod members;
mod memory;
mod metrics;
mod node;
mod pki;
mod probe;
mod run;
mod state;
mod telemetry;
mod uplink;
mod views;
mod zones;

use std::process::ExitCode;

use clap::Parser;

/// A call makes and drops some hundred small things on whichever thread comes along: an allocator made for that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = cmd::Cli::parse();
    // rustls takes one provider of cryptography for the whole process, before the first configuration is built.
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        anstream::eprintln!("tollgate: a provider of cryptography is installed already");
        return ExitCode::FAILURE;
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            anstream::eprintln!("tollgate: can't start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(cmd::dispatch(cli.command));
    // What still runs after a clean stop (a look-up of a name, a read of a terminal) must not hold the process.
    runtime.shutdown_background();
    code
}
