//! A cluster of real node processes, each with its own directory, ports and certificate.

mod demo;
mod layout;
mod node;

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    Ca, Cli, Provider,
    client::Client,
    eventually,
    faults::{Network, Relay},
};

pub use demo::{Demo, DemoConsumer, DemoNode, DemoProvider};
pub use node::Node;

/// From the start of the processes until all are ready, on a machine that is busy.
const START_LIMIT: Duration = Duration::from_secs(60);

/// What a cluster shall be.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How many first members.
    pub nodes: u64,
    /// Whether a relay stands before the peer port of each node.
    pub relayed: bool,
    /// More lines for every `node.toml`: whole tables that it does not have yet.
    pub more_toml: String,
    /// Environment of every node.
    pub env: Vec<(String, String)>,
    /// Where its nodes are, if not on loopback.
    pub network: Option<Arc<Network>>,
}

impl Default for Plan {
    fn default() -> Plan {
        Plan { nodes: 3, relayed: false, more_toml: String::new(), env: Vec::new(), network: None }
    }
}

/// A running cluster. Dropping it kills every process and removes every file.
#[derive(Debug)]
pub struct Cluster {
    /// Ordered by id, from 1.
    pub nodes: Vec<Node>,
    /// The relay before each node's peer port, in the same order; empty unless the plan wanted them.
    pub relays: Vec<Relay>,
    /// The first admin token.
    pub token: String,
    /// The authority of all certificates.
    pub ca: Ca,
    /// For calls to the data plane.
    pub client: Client,
    dir: TempDir,
    /// After the nodes, which are ended first.
    network: Option<Arc<Network>>,
}

impl Cluster {
    /// Three nodes in three zones, all ready.
    ///
    /// # Errors
    /// A node does not become ready.
    pub async fn start() -> anyhow::Result<Cluster> {
        Cluster::with(Plan::default()).await
    }

    /// A cluster by plan, all nodes ready.
    ///
    /// # Errors
    /// A node does not become ready.
    pub async fn with(plan: Plan) -> anyhow::Result<Cluster> {
        let mut cluster = Cluster::prepare(&plan)?;
        for node in &mut cluster.nodes {
            node.start()?;
        }
        cluster.ready().await?;
        Ok(cluster)
    }

    /// Everything on disk, and nothing running.
    ///
    /// # Errors
    /// The files can't be written.
    pub fn prepare(plan: &Plan) -> anyhow::Result<Cluster> {
        let dir = tempfile::Builder::new().prefix("tollgate-cluster-").tempdir()?;
        let ca = Ca::new()?;
        let written = layout::write(dir.path(), plan, &ca)?;
        let (nodes, relays, token) = (written.nodes, written.relays, written.token);
        Ok(Cluster { nodes, relays, token, ca, client: Client::new(), dir, network: plan.network.clone() })
    }

    /// A later member, with everything on disk and not running: it asks the nodes that are there now to take it in.
    ///
    /// # Errors
    /// The files can't be written.
    pub fn add(&mut self) -> anyhow::Result<&mut Node> {
        let node = layout::write_later(self.dir.path(), &self.nodes, &self.ca)?;
        self.nodes.push(node);
        self.nodes.last_mut().context("one was added")
    }

    /// Waits until every running node is ready.
    ///
    /// # Errors
    /// One is not, or has ended.
    pub async fn ready(&mut self) -> anyhow::Result<()> {
        for node in &mut self.nodes {
            if node.is_running() {
                node.ready(START_LIMIT).await?;
            }
        }
        Ok(())
    }

    /// Where everything lies.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// One node by its id.
    ///
    /// # Panics
    /// There is none.
    pub fn node(&mut self, id: u64) -> &mut Node {
        self.nodes.iter_mut().find(|node| node.id == id).expect("the test knows its nodes")
    }

    /// Origins of the data planes, in the order of ids.
    pub fn origins(&self) -> Vec<String> {
        self.nodes.iter().map(Node::http_url).collect()
    }

    /// The verbs, against all nodes.
    pub fn cli(&self) -> Cli {
        self.cli_from(0)
    }

    /// The verbs, against all nodes, beginning with node number `first` in the list.
    pub fn cli_from(&self, first: usize) -> Cli {
        let count = self.nodes.len();
        let order: Vec<String> = (0..count).map(|step| self.nodes[(first + step) % count].admin_url()).collect();
        Cli { admin: order.join(","), token: self.token.clone() }
    }

    /// The verbs, against one node alone.
    pub fn cli_of(&self, id: u64) -> Cli {
        let node = self.nodes.iter().find(|node| node.id == id);
        Cli { admin: node.map(Node::admin_url).unwrap_or_default(), token: self.token.clone() }
    }

    /// `cluster status`, once it can be had.
    ///
    /// # Errors
    /// No node tells.
    pub async fn status(&self) -> anyhow::Result<Vec<Value>> {
        eventually("the cluster tells its status", || async { self.cli().rows(&["cluster", "status"]).await }).await
    }

    /// The leader's id, once there is one.
    ///
    /// # Errors
    /// There is none.
    pub async fn leader(&self) -> anyhow::Result<u64> {
        eventually("there is a leader", || async {
            let rows = self.cli().rows(&["cluster", "status"]).await?;
            let leader = rows.iter().find(|row| row["role"] == "leader" && row["state"] != "unreachable");
            leader.and_then(|row| row["id"].as_u64()).with_context(|| format!("no leader in {rows:?}"))
        })
        .await
    }

    /// A node that is not the leader.
    ///
    /// # Errors
    /// There is none.
    pub async fn follower(&self) -> anyhow::Result<u64> {
        let leader = self.leader().await?;
        self.nodes.iter().map(|node| node.id).find(|&id| id != leader).context("there is but one node")
    }

    /// An address of the test itself that its nodes reach: where their providers are.
    pub fn host(&self) -> IpAddr {
        self.network.as_ref().map_or(Ipv4Addr::LOCALHOST, |network| network.host()).into()
    }

    /// A provider and the standard resources for it, served everywhere.
    ///
    /// # Errors
    /// They are refused.
    pub async fn with_standard(&self, consumers: &[(&str, Option<u64>)]) -> anyhow::Result<Provider> {
        let provider = Provider::start_at(self.host(), tollgate_mock_llm::Options::default()).await?;
        self.cli().apply_and_wait(&crate::resources::standard(&provider.url(), consumers)).await?;
        Ok(provider)
    }

    /// Waits until every node is there and all of them name the same, single leader.
    ///
    /// # Errors
    /// They don't.
    pub async fn converged_on_one_leader(&self) -> anyhow::Result<()> {
        eventually("all nodes name one leader", || async {
            let mut leaders = Vec::new();
            for node in &self.nodes {
                let rows = self.cli_of(node.id).rows(&["cluster", "status"]).await?;
                anyhow::ensure!(rows.iter().all(|row| row["state"] == "ready"), "{rows:?}");
                leaders.extend(rows.iter().filter(|row| row["role"] == "leader").map(|row| row["id"].clone()));
            }
            leaders.dedup();
            anyhow::ensure!(leaders.len() == 1, "leaders: {leaders:?}");
            Ok(())
        })
        .await
    }

    /// Waits until every node has applied what the leader has.
    ///
    /// # Errors
    /// One does not catch up.
    pub async fn converged(&self) -> anyhow::Result<()> {
        let voters = self.nodes.len();
        eventually("all nodes have applied the same log", || async {
            let rows = self.cli().rows(&["cluster", "status"]).await?;
            let reachable: Vec<&Value> = rows.iter().filter(|row| row["state"] == "ready").collect();
            anyhow::ensure!(reachable.len() == voters, "ready: {} of {voters}: {rows:?}", reachable.len());
            let indexes: Vec<u64> = reachable.iter().filter_map(|row| row["appliedIndex"].as_u64()).collect();
            let (low, high) = (indexes.iter().min(), indexes.iter().max());
            anyhow::ensure!(indexes.len() == voters && low == high, "applied: {indexes:?}");
            Ok(())
        })
        .await
    }
}

/// All of a text file that may not be there.
pub(crate) fn read_lossy(path: &Path) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_becomes_files_for_every_node() {
        let cluster = Cluster::prepare(&Plan { relayed: true, ..Plan::default() }).unwrap();
        assert_eq!((cluster.nodes.len(), cluster.relays.len()), (3, 3));
        for node in &cluster.nodes {
            let toml = fs::read_to_string(node.config()).unwrap();
            for relay in &cluster.relays {
                assert!(toml.contains(&relay.address().to_string()), "{toml}");
            }
            assert!(node.dir.join("node.key").exists());
        }
    }
}
