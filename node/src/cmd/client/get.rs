//! `tollgate get` and `tollgate export`: what is declared now.

use std::str::FromStr;

use clap::Args;
use serde_json::{Value, json};
use tollgate_model::{Kind, yaml};
use tollgate_proto::{
    admin::v1::{ExportRequest, GetRequest, WatchRequest},
    v1::Resource,
};

use super::{
    apply::label,
    connection::{Connection, ConnectionArgs},
    files::identity,
    output::{Format, write, write_json, write_table},
    table::Table,
    watch,
};

/// Show resources. Secrets are shown sealed or hashed, never as they are.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  tollgate get routes\n  tollgate get route chat -o yaml\n  tollgate get all --watch"
)]
pub(crate) struct GetArgs {
    /// services, providers, routes, tenants, consumers, limits, prices, or all.
    kind: KindArg,
    /// One resource of that kind.
    name: Option<String>,
    /// Only what carries these labels.
    #[arg(long, value_name = "LABEL=VALUE", value_delimiter = ',', value_parser = label)]
    selector: Vec<(String, String)>,
    /// How to print it.
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,
    /// Go on with every later change, until interrupted.
    #[arg(short, long)]
    watch: bool,
    /// From the asked node's own state, which may be behind: works without a leader.
    #[arg(long, conflicts_with = "watch")]
    stale: bool,
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// Print the whole configuration as YAML that applies cleanly to an empty cluster.
///
/// Secrets stay sealed under the cluster key: a new cluster opens them when it is given the same key file.
#[derive(Args, Debug)]
#[command(after_help = "Example: tollgate export > backup.yaml")]
pub(crate) struct ExportArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// A kind, or all of them.
#[derive(Debug, Clone, Copy)]
struct KindArg(Option<Kind>);

impl FromStr for KindArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("all") {
            return Ok(KindArg(None));
        }
        text.parse().map(|kind| KindArg(Some(kind))).map_err(|unknown| format!("{unknown}"))
    }
}

pub(super) async fn run(args: GetArgs) -> anyhow::Result<()> {
    let KindArg(kind) = args.kind;
    anyhow::ensure!(kind.is_some() || args.name.is_none(), "a name needs a kind");
    let connection = Connection::open(args.connection)?;
    let kind = kind.map_or_else(String::new, |kind| kind.to_string());
    let name = args.name.unwrap_or_default();
    let selector = args.selector.into_iter().collect();
    if args.watch {
        return watch::run(&connection, &WatchRequest { kind, name, selector }, args.output).await;
    }
    let request = GetRequest { kind, name, selector, stale: args.stale };
    let answer = connection.read(async |at| at.config().get(at.request(request.clone())).await).await?;
    print(&answer.into_inner().resources, args.output)
}

pub(super) async fn export(args: ExportArgs) -> anyhow::Result<()> {
    let connection = Connection::open(args.connection)?;
    let answer = connection.read(async |at| at.config().export(at.request(ExportRequest {})).await).await?;
    write(&yaml::to_yaml(&answer.into_inner().resources))
}

fn print(resources: &[Resource], output: Format) -> anyhow::Result<()> {
    match output {
        Format::Yaml => write(&yaml::to_yaml(resources)),
        Format::Json => write_json(&Value::Array(resources.iter().map(yaml::to_json).collect())),
        Format::Table => {
            let rows: Vec<Value> = resources.iter().map(row).collect();
            write_table(&Table::of(&["kind", "name", "version", "labels"], &rows))
        }
    }
}

/// What a table tells of a resource.
pub(super) fn row(resource: &Resource) -> Value {
    let (kind, metadata) = identity(resource);
    let labels = metadata.map_or_else(String::new, |metadata| {
        let mut labels: Vec<_> = metadata.labels.iter().map(|(label, value)| format!("{label}={value}")).collect();
        labels.sort();
        labels.join(",")
    });
    json!({
        "kind": kind.map(Kind::singular),
        "name": metadata.map(|metadata| &metadata.name),
        "version": metadata.and_then(|metadata| metadata.resource_version),
        "labels": labels,
    })
}
