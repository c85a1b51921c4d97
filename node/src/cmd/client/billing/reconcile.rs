//! `tollgate billing reconcile`: sends an upstream's usage report to a node, and lists what differs.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

use anyhow::{Context, bail, ensure};
use clap::Args;
use serde_json::{Value, json};
use tollgate_proto::admin::v1::{CostDifference, ReconcileRequest, ReconcileResponse};

use crate::cmd::client::{
    connection::{Attempt, Connection},
    failure::{CallError, Told},
    output::{ListFormat, some, write, write_table},
    table::Table,
    usage::time,
};

/// Of the file in one message: nodes take no more than twice that.
const PIECE_BYTES: usize = 32 << 10;
/// For a file of many gigabytes, and a ledger of years.
const PASS: Duration = Duration::from_secs(3_600);
const COLUMNS: [&str; 9] =
    ["period", "requestId", "model", "figure", "ours", "theirs", "currency", "atLeast", "atMost"];

#[derive(Args, Debug)]
pub(super) struct ReconcileArgs {
    /// The upstream's report.
    #[arg(long, value_name = "FILE")]
    provider_file: PathBuf,
    /// With the costs of this provider alone, by its name here. Lines that name another are passed over.
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
    /// Requests admitted from then on; from the first day in the file when absent.
    #[arg(long, value_name = "TIME", value_parser = time)]
    from: Option<String>,
    /// And before then; to the end of the last day in the file when absent.
    #[arg(long, value_name = "TIME", value_parser = time)]
    to: Option<String>,
    /// How to print it.
    #[arg(short, long, value_enum, default_value = "table")]
    output: ListFormat,
}

pub(super) async fn run(connection: &Connection, args: ReconcileArgs) -> anyhow::Result<()> {
    let mut report = Report::open(&args.provider_file)?;
    let node = connection.read(async |at| Ok(at.clone())).await?;
    let mut printed = Printed { format: args.output, count: 0 };
    let mut first = ReconcileRequest {
        provider: args.provider.unwrap_or_default(),
        from: args.from.unwrap_or_default(),
        to: args.to.unwrap_or_default(),
        ..ReconcileRequest::default()
    };
    loop {
        let answer = report.send(&node, &first).await?;
        printed.add(&answer.differences)?;
        if answer.next.is_empty() {
            printed.end()?;
            let ReconcileResponse { lines, attempts, from, to, .. } = answer;
            let found = match printed.count {
                0 => "all agrees".to_owned(),
                1 => "1 difference".to_owned(),
                count => format!("{count} differences"),
            };
            anstream::eprintln!("tollgate: {found}: {lines} lines, and {attempts} attempts from {from} to {to}");
            return if printed.count == 0 { Ok(()) } else { Err(Told.into()) };
        }
        ensure!(answer.next != first.after, "the node does not go on behind {}", answer.next);
        first.after = answer.next;
    }
}

/// The file, which may have to be sent more than once.
struct Report {
    path: PathBuf,
    /// Of its first reading.
    state: (u64, Option<SystemTime>),
}

impl Report {
    fn open(path: &Path) -> anyhow::Result<Self> {
        let (_, state) = open(path)?;
        Ok(Self { path: path.to_owned(), state })
    }

    async fn send(&mut self, node: &Attempt, first: &ReconcileRequest) -> anyhow::Result<ReconcileResponse> {
        let (file, state) = open(&self.path)?;
        let path = self.path.display();
        ensure!(state == self.state, "--provider-file: {path} has changed while it was read: begin again");
        let failed = Arc::new(OnceLock::new());
        let pieces = Pieces { file, first: Some(first.clone()), failed: Arc::clone(&failed) };
        let (mut billing, pieces) = (node.billing(), futures_util::stream::iter(pieces));
        let call = billing.reconcile(node.stream_request(pieces));
        let called = tokio::time::timeout(PASS, call).await;
        // Half a file was sent: whatever was said of it is wrong.
        if let Some(error) = failed.get() {
            bail!("--provider-file: can't read {path}: {error}");
        }
        match called {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(CallError::Refused(status).into()),
            Err(_) => bail!("the node has not answered within an hour"),
        }
    }
}

fn open(path: &Path) -> anyhow::Result<(File, (u64, Option<SystemTime>))> {
    let opened = File::open(path).and_then(|file| file.metadata().map(|is| (file, is)));
    let (file, is) = opened.with_context(|| format!("--provider-file: can't read {}", path.display()))?;
    ensure!(is.is_file(), "--provider-file: {} is no file: it may have to be read more than once", path.display());
    Ok((file, (is.len(), is.modified().ok())))
}

/// The file in messages; at least one.
struct Pieces {
    file: File,
    /// What the first one asks for, until that is sent.
    first: Option<ReconcileRequest>,
    failed: Arc<OnceLock<io::Error>>,
}

impl Iterator for Pieces {
    type Item = ReconcileRequest;

    fn next(&mut self) -> Option<ReconcileRequest> {
        let mut data = Vec::with_capacity(PIECE_BYTES);
        if let Err(error) = self.file.by_ref().take(PIECE_BYTES as u64).read_to_end(&mut data) {
            let _ = self.failed.set(error);
            return None;
        }
        match self.first.take() {
            Some(first) => Some(ReconcileRequest { data, ..first }),
            None => (!data.is_empty()).then(|| ReconcileRequest { data, ..ReconcileRequest::default() }),
        }
    }
}

/// What was printed: as it comes, as there may be more than fits into memory.
struct Printed {
    format: ListFormat,
    count: usize,
}

impl Printed {
    fn add(&mut self, differences: &[CostDifference]) -> anyhow::Result<()> {
        let rows: Vec<Value> = differences.iter().map(flat).collect();
        let before = self.count;
        self.count += rows.len();
        match self.format {
            ListFormat::Table if rows.is_empty() => Ok(()),
            ListFormat::Table => write_table(&Table::of(&COLUMNS, &rows)),
            ListFormat::Json => {
                let lines = rows.iter().enumerate().map(|(at, row)| {
                    let mark = if before + at == 0 { "[" } else { "," };
                    format!("{mark}\n  {row}")
                });
                write(&lines.collect::<String>())
            }
        }
    }

    fn end(&self) -> anyhow::Result<()> {
        match (self.format, self.count) {
            (ListFormat::Table, _) => Ok(()),
            (ListFormat::Json, 0) => write("[]\n"),
            (ListFormat::Json, _) => write("\n]\n"),
        }
    }
}

fn flat(it: &CostDifference) -> Value {
    // Money is text; what is counted is a number.
    let figure = |value: &str| match value.parse::<u64>() {
        Ok(count) if it.currency.is_empty() => count.into(),
        _ => json!(some(value)),
    };
    json!({
        "period": some(&it.period),
        "requestId": some(&it.request_id),
        "model": it.model,
        "figure": it.figure,
        "ours": figure(&it.ours),
        "theirs": figure(&it.theirs),
        "currency": some(&it.currency),
        "atLeast": figure(&it.at_least),
        "atMost": figure(&it.at_most),
    })
}
