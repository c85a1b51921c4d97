//! `tollgate demo`: a whole cluster on this machine, as real processes, with providers to talk to.

mod layout;
mod process;
mod ready;
mod samples;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use clap::Args;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    layout::{Layout, new_secret},
    process::NodeProcess,
    ready::{Ready, ReadyConsumer, ReadyNode, ReadyProvider},
    samples::Samples,
};
use crate::cmd::client::{Connection, apply_text, grant_credit};

/// How long the nodes may take to form a cluster and serve the sample resources.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Starts over with new ports: something else took one between the look and the start.
const START_ATTEMPTS: u32 = 3;

/// Start a whole cluster on this machine, with two simulated providers and sample resources.
#[derive(Args, Debug)]
pub(crate) struct DemoArgs {
    /// How many nodes, each in a zone of its own.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=9))]
    nodes: u8,
    /// Where configurations, logs and data go; kept afterwards. A temporary folder when absent.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Write addresses and credentials as JSON to this file once every node is ready.
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
    /// Stop by itself after this long, such as 30s or 10m.
    #[arg(long, value_name = "DURATION", value_parser = crate::cmd::duration)]
    exit_after: Option<Duration>,
}

/// Runs the demo until Ctrl-C, SIGTERM or `--exit-after`.
pub(crate) async fn run(args: DemoArgs) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let until = args.exit_after.map(|after| Instant::now() + after);
    if let Some(path) = &args.ready_file {
        ready::make_way(path)?;
    }
    let home = Home::choose(args.dir.as_deref())?;
    let mut demo = tokio::select! {
        started = Demo::start(&home.dir, args.nodes) => started?,
        _ = interrupt.recv() => return Ok(()),
        _ = terminate.recv() => return Ok(()),
    };
    demo.print();
    if let Some(path) = &args.ready_file {
        demo.ready_file().write(path)?;
    }
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        () = at(until) => {}
        () = demo.watch() => {}
    }
    tokio::select! {
        () = demo.stop() => {}
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

/// The demo's folder; a temporary one goes with it.
struct Home {
    dir: PathBuf,
    temporary: bool,
}

impl Home {
    fn choose(dir: Option<&Path>) -> anyhow::Result<Home> {
        let (dir, temporary) = match dir {
            Some(dir) => (std::path::absolute(dir)?, false),
            None => (std::env::temp_dir().join(new_secret("tollgate-demo-")), true),
        };
        Ok(Home { dir, temporary })
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if self.temporary {
            // What can't be removed is left for the system's own cleaning of its temporary folder.
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

/// A running demo. Dropping it kills every node.
struct Demo {
    layout: Layout,
    nodes: Vec<NodeProcess>,
    providers: [SocketAddr; 2],
    alice_key: String,
    bob_key: String,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Demo {
    async fn start(dir: &Path, count: u8) -> anyhow::Result<Demo> {
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let providers = [provider(&tasks, &stop).await?, provider(&tasks, &stop).await?];
        let (layout, nodes) = start_nodes(dir, count).await?;
        let demo = Demo {
            layout,
            nodes,
            providers,
            alice_key: new_secret("sk-alice-"),
            bob_key: new_secret("sk-bob-"),
            stop,
            tasks,
        };
        demo.apply_samples().await.context("can't apply the sample resources")?;
        Ok(demo)
    }

    async fn apply_samples(&self) -> anyhow::Result<()> {
        let samples = Samples { providers: self.providers, alice_key: &self.alice_key, bob_key: &self.bob_key };
        let admins = self.layout.nodes.iter().map(|node| format!("http://{}", node.admin)).collect();
        let connection = Connection::new(admins, self.layout.admin_token.clone(), START_TIMEOUT);
        apply_text(&connection, &samples.yaml()).await?;
        grant_credit(&connection, samples::PREPAID, samples::CREDIT, "demo").await
    }

    /// Takes note of nodes that end. A node that dies stays dead, and the demo outlives it: never resolves.
    async fn watch(&mut self) {
        futures_util::future::join_all(self.nodes.iter_mut().map(NodeProcess::ended)).await;
        std::future::pending().await
    }

    /// Asks every node to leave and waits until all have.
    async fn stop(mut self) {
        for node in &mut self.nodes {
            node.terminate();
        }
        for node in std::mem::take(&mut self.nodes) {
            node.stopped().await;
        }
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn ready_file(&self) -> Ready {
        let path = |path: PathBuf| path.display().to_string();
        let nodes = self.nodes.iter().map(|node| ReadyNode {
            id: node.home.id,
            zone: node.home.zone.clone(),
            http: format!("http://{}", node.home.http),
            admin: format!("http://{}", node.home.admin),
            pid: node.pid,
            data_dir: path(node.home.data_dir()),
            config: path(node.home.config()),
        });
        let providers = ["mock-a", "mock-b"].iter().zip(self.providers);
        let consumers = [("alice", "acme", &self.alice_key), ("bob", "globex", &self.bob_key)];
        Ready {
            nodes: nodes.collect(),
            providers: providers
                .map(|(name, address)| ReadyProvider { name: (*name).to_owned(), url: format!("http://{address}") })
                .collect(),
            admin_token: self.layout.admin_token.clone(),
            consumers: consumers
                .map(|(name, tenant, key)| ReadyConsumer {
                    name: name.to_owned(),
                    tenant: tenant.to_owned(),
                    api_key: key.clone(),
                })
                .into(),
        }
    }

    fn print(&self) {
        let first = &self.nodes[0].home;
        let admins: Vec<_> = self.nodes.iter().map(|node| format!("http://{}", node.home.admin)).collect();
        anstream::println!("A cluster of {} is ready.\n", self.nodes.len());
        for node in &self.nodes {
            let NodeProcess { home, pid, .. } = node;
            anstream::println!(
                "  node {} in {}: http://{}  (pid {pid}, log {})",
                home.id,
                home.zone,
                home.http,
                home.log().display()
            );
        }
        anstream::println!(
            r#"
Call it, on any node:

  curl http://{}/v1/chat/completions -H 'authorization: Bearer {}' \
    -H 'content-type: application/json' \
    -d '{{"model": "mock-1", "messages": [{{"role": "user", "content": "Hello"}}]}}'

Steer it (admin API, metrics: http://{}; the console comes later):

  export TOLLGATE_ADMIN={} TOLLGATE_TOKEN={}
  tollgate cluster status

Consumers: alice of acme ({}), bob of globex ({}).
Ctrl-C stops everything."#,
            first.http,
            self.alice_key,
            first.admin,
            admins.join(","),
            self.layout.admin_token,
            self.alice_key,
            self.bob_key,
        );
    }
}

/// Starts the nodes, on other ports when one was taken meanwhile.
async fn start_nodes(dir: &Path, count: u8) -> anyhow::Result<(Layout, Vec<NodeProcess>)> {
    let mut attempt = 1;
    loop {
        let layout = Layout::create(dir, count)?;
        match ready_nodes(&layout).await {
            Ok(nodes) => return Ok((layout, nodes)),
            Err(_) if attempt < START_ATTEMPTS && port_was_taken(&layout) => {
                std::fs::remove_dir_all(dir)?;
                attempt += 1;
            }
            Err(error) => return Err(error),
        }
    }
}

async fn ready_nodes(layout: &Layout) -> anyhow::Result<Vec<NodeProcess>> {
    let deadline = Instant::now() + START_TIMEOUT;
    let mut nodes = layout.nodes.iter().map(NodeProcess::start).collect::<anyhow::Result<Vec<_>>>()?;
    for node in &mut nodes {
        node.ready(deadline).await?;
    }
    Ok(nodes)
}

/// Whether a node's log says so: it is the only thing that another try with other ports can mend.
fn port_was_taken(layout: &Layout) -> bool {
    layout
        .nodes
        .iter()
        .any(|node| std::fs::read_to_string(node.log()).is_ok_and(|log| log.contains(crate::run::ADDRESS_IN_USE)))
}

/// A simulated provider on a free port.
async fn provider(tasks: &TaskTracker, stop: &CancellationToken) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let server = tollgate_mock_llm::serve(listener, tollgate_mock_llm::Options::default(), stop.clone());
    tasks.spawn(async move {
        if let Err(error) = server.await {
            anstream::eprintln!("the simulated provider on {address} has ended: {error}");
        }
    });
    Ok(address)
}
