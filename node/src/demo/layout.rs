//! Where a demo cluster lives: folders, ports, certificates, keys and one `node.toml` for each node.

use std::{
    collections::BTreeSet,
    fmt::Write,
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use base64::{Engine, prelude::BASE64_STANDARD};
use rand::RngExt;

use crate::pki::{self, ClusterCa};

/// Ports are taken from below the range that systems give to outgoing connections, so that nothing takes one between
/// two starts of the node it belongs to.
const PORTS: std::ops::Range<u16> = 10_000..32_000;
/// Probes for a free port before giving up: more than this many busy ports in a row means that something else is wrong.
const PORT_PROBES: u32 = 1_000;

/// One node's place.
#[derive(Clone, Debug)]
pub(super) struct NodeHome {
    pub(super) id: u64,
    pub(super) zone: String,
    pub(super) dir: PathBuf,
    pub(super) http: SocketAddr,
    pub(super) admin: SocketAddr,
    pub(super) peer: SocketAddr,
}

impl NodeHome {
    pub(super) fn config(&self) -> PathBuf {
        self.dir.join("node.toml")
    }

    pub(super) fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.dir.join("node.log")
    }
}

/// The folder of a whole demo cluster.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) nodes: Vec<NodeHome>,
    pub(super) admin_token: String,
}

impl Layout {
    /// Writes everything that `count` nodes need into `dir`, an absolute path, on ports that are free now.
    pub(super) fn create(dir: &Path, count: u8) -> anyhow::Result<Layout> {
        fs::create_dir_all(dir).with_context(|| format!("can't create {}", dir.display()))?;
        if fs::read_dir(dir)?.next().is_some() {
            bail!("{} is not empty: name another folder with --dir, or remove it", dir.display());
        }
        let mut taken = BTreeSet::new();
        let mut nodes = Vec::new();
        for (id, zone) in (1..=u64::from(count)).zip('a'..='z') {
            let dir = dir.join(format!("node-{id}"));
            let [http, admin, peer] = [free_port(&mut taken)?, free_port(&mut taken)?, free_port(&mut taken)?];
            nodes.push(NodeHome { id, zone: format!("az-{zone}"), dir, http, admin, peer });
        }
        let layout = Layout { nodes, admin_token: new_secret("tg-admin-") };
        layout.write(dir)?;
        Ok(layout)
    }

    fn write(&self, dir: &Path) -> anyhow::Result<()> {
        let ca = ClusterCa::generate()?;
        pki::write_secret(&dir.join("cluster.key"), &BASE64_STANDARD.encode(rand::rng().random::<[u8; 32]>()))?;
        pki::write_secret(&dir.join("admin.token"), &self.admin_token)?;
        let bootstrap = self.bootstrap_line();
        for node in &self.nodes {
            fs::create_dir_all(&node.dir)?;
            ca.write_node(node.id, &node.dir)?;
            fs::write(node.config(), node_toml(node, &bootstrap))?;
        }
        Ok(())
    }

    fn bootstrap_line(&self) -> String {
        let mut line = String::from("[");
        for node in &self.nodes {
            let separator = if line.len() == 1 { "" } else { ", " };
            write!(line, "{separator}\"{}@{}\"", node.id, node.peer).expect("writing to a string can't fail");
        }
        line + "]"
    }
}

fn node_toml(node: &NodeHome, bootstrap: &str) -> String {
    let NodeHome { id, zone, http, admin, peer, .. } = node;
    format!(
        r#"[node]
id = {id}
zone = "{zone}"
data_dir = "data"
[http]
listen = "{http}"
[admin]
listen = "{admin}"
initial_token_file = "../admin.token"
[peer]
listen = "{peer}"
[peer.tls]
ca = "ca.pem"
cert = "node.pem"
key = "node.key"
[cluster]
bootstrap = {bootstrap}
key_file = "../cluster.key"
"#
    )
}

/// A secret that nobody can guess: `prefix` and 192 random bits.
pub(super) fn new_secret(prefix: &str) -> String {
    format!("{prefix}{}", hex::encode(rand::rng().random::<[u8; 24]>()))
}

fn free_port(taken: &mut BTreeSet<u16>) -> anyhow::Result<SocketAddr> {
    for _ in 0..PORT_PROBES {
        let port = rand::rng().random_range(PORTS);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if !taken.contains(&port) && TcpListener::bind(address).is_ok() {
            taken.insert(port);
            return Ok(address);
        }
    }
    bail!("no free port found on 127.0.0.1 from {} to {}", PORTS.start, PORTS.end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Members, NodeConfig};

    #[test]
    fn every_node_gets_a_configuration_that_checks_and_a_port_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::create(dir.path(), 3).unwrap();
        let configs: Vec<_> = layout.nodes.iter().map(|node| NodeConfig::load(&node.config()).unwrap()).collect();
        let Members::Bootstrap(first) = &configs[0].members else { panic!("a demo node bootstraps") };
        assert_eq!(first.len(), 3);
        assert!(configs.iter().all(|config| config.members == Members::Bootstrap(first.clone())));
        let ports: BTreeSet<u16> =
            configs.iter().flat_map(|c| [c.http_listen.port(), c.admin_listen.port(), c.peer_listen.port()]).collect();
        assert_eq!(ports.len(), 9);
    }

    #[test]
    fn a_folder_with_something_in_it_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("precious"), "data").unwrap();
        let error = Layout::create(dir.path(), 1).unwrap_err();
        assert!(error.to_string().contains("is not empty"), "{error}");
    }
}
