//! `BillingService.Export` and `ExportStatement`: a bill as a stream of chunks.
//!
//! Rows are read and written where blocking is allowed, a chunk at a time, and only when the caller has room for it: a slow
//! caller holds up nobody and a few hundred KB. What was cut goes on at the cursor of the last chunk, on any node.

use std::{sync::Arc, time::Duration};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tollgate_billing::export::{Chunk, ExportError, Format, Query, Schema};
use tollgate_model::{Timestamp, secret::ClusterKey};
use tollgate_proto::admin::v1::{ExportBillChunk, ExportBillRequest, ExportStatementRequest};
use tonic::Status;

use crate::{
    auth::{Access, Standing},
    backplane::{Backplane, BillExport},
    call::{Call, unknown_tenant},
    details::{Reason, refuse},
    ledger::unread,
    periods::statement,
    usage::tenant_of,
};

/// At a time on one node: each holds some tens of MB and, while its caller reads, most of a core.
const MAX_EXPORTS: usize = 4;
/// On their way to one caller.
const QUEUE_CHUNKS: usize = 2;
/// A caller that takes nothing for so long is given up: it may go on at its cursor.
const STALLED: Duration = Duration::from_secs(60);
/// How long the reason for an end may wait for a caller that does not read.
const LAST_WORD: Duration = Duration::from_secs(1);
/// Who sends the bill, where nobody says otherwise.
const ISSUER: &str = "Tollgate";
/// Longer names are refused.
const MAX_ISSUER_BYTES: usize = 256;

type Sent = Result<ExportBillChunk, Status>;

/// The exports of one node.
#[derive(Debug, Clone)]
pub(crate) struct Exports {
    places: Arc<Semaphore>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Exports {
    /// Exports that end with `stop`, as tasks of `tasks`.
    pub(crate) fn new(tasks: TaskTracker, stop: CancellationToken) -> Self {
        Self { places: Arc::new(Semaphore::new(MAX_EXPORTS)), tasks, stop }
    }

    /// Begins an export, or goes on with one.
    pub(crate) async fn begin(
        &self,
        backplane: &Arc<dyn Backplane>,
        call: &Call,
        request: ExportBillRequest,
    ) -> Result<ReceiverStream<Sent>, Status> {
        let (query, cursor) = query(call, request)?;
        let place = self.place()?;
        backplane.read_barrier(call.deadline).await?;
        let must_exist = query.tenant.clone().filter(|_| cursor.is_empty());
        let unknown = must_exist.and_then(|tenant| unknown_tenant(&**backplane, &tenant));
        let from = Arc::clone(backplane);
        let standing = Standing::new(Arc::clone(backplane), call.caller.clone(), Access::ReadTenant);
        self.stream(move || from.export(query, &cursor), standing, unknown, place).await
    }

    /// Begins the file of a statement, or goes on with one.
    pub(crate) async fn begin_statement(
        &self,
        backplane: &Arc<dyn Backplane>,
        key: Option<&ClusterKey>,
        call: &Call,
        request: ExportStatementRequest,
    ) -> Result<ReceiverStream<Sent>, Status> {
        let place = self.place()?;
        backplane.read_barrier(call.deadline).await?;
        let open = statement(backplane, key, call, request)?;
        let standing = Standing::new(Arc::clone(backplane), call.caller.clone(), Access::ReadTenant);
        self.stream(open, standing, None, place).await
    }

    fn place(&self) -> Result<OwnedSemaphorePermit, Status> {
        let place = Arc::clone(&self.places).try_acquire_owned();
        place.map_err(|_| refuse(Reason::Busy, "too many exports on this node"))
    }

    async fn stream(
        &self,
        open: impl FnOnce() -> Result<BillExport, ExportError> + Send + 'static,
        standing: Standing,
        unknown: Option<String>,
        place: OwnedSemaphorePermit,
    ) -> Result<ReceiverStream<Sent>, Status> {
        let opened = tokio::task::spawn_blocking(open).await;
        let export = opened.map_err(|_| Status::internal("reading the ledger failed"))?.map_err(|why| refused(&why))?;

        let (chunks, stream) = mpsc::channel(QUEUE_CHUNKS);
        let run = Run { export: Some(export), chunks: chunks.clone(), standing, unknown, _place: place };
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            let end = tokio::select! {
                done = run.run() => done.err(),
                () = chunks.closed() => None,
                () = stop.cancelled() => Some(refuse(Reason::NoLeader, "this node is stopping: ask another one")),
            };
            if let Some(end) = end {
                let _ = tokio::time::timeout(LAST_WORD, chunks.send(Err(end))).await;
            }
        });
        Ok(ReceiverStream::new(stream))
    }
}

/// One export under way.
struct Run {
    export: Option<BillExport>,
    chunks: mpsc::Sender<Sent>,
    standing: Standing,
    /// What is said in place of an empty bill, where there is no such tenant.
    unknown: Option<String>,
    _place: OwnedSemaphorePermit,
}

impl Run {
    /// Until the last chunk is on its way, or whatever ends it before.
    async fn run(mut self) -> Result<(), Status> {
        while let Some(chunk) = self.next().await? {
            if let (true, 0, Some(unknown)) = (chunk.last, chunk.rows, self.unknown.take_if(|_| chunk.last)) {
                return Err(refuse(Reason::NotFound, unknown));
            }
            let last = chunk.last;
            let Ok(room) = tokio::time::timeout(STALLED, self.chunks.reserve()).await else {
                return Err(refuse(Reason::Busy, "nothing was read for a minute: go on at the cursor"));
            };
            let Ok(room) = room else { return Ok(()) }; // the caller has left
            self.standing.check()?;
            room.send(Ok(to_wire(chunk)));
            if last {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn next(&mut self) -> Result<Option<Chunk>, Status> {
        let Some(mut export) = self.export.take() else { return Ok(None) };
        let made = tokio::task::spawn_blocking(move || {
            let chunk = export.next();
            (chunk, export)
        });
        let (chunk, export) = made.await.map_err(|_| Status::internal("reading the ledger failed"))?;
        self.export = Some(export);
        chunk.transpose().map_err(|why| refused(&why))
    }
}

fn to_wire(chunk: Chunk) -> ExportBillChunk {
    let Chunk { data, cursor, rows, done, last } = chunk;
    ExportBillChunk { data, cursor, rows, done_permille: done, last }
}

/// What is asked for, and from which cursor on.
fn query(call: &Call, request: ExportBillRequest) -> Result<(Query, String), Status> {
    let invalid = |wrong: String| refuse(Reason::Invalid, wrong);
    let ExportBillRequest { tenant, from, to, format, schema, cursor, focus_version, issuer } = request;
    let tenant = tenant_of(&call.caller, tenant)?;
    let (from, to) = range(&from, &to).map_err(invalid)?;
    let schema = Schema::parse(&schema, &focus_version).map_err(invalid)?;
    let format = Format::parse(&format).map_err(invalid)?;
    if issuer.len() > MAX_ISSUER_BYTES {
        return Err(invalid(format!("issuer: has {} bytes: at most {MAX_ISSUER_BYTES}", issuer.len())));
    }
    let issuer = if issuer.is_empty() { ISSUER.to_owned() } else { issuer };
    // What upstreams bill is ours to know, not a tenant's.
    let costs = call.caller.tenant.is_none();
    if let (Schema::Cost, Some(own)) = (schema, &call.caller.tenant) {
        return Err(Status::permission_denied(format!(
            "schema: this token is narrowed to tenant {own}, and what upstreams bill is not its: events | summary | focus"
        )));
    }
    Ok((Query { tenant, from, to, schema, format, issuer, costs }, cursor))
}

/// Both must be said. One that reaches into the future ends now by itself: nothing was admitted there yet.
fn range(from: &str, to: &str) -> Result<(Timestamp, Timestamp), String> {
    let read = |field: &str, text: &str| match text {
        "" => Err(format!("{field}: is missing: a time such as 2026-11-01T00:00:00Z")),
        text => Timestamp::parse(text).map_err(|wrong| format!("{field}: {wrong}")),
    };
    let (from, to) = (read("from", from)?, read("to", to)?);
    if from > to { Err(format!("from: {from} is after to: {to}")) } else { Ok((from, to)) }
}

fn refused(why: &ExportError) -> Status {
    let message = std::error::Error::source(why).map_or_else(|| why.to_string(), |source| format!("{why}: {source}"));
    match why {
        ExportError::Cursor(_) => refuse(Reason::Invalid, message),
        ExportError::Changed => refuse(Reason::Conflict, message),
        ExportError::TooMuch { .. } => refuse(Reason::TooLarge, message),
        ExportError::Behind => refuse(Reason::Busy, message),
        ExportError::Ledger(error) => unread(error),
        _ => Status::internal(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_names_what_is_wrong_with_it() {
        let (from, to) = ("2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z");
        assert!(range(from, to).is_ok() && range(from, from).is_ok() && range(from, "2999-01-01T00:00:00Z").is_ok());
        assert_eq!(range(to, from).unwrap_err(), format!("from: {to} is after to: {from}"));
        assert!(range("", to).unwrap_err().starts_with("from: is missing"));
        assert!(range(from, "").unwrap_err().starts_with("to: is missing"));
        assert!(range(from, "soon").unwrap_err().starts_with("to: `soon`"));
    }
}
