//! Segments that a node lets go of, through full disks, power cuts and damage.

use std::{
    any::Any,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use proptest::prelude::*;
use tollgate_model::LogIndex;
use tollgate_storage::DiskFile;

use super::*;
use crate::ledger::{Archive, Nowhere, verify_files};

const ARCHIVE: &str = "/archive";
/// After all rows were settled, and every month is closed.
const LATER: Timestamp = Timestamp(1_900_000_000_000_000);

fn archiving(disk: &SimDisk, archive: &SimDisk) -> Keeper {
    keeper(disk).with_archive(Archive::on(Arc::new(archive.clone()), ARCHIVE.into(), 1))
}

/// One whose months are all closed, and what is in it.
fn closed(keeper: &Keeper) -> Vec<LedgerRow> {
    small(keeper);
    let recorded = record(keeper, 1..=60);
    close(keeper);
    keeper.sync().unwrap();
    recorded
}

fn close(keeper: &Keeper) {
    keeper.close_months(Came { at: LogIndex(1_000), now: LATER }, &mut Changes::new());
}

fn archive_all(keeper: &Keeper) -> u64 {
    (0..).find(|_| !keeper.archive_next(LATER).unwrap()).unwrap()
}

fn complete(keeper: &Keeper) -> u64 {
    keeper.look(|state| state.chain().complete().count()) as u64
}

/// Numbers of the segments that a directory has, by the files' names.
fn there(disk: &SimDisk, dir: &str) -> Vec<String> {
    let name = |path: &std::path::PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    let is_bytes = |name: &String| !name.ends_with(".archived") && name != "head";
    disk.list(Path::new(dir)).unwrap().iter().map(name).filter(is_bytes).collect()
}

fn archived_path(keeper: &Keeper, segment: u64) -> std::path::PathBuf {
    let hash = keeper.look(|state| state.chain().extent(segment).unwrap().hash);
    Path::new(ARCHIVE).join(archive::name(segment, &hash))
}

#[test]
fn what_was_let_go_of_is_read_as_before_here_and_by_others_and_by_the_next_process() {
    let (disk, archive) = (SimDisk::default(), SimDisk::default());
    let keeper = archiving(&disk, &archive);
    let recorded = closed(&keeper);
    let bytes: Vec<_> = (1..=complete(&keeper)).map(|it| keeper.read(it, 0, 1 << 20).unwrap()).collect();
    assert_eq!(archive_all(&keeper), complete(&keeper));
    assert_eq!(there(&disk, DIR).len(), 1, "the open one stays");
    assert_eq!(there(&archive, ARCHIVE).len() as u64, complete(&keeper));
    let next = archiving(&disk, &archive);
    next.restore(keeper.look(State::clone));
    for keeper in [keeper, next] {
        for page in [1, 7, 1_000] {
            assert_eq!(all(&keeper, page), recorded);
        }
        ok(&keeper.verify().unwrap(), recorded.len());
        for (segment, bytes) in (1..).zip(&bytes) {
            assert_eq!(keeper.read(segment, 0, 1 << 20).unwrap(), *bytes);
            assert_eq!(keeper.read(segment, 60, 100).unwrap(), bytes[60..160]);
        }
        assert_eq!(keeper.find(&recorded[3].request_id).unwrap()[0].row, recorded[3]);
        assert_eq!(keeper.missing().unwrap(), []);
        assert_eq!(archive_all(&keeper), 0);
    }
}

#[test]
fn only_closed_months_are_let_go_of_and_only_once_they_are_old_enough() {
    let (disk, archive) = (SimDisk::default(), SimDisk::default());
    let keeper = archiving(&disk, &archive);
    small(&keeper);
    let recorded = record(&keeper, 1..=60);
    assert_eq!(archive_all(&keeper), 0, "January is open");
    close(&keeper);
    assert!(!keeper.archive_next(Timestamp(recorded[0].settled_us)).unwrap());
    let half = Timestamp(recorded[60].settled_us);
    let gone = (0..).find(|_| !keeper.archive_next(half).unwrap()).unwrap();
    assert!((1..complete(&keeper)).contains(&gone), "{gone}");
    let old = keeper.look(|state| state.chain().extent(gone).unwrap().last_seq);
    assert!(recorded.iter().all(|row| row.seq > old || row.settled_us <= half.0));
    // A month that is open holds back what is behind its first row, however old that is.
    record(&keeper, 61..=62);
    let open = keeper.look(|state| state.periods().first_open_segment().unwrap());
    record(&keeper, 63..=90);
    assert_eq!(gone + archive_all(&keeper), open - 1);
    assert_eq!(keeper.first_kept().unwrap(), open);
    assert!(!super::keeper(&SimDisk::default()).archive_next(LATER).unwrap(), "without an archive nothing goes");
}

#[test]
fn on_a_full_disk_nothing_is_let_go_of() {
    let (disk, archive) = (SimDisk::default(), SimDisk::default());
    let keeper = archiving(&disk, &archive);
    let recorded = closed(&keeper);
    let had = there(&disk, DIR);
    for capacity in [0, 1, 100, 600, 1_000] {
        archive.set_faults(Faults { capacity: Some(capacity), ..Faults::default() });
        assert_eq!(keeper.archive_next(LATER).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(there(&disk, DIR), had);
        assert_eq!(there(&archive, ARCHIVE), [""; 0], "what was begun takes no space");
    }
    archive.set_faults(Faults::default());
    // And where there is no space for the note that takes its place.
    disk.set_faults(Faults { capacity: Some(0), ..Faults::default() });
    assert_eq!(keeper.archive_next(LATER).unwrap_err().kind(), io::ErrorKind::StorageFull);
    assert_eq!(there(&disk, DIR), had);
    assert_eq!(all(&keeper, 100), recorded);
    disk.set_faults(Faults::default());
    assert_eq!(archive_all(&keeper), complete(&keeper));
    assert_eq!(all(&keeper, 100), recorded);
}

#[test]
fn a_copy_that_fails_to_sync_is_none() {
    let (disk, archive) = (SimDisk::default(), SimDisk::default());
    let keeper = archiving(&disk, &archive);
    closed(&keeper);
    let had = there(&disk, DIR);
    archive.set_faults(Faults { syncs_fail: true, ..Faults::default() });
    keeper.archive_next(LATER).unwrap_err();
    assert_eq!((there(&disk, DIR), there(&archive, ARCHIVE)), (had, Vec::new()));
}

#[test]
fn a_flipped_byte_in_the_archive_is_named_and_mended_from_another_node() {
    let (disk, archive, other) = (SimDisk::default(), SimDisk::default(), SimDisk::default());
    let (keeper, whole) = (archiving(&disk, &archive), super::keeper(&other));
    let recorded = closed(&keeper);
    closed(&whole);
    archive_all(&keeper);
    let path = archived_path(&keeper, 2);
    archive.tamper(&path, |bytes| bytes[100] ^= 1);
    let verified = keeper.verify().unwrap();
    assert_eq!(verified.broken, [2]);
    assert!(verified.problems[0].starts_with("segment 2 of the ledger is broken at byte "), "{:?}", verified.problems);
    assert!(keeper.rows(0, 1_000).unwrap_err().to_string().contains("segment 2 of the ledger is broken"));
    // Who lacks it does not take it from there.
    keeper.lose(2).unwrap();
    let missing = keeper.missing().unwrap()[0];
    assert_eq!(keeper.find_archived(&missing).unwrap_err().kind(), io::ErrorKind::InvalidData);
    let bytes = whole.read(2, 0, 1 << 20).unwrap();
    keeper.put(&missing, &bytes).unwrap();
    ok(&keeper.verify().unwrap(), recorded.len());
    assert_eq!(archive_all(&keeper), 1, "and it takes the place of what was there");
    assert_eq!(archive.bytes(&path).unwrap(), bytes);
    ok(&keeper.verify().unwrap(), recorded.len());
}

#[test]
fn a_segment_that_is_broken_here_is_not_archived() {
    let (disk, archive) = (SimDisk::default(), SimDisk::default());
    let keeper = archiving(&disk, &archive);
    closed(&keeper);
    disk.tamper(&Path::new(DIR).join("000000000001.seg"), |bytes| bytes[100] ^= 1);
    let error = keeper.archive_next(LATER).unwrap_err();
    assert!(error.to_string().starts_with("segment 1 of the ledger is broken"), "{error}");
    assert_eq!(there(&archive, ARCHIVE), [""; 0]);
}

#[test]
fn what_is_nowhere_is_named_and_the_rest_is_still_read() {
    let (disk, archive) = (SimDisk::default(), SimDisk::default());
    let keeper = archiving(&disk, &archive);
    let mut recorded = closed(&keeper);
    let gone = archive_all(&keeper);
    recorded.extend(record(&keeper, 61..=63));
    let path = archived_path(&keeper, 3);
    let bytes = archive.bytes(&path).unwrap();
    archive.lose(&path);
    let lost = Nowhere::Lost { segment: 3, path: path.clone() };
    assert_eq!(keeper.rows(0, 1_000).unwrap_err().downcast::<Nowhere>().unwrap(), lost);
    assert_eq!(keeper.find(&id(999)).unwrap_err().downcast::<Nowhere>().unwrap(), lost);
    assert!(keeper.read(3, 0, 10).is_err(), "nor is it sent to others");
    let verified = keeper.verify().unwrap();
    assert_eq!((&verified.unseen[..], &verified.broken[..]), (&[3][..], &[3][..]));
    assert_eq!(verified.problems, [format!("{lost}: it was not looked at")], "what is behind it is in order");
    // An archive that is away is not fetched from others.
    let away = archiving(&disk, &SimDisk::default());
    keeper.sync().unwrap();
    away.restore(keeper.look(State::clone));
    let verified = away.verify().unwrap();
    assert_eq!((verified.unseen, verified.broken), ((1..=gone).collect::<Vec<_>>(), Vec::new()));
    // Without an archive at all, what was settled lately is read.
    keeper.sync().unwrap();
    let last = recorded.last().unwrap();
    let alone = restarted(&disk, &keeper);
    let verified = alone.verify().unwrap();
    assert_eq!(verified.unseen, (1..=gone).collect::<Vec<_>>());
    assert!(verified.problems[0].contains("name that directory in ledger.archive"), "{:?}", verified.problems);
    let after = alone.before(Timestamp(last.settled_us)).unwrap();
    assert_eq!(alone.rows(after, 100).unwrap().last().map(|row| row.seq), Some(last.seq));
    assert!(alone.rows(0, 1).unwrap_err().to_string().starts_with("segment 1 of the ledger was archived as "));
    // Put back, it is there.
    let file = archive.file(&path, true).unwrap();
    file.write_at(&bytes, 0).unwrap();
    ok(&keeper.verify().unwrap(), recorded.len());
}

#[test]
fn a_node_that_lacks_segments_finds_them_in_the_archive() {
    let (disk, archive) = (SimDisk::default(), SimDisk::default());
    let keeper = archiving(&disk, &archive);
    let recorded = closed(&keeper);
    archive_all(&keeper);
    let new = archiving(&SimDisk::default(), &archive);
    new.restore(keeper.look(State::clone));
    let found = new.missing().unwrap().iter().filter(|it| new.find_archived(it).unwrap()).count();
    assert_eq!(found as u64, complete(&keeper));
    let [missing] = new.missing().unwrap()[..] else { panic!("only the open one") };
    new.put(&missing, &keeper.read(missing.extent.segment, 0, 1 << 20).unwrap()).unwrap();
    assert_eq!(all(&new, 50), recorded);
    ok(&new.verify().unwrap(), recorded.len());
}

/// What is there of a ledger without a process, as the disk has it.
#[test]
fn offline_what_was_archived_is_read_where_it_is_given_and_told_where_it_is_not() {
    let (dir, archive) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let keeper = Keeper::new(dir.path().into()).with_archive(Archive::new(archive.path().into(), 1));
    let recorded = closed(&keeper);
    archive_all(&keeper);
    let (all, hash) = (complete(&keeper), keeper.verify().unwrap().hash);
    let verified = verify_files(dir.path(), Some(archive.path())).unwrap();
    ok(&verified, recorded.len());
    assert_eq!((verified.hash, verified.segments), (hash, all + 1));
    let verified = verify_files(dir.path(), None).unwrap();
    assert_eq!(verified.problems, [""; 0]);
    assert_eq!((verified.hash, verified.unseen), (hash, (1..=all).collect()));

    let name = |segment| {
        let hash = keeper.look(|state| state.chain().extent(segment).unwrap().hash);
        archive.path().join(archive::name(segment, &hash))
    };
    let good = std::fs::read(name(2)).unwrap();
    let mut bytes = good.clone();
    bytes[100] ^= 1;
    std::fs::write(name(2), bytes).unwrap();
    let verified = verify_files(dir.path(), Some(archive.path())).unwrap();
    assert!(verified.problems[0].starts_with("segment 2 of the ledger is broken at byte "), "{:?}", verified.problems);
    // All of another segment's records, or some: it is in order, but not what its name says.
    std::fs::write(name(2), &good[..52]).unwrap();
    let verified = verify_files(dir.path(), Some(archive.path())).unwrap();
    assert!(verified.problems[0].contains("its hash is another one"), "{:?}", verified.problems);
    std::fs::remove_file(name(2)).unwrap();
    let verified = verify_files(dir.path(), Some(archive.path())).unwrap();
    assert!(verified.problems[0].starts_with("segment 2 of the ledger was archived, and "), "{:?}", verified.problems);
    assert_eq!(verified.unseen, [2]);
    std::fs::remove_file(dir.path().join("000000000002.archived")).unwrap();
    let verified = verify_files(dir.path(), Some(archive.path())).unwrap();
    assert!(verified.problems[0].starts_with("segment 2 is not there"), "{:?}", verified.problems);
}

/// The power goes with some change of the disk: that one and all after it fail.
#[derive(Clone)]
struct Failing(SimDisk, Arc<AtomicU64>);

impl Failing {
    fn change(&self) -> io::Result<()> {
        let is_on = self.1.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok();
        is_on.then_some(()).ok_or_else(|| io::Error::other("the power is gone"))
    }
}

impl Disk for Failing {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.create_dir(dir)
    }
    fn lock(&self, dir: &Path) -> io::Result<Box<dyn Any + Send + Sync>> {
        self.0.lock(dir)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        self.0.list(dir)
    }
    fn file(&self, path: &Path, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        if create {
            self.change()?;
        }
        Ok(Arc::new(FailingFile(self.0.file(path, create)?, self.clone())))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change()?;
        self.0.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.change()?;
        self.0.remove(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.change()?;
        self.0.sync_dir(dir)
    }
}

struct FailingFile(Arc<dyn DiskFile>, Failing);

impl DiskFile for FailingFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.1.change()?;
        self.0.write_at(bytes, offset)
    }
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.1.change()?;
        self.0.set_len(len)
    }
    fn allocate(&self, len: u64) -> io::Result<()> {
        self.1.change()?;
        self.0.allocate(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.1.change()?;
        self.0.sync_data()
    }
}

proptest! {
    /// Whichever change of the disk the power goes with, and whatever that leaves of what was not synced: every row is still
    /// there, no segment is missing, and the next process archives the rest. The archive is another disk, which loses power too.
    #[test]
    fn a_power_cut_while_segments_are_archived_loses_nothing(after in 0..60_u64, seed: u64, at_once: bool) {
        let disks = [SimDisk::default(), SimDisk::default()];
        let power = Arc::new(AtomicU64::new(u64::MAX));
        let [own, far] = disks.clone().map(|disk| Arc::new(Failing(disk, Arc::clone(&power))));
        let keeper = Keeper::on(own, DIR.into()).with_archive(Archive::on(far, ARCHIVE.into(), 1));
        let recorded = closed(&keeper);
        power.store(after, Relaxed);
        while keeper.archive_next(LATER).is_ok_and(|some| some) {}
        let state = keeper.look(State::clone);
        drop(keeper);
        disks[0].power_cut(seed);
        if at_once {
            disks[1].power_cut(seed.rotate_left(7));
        }
        let next = archiving(&disks[0], &disks[1]);
        next.restore(state);
        prop_assert_eq!(next.missing().unwrap(), []);
        prop_assert_eq!(&all(&next, 100), &recorded);
        archive_all(&next);
        prop_assert_eq!(there(&disks[0], DIR).len(), 1);
        prop_assert_eq!(&all(&next, 100), &recorded);
        ok(&next.verify().unwrap(), recorded.len());
    }
}
