//! `tollgate credits`: what a tenant has paid in, what is left of it, and what happened to it.

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tollgate_proto::admin::v1::{
    Credit, CreditEvent, CreditHistoryRequest, GrantCreditRequest, OpenGrant, ShowCreditRequest,
};

use super::{
    apply::WriteArgs,
    connection::{Connection, ConnectionArgs},
    output::{ListFormat, some, write_list},
};

const COLUMNS: [&str; 11] =
    ["tenant", "mode", "currency", "granted", "spent", "held", "suspense", "balance", "expired", "pending", "owed"];
const GRANT_COLUMNS: [&str; 5] = ["key", "amount", "rest", "expires", "reason"];
const HISTORY_COLUMNS: [&str; 9] = ["event", "time", "kind", "amount", "currency", "key", "expires", "actor", "reason"];
/// Events for each call.
const PAGE: u32 = 10_000;

/// Grant credit to tenants, and see what is left of it.
#[derive(Args, Debug)]
pub(crate) struct CreditsArgs {
    #[command(subcommand)]
    command: CreditsCommand,
    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Subcommand, Debug)]
enum CreditsCommand {
    /// Grant credit; below zero it is a correction, which needs a reason. The same key again gives nothing twice.
    #[command(
        after_help = "Examples: tollgate credits grant acme 250 --key invoice-4711 --expires 2027-12-31\n          \
            tollgate credits grant acme -40.25 --key refund-12 --reason 'paid back'"
    )]
    Grant {
        /// Who gets it.
        tenant: String,
        /// A decimal in the tenant's currency.
        #[arg(allow_negative_numbers = true)]
        amount: String,
        /// Names the grant for ever.
        #[arg(long)]
        key: String,
        /// What is left then is taken off: at the end of a day (2027-12-31, by the tenant's clock), or at an instant.
        #[arg(long, value_name = "DATE")]
        expires: Option<String>,
        /// Why; a correction has to say so.
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        #[command(flatten)]
        write: WriteArgs,
        /// How to print it.
        #[arg(short, long, value_enum, default_value = "table")]
        output: ListFormat,
    },
    /// Show what a tenant has: granted, spent, held by requests, and left.
    Show {
        /// Whose.
        tenant: String,
        /// How to print it.
        #[arg(short, long, value_enum, default_value = "table")]
        output: ListFormat,
    },
    /// Show all that happened to a tenant's credit, the newest first.
    History {
        /// Whose.
        tenant: String,
        /// At most so many events; where there are more, it is said where to go on.
        #[arg(long, value_name = "COUNT", default_value_t = PAGE, value_parser = clap::value_parser!(u32).range(1..))]
        max: u32,
        /// Go on before this event, where an earlier answer ended.
        #[arg(long, value_name = "EVENT", value_parser = clap::value_parser!(u64).range(1..))]
        before: Option<u64>,
        /// How to print it.
        #[arg(short, long, value_enum, default_value = "table")]
        output: ListFormat,
    },
}

pub(super) async fn run(args: CreditsArgs) -> anyhow::Result<()> {
    let connection = Connection::open(args.connection)?;
    match args.command {
        CreditsCommand::Grant { tenant, amount, key, expires, reason, write, output } => {
            let (expires, reason, request_id) = (expires.unwrap_or_default(), reason.unwrap_or_default(), write.id());
            grant(&connection, GrantCreditRequest { tenant, amount, key, expires, reason, request_id }, output).await
        }
        CreditsCommand::Show { tenant, output } => {
            let request = ShowCreditRequest { tenant };
            let shown = connection.read(async |at| at.credits().show(at.request(request.clone())).await).await?;
            print(shown.into_inner().credit.unwrap_or_default(), output)
        }
        CreditsCommand::History { tenant, max, before, output } => {
            let page_token = before.map(|event| event.to_string()).unwrap_or_default();
            history(&connection, CreditHistoryRequest { tenant, page_size: max, page_token }, output).await
        }
    }
}

/// Grants, for whoever prints nothing of it.
pub(crate) async fn grant_credit(connection: &Connection, tenant: &str, amount: &str, key: &str) -> anyhow::Result<()> {
    let request = GrantCreditRequest {
        tenant: tenant.to_owned(),
        amount: amount.to_owned(),
        key: key.to_owned(),
        request_id: rand::random::<[u8; 16]>().to_vec(),
        ..GrantCreditRequest::default()
    };
    connection.write(&request.request_id, async |at| at.credits().grant(at.request(request.clone())).await).await?;
    Ok(())
}

async fn grant(connection: &Connection, request: GrantCreditRequest, output: ListFormat) -> anyhow::Result<()> {
    let done = connection
        .write(&request.request_id, async |at| at.credits().grant(at.request(request.clone())).await)
        .await?
        .into_inner();
    if done.known {
        let event = done.event.unwrap_or_default();
        anstream::eprintln!("key `{}` was used before, at {}: nothing was granted again", event.key, event.time);
    }
    print(done.credit.unwrap_or_default(), output)
}

/// One object; for people, the grants of which something is left beneath it.
fn print(credit: Credit, output: ListFormat) -> anyhow::Result<()> {
    let grants: Vec<Value> = credit.grants.iter().map(open).collect();
    write_list(output, &COLUMNS, vec![row(credit, &grants)])?;
    if output == ListFormat::Table && !grants.is_empty() {
        anstream::println!();
        write_list(output, &GRANT_COLUMNS, grants)?;
    }
    Ok(())
}

async fn history(connection: &Connection, mut request: CreditHistoryRequest, output: ListFormat) -> anyhow::Result<()> {
    let (mut rows, mut left) = (Vec::new(), request.page_size);
    loop {
        request.page_size = left.min(PAGE);
        let page = connection.read(async |at| at.credits().history(at.request(request.clone())).await).await?;
        let page = page.into_inner();
        left = left.saturating_sub(u32::try_from(page.events.len()).unwrap_or(u32::MAX));
        rows.extend(page.events.into_iter().map(event));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() || left == 0 {
            break;
        }
    }
    write_list(output, &HISTORY_COLUMNS, rows)?;
    if !request.page_token.is_empty() {
        anstream::eprintln!("there are more: go on with --before {}, or raise --max", request.page_token);
    }
    Ok(())
}

fn row(credit: Credit, grants: &[Value]) -> Value {
    json!({
        "tenant": credit.tenant,
        "mode": credit.mode,
        "currency": credit.currency,
        "granted": credit.granted,
        "spent": credit.spent,
        "held": credit.held,
        "suspense": credit.suspense,
        "balance": credit.balance,
        "expired": credit.expired,
        "pending": credit.pending,
        "owed": credit.owed,
        "grants": grants,
    })
}

fn open(grant: &OpenGrant) -> Value {
    json!({
        "key": grant.key,
        "amount": grant.amount,
        "rest": grant.rest,
        "expires": some(&grant.expires),
        "reason": some(&grant.reason),
    })
}

fn event(event: CreditEvent) -> Value {
    json!({
        "event": event.event,
        "time": event.time,
        "kind": event.kind,
        "amount": event.amount,
        "currency": event.currency,
        "key": some(&event.key),
        "expires": some(&event.expires),
        "actor": some(&event.actor),
        "reason": some(&event.reason),
        "logIndex": event.log_index,
    })
}
