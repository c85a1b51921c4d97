//! What a commit costs on this machine: three nodes, each a process with its own disk directory, mutual TLS on loopback,
//! every write synced on a quorum. The disk's own `fdatasync` stands next to it.
//!
//! `cargo run --release -p tollgate-consensus --example commits -- [--seconds 5] [--kills 0] [--dir DIR]`
//!
//! With `--kills`, the leader is killed as many times, and the time until the next write succeeds is measured. The
//! program runs itself for every node; a node does what it reads from its standard input, a line each.

use std::{
    env,
    error::Error,
    fmt::Display,
    fs,
    io::{self, BufRead, BufReader, Write},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use bytes::Bytes;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::{runtime::Runtime, task::JoinSet};
use tollgate_consensus::{
    Applied, CallHandlers, Changes, Clock, Config, Consensus, FirstMember, Formation, Image, Listen, OnFatal, PeerTls,
    Role, Row, SnapshotPolicy, StateMachine, Timing, node_dns_name,
};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const NODES: u64 = 3;
const COMMAND_BYTES: usize = 1024;
const CONCURRENT: [usize; 3] = [1, 16, 256];
/// Nothing here takes so long.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> Result<()> {
    match option("--node", 0)? {
        0 => measure(),
        node => Runtime::new()?.block_on(serve(node)),
    }
}

fn text(name: &str) -> Option<String> {
    env::args().skip_while(|arg| arg != name).nth(1)
}

fn option(name: &str, default: u64) -> Result<u64> {
    text(name).map_or(Ok(default), |value| value.parse().map_err(|_| format!("{name} takes a number").into()))
}

#[expect(clippy::print_stdout, reason = "figures are what this program is for")]
fn print(line: impl Display) {
    println!("{line}");
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

/// The value below which `percent` of the sorted ones are.
fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}

// The one that measures.

fn measure() -> Result<()> {
    let (seconds, kills) = (option("--seconds", 5)?, option("--kills", 0)?);
    let dir = match text("--dir") {
        Some(dir) => tempfile::tempdir_in(dir)?,
        None => tempfile::tempdir()?,
    };
    let probe = tollgate_storage::probe_fdatasync(dir.path(), 500, COMMAND_BYTES)?;
    print(format_args!("fdatasync of 1 KiB    p50 {:.2} ms, p99 {:.2} ms", ms(probe.p50), ms(probe.p99)));
    let mut cluster = Cluster::start(dir.path())?;
    print(format_args!("{:>20}  {:>10}  {:>8}  {:>8}", "concurrent proposals", "commits/s", "p50 ms", "p99 ms"));
    for concurrent in CONCURRENT {
        let leader = cluster.leader()?;
        let answer = cluster.node(leader).ask(&format!("propose {concurrent} {seconds}"))?;
        let figures: Vec<f64> = answer.split(' ').map(str::parse).collect::<std::result::Result<_, _>>()?;
        let [rate, p50, p99] = figures[..] else { return Err(format!("not three figures: {answer}").into()) };
        print(format_args!("{concurrent:>20}  {rate:>10.0}  {p50:>8.2}  {p99:>8.2}"));
    }
    if kills > 0 {
        let mut took = (0..kills).map(|_| cluster.fail_over()).collect::<Result<Vec<_>>>()?;
        took.sort_unstable();
        let (min, median, max) = (percentile(&took, 0), percentile(&took, 50), percentile(&took, 100));
        let figures = format!("min {:.0} ms, median {:.0} ms, max {:.0} ms", ms(min), ms(median), ms(max));
        print(format_args!("leader killed {kills} times, to the next write: {figures}"));
    }
    Ok(())
}

/// A socket below the range that systems give to outgoing connections: a node that is killed finds its port free again.
fn bind_anywhere() -> io::Result<TcpListener> {
    let mut tries = 100;
    loop {
        tries -= 1;
        match TcpListener::bind(("127.0.0.1", rand::random_range(10_000..32_000))) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries > 0 => {}
            bound => return bound,
        }
    }
}

struct Cluster {
    dir: PathBuf,
    peers: String,
    nodes: Vec<Node>,
}

impl Cluster {
    fn start(dir: &Path) -> Result<Self> {
        issue_certificates(dir)?;
        let sockets = (0..NODES).map(|_| bind_anywhere()).collect::<io::Result<Vec<_>>>()?;
        let addresses = sockets.iter().map(TcpListener::local_addr).collect::<io::Result<Vec<_>>>()?;
        let peers: Vec<String> = (1..).zip(addresses).map(|(node, address)| format!("{node}@{address}")).collect();
        let mut cluster = Self { dir: dir.to_owned(), peers: peers.join(","), nodes: Vec::new() };
        drop(sockets);
        for node in 1..=NODES {
            let node = Node::start(node, &cluster.dir, &cluster.peers)?;
            cluster.nodes.push(node);
        }
        Ok(cluster)
    }

    fn node(&mut self, node: u64) -> &mut Node {
        self.nodes.iter_mut().find(|one| one.id == node).expect("all of them are there")
    }

    /// The leader, once all nodes agree on it and take part.
    fn leader(&mut self) -> Result<u64> {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            let leaders = self.nodes.iter_mut().map(|node| node.ask("leader")).collect::<Result<Vec<_>>>()?;
            if leaders[0] != "0" && leaders.iter().all(|leader| *leader == leaders[0]) {
                return Ok(leaders[0].parse()?);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err("the nodes don't agree on a leader".into())
    }

    /// Kills the leader; gives the time until a write through another node succeeds, and brings the killed one back.
    fn fail_over(&mut self) -> Result<Duration> {
        let leader = self.leader()?;
        self.node(leader).ask("write")?;
        let begun = Instant::now();
        self.node(leader).process.kill()?;
        self.node(leader % NODES + 1).ask("write")?;
        let took = begun.elapsed();
        self.node(leader).process.wait()?;
        *self.node(leader) = Node::start(leader, &self.dir.clone(), &self.peers.clone())?;
        // It has caught up once it can read what was written meanwhile.
        self.node(leader).ask("read")?;
        Ok(took)
    }
}

/// A node's process. It ends with its standard input.
struct Node {
    id: u64,
    process: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Node {
    fn start(id: u64, dir: &Path, peers: &str) -> Result<Self> {
        let mut command = Command::new(env::current_exe()?);
        command.args(["--node", &id.to_string(), "--peers", peers, "--dir"]).arg(dir);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let questions = process.stdin.take().ok_or("no standard input")?;
        let answers = BufReader::new(process.stdout.take().ok_or("no standard output")?);
        Ok(Self { id, process, questions, answers })
    }

    fn ask(&mut self, question: &str) -> Result<String> {
        writeln!(self.questions, "{question}")?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        match answer.strip_suffix('\n') {
            Some(answer) if !answer.starts_with("error") => Ok(answer.to_owned()),
            _ => Err(format!("node {}: {question}: {answer}", self.id).into()),
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may be dead already, and nothing is lost with it.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

fn issue_certificates(dir: &Path) -> Result<()> {
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    fs::write(dir.join("ca.pem"), ca.pem())?;
    for node in 1..=NODES {
        let key = KeyPair::generate()?;
        let cert = CertificateParams::new(vec![node_dns_name(node)])?.signed_by(&key, &ca)?;
        fs::write(dir.join(format!("{node}.pem")), cert.pem())?;
        fs::write(dir.join(format!("{node}.key")), key.serialize_pem())?;
    }
    Ok(())
}

// A node.

/// Nothing but a count: what is measured is consensus.
#[derive(Default)]
struct Count(u64);

const ROW: &[u8] = b"count";

impl StateMachine for Count {
    fn apply(&mut self, _: Applied, _: &[u8], changes: &mut Changes) -> Bytes {
        self.0 += 1;
        changes.put(ROW.to_vec(), self.0.to_le_bytes().to_vec());
        Bytes::new()
    }

    fn image(&self) -> Image {
        Box::new(std::iter::once((ROW.to_vec(), self.0.to_le_bytes().to_vec())))
    }

    fn restore(&mut self, rows: &mut dyn Iterator<Item = io::Result<Row>>) -> io::Result<()> {
        self.0 = 0;
        for row in rows {
            self.0 = u64::from_le_bytes(row?.1.try_into().map_err(|_| io::ErrorKind::InvalidData)?);
        }
        Ok(())
    }
}

async fn serve(node: u64) -> Result<()> {
    let consensus = Consensus::start(config(node)?, Box::<Count>::default(), CallHandlers::new()).await?;
    for line in io::stdin().lines() {
        match answer(&consensus, &line?).await {
            Ok(answer) => print(answer),
            Err(error) => print(format_args!("error: {error}")),
        }
    }
    Ok(())
}

fn config(node: u64) -> Result<Config> {
    let dir = PathBuf::from(text("--dir").ok_or("--dir is missing")?);
    let peers = text("--peers").ok_or("--peers is missing")?;
    let first = peers.split(',').map(str::parse).collect::<std::result::Result<Vec<FirstMember>, _>>()?;
    let own = first.iter().find(|first| first.node == node).ok_or("this node is none of the peers")?;
    Ok(Config {
        node,
        zone: String::new(),
        data_dir: dir.join(format!("node-{node}")),
        listen: Listen::Address(own.peer.parse()?),
        advertise: None,
        http: String::new(),
        admin: String::new(),
        version: String::new(),
        tls: PeerTls {
            ca: dir.join("ca.pem"),
            cert: dir.join(format!("{node}.pem")),
            key: dir.join(format!("{node}.key")),
        },
        formation: Formation::Bootstrap(first),
        timing: Timing::default(),
        snapshots: SnapshotPolicy::default(),
        max_command_bytes: Config::MAX_COMMAND_BYTES,
        clock: Clock::default(),
        on_fatal: OnFatal::default(),
    })
}

async fn answer(consensus: &Consensus, line: &str) -> Result<String> {
    let words: Vec<&str> = line.split(' ').collect();
    match words[..] {
        ["leader"] => {
            let status = consensus.status();
            let takes_part = status.role != Role::Learner;
            Ok(status.leader.filter(|_| takes_part).unwrap_or(0).to_string())
        }
        ["write"] => {
            // With an id it is retried until it has surely happened.
            consensus.propose(Some(rand::random()), command(), Instant::now() + PATIENCE).await?;
            Ok("written".into())
        }
        ["read"] => Ok(consensus.read_barrier(Instant::now() + PATIENCE).await?.to_string()),
        ["propose", concurrent, seconds] => {
            propose(consensus, concurrent.parse()?, Duration::from_secs(seconds.parse()?)).await
        }
        _ => Err("not a question".into()),
    }
}

fn command() -> Bytes {
    Bytes::from(vec![0x5a; COMMAND_BYTES])
}

/// Commits per second, and the median and the 99th percentile of their latency in ms.
async fn propose(consensus: &Consensus, concurrent: usize, during: Duration) -> Result<String> {
    let begun = Instant::now();
    let mut proposers = JoinSet::new();
    for _ in 0..concurrent {
        let consensus = consensus.clone();
        proposers.spawn(async move {
            let mut took = Vec::new();
            while begun.elapsed() < during {
                let proposed = Instant::now();
                consensus.propose(None, command(), proposed + PATIENCE).await?;
                took.push(proposed.elapsed());
            }
            Result::Ok(took)
        });
    }
    let mut took = Vec::new();
    while let Some(proposer) = proposers.join_next().await {
        took.extend(proposer??);
    }
    let elapsed = begun.elapsed().as_secs_f64();
    took.sort_unstable();
    let commits = u32::try_from(took.len())?;
    let rate = f64::from(commits) / elapsed;
    Ok(format!("{rate} {} {}", ms(percentile(&took, 50)), ms(percentile(&took, 99))))
}
