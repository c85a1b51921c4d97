//! `BillingService.Reconcile`: an upstream's own usage report, held against the costs in this node's ledger.
//!
//! The file is read as it comes, where blocking is allowed; whoever sends it faster than that is held up by gRPC's windows.

use std::{
    io::{self, Read},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::{Buf, Bytes};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;
use tollgate_billing::reconcile::{Asked, Difference, ReconcileError, Reconciled, Reconciler};
use tollgate_model::{Kind, Timestamp};
use tollgate_proto::admin::v1::{CostDifference, ReconcileRequest, ReconcileResponse};
use tonic::Status;

use crate::{
    auth::{Access, Standing},
    backplane::Backplane,
    call::{Call, unknown},
    details::{Reason, refuse},
    ledger::unread,
};

/// At a time on one node: each holds some tens of MB and most of a core.
const MAX_AT_ONCE: usize = 2;
/// Pieces of the file on their way to whoever reads it.
const QUEUE_PIECES: usize = 4;
/// A caller that sends nothing for so long is given up.
const STALLED: Duration = Duration::from_secs(60);
const BUFFER_BYTES: usize = 64 << 10;

/// The comparisons of one node.
#[derive(Debug, Clone)]
pub(crate) struct Reconciles {
    places: Arc<Semaphore>,
    stop: CancellationToken,
}

impl Reconciles {
    /// Comparisons that end with `stop`.
    pub(crate) fn new(stop: CancellationToken) -> Self {
        Self { places: Arc::new(Semaphore::new(MAX_AT_ONCE)), stop }
    }

    /// Compares the whole of a file.
    pub(crate) async fn run(
        &self,
        backplane: &Arc<dyn Backplane>,
        call: &Call,
        mut pieces: impl Stream<Item = Result<ReconcileRequest, Status>> + Unpin,
    ) -> Result<ReconcileResponse, Status> {
        let place = Arc::clone(&self.places).try_acquire_owned();
        let place = place.map_err(|_| refuse(Reason::Busy, "too many files are compared on this node"))?;
        backplane.read_barrier(call.deadline).await?;
        let first = next(&mut pieces).await?.unwrap_or_default();
        let reconciler = Reconciler::new(asked(&first)?).map_err(|why| refused(&why))?;
        let provider = first.provider.clone();
        let (file, received) = mpsc::channel(QUEUE_PIECES);
        let left = Left::default();
        let (stop, ledger) = (Arc::clone(&left.0), backplane.ledger());
        let compared = tokio::task::spawn_blocking(move || {
            let _place = place;
            let mut reconciler = reconciler;
            reconciler.read(io::BufReader::with_capacity(BUFFER_BYTES, File { received, piece: Bytes::new() }))?;
            reconciler.compare(&*ledger, &|| stop.load(Ordering::Relaxed))
        });
        let standing = Standing::new(Arc::clone(backplane), call.caller.clone(), Access::Read);
        let sent = send(first, &mut pieces, file, &standing);
        let compared = async {
            // What is wrong with the file comes from whoever reads it, even where that made the rest of no interest.
            let sent = sent.await;
            let compared = compared.await.map_err(|_| Status::internal("reading the ledger failed"))?;
            sent?;
            standing.check()?;
            let compared = compared.map_err(|why| refused(&why))?;
            refuse_unknown(&**backplane, &provider, &compared)?;
            Ok(to_wire(compared))
        };
        tokio::select! {
            compared = compared => compared,
            () = self.stop.cancelled() => Err(refuse(Reason::NoLeader, "this node is stopping: ask another one")),
        }
    }
}

/// Refuses a comparison with nothing of a provider that there is not: it would look like one that agrees. What was asked of a
/// provider that is gone is compared.
fn refuse_unknown(backplane: &dyn Backplane, provider: &str, compared: &Reconciled) -> Result<(), Status> {
    if provider.is_empty() || compared.attempts > 0 {
        return Ok(());
    }
    let unknown = unknown(backplane, Kind::Provider, provider);
    unknown.map_or(Ok(()), |message| Err(refuse(Reason::NotFound, format!("provider: {message}"))))
}

/// Tells whoever compares that nobody waits for it any more.
#[derive(Default)]
struct Left(Arc<AtomicBool>);

impl Drop for Left {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

async fn next(
    pieces: &mut (impl Stream<Item = Result<ReconcileRequest, Status>> + Unpin),
) -> Result<Option<ReconcileRequest>, Status> {
    let piece = tokio::time::timeout(STALLED, pieces.next()).await;
    piece.map_err(|_| refuse(Reason::Busy, "nothing was sent for a minute: begin again"))?.transpose()
}

/// Passes the file on, to its end or until nobody reads it any more.
async fn send(
    first: ReconcileRequest,
    pieces: &mut (impl Stream<Item = Result<ReconcileRequest, Status>> + Unpin),
    file: mpsc::Sender<io::Result<Bytes>>,
    standing: &Standing,
) -> Result<(), Status> {
    let mut piece = Some(first);
    while let Some(ReconcileRequest { data, .. }) = piece {
        if file.send(Ok(data.into())).await.is_err() {
            return Ok(());
        }
        standing.check()?;
        piece = match next(pieces).await {
            Ok(piece) => piece,
            Err(status) => {
                // Half a file is not compared.
                let cut = io::Error::new(io::ErrorKind::UnexpectedEof, "the file was cut");
                let _ = file.send(Err(cut)).await;
                return Err(status);
            }
        };
    }
    Ok(())
}

/// A file as it comes. Reading blocks.
struct File {
    received: mpsc::Receiver<io::Result<Bytes>>,
    piece: Bytes,
}

impl Read for File {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.received.blocking_recv() {
                Some(piece) => self.piece = piece?,
                None => return Ok(0),
            }
        }
        let some = self.piece.len().min(into.len());
        self.piece.copy_to_slice(&mut into[..some]);
        Ok(some)
    }
}

fn asked(first: &ReconcileRequest) -> Result<Asked, Status> {
    let time = |field: &str, text: &str| match text {
        "" => Ok(None),
        text => Timestamp::parse(text).map(Some).map_err(|wrong| refuse(Reason::Invalid, format!("{field}: {wrong}"))),
    };
    let provider = (!first.provider.is_empty()).then(|| first.provider.clone());
    Ok(Asked { provider, from: time("from", &first.from)?, to: time("to", &first.to)?, after: first.after.clone() })
}

fn refused(why: &ReconcileError) -> Status {
    match why {
        ReconcileError::Source(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Status::cancelled("the file was cut")
        }
        ReconcileError::Source(error) => unread(error),
        other => refuse(Reason::Invalid, other.to_string()),
    }
}

fn to_wire(done: Reconciled) -> ReconcileResponse {
    let Reconciled { differences, next, lines, attempts, from, to } = done;
    let of = |it: Difference| {
        let (at_least, at_most) = it.within.unwrap_or_default();
        CostDifference {
            model: it.model,
            period: it.day.map(|day| day.to_string()).unwrap_or_default(),
            ours: it.ours,
            theirs: it.theirs,
            currency: it.currency.map(|currency| currency.to_string()).unwrap_or_default(),
            figure: it.figure.to_owned(),
            request_id: it.request,
            at_least,
            at_most,
        }
    };
    let differences = differences.into_iter().map(of).collect();
    ReconcileResponse { differences, next, lines, attempts, from: from.to_string(), to: to.to_string() }
}
