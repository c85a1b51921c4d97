//! `tollgate limits`: what accounts hold, which of them a call meets, and forgiving what was used.

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Map, Value, json};
use tollgate_model::Money;
use tollgate_proto::admin::v1::{
    ExplainLimitsRequest, LimitAccount, LimitVerdict, ResetLimitRequest, ShowLimitsRequest,
};

use super::{
    apply::WriteArgs,
    connection::{Connection, ConnectionArgs},
    output::{ListFormat, write_list},
};

const COLUMNS: [&str; 16] = [
    "limit",
    "account",
    "mode",
    "unit",
    "currency",
    "capacity",
    "used",
    "held",
    "leased",
    "free",
    "overrun",
    "suspense",
    "lost",
    "unprotected",
    "windowStart",
    "windowEnd",
];
const EXPLAIN_COLUMNS: [&str; 14] = [
    "limit",
    "account",
    "route",
    "verdict",
    "retryAfter",
    "dependsOn",
    "unit",
    "currency",
    "capacity",
    "used",
    "held",
    "leased",
    "free",
    "overrun",
];
const RESET_COLUMNS: [&str; 9] =
    ["limit", "account", "when", "currency", "capacity", "used", "held", "overrun", "free"];
/// Accounts for each call.
const PAGE: u32 = 10_000;

/// See limits and what is left of them.
#[derive(Args, Debug)]
pub(crate) struct LimitsArgs {
    #[command(subcommand)]
    command: LimitsCommand,
    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Subcommand, Debug)]
enum LimitsCommand {
    /// Show every account that was used in its window: what it may, did, and still can.
    Show(ShowArgs),
    /// Show which limits the calls of a consumer meet, and what each says now.
    #[command(after_help = "Example: tollgate limits explain alice --model gpt-4o")]
    Explain {
        /// Who calls.
        consumer: String,
        /// The model asked for.
        #[arg(long)]
        model: Option<String>,
        /// The route called; every route that the consumer may call when absent.
        #[arg(long)]
        route: Option<String>,
        /// How to print it.
        #[arg(short, long, value_enum, default_value = "table")]
        output: ListFormat,
    },
    /// Forgive what an account has used in its window. What requests hold stays held.
    #[command(
        after_help = "Examples: tollgate limits reset per-consumer-tpm alice\n          tollgate limits reset everybody '*'"
    )]
    Reset {
        /// The limit's name.
        limit: String,
        /// The account, as `show` prints it.
        #[arg(required_unless_present = "key", conflicts_with = "key")]
        account: Option<String>,
        /// A value of the account's key, in place of its name; once for each of the limit's `per`.
        #[arg(long, value_name = "VALUE")]
        key: Vec<String>,
        #[command(flatten)]
        write: WriteArgs,
        /// How to print it.
        #[arg(short, long, value_enum, default_value = "table")]
        output: ListFormat,
    },
}

#[derive(Args, Debug)]
struct ShowArgs {
    /// Only this limit.
    #[arg(long)]
    limit: Option<String>,
    /// Only this tenant and its consumers.
    #[arg(long)]
    tenant: Option<String>,
    /// Only accounts of which at least this much is taken, in percent.
    #[arg(long, value_name = "PERCENT", default_value_t = 0)]
    min_utilisation: u32,
    /// In which order.
    #[arg(long, value_enum, default_value = "name")]
    sort: Sort,
    /// At most so many accounts; where there are more, it is said where to go on.
    #[arg(long, value_name = "COUNT", default_value_t = PAGE, value_parser = clap::value_parser!(u32).range(1..))]
    max: u32,
    /// Go on where an earlier answer ended.
    #[arg(long, value_name = "TOKEN", value_parser = token)]
    after: Option<Token>,
    /// How to print it.
    #[arg(short, long, value_enum, default_value = "table")]
    output: ListFormat,
}

/// The order of accounts.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
enum Sort {
    /// By limit and account.
    Name,
    /// The fullest first.
    Utilisation,
}

/// A page token: as the admin plane gave it.
#[derive(Debug, Clone)]
struct Token(String);

/// Tokens hold what keys hold, which no shell likes.
fn token(text: &str) -> Result<Token, String> {
    let bytes = hex::decode(text).map_err(|_| "is no token of an earlier answer".to_owned())?;
    String::from_utf8(bytes).map(Token).map_err(|_| "is no token of an earlier answer".to_owned())
}

pub(super) async fn run(args: LimitsArgs) -> anyhow::Result<()> {
    let connection = Connection::open(args.connection)?;
    match args.command {
        LimitsCommand::Show(args) => show(&connection, args).await,
        LimitsCommand::Explain { consumer, model, route, output } => {
            let (model, route) = (model.unwrap_or_default(), route.unwrap_or_default());
            explain(&connection, ExplainLimitsRequest { consumer, model, route }, output).await
        }
        LimitsCommand::Reset { limit, account, key, write, output } => {
            let account = account.unwrap_or_default();
            reset(&connection, ResetLimitRequest { limit, account, request_id: write.id(), key }, output).await
        }
    }
}

async fn show(connection: &Connection, args: ShowArgs) -> anyhow::Result<()> {
    let mut request = ShowLimitsRequest {
        limit: args.limit.unwrap_or_default(),
        tenant: args.tenant.unwrap_or_default(),
        page_size: PAGE,
        page_token: args.after.map(|token| token.0).unwrap_or_default(),
        sort: if args.sort == Sort::Utilisation { "utilisation" } else { "name" }.to_owned(),
        min_utilisation_percent: args.min_utilisation,
    };
    let mut rows = Vec::new();
    let mut left = args.max;
    loop {
        request.page_size = left.min(PAGE);
        let page = connection.read(async |at| at.limits().show(at.request(request.clone())).await).await?.into_inner();
        left = left.saturating_sub(u32::try_from(page.accounts.len()).unwrap_or(u32::MAX));
        rows.extend(page.accounts.into_iter().map(row));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() || left == 0 {
            break;
        }
    }
    write_list(args.output, &COLUMNS, rows)?;
    if !request.page_token.is_empty() {
        let token = hex::encode(&request.page_token);
        anstream::eprintln!("there are more: go on with --after {token}, or raise --max");
    }
    Ok(())
}

async fn explain(connection: &Connection, request: ExplainLimitsRequest, output: ListFormat) -> anyhow::Result<()> {
    let told = connection.read(async |at| at.limits().explain(at.request(request.clone())).await).await?.into_inner();
    write_list(output, &EXPLAIN_COLUMNS, told.verdicts.into_iter().map(explained).collect())
}

fn explained(verdict: LimitVerdict) -> Value {
    let LimitVerdict { account, route, verdict, retry_after_ms, depends_on } = verdict;
    let mut row = row(account.unwrap_or_default());
    if verdict == "unknown" {
        for figure in ["used", "held", "leased", "free", "overrun", "suspense"] {
            row[figure] = Value::Null;
        }
    }
    row["route"] = if route.is_empty() { "*".into() } else { route.into() };
    row["verdict"] = verdict.into();
    row["retryAfter"] = retry_after_ms.map_or(Value::Null, |wait| wait.div_ceil(1_000).into());
    row["dependsOn"] = depends_on.join(", ").into();
    row
}

async fn reset(connection: &Connection, request: ResetLimitRequest, output: ListFormat) -> anyhow::Result<()> {
    let done = connection
        .write(&request.request_id, async |at| at.limits().reset(at.request(request.clone())).await)
        .await?
        .into_inner();
    let row = |when: &str, account: Option<LimitAccount>| {
        let row = row(account.unwrap_or_default());
        let figures =
            ["limit", "account", "currency", "capacity", "used", "held", "leased", "free", "overrun", "suspense"];
        let mut told: Map<String, Value> =
            figures.map(|name| (name.to_owned(), row[name].clone())).into_iter().collect();
        told.insert("when".to_owned(), when.into());
        Value::Object(told)
    };
    write_list(output, &RESET_COLUMNS, vec![row("before", done.before), row("after", done.after)])
}

fn row(account: LimitAccount) -> Value {
    let is_money = !account.currency.is_empty();
    let units = |units: u64| if is_money { money(units.into()) } else { units.into() };
    let by_node = account.leased_by_node.iter().map(|(node, leased)| match units(*leased) {
        Value::String(money) => format!("{node}:{money}"),
        units => format!("{node}:{units}"),
    });
    json!({
        "limit": account.limit,
        "account": account.account,
        "mode": account.mode,
        "unit": account.unit,
        "currency": if is_money { account.currency.into() } else { Value::Null },
        "capacity": units(account.capacity),
        "used": units(account.used),
        "held": units(account.held),
        "leased": units(account.leased),
        "leasedByNode": by_node.collect::<Vec<_>>().join(","),
        "free": if is_money { money(account.free.into()) } else { account.free.into() },
        "overrun": units(account.overrun),
        "suspense": units(account.suspense),
        "lost": units(account.lost),
        "effective": !account.taking_effect,
        "unprotectedRequests": account.unprotected_requests,
        "unprotected": units(account.unprotected),
        "windowStart": account.window_start,
        "windowEnd": account.window_end,
    })
}

/// A decimal: no number of JSON is exact enough for money.
fn money(pico: i128) -> Value {
    Money(pico).to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_is_a_decimal_and_everything_else_a_number() {
        let account = LimitAccount {
            capacity: 12_500_000_000_000,
            used: 1,
            free: -500_000_000_000,
            leased_by_node: [(2, 250_000_000_000)].into(),
            ..LimitAccount::default()
        };
        let told = row(LimitAccount { unit: "cost".into(), currency: "USD".into(), ..account.clone() });
        let figures = ["currency", "capacity", "used", "held", "free", "leasedByNode"].map(|name| told[name].clone());
        assert_eq!(figures, ["USD", "12.5", "0.000000000001", "0", "-0.5", "2:0.25"].map(Value::from));
        let told = row(account);
        assert_eq!((&told["capacity"], &told["currency"]), (&12_500_000_000_000_u64.into(), &Value::Null));
        assert_eq!(told["leasedByNode"], "2:250000000000");
    }
}
