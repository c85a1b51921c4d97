use openraft::vote::RaftLeaderId;

use super::*;
use crate::types::LogId;

fn meta(index: u64) -> SnapshotMeta {
    let leader = openraft::alias::LeaderIdOf::<TypeConfig>::new(1, 1 << 16).to_committed();
    SnapshotMeta { last_log_id: Some(LogId::new(leader, index)), ..SnapshotMeta::default() }
}

fn rows(n: u8) -> Image {
    Box::new((0..n).map(|n| (vec![n], vec![n; 10])))
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn the_newest_survives_a_restart_and_older_ones_are_deleted() {
    let temp = tempfile::tempdir().unwrap();
    let dir = SnapshotDir::open(temp.path()).unwrap();
    dir.write(&meta(5), rows(3)).unwrap();
    dir.write(&meta(9), rows(4)).unwrap();
    assert_eq!(names(temp.path()).len(), 1);
    let reopened = SnapshotDir::open(temp.path()).unwrap().current().unwrap();
    assert_eq!(reopened.meta(), &meta(9));
    assert_eq!(reopened.rows().unwrap().count(), 4);
}

#[test]
fn what_was_never_finished_is_deleted() {
    let temp = tempfile::tempdir().unwrap();
    fs::write(temp.path().join("3.tmp"), "half").unwrap();
    assert!(SnapshotDir::open(temp.path()).unwrap().current().is_none());
    assert!(names(temp.path()).is_empty());
}

#[test]
fn a_transfer_that_dies_leaves_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let dir = SnapshotDir::open(temp.path()).unwrap();
    let mut incoming = dir.incoming().unwrap();
    incoming.write(b"part").unwrap();
    drop(incoming);
    assert!(names(temp.path()).is_empty());
    let mut incoming = dir.incoming().unwrap();
    incoming.write(b"part").unwrap();
    assert!(incoming.finish().is_err());
    assert!(names(temp.path()).is_empty());
}

#[test]
fn a_flipped_bit_is_never_served() {
    let temp = tempfile::tempdir().unwrap();
    let dir = SnapshotDir::open(temp.path()).unwrap();
    let file = dir.write(&meta(5), rows(100)).unwrap();
    let mut bytes = fs::read(&*file.path.lock()).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&*file.path.lock(), bytes).unwrap();
    assert!(file.verify().is_err());
    assert!(dir.current().is_none() && dir.is_damaged());
    let reopened = SnapshotDir::open(temp.path()).unwrap();
    assert!(reopened.current().is_none());
    assert!(names(temp.path())[0].ends_with(".damaged"));
}

#[test]
fn an_open_snapshot_can_be_read_after_it_was_replaced() {
    let temp = tempfile::tempdir().unwrap();
    let dir = SnapshotDir::open(temp.path()).unwrap();
    let old = dir.write(&meta(5), rows(3)).unwrap();
    let len = old.len();
    dir.write(&meta(6), rows(3)).unwrap();
    assert_eq!(old.read_at(0, 1 << 20).unwrap().len() as u64, len);
}

/// What a machine keeps beside its rows, on a disk of its own.
struct Full(AtomicBool);

impl Files for Full {
    fn sync(&self) -> io::Result<()> {
        if self.0.load(Ordering::Relaxed) { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

#[tokio::test]
async fn a_snapshot_waits_for_what_is_kept_beside_it() {
    let temp = tempfile::tempdir().unwrap();
    let dir = SnapshotDir::open(temp.path()).unwrap();
    let (put_off, files) = (Arc::new(AtomicBool::new(false)), Arc::new(Full(AtomicBool::new(true))));
    let builder = || SnapshotBuilder {
        dir: Arc::clone(&dir),
        meta: meta(5),
        image: Mutex::new(Some(rows(3))),
        files: Arc::clone(&files) as Arc<dyn Files>,
        put_off: Arc::clone(&put_off),
    };
    assert!(builder().build_snapshot().await.unwrap().snapshot.is_none());
    assert!(put_off.swap(false, Ordering::Relaxed) && dir.current().is_none());
    files.0.store(false, Ordering::Relaxed);
    assert!(builder().build_snapshot().await.unwrap().snapshot.is_some());
}

/// Openraft would end the node over an error.
#[tokio::test]
async fn a_snapshot_that_can_not_be_written_is_put_off_and_leaves_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let dir = SnapshotDir::open(&temp.path().join("snapshots")).unwrap();
    let put_off = Arc::new(AtomicBool::new(false));
    let builder = |rows: Image| SnapshotBuilder {
        dir: Arc::clone(&dir),
        meta: meta(5),
        image: Mutex::new(Some(rows)),
        files: Arc::new(Full(AtomicBool::new(false))),
        put_off: Arc::clone(&put_off),
    };
    fs::remove_dir(temp.path().join("snapshots")).unwrap();
    let unwritten = builder(rows(3)).build_snapshot().await.unwrap();
    assert_eq!(dir.took(), Duration::ZERO);
    assert!(unwritten.snapshot.is_none() && unwritten.meta.last_log_id.is_none(), "{:?}", unwritten.meta);
    assert!(put_off.swap(false, Ordering::Relaxed) && dir.current().is_none());
    fs::create_dir(temp.path().join("snapshots")).unwrap();
    let written = builder(rows(3)).build_snapshot().await.unwrap();
    assert_eq!(written.meta, meta(5));
    assert!(!put_off.load(Ordering::Relaxed) && dir.current().is_some());
    assert!(dir.took() > Duration::ZERO);
}
