//! The log under openraft's own suite, against a model, damaged, and killed.

mod behaviour;
mod kill;
mod machine;
mod model;
mod suite;

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use openraft::EntryPayload;
use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use openraft::vote::RaftLeaderIdExt;
use tollgate_storage::OpenError;
use tollgate_storage::sim::SimDisk;

use super::LogStore;
use crate::OnFatal;
use crate::stamp::{Age, Stamp};
use crate::types::{Asked, Entry, LogId, Proposal, TypeConfig, Vote};

/// Small enough that a test rolls often.
const SEGMENT_BYTES: u64 = 4096;

/// The outcome of an append, once it is on the disk.
type Flushed = openraft::alias::OneshotReceiverOf<TypeConfig, io::Result<()>>;

fn never_fatal() -> OnFatal {
    OnFatal(Arc::new(|reason| panic!("{reason}")))
}

fn open(disk: &SimDisk) -> Result<LogStore, OpenError> {
    LogStore::open_on(Arc::new(disk.clone()), Path::new("/log"), SEGMENT_BYTES, never_fatal())
}

fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(openraft::alias::LeaderIdOf::<TypeConfig>::new_committed(term, 1), index)
}

/// An entry whose command follows from its term and index.
fn entry(term: u64, index: u64, bytes: usize) -> Entry {
    let mut command = [term.to_le_bytes(), index.to_le_bytes()].concat().repeat(bytes / 16 + 1);
    command.truncate(bytes);
    let age = Some(Age { under: log_id(term, index).leader_id, us: index });
    let stamp = Stamp { time_us: 1_000 * index, age };
    let proposal = Proposal { stamp, request: Asked::Once, command: Bytes::from(command) };
    Entry { log_id: log_id(term, index), payload: EntryPayload::Normal(proposal) }
}

/// Appends without waiting for the disk.
async fn append(log: &mut LogStore, entries: Vec<Entry>) -> Flushed {
    let (tx, rx) = TypeConfig::oneshot();
    log.append(entries, IOFlushed::signal(tx)).await.expect("the log is written in order");
    rx
}

async fn append_and_wait(log: &mut LogStore, entries: Vec<Entry>) {
    append(log, entries).await.await.expect("an answer").expect("on the disk");
}

async fn all(log: &LogStore) -> io::Result<Vec<Entry>> {
    log.reader().try_get_log_entries(..).await
}
