//! What a node finds on its disk at the start: the log, the snapshots, and the state as far as the store has it.

use std::{io, sync::Arc, time::Duration};

use tokio::time::sleep;
use tollgate_storage::OpenError;

use super::{memory::Memory, start::at};
use crate::{
    OnFatal, StartError,
    identity::DataDir,
    log::LogStore,
    snapshot::SnapshotDir,
    state::{Found, Replicated, StateStore},
    types::LogId,
};

/// How often a log is tried again for which there is no space.
const FULL_RETRY: Duration = Duration::from_secs(1);

pub(super) struct Disk {
    pub(super) log: LogStore,
    pub(super) snapshots: Arc<SnapshotDir>,
    /// As the store had it.
    pub(super) state: Replicated,
    pub(super) store: Arc<StateStore>,
}

impl Disk {
    /// Opens everything; blocks on the disk. `state` is empty.
    pub(super) async fn open(data: &DataDir, mut state: Replicated, on_fatal: &OnFatal) -> Result<Self, StartError> {
        let log = open_log(data, on_fatal).await?;
        let snapshots = at(&data.snapshots(), SnapshotDir::open(&data.snapshots()))?;
        let store = at(&data.state(), StateStore::open(&data.state(), &mut state, on_fatal.clone()))?;
        let disk = Self { log, snapshots, state, store: Arc::new(store) };
        disk.say_what_the_store_lacks(data);
        Ok(disk)
    }

    /// The state is whole either way: what the store lacks comes from the snapshot and the log.
    fn say_what_the_store_lacks(&self, data: &DataDir) {
        let (purged, last) = self.log.reader().ends();
        let in_snapshot = self.snapshots.current().and_then(|snapshot| snapshot.meta().last_log_id);
        let applied = self.state.meta().applied;
        if let Some(found) = lack(self.store.found(), applied, purged.max(in_snapshot), last) {
            tracing::warn!(
                path = %data.state().display(),
                applied = applied.map_or(0, |id| id.index),
                snapshot = in_snapshot.map_or(0, |id| id.index),
                last = last.map_or(0, |id| id.index),
                found,
                "state store is gone or old, rebuilding it from snapshot and log"
            );
        }
    }

    /// Lets go of every file; gives the state back, empty.
    pub(super) fn close(self) -> Result<Replicated, StartError> {
        let Self { log, snapshots, mut state, store } = self;
        store.close();
        drop((log, snapshots, store));
        state.clear().map_err(|error| StartError::Raft(error.to_string()))?;
        Ok(state)
    }

    pub(super) fn memory(&self) -> Memory {
        Memory { log: self.log.reader(), snapshots: Arc::clone(&self.snapshots) }
    }

    /// The last entry that the log has forgotten, when neither the state nor a snapshot has it: it was damaged, or lost.
    pub(super) fn needs(&self) -> Option<u64> {
        let (purged, _) = self.log.reader().ends();
        let in_snapshot = self.snapshots.current().and_then(|snapshot| snapshot.meta().last_log_id);
        let has = self.state.meta().applied.max(in_snapshot);
        purged.filter(|purged| has.is_none_or(|has| has.index < purged.index)).map(|purged| purged.index)
    }
}

/// Opens the log. A member whose disk is full has a place to come back to: it waits for space.
async fn open_log(data: &DataDir, on_fatal: &OnFatal) -> Result<LogStore, StartError> {
    let mut told = false;
    loop {
        match LogStore::open(&data.log(), on_fatal.clone()) {
            Err(OpenError::Io { source, .. }) if data.identity().member.is_some() && is_full(&source) => {
                if !std::mem::replace(&mut told, true) {
                    let path = data.log().display().to_string();
                    tracing::error!(path, error = %source, "the disk is full: the node waits until there is space for its log");
                }
                sleep(FULL_RETRY).await;
            }
            opened => return at(&data.log(), opened.map_err(io::Error::other)),
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// What is wrong with a store that opened, if the state did not just fall behind as it does in a crash: that much is in the
/// log behind the snapshot. `covered` is the last entry that the snapshot has or the log has forgotten.
fn lack(found: Found, applied: Option<LogId>, covered: Option<LogId>, last: Option<LogId>) -> Option<&'static str> {
    match found {
        Found::Nothing if covered.max(last).is_some() => Some("gone"),
        Found::Rows if applied < covered => Some("older than the snapshot"),
        Found::Nothing | Found::Rows | Found::NoUse => None,
    }
}

#[cfg(test)]
mod tests {
    use openraft::vote::RaftLeaderId;

    use super::*;
    use crate::types::TypeConfig;

    fn id(index: u64) -> Option<LogId> {
        Some(LogId::new(openraft::alias::LeaderIdOf::<TypeConfig>::new(1, 1 << 16).to_committed(), index))
    }

    #[test]
    fn a_store_that_is_gone_or_old_is_told_from_one_that_fell_behind() {
        assert_eq!(lack(Found::Nothing, None, None, None), None, "a first start");
        assert_eq!(lack(Found::Rows, None, None, id(9)), None, "a crash right after the first start");
        assert_eq!(lack(Found::Rows, id(7), id(5), id(9)), None, "a crash");
        assert_eq!(lack(Found::NoUse, None, id(5), id(9)), None, "said already");
        assert_eq!(lack(Found::Nothing, None, None, id(9)), Some("gone"));
        assert_eq!(lack(Found::Nothing, None, id(5), id(5)), Some("gone"));
        assert_eq!(lack(Found::Rows, id(4), id(5), id(9)), Some("older than the snapshot"));
        assert_eq!(lack(Found::Rows, None, id(5), id(9)), Some("older than the snapshot"));
    }
}
