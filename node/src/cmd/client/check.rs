//! `tollgate check`: validates files without a cluster.

use std::path::{Path, PathBuf};

use clap::Args;
use tollgate_model::{Problems, check};

use super::{
    failure::Told,
    files::{Files, identity},
};
use crate::config::NodeConfig;

/// What node configurations end in; everything else is read as resources.
const NODE_CONFIG: &str = "toml";

/// Validate node configurations (.toml) and resource files, without a cluster.
///
/// Every problem is reported with its file, line and field. Whether what a resource refers to exists is known to the
/// cluster alone: `tollgate apply --dry-run` asks it.
#[derive(Args, Debug)]
#[command(after_help = "Example: tollgate check node.toml resources/")]
pub(crate) struct CheckArgs {
    /// Files, folders of resource files, or - for resources on standard input.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

pub(super) fn run(args: &CheckArgs) -> anyhow::Result<()> {
    let is_config = |path: &&PathBuf| path.extension().is_some_and(|ending| ending == NODE_CONFIG) && !path.is_dir();
    let (configs, resources): (Vec<_>, Vec<_>) = args.files.iter().partition(is_config);
    let mut wrong = 0;
    for path in &configs {
        wrong += node_config(path);
    }
    let files = Files::read(&resources.into_iter().cloned().collect::<Vec<_>>())?;
    let problems = resource_problems(&files);
    for problem in &problems {
        anstream::eprintln!("{problem}");
    }
    wrong += problems.len();
    if wrong > 0 {
        return Err(told(wrong));
    }
    anstream::eprintln!("{}", fine(configs.len(), files.parsed.len()));
    Ok(())
}

fn told(wrong: usize) -> anyhow::Error {
    anstream::eprintln!("tollgate: {wrong} {}", if wrong == 1 { "problem" } else { "problems" });
    Told.into()
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

/// What is wrong with each resource by itself, and what is there twice.
fn resource_problems(files: &Files) -> Problems {
    let mut problems = files.problems.clone();
    let mut seen = std::collections::HashSet::new();
    for parsed in &files.parsed {
        let mut found = check(&parsed.resource).err().unwrap_or_default();
        let (kind, metadata) = identity(&parsed.resource);
        let name = metadata.map_or("", |metadata| metadata.name.as_str());
        if !seen.insert((kind, name)) {
            found.push(tollgate_model::Problem {
                kind,
                name: name.to_owned(),
                field: "metadata.name".to_owned(),
                message: "is declared twice".to_owned(),
                at: None,
            });
        }
        parsed.index.place(&mut found);
        problems.extend(found);
    }
    problems
}
