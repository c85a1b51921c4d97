//! The fixture: a cluster of nodes whose state machine is a map, and waiting for conditions.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{Ipv4Addr, TcpListener},
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;
use tollgate_consensus::{
    Applied, CallHandler, CallHandlers, Changes, Clock, Config, Consensus, FirstMember, Formation, Gate, Image, Listen,
    Local, OnFatal, Passage, PeerTls, Row, SnapshotPolicy, StartError, StateMachine, Timing,
};

/// More than anything here takes, even beside a compiler.
pub(crate) const LONG: Duration = Duration::from_secs(60);

pub(crate) fn soon() -> Instant {
    Instant::now() + LONG
}

pub(crate) type Rows = Arc<Mutex<BTreeMap<Vec<u8>, Vec<u8>>>>;

/// A map: a command is `key=value`, its outcome the log time, a count of what was ever applied,
/// and the age.
pub(crate) struct Map(pub(crate) Rows);

impl Map {
    fn put(&mut self, at: Applied, command: &[u8], changes: &mut Changes) -> String {
        let split = command.iter().position(|byte| *byte == b'=').expect("a command is key=value");
        let (key, value) = (command[..split].to_vec(), command[split + 1..].to_vec());
        let mut rows = self.0.lock().unwrap();
        let count: u64 = rows.get(COUNT).map_or(0, |count| String::from_utf8_lossy(count).parse().unwrap()) + 1;
        for (key, value) in [(key, value), (COUNT.to_vec(), count.to_string().into_bytes())] {
            rows.insert(key.clone(), value.clone());
            changes.put(key, value);
        }
        format!("{} {count} {}", at.time_us, at.age_us)
    }
}

/// Lets `key=value` pass; where the key begins with `+`, several of them share an entry, a line each.
struct MapGate;

impl Gate for MapGate {
    fn check(&self, _node: u64, command: &[u8]) -> Result<Passage, String> {
        match command {
            _ if !command.contains(&b'=') => Err("it has no `=`".into()),
            [b'+', ..] => Ok(Passage::Shared { records: 1 }),
            _ => Ok(Passage::Alone),
        }
    }

    fn join(&self, commands: &[Bytes]) -> Bytes {
        commands.join(&b'\n').into()
    }

    fn split(&self, outcome: &Bytes, _: usize) -> Option<Vec<Bytes>> {
        Some(outcome.split(|byte| *byte == b'\n').map(Bytes::copy_from_slice).collect())
    }
}

impl StateMachine for Map {
    fn apply(&mut self, at: Applied, command: &[u8], changes: &mut Changes) -> Bytes {
        let outcomes: Vec<String> = match command {
            [b'+', ..] => command.split(|byte| *byte == b'\n').map(|one| self.put(at, one, changes)).collect(),
            _ => vec![self.put(at, command, changes)],
        };
        Bytes::from(outcomes.join("\n"))
    }

    fn gate(&self) -> Arc<dyn Gate> {
        Arc::new(MapGate)
    }

    fn image(&self) -> Image {
        Box::new(self.0.lock().unwrap().clone().into_iter())
    }

    fn restore(&mut self, rows: &mut dyn Iterator<Item = io::Result<Row>>) -> io::Result<()> {
        *self.0.lock().unwrap() = rows.collect::<io::Result<_>>()?;
        Ok(())
    }
}

const COUNT: &[u8] = b"count";

/// A certificate authority, and the files of those it knows.
pub(crate) struct Authority {
    dir: TempDir,
    ca: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { dir: tempfile::tempdir().unwrap(), ca }
    }

    /// A certificate for `node`.
    pub(crate) fn node(&self, node: u64) -> PeerTls {
        let params = CertificateParams::new(vec![format!("node-{node}.tollgate.internal")]).unwrap();
        self.issue(&format!("node-{node}"), params)
    }

    pub(crate) fn issue(&self, name: &str, params: CertificateParams) -> PeerTls {
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.ca).unwrap();
        let write = |file: String, text: String| -> PathBuf {
            let path = self.dir.path().join(file);
            std::fs::write(&path, text).unwrap();
            path
        };
        PeerTls {
            ca: write("ca.pem".into(), self.ca.pem()),
            cert: write(format!("{name}.pem"), cert.pem()),
            key: write(format!("{name}.key"), key.serialize_pem()),
        }
    }
}

/// The wall clock of a node, and how far it is off.
#[derive(Clone, Default)]
pub(crate) struct WallClock(Arc<AtomicI64>);

impl WallClock {
    /// Off by so much from now on.
    pub(crate) fn step(&self, by: i64) {
        self.0.store(by, Ordering::SeqCst);
    }

    fn clock(&self) -> Clock {
        let (Clock(right), off) = (Clock::default(), Arc::clone(&self.0));
        Clock(Arc::new(move || right().saturating_add_signed(off.load(Ordering::SeqCst))))
    }
}

/// A node that can be started, stopped and wiped; its port stays the same.
pub(crate) struct Node {
    pub(crate) id: u64,
    pub(crate) dir: PathBuf,
    pub(crate) rows: Rows,
    pub(crate) tls: PeerTls,
    pub(crate) address: String,
    pub(crate) formation: Formation,
    pub(crate) snapshots: SnapshotPolicy,
    pub(crate) clock: WallClock,
    socket: Option<TcpListener>,
    pub(crate) running: Option<Consensus>,
}

impl Node {
    pub(crate) fn config(&mut self) -> Config {
        let socket = self.socket.take().unwrap_or_else(|| rebind(&self.address));
        Config {
            node: self.id,
            zone: format!("az-{}", self.id),
            data_dir: self.dir.clone(),
            listen: Listen::Bound(socket),
            advertise: None,
            http: format!("127.0.0.1:{}", 8_000 + self.id),
            admin: format!("127.0.0.1:{}", 9_000 + self.id),
            version: "test".into(),
            tls: self.tls.clone(),
            formation: self.formation.clone(),
            timing: Timing::default(),
            snapshots: self.snapshots,
            max_command_bytes: Config::MAX_COMMAND_BYTES,
            clock: self.clock.clock(),
            on_fatal: OnFatal(Arc::new(|reason| panic!("fatal: {reason}"))),
        }
    }

    pub(crate) async fn try_start(&mut self) -> Result<Consensus, StartError> {
        let (config, rows) = (self.config(), Arc::clone(&self.rows));
        let id = self.id;
        let hello: CallHandler = Arc::new(move |from, body: Bytes| {
            Box::pin(async move {
                match body.is_empty() {
                    true => Err("nothing was said".into()),
                    false => Ok(Bytes::from(format!("{id} hears {from}: {}", String::from_utf8_lossy(&body)))),
                }
            })
        });
        Consensus::start(config, Box::new(Map(rows)), CallHandlers::from([("hello".to_owned(), hello)])).await
    }

    pub(crate) async fn start(&mut self) {
        let consensus = tokio::time::timeout(LONG, self.try_start()).await.expect("starts in time").expect("starts");
        consensus.publish(Local { state: "ready".into(), served_index: self.id });
        self.running = Some(consensus);
    }

    pub(crate) async fn stop(&mut self) {
        if let Some(consensus) = self.running.take() {
            consensus.shutdown(soon()).await;
        }
        self.rows.lock().unwrap().clear();
    }

    pub(crate) fn wipe(&self) {
        assert!(self.running.is_none());
        std::fs::remove_dir_all(&self.dir).unwrap();
    }

    /// Nobody listens there until it starts.
    pub(crate) fn release_port(&mut self) {
        self.socket = None;
    }

    pub(crate) fn get(&self) -> &Consensus {
        self.running.as_ref().expect("the node runs")
    }

    pub(crate) fn value(&self, key: &str) -> Option<String> {
        self.rows.lock().unwrap().get(key.as_bytes()).map(|value| String::from_utf8_lossy(value).into_owned())
    }
}

/// A socket on a port that nothing else takes while its node is down: below the range that systems give to outgoing
/// connections, and given to one node of this process only.
fn bind_anywhere() -> TcpListener {
    static TAKEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let port = rand::random_range(10_000..32_000);
        if !TAKEN.lock().unwrap().insert(port) {
            continue;
        }
        if let Ok(socket) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            return socket;
        }
    }
}

fn rebind(address: &str) -> TcpListener {
    let until = soon();
    loop {
        match TcpListener::bind(address) {
            Ok(socket) => return socket,
            Err(error) if Instant::now() > until => panic!("{address}: {error}"),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

pub(crate) struct Cluster {
    pub(crate) authority: Authority,
    pub(crate) nodes: Vec<Node>,
    dirs: TempDir,
}

impl Cluster {
    /// `count` first members, none started.
    pub(crate) fn new(count: u64) -> Self {
        let sockets: Vec<_> = (1..=count).map(|id| (id, bind_anywhere())).collect();
        let first = |(id, socket): &(u64, TcpListener)| FirstMember {
            node: *id,
            peer: socket.local_addr().unwrap().to_string(),
        };
        let formation = Formation::Bootstrap(sockets.iter().map(first).collect());
        let mut cluster = Self { authority: Authority::new(), nodes: Vec::new(), dirs: tempfile::tempdir().unwrap() };
        for (id, socket) in sockets {
            cluster.push(id, socket, formation.clone());
        }
        cluster
    }

    /// A later member, not started.
    pub(crate) fn add(&mut self, id: u64) -> &mut Node {
        let formation = Formation::Join(self.nodes.iter().map(|node| node.address.clone()).collect());
        self.push(id, bind_anywhere(), formation);
        self.nodes.last_mut().unwrap()
    }

    fn push(&mut self, id: u64, socket: TcpListener, formation: Formation) {
        self.nodes.push(Node {
            id,
            dir: self.dirs.path().join(id.to_string()),
            rows: Rows::default(),
            tls: self.authority.node(id),
            address: socket.local_addr().unwrap().to_string(),
            formation,
            snapshots: SnapshotPolicy::default(),
            clock: WallClock::default(),
            socket: Some(socket),
            running: None,
        });
    }

    /// Three first members, running, with a leader.
    pub(crate) async fn start(count: u64) -> Self {
        let mut cluster = Self::new(count);
        cluster.start_all().await;
        cluster
    }

    pub(crate) async fn start_all(&mut self) {
        futures_util::future::join_all(self.nodes.iter_mut().map(Node::start)).await;
        self.leader().await;
    }

    pub(crate) async fn stop_all(&mut self) {
        futures_util::future::join_all(self.nodes.iter_mut().map(Node::stop)).await;
    }

    pub(crate) fn node(&mut self, id: u64) -> &mut Node {
        self.nodes.iter_mut().find(|node| node.id == id).expect("there is such a node")
    }

    pub(crate) fn running(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.running.is_some())
    }

    /// The node that leads, once all running ones agree.
    pub(crate) async fn leader(&self) -> u64 {
        let mut agreed = None;
        until("all agree on a leader that runs", || {
            let leaders: Vec<_> = self.running().map(|node| node.get().status().leader).collect();
            agreed = leaders[0];
            let runs = self.running().any(|node| Some(node.id) == agreed);
            runs && leaders.iter().all(|leader| *leader == agreed)
        })
        .await;
        agreed.expect("agreed")
    }

    pub(crate) async fn follower(&self) -> u64 {
        let leader = self.leader().await;
        self.running().map(|node| node.id).find(|id| *id != leader).expect("there is a follower")
    }

    pub(crate) async fn write(&self, on: u64, command: &str) -> (u64, String) {
        let node = self.nodes.iter().find(|node| node.id == on).unwrap();
        let committed = node.get().propose(None, Bytes::from(command.to_owned()), soon()).await.expect("committed");
        (committed.index, String::from_utf8(committed.outcome.to_vec()).unwrap())
    }

    /// Reads on every running node, linearizably.
    pub(crate) async fn check_everywhere(&self, key: &str, value: &str) {
        for node in self.running() {
            node.get().read_barrier(soon()).await.expect("a linearizable read");
            assert_eq!(node.value(key).as_deref(), Some(value), "on node {}", node.id);
        }
    }
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = soon();
    while !is_so() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
