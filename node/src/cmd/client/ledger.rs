//! `tollgate ledger`: is it whole, and what does a row say.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tollgate_billing::{
    export::{COLUMNS, COSTS, Kind},
    ledger::verify_files,
};
use tollgate_proto::admin::v1::{
    LedgerBalance, LedgerCost, LedgerLine, LedgerRow, ShowLedgerRequest, VerifyLedgerRequest, VerifyLedgerResponse,
};

use super::{
    connection::{Connection, ConnectionArgs},
    failure::Told,
    output::{ListFormat, write, write_json, write_table},
    table::Table,
};
use crate::ledger::DIR;

/// Columns that are numbers.
const NUMBERS: [&str; 7] = [
    "input_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
    "status",
    "node",
];

/// Check the billing ledger, and explain its rows.
#[derive(Args, Debug)]
pub(crate) struct LedgerArgs {
    #[command(subcommand)]
    command: LedgerCommand,
    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Subcommand, Debug)]
enum LedgerCommand {
    /// Read a node's ledger through: its chain, each row by its price, and the books.
    ///
    /// Exit code 1 where something is wrong, with the first of it on standard error.
    #[command(
        after_help = "Examples:\n  tollgate ledger verify --admin http://127.0.0.1:9000\n  tollgate ledger verify --dir /var/lib/tollgate --archive /mnt/archive"
    )]
    Verify {
        /// The `node.data_dir` of a node that does not run: its files alone, without a cluster.
        #[arg(long, value_name = "DATA_DIR")]
        dir: Option<PathBuf>,
        /// The `ledger.archive` of that node: what it has archived is read there. Without it, that is not looked at.
        #[arg(long, value_name = "ARCHIVE_DIR", requires = "dir")]
        archive: Option<PathBuf>,
        /// How to print it.
        #[arg(short, long, value_enum, default_value = "table")]
        output: ListFormat,
    },
    /// Explain what a request came to: tokens, price lines, and what it moved.
    Show {
        /// As `x-request-id` on its answer has it.
        request_id: String,
        /// How to print it.
        #[arg(short, long, value_enum, default_value = "table")]
        output: ListFormat,
    },
}

pub(super) async fn run(args: LedgerArgs) -> anyhow::Result<()> {
    match args.command {
        LedgerCommand::Verify { dir: Some(dir), archive, output } => {
            let (found, unseen) = offline(&dir, archive.as_deref())?;
            verified(found, &unseen, output)
        }
        LedgerCommand::Verify { dir: None, output, .. } => {
            let connection = Connection::open(args.connection)?;
            let answer =
                connection.read(async |at| at.billing().verify_ledger(at.request(VerifyLedgerRequest {})).await);
            verified(answer.await?.into_inner(), &[], output)
        }
        LedgerCommand::Show { request_id, output } => {
            let connection = Connection::open(args.connection)?;
            let request = ShowLedgerRequest { request_id };
            let answer = connection.read(async |at| at.billing().show_ledger(at.request(request.clone())).await);
            let rows = answer.await?.into_inner().rows;
            match output {
                ListFormat::Json => write_json(&Value::Array(rows.into_iter().map(flat).collect())),
                ListFormat::Table => rows.into_iter().try_for_each(explain),
            }
        }
    }
}

/// What was found, and the segments that were not looked at.
fn offline(data_dir: &Path, archive: Option<&Path>) -> anyhow::Result<(VerifyLedgerResponse, Vec<u64>)> {
    let dir = data_dir.join(DIR);
    if let Some(archive) = archive {
        archive.read_dir().with_context(|| format!("--archive: can't read {}", archive.display()))?;
    }
    let verified = verify_files(&dir, archive).with_context(|| format!("--dir: can't read {}", dir.display()))?;
    let found = VerifyLedgerResponse {
        rows: verified.rows,
        segments: verified.segments,
        last_seq: verified.last_seq,
        hash: hex::encode(verified.hash),
        problems: verified.problems,
        ..VerifyLedgerResponse::default()
    };
    Ok((found, verified.unseen))
}

/// What was found; a failure where something is wrong.
fn verified(found: VerifyLedgerResponse, unseen: &[u64], output: ListFormat) -> anyhow::Result<()> {
    let node = (found.node != 0).then_some(found.node);
    let row = json!({
        "node": node,
        "ok": found.problems.is_empty(),
        "rows": found.rows,
        "segments": found.segments,
        "lastSeq": found.last_seq,
        "hash": found.hash,
        "problems": found.problems,
        "notLookedAt": unseen,
        "balances": found.balances.iter().map(balance).collect::<Vec<_>>(),
    });
    match output {
        ListFormat::Json => write_json(&Value::Array(vec![row]))?,
        ListFormat::Table => {
            write_table(&Table::of(&["node", "ok", "rows", "segments", "lastSeq", "hash"], &[row]))?;
            if !found.balances.is_empty() {
                write("\n")?;
                write_table(&balances(&found.balances))?;
            }
        }
    }
    if let Some(told) = not_looked_at(unseen) {
        anstream::eprintln!("tollgate: {told}");
    }
    for problem in &found.problems {
        anstream::eprintln!("tollgate: {problem}");
    }
    if found.problems.is_empty() { Ok(()) } else { Err(Told.into()) }
}

/// That the rest being in order says nothing of these.
fn not_looked_at(unseen: &[u64]) -> Option<String> {
    let (first, last) = (unseen.first()?, unseen.last()?);
    let which = if first == last { format!("segment {first}") } else { format!("segments {first} to {last}") };
    Some(format!(
        "{which} of the ledger, archived by this node, {} not looked at, and no row by a price that only they have: name the directory with --archive",
        if first == last { "was" } else { "were" },
    ))
}

fn balances(balances: &[LedgerBalance]) -> Table {
    Table::of(&["account", "currency", "amount"], &balances.iter().map(balance).collect::<Vec<_>>())
}

fn balance(it: &LedgerBalance) -> Value {
    json!({"account": it.account, "currency": it.currency, "amount": it.balance})
}

/// A row as the `events` schema has it, and what explains it.
fn flat(row: LedgerRow) -> Value {
    let mut flat = serde_json::Map::new();
    for column in COLUMNS {
        flat.insert(column.to_owned(), cell(column, row.columns.get(column).map_or("", String::as_str)));
    }
    let moves = row.moves.iter().map(balance);
    flat.insert("lines".to_owned(), row.lines.iter().map(line).collect());
    flat.insert("moves".to_owned(), moves.collect());
    flat.insert("costs".to_owned(), row.costs.iter().map(cost).collect());
    flat.insert("margin".to_owned(), cell("margin", &row.margin));
    flat.insert("segment".to_owned(), row.segment.into());
    flat.insert("offset".to_owned(), row.offset.into());
    Value::Object(flat)
}

/// An attempt as the `cost` schema has it, and what explains it.
fn cost(of: &LedgerCost) -> Value {
    let mut flat = serde_json::Map::new();
    for column in &COSTS {
        let text = of.columns.get(column.name).map_or("", String::as_str);
        let value = match (column.kind, text.parse::<u64>()) {
            (Kind::Number, Ok(number)) => number.into(),
            _ if text.is_empty() => Value::Null,
            _ => text.into(),
        };
        flat.insert(column.name.to_owned(), value);
    }
    flat.insert("lines".to_owned(), of.lines.iter().map(line).collect());
    Value::Object(flat)
}

fn line(it: &LedgerLine) -> Value {
    json!({"meter": it.meter, "quantity": it.quantity, "rate": it.rate, "amount": it.amount})
}

fn cell(column: &str, text: &str) -> Value {
    match text.parse::<u64>() {
        Ok(number) if NUMBERS.contains(&column) => number.into(),
        _ if text.is_empty() => Value::Null,
        _ => text.into(),
    }
}

fn explain(row: LedgerRow) -> anyhow::Result<()> {
    let known = COLUMNS.iter().filter_map(|column| {
        let value = row.columns.get(*column).filter(|value| !value.is_empty())?;
        Some(json!({"column": column, "value": value}))
    });
    write_table(&Table::of(&["column", "value"], &known.collect::<Vec<_>>()))?;
    lines(&row.lines)?;
    if !row.moves.is_empty() {
        write("\n")?;
        write_table(&balances(&row.moves))?;
    }
    row.costs.iter().try_for_each(explain_cost)?;
    if !row.margin.is_empty() {
        write(&format!("\nmargin {} {}\n", row.margin, row.columns.get("currency").map_or("", String::as_str)))?;
    }
    write(&format!("\nsegment {}, byte {}\n\n", row.segment, row.offset))
}

fn lines(lines: &[LedgerLine]) -> anyhow::Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    write("\n")?;
    write_table(&Table::of(&["meter", "quantity", "rate", "amount"], &lines.iter().map(line).collect::<Vec<_>>()))
}

/// What the row has of its request itself is not said once more.
fn explain_cost(of: &LedgerCost) -> anyhow::Result<()> {
    const SAID: [&str; 12] = [
        "event_id",
        "request_id",
        "time",
        "tenant",
        "route",
        "model",
        "status",
        "node",
        "zone",
        "corrects",
        "outcome",
        "cost_id",
    ];
    let text = |column: &str| of.columns.get(column).map_or("", String::as_str);
    write(&format!("\nattempt {}, {}\n", text("attempt"), text("outcome")))?;
    let told = COSTS.iter().map(|column| column.name).filter(|name| !SAID.contains(name) && *name != "attempt");
    let told = told.filter(|name| !text(name).is_empty());
    let told: Vec<Value> = told.map(|name| json!({"column": name, "value": text(name)})).collect();
    write_table(&Table::of(&["column", "value"], &told))?;
    lines(&of.lines)
}
