//! The first things that a node says to its cluster after each start.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, bail};
use prost::Message;
use tokio::time::{Instant, sleep};
use tollgate_consensus::{Consensus, ProposeError};
use tollgate_model::secret::ClusterKey;
use tollgate_proto::state::v1::{
    Command, NodeOpen, NodeOpenOutcome, TokenChange, TokenOutcome, TokenRecord, command, token_change,
};
use tracing::{error, info, warn};

use crate::{config::NodeConfig, journal, state::Shared};

/// Between two attempts while there is no leader.
const RETRY_DELAY: Duration = Duration::from_millis(100);
/// A token that can be guessed is no token.
const MIN_TOKEN_BYTES: usize = 16;
/// Names the token that came from `admin.initial_token_file`.
const INITIAL_TOKEN: &str = "initial";

/// An incarnation of this node that the ledger knows.
pub(super) struct Opened {
    pub(super) incarnation: u64,
    /// When it was proposed.
    pub(super) at: Instant,
}

/// Starts a new incarnation of this node in the ledger, so that whatever an earlier process still held is accounted for. The
/// journal hears of it before the ledger does. Waits for a leader as long as it takes.
pub(super) async fn open(
    consensus: &Consensus,
    state: &Shared,
    config: &NodeConfig,
    journal: &mut journal::Opening,
    attempt: Duration,
) -> anyhow::Result<Opened> {
    let node = config.id;
    loop {
        let deadline = (Instant::now() + attempt).into_std();
        if let Err(error) = consensus.read_barrier(deadline).await {
            warn!(%error, unreached = ?consensus.unreached(), "waiting for a leader");
            sleep(RETRY_DELAY).await;
            continue;
        }
        let newest = state.ledger(|ledger| ledger.node(node)).map_or(0, |(incarnation, _)| incarnation);
        let incarnation = newest + 1;
        let open = NodeOpen {
            node,
            incarnation,
            predecessor_is_dead: newest == 0 || journal.has_ended(newest),
            zone: config.zone.clone(),
            isolation_us: u64::try_from(config.isolation.as_micros()).unwrap_or(u64::MAX),
        };
        let command = Command { kind: Some(command::Kind::NodeOpen(open)), ..Command::default() };
        if let Err(error) = journal.start(incarnation) {
            if error.is_fatal() {
                return Err(error).context("node.data_dir: can't write the journal");
            }
            error!(%error, "no space for the journal: this node can't begin before there is");
            sleep(RETRY_DELAY).await;
            continue;
        }
        let at = Instant::now();
        // Without a request id: repeating it changes nothing, and a greater number in the answer tells of another process.
        match consensus.propose(None, command.encode_to_vec().into(), deadline).await {
            Ok(committed) => {
                let outcome = NodeOpenOutcome::decode(committed.outcome)?;
                if outcome.refused {
                    bail!("the ledger has no room for another node");
                }
                if outcome.incarnation == incarnation {
                    if outcome.orphaned > 0 {
                        info!(
                            orphaned = outcome.orphaned,
                            "requests of an earlier process count as used at what they held"
                        );
                    }
                    shown(consensus, state, node, incarnation, attempt).await;
                    return Ok(Opened { incarnation, at });
                }
            }
            Err(ProposeError::Stopped) => bail!("stopped"),
            Err(error) => {
                warn!(%error, "can't open this node in the ledger yet");
                sleep(RETRY_DELAY).await;
            }
        }
    }
}

/// Waits until this node's own replica shows the incarnation that the log has opened: what earlier ones have left to say is read
/// from it.
async fn shown(consensus: &Consensus, state: &Shared, node: u64, incarnation: u64, attempt: Duration) {
    let is_shown = || state.ledger(|ledger| ledger.node(node)).is_some_and(|(newest, _)| newest >= incarnation);
    while !is_shown() {
        if let Err(error) = consensus.read_barrier((Instant::now() + attempt).into_std()).await {
            warn!(%error, "waiting until this node has applied its opening");
            sleep(RETRY_DELAY).await;
        }
    }
}

/// Makes the token in `file` the first admin token, unless there are tokens already.
pub(super) async fn initial_token(
    consensus: &Consensus,
    state: &Shared,
    file: &Path,
    key: &ClusterKey,
) -> anyhow::Result<()> {
    if !state.tokens().is_empty() {
        return Ok(());
    }
    let text =
        fs::read_to_string(file).with_context(|| format!("admin.initial_token_file: can't read {}", file.display()))?;
    let token = text.trim();
    if token.len() < MIN_TOKEN_BYTES || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        bail!(
            "admin.initial_token_file: {} must hold one token of at least {MIN_TOKEN_BYTES} visible ASCII characters",
            file.display()
        );
    }
    let record = TokenRecord {
        id: INITIAL_TOKEN.to_owned(),
        role: tollgate_admin::Role::Admin.as_str().to_owned(),
        hash: key.hash_token(token).to_vec(),
        ..TokenRecord::default()
    };
    let change = TokenChange { kind: Some(token_change::Kind::Initial(record)) };
    let command = Command { kind: Some(command::Kind::Token(change)), ..Command::default() }.encode_to_vec();
    loop {
        let deadline = (Instant::now() + super::OPENING_TIMEOUT).into_std();
        match consensus.propose(None, command.clone().into(), deadline).await {
            Ok(committed) => {
                let outcome = TokenOutcome::decode(committed.outcome)?;
                if outcome.done {
                    info!("took over the initial admin token");
                }
                return Ok(());
            }
            Err(ProposeError::Stopped) => bail!("stopped"),
            Err(error) => {
                warn!(%error, "can't take over the initial admin token yet");
                sleep(RETRY_DELAY).await;
            }
        }
    }
}
