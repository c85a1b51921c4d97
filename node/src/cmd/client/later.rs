//! Verbs of the contract that are not built yet: known, with their names in the help, and refused with exit code 1.

use anyhow::bail;
use clap::{Args, Subcommand};

/// What comes later.
#[derive(Subcommand, Debug)]
pub(crate) enum LaterCommand {
    /// Write the configuration of a new cluster: not available yet.
    Init(LaterArgs),
    /// Show who changed what, when: not available yet.
    Audit(LaterArgs),
    /// Watch the cluster live: not available yet.
    Top(LaterArgs),
}

/// Whatever follows the verb.
#[derive(Args, Debug)]
pub(crate) struct LaterArgs {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    rest: Vec<String>,
}

impl LaterCommand {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let verb = match self {
            Self::Init(_) => "init",
            Self::Audit(_) => "audit",
            Self::Top(_) => "top",
        };
        bail!("{verb} is not available yet")
    }
}
