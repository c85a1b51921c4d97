//! Starting: whose directory, which certificate, what is on the disk, which cluster; then openraft.

use std::{
    collections::BTreeMap,
    fs, io,
    net::SocketAddr,
    path::Path,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use openraft::errors::{InitializeError, RaftError};
use parking_lot::Mutex;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    time::{Instant, sleep},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Core, Raft, Shared,
    ask::identify,
    disk::Disk,
    form::Former,
    keeper,
    memory::Fit,
    papers,
    propose::{self, QUEUE},
    reach, standing, status,
};
use crate::{
    CallHandlers, Config, Formation, Listen, MAX_NODE_ID, Removed, StartError, StateMachine, Status, Timing,
    identity::{DataDir, Membership},
    raft_id,
    state::{Machine, Replicated},
    transport::{Network, Peer, PeerService, Peers, serve, tls::PeerAuth},
    types::{Departure, NodeInfo},
};

/// A follower that is further behind is sent a snapshot, if there is a newer one.
const LAG_ENTRIES: u64 = 4_096;

/// Entries in one message to a follower; the log bounds it by bytes as well.
const MAX_PAYLOAD_ENTRIES: u64 = 1_024;

/// A node that needs a leader to be whole waits for so long: a cluster that starts as a whole elects one within seconds.
const LEADER_PATIENCE: Duration = Duration::from_secs(30);
const LEADER_PAUSE: Duration = Duration::from_millis(500);

/// The first members are asked for their addresses.
const ASK_TIMEOUT: Duration = Duration::from_millis(500);

pub(crate) async fn start(
    config: Config,
    machine: Box<dyn StateMachine>,
    calls: CallHandlers,
) -> Result<Arc<Core>, StartError> {
    check(&config)?;
    let gate = machine.gate();
    let mut data = DataDir::open(&config.data_dir, config.node)?;
    let auth = Arc::new(PeerAuth::load(config.tls.clone(), config.node)?);
    let (listener, address) = listen(config.listen).await?;
    if data.has_lost_its_log() {
        begin_anew(&mut data, "it is not whole")?;
    }
    let mut disk = Disk::open(&data, Replicated::new(machine), &config.on_fatal).await?;

    let info = NodeInfo {
        zone: config.zone,
        peer: config.advertise.unwrap_or_else(|| address.to_string()),
        http: config.http,
        admin: config.admin,
    };
    let shared = Shared::new(info, config.version, calls, data.identity().clone());
    let peers = Peers::new(Arc::clone(&auth));
    let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
    // Until the node is complete, whoever gives up on it stops what runs.
    let stop_unless_started = stop.clone().drop_guard();
    serve(
        listener,
        auth,
        Arc::clone(peers.refusals()),
        PeerService { shared: Arc::clone(&shared) },
        &tracker,
        stop.clone(),
    );

    let former = Former { shared: &shared, peers: &peers, formation: &config.formation };
    if let Some(why) = must_begin_anew(&former, &data, &disk).await? {
        let state = disk.close()?;
        begin_anew(&mut data, why)?;
        shared.set_identity(data.identity().clone());
        disk = Disk::open(&data, state, &config.on_fatal).await?;
    }
    if data.identity().member.is_none() {
        former.form(&mut data).await?;
    }
    let member = data.identity().member.clone().expect("formed, or found on the disk");
    let raft_id = raft_id(config.node, member.incarnation);

    let memory = disk.memory();
    let Disk { log, snapshots, state, store } = disk;
    let machine = Machine::new(state, Arc::clone(&store), Arc::clone(&snapshots), config.on_fatal.clone());
    let progress = machine.progress();
    let network = Network { peers: Arc::clone(&peers), cluster: member.cluster, raft_id, guard: Arc::default() };
    let settings = Arc::new(settings(config.timing, config.snapshots.keep_entries, &member)?);
    let raft = Raft::new(raft_id, settings, network, log, machine);
    let raft = raft.await.map_err(|fatal| StartError::Raft(fatal.to_string()))?;
    initialise(&raft, raft_id, &member, &config.formation, &shared, &peers).await?;

    let (proposals, queue) = mpsc::channel(QUEUE);
    let core = Arc::new(Core {
        shared: Arc::clone(&shared),
        raft,
        raft_id,
        cluster: member.cluster,
        peers,
        progress,
        snapshots,
        memory,
        store,
        gate,
        shares: Default::default(),
        commits: Default::default(),
        proposals,
        status: watch::Sender::new(Status::default()),
        max_command_bytes: config.max_command_bytes,
        certificate: watch::Sender::new(None),
        clock: config.clock,
        known_time: Mutex::default(),
        clock_offset: watch::Sender::new(None),
        on_fatal: config.on_fatal,
        receiving: tokio::sync::Mutex::default(),
        changing: tokio::sync::Mutex::default(),
        tracker,
        stop,
        stopping: AtomicBool::new(false),
        removed: CancellationToken::new(),
        dir: data.path().to_owned(),
        data_dir: Mutex::new(Some(data)),
    });
    core.show_status();
    core.tracker.spawn(propose::gather(Arc::clone(&core), queue));
    core.tracker.spawn(status::show(Arc::clone(&core)));
    core.tracker.spawn(reach::watch(Arc::clone(&core)));
    core.tracker.spawn(standing::watch(Arc::clone(&core)));
    core.tracker.spawn(papers::watch(Arc::clone(&core)));
    core.tracker.spawn(keeper::keep(Arc::clone(&core), config.snapshots));
    shared.set_core(Some(Arc::clone(&core)));
    stop_unless_started.disarm();
    tracing::info!(node = config.node, incarnation = member.incarnation, cluster = %hex::encode(member.cluster), "member of the cluster");
    Ok(core)
}

fn check(config: &Config) -> Result<(), StartError> {
    if !(1..=MAX_NODE_ID).contains(&config.node) {
        return Err(StartError::Config(format!("node id {} is not between 1 and {MAX_NODE_ID}", config.node)));
    }
    match &config.formation {
        Formation::Bootstrap(first) if !first.iter().any(|first| first.node == config.node) => {
            Err(StartError::Config(format!("node {} is not among the first members in `bootstrap`", config.node)))
        }
        Formation::Join(addresses) if addresses.is_empty() => {
            Err(StartError::Config("neither `bootstrap` nor `join` names a member".into()))
        }
        _ => Ok(()),
    }
}

pub(super) fn at<T>(path: &Path, result: io::Result<T>) -> Result<T, StartError> {
    result.map_err(|error| StartError::Storage { path: path.to_owned(), error })
}

async fn listen(listen: Listen) -> Result<(TcpListener, SocketAddr), StartError> {
    let (name, listener) = match listen {
        Listen::Address(address) => (address.to_string(), TcpListener::bind(address).await),
        Listen::Bound(socket) => {
            let listener = socket.set_nonblocking(true).and_then(|()| TcpListener::from_std(socket));
            ("a bound socket".into(), listener)
        }
    };
    let bound = listener.and_then(|listener| listener.local_addr().map(|address| (listener, address)));
    bound.map_err(|error| StartError::Listen { address: name, error })
}

/// Why a node that was a member can't go on with what is on its disk, if so. What only this disk has is given up for no
/// less than a leader that has it too.
async fn must_begin_anew(former: &Former<'_>, data: &DataDir, disk: &Disk) -> Result<Option<&'static str>, StartError> {
    if data.identity().member.is_none() {
        return Ok(None);
    }
    let patience = Instant::now() + LEADER_PATIENCE;
    loop {
        match former.check(data, &disk.memory()).await? {
            Fit::Departed(Departure::Removed) => {
                return Err(Removed { node: data.identity().node, dir: data.path().to_owned() }.into());
            }
            Fit::Departed(Departure::Replaced) => {
                return Ok(Some("a later incarnation of this node is a member already"));
            }
            Fit::Forgetful => {
                return Ok(Some("the leader knows of entries that this node acknowledged and does not have"));
            }
            Fit::Sound if disk.needs().is_some() => return Ok(Some("the state that it builds on is damaged or gone")),
            Fit::Sound | Fit::Unknown => {}
        }
        let Some(needed) = disk.needs() else { return Ok(None) };
        if Instant::now() > patience || former.is_alone() {
            let damage = disk.snapshots.damage().map(|damage| format!(" ({damage})")).unwrap_or_default();
            return Err(StartError::Incomplete { dir: data.path().to_owned(), needed, damage });
        }
        tracing::warn!(needed, "what the log builds on is damaged or gone, waiting for a leader that has it");
        sleep(LEADER_PAUSE).await;
    }
}

/// What was in the log is gone: this node may have voted and no longer knows. It comes back under another Raft id, with
/// nothing. Until it has been born again, a start that finds what was half done does it once more.
fn begin_anew(data: &mut DataDir, why: &str) -> Result<(), StartError> {
    let aside = at(data.path(), data.set_log_aside())?;
    let aside = aside.map(|path| path.display().to_string());
    tracing::warn!(dir = %data.path().display(), aside, why, "can't go on with this log, rejoining the cluster as a new incarnation");
    for path in [data.state(), data.snapshots()] {
        if path.exists() {
            at(&path, fs::remove_dir_all(&path))?;
        }
    }
    data.be_born_again()
}

fn settings(timing: Timing, keep_entries: u64, member: &Membership) -> Result<openraft::Config, StartError> {
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let config = openraft::Config {
        cluster_name: hex::encode(member.cluster),
        heartbeat_interval: ms(timing.heartbeat),
        election_timeout_min: ms(timing.election_min),
        election_timeout_max: ms(timing.election_max),
        enable_pre_vote: Some(true),
        // A restart always elects: a leader must not go on from what it had not made durable.
        enable_leader_restore: Some(false),
        // A leader without a quorum falls silent, so that others may be elected behind a half-broken network.
        quorum_loss_probe_interval: Some(2 * ms(timing.election_max)),
        // By bytes and time: see `keeper`.
        snapshot_policy: openraft::SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: keep_entries,
        purge_batch_size: 1,
        max_payload_entries: MAX_PAYLOAD_ENTRIES,
        // The transport has deadlines of its own; this one is for the whole of a transfer.
        install_snapshot_timeout: 600_000,
        replication_lag_threshold: LAG_ENTRIES,
        ..openraft::Config::default()
    };
    config.validate().map_err(|error| StartError::Config(error.to_string()))
}

/// The founder writes the first membership, once; a founder that died before it could does it now.
async fn initialise(
    raft: &Raft,
    raft_id: u64,
    member: &Membership,
    formation: &Formation,
    shared: &Shared,
    peers: &Peers,
) -> Result<(), StartError> {
    let fatal = |error: &dyn std::fmt::Display| StartError::Raft(error.to_string());
    let is_founder =
        member.incarnation == 1 && member.founders.first().is_some_and(|f| crate::raft_id(f.node, 1) == raft_id);
    if !is_founder || raft.is_initialized().await.map_err(|error| fatal(&error))? {
        return Ok(());
    }
    let Formation::Bootstrap(first) = formation else {
        return Err(StartError::Config("the cluster was never formed: `bootstrap` must name its first members".into()));
    };
    let mut members = BTreeMap::new();
    for founder in &member.founders {
        let known = first.iter().find(|first| first.node == founder.node);
        let known = known.ok_or_else(|| {
            StartError::Config(format!("the cluster was never formed: `bootstrap` must name node {}", founder.node))
        })?;
        let info = match founder.node == crate::node_of(raft_id) {
            true => shared.info().clone(),
            false => first_info(peers, &Peer { node: known.node, address: known.peer.clone() }).await,
        };
        members.insert(crate::raft_id(founder.node, 1), info);
    }
    match raft.initialize(members).await {
        Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
        Err(error) => Err(fatal(&error)),
    }
}

/// What a first member says of itself; its address must do when it does not answer just now, it will say the rest later.
async fn first_info(peers: &Peers, peer: &Peer) -> NodeInfo {
    let answer = identify(peers, peer, ASK_TIMEOUT).await.unwrap_or_default();
    NodeInfo { zone: answer.zone, peer: peer.address.clone(), http: answer.http, admin: answer.admin }
}
