//! `tollgate token`: who may steer the cluster.

use anyhow::Context;
use clap::{Args, Subcommand, builder::PossibleValuesParser};
use serde_json::{Value, json};
use tollgate_admin::Role;
use tollgate_proto::admin::v1::{CreateTokenRequest, ListTokensRequest, RevokeTokenRequest, Token};

use super::{
    apply::WriteArgs,
    connection::{Attempt, Connection, ConnectionArgs},
    output::{ListFormat, write, write_list},
};

const COLUMNS: [&str; 5] = ["id", "role", "tenant", "createdAt", "expiresAt"];

/// Make, list and revoke tokens of the admin plane.
#[derive(Args, Debug)]
pub(crate) struct TokenArgs {
    #[command(subcommand)]
    command: TokenCommand,
    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Subcommand, Debug)]
enum TokenCommand {
    /// Make a token. Its secret is printed once, alone on standard output; only a keyed hash is kept.
    #[command(
        override_usage = "tollgate token create [OPTIONS] --role <ROLE>",
        after_help = "Example: TOLLGATE_TOKEN=$(tollgate token create --role viewer --ttl 90d)"
    )]
    Create(CreateArgs),
    /// List the tokens, without their secrets.
    List {
        /// How to print it.
        #[arg(short, long, value_enum, default_value = "table")]
        output: ListFormat,
    },
    /// Revoke a token: it is refused everywhere within milliseconds.
    Revoke {
        /// The token's id, as `list` shows it.
        id: String,
        #[command(flatten)]
        write: WriteArgs,
    },
}

#[derive(Args, Debug)]
struct CreateArgs {
    /// admin: everything; operator: everything but admin tokens; billing: reads, credits and bills; viewer: reads.
    #[arg(long, value_parser = PossibleValuesParser::new(Role::ALL.map(Role::as_str)))]
    role: String,
    /// Narrows it to this tenant's usage, credits and bills.
    #[arg(long)]
    tenant: Option<String>,
    /// How long it is good for, such as 12h or 90d; for ever when absent.
    #[arg(long, value_name = "DURATION", value_parser = ttl)]
    ttl: Option<String>,
    #[command(flatten)]
    write: WriteArgs,
}

/// For clap: a duration, as it goes to the node that counts from its own clock.
fn ttl(text: &str) -> Result<String, String> {
    crate::cmd::some_time(text).map(|_| text.to_owned())
}

pub(super) async fn run(args: TokenArgs) -> anyhow::Result<()> {
    let connection = Connection::open(args.connection)?;
    match args.command {
        TokenCommand::Create(args) => create(&connection, args).await,
        TokenCommand::List { output } => list(&connection, output).await,
        TokenCommand::Revoke { id, write } => revoke(&connection, id, &write).await,
    }
}

async fn create(connection: &Connection, args: CreateArgs) -> anyhow::Result<()> {
    let request = CreateTokenRequest {
        role: args.role,
        tenant: args.tenant.unwrap_or_default(),
        ttl: args.ttl.unwrap_or_default(),
        request_id: args.write.id(),
    };
    let made = connection
        .write(&request.request_id, async |at| at.cluster().create_token(at.request(request.clone())).await)
        .await;
    let made = made?.into_inner();
    let token = made.token.filter(|token| token.role == request.role && token.tenant == request.tenant);
    let token = token.filter(|_| !made.secret.is_empty());
    let token = token.context("the answer is not the token that was asked for: see with `tollgate token list`")?;
    let until =
        if token.expires_at.is_empty() { "never expires".to_owned() } else { format!("expires {}", token.expires_at) };
    anstream::eprintln!("token {} ({}, {until}); its secret is shown this once:", token.id, token.role);
    write(&format!("{}\n", made.secret))
}

async fn list(connection: &Connection, output: ListFormat) -> anyhow::Result<()> {
    let ask = async |at: &Attempt| at.cluster().list_tokens(at.request(ListTokensRequest {})).await;
    let tokens = connection.read(ask).await?.into_inner().tokens;
    write_list(output, &COLUMNS, tokens.into_iter().map(row).collect())
}

fn row(token: Token) -> Value {
    let absent = |text: String| (!text.is_empty()).then_some(text);
    json!({
        "id": token.id,
        "role": token.role,
        "tenant": absent(token.tenant),
        "createdAt": token.created_at,
        "expiresAt": absent(token.expires_at),
    })
}

async fn revoke(connection: &Connection, id: String, write: &WriteArgs) -> anyhow::Result<()> {
    let request = RevokeTokenRequest { id, request_id: write.id() };
    let done = connection
        .write(&request.request_id, async |at| at.cluster().revoke_token(at.request(request.clone())).await)
        .await;
    done?;
    anstream::eprintln!("token {} is revoked", request.id);
    Ok(())
}
