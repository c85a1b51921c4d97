//! `tollgate billing`: bills, to take away and to check, those of others, to compare, and what passes a budget.

mod alerts;
mod export;
mod periods;
mod reconcile;
mod target;
mod verify;

use clap::{Args, Subcommand, ValueEnum};
use tollgate_proto::admin::v1::{ExportBillRequest, ExportStatementRequest};

use self::export::Asked;
pub(super) use self::export::Interrupted;
use super::{
    connection::{Connection, ConnectionArgs},
    output::ListFormat,
    usage::time,
};

/// Take bills away, check them, and compare them with those that we get.
#[derive(Args, Debug)]
pub(crate) struct BillingArgs {
    #[command(subcommand)]
    command: BillingCommand,
    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Subcommand, Debug)]
enum BillingCommand {
    /// Write the bill of some time to standard output or a file.
    ///
    /// What was cut goes on with --cursor: the pieces put together are what one run would have written. Where standard error is no
    /// terminal, it tells cursors as it goes, each with the bytes before it. With --output, a file is there once it is complete.
    #[command(
        after_help = "Example: tollgate billing export --from 2026-11-01 --to 2026-12-01 --format csv --schema events --output november.csv"
    )]
    Export(Box<ExportArgs>),
    /// Show which budgets tenants have passed, and who was told; the newest first.
    #[command(after_help = "Example: tollgate billing alerts --tenant acme -o json")]
    Alerts {
        /// Only this tenant's.
        #[arg(long)]
        tenant: Option<String>,
        /// At most so many.
        #[arg(long, value_name = "COUNT", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
        max: u32,
        /// How to print it.
        #[arg(short, long, value_enum, default_value = "table")]
        output: ListFormat,
    },
    /// List months: whether they are open, closing or closed, and what they come to.
    Periods {
        /// Only this tenant.
        #[arg(long)]
        tenant: Option<String>,
        /// How to print it.
        #[arg(short, long, value_enum, default_value = "table")]
        output: ListFormat,
    },
    /// Write the signed statement of a closed month, with all its rows, to standard output or a file.
    #[command(after_help = "Example: tollgate billing statement acme 2026-11 --output acme-2026-11.jsonl")]
    Statement(StatementArgs),
    /// Show by which key statements are signed.
    Key {
        /// How to print it.
        #[arg(short, long, value_enum, default_value = "table")]
        output: ListFormat,
    },
    /// Check a statement, or an export of the schema events as csv or jsonl, offline and from the file alone.
    ///
    /// Exit code 1 where something is wrong, with the first line that is on standard error.
    #[command(after_help = "Example: tollgate billing verify acme-2026-11.jsonl --key cluster.pub")]
    Verify(verify::VerifyArgs),
    /// Price a month again, from its rows and the prices that they name.
    ///
    /// Exit code 1 where that is not what the month says, to the last digit.
    #[command(after_help = "Example: tollgate billing reprice acme 2026-11")]
    Reprice {
        /// Whose.
        tenant: String,
        /// 2026-11
        #[arg(value_name = "MONTH", value_parser = month)]
        period: String,
        /// How to print it.
        #[arg(short, long, value_enum, default_value = "table")]
        output: ListFormat,
    },
    /// Compare what upstreams bill us, as the ledger has it, with an upstream's own usage report.
    ///
    /// The report is CSV with a header, JSON lines, or the pages of OpenAI's organization usage or Anthropic's usage report, by model.
    /// Requests are compared where it names them by our x-request-id, else days of UTC and models. Exit code 0 where all agrees, 1
    /// where something differs, which is listed.
    #[command(after_help = "Example: tollgate billing reconcile --provider openai --provider-file usage-2026-11.json")]
    Reconcile(reconcile::ReconcileArgs),
}

#[derive(Args, Debug)]
struct StatementArgs {
    /// Whose.
    tenant: String,
    /// 2026-11
    #[arg(value_name = "MONTH", value_parser = month)]
    period: String,
    /// Go on behind the chunk of an earlier run that told this.
    #[arg(long, value_name = "CURSOR")]
    cursor: Option<String>,
    /// Write to this file: under another name beside it, until it is complete.
    #[arg(long, value_name = "FILE")]
    output: Option<std::path::PathBuf>,
}

fn month(text: &str) -> Result<String, String> {
    tollgate_model::Month::parse(text).map(|month| month.to_string())
}

#[derive(Args, Debug)]
struct ExportArgs {
    /// Requests admitted from then on: 2026-11-01 or 2026-11-01T08:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = time)]
    from: String,
    /// And before then. A time to come is now.
    #[arg(long, value_name = "TIME", value_parser = time)]
    to: String,
    /// Only this tenant.
    #[arg(long)]
    tenant: Option<String>,
    /// How to write it.
    #[arg(long, value_enum, default_value = "csv")]
    format: Format,
    /// What a row is.
    #[arg(long, value_enum, default_value = "events")]
    schema: Schema,
    /// Go on behind the chunk of an earlier run of the same export that told this.
    #[arg(long, value_name = "CURSOR")]
    cursor: Option<String>,
    /// Write to this file: under another name beside it, until it is complete.
    #[arg(long, value_name = "FILE")]
    output: Option<std::path::PathBuf>,
    /// Of --schema focus: whose column names.
    #[arg(long, value_name = "VERSION", value_parser = ["1.2", "1.3"])]
    focus_version: Option<String>,
    /// Of --schema focus: who sends the bill; Tollgate when absent.
    #[arg(long, value_name = "NAME")]
    issuer: Option<String>,
}

/// How rows are written.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    /// RFC 4180, with a header row.
    Csv,
    /// A JSON object a line.
    Jsonl,
    /// Apache Parquet.
    Parquet,
}

/// What a row is.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
enum Schema {
    /// A request.
    Events,
    /// All of one consumer, route, provider and model.
    Summary,
    /// A charge of one hour, as FinOps FOCUS has it.
    Focus,
    /// An attempt that an upstream bills. Not for a token that is narrowed to a tenant.
    Cost,
}

pub(super) async fn run(args: BillingArgs) -> anyhow::Result<()> {
    let BillingArgs { command, connection } = args;
    match command {
        BillingCommand::Export(export) => {
            let output = export.output.clone();
            let is_text = export.format != Format::Parquet;
            let connection = Connection::open(connection)?;
            export::run(&connection, Asked::Bill(request(*export)), output, is_text).await
        }
        BillingCommand::Statement(StatementArgs { tenant, period, cursor, output }) => {
            let request = ExportStatementRequest { tenant, period, cursor: cursor.unwrap_or_default() };
            let connection = Connection::open(connection)?;
            export::run(&connection, Asked::Statement(request), output, true).await
        }
        BillingCommand::Alerts { tenant, max, output } => {
            alerts::run(&Connection::open(connection)?, tenant.unwrap_or_default(), max, output).await
        }
        BillingCommand::Periods { tenant, output } => {
            periods::list(&Connection::open(connection)?, tenant.unwrap_or_default(), output).await
        }
        BillingCommand::Key { output } => periods::key(&Connection::open(connection)?, output).await,
        BillingCommand::Verify(verify) => verify::run(&verify),
        BillingCommand::Reprice { tenant, period, output } => {
            periods::reprice(&Connection::open(connection)?, tenant, period, output).await
        }
        BillingCommand::Reconcile(args) => reconcile::run(&Connection::open(connection)?, args).await,
    }
}

fn request(args: ExportArgs) -> ExportBillRequest {
    let name = |value: Option<clap::builder::PossibleValue>| {
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    };
    ExportBillRequest {
        tenant: args.tenant.unwrap_or_default(),
        from: args.from,
        to: args.to,
        format: name(args.format.to_possible_value()),
        schema: name(args.schema.to_possible_value()),
        cursor: args.cursor.unwrap_or_default(),
        focus_version: args.focus_version.unwrap_or_default(),
        issuer: args.issuer.unwrap_or_default(),
    }
}
