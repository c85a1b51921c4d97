//! Holds the crate table of ARCHITECTURE.md to the truth: who may use whom, and that there is one program.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

use serde_json::Value;

/// Crate folder and the workspace crates that it may use.
const MAY_USE: &[(&str, &[&str])] = &[
    ("proto", &[]),
    ("model", &["proto"]),
    ("storage", &[]),
    ("consensus", &["proto", "storage"]),
    ("quota", &["model", "proto"]),
    ("llm", &["model"]),
    ("billing", &["model", "proto", "storage"]),
    ("exports", &["billing"]),
    ("gateway", &["model", "quota", "llm", "billing"]),
    ("admin", &["proto", "model", "billing"]),
    ("mock-llm", &[]),
    (
        "node",
        &[
            "proto",
            "model",
            "storage",
            "consensus",
            "quota",
            "llm",
            "billing",
            "exports",
            "gateway",
            "admin",
            "mock-llm",
        ],
    ),
    ("chaos-tests", &["mock-llm"]),
];

/// The same as ARCHITECTURE.md has it: `–` is none, `all` every crate above it.
fn documented() -> BTreeMap<String, BTreeSet<String>> {
    let text = include_str!("../../../ARCHITECTURE.md");
    let rows = text.lines().skip_while(|line| !line.starts_with("| crate |")).skip(2);
    let mut table: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for row in rows.take_while(|line| line.starts_with('|')) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [name, _, uses] = cells[..] else { panic!("three columns: {row}") };
        let name = name.trim_matches('`').strip_suffix('/').unwrap_or_else(|| panic!("a folder: {row}"));
        let uses = match uses {
            "–" => BTreeSet::new(),
            "all" => table.keys().cloned().collect(),
            some => some.split(", ").map(str::to_owned).collect(),
        };
        assert!(table.insert(name.to_owned(), uses).is_none(), "twice in the table: {name}");
    }
    table
}

#[test]
fn the_table_in_the_architecture_is_this_one() {
    let owned = |(name, uses): &(&str, &[&str])| {
        ((*name).to_owned(), uses.iter().map(|used| (*used).to_owned()).collect::<BTreeSet<_>>())
    };
    assert_eq!(documented(), MAY_USE.iter().map(owned).collect());
}

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--locked"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON")
}

fn names<'a>(package: &'a Value, list: &str) -> impl Iterator<Item = &'a Value> {
    package[list].as_array().expect("a list").iter()
}

#[test]
fn every_crate_uses_only_what_the_table_allows() {
    let metadata = metadata();
    let mut found = BTreeMap::new();
    for package in names(&metadata, "packages") {
        let name =
            package["name"].as_str().unwrap().strip_prefix("tollgate-").expect("crates are named tollgate-<folder>");
        // What only tests use is built into nothing.
        let uses: BTreeSet<&str> = names(package, "dependencies")
            .filter(|dependency| dependency["kind"] != "dev")
            .filter_map(|dependency| dependency["name"].as_str()?.strip_prefix("tollgate-"))
            .collect();
        found.insert(name, uses);
    }
    let table: BTreeMap<&str, BTreeSet<&str>> =
        MAY_USE.iter().map(|(name, uses)| (*name, uses.iter().copied().collect())).collect();
    assert_eq!(found.keys().collect::<Vec<_>>(), table.keys().collect::<Vec<_>>(), "the table lists every crate");
    for (name, uses) in found {
        let strangers: Vec<_> = uses.difference(&table[name]).collect();
        assert!(strangers.is_empty(), "{name} may not use {strangers:?}");
    }
}

#[test]
fn there_is_one_program() {
    let metadata = metadata();
    let programs: Vec<&str> = names(&metadata, "packages")
        .flat_map(|package| names(package, "targets"))
        .filter(|target| target["kind"].as_array().unwrap().iter().any(|kind| kind == "bin"))
        .map(|target| target["name"].as_str().unwrap())
        .collect();
    assert_eq!(programs, ["tollgate"]);
}
