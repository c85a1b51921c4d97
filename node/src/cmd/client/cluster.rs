//! `tollgate cluster`: members and leadership.

use std::path::PathBuf;

use anyhow::bail;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use tollgate_proto::admin::v1::{
    AddNodeRequest, ClusterStatusRequest, MembershipResponse, NodeStatus, PromoteNodeRequest, RemoveNodeRequest,
    TransferLeaderRequest,
};

use super::{
    apply::WriteArgs,
    connection::{Connection, ConnectionArgs},
    failure::CallError,
    output::{ListFormat, write_list},
};

const COLUMNS: [&str; 11] =
    ["id", "zone", "role", "state", "term", "lastLogIndex", "appliedIndex", "http", "admin", "peer", "version"];

/// See and change the cluster's members.
#[derive(Args, Debug)]
pub(crate) struct ClusterArgs {
    #[command(subcommand)]
    command: ClusterCommand,
    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Subcommand, Debug)]
enum ClusterCommand {
    /// Show every member: its role, state, log and addresses.
    Status {
        /// How to print it.
        #[arg(short, long, value_enum, default_value = "table")]
        output: ListFormat,
    },
    /// Take in a new node as a learner: it applies the log and proxies, and does not vote.
    #[command(after_help = "Example: tollgate cluster add 4 10.0.3.1:7000")]
    Add {
        /// The `[node] id` of the new node.
        id: u64,
        /// host:port of its peer plane.
        peer: String,
        #[command(flatten)]
        write: WriteArgs,
    },
    /// Let a learner vote.
    Promote {
        /// The node's id.
        id: u64,
        #[command(flatten)]
        write: WriteArgs,
    },
    /// Take a node out.
    Remove {
        /// The node's id.
        id: u64,
        /// The node will never come back: what it had in hand is written off. Refused while it answers.
        #[arg(long)]
        lost: bool,
        /// What becomes of that.
        #[arg(long, value_enum, requires = "lost", default_value = "consume")]
        write_off: WriteOff,
        #[command(flatten)]
        write: WriteArgs,
    },
    /// Let another node lead.
    TransferLeader {
        /// The node's id; the cluster chooses when absent.
        id: Option<u64>,
        #[command(flatten)]
        write: WriteArgs,
    },
    /// Write the cluster's state to a file: not available yet.
    Backup {
        /// Where to.
        file: PathBuf,
    },
    /// Start a new cluster from a backup: not available yet.
    Restore {
        /// Where from.
        file: PathBuf,
    },
}

/// What becomes of what a lost node had in hand, of limits whose window turns.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
enum WriteOff {
    /// It counts as used until the window turns.
    Consume,
    /// Nobody gets it until the window turns, and it is not called lost.
    Hold,
    /// Others get it: the limit is over by what the node had spent and told nobody.
    Release,
}

impl WriteOff {
    fn as_str(self) -> &'static str {
        match self {
            Self::Consume => "consume",
            Self::Hold => "hold",
            Self::Release => "release",
        }
    }
}

pub(super) async fn run(args: ClusterArgs) -> anyhow::Result<()> {
    let connection = Connection::open(args.connection)?;
    match args.command {
        ClusterCommand::Status { output } => status(&connection, output).await,
        ClusterCommand::Add { id, peer, write } => add(&connection, id, peer, &write).await,
        ClusterCommand::Promote { id, write } => promote(&connection, id, &write).await,
        ClusterCommand::Remove { id, lost, write_off, write } => {
            remove(&connection, id, lost.then_some(write_off), &write).await
        }
        ClusterCommand::TransferLeader { id, write } => transfer_leader(&connection, id, &write).await,
        ClusterCommand::Backup { .. } => bail!("cluster backup is not available yet"),
        ClusterCommand::Restore { .. } => bail!("cluster restore is not available yet"),
    }
}

async fn status(connection: &Connection, output: ListFormat) -> anyhow::Result<()> {
    let mut nodes = members(connection).await?;
    nodes.sort_by_key(|node| node.id);
    write_list(output, &COLUMNS, nodes.into_iter().map(row).collect())
}

async fn members(connection: &Connection) -> Result<Vec<NodeStatus>, CallError> {
    let ask = async |at: &super::connection::Attempt| at.cluster().status(at.request(ClusterStatusRequest {})).await;
    Ok(connection.read(ask).await?.into_inner().nodes)
}

fn row(node: NodeStatus) -> Value {
    json!({
        "id": node.id,
        "zone": node.zone,
        "role": node.role,
        "state": node.state,
        "term": node.term,
        "lastLogIndex": node.last_log_index,
        "appliedIndex": node.applied_index,
        "http": node.http,
        "admin": node.admin,
        "peer": node.peer,
        "version": node.version,
        "servedIndex": node.served_index,
        "logBytes": node.log_bytes,
        "logFull": node.log_full,
    })
}

async fn add(connection: &Connection, id: u64, peer: String, write: &WriteArgs) -> anyhow::Result<()> {
    let request = AddNodeRequest { id, peer, request_id: write.id() };
    let done =
        connection.write(&request.request_id, async |at| at.cluster().add(at.request(request.clone())).await).await?;
    tell(done, &added(connection, id).await)
}

/// What the node is by now, which the answer does not say: one that was a member before keeps its part.
async fn added(connection: &Connection, id: u64) -> String {
    let nodes = members(connection).await.unwrap_or_default();
    match nodes.iter().find(|node| node.id == id).map(|node| node.role.as_str()) {
        Some("learner") => format!("node {id} is a learner"),
        Some(role) => format!("node {id} is a member already: it votes, as a {role}"),
        None => format!("node {id} was added, and its part could not be asked for: see with `tollgate cluster status`"),
    }
}

async fn promote(connection: &Connection, id: u64, write: &WriteArgs) -> anyhow::Result<()> {
    let request = PromoteNodeRequest { id, request_id: write.id() };
    let done = connection
        .write(&request.request_id, async |at| at.cluster().promote(at.request(request.clone())).await)
        .await?;
    tell(done, &format!("node {id} is a voter"))
}

async fn remove(connection: &Connection, id: u64, lost: Option<WriteOff>, write: &WriteArgs) -> anyhow::Result<()> {
    let write_off = lost.map_or("", WriteOff::as_str).to_owned();
    let request = RemoveNodeRequest { id, lost: lost.is_some(), request_id: write.id(), write_off };
    let done = connection
        .write(&request.request_id, async |at| at.cluster().remove(at.request(request.clone())).await)
        .await?;
    let MembershipResponse { leases, orphaned, write_off_in_ms, .. } = *done.get_ref();
    let written_off = lost.map(|write_off| {
        let what = format!("what it had in hand of {leases} accounts: {}", write_off.as_str());
        let when =
            if write_off_in_ms == 0 { String::new() } else { format!(", in {} s", write_off_in_ms.div_ceil(1_000)) };
        format!("; {what}{when}; {orphaned} requests in flight count as used")
    });
    tell(done, &format!("node {id} is no member any more{}", written_off.unwrap_or_default()))
}

async fn transfer_leader(connection: &Connection, id: Option<u64>, write: &WriteArgs) -> anyhow::Result<()> {
    let request = TransferLeaderRequest { to: id.unwrap_or(0), request_id: write.id() };
    let done = connection
        .write(&request.request_id, async |at| at.cluster().transfer_leader(at.request(request.clone())).await)
        .await?;
    tell(done, "leadership was handed over")
}

fn tell(done: tonic::Response<MembershipResponse>, what: &str) -> anyhow::Result<()> {
    let done = done.into_inner();
    match done.leader {
        0 => anstream::eprintln!("{what}"),
        leader => anstream::eprintln!("{what}; node {leader} leads"),
    }
    Ok(())
}
