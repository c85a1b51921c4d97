//! A process that may open few files, and callers who take them all.

use std::{fs, io, net::SocketAddr, os::unix::fs::PermissionsExt, time::Duration};

use anyhow::Context;
use tokio::{
    net::TcpStream,
    time::{self, Instant},
};
use tollgate_chaos_tests::{Cluster, Figures, Plan, Seed, client::LIMIT, eventually, tollgate};

use super::{
    say,
    stage::{Stage, ample},
};

/// What the node may open, and how many connections want to be.
const FILES: u32 = 256;
const CONNECTIONS: usize = 1_000;
/// They are held for so long: less than the node waits for a first request.
const HELD: Duration = Duration::from_secs(5);
/// Of a core, beside what the node needed before.
const SPIN: f64 = 0.5;
/// From the end of the connections until callers are served there again.
const HEALED: Duration = Duration::from_secs(5);

/// Row 18: one node may open few files, and more connections come to it than that. Its log and its journal go on, it does not spin, its
/// admin port answers. T is the time from the end of the connections until a call on a new one is served.
pub(super) async fn exhausted(seed: Seed) -> anyhow::Result<Figures> {
    let mut cluster = Cluster::prepare(&Plan::default())?;
    let script = cluster.dir().join("few-files");
    fs::write(&script, format!("#!/bin/sh\nulimit -n {FILES}\nexec {} \"$@\"\n", tollgate().display()))?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    cluster.node(1).program = Some(script);
    for node in &mut cluster.nodes {
        node.start()?;
    }
    let mut stage = Stage::on(cluster, seed).await?;
    let (pid, http) = (stage.cluster.node(1).pid()?, stage.cluster.node(1).http);
    let (origin, readyz) = (stage.cluster.node(1).http_url(), format!("{}/readyz", stage.cluster.node(1).admin_url()));
    let before = cpu_during(pid, HELD).await?;
    let connections = connect(http).await;
    let busy = cpu_during(pid, HELD).await?;
    let (open, told, closed) = count(&connections);
    say(&format!(
        "  {open} connections held, {told} told to go, {closed} closed; CPU {busy:.2} cores, {before:.2} before"
    ));
    anyhow::ensure!(open > 0 && open + told + closed == CONNECTIONS, "of {CONNECTIONS} connections");
    anyhow::ensure!(open < FILES as usize, "more are held than it may open");
    anyhow::ensure!(busy < before + SPIN, "it spins");
    let ready = stage.cluster.client.get(&readyz, &[]).await?;
    anyhow::ensure!(ready.status == 200, "its admin port: {}: {}", ready.status, ready.text());
    stage.goes_on_after(Instant::now()).await?;

    drop(connections);
    let ended = Instant::now();
    eventually("a call on a new connection is served", || async {
        let client = tollgate_chaos_tests::client::Client::new();
        let answer = client.send(ample().request(&origin), LIMIT).await?;
        anyhow::ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
        Ok(())
    })
    .await?;
    let healed = ended.elapsed();
    anyhow::ensure!(healed < HEALED, "it took {healed:?}");
    anyhow::ensure!(stage.cluster.node(1).is_running(), "it has ended");
    let log = stage.cluster.node(1).log();
    let errors: Vec<&str> = log.lines().filter(|line| line.contains(r#""level":"ERROR""#)).collect();
    anyhow::ensure!(errors.is_empty(), "{errors:#?}");
    let figures = stage.judge(Some(healed)).await?;
    figures.served_at_least(100.0)?;
    Ok(figures)
}

/// Those that the kernel took.
async fn connect(http: SocketAddr) -> Vec<Option<TcpStream>> {
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        let connected = time::timeout(Duration::from_secs(2), TcpStream::connect(http)).await;
        connections.push(connected.ok().and_then(Result::ok));
    }
    connections
}

/// Open still; told in words that there is no place; closed.
fn count(connections: &[Option<TcpStream>]) -> (usize, usize, usize) {
    let (mut open, mut told, mut closed) = (0, 0, 0);
    for connection in connections {
        let mut first = [0; 1];
        match connection.as_ref().map(|it| it.try_read(&mut first)) {
            Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => open += 1,
            Some(Ok(read)) if read > 0 => told += 1,
            _ => closed += 1,
        }
    }
    (open, told, closed)
}

/// Cores that a process has used in so long.
async fn cpu_during(pid: u32, time: Duration) -> anyhow::Result<f64> {
    let before = ticks(pid)?;
    time::sleep(time).await;
    // A hundred a second, by the kernel's interface.
    Ok(f64::from(ticks(pid)? - before) / 100.0 / time.as_secs_f64())
}

fn ticks(pid: u32) -> anyhow::Result<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(") ").context("it has a name")?;
    let fields: Vec<&str> = fields.split(' ').collect();
    let field = |at: usize| fields.get(at).context("it is too short")?.parse::<u32>().context("not a number");
    Ok(field(11)? + field(12)?)
}
