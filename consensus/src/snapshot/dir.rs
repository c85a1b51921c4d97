//! The directory of snapshots: one good one, whatever was going on when the process died.
//!
//! A snapshot is written under a temporary name, synced, renamed, and the directory synced; only then is it the current
//! one and are older ones deleted. Files are read through open handles, so that deleting an old one does not disturb a
//! transfer that is under way.

use std::{
    fs::{self, File},
    io::{self, BufReader, BufWriter, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use openraft::storage::{RaftSnapshotBuilder, Snapshot};
use parking_lot::Mutex;
use tollgate_storage::failpoint;

use super::file::{self, Reader};
use crate::{
    machine::{Files, Image, Row},
    types::{SnapshotMeta, TypeConfig},
};

/// What the names of snapshots end in that were set aside.
const DAMAGED: &str = "damaged";

/// A snapshot as openraft passes it on: `None` where it could not be written. Openraft takes an error of ours for the end
/// of the node, and a snapshot is put off instead.
pub(crate) type MaybeSnapshot = Option<Arc<SnapshotFile>>;

/// A finished snapshot file, kept open.
#[derive(Debug)]
pub(crate) struct SnapshotFile {
    path: Mutex<PathBuf>,
    file: Arc<File>,
    meta: SnapshotMeta,
    len: u64,
    /// Read back wrong: never to be served again.
    damaged: AtomicBool,
    /// Of one that has no lasting name yet.
    temporary: Mutex<Option<Temporary>>,
}

impl SnapshotFile {
    pub(crate) fn meta(&self) -> &SnapshotMeta {
        &self.meta
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// The bytes from `offset`, at most `max` of them.
    pub(crate) fn read_at(&self, offset: u64, max: usize) -> io::Result<Vec<u8>> {
        let left = usize::try_from(self.len.saturating_sub(offset)).map_err(io::Error::other)?;
        let mut buffer = vec![0; max.min(left)];
        std::os::unix::fs::FileExt::read_exact_at(&*self.file, &mut buffer, offset)?;
        Ok(buffer)
    }

    /// Its rows, each chunk checked before it is given out.
    pub(crate) fn rows(&self) -> io::Result<impl Iterator<Item = io::Result<Row>> + use<>> {
        Ok(Reader::open(BufReader::new(Cursor { file: Arc::clone(&self.file), at: 0 }))?.1)
    }

    /// Reads it through; a damaged one is marked and will be made anew.
    pub(crate) fn verify(&self) -> io::Result<()> {
        let checked = self.rows().and_then(|mut rows| rows.try_for_each(|row| row.map(drop)));
        if let Err(error) = &checked {
            tracing::error!(file = %self.path.lock().display(), %error, "snapshot is damaged, it will be made anew");
            self.damaged.store(true, Ordering::Release);
        }
        checked
    }

    /// Opens a file and reads it through.
    fn check(path: &Path) -> io::Result<Self> {
        let file = Self::open(path)?;
        file.verify()?;
        Ok(file)
    }

    fn open(path: &Path) -> io::Result<Self> {
        let file = Arc::new(File::open(path)?);
        let (meta, _) = Reader::open(BufReader::new(Cursor { file: Arc::clone(&file), at: 0 }))?;
        let len = file.metadata()?.len();
        Ok(Self {
            path: Mutex::new(path.to_owned()),
            file,
            meta,
            len,
            damaged: AtomicBool::new(false),
            temporary: Mutex::new(None),
        })
    }
}

/// Reads an open file from its beginning, whoever else reads it.
struct Cursor {
    file: Arc<File>,
    at: u64,
}

impl io::Read for Cursor {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = std::os::unix::fs::FileExt::read_at(&*self.file, buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

#[derive(Debug)]
pub(crate) struct SnapshotDir {
    path: PathBuf,
    current: Mutex<Option<Arc<SnapshotFile>>>,
    /// The newest of those that were set aside, and what is wrong with it.
    damage: Option<String>,
    /// Tells temporary files apart.
    counter: AtomicU64,
    /// How long the latest took that this process has written; 0 before that.
    took_us: AtomicU64,
}

impl SnapshotDir {
    /// How long the latest took that this process has written, from the image to the disk; zero before that.
    pub(crate) fn took(&self) -> Duration {
        Duration::from_micros(self.took_us.load(Ordering::Relaxed))
    }

    /// Opens the directory: deletes what was never finished, sets aside what is damaged, keeps the newest that is good.
    pub(crate) fn open(path: &Path) -> io::Result<Arc<Self>> {
        fs::create_dir_all(path)?;
        let mut dir = Self {
            path: path.to_owned(),
            current: Mutex::new(None),
            damage: None,
            counter: AtomicU64::new(0),
            took_us: AtomicU64::new(0),
        };
        // In the order of their names, which is that of their age.
        let mut paths = fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
        paths.sort();
        for path in paths {
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("tmp") => fs::remove_file(&path)?,
                Some("snap") => dir.consider(&path)?,
                Some(DAMAGED) => dir.note_damage(&path, SnapshotFile::check(&path).err()),
                _ => {}
            }
        }
        Ok(Arc::new(dir))
    }

    fn consider(&mut self, path: &Path) -> io::Result<()> {
        match SnapshotFile::check(path) {
            Ok(file) => self.keep_newest(Arc::new(file)),
            Err(error) => {
                let aside = path.with_extension(DAMAGED);
                tracing::warn!(file = %path.display(), %error, aside = %aside.display(), "snapshot is damaged, set aside");
                fs::rename(path, &aside)?;
                self.note_damage(&aside, Some(error));
                Ok(())
            }
        }
    }

    fn note_damage(&mut self, path: &Path, error: Option<io::Error>) {
        self.damage = error.map(|error| format!("{}: {error}", path.display())).or(self.damage.take());
    }

    /// The newest snapshot that was found damaged at the start or before it, and what is wrong with it.
    pub(crate) fn damage(&self) -> Option<&str> {
        self.damage.as_deref()
    }

    fn keep_newest(&self, file: Arc<SnapshotFile>) -> io::Result<()> {
        let mut current = self.current.lock();
        match &*current {
            Some(newest) if newest.meta.last_log_id > file.meta.last_log_id => fs::remove_file(&*file.path.lock()),
            older => {
                let path = file.path.lock().clone();
                if let Some(older) =
                    older.as_ref().map(|older| older.path.lock().clone()).filter(|older| *older != path)
                {
                    failpoint!("snapshot.before-drop");
                    fs::remove_file(&older)?;
                }
                *current = Some(file);
                Ok(())
            }
        }
    }

    /// The newest snapshot, unless it was found to be damaged.
    pub(crate) fn current(&self) -> Option<Arc<SnapshotFile>> {
        self.current.lock().clone().filter(|file| !file.damaged.load(Ordering::Acquire))
    }

    /// Whether there was one and it turned out to be damaged.
    pub(crate) fn is_damaged(&self) -> bool {
        self.current.lock().as_ref().is_some_and(|file| file.damaged.load(Ordering::Acquire))
    }

    /// Writes a snapshot and makes it the current one. Blocks on the disk.
    pub(crate) fn write(&self, meta: &SnapshotMeta, rows: Image) -> io::Result<Arc<SnapshotFile>> {
        let mut incoming = self.incoming()?;
        failpoint!("snapshot.before-write");
        file::write(&mut incoming.out, meta, rows)?;
        self.publish(incoming.finish()?)
    }

    /// A place for a snapshot that a peer sends.
    pub(crate) fn incoming(&self) -> io::Result<Incoming> {
        let path = self.path.join(format!("{}.tmp", self.counter.fetch_add(1, Ordering::Relaxed)));
        let out = BufWriter::new(File::create(&path)?);
        Ok(Incoming { path: Temporary(path), out, len: 0 })
    }

    /// Gives a finished file its lasting name, makes it the current one, and deletes older ones.
    pub(crate) fn publish(&self, file: Arc<SnapshotFile>) -> io::Result<Arc<SnapshotFile>> {
        let log_id = file.meta.last_log_id;
        let (term, index) = log_id.map_or((0, 0), |id| (id.leader_id.term, id.index));
        let path = self.path.join(format!("{term:020}-{index:020}.snap"));
        let old_path = file.path.lock().clone();
        if old_path != path {
            failpoint!("snapshot.before-rename");
            fs::rename(&old_path, &path)?;
            failpoint!("snapshot.after-rename");
            *file.path.lock() = path;
            if let Some(temporary) = file.temporary.lock().take() {
                temporary.keep();
            }
            File::open(&self.path)?.sync_all()?;
        }
        self.keep_newest(file)?;
        self.current().ok_or_else(|| io::Error::other("the new snapshot is gone"))
    }
}

/// A snapshot file that is being received. Deleted when it is dropped before it was published.
#[derive(Debug)]
pub(crate) struct Incoming {
    path: Temporary,
    out: BufWriter<File>,
    len: u64,
}

impl Incoming {
    /// Appends what came. Blocks on the disk.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.len += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Syncs the file and reads it through. Blocks on the disk.
    pub(crate) fn finish(mut self) -> io::Result<Arc<SnapshotFile>> {
        self.out.flush()?;
        failpoint!("snapshot.before-sync");
        self.out.get_ref().sync_all()?;
        let file = SnapshotFile::open(&self.path.0)?;
        file.verify()?;
        *file.temporary.lock() = Some(self.path);
        Ok(Arc::new(file))
    }
}

/// Deletes the file that it names when it is dropped.
#[derive(Debug)]
struct Temporary(PathBuf);

impl Temporary {
    /// It has another name now.
    fn keep(mut self) {
        self.0 = PathBuf::new();
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.0.as_os_str().is_empty() {
            let _ = fs::remove_file(&self.0);
        }
    }
}

/// Writes a snapshot off the apply path: the image was taken, apply goes on.
pub(crate) struct SnapshotBuilder {
    pub(crate) dir: Arc<SnapshotDir>,
    pub(crate) meta: SnapshotMeta,
    /// Taken when it is built. Nobody contends for it: the lock makes it shareable, as openraft wants it.
    pub(crate) image: Mutex<Option<Image>>,
    /// What the image speaks of is in these before it has its name.
    pub(crate) files: Arc<dyn Files>,
    /// Told when it could not be written: it is due again after a pause.
    pub(crate) put_off: Arc<AtomicBool>,
}

impl SnapshotBuilder {
    async fn write(&mut self) -> io::Result<Arc<SnapshotFile>> {
        let image = self.image.get_mut().take().ok_or_else(|| io::Error::other("a builder builds one snapshot"))?;
        let (dir, meta, files) = (Arc::clone(&self.dir), self.meta.clone(), Arc::clone(&self.files));
        let begun = Instant::now();
        let write = move || files.sync().and_then(|()| dir.write(&meta, image));
        let file = tokio::task::spawn_blocking(write).await.map_err(io::Error::other)??;
        let took_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.dir.took_us.store(took_us, Ordering::Relaxed);
        Ok(file)
    }
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = MaybeSnapshot;

    /// Never an error: what was not written says that it is of nothing, which is no progress to openraft. The log is kept
    /// until one is written.
    async fn build_snapshot(&mut self) -> io::Result<openraft::alias::SnapshotOf<TypeConfig, MaybeSnapshot>> {
        match self.write().await {
            Ok(file) => Ok(Snapshot { meta: file.meta.clone(), snapshot: Some(file) }),
            Err(error) => {
                let dir = self.dir.path.display();
                tracing::warn!(%dir, %error, "snapshot can't be written: the log is kept, it is tried again later");
                self.put_off.store(true, Ordering::Release);
                Ok(Snapshot { meta: SnapshotMeta::default(), snapshot: None })
            }
        }
    }
}

#[cfg(test)]
#[path = "dir_tests.rs"]
mod tests;
