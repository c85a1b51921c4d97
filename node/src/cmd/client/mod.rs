//! The verbs that talk to a running cluster over its admin plane, and `check`, which needs none.
//!
//! Every verb is an `Args` struct, whose doc comment is its help, and a `run`. What goes to standard output is the
//! answer and nothing else; everything said about it goes to standard error.

mod apply;
mod billing;
mod check;
mod cluster;
mod connection;
mod credits;
mod delete;
mod diff;
mod failure;
mod files;
mod get;
mod later;
mod ledger;
mod limits;
mod output;
mod table;
mod token;
mod usage;
mod watch;
mod zone;

use std::process::ExitCode;

use clap::Subcommand;

pub(crate) use self::{
    apply::apply_text,
    connection::Connection,
    credits::grant_credit,
    output::{is_closed_pipe, write},
};

/// The exit code that clap has, too.
const WRONG_USAGE: u8 = 2;
/// What a shell gives a program that an interrupt has ended.
const INTERRUPTED: u8 = 130;

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
    Zone(zone::ZoneArgs),
    Token(token::TokenArgs),
    Credits(credits::CreditsArgs),
    Limits(limits::LimitsArgs),
    Usage(usage::UsageArgs),
    Billing(billing::BillingArgs),
    Ledger(ledger::LedgerArgs),
    #[command(flatten)]
    Later(later::LaterCommand),
}

/// What went wrong, and then what to do about it.
pub(crate) fn told(error: &anyhow::Error) -> String {
    let advice = error.downcast_ref().and_then(failure::CallError::advice);
    let advice = advice.map(|advice| format!("\ntollgate: {advice}"));
    format!("tollgate: {error:#}{}", advice.unwrap_or_default())
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
        ClientCommand::Zone(args) => zone::run(args).await,
        ClientCommand::Token(args) => token::run(args).await,
        ClientCommand::Credits(args) => credits::run(args).await,
        ClientCommand::Limits(args) => limits::run(args).await,
        ClientCommand::Usage(args) => usage::run(args).await,
        ClientCommand::Billing(args) => billing::run(args).await,
        ClientCommand::Ledger(args) => ledger::run(args).await,
        ClientCommand::Later(command) => command.run(),
    };
    match done {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) if error.is::<failure::Told>() => Ok(ExitCode::FAILURE),
        Err(error) if error.is::<billing::Interrupted>() => Ok(ExitCode::from(INTERRUPTED)),
        Err(error) if output::is_closed_pipe(&error) => Ok(ExitCode::SUCCESS),
        Err(error) if error.is::<failure::Usage>() => {
            anstream::eprintln!("tollgate: {error}");
            Ok(ExitCode::from(WRONG_USAGE))
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_to_go_on_follows_what_went_wrong() {
        let error = failure::CallError::NoAnswer { nodes: "a: gone".into(), maybe_done: true, request_id: vec![7; 2] };
        let told = told(&error.into());
        let lines: Vec<_> = told.lines().collect();
        assert_eq!(lines.len(), 2, "{told}");
        assert!(lines[0].starts_with("tollgate: no node has answered"), "{told}");
        assert_eq!(lines[1], "tollgate: to try again safely, add --request-id 0707");
        assert_eq!(super::told(&anyhow::anyhow!("no")), "tollgate: no");
    }
}
