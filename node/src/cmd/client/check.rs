//! `tollgate check`: validates files without a cluster.

use std::path::{Path, PathBuf};

use anyhow::ensure;
use clap::Args;
use tollgate_model::Problems;

use super::{
    failure::{print, told},
    files::{Files, names},
};
use crate::config::NodeConfig;

/// What node configurations end in; everything else is read as resources.
const NODE_CONFIG: &str = "toml";

/// Validate node configurations (.toml) and resource files, without a cluster.
///
/// Every problem is reported with its file, line and field. What a resource refers to must be in the files as well,
/// unless --partial says that the rest is in the cluster: `tollgate apply --dry-run` asks it.
#[derive(Args, Debug)]
#[command(after_help = "Example: tollgate check node.toml resources/")]
pub(crate) struct CheckArgs {
    /// Files, folders of resource files, or - for resources on standard input.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The files are a part of what is declared: what they refer to may be elsewhere.
    #[arg(long)]
    partial: bool,
}

pub(super) fn run(args: &CheckArgs) -> anyhow::Result<()> {
    let is_config = |path: &&PathBuf| path.extension().is_some_and(|ending| ending == NODE_CONFIG) && !path.is_dir();
    let (configs, resources): (Vec<_>, Vec<_>) = args.files.iter().partition(is_config);
    let mut wrong = 0;
    for path in &configs {
        wrong += node_config(path);
    }
    let resources: Vec<_> = resources.into_iter().cloned().collect();
    let files = Files::read(&resources);
    let elsewhere = if args.partial { Problems::default() } else { files.missing_references() };
    let shared = files.shared_credentials();
    print(&files.problems);
    print(&shared);
    print(&elsewhere);
    if !elsewhere.is_empty() {
        anstream::eprintln!("tollgate: if what is missing is in the cluster already, check with --partial");
    }
    wrong += files.problems.len() + shared.len() + elsewhere.len();
    if wrong > 0 {
        return Err(told(wrong, 0));
    }
    ensure!(resources.is_empty() || files.len() > 0, "no resource in {}", names(&resources));
    anstream::eprintln!("{}", fine(configs.len(), files.len()));
    Ok(())
}

fn fine(configs: usize, resources: usize) -> String {
    let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    match (configs, resources) {
        (configs, 0) if configs > 0 => format!("{} fine", count(configs, "node configuration")),
        (0, resources) => format!("{} fine", count(resources, "resource")),
        (configs, resources) => {
            format!("{} and {} fine", count(configs, "node configuration"), count(resources, "resource"))
        }
    }
}

/// Prints what is wrong with a node configuration; how much that is.
fn node_config(path: &Path) -> usize {
    let Err(problems) = NodeConfig::load(path) else { return 0 };
    let file = path.display().to_string();
    for problem in &problems {
        anstream::eprintln!("{}", problem.display(&file));
    }
    problems.len()
}
