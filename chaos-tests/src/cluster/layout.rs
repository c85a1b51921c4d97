//! The files of a cluster: `node.toml` for each node, certificates, the cluster key, the first token.

use std::{fs, net::SocketAddr, path::Path};

use base64::{Engine, prelude::BASE64_STANDARD};

use super::{Node, Plan};
use crate::{Ca, faults::Relay, free_port};

/// Zones of the first nodes, and again from the first.
const ZONES: [&str; 3] = ["az-a", "az-b", "az-c"];

pub(super) struct Written {
    pub(super) nodes: Vec<Node>,
    pub(super) relays: Vec<Relay>,
    pub(super) token: String,
}

pub(super) fn write(dir: &Path, plan: &Plan, ca: &Ca) -> anyhow::Result<Written> {
    let token = format!("test-admin-{:032x}", rand::random::<u128>());
    fs::write(dir.join("cluster.key"), BASE64_STANDARD.encode(rand::random::<[u8; 32]>()))?;
    fs::write(dir.join("admin.token"), &token)?;
    let mut relays = Vec::new();
    let mut nodes = Vec::new();
    for (id, zone) in (1..=plan.nodes).zip(ZONES.into_iter().cycle()) {
        let [http, admin, peer] = addresses(plan, id);
        if plan.relayed {
            relays.push(Relay::start(peer)?);
        }
        let advertise = relays.last().filter(|_| plan.relayed).map_or(peer, Relay::address);
        let mut node = Node::new(id, zone, dir, [http, admin, peer, advertise], plan.env.clone());
        node.namespace = plan.network.as_ref().map(|network| network.namespace(id));
        nodes.push(node);
    }
    let members: Vec<String> = nodes.iter().map(|node| format!("\"{}@{}\"", node.id, node.advertise)).collect();
    let bootstrap = format!("bootstrap = [{}]", members.join(", "));
    for node in &nodes {
        fs::create_dir_all(&node.dir)?;
        ca.node(node.id)?.write(ca, &node.dir)?;
        fs::write(node.config(), toml(node, &bootstrap, &plan.more_toml))?;
    }
    Ok(Written { nodes, relays, token })
}

/// Of the data plane, the admin plane, and for peers. A node that has a network of its own has all ports to itself.
fn addresses(plan: &Plan, id: u64) -> [SocketAddr; 3] {
    match &plan.network {
        None => [free_port(), free_port(), free_port()],
        Some(network) => [8_080, 9_000, 7_000].map(|port| (network.address(id), port).into()),
    }
}

/// A node that joins those that are there.
pub(super) fn write_later(dir: &Path, nodes: &[Node], ca: &Ca) -> anyhow::Result<Node> {
    let id = nodes.iter().map(|node| node.id).max().unwrap_or(0) + 1;
    let zone = ZONES[usize::try_from(id - 1)? % ZONES.len()];
    let peer = free_port();
    let node = Node::new(id, zone, dir, [free_port(), free_port(), peer, peer], Vec::new());
    let members: Vec<String> = nodes.iter().map(|node| format!("\"{}\"", node.advertise)).collect();
    fs::create_dir_all(&node.dir)?;
    ca.node(node.id)?.write(ca, &node.dir)?;
    fs::write(node.config(), toml(&node, &format!("join = [{}]", members.join(", ")), ""))?;
    Ok(node)
}

/// `members` is the line that says how the node finds its cluster.
pub(super) fn toml(node: &Node, members: &str, more: &str) -> String {
    let (id, zone) = (node.id, &node.zone);
    let [http, admin, peer, advertise]: [SocketAddr; 4] = [node.http, node.admin, node.peer, node.advertise];
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
advertise = "{advertise}"
[peer.tls]
ca = "ca.pem"
cert = "node.pem"
key = "node.key"
[cluster]
{members}
key_file = "../cluster.key"
{more}"#
    )
}
