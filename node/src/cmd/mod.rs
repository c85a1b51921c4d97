//! The verbs of the command line and what they have in common: exit codes, and how failures are told.
//!
//! 0 is done, 1 refused or failed with the reason on standard error, 2 wrong usage (clap says why).

pub(crate) mod client;
mod mock;

use std::{process::ExitCode, time::Duration};

use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use crate::{demo, run};

/// An AI gateway with exact limits: a cluster of equal nodes, one binary.
#[derive(Parser, Debug)]
#[command(name = "tollgate", version, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Every verb.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    Demo(demo::DemoArgs),
    Run(run::RunArgs),
    MockLlm(mock::MockArgs),
    Completions(CompletionsArgs),
    #[command(flatten)]
    Client(client::ClientCommand),
}

/// Print a completion script for a shell.
///
/// For bash: tollgate completions bash > /etc/bash_completion.d/tollgate
#[derive(Args, Debug)]
pub(crate) struct CompletionsArgs {
    /// Which shell.
    shell: Shell,
}

/// Runs a verb to its end and gives the process's exit code.
pub(crate) async fn dispatch(command: Command) -> ExitCode {
    let done = match command {
        Command::Demo(args) => demo::run(args).await.map(|()| ExitCode::SUCCESS),
        Command::Run(args) => run::run(args).await,
        Command::MockLlm(args) => mock::run(args).await.map(|()| ExitCode::SUCCESS),
        Command::Completions(args) => completions(args.shell),
        Command::Client(command) => client::run(command).await,
    };
    done.unwrap_or_else(|error| {
        anstream::eprintln!("{}", client::told(&error));
        ExitCode::FAILURE
    })
}

fn completions(shell: Shell) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "tollgate", &mut script);
    match client::write(&String::from_utf8(script)?) {
        Err(error) if client::is_closed_pipe(&error) => Ok(ExitCode::SUCCESS),
        done => done.map(|()| ExitCode::SUCCESS),
    }
}

/// For clap: the same, and some time at all.
pub(crate) fn some_time(text: &str) -> Result<Duration, String> {
    let duration = duration(text)?;
    if duration.is_zero() { Err("must be longer than nothing".to_owned()) } else { Ok(duration) }
}

/// For clap: a duration such as `250ms`, `30s` or `5m`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    tollgate_model::parse_duration(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
