//! A disk in memory that does to a log what real ones do: it loses what was not synced when the power goes, in any
//! order of sectors; it takes less than it was given; it fills up; its syncs fail. Everything follows from a seed.

use std::any::Any;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use crate::disk::{Disk, DiskFile};
use crate::index;
use crate::record::SECTOR_BYTES;

/// The disk. Clones are the same disk.
#[derive(Clone, Default)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
    /// Told when the faults change.
    changed: Arc<Condvar>,
}

/// What goes wrong from now on.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// Every sync of a file fails.
    pub syncs_fail: bool,
    /// Every sync of a file waits until this is taken back.
    pub syncs_hang: bool,
    /// Every write ends at the next sector: kernels copy page by page, so it never ends within one.
    pub short_writes: bool,
    /// The bytes that all files together may have.
    pub capacity: Option<u64>,
}

#[derive(Clone, Default)]
struct State {
    files: Vec<File>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    /// Changes of names since the last sync of the directory.
    renames: Vec<Rename>,
    faults: Faults,
    locked: bool,
}

#[derive(Clone, Default)]
struct File {
    bytes: Vec<u8>,
    durable: Vec<u8>,
    /// Sectors as each write since the last sync left them.
    unsynced: BTreeMap<u64, Vec<Vec<u8>>>,
}

#[derive(Clone)]
enum Rename {
    Put(PathBuf, usize),
    Remove(PathBuf),
}

impl SimDisk {
    /// Sets what goes wrong from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.state.lock().faults = faults;
        self.changed.notify_all();
    }

    /// What the disk would hold if the power went now, by `seed`. This disk goes on undisturbed.
    #[must_use]
    pub fn after_power_cut(&self, seed: u64) -> Self {
        let state = self.state.lock().clone();
        let copy = Self { state: Arc::new(Mutex::new(state)), ..Self::default() };
        copy.set_faults(Faults::default());
        copy.power_cut(seed);
        copy
    }

    /// The power goes: of what was not synced, `seed` decides which sectors and names reached the disk.
    pub fn power_cut(&self, seed: u64) {
        let mut random = Random(seed);
        let mut state = self.state.lock();
        state.locked = false;
        for file in &mut state.files {
            file.lose_unsynced(&mut random);
        }
        let kept = random.below(state.renames.len() as u64 + 1);
        let renames = std::mem::take(&mut state.renames);
        let mut names = std::mem::take(&mut state.durable_names);
        for rename in renames.into_iter().take(index(kept)) {
            rename.apply(&mut names);
        }
        state.names = names.clone();
        state.durable_names = names;
    }

    /// Changes the bytes of a file behind everybody's back.
    ///
    /// # Panics
    /// When there is no such file.
    pub fn tamper(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state.lock();
        state.locked = false;
        let inode = *state.names.get(path).expect("tests name files that are there");
        let file = &mut state.files[inode];
        change(&mut file.bytes);
        file.durable = file.bytes.clone();
        file.unsynced.clear();
    }

    /// Removes a file behind everybody's back.
    pub fn lose(&self, path: &Path) {
        let mut state = self.state.lock();
        state.locked = false;
        state.names.remove(path);
        state.durable_names.remove(path);
    }

    /// The bytes of a file.
    #[must_use]
    pub fn bytes(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.state.lock();
        state.names.get(path).map(|inode| state.files[*inode].bytes.clone())
    }

    /// A copy of the whole disk, to be damaged in several ways.
    #[must_use]
    pub fn copy(&self) -> Self {
        let state = self.state.lock();
        let copied = |bytes: &Vec<u8>| File { bytes: bytes.clone(), durable: bytes.clone(), unsynced: BTreeMap::new() };
        let files = state.files.iter().map(|file| copied(&file.bytes)).collect();
        let (names, durable_names) = (state.names.clone(), state.names.clone());
        let state = State { files, names, durable_names, ..State::default() };
        Self { state: Arc::new(Mutex::new(state)), ..Self::default() }
    }
}

impl Disk for SimDisk {
    fn create_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self, _: &Path) -> io::Result<Box<dyn Any + Send + Sync>> {
        let mut state = self.state.lock();
        if std::mem::replace(&mut state.locked, true) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(Unlock(self.clone())))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let state = self.state.lock();
        Ok(state.names.keys().filter(|path| path.parent() == Some(dir)).cloned().collect())
    }

    fn file(&self, path: &Path, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state.lock();
        let inode = match state.names.get(path) {
            Some(inode) if !create => *inode,
            None if !create => return Err(io::ErrorKind::NotFound.into()),
            _ => {
                state.files.push(File::default());
                let inode = state.files.len() - 1;
                state.rename(Rename::Put(path.to_owned(), inode));
                inode
            }
        };
        Ok(Arc::new(SimFile { disk: self.clone(), inode }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        let inode = *state.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        state.rename(Rename::Put(to.to_owned(), inode));
        state.rename(Rename::Remove(from.to_owned()));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        if !state.names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.rename(Rename::Remove(path.to_owned()));
        Ok(())
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.durable_names = state.names.clone();
        state.renames.clear();
        Ok(())
    }
}

impl State {
    fn rename(&mut self, rename: Rename) {
        rename.clone().apply(&mut self.names);
        self.renames.push(rename);
    }

    fn used(&self) -> u64 {
        self.names.values().map(|inode| self.files[*inode].bytes.len() as u64).sum()
    }

    fn refuse_growth(&self, inode: usize, len: u64) -> io::Result<()> {
        let grows_by = len.saturating_sub(self.files[inode].bytes.len() as u64);
        match self.faults.capacity {
            Some(capacity) if grows_by > 0 && self.used() + grows_by > capacity => {
                Err(io::ErrorKind::StorageFull.into())
            }
            _ => Ok(()),
        }
    }
}

impl Rename {
    fn apply(self, names: &mut BTreeMap<PathBuf, usize>) {
        match self {
            Self::Put(path, inode) => names.insert(path, inode),
            Self::Remove(path) => names.remove(&path),
        };
    }
}

impl File {
    fn write(&mut self, bytes: &[u8], offset: u64) {
        let (start, end) = (index(offset), index(offset) + bytes.len());
        self.bytes.resize(self.bytes.len().max(end), 0);
        self.bytes[start..end].copy_from_slice(bytes);
        for sector in offset / SECTOR_BYTES..(end as u64).div_ceil(SECTOR_BYTES) {
            let from = index(sector * SECTOR_BYTES);
            let to = self.bytes.len().min(from + index(SECTOR_BYTES));
            self.unsynced.entry(sector).or_default().push(self.bytes[from..to].to_vec());
        }
    }

    fn set_len(&mut self, len: u64) {
        // A file system keeps lengths in its journal, in order.
        for bytes in [&mut self.bytes, &mut self.durable] {
            bytes.resize(index(len), 0);
        }
        self.unsynced.retain(|sector, _| sector * SECTOR_BYTES < len);
        for (sector, versions) in &mut self.unsynced {
            let kept = index((len - sector * SECTOR_BYTES).min(SECTOR_BYTES));
            versions.iter_mut().for_each(|version| version.truncate(kept));
        }
    }

    fn lose_unsynced(&mut self, random: &mut Random) {
        let mut survived = std::mem::take(&mut self.durable);
        for (sector, versions) in std::mem::take(&mut self.unsynced) {
            let version = random.below(versions.len() as u64 + 1);
            if let Some(bytes) = version.checked_sub(1).map(|version| &versions[index(version)]) {
                let from = index(sector * SECTOR_BYTES);
                survived.resize(survived.len().max(from + bytes.len()), 0);
                survived[from..from + bytes.len()].copy_from_slice(bytes);
            }
        }
        self.bytes = survived.clone();
        self.durable = survived;
    }
}

struct SimFile {
    disk: SimDisk,
    inode: usize,
}

impl DiskFile for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.disk.state.lock();
        let rest = state.files[self.inode].bytes.get(index(offset)..).unwrap_or_default();
        let len = rest.len().min(buffer.len());
        buffer[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let mut state = self.disk.state.lock();
        let sector = index(SECTOR_BYTES - offset % SECTOR_BYTES);
        let len = if state.faults.short_writes { bytes.len().min(sector) } else { bytes.len() };
        state.refuse_growth(self.inode, offset + len as u64)?;
        state.files[self.inode].write(&bytes[..len], offset);
        Ok(len)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.state.lock().files[self.inode].bytes.len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        state.refuse_growth(self.inode, len)?;
        state.files[self.inode].set_len(len);
        Ok(())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let longer = self.len()?.max(len);
        self.set_len(longer)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        self.disk.changed.wait_while(&mut state, |state| state.faults.syncs_hang);
        if state.faults.syncs_fail {
            return Err(io::Error::other("input/output error"));
        }
        let file = &mut state.files[self.inode];
        file.durable = file.bytes.clone();
        file.unsynced.clear();
        Ok(())
    }
}

struct Unlock(SimDisk);

impl Drop for Unlock {
    fn drop(&mut self) {
        self.0.state.lock().locked = false;
    }
}

/// SplitMix64: enough for choosing sectors.
pub struct Random(pub u64);

impl Random {
    /// A number less than `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}
