//! One node: a process that can be started, killed, frozen and wiped.

use std::{
    fs::{self, File, OpenOptions},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};

use super::read_lossy;
use crate::{client::Client, eventually_within, report, tollgate};

/// How much of a node's log is shown when a test failed.
const TAIL_BYTES: usize = 6_000;

/// One node of a cluster.
#[derive(Debug)]
pub struct Node {
    /// Its id.
    pub id: u64,
    /// Its zone.
    pub zone: String,
    /// Its directory: configuration, certificate, log, and `data`.
    pub dir: PathBuf,
    /// The data plane.
    pub http: SocketAddr,
    /// The admin plane.
    pub admin: SocketAddr,
    /// Where it listens for peers.
    pub peer: SocketAddr,
    /// Where peers dial it: the same, or a relay.
    pub advertise: SocketAddr,
    /// Its environment, from the next start on.
    pub env: Vec<(String, String)>,
    /// The program that it runs, if not the usual one.
    pub program: Option<PathBuf>,
    /// The network namespace that it runs in, if it has one of its own.
    pub(super) namespace: Option<String>,
    child: Option<Child>,
}

impl Node {
    pub(super) fn new(
        id: u64,
        zone: &str,
        cluster_dir: &Path,
        [http, admin, peer, advertise]: [SocketAddr; 4],
        env: Vec<(String, String)>,
    ) -> Node {
        let dir = cluster_dir.join(format!("node-{id}"));
        Node {
            id,
            zone: zone.into(),
            dir,
            http,
            admin,
            peer,
            advertise,
            env,
            program: None,
            namespace: None,
            child: None,
        }
    }

    /// Its `node.toml`.
    pub fn config(&self) -> PathBuf {
        self.dir.join("node.toml")
    }

    /// Its data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// `http://host:port` of the data plane.
    pub fn http_url(&self) -> String {
        format!("http://{}", self.http)
    }

    /// `http://host:port` of the admin plane.
    pub fn admin_url(&self) -> String {
        format!("http://{}", self.admin)
    }

    /// All that its processes have said on standard error.
    pub fn log(&self) -> String {
        read_lossy(&self.log_path())
    }

    fn log_path(&self) -> PathBuf {
        self.dir.join("node.log")
    }

    /// Starts `tollgate run`; its log goes on where the last process left it.
    ///
    /// # Errors
    /// It runs already, or can't be started.
    pub fn start(&mut self) -> anyhow::Result<()> {
        anyhow::ensure!(!self.is_running(), "node {} runs already", self.id);
        let log: File = OpenOptions::new().create(true).append(true).open(self.log_path())?;
        let program = self.program.as_deref().unwrap_or_else(|| tollgate());
        let mut command = match &self.namespace {
            None => Command::new(program),
            Some(namespace) => {
                // It becomes the program, so that signals reach the node.
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace]).arg(program);
                command
            }
        };
        let child = command
            .arg("run")
            .arg("--config")
            .arg(self.config())
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .env_remove("TOLLGATE_ADMIN")
            .env_remove("TOLLGATE_TOKEN")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("can't start node {}", self.id))?;
        self.child = Some(child);
        Ok(())
    }

    /// Its process.
    ///
    /// # Errors
    /// It was not started, or its end was seen.
    pub fn pid(&self) -> anyhow::Result<u32> {
        Ok(self.child.as_ref().context("the node does not run")?.id())
    }

    /// Whether its process lives (frozen or not).
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.as_mut().map(Child::try_wait), Some(Ok(None)))
    }

    /// Waits until it says that it should get traffic.
    ///
    /// # Errors
    /// It does not, or its process has ended.
    pub async fn ready(&mut self, limit: Duration) -> anyhow::Result<()> {
        let (id, url, client) = (self.id, format!("{}/readyz", self.admin_url()), Client::new());
        let log = self.log_path();
        let mut running = || self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)));
        // An end is final: there is nothing to wait for any more.
        let alive = eventually_within(limit, format!("node {id} is ready"), || {
            let alive = running();
            let (client, url) = (client.clone(), url.clone());
            async move {
                if !alive {
                    return Ok(false);
                }
                let answer = client.get(&url, &[]).await?;
                anyhow::ensure!(answer.status == 200, "readyz says {}: {}", answer.status, answer.text());
                Ok(true)
            }
        })
        .await?;
        anyhow::ensure!(alive, "node {id} has ended: {}", tail(&read_lossy(&log), 600));
        Ok(())
    }

    /// SIGKILL: no chance to write or say anything. Returns when the process is gone.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        let mut child = self.child.take().context("the node does not run")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// SIGTERM: asks it to leave in order.
    ///
    /// # Errors
    /// It does not run.
    pub fn terminate(&self) -> anyhow::Result<()> {
        self.signal(Signal::TERM)
    }

    /// SIGHUP: its logs were moved away, its certificates renewed.
    ///
    /// # Errors
    /// It does not run.
    pub fn hang_up(&self) -> anyhow::Result<()> {
        self.signal(Signal::HUP)
    }

    /// SIGSTOP: it stands still, and its sockets stay open.
    ///
    /// # Errors
    /// It does not run.
    pub fn freeze(&self) -> anyhow::Result<()> {
        self.signal(Signal::STOP)
    }

    /// SIGCONT: it goes on as if nothing had happened.
    ///
    /// # Errors
    /// It does not run.
    pub fn thaw(&self) -> anyhow::Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.pid()?)?).context("a process id is not 0")?;
        Ok(kill_process(pid, signal)?)
    }

    /// Waits until its process has ended by itself.
    ///
    /// # Errors
    /// It lives on.
    pub async fn exited(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        let (id, child) = (self.id, self.child.as_mut().context("the node was not started")?);
        let status = eventually_within(limit, format!("node {id} ends"), || {
            let state = child.try_wait();
            async move { state?.context("it lives") }
        })
        .await?;
        self.child = None;
        Ok(status)
    }

    /// Deletes its data directory. The process must be gone.
    ///
    /// # Errors
    /// It runs, or the files resist.
    pub fn wipe(&mut self) -> anyhow::Result<()> {
        anyhow::ensure!(!self.is_running(), "node {} still runs", self.id);
        Ok(fs::remove_dir_all(self.data_dir())?)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if report::is_failing() {
            show(self.id, &self.log());
        }
        if let Some(child) = &mut self.child {
            // It may have ended already; there is nothing else to be done about it here.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[expect(clippy::print_stderr, reason = "a failed test shows what its nodes said")]
fn show(id: u64, log: &str) {
    eprintln!("---- the end of the log of node {id}\n{}", tail(log, TAIL_BYTES));
}

fn tail(text: &str, bytes: usize) -> &str {
    &text[text.ceil_char_boundary(text.len().saturating_sub(bytes))..]
}
