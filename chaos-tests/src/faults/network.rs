//! A network of its own for each node, so that packets between two of them can be lost one way or both ways while clients
//! still reach everybody. Needs the right to make network namespaces.

use std::{net::Ipv4Addr, process::Command};

use anyhow::Context;
use rand::RngExt;

/// The host's own place on the network; nodes have their ids.
const HOST: u8 = 254;
/// Networks that are tried before giving up.
const TRIES: usize = 20;

/// A bridge, and a namespace with an address for each node. All of it is gone when it is dropped.
#[derive(Debug)]
pub struct Network {
    tag: String,
    /// The second and third byte of all addresses.
    subnet: (u8, u8),
    nodes: u64,
}

impl Network {
    /// Builds it; `None` without the right to.
    ///
    /// # Errors
    /// It was begun, and could not be finished.
    pub fn build(nodes: u64) -> anyhow::Result<Option<Network>> {
        for _ in 0..TRIES {
            let mut rng = rand::rng();
            let (tag, subnet) =
                (format!("tg{:05x}", rng.random_range(0..1 << 20)), (rng.random_range(64..=254), rng.random()));
            let network = Network { tag, subnet, nodes };
            if network.is_taken()? {
                continue;
            }
            let bridge = network.bridge();
            if ip(&["link", "add", &bridge, "type", "bridge"]).is_err() {
                return Ok(None);
            }
            network.connect()?;
            return Ok(Some(network));
        }
        anyhow::bail!("{TRIES} networks in a row are taken")
    }

    fn is_taken(&self) -> anyhow::Result<bool> {
        let addresses = Command::new("ip").args(["-o", "addr"]).output().context("there is no command `ip`")?;
        let text = String::from_utf8_lossy(&addresses.stdout).into_owned();
        Ok(text.contains(&format!(" 10.{}.{}.", self.subnet.0, self.subnet.1)) || text.contains(&self.tag))
    }

    fn connect(&self) -> anyhow::Result<()> {
        let bridge = self.bridge();
        ip(&["addr", "add", &format!("{}/24", self.host()), "dev", &bridge])?;
        ip(&["link", "set", &bridge, "up"])?;
        for id in 1..=self.nodes {
            let (inside, outside) = (self.namespace(id), self.link(id));
            ip(&["netns", "add", &inside])?;
            ip(&["link", "add", &outside, "type", "veth", "peer", "name", "eth0", "netns", &inside])?;
            ip(&["link", "set", &outside, "master", &bridge, "up"])?;
            ip(&["-n", &inside, "addr", "add", &format!("{}/24", self.address(id)), "dev", "eth0"])?;
            ip(&["-n", &inside, "link", "set", "eth0", "up"])?;
            ip(&["-n", &inside, "link", "set", "lo", "up"])?;
        }
        Ok(())
    }

    fn bridge(&self) -> String {
        format!("{}b", self.tag)
    }

    fn link(&self, id: u64) -> String {
        format!("{}v{id}", self.tag)
    }

    /// Where the tests themselves are: clients, and providers that nodes shall reach.
    pub fn host(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, self.subnet.0, self.subnet.1, HOST)
    }

    /// Where a node is.
    ///
    /// # Panics
    /// There are not so many.
    pub fn address(&self, id: u64) -> Ipv4Addr {
        let last = u8::try_from(id).ok().filter(|&last| last > 0 && last < HOST).expect("a cluster is small");
        Ipv4Addr::new(10, self.subnet.0, self.subnet.1, last)
    }

    /// The namespace that a node's process belongs in.
    pub fn namespace(&self, id: u64) -> String {
        format!("{}-{id}", self.tag)
    }

    /// From now on nothing that node `from` sends reaches node `to`.
    ///
    /// # Errors
    /// The system refuses, or it is so already.
    pub fn cut(&self, from: u64, to: u64) -> anyhow::Result<()> {
        ip(&["-n", &self.namespace(from), "route", "add", "blackhole", &format!("{}/32", self.address(to))])
    }

    /// It reaches it again.
    ///
    /// # Errors
    /// The system refuses, or it did all the time.
    pub fn heal(&self, from: u64, to: u64) -> anyhow::Result<()> {
        ip(&["-n", &self.namespace(from), "route", "del", "blackhole", &format!("{}/32", self.address(to))])
    }

    /// From now on no packet passes between these two.
    ///
    /// # Errors
    /// As for [`Network::cut`].
    pub fn part(&self, one: u64, other: u64) -> anyhow::Result<()> {
        self.cut(one, other)?;
        self.cut(other, one)
    }

    /// They hear each other again.
    ///
    /// # Errors
    /// As for [`Network::heal`].
    pub fn join(&self, one: u64, other: u64) -> anyhow::Result<()> {
        self.heal(one, other)?;
        self.heal(other, one)
    }

    /// Pulls the plug of a node, for clients too, or puts it back.
    ///
    /// # Errors
    /// The system refuses.
    pub fn plug(&self, id: u64, plugged: bool) -> anyhow::Result<()> {
        ip(&["link", "set", &self.link(id), if plugged { "up" } else { "down" }])
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for id in 1..=self.nodes {
            // The links go with their namespaces.
            let _ = ip(&["netns", "del", &self.namespace(id)]);
        }
        let _ = ip(&["link", "del", &self.bridge()]);
    }
}

fn ip(args: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("ip").args(args).output().context("there is no command `ip`")?;
    anyhow::ensure!(output.status.success(), "ip {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// Whether node `from` has a way to node `to`.
    fn reaches(network: &Network, from: u64, to: u64) -> bool {
        ip(&["-n", &network.namespace(from), "route", "get", &network.address(to).to_string()]).is_ok()
    }

    #[test]
    fn routes_are_cut_one_way_and_come_back() {
        let Some(network) = Network::build(2).unwrap() else {
            // As loud as a test that passes can be.
            std::io::stderr().write_all(b"SKIPPED: network namespaces need root\n").unwrap();
            return;
        };
        assert!(reaches(&network, 1, 2) && reaches(&network, 2, 1));
        network.cut(1, 2).unwrap();
        assert!(!reaches(&network, 1, 2) && reaches(&network, 2, 1));
        network.heal(1, 2).unwrap();
        network.part(1, 2).unwrap();
        assert!(!reaches(&network, 1, 2) && !reaches(&network, 2, 1));
        network.join(1, 2).unwrap();
        assert!(reaches(&network, 1, 2) && reaches(&network, 2, 1));
        let namespace = network.namespace(1);
        drop(network);
        assert!(ip(&["-n", &namespace, "addr"]).is_err(), "it is still there");
    }
}
