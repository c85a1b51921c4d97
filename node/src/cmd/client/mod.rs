//! The verbs that talk to a running cluster over its admin plane, and `check`, which needs none.
//!
//! Every verb is an `Args` struct, whose doc comment is its help, and a `run`. What goes to standard output is the
//! answer and nothing else; everything said about it goes to standard error.

mod apply;
mod check;
mod cluster;
mod connection;
mod delete;
mod diff;
mod failure;
mod files;
mod get;
mod later;
mod limits;
mod output;
mod table;
mod token;
mod usage;
mod watch;

use std::process::ExitCode;

use clap::Subcommand;

pub(crate) use self::{
    apply::apply_text,
    connection::Connection,
    output::{is_closed_pipe, write},
};

/// The exit code that clap has, too.
const WRONG_USAGE: u8 = 2;

/// Verbs of the contract that a running cluster answers.
#[derive(Subcommand, Debug)]
pub(crate) enum ClientCommand {
    Check(check::CheckArgs),
    Apply(apply::ApplyArgs),
    Diff(diff::DiffArgs),
    Get(get::GetArgs),
    Delete(delete::DeleteArgs),
    Export(get::ExportArgs),
    Cluster(cluster::ClusterArgs),
    Token(token::TokenArgs),
    Limits(limits::LimitsArgs),
    Usage(usage::UsageArgs),
    #[command(flatten)]
    Later(later::LaterCommand),
}

/// Runs a verb. A refusal whose reasons have been printed already is a failure without an error.
pub(crate) async fn run(command: ClientCommand) -> anyhow::Result<ExitCode> {
    let done = match command {
        ClientCommand::Check(args) => check::run(&args),
        ClientCommand::Apply(args) => apply::run(args).await,
        ClientCommand::Diff(args) => diff::run(args).await,
        ClientCommand::Get(args) => get::run(args).await,
        ClientCommand::Delete(args) => delete::run(args).await,
        ClientCommand::Export(args) => get::export(args).await,
        ClientCommand::Cluster(args) => cluster::run(args).await,
        ClientCommand::Token(args) => token::run(args).await,
        ClientCommand::Limits(args) => limits::run(args).await,
        ClientCommand::Usage(args) => usage::run(args).await,
        ClientCommand::Later(command) => command.run(),
    };
    match done {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) if error.is::<failure::Told>() => Ok(ExitCode::FAILURE),
        Err(error) if output::is_closed_pipe(&error) => Ok(ExitCode::SUCCESS),
        Err(error) if error.is::<failure::Usage>() => {
            anstream::eprintln!("tollgate: {error}");
            Ok(ExitCode::from(WRONG_USAGE))
        }
        Err(error) => Err(error),
    }
}
