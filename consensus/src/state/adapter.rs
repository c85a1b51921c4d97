//! openraft's view of the replicated state.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use futures_util::{Stream, StreamExt};
use openraft::{
    OptionalSend,
    storage::{EntryResponder, RaftStateMachine, Snapshot},
};
use parking_lot::Mutex;
use tokio::sync::watch;
use tollgate_storage::failpoint;

use super::{
    replicated::{Meta, Replicated},
    store::StateStore,
};
use crate::{
    OnFatal,
    machine::Changes,
    snapshot::{MaybeSnapshot, SnapshotBuilder, SnapshotDir},
    stamp::Beginning,
    types::{Departure, Entry, LogId, Reply, SnapshotMeta, StoredMembership, TypeConfig},
};

/// What an entry costs the log besides its command.
const ENTRY_OVERHEAD_BYTES: u64 = 64;

/// What others may see of how far apply has come.
pub(crate) struct Progress {
    applied: watch::Sender<u64>,
    /// Applied since the last snapshot.
    bytes: AtomicU64,
    /// The last snapshot could not be written.
    snapshot_put_off: Arc<AtomicBool>,
    /// As of the last membership change.
    meta: Mutex<Meta>,
    /// Where the newest leadership begins of which an entry was applied here.
    newest: Mutex<Option<Beginning>>,
}

impl Progress {
    pub(crate) fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    pub(crate) fn bytes_since_snapshot(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether a snapshot could not be written since this was asked last.
    pub(crate) fn take_snapshot_put_off(&self) -> bool {
        self.snapshot_put_off.swap(false, Ordering::AcqRel)
    }

    /// Where the newest leadership begins of which this process has applied an entry.
    pub(crate) fn newest_leadership(&self) -> Option<Beginning> {
        *self.newest.lock()
    }

    /// Notes when the first entry of a leadership had been applied.
    fn note_leadership(&self, meta: &Meta) {
        let mut newest = self.newest.lock();
        if newest.map(|begun| begun.under) != meta.applied.map(|id| id.leader_id) {
            *newest = meta.beginning(Instant::now());
        }
    }

    /// The newest incarnation that this node was ever known by, 0 if none.
    pub(crate) fn newest_incarnation(&self, node: u64) -> u16 {
        self.meta.lock().incarnations.get(&node).copied().unwrap_or(0)
    }

    /// How an incarnation that was a member is one no more.
    pub(crate) fn departure(&self, raft_id: u64) -> Option<Departure> {
        self.meta.lock().departure(raft_id)
    }
}

/// The state machine that openraft drives.
pub(crate) struct Machine {
    /// Nobody contends for it: the lock makes it shareable, as openraft wants it.
    state: Mutex<Replicated>,
    store: Arc<StateStore>,
    snapshots: Arc<SnapshotDir>,
    progress: Arc<Progress>,
    on_fatal: OnFatal,
}

impl Machine {
    /// `state` as it was restored.
    pub(crate) fn new(
        state: Replicated,
        store: Arc<StateStore>,
        snapshots: Arc<SnapshotDir>,
        on_fatal: OnFatal,
    ) -> Self {
        let progress = Progress {
            applied: watch::Sender::new(0),
            bytes: AtomicU64::new(0),
            snapshot_put_off: Arc::default(),
            meta: Mutex::new(state.meta().clone()),
            newest: Mutex::default(),
        };
        let mut machine = Self { state: Mutex::new(state), store, snapshots, progress: Arc::new(progress), on_fatal };
        machine.show_progress();
        machine
    }

    pub(crate) fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    fn apply_one(&mut self, entry: Entry, changes: &mut Changes) -> Reply {
        let bytes = match &entry.payload {
            openraft::EntryPayload::Normal(proposal) => proposal.command.len() as u64,
            _ => 0,
        };
        let is_membership = matches!(entry.payload, openraft::EntryPayload::Membership(_));
        let state = self.state.get_mut();
        failpoint!("apply.before");
        let reply = state.apply(entry, changes);
        failpoint!("apply.after");
        self.progress.note_leadership(state.meta());
        self.store.put(changes, || state.image());
        self.progress.bytes.fetch_add(bytes + ENTRY_OVERHEAD_BYTES, Ordering::Relaxed);
        if is_membership {
            *self.progress.meta.lock() = self.state.get_mut().meta().clone();
        }
        reply
    }

    fn show_progress(&mut self) {
        let applied = self.state.get_mut().meta().applied.as_ref().map_or(0, |id| id.index);
        self.progress.applied.send_if_modified(|shown| std::mem::replace(shown, applied) != applied);
    }

    fn builder(&mut self) -> SnapshotBuilder {
        let state = self.state.get_mut();
        self.progress.bytes.store(0, Ordering::Relaxed);
        SnapshotBuilder {
            dir: Arc::clone(&self.snapshots),
            meta: state.meta().snapshot_meta(),
            image: Mutex::new(Some(state.image())),
            files: state.files(),
            put_off: Arc::clone(&self.progress.snapshot_put_off),
        }
    }

    /// Whatever panics in here leaves a state that nobody agreed on.
    fn or_die<T>(&mut self, what: &str, work: impl FnOnce(&mut Self) -> T) -> io::Result<T> {
        catch_unwind(AssertUnwindSafe(|| work(self))).map_err(|_| {
            (self.on_fatal.0)(&format!("the state machine panicked in {what}"));
            io::Error::other(format!("the state machine panicked in {what}"))
        })
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = MaybeSnapshot;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let meta = self.state.get_mut().meta();
        Ok((meta.applied, meta.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        let mut changes = Changes::default();
        let mut replies = Vec::new();
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            let reply = self.or_die("apply", |machine| machine.apply_one(entry, &mut changes))?;
            replies.extend(responder.map(|responder| (responder, reply)));
        }
        failpoint!("apply.before-answer");
        self.show_progress();
        for (responder, reply) in replies {
            responder.send(reply);
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        self.builder()
    }

    async fn install_snapshot(&mut self, _meta: &SnapshotMeta, file: MaybeSnapshot) -> io::Result<()> {
        let file = file.ok_or_else(|| io::Error::other("a snapshot that was never written can't be installed"))?;
        let dir = Arc::clone(&self.snapshots);
        let file = tokio::task::spawn_blocking(move || dir.publish(file)).await.map_err(io::Error::other)??;
        failpoint!("snapshot.before-restore");
        let mut rows = file.rows()?;
        self.or_die("restore", |machine| machine.state.get_mut().restore(&mut rows))??;
        failpoint!("snapshot.after-restore");
        self.store.replace(self.state.get_mut().image());
        self.progress.bytes.store(0, Ordering::Relaxed);
        *self.progress.meta.lock() = self.state.get_mut().meta().clone();
        self.show_progress();
        Ok(())
    }

    /// The newest snapshot; one that was found damaged is first made anew, from the state as it is now.
    async fn get_current_snapshot(
        &mut self,
    ) -> io::Result<Option<openraft::alias::SnapshotOf<TypeConfig, MaybeSnapshot>>> {
        if self.snapshots.is_damaged() {
            return openraft::storage::RaftSnapshotBuilder::build_snapshot(&mut self.builder()).await.map(Some);
        }
        Ok(self.snapshots.current().map(|file| Snapshot { meta: file.meta().clone(), snapshot: Some(file) }))
    }
}
