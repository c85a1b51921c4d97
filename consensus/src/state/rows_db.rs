//! The rows in sled: one tree, the digest of its rows beside them, and what tells a full disk from anything else.

use std::{
    collections::HashMap,
    fs, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use tollgate_storage::failpoint;

use super::{digest::Digest, replicated::Replicated};
use crate::machine::Image;

type Db = sled::Db<256>;

/// Sled's own cache; it is read at start only.
const CACHE_BYTES: usize = 16 << 20;

/// Rows in one batch while a whole image is written.
const IMAGE_BATCH_ROWS: usize = 1_024;

/// Where the digest is kept. Sorts before every row; no row of the state has this key.
const DIGEST_KEY: [u8; 2] = [0, 0];

/// What must be free before a store is begun anew on a disk that was full.
const ROOM_BYTES: usize = 4 << 20;

/// What became of each row: `None` is a removed one.
pub(super) type ChangedRows = HashMap<Vec<u8>, Option<Vec<u8>>>;

/// The open database.
pub(super) struct RowsDb {
    db: Db,
    digest: Digest,
    /// An image was begun and not finished: what is on the disk counts for nothing.
    pub(super) half_written: bool,
}

impl RowsDb {
    /// Opens what is at `path` and reads every row into `state`, checked against the digest. An empty one is a good one.
    pub(super) fn restore(path: &Path, state: &mut Replicated) -> io::Result<Self> {
        guarded(|| restore(path, state))
    }

    /// Begins an empty one, whatever was there.
    pub(super) fn begin(path: &Path) -> io::Result<Self> {
        remove(path)?;
        guarded(|| Ok(Self { db: open_db(path)?, digest: Digest::default(), half_written: false }))
    }

    /// One batch: the state moves from one entry to another, never in between.
    pub(super) fn write_rows(&mut self, rows: ChangedRows) -> io::Result<()> {
        guarded(|| self.put(rows))
    }

    /// Everything anew. Without its digest the store counts for nothing, so a death in the middle does no harm.
    pub(super) fn write_image(&mut self, image: Image) -> io::Result<()> {
        self.half_written = true;
        guarded(|| self.replace(image))?;
        self.half_written = false;
        Ok(())
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        failpoint!("state.before-flush");
        guarded(|| self.db.flush().map(drop))
    }

    /// Closes it, whatever sled thinks of that after an error.
    pub(super) fn close(self) {
        let closed = guarded(move || {
            drop(self.db);
            Ok(())
        });
        if let Err(error) = closed {
            tracing::debug!(%error, "state store did not close well");
        }
    }

    fn put(&mut self, rows: ChangedRows) -> io::Result<()> {
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
        failpoint!("state.before-batch");
        self.db.apply_batch(batch)?;
        failpoint!("state.after-batch");
        Ok(())
    }

    fn replace(&mut self, image: Image) -> io::Result<()> {
        failpoint!("state.before-image");
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
        failpoint!("state.before-digest");
        self.db.insert(DIGEST_KEY, self.digest.to_bytes().to_vec())?;
        Ok(())
    }
}

/// Sled is an alpha: it may panic on a damaged file, and that is an error like any other here.
fn guarded<T>(work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(io::Error::other(Panicked)))
}

#[derive(Debug, thiserror::Error)]
#[error("sled panicked")]
struct Panicked;

fn open_db(path: &Path) -> io::Result<Db> {
    let config = sled::Config { flush_every_ms: None, cache_capacity_bytes: CACHE_BYTES, ..sled::Config::new() };
    config.path(path).open()
}

fn restore(path: &Path, state: &mut Replicated) -> io::Result<RowsDb> {
    let db = open_db(path)?;
    let Some(kept) = db.get(DIGEST_KEY)? else {
        return match db.is_empty()? {
            true => Ok(RowsDb { db, digest: Digest::default(), half_written: false }),
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
    Ok(RowsDb { db, digest, half_written: false })
}

/// Whether it failed for want of space, which says nothing about what is on the disk. Where sled panicked, the disk says.
pub(super) fn is_for_want_of_space(error: &io::Error, path: &Path) -> bool {
    let panicked = error.get_ref().is_some_and(|inner| inner.is::<Panicked>());
    says_full(error) || (panicked && !has_room(path))
}

fn says_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Whether there is space beside `path`: some is taken, and given back.
pub(super) fn has_room(path: &Path) -> bool {
    let probe = path.with_extension("probe");
    let written = fs::write(&probe, vec![0x5a; ROOM_BYTES]);
    let removed = fs::remove_file(&probe);
    written.is_ok() && removed.is_ok()
}

/// Whether nothing is there.
pub(super) fn is_absent(path: &Path) -> bool {
    fs::read_dir(path).map_or(true, |mut entries| entries.next().is_none())
}

/// Deletes what is there.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Renames the directory: whoever wants to know what went wrong finds it there. The one before it is deleted.
pub(super) fn set_aside(path: &Path) -> io::Result<()> {
    let aside: PathBuf = path.with_extension("damaged");
    remove(&aside)?;
    if fs::exists(path)? { fs::rename(path, &aside) } else { Ok(()) }
}
