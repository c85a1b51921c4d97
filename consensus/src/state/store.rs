//! The state store: the rows as of some applied entry, in sled, for a fast start.
//!
//! Nothing lives only here. A thread of its own writes behind apply, which hands over rows under a short lock and never
//! waits for the disk. What it writes goes into one tree in batches that end at an entry and hold its applied id, so the
//! store is always the state after some entry. A digest over all rows is kept with them and compared at start: a store
//! that does not open or does not agree is set aside, and the state is rebuilt from snapshot and log.

use std::{
    collections::HashMap,
    fs, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};

use super::{digest::Digest, replicated::Replicated};
use crate::{
    OnFatal,
    machine::{Changes, Image},
};

type Db = sled::Db<256>;

/// How often what was written is flushed.
const FLUSH_EVERY: Duration = Duration::from_secs(2);

/// How long rows may gather before they are written.
const GATHER: Duration = Duration::from_millis(50);

/// Rows waiting for the thread. Beyond it the whole image replaces them: memory stays bounded and apply never waits.
const MAX_PENDING_BYTES: usize = 64 << 20;

/// Sled's own cache; it is read at start only.
const CACHE_BYTES: usize = 16 << 20;

/// Rows in one batch while a whole image is written.
const IMAGE_BATCH_ROWS: usize = 1_024;

/// Where the digest is kept. Sorts before every row; no row of the state has this key.
const DIGEST_KEY: [u8; 2] = [0, 0];

/// What became of each row: `None` is a removed one.
type ChangedRows = HashMap<Vec<u8>, Option<Vec<u8>>>;

/// The handle that apply holds.
pub(crate) struct StateStore {
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
    stop: bool,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.image.is_none() && self.rows.is_empty()
    }
}

impl StateStore {
    /// Opens the store, restores `state` from it as far as it goes, and starts the thread. Blocks on the disk.
    pub(crate) fn open(path: &Path, state: &mut Replicated, on_fatal: OnFatal) -> io::Result<Self> {
        let (db, digest) = match guarded(|| restore(path, state)) {
            Ok(opened) => opened,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "state store is of no use, rebuilding it from snapshot and log");
                state.clear()?;
                set_aside(path)?;
                (guarded(|| open_db(path))?, Digest::default())
            }
        };
        let shared = Arc::new(Shared { pending: Mutex::default(), wake: Condvar::new() });
        let writer = Writer { db, digest, shared: Arc::clone(&shared), flushed_at: Instant::now(), dirty: false };
        let thread = std::thread::Builder::new().name("state-store".into()).spawn(move || {
            if let Err(error) = guarded(move || writer.run()) {
                (on_fatal.0)(&format!("the state store failed: {error}"));
            }
        })?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    /// Hands over what one entry changed. `image` gives the state after it, in case the thread is too far behind.
    pub(crate) fn put(&self, changes: &mut Changes, image: impl FnOnce() -> Image) {
        let mut pending = self.shared.pending.lock();
        let wake = pending.is_empty();
        for (key, value) in changes.drain() {
            pending.bytes += key.len() + value.as_ref().map_or(0, Vec::len);
            pending.rows.insert(key, value);
        }
        if pending.bytes > MAX_PENDING_BYTES {
            replace(&mut pending, image());
        }
        drop(pending);
        if wake {
            self.shared.wake.notify_one();
        }
    }

    /// Replaces everything: a snapshot was installed.
    pub(crate) fn replace(&self, image: Image) {
        replace(&mut self.shared.pending.lock(), image);
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

fn replace(pending: &mut Pending, image: Image) {
    pending.rows.clear();
    pending.bytes = 0;
    pending.image = Some(image);
}

impl Drop for StateStore {
    fn drop(&mut self) {
        self.close();
    }
}

/// Sled is an alpha: it may panic on a damaged file, and that is an error like any other here.
fn guarded<T>(work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(io::Error::other("sled panicked")))
}

fn open_db(path: &Path) -> io::Result<Db> {
    let config = sled::Config { flush_every_ms: None, cache_capacity_bytes: CACHE_BYTES, ..sled::Config::new() };
    config.path(path).open()
}

/// Reads every row into `state` and checks them against the digest. An empty store is a good one.
fn restore(path: &Path, state: &mut Replicated) -> io::Result<(Db, Digest)> {
    let db = open_db(path)?;
    let Some(kept) = db.get(DIGEST_KEY)? else {
        return match db.is_empty()? {
            true => Ok((db, Digest::default())),
            false => Err(io::Error::other("it has rows and no digest: it was being rewritten")),
        };
    };
    let mut digest = Digest::default();
    let mut rows = db.iter().filter(|row| !matches!(row, Ok((key, _)) if key.as_ref() == DIGEST_KEY)).map(|row| {
        let (key, value) = row?;
        digest.add(&key, &value);
        Ok((key.to_vec(), value.to_vec()))
    });
    state.restore(&mut rows)?;
    rows.try_for_each(|row| row.map(drop))?;
    drop(rows);
    if digest.to_bytes() != kept.as_ref() {
        return Err(io::Error::other("its rows do not agree with their digest"));
    }
    Ok((db, digest))
}

/// Renames the directory: whoever wants to know what went wrong finds it there. The one before it is deleted.
fn set_aside(path: &Path) -> io::Result<()> {
    let aside: PathBuf = path.with_extension("damaged");
    if fs::exists(&aside)? {
        fs::remove_dir_all(&aside)?;
    }
    if fs::exists(path)? { fs::rename(path, &aside) } else { Ok(()) }
}

/// What the thread owns.
struct Writer {
    db: Db,
    digest: Digest,
    shared: Arc<Shared>,
    flushed_at: Instant,
    dirty: bool,
}

impl Writer {
    fn run(mut self) -> io::Result<()> {
        loop {
            let (image, rows, stop) = self.take();
            if let Some(image) = image {
                self.write_image(image)?;
            }
            if !rows.is_empty() {
                self.write_rows(rows)?;
            }
            if self.dirty && (stop || self.flushed_at.elapsed() >= FLUSH_EVERY) {
                self.db.flush()?;
                self.flushed_at = Instant::now();
                self.dirty = false;
            }
            if stop {
                return Ok(());
            }
        }
    }

    /// Waits for rows, for the next flush, or to be stopped.
    fn take(&self) -> (Option<Image>, ChangedRows, bool) {
        let mut pending = self.shared.pending.lock();
        if !pending.stop {
            let wait = if self.dirty { FLUSH_EVERY } else { Duration::from_secs(3600) };
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

    /// One batch: the state moves from one entry to another, never in between.
    fn write_rows(&mut self, rows: ChangedRows) -> io::Result<()> {
        let mut batch = sled::Batch::default();
        for (key, value) in rows {
            if let Some(old) = self.db.get(&key)? {
                self.digest.remove(&key, &old);
            }
            match value {
                Some(value) => {
                    self.digest.add(&key, &value);
                    batch.insert(key, value);
                }
                None => batch.remove(key),
            }
        }
        batch.insert(DIGEST_KEY.to_vec(), self.digest.to_bytes().to_vec());
        self.dirty = true;
        self.db.apply_batch(batch)
    }

    /// Everything anew. Without its digest the store counts for nothing, so a death in the middle does no harm.
    fn write_image(&mut self, image: Image) -> io::Result<()> {
        self.db.remove(DIGEST_KEY)?;
        self.db.flush()?;
        self.db.clear()?;
        self.digest = Digest::default();
        let mut batch = sled::Batch::default();
        for (n, (key, value)) in image.enumerate() {
            self.digest.add(&key, &value);
            batch.insert(key, value);
            if n % IMAGE_BATCH_ROWS == IMAGE_BATCH_ROWS - 1 {
                self.db.apply_batch(std::mem::take(&mut batch))?;
            }
        }
        self.db.apply_batch(batch)?;
        self.db.flush()?;
        self.db.insert(DIGEST_KEY, self.digest.to_bytes().to_vec())?;
        self.dirty = true;
        Ok(())
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
