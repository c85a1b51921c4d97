//! Segments of the ledger from the archive and from other nodes, and for them.
//!
//! A segment is the same bytes on every node, and the state has its hash: so whoever has it may send it, and nobody need be
//! believed. It is asked of one node after another, in pieces, and taken in only as a whole.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use prost::Message;
use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep},
};
use tollgate_billing::ledger::{Keeper, Missing};
use tollgate_consensus::{CallHandler, Consensus};
use tollgate_proto::peer::v1::{LedgerBytesRequest, LedgerBytesResponse};
use tracing::{info, warn};

/// What peers call this by.
pub(crate) const SERVICE: &str = "ledger";
/// Of one answer.
const PIECE_BYTES: u64 = 512 << 10;
/// For one answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks at what is missing.
const EVERY: Duration = Duration::from_millis(500);

/// Answers other nodes, once this one has its state.
#[derive(Clone, Default)]
pub(crate) struct Serving(Arc<OnceLock<Arc<Keeper>>>);

impl Serving {
    /// The state is there from now on.
    pub(crate) fn begin(&self, keeper: Arc<Keeper>) {
        // The first one stays: a process has one ledger.
        let _ = self.0.set(keeper);
    }

    pub(crate) fn handler(&self) -> CallHandler {
        let serving = self.clone();
        Arc::new(move |_, body| {
            let keeper = serving.0.get().cloned();
            Box::pin(async move {
                let keeper = keeper.ok_or("this node has only begun to start")?;
                let answer = spawn_blocking(move || read(&keeper, body)).await;
                answer.map_err(|error| error.to_string())?
            })
        })
    }
}

fn read(keeper: &Keeper, body: Bytes) -> Result<Bytes, String> {
    let request = LedgerBytesRequest::decode(body).map_err(|error| error.to_string())?;
    let most = usize::try_from(request.bytes.min(PIECE_BYTES)).map_err(|error| error.to_string())?;
    let bytes = keeper.read(request.segment, request.offset, most).map_err(|error| error.to_string())?;
    Ok(LedgerBytesResponse { bytes: bytes.into() }.encode_to_vec().into())
}

/// Fetches what is missing, for as long as this node runs. Says in `left` how many bytes that is.
pub(crate) async fn fetch(keeper: Arc<Keeper>, consensus: Consensus, left: Arc<AtomicU64>) {
    let mut said = 0;
    loop {
        let of = Arc::clone(&keeper);
        let missing = match spawn_blocking(move || of.missing()).await {
            Ok(Ok(missing)) => missing,
            // The thread that writes says so, and ends the process where it has to be.
            Ok(Err(_)) | Err(_) => Vec::new(),
        };
        left.store(missing.iter().map(|it| it.extent.bytes).sum(), Relaxed);
        match (missing.len(), said) {
            (0, 0) => {}
            (0, _) => info!("the ledger is whole again"),
            (segments, 0) => warn!(segments, "segments of the ledger are missing: fetching them from other nodes"),
            _ => {}
        }
        said = missing.len();
        for missing in missing {
            if obtain(&keeper, &consensus, missing).await {
                left.fetch_sub(missing.extent.bytes.min(left.load(Relaxed)), Relaxed);
            }
        }
        sleep(EVERY).await;
    }
}

/// Looks into the archive, and asks one node after another; whether it was to be had.
async fn obtain(keeper: &Arc<Keeper>, consensus: &Consensus, missing: Missing) -> bool {
    let of = Arc::clone(keeper);
    match spawn_blocking(move || of.find_archived(&missing)).await {
        Ok(Ok(true)) => return true,
        Ok(Ok(false)) => {}
        Ok(Err(error)) => {
            tracing::debug!(%error, segment = missing.extent.segment, "the archive does not have this segment");
        }
        Err(error) => warn!(%error, "the archive could not be looked into"),
    }
    let status = consensus.status();
    let mut peers: Vec<u64> = status.members.iter().map(|member| member.node).filter(|it| *it != status.node).collect();
    // Not all segments of the same node.
    let count = peers.len().max(1) as u64;
    let first = usize::try_from(missing.extent.segment % count).unwrap_or(0).min(peers.len());
    peers.rotate_left(first);
    for peer in peers {
        let bytes = match ask(consensus, peer, &missing).await {
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::debug!(peer, segment = missing.extent.segment, error, "a peer does not have this segment");
                continue;
            }
        };
        let of = Arc::clone(keeper);
        match spawn_blocking(move || of.put(&missing, &bytes)).await {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => warn!(peer, %error, "a segment of the ledger could not be taken in"),
            Err(error) => warn!(peer, %error, "a segment of the ledger could not be taken in"),
        }
    }
    false
}

async fn ask(consensus: &Consensus, peer: u64, missing: &Missing) -> Result<Vec<u8>, String> {
    let (segment, wanted) = (missing.extent.segment, missing.extent.bytes);
    let mut all = Vec::new();
    loop {
        let offset = all.len() as u64;
        if offset >= wanted {
            return Ok(all);
        }
        let request = LedgerBytesRequest { segment, offset, bytes: PIECE_BYTES.min(wanted - offset) };
        let deadline = (Instant::now() + PATIENCE).into_std();
        let answer = consensus.call(peer, SERVICE, request.encode_to_vec().into(), deadline).await;
        let answer = LedgerBytesResponse::decode(answer.map_err(|error| error.to_string())?);
        let mut bytes = answer.map_err(|error| error.to_string())?.bytes;
        bytes.truncate(usize::try_from(wanted - offset).unwrap_or(usize::MAX));
        if bytes.is_empty() {
            return Err(format!("it has no more than {offset} bytes of it"));
        }
        all.extend_from_slice(&bytes);
    }
}
