//! What a node finds on its disk at the start: the log, the snapshots, and the state as far as the store has it.

use std::{io, sync::Arc};

use super::{memory::Memory, start::at};
use crate::{
    OnFatal, StartError,
    identity::DataDir,
    log::LogStore,
    snapshot::SnapshotDir,
    state::{Replicated, StateStore},
};

pub(super) struct Disk {
    pub(super) log: LogStore,
    pub(super) snapshots: Arc<SnapshotDir>,
    /// As the store had it.
    pub(super) state: Replicated,
    pub(super) store: Arc<StateStore>,
}

impl Disk {
    /// Opens everything; blocks on the disk. `state` is empty.
    pub(super) fn open(data: &DataDir, mut state: Replicated, on_fatal: &OnFatal) -> Result<Self, StartError> {
        let log = LogStore::open(&data.log(), on_fatal.clone()).map_err(io::Error::other);
        let log = at(&data.log(), log)?;
        let snapshots = at(&data.snapshots(), SnapshotDir::open(&data.snapshots()))?;
        let store = at(&data.state(), StateStore::open(&data.state(), &mut state, on_fatal.clone()))?;
        Ok(Self { log, snapshots, state, store: Arc::new(store) })
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
