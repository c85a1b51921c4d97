//! `tollgate limits`: what accounts hold.

use anyhow::bail;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tollgate_proto::admin::v1::{LimitAccount, ShowLimitsRequest};

use super::{
    connection::{Connection, ConnectionArgs},
    output::{ListFormat, write_list},
};

const COLUMNS: [&str; 11] =
    ["limit", "account", "unit", "capacity", "used", "held", "leased", "free", "overrun", "windowStart", "windowEnd"];
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
    Show {
        /// Only this limit.
        #[arg(long)]
        limit: Option<String>,
        /// Only this tenant and its consumers.
        #[arg(long)]
        tenant: Option<String>,
        /// How to print it.
        #[arg(short, long, value_enum, default_value = "table")]
        output: ListFormat,
    },
    /// Show which limits a call would meet: not available yet.
    Explain {
        /// Who calls.
        consumer: String,
        /// The model asked for.
        #[arg(long)]
        model: Option<String>,
    },
    /// Give an account its whole capacity back: not available yet.
    Reset {
        /// The limit's name.
        limit: String,
        /// The account, as `show` prints it.
        account: String,
    },
}

pub(super) async fn run(args: LimitsArgs) -> anyhow::Result<()> {
    match args.command {
        LimitsCommand::Show { limit, tenant, output } => {
            let request = ShowLimitsRequest {
                limit: limit.unwrap_or_default(),
                tenant: tenant.unwrap_or_default(),
                page_size: PAGE,
                page_token: String::new(),
            };
            show(&Connection::open(args.connection)?, request, output).await
        }
        LimitsCommand::Explain { .. } => bail!("limits explain is not available yet"),
        LimitsCommand::Reset { .. } => bail!("limits reset is not available yet"),
    }
}

async fn show(connection: &Connection, mut request: ShowLimitsRequest, output: ListFormat) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    loop {
        let page = connection.read(async |at| at.limits().show(at.request(request.clone())).await).await?.into_inner();
        rows.extend(page.accounts.into_iter().map(row));
        if page.next_page_token.is_empty() {
            return write_list(output, &COLUMNS, rows);
        }
        request.page_token = page.next_page_token;
    }
}

fn row(account: LimitAccount) -> Value {
    json!({
        "limit": account.limit,
        "account": account.account,
        "unit": account.unit,
        "capacity": account.capacity,
        "used": account.used,
        "held": account.held,
        "leased": account.leased,
        "free": account.free,
        "overrun": account.overrun,
        "windowStart": account.window_start,
        "windowEnd": account.window_end,
    })
}
