//! The node processes of a demo: the same binary, started with `run`.

use std::{fs::File, process::Stdio, time::Duration};

use anyhow::Context;
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

use super::layout::NodeHome;

/// How often a node that is starting is asked whether it is ready.
const READY_POLL: Duration = Duration::from_millis(20);
/// One answer to that question.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// What a node may take to leave, beyond its own drain, before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(45);

/// A running node. Dropping it kills the process.
pub(super) struct NodeProcess {
    pub(super) home: NodeHome,
    child: Child,
    pub(super) pid: u32,
}

impl NodeProcess {
    /// Starts `tollgate run` on the node's configuration, its log in a file beside it.
    pub(super) fn start(home: &NodeHome) -> anyhow::Result<NodeProcess> {
        let program = std::env::current_exe().context("can't find the running program")?;
        let log = File::create(home.log()).with_context(|| format!("can't create {}", home.log().display()))?;
        let child = Command::new(program)
            .arg("run")
            .arg("--config")
            .arg(home.config())
            .arg("--exit-with-parent")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            // Ctrl-C reaches the whole group of a terminal: the demo alone decides when its nodes leave.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("can't start node {}", home.id))?;
        let pid = child.id().context("the node ended at once")?;
        Ok(NodeProcess { home: home.clone(), child, pid })
    }

    /// Waits until the node says that it should get traffic.
    pub(super) async fn ready(&mut self, deadline: Instant) -> anyhow::Result<()> {
        let id = self.home.id;
        loop {
            if let Some(status) = self.child.try_wait()? {
                anyhow::bail!("node {id} ended with {status}: see {}", self.home.log().display());
            }
            if matches!(timeout(PROBE_TIMEOUT, crate::probe::is_ready(self.home.admin)).await, Ok(true)) {
                return Ok(());
            }
            anyhow::ensure!(Instant::now() < deadline, "node {id} is not ready yet: see {}", self.home.log().display());
            sleep(READY_POLL).await;
        }
    }

    /// Waits until the process has ended, and takes note of it, so that its id does not linger; says so.
    pub(super) async fn ended(&mut self) {
        let id = self.home.id;
        match self.child.wait().await {
            Ok(status) => {
                anstream::eprintln!("node {id} has ended ({status}); its log is {}", self.home.log().display())
            }
            Err(error) => anstream::eprintln!("node {id} can't be watched: {error}"),
        }
    }

    /// Asks the node to leave.
    pub(super) fn terminate(&mut self) {
        if matches!(self.child.try_wait(), Ok(None))
            && let Some(pid) = rustix::process::Pid::from_raw(self.pid.try_into().unwrap_or(0))
        {
            // It may have ended since: then there is nobody to tell.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
    }

    /// Waits until the node has left, and kills it when it takes too long.
    pub(super) async fn stopped(mut self) {
        if timeout(STOP_TIMEOUT, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }
}
