//! A running node: who is started in which order, and who gets which part of whom.

mod opening;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, anyhow};
use parking_lot::RwLock;
use prometheus_client::registry::Registry;
use tokio::{net::TcpListener, sync::watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tollgate_admin::{AdminMetrics, AdminState, backplane::Backplane};
use tollgate_consensus::{
    Config, Consensus, FirstMember, Formation, Listen, Local, PeerTls, SnapshotPolicy, StartError,
};
use tollgate_gateway::{AccessLog, Accounts, Entrance, FileCertificate, Gateway, Shutdown};
use tollgate_model::{LogIndex, NodeId, secret::ClusterKey};
use tollgate_quota::journal::Remains;
use tollgate_quota::{Desk, DeskConfig, Recover, Replica};
use tracing::{error, info};

use crate::{
    alerts,
    audit::{self, Findings},
    backplane::{Fault, NodeBackplane},
    certificates,
    config::{Members, NodeConfig},
    credits, data_plane, gossip, journal,
    ledger::{self, Scribe},
    metrics::{NodeMetrics, Sources},
    run::{Port, bind},
    state::{ReplicatedState, Shared},
    uplink::LogUplink,
    views, zones,
};

/// How long one attempt at the first steps after joining may take before it is made again.
const OPENING_TIMEOUT: Duration = Duration::from_secs(5);

/// All that runs in this process. `lifecycle` takes it apart again.
pub(crate) struct Node {
    pub(crate) gateway: Gateway,
    /// What clients are served from files.
    certificate: Option<Arc<FileCertificate>>,
    pub(crate) desk: Desk,
    pub(crate) consensus: Consensus,
    /// The stages of the data plane's stop.
    pub(crate) shutdown: Shutdown,
    /// Listeners of the data plane.
    pub(crate) data_plane: TaskTracker,
    /// Everything else: the admin port, the compiler of views, the desk.
    pub(crate) background: TaskTracker,
    /// The stages of the admin port's stop; its first ends the compiler of views too.
    pub(crate) admin_shutdown: tollgate_admin::Shutdown,
    backplane: Arc<NodeBackplane>,
    state: Arc<Shared>,
    /// Writes the ledger for as long as there may be something to write.
    _scribe: Scribe,
    /// What callers bring about runs there.
    _threads: data_plane::Threads,
}

/// The sockets, bound before anything else so that a busy port ends the start at once. Callers are not let in before they are
/// served: they would wait for as long as this node takes to find its cluster, instead of asking another.
struct Sockets {
    of_clients: Vec<(Port, Entrance)>,
    admin: TcpListener,
    peer: std::net::TcpListener,
}

impl Sockets {
    fn bind(config: &NodeConfig) -> anyhow::Result<Sockets> {
        let plain = Entrance { proxy_protocol: config.proxy_protocol, tls: false };
        let mut of_clients = vec![(Port::take("http.listen", config.http_listen)?, plain)];
        if let Some(https) = &config.https {
            let entrance = Entrance { proxy_protocol: https.proxy_protocol, tls: true };
            of_clients.push((Port::take("https.listen", https.listen)?, entrance));
        }
        Ok(Sockets {
            of_clients,
            admin: listener("admin.listen", config.admin_listen)?,
            peer: bind("peer.listen", config.peer_listen)?,
        })
    }
}

fn listener(key: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    let socket = bind(key, address)?;
    socket.set_nonblocking(true)?;
    Ok(TcpListener::from_std(socket)?)
}

impl Node {
    /// Starts everything; returns once this node serves. The admin port answers long before.
    ///
    /// # Cancel safety
    /// Safe: dropping the future stops what it had started.
    pub(crate) async fn start(config: NodeConfig, key: Option<Arc<ClusterKey>>) -> anyhow::Result<Node> {
        let sockets = Sockets::bind(&config)?;
        let certificate = certificates::of_node(&config).await?;
        let admin_shutdown =
            tollgate_admin::Shutdown { drain: CancellationToken::new(), stop: CancellationToken::new() };
        let stop_on_drop = [admin_shutdown.drain.clone().drop_guard(), admin_shutdown.stop.clone().drop_guard()];
        let background = TaskTracker::new();
        let mut registry = Registry::default();
        let metrics = NodeMetrics::register(&mut registry);
        let admin_metrics = AdminMetrics::register(&mut registry);
        let registry = Arc::new(RwLock::new(registry));

        let (machine, state) = ReplicatedState::with(ledger::keeper(&config));
        let backplane = Arc::new(NodeBackplane::new(Arc::clone(&state)));
        let admin = AdminState {
            backplane: backplane.clone(),
            key: key.clone(),
            registry: Arc::clone(&registry),
            metrics: admin_metrics,
        };
        background.spawn(tollgate_admin::serve(sockets.admin, admin, admin_shutdown.clone()));

        let members = consensus_config(&config, sockets.peer);
        let serving = ledger::Serving::default();
        let hearing = gossip::Hearing::default();
        let calls =
            [(ledger::SERVICE.to_owned(), serving.handler()), (gossip::SERVICE.to_owned(), hearing.handler())].into();
        let consensus = Consensus::start(members, Box::new(machine), calls).await;
        let consensus = consensus.map_err(|error| with_key(&config, error))?;
        let (scribe, ledger_full) = Scribe::start(Arc::clone(state.books())).context("can't start a thread")?;
        serving.begin(Arc::clone(state.books()));
        backplane.join(consensus.clone());
        let mut journal = open_journal(&config).await?;
        let opened = tokio::select! {
            opened = open(&consensus, &state, &config, &mut journal, key.as_deref()) => opened?,
            removed = consensus.removed() => return Err(removed.into()),
        };

        let desk_config = DeskConfig {
            opened: opened.at,
            isolation: config.isolation,
            recovers: recovery(&state, config.id, std::mem::take(&mut journal.remains)),
            replica: Some(Arc::clone(&state) as Arc<dyn Replica>),
            ..DeskConfig::new(NodeId(config.id), opened.incarnation)
        };
        let uplink = Arc::new(LogUplink::new(consensus.clone()));
        let desk = Desk::spawn(desk_config, uplink, Arc::new(journal.run()?), &background);
        state.show_to(desk.clone());
        let view = views::compile(&state.config().borrow(), None, key.as_deref());
        let prices = state.prices();
        backplane.set_fault(Fault::ClusterKey, views::key_fault(&view, key.as_deref()));
        let served = watch::Sender::new(view.index);
        let threads = data_plane::Threads::start()?;
        let gateway = {
            let accounts = Arc::clone(&state) as Arc<dyn Accounts>;
            Gateway::new(
                data_plane::gateway_config(&config, &certificate, &threads)?,
                view,
                prices,
                desk.clone(),
                accounts,
                &mut registry.write(),
            )
        };
        zones::apply(&state.drained_zones(), &config.zone, &gateway, &backplane);
        hearing.begin(gateway.clone());
        let tell = gossip::tell(gateway.clone(), consensus.clone());
        background.spawn(stoppable(admin_shutdown.drain.clone(), tell));
        let findings = Arc::new(Findings::default());
        let tries = Arc::new(alerts::Tries::default());
        metrics.watch(Sources {
            consensus: consensus.clone(),
            desk: desk.clone(),
            state: Arc::clone(&state),
            findings: Arc::clone(&findings),
            tries: Arc::clone(&tries),
        });
        let fetch = ledger::fetch(Arc::clone(state.books()), consensus.clone(), findings.ledger_missing());
        background.spawn(stoppable(admin_shutdown.drain.clone(), fetch));
        if let Some(after) = config.archive_after {
            let archive = ledger::archive(Arc::clone(&state), after);
            background.spawn(stoppable(admin_shutdown.drain.clone(), archive));
        }
        let has_space = has_space(ledger_full, backplane.clone());
        background.spawn(stoppable(admin_shutdown.drain.clone(), has_space));
        let audit = audit::run(Arc::clone(&state), desk.clone(), findings);
        background.spawn(stoppable(admin_shutdown.drain.clone(), audit));
        let ends = credits::pass_ends(Arc::clone(&state), consensus.clone());
        background.spawn(stoppable(admin_shutdown.drain.clone(), ends));
        let alerts = alerts::deliver(Arc::clone(&state), consensus.clone(), key.clone(), background.clone(), tries);
        background.spawn(stoppable(admin_shutdown.drain.clone(), alerts));

        let presence = presence(consensus.clone(), backplane.clone(), served.subscribe());
        let prices = Arc::clone(&state);
        let prices = move || prices.prices();
        let views = views::follow(state.config(), prices, gateway.clone(), key, served, backplane.clone());
        background.spawn(stoppable(admin_shutdown.drain.clone(), presence));
        background.spawn(stoppable(admin_shutdown.drain.clone(), views));
        let drained = zones::follow(state.follow_zones(), config.zone.clone(), gateway.clone(), backplane.clone());
        background.spawn(stoppable(admin_shutdown.drain.clone(), drained));
        let hand_over = zones::hand_over(state.follow_zones(), config.zone.clone(), consensus.clone());
        background.spawn(stoppable(admin_shutdown.drain.clone(), hand_over));
        let of_peers = of_peers(consensus.clone(), backplane.clone());
        background.spawn(stoppable(admin_shutdown.drain.clone(), of_peers));
        background.spawn(stoppable(admin_shutdown.drain.clone(), certificates::watch(gateway.clone())));
        let shutdown = Shutdown::default();
        let data_plane = TaskTracker::new();
        {
            let _on_threads = threads.handle().enter(); // the listeners' events, too
            for (port, entrance) in sockets.of_clients {
                data_plane.spawn(gateway.serve_from(port.listen()?, entrance, shutdown.clone()));
            }
        }
        backplane.set_started();
        for guard in stop_on_drop {
            guard.disarm();
        }
        Ok(Node {
            gateway,
            certificate,
            desk,
            consensus,
            shutdown,
            data_plane,
            background,
            admin_shutdown,
            backplane,
            state,
            _scribe: scribe,
            _threads: threads,
        })
    }

    /// `/readyz` says no and why from now on, and the cluster's status says that this node drains.
    pub(crate) fn set_draining(&self, why: &str) {
        self.backplane.set_draining(why);
    }

    /// Reads the files again that clients are served from, and opens the access log anew.
    pub(crate) fn reloads(&self) -> impl Fn() + Send + use<> {
        let (certificate, background) = (self.certificate.clone(), self.background.clone());
        let access_log = self.gateway.access_log().cloned();
        move || {
            access_log.iter().for_each(AccessLog::reopen);
            if let Some(certificate) = &certificate {
                certificates::reload(Arc::clone(certificate), &background);
            }
        }
    }

    /// Lets another node lead, if this one does and another can.
    pub(crate) async fn hand_over(&self) {
        zones::lead_elsewhere(&self.state.drained_zones(), &self.consensus, "it leaves").await;
    }

    /// Resolves when this node must not go on, with the reason.
    pub(crate) async fn must_end(&self) -> anyhow::Error {
        self.desk.fenced().await;
        anyhow!("a newer process runs under this node's id")
    }
}

/// The error, with the key that it is about where there is one.
fn with_key(config: &NodeConfig, error: StartError) -> anyhow::Error {
    let path = match &error {
        StartError::Storage { path, .. } | StartError::Tls { path, .. } | StartError::Locked(path) => Some(path),
        StartError::WrongNode { dir, .. }
        | StartError::WrongCluster { dir, .. }
        | StartError::Incomplete { dir, .. } => Some(dir),
        _ => None,
    };
    let context = path.and_then(|path| config.key_of(path)).unwrap_or("consensus");
    anyhow::Error::from(error).context(context)
}

async fn open_journal(config: &NodeConfig) -> anyhow::Result<journal::Opening> {
    let data_dir = config.data_dir.clone();
    tokio::task::spawn_blocking(move || journal::open(&data_dir)).await?
}

/// What has to be said of earlier processes of this node. A journal that knows less than the log does is of an older disk, and
/// says nothing: what those processes had in hand counts as used until its windows turn.
fn recovery(state: &Shared, node: u64, remains: Vec<Remains>) -> Vec<Recover> {
    let earlier = state.ledger(|ledger| ledger.earlier(node));
    let mut recovers = Vec::new();
    for remains in remains {
        let Some(known) = earlier.iter().find(|it| it.incarnation == remains.incarnation()) else { continue };
        let in_flight = remains.orphans();
        let held = state.ledger(|ledger| ledger.orphans_of(node, known.incarnation));
        match remains.with_held(held).recover(known.last_terminal) {
            Ok(said) => {
                info!(incarnation = known.incarnation, in_flight, "recovering an earlier process");
                recovers.extend(said);
            }
            Err(error) => error!(%error, "the journal is not believed: what is not known counts as used"),
        }
    }
    recovers
}

/// What this node says first to its cluster; gives its incarnation in the ledger.
async fn open(
    consensus: &Consensus,
    state: &Shared,
    config: &NodeConfig,
    journal: &mut journal::Opening,
    key: Option<&ClusterKey>,
) -> anyhow::Result<opening::Opened> {
    let opened = opening::open(consensus, state, config, journal, OPENING_TIMEOUT).await?;
    if let (Some(file), Some(key)) = (&config.initial_token_file, key) {
        opening::initial_token(consensus, state, file, key).await?;
    }
    Ok(opened)
}

fn consensus_config(config: &NodeConfig, peer: std::net::TcpListener) -> Config {
    let formation = match &config.members {
        Members::Bootstrap(members) => Formation::Bootstrap(
            members.iter().map(|(node, peer)| FirstMember { node: *node, peer: peer.clone() }).collect(),
        ),
        Members::Join(peers) => Formation::Join(peers.clone()),
    };
    Config {
        node: config.id,
        zone: config.zone.clone(),
        data_dir: config.data_dir.clone(),
        listen: Listen::Bound(peer),
        advertise: Some(config.peer_advertise.clone()),
        http: config.http_listen.to_string(),
        admin: config.admin_listen.to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        tls: PeerTls {
            ca: config.peer_tls.ca.clone(),
            cert: config.peer_tls.cert.clone(),
            key: config.peer_tls.key.clone(),
        },
        formation,
        timing: Default::default(),
        snapshots: SnapshotPolicy {
            log_bytes: config.snapshot_log_bytes,
            keep_entries: config.snapshot_keep_entries,
            ..SnapshotPolicy::default()
        },
        max_command_bytes: Config::MAX_COMMAND_BYTES,
        clock: Default::default(),
        on_fatal: Default::default(),
    }
}

/// Tells the other nodes what this one serves and how it is, whenever that changes.
async fn presence(consensus: Consensus, backplane: Arc<NodeBackplane>, mut served: watch::Receiver<LogIndex>) {
    let mut readiness = backplane.readiness();
    loop {
        readiness.mark_unchanged();
        let served_index = served.borrow_and_update().0;
        consensus.publish(Local { state: backplane.state().to_owned(), served_index });
        let changed = tokio::select! {
            changed = readiness.changed() => changed,
            changed = served.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}

/// A node that no other node talks to should get no traffic.
async fn of_peers(consensus: Consensus, backplane: Arc<NodeBackplane>) {
    let mut refused = consensus.certificate();
    loop {
        let why = refused.borrow_and_update().clone();
        backplane.set_fault(Fault::Certificate, why);
        if refused.changed().await.is_err() {
            return;
        }
    }
}

/// A node that can't write what it owes an account of should get no traffic.
async fn has_space(mut full: watch::Receiver<bool>, backplane: Arc<NodeBackplane>) {
    loop {
        let why = full.borrow_and_update().then(|| "no space for the ledger: free some under node.data_dir".to_owned());
        backplane.set_fault(Fault::LedgerFull, why);
        if full.changed().await.is_err() {
            return;
        }
    }
}

async fn stoppable(stop: CancellationToken, task: impl Future<Output = ()>) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = task => {}
    }
}
