//! Snapshots on their way: bounded parts, checked before they are sent and again before they are installed.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt;
use openraft::raft::SnapshotResponse;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tollgate_proto::peer::v1::{SnapshotPart, peer_client::PeerClient, snapshot_part::Part};
use tonic::{Status, Streaming, transport::Channel};

use super::wire::{Envelope, SNAPSHOT_PART_BYTES, decode, decode_bytes, encode};
use crate::{
    snapshot::{Incoming, SnapshotDir, SnapshotFile},
    types::{TypeConfig, Vote},
};

/// Parts read ahead of what the peer has taken: 2 MiB.
const READ_AHEAD: usize = 4;

/// A transfer that stands still for so long is given up, by either side.
const STALLED: Duration = Duration::from_secs(10);

/// To sync, check and install it on the other side, besides a second for every `INSTALL_RATE` bytes.
const INSTALL_TIMEOUT: Duration = Duration::from_secs(30);
const INSTALL_RATE: u64 = 10 << 20;

/// Sends a snapshot and waits until it is installed.
pub(crate) async fn send(
    mut client: PeerClient<Channel>,
    envelope: &Envelope,
    vote: &Vote,
    file: Arc<SnapshotFile>,
) -> Result<SnapshotResponse<TypeConfig>, Status> {
    let checked = Arc::clone(&file);
    blocking(move || checked.verify()).await?;
    let (parts, stream) = mpsc::channel(READ_AHEAD);
    let install = INSTALL_TIMEOUT + Duration::from_secs(file.len() / INSTALL_RATE);
    let vote = encode(vote).body;
    let feed = async move {
        let fed = feed(&parts, vote, file).await;
        drop(parts);
        fed?;
        tokio::time::sleep(install).await;
        Err::<(), _>(Status::deadline_exceeded("the snapshot was sent and is not installed"))
    };
    let call = client.install_snapshot(envelope.put(ReceiverStream::new(stream)));
    tokio::select! {
        answer = call => decode(answer?.get_ref()),
        failed = feed => Err(failed.err().unwrap_or_else(|| Status::internal("the snapshot was not sent"))),
    }
}

async fn feed(parts: &mpsc::Sender<SnapshotPart>, vote: bytes::Bytes, file: Arc<SnapshotFile>) -> Result<(), Status> {
    put(parts, Part::Vote(vote)).await?;
    let mut offset = 0;
    while offset < file.len() {
        let from = Arc::clone(&file);
        let data = blocking(move || from.read_at(offset, SNAPSHOT_PART_BYTES)).await?;
        offset += data.len() as u64;
        put(parts, Part::Data(data.into())).await?;
    }
    put(parts, Part::End(file.len())).await
}

async fn put(parts: &mpsc::Sender<SnapshotPart>, part: Part) -> Result<(), Status> {
    match tokio::time::timeout(STALLED, parts.send(SnapshotPart { part: Some(part) })).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(Status::unavailable("the peer takes no more of the snapshot")),
        Err(_) => Err(Status::deadline_exceeded("the peer has not taken any of the snapshot for a while")),
    }
}

/// Receives a snapshot into a file, synced and checked through; not yet installed.
pub(crate) async fn receive(
    mut parts: Streaming<SnapshotPart>,
    dir: &Arc<SnapshotDir>,
    check_vote: impl FnOnce(&Vote) -> Result<(), Status>,
) -> Result<(Vote, Arc<SnapshotFile>), Status> {
    let Some(Part::Vote(vote)) = next(&mut parts).await? else {
        return Err(Status::invalid_argument("a snapshot begins with a vote"));
    };
    let vote: Vote = decode_bytes(&vote)?;
    check_vote(&vote)?;
    let open = Arc::clone(dir);
    let mut incoming = blocking(move || open.incoming()).await?;
    loop {
        match next(&mut parts).await? {
            Some(Part::Data(data)) => incoming = write(incoming, data).await?,
            Some(Part::End(len)) if len == incoming.len() => break,
            _ => return Err(Status::invalid_argument("a snapshot ends with its length")),
        }
    }
    Ok((vote, blocking(move || incoming.finish()).await?))
}

async fn write(mut incoming: Incoming, data: bytes::Bytes) -> Result<Incoming, Status> {
    blocking(move || incoming.write(&data).map(|()| incoming)).await
}

async fn next(parts: &mut Streaming<SnapshotPart>) -> Result<Option<Part>, Status> {
    match tokio::time::timeout(STALLED, parts.next()).await {
        Ok(part) => Ok(part.transpose()?.and_then(|part| part.part)),
        Err(_) => Err(Status::deadline_exceeded("no part of the snapshot came for a while")),
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> std::io::Result<T> + Send + 'static) -> Result<T, Status> {
    let done = tokio::task::spawn_blocking(work).await.map_err(|error| Status::internal(error.to_string()))?;
    done.map_err(|error| Status::aborted(error.to_string()))
}
