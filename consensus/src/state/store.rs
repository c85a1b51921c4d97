//! The state store: the rows as of some applied entry, in sled, for a fast start.
//!
//! Nothing lives only here. A thread of its own writes behind apply, which hands over rows under a short lock and never
//! waits for the disk. What it writes goes into one tree in batches that end at an entry and hold its applied id, so the
//! store is always the state after some entry. A digest over all rows is kept with them and compared at start: a store
//! that does not open or does not agree is set aside, and the state is rebuilt from snapshot and log.
//!
//! On a full disk the node goes on without it: what is there gets old, and is made anew once there is space.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};

use super::{
    replicated::Replicated,
    rows_db::{ChangedRows, RowsDb, has_room, is_absent, is_for_want_of_space, remove, set_aside},
};
use crate::{
    OnFatal,
    machine::{Changes, Files, Image},
};

/// How often what was written is flushed.
const FLUSH_EVERY: Duration = Duration::from_secs(2);

/// How long rows may gather before they are written.
const GATHER: Duration = Duration::from_millis(50);

/// How often it is looked whether a disk that was full has space again.
const LOOK_FOR_ROOM_EVERY: Duration = Duration::from_secs(2);

/// Rows waiting for the thread. Beyond it the whole image replaces them: memory stays bounded and apply never waits.
const MAX_PENDING_BYTES: usize = 64 << 20;

/// What was there when the store was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// The state after some entry, or the one before the first.
    Rows,
    /// Nothing at all, not even an empty store.
    Nothing,
    /// What could not be used, which was said already.
    NoUse,
}

/// The handle that apply holds.
pub(crate) struct StateStore {
    found: Found,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    pending: Mutex<Pending>,
    wake: Condvar,
}

#[derive(Default)]
struct Pending {
    /// First the image replaces everything, then the rows change it.
    image: Option<Image>,
    rows: ChangedRows,
    bytes: usize,
    want: Want,
    stop: bool,
}

/// What the thread can do with what apply has for it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Want {
    /// Every row that changes.
    #[default]
    Rows,
    /// Nothing: the disk is full.
    Nothing,
    /// The whole state, to begin anew.
    Image,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.image.is_none() && self.rows.is_empty()
    }

    fn replace(&mut self, image: Image) {
        self.drop_all();
        self.image = Some(image);
        self.want = Want::Rows;
    }

    fn drop_all(&mut self) {
        self.rows.clear();
        self.bytes = 0;
        self.image = None;
    }
}

impl StateStore {
    /// Opens the store, restores `state` from it as far as it goes, and starts the thread. Blocks on the disk.
    pub(crate) fn open(path: &Path, state: &mut Replicated, on_fatal: OnFatal) -> io::Result<Self> {
        let absent = is_absent(path);
        let (found, opened) = match RowsDb::restore(path, state) {
            Ok(db) => (if absent { Found::Nothing } else { Found::Rows }, Ok(db)),
            Err(error) if is_for_want_of_space(&error, path) => {
                state.clear()?;
                (Found::NoUse, Err(error))
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "state store is of no use, rebuilding it from snapshot and log");
                state.clear()?;
                set_aside(path)?;
                (Found::NoUse, RowsDb::begin(path))
            }
        };
        let (db, full) = match opened {
            Ok(db) => (Some(db), None),
            Err(error) if is_for_want_of_space(&error, path) => (None, Some(error)),
            Err(error) => return Err(error),
        };
        let shared = Arc::new(Shared { pending: Mutex::default(), wake: Condvar::new() });
        let mut writer = Writer {
            path: path.to_owned(),
            files: state.files(),
            db,
            shared: Arc::clone(&shared),
            flushed_at: Instant::now(),
            dirty: false,
            full: false,
        };
        if let Some(error) = full {
            writer.go_without(&error);
        }
        let thread = std::thread::Builder::new().name("state-store".into()).spawn(move || {
            if let Err(error) = writer.run() {
                (on_fatal.0)(&format!("the state store failed: {error}"));
            }
        })?;
        Ok(Self { found, shared, thread: Mutex::new(Some(thread)) })
    }

    /// What was there when it was opened.
    pub(crate) fn found(&self) -> Found {
        self.found
    }

    /// Hands over what one entry changed. `image` gives the state after it, in case the thread has to begin anew.
    pub(crate) fn put(&self, changes: &mut Changes, image: impl FnOnce() -> Image) {
        let mut pending = self.shared.pending.lock();
        let wake = pending.is_empty();
        match pending.want {
            Want::Nothing => {
                changes.drain().for_each(drop);
                return;
            }
            Want::Image => {
                changes.drain().for_each(drop);
                pending.replace(image());
            }
            Want::Rows => {
                for (key, value) in changes.drain() {
                    pending.bytes += key.len() + value.as_ref().map_or(0, Vec::len);
                    pending.rows.insert(key, value);
                }
                if pending.bytes > MAX_PENDING_BYTES {
                    pending.replace(image());
                }
            }
        }
        drop(pending);
        if wake {
            self.shared.wake.notify_one();
        }
    }

    /// Replaces everything: a snapshot was installed.
    pub(crate) fn replace(&self, image: Image) {
        let mut pending = self.shared.pending.lock();
        if pending.want != Want::Nothing {
            pending.replace(image);
        }
        drop(pending);
        self.shared.wake.notify_one();
    }

    /// Writes and flushes what is pending, then ends the thread. Blocks on the disk.
    pub(crate) fn close(&self) {
        self.shared.pending.lock().stop = true;
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.lock().take() {
            let _ = thread.join();
        }
    }
}

impl Drop for StateStore {
    fn drop(&mut self) {
        self.close();
    }
}

/// What the thread owns.
struct Writer {
    path: PathBuf,
    /// What the rows speak of is in these before the rows are durable.
    files: Arc<dyn Files>,
    /// `None` while the disk is full.
    db: Option<RowsDb>,
    shared: Arc<Shared>,
    flushed_at: Instant,
    dirty: bool,
    /// Said to be full, and not yet that it is whole again.
    full: bool,
}

impl Writer {
    fn run(mut self) -> io::Result<()> {
        loop {
            let (image, rows, stop) = self.take();
            match self.write(image, rows, stop) {
                Ok(()) => {}
                Err(error) if is_for_want_of_space(&error, &self.path) => self.go_without(&error),
                Err(error) => return Err(error),
            }
            if stop {
                if let Some(db) = self.db.take() {
                    db.close();
                }
                return Ok(());
            }
            if self.db.is_none() && self.wants(Want::Nothing) && has_room(&self.path) {
                self.shared.pending.lock().want = Want::Image;
            }
        }
    }

    fn write(&mut self, image: Option<Image>, rows: ChangedRows, stop: bool) -> io::Result<()> {
        if image.is_some() {
            self.files.sync()?;
        }
        if self.db.is_none() && image.is_some() {
            self.db = Some(RowsDb::begin(&self.path)?);
        }
        let Some(db) = &mut self.db else { return Ok(()) };
        self.dirty |= image.is_some() || !rows.is_empty();
        if let Some(image) = image {
            db.write_image(image)?;
        }
        if !rows.is_empty() {
            db.write_rows(rows)?;
        }
        if self.dirty && (stop || self.flushed_at.elapsed() >= FLUSH_EVERY) {
            self.files.sync()?;
            db.flush()?;
            self.flushed_at = Instant::now();
            self.dirty = false;
            if std::mem::take(&mut self.full) {
                tracing::info!(path = %self.path.display(), "there is space for the state store again, it is whole");
            }
        }
        Ok(())
    }

    /// The disk is full: what is there stays as it is, unless it is worth nothing.
    fn go_without(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.full, true) {
            tracing::warn!(
                path = %self.path.display(), %error,
                "no space for the state store: going on without it, the log and the snapshot have everything; free some space"
            );
        }
        if let Some(db) = self.db.take() {
            let half_written = db.half_written;
            db.close();
            if half_written && let Err(error) = remove(&self.path) {
                tracing::debug!(%error, "a half-written state store was not removed");
            }
        }
        self.dirty = false;
        let mut pending = self.shared.pending.lock();
        pending.drop_all();
        pending.want = Want::Nothing;
    }

    fn wants(&self, want: Want) -> bool {
        self.shared.pending.lock().want == want
    }

    /// Waits for rows, for the next flush, for space, or to be stopped.
    fn take(&self) -> (Option<Image>, ChangedRows, bool) {
        let mut pending = self.shared.pending.lock();
        if !pending.stop {
            let wait = match (&self.db, self.dirty) {
                (None, _) => LOOK_FOR_ROOM_EVERY,
                (Some(_), true) => FLUSH_EVERY,
                (Some(_), false) => Duration::from_secs(3600),
            };
            if pending.is_empty() {
                self.shared.wake.wait_for(&mut pending, wait);
            }
            if !pending.stop && !pending.is_empty() {
                // Entries come in crowds: let some gather, so that one batch takes many.
                self.shared.wake.wait_for(&mut pending, GATHER);
            }
        }
        pending.bytes = 0;
        (pending.image.take(), std::mem::take(&mut pending.rows), pending.stop)
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
