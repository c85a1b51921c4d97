//! A cluster that `tollgate demo` starts.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use tempfile::TempDir;

use super::read_lossy;
use crate::{Cli, eventually_within, report, tollgate};

/// What `--ready-file` holds.
#[derive(Clone, Debug, Deserialize)]
struct Ready {
    nodes: Vec<DemoNode>,
    providers: Vec<DemoProvider>,
    admin_token: String,
    consumers: Vec<DemoConsumer>,
}

/// One node of a demo.
#[derive(Clone, Debug, Deserialize)]
pub struct DemoNode {
    /// Its id.
    pub id: u64,
    /// Its zone.
    pub zone: String,
    /// Origin of its data plane.
    pub http: String,
    /// Origin of its admin plane.
    pub admin: String,
    /// Its process.
    pub pid: u32,
    /// Absolute.
    pub data_dir: PathBuf,
    /// Absolute.
    pub config: PathBuf,
}

/// One simulated provider of a demo.
#[derive(Clone, Debug, Deserialize)]
pub struct DemoProvider {
    /// Its name as a resource.
    pub name: String,
    /// Its origin.
    pub url: String,
}

/// One consumer of a demo.
#[derive(Clone, Debug, Deserialize)]
pub struct DemoConsumer {
    /// Its name.
    pub name: String,
    /// Who pays.
    pub tenant: String,
    /// Its key.
    pub api_key: String,
}

/// A running demo. Dropping it ends all its processes.
#[derive(Debug)]
pub struct Demo {
    /// Its nodes.
    pub nodes: Vec<DemoNode>,
    /// Its providers.
    pub providers: Vec<DemoProvider>,
    /// Its consumers.
    pub consumers: Vec<DemoConsumer>,
    /// From the start of the program to the ready file.
    pub took: Duration,
    token: String,
    child: Child,
    dir: TempDir,
}

impl Demo {
    /// Starts a demo and waits for its ready file.
    ///
    /// # Errors
    /// It does not become ready.
    pub async fn start(nodes: u32) -> anyhow::Result<Demo> {
        let dir = tempfile::Builder::new().prefix("tollgate-demo-").tempdir()?;
        let (file, log) = (dir.path().join("ready.json"), dir.path().join("demo.log"));
        let program = tollgate();
        let begun = tokio::time::Instant::now();
        let mut child = Command::new(program)
            .args(["demo", "--nodes", &nodes.to_string()])
            .arg("--dir")
            .arg(dir.path().join("cluster"))
            .arg("--ready-file")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(File::create(dir.path().join("demo.out"))?)
            .stderr(File::create(&log)?)
            .spawn()
            .context("can't start a demo")?;
        let ready: anyhow::Result<Ready> = eventually_within(Duration::from_secs(60), "the demo is ready", || {
            let ended = child.try_wait();
            let (file, log) = (file.clone(), log.clone());
            async move {
                if let Some(status) = ended? {
                    anyhow::bail!("the demo ended with {status}: {}", read_lossy(&log));
                }
                Ok(serde_json::from_slice(&fs::read(&file)?)?)
            }
        })
        .await;
        let took = begun.elapsed();
        let ready = match ready {
            Ok(ready) => ready,
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(error);
            }
        };
        let Ready { nodes, providers, admin_token, consumers } = ready;
        Ok(Demo { nodes, providers, consumers, took, token: admin_token, child, dir })
    }

    /// The verbs, against all its nodes.
    pub fn cli(&self) -> Cli {
        let admin: Vec<&str> = self.nodes.iter().map(|node| node.admin.as_str()).collect();
        Cli { admin: admin.join(","), token: self.token.clone() }
    }

    /// What it printed on standard output.
    pub fn output(&self) -> String {
        read_lossy(&self.dir.path().join("demo.out"))
    }

    /// Kills one of its nodes without warning.
    ///
    /// # Errors
    /// There is no such process.
    pub fn kill(&self, node: &DemoNode) -> anyhow::Result<()> {
        let pid = Pid::from_raw(i32::try_from(node.pid)?).context("a process id is not 0")?;
        Ok(kill_process(pid, Signal::KILL)?)
    }

    /// Whether the demo itself still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        if report::is_failing() {
            show(&read_lossy(&self.dir.path().join("demo.log")));
        }
        // Asked to stop, it stops its nodes; killed, it could not.
        let asked = Pid::from_child(&self.child);
        let _ = kill_process(asked, Signal::TERM);
        for node in &self.nodes {
            let _ = self.kill(node);
        }
        let _ = self.child.wait();
    }
}

#[expect(clippy::print_stderr, reason = "a failed test shows what its demo said")]
fn show(log: &str) {
    eprintln!("---- what the demo said\n{log}");
}
