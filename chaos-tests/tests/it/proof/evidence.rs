//! What the cluster says: its rows, its costs and its sums, once all nodes say the same.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use anyhow::Context;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use tollgate_chaos_tests::{Cli, Cluster, eventually_within};

use crate::{export, ledger};

/// All rows are there by then, and the same everywhere.
const PATIENCE: Duration = Duration::from_secs(300);
/// What every node must say with the same bytes.
const SHAPES: [(&str, &str); 6] = [
    ("events", "jsonl"),
    ("events", "csv"),
    ("events", "parquet"),
    ("cost", "csv"),
    ("summary", "csv"),
    ("focus", "csv"),
];

/// A row of the ledger, as `events` says it.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Row {
    pub(super) event_id: String,
    pub(super) request_id: String,
    pub(super) tenant: String,
    pub(super) provider: Option<String>,
    pub(super) input_tokens: u64,
    pub(super) output_tokens: u64,
    pub(super) usage_source: String,
    pub(super) status: u16,
    pub(super) outcome: String,
    pub(super) cost: Option<String>,
    pub(super) currency: String,
    pub(super) node: u64,
}

/// What an upstream bills, as `cost` says it.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Cost {
    pub(super) request_id: String,
    pub(super) provider: String,
    pub(super) input_tokens: u64,
    pub(super) output_tokens: u64,
    pub(super) input_at_most: u64,
    pub(super) output_at_most: u64,
    pub(super) usage_source: String,
    pub(super) cost: String,
    pub(super) currency: String,
}

/// By account and currency, in pico-units.
pub(super) type Balances = BTreeMap<(String, String), i128>;

pub(super) struct Evidence {
    pub(super) rows: Vec<Row>,
    pub(super) costs: Vec<Cost>,
    pub(super) balances: Balances,
}

impl Evidence {
    /// Waits until all nodes say the same: in their files, their exports and their own checks of themselves.
    pub(super) async fn of(
        cluster: &Cluster,
        expected: impl Fn(&[Row]) -> anyhow::Result<()>,
    ) -> anyhow::Result<Evidence> {
        let dir = tempfile::tempdir()?;
        let cli = cluster.cli();
        let rows = eventually_within(PATIENCE, "every request is in the ledger", || async {
            let rows = lines::<Row>(&cli, ("events", "jsonl"), &dir.path().join("rows")).await?;
            expected(&rows)?;
            Ok(rows)
        })
        .await?;
        let costs = lines(&cli, ("cost", "jsonl"), &dir.path().join("costs")).await?;
        ledger::same_everywhere(cluster).await?;
        let mut found = Vec::new();
        for node in 1..=3 {
            let verified = ledger::whole(cluster, node).await?;
            anyhow::ensure!(
                verified["ok"] == true && verified["rows"] == rows.len(),
                "{verified}, {} exported",
                rows.len()
            );
            found.push((verified["hash"].clone(), balances(&verified)?));
        }
        anyhow::ensure!(found.iter().all(|it| *it == found[0]), "nodes have other ledgers: {found:?}");
        for shape in SHAPES {
            let first = export::whole(&cluster.cli_of(1), shape, &dir.path().join("first")).await?;
            for id in 2..=3 {
                let other = export::whole(&cluster.cli_of(id), shape, &dir.path().join("other")).await?;
                anyhow::ensure!(other == first, "{shape:?} of node {id} is not that of node 1");
            }
        }
        Ok(Evidence { rows, costs, balances: found.remove(0).1 })
    }
}

async fn lines<T: DeserializeOwned>(cli: &Cli, shape: (&str, &str), to: &Path) -> anyhow::Result<Vec<T>> {
    export::whole(cli, shape, to).await?;
    let text = fs::read_to_string(to)?;
    text.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}

fn balances(verified: &Value) -> anyhow::Result<Balances> {
    let all = verified["balances"].as_array().context("there are no balances")?;
    let of = |it: &Value| {
        let text = |name: &str| it[name].as_str().with_context(|| format!("no {name} in {it}"));
        anyhow::Ok(((text("account")?.to_owned(), text("currency")?.to_owned()), pico(text("amount")?)?))
    };
    all.iter().map(of).collect()
}

/// A decimal of at most twelve places, in pico-units.
pub(super) fn pico(decimal: &str) -> anyhow::Result<i128> {
    let (sign, digits) = decimal.strip_prefix('-').map_or((1, decimal), |rest| (-1, rest));
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    anyhow::ensure!(part.len() <= 12, "{decimal} has more than twelve places");
    Ok(sign * format!("{whole}{part:0<12}").parse::<i128>().with_context(|| format!("no decimal: {decimal}"))?)
}
