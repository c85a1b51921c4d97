//! `tollgate zone`: traffic moved out of a zone, and back.

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tollgate_proto::admin::v1::{StatusZonesRequest, ZoneRequest, ZoneResponse, ZoneStatus};

use super::{
    apply::WriteArgs,
    connection::{Connection, ConnectionArgs},
    output::{ListFormat, some, write_list},
};

const COLUMNS: [&str; 6] = ["zone", "state", "nodes", "endpoints", "drainedAt", "drainedBy"];

/// Move traffic out of a zone, and back.
#[derive(Args, Debug)]
pub(crate) struct ZoneArgs {
    #[command(subcommand)]
    command: ZoneCommand,
    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Subcommand, Debug)]
enum ZoneCommand {
    /// Move traffic out: endpoints there get no new requests, nodes there turn unready; what is in flight ends as it would.
    #[command(after_help = "Example: tollgate zone drain az-a")]
    Drain(OneZone),
    /// Take a zone back; its endpoints get their share again bit by bit.
    Undrain(OneZone),
    /// Show every zone, and what is in it.
    Status {
        /// How to print it.
        #[arg(short, long, value_enum, default_value = "table")]
        output: ListFormat,
    },
}

#[derive(Args, Debug)]
struct OneZone {
    /// Its name, as nodes and endpoints have it.
    zone: String,
    #[command(flatten)]
    write: WriteArgs,
}

pub(super) async fn run(args: ZoneArgs) -> anyhow::Result<()> {
    let connection = Connection::open(args.connection)?;
    match args.command {
        ZoneCommand::Drain(zone) => drain(&connection, zone).await,
        ZoneCommand::Undrain(zone) => undrain(&connection, zone).await,
        ZoneCommand::Status { output } => status(&connection, output).await,
    }
}

async fn drain(connection: &Connection, OneZone { zone, write }: OneZone) -> anyhow::Result<()> {
    let request = ZoneRequest { zone, request_id: write.id() };
    let ask = async |at: &super::connection::Attempt| at.cluster().drain_zone(at.request(request.clone())).await;
    let ZoneResponse { changed, nowhere_else, .. } = connection.write(&request.request_id, ask).await?.into_inner();
    let zone = &request.zone;
    anstream::eprintln!("zone {zone} {}", if changed { "is drained" } else { "was drained already" });
    for upstream in nowhere_else {
        anstream::eprintln!("{upstream} has endpoints in drained zones alone: it gets its requests there still");
    }
    Ok(())
}

async fn undrain(connection: &Connection, OneZone { zone, write }: OneZone) -> anyhow::Result<()> {
    let request = ZoneRequest { zone, request_id: write.id() };
    let ask = async |at: &super::connection::Attempt| at.cluster().undrain_zone(at.request(request.clone())).await;
    let done = connection.write(&request.request_id, ask).await?.into_inner();
    let zone = &request.zone;
    anstream::eprintln!("zone {zone} {}", if done.changed { "is taken back" } else { "was not drained" });
    Ok(())
}

async fn status(connection: &Connection, output: ListFormat) -> anyhow::Result<()> {
    let ask =
        async |at: &super::connection::Attempt| at.cluster().status_zones(at.request(StatusZonesRequest {})).await;
    let zones = connection.read(ask).await?.into_inner().zones;
    write_list(output, &COLUMNS, zones.into_iter().map(row).collect())
}

fn row(zone: ZoneStatus) -> Value {
    let nodes: Vec<String> = zone.nodes.iter().map(u64::to_string).collect();
    json!({
        "zone": zone.zone,
        "state": if zone.drained { "drained" } else { "active" },
        "drained": zone.drained,
        "nodes": nodes.join(","),
        "endpoints": zone.endpoints,
        "drainedAt": some(&zone.drained_at),
        "drainedBy": some(&zone.drained_by),
    })
}
