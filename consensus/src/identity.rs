//! Whose data directory this is: one small file, written atomically, and a lock that one process holds.
//!
//! A node is born with its data directory: the `birth` is drawn once, before anything else. A first member that was not
//! there when the cluster was founded can therefore prove that it never lost its disk since, and may take the Raft id
//! that the founder gave it. Whoever can't prove it asks the leader for its next incarnation.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use tollgate_storage::failpoint;

use crate::StartError;

const FILE: &str = "identity";
const LOCK: &str = "lock";
/// There while the log must not be used again.
const REJOIN: &str = "rejoin";
/// The log of the last incarnation that was given up with one.
const LOG_ASIDE: &str = "log.aside";
/// A process that was killed a moment ago may still be on its way out.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
const LOCK_RETRY: Duration = Duration::from_millis(20);
/// Format and version; the checksum of the rest follows.
const MAGIC: &[u8; 8] = b"tgident1";

/// A random 16 bytes that tell clusters, or lives of a data directory, apart.
pub(crate) type Id = [u8; 16];

/// What is written down of who this is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) node: u64,
    /// Drawn when the data directory was made.
    pub(crate) birth: Id,
    /// The cluster and this node's incarnation in it, once it is in one.
    pub(crate) member: Option<Membership>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Membership {
    pub(crate) cluster: Id,
    pub(crate) incarnation: u16,
    /// The first members and their births, where this node knows them.
    pub(crate) founders: Vec<Founder>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Founder {
    pub(crate) node: u64,
    pub(crate) birth: Id,
}

/// A data directory that this process alone uses.
pub(crate) struct DataDir {
    path: PathBuf,
    /// Held as long as the process uses the directory.
    lock: File,
    identity: Identity,
}

impl DataDir {
    /// Locks `path`, which is made when it is not there, and reads whose it is.
    pub(crate) fn open(path: &Path, node: u64) -> Result<Self, StartError> {
        let storage = |error| StartError::Storage { path: path.to_owned(), error };
        fs::create_dir_all(path).map_err(storage)?;
        let lock = lock(path)?;
        let identity = match read(path).map_err(|error| StartError::Storage { path: path.join(FILE), error })? {
            Some(identity) if identity.node != node => {
                return Err(StartError::WrongNode { dir: path.to_owned(), found: identity.node, expected: node });
            }
            Some(identity) => identity,
            None => give_birth(path, node).map_err(storage)?,
        };
        Ok(Self { path: path.to_owned(), lock, identity })
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    pub(crate) fn snapshots(&self) -> PathBuf {
        self.path.join("snapshots")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.path.join("state")
    }

    /// Writes down that this node is in a cluster, before it acts as a member.
    pub(crate) fn become_member(&mut self, member: Membership) -> Result<(), StartError> {
        let identity = Identity { member: Some(member), ..self.identity.clone() };
        write(&self.path, &identity).map_err(|error| StartError::Storage { path: self.path.join(FILE), error })?;
        self.identity = identity;
        Ok(())
    }

    /// Forgets the cluster: this is a new life, which never voted. Before anything of it is on the disk.
    pub(crate) fn be_born_again(&mut self) -> Result<(), StartError> {
        let identity = Identity { node: self.identity.node, birth: new_id(), member: None };
        write(&self.path, &identity).map_err(|error| StartError::Storage { path: self.path.join(FILE), error })?;
        self.identity = identity;
        Ok(())
    }

    /// Whether the log is gone though this node was a member, or known to have lost something: it may have voted and no
    /// longer knows.
    pub(crate) fn has_lost_its_log(&self) -> bool {
        self.identity.member.is_some() && (is_empty_dir(&self.log()) || self.path.join(REJOIN).exists())
    }

    /// Writes down that this node must not go on with this log, whatever becomes of the process.
    pub(crate) fn mark_to_rejoin(&self) -> io::Result<()> {
        File::create(self.path.join(REJOIN))?.sync_all()?;
        File::open(&self.path)?.sync_all()
    }

    /// Moves the log out of the way, for whoever wants to look into it; gives its new place, if there was one.
    pub(crate) fn set_log_aside(&self) -> io::Result<Option<PathBuf>> {
        let aside = self.path.join(LOG_ASIDE);
        let moved = !is_empty_dir(&self.log());
        if moved {
            if aside.exists() {
                fs::remove_dir_all(&aside)?;
            }
            fs::rename(self.log(), &aside)?;
        }
        if let Err(error) = fs::remove_file(self.path.join(REJOIN))
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
        File::open(&self.path)?.sync_all()?;
        Ok(moved.then_some(aside))
    }
}

impl Drop for DataDir {
    /// Said aloud: a mere close waits for whoever else has the file open just now, a child that was just forked say.
    fn drop(&mut self) {
        let _ = self.lock.unlock();
    }
}

fn is_empty_dir(path: &Path) -> bool {
    fs::read_dir(path).map_or(true, |mut entries| entries.next().is_none())
}

fn lock(dir: &Path) -> Result<File, StartError> {
    let path = dir.join(LOCK);
    let storage = |error| StartError::Storage { path: path.clone(), error };
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(storage)?;
    let until = Instant::now() + LOCK_PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < until => std::thread::sleep(LOCK_RETRY),
            Err(TryLockError::WouldBlock) => return Err(StartError::Locked(dir.to_owned())),
            Err(TryLockError::Error(error)) => return Err(storage(error)),
        }
    }
}

/// A new identity for an empty directory. One that has a log already must not be taken for a new one.
fn give_birth(dir: &Path, node: u64) -> io::Result<Identity> {
    if !is_empty_dir(&dir.join("log")) {
        return Err(io::Error::other(
            "there is a log but no `identity` file; put the file back, or empty the directory and let the node rejoin",
        ));
    }
    let identity = Identity { node, birth: new_id(), member: None };
    write(dir, &identity)?;
    Ok(identity)
}

fn new_id() -> Id {
    rand::random()
}

fn read(dir: &Path) -> io::Result<Option<Identity>> {
    let bytes = match fs::read(dir.join(FILE)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    decode(&bytes).map(Some).ok_or_else(|| io::Error::other("is damaged: its checksum does not match"))
}

fn decode(bytes: &[u8]) -> Option<Identity> {
    let rest = bytes.strip_prefix(MAGIC)?;
    let (sum, body) = rest.split_first_chunk::<4>()?;
    (crc32c::crc32c(body) == u32::from_le_bytes(*sum)).then(|| postcard::from_bytes(body).ok())?
}

fn write(dir: &Path, identity: &Identity) -> io::Result<()> {
    let body = postcard::to_stdvec(identity).map_err(io::Error::other)?;
    let temporary = dir.join("identity.tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(MAGIC)?;
    file.write_all(&crc32c::crc32c(&body).to_le_bytes())?;
    file.write_all(&body)?;
    failpoint!("identity.before-sync");
    file.sync_all()?;
    failpoint!("identity.before-rename");
    fs::rename(&temporary, dir.join(FILE))?;
    failpoint!("identity.after-rename");
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member() -> Membership {
        Membership { cluster: [7; 16], incarnation: 2, founders: vec![Founder { node: 1, birth: [1; 16] }] }
    }

    #[test]
    fn an_identity_survives_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = DataDir::open(dir.path(), 1).unwrap();
        first.become_member(member()).unwrap();
        let identity = first.identity().clone();
        drop(first);
        assert_eq!(DataDir::open(dir.path(), 1).unwrap().identity(), &identity);
    }

    #[test]
    fn a_second_process_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let _first = DataDir::open(dir.path(), 1).unwrap();
        assert!(matches!(DataDir::open(dir.path(), 1), Err(StartError::Locked(_))));
    }

    #[test]
    fn another_node_is_refused_and_told_whose_it_is() {
        let dir = tempfile::tempdir().unwrap();
        drop(DataDir::open(dir.path(), 1).unwrap());
        let refused = DataDir::open(dir.path(), 2).err().unwrap();
        assert!(refused.to_string().contains("belongs to node 1, not to node 2"), "{refused}");
    }

    #[test]
    fn a_flipped_bit_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        drop(DataDir::open(dir.path(), 1).unwrap());
        let mut bytes = fs::read(dir.path().join(FILE)).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(dir.path().join(FILE), bytes).unwrap();
        assert!(matches!(DataDir::open(dir.path(), 1), Err(StartError::Storage { .. })));
    }

    #[test]
    fn a_log_without_an_identity_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("log")).unwrap();
        fs::write(dir.path().join("log/1"), "x").unwrap();
        assert!(matches!(DataDir::open(dir.path(), 1), Err(StartError::Storage { .. })));
    }

    #[test]
    fn a_member_without_its_log_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let mut data = DataDir::open(dir.path(), 1).unwrap();
        assert!(!data.has_lost_its_log());
        data.become_member(member()).unwrap();
        assert!(data.has_lost_its_log());
        fs::create_dir(data.log()).unwrap();
        fs::write(data.log().join("1"), "x").unwrap();
        assert!(!data.has_lost_its_log());
        data.mark_to_rejoin().unwrap();
        assert!(data.has_lost_its_log());
        let aside = data.set_log_aside().unwrap().unwrap();
        assert!(aside.join("1").exists() && !data.log().exists() && !data.path().join(REJOIN).exists());
        assert!(data.has_lost_its_log());
    }
}
