//! Acknowledgements, shared syncs, failing and full disks, bounded reads, space.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::{FutureExt, TryStreamExt};
use openraft::storage::{RaftLogReader, RaftLogStorage};
use tokio::{task::unconstrained, time::timeout};
use tollgate_storage::sim::Faults;

use super::*;

const HANGING: Faults = Faults { syncs_hang: true, syncs_fail: false, short_writes: false, capacity: None };
const FAILING: Faults = Faults { syncs_fail: true, ..HANGING };

/// Waits until `holds`, for ten seconds at most.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "{what} did not come to pass");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn an_entry_can_be_read_before_it_is_on_the_disk_and_is_not_acknowledged_before() {
    let disk = SimDisk::default();
    let mut log = open(&disk).unwrap();
    disk.set_faults(HANGING);
    let mut flushed = append(&mut log, vec![entry(1, 0, 100)]).await;
    assert_eq!(all(&log).await.unwrap(), [entry(1, 0, 100)]);
    assert!(flushed.try_recv().is_err());
    disk.set_faults(Faults::default());
    flushed.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_vote_is_acknowledged_and_read_only_once_it_is_on_the_disk() {
    let disk = SimDisk::default();
    let mut log = open(&disk).unwrap();
    let mut reader = log.reader();
    disk.set_faults(HANGING);
    let vote = Vote::new(5, 1);
    {
        let saving = log.save_vote(&vote);
        tokio::pin!(saving);
        assert!(tokio::time::timeout(Duration::from_millis(20), &mut saving).await.is_err());
        assert_eq!(reader.read_vote().await.unwrap(), None);
        disk.set_faults(Faults::default());
        saving.await.unwrap();
    }
    assert_eq!(reader.read_vote().await.unwrap(), Some(vote));
}

#[tokio::test]
async fn what_queues_up_behind_one_sync_shares_the_next() {
    let disk = SimDisk::default();
    let mut log = open(&disk).unwrap();
    disk.set_faults(HANGING);
    let mut flights = Vec::new();
    for index in 0..100 {
        flights.push(append(&mut log, vec![entry(1, index, 10)]).await);
    }
    disk.set_faults(Faults::default());
    for flight in flights {
        flight.await.unwrap().unwrap();
    }
    assert!(log.reader().stats().syncs < 10, "{:?}", log.reader().stats());
}

#[tokio::test]
async fn a_failed_sync_is_fatal_once_and_nothing_is_acknowledged_afterwards() {
    let disk = SimDisk::default();
    let fatal = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&fatal);
    let on_fatal = OnFatal(Arc::new(move |reason| {
        assert!(reason.contains("input/output error"), "{reason}");
        counted.fetch_add(1, Ordering::Relaxed);
    }));
    let mut log = LogStore::open_on(Arc::new(disk.clone()), Path::new("/log"), SEGMENT_BYTES, on_fatal).unwrap();
    append_and_wait(&mut log, vec![entry(1, 0, 10)]).await;
    disk.set_faults(Faults { syncs_hang: false, ..FAILING });
    append(&mut log, vec![entry(1, 1, 10)]).await.await.unwrap().unwrap_err();
    disk.set_faults(Faults::default());
    append(&mut log, vec![entry(1, 2, 10)]).await.await.unwrap().unwrap_err();
    log.save_vote(&Vote::new(1, 1)).await.unwrap_err();
    assert_eq!(fatal.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_full_disk_is_waited_out() {
    let disk = SimDisk::default();
    let mut log = open(&disk).unwrap();
    let reader = log.reader();
    disk.set_faults(Faults { capacity: Some(SEGMENT_BYTES + 600), ..Faults::default() });
    let mut flights = Vec::new();
    for index in 0..10 {
        flights.push(append(&mut log, vec![entry(1, index, 900)]).await);
    }
    until("a full disk", || reader.stats().full).await;
    disk.set_faults(Faults::default());
    for flight in flights {
        flight.await.unwrap().unwrap();
    }
    assert!(!reader.stats().full);
    drop(log);
    assert_eq!(all(&open(&disk).unwrap()).await.unwrap().len(), 10);
}

#[tokio::test]
async fn a_vote_does_not_wait_for_space_and_says_nothing_of_the_entries_before_it() {
    let disk = SimDisk::default();
    let mut log = open(&disk).unwrap();
    let mut reader = log.reader();
    disk.set_faults(Faults { capacity: Some(SEGMENT_BYTES + 600), ..Faults::default() });
    append_and_wait(&mut log, vec![entry(1, 0, 900)]).await;
    let mut flights = Vec::new();
    for index in 1..10 {
        flights.push(append(&mut log, vec![entry(1, index, 900)]).await);
    }
    until("a full disk", || reader.stats().full).await;
    // Not even when the queue has no place left.
    while unconstrained(log.save_committed(Some(log_id(1, 0)))).now_or_never().is_some() {}
    for term in [2, 3] {
        let saved = timeout(Duration::from_secs(10), log.save_vote(&Vote::new(term, 2))).await;
        saved.expect("a vote waits for space").unwrap();
        assert_eq!(reader.read_vote().await.unwrap(), Some(Vote::new(term, 2)));
    }
    assert!(flights[8].try_recv().is_err(), "an entry was acknowledged");
    assert!(reader.is_durable(None) && reader.is_durable(Some(log_id(1, 0))));
    assert!(!reader.is_durable(Some(log_id(2, 0))) && !reader.is_durable(Some(log_id(1, 9))));
    let crashed = disk.after_power_cut(1);
    crashed.set_faults(Faults::default());
    let after = open(&crashed).unwrap();
    assert_eq!(after.reader().read_vote().await.unwrap(), Some(Vote::new(3, 2)));
    assert!((1..10).contains(&all(&after).await.unwrap().len()));

    disk.set_faults(Faults::default());
    for flight in flights {
        flight.await.unwrap().unwrap();
    }
    assert!(reader.is_durable(Some(log_id(1, 9))));
    drop(log);
    let log = open(&disk).unwrap();
    assert_eq!(log.reader().read_vote().await.unwrap(), Some(Vote::new(3, 2)), "an earlier vote came back");
    assert_eq!(all(&log).await.unwrap().len(), 10);
}

#[tokio::test]
async fn a_vote_that_meets_the_end_of_the_disk_does_not_come_back_after_later_ones() {
    let disk = SimDisk::default();
    let mut log = open(&disk).unwrap();
    let reader = log.reader();
    disk.set_faults(Faults { capacity: Some(SEGMENT_BYTES + 600), ..Faults::default() });
    let mut term = 0;
    while !reader.is_full() {
        term += 1;
        assert!(term < 1_000, "the disk is never full");
        log.save_vote(&Vote::new(term, 1)).await.unwrap();
    }
    log.save_vote(&Vote::new(term + 1, 1)).await.unwrap();
    disk.set_faults(Faults::default());
    until("space", || !reader.is_full()).await;
    drop(log);
    let log = open(&disk).unwrap();
    assert_eq!(log.reader().read_vote().await.unwrap(), Some(Vote::new(term + 1, 1)));
}

#[tokio::test]
async fn a_full_disk_takes_only_what_raft_need_not_wait_for() {
    let disk = SimDisk::default();
    let mut log = open(&disk).unwrap();
    let reader = log.reader();
    disk.set_faults(Faults { capacity: Some(SEGMENT_BYTES + 600), ..Faults::default() });
    for index in 0..10 {
        let _unanswered = append(&mut log, vec![entry(1, index, 900)]).await;
    }
    until("a full disk", || reader.stats().full).await;
    let mut index = 10;
    while reader.takes_entries() {
        let appended = unconstrained(append(&mut log, vec![entry(1, index, 900)])).now_or_never();
        let _unanswered = appended.expect("Raft waits");
        index += 1;
    }
    assert!(index > 100, "a full disk takes only {index}");
    disk.set_faults(Faults::default());
    until("space", || reader.takes_entries()).await;
}

#[tokio::test]
async fn a_store_that_is_dropped_does_not_wait_for_a_full_disk() {
    let disk = SimDisk::default();
    let mut log = open(&disk).unwrap();
    let reader = log.reader();
    disk.set_faults(Faults { capacity: Some(SEGMENT_BYTES + 600), ..Faults::default() });
    let flight = append(&mut log, (0..10).map(|index| entry(1, index, 900)).collect()).await;
    until("a full disk", || reader.stats().full).await;
    tokio::task::spawn_blocking(move || drop(log)).await.unwrap();
    flight.await.unwrap().unwrap_err();
}

#[tokio::test]
async fn a_purge_gives_space_back() {
    let disk = SimDisk::default();
    let mut log = open(&disk).unwrap();
    log.save_vote(&Vote::new(7, 1)).await.unwrap();
    for index in 0..100 {
        append_and_wait(&mut log, vec![entry(7, index, 1000)]).await;
    }
    let before = log.reader().stats();
    assert!(before.segments > 25 && before.disk_bytes > 100_000, "{before:?}");
    log.purge(log_id(7, 98)).await.unwrap();
    append_and_wait(&mut log, vec![entry(7, 100, 10)]).await;
    let after = log.reader().stats();
    assert!(after.segments <= 2 && after.disk_bytes <= 2 * SEGMENT_BYTES, "{after:?}");
    assert_eq!(after.entries, 2);
    drop(log);
    let mut log = open(&disk).unwrap();
    assert_eq!(log.reader().read_vote().await.unwrap(), Some(Vote::new(7, 1)));
    assert_eq!(log.get_log_state().await.unwrap().last_purged_log_id, Some(log_id(7, 98)));
    assert_eq!(all(&log).await.unwrap(), [entry(7, 99, 1000), entry(7, 100, 10)]);
}

#[tokio::test]
async fn what_is_read_at_once_is_bounded_and_older_entries_come_from_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = LogStore::open(dir.path(), never_fatal()).unwrap();
    let written: Vec<Entry> = (0..60).map(|index| entry(1, index, 500_000)).collect(); // 30 MB, 16 of them in memory
    for entry in &written {
        append_and_wait(&mut log, vec![entry.clone()]).await;
    }
    append_and_wait(&mut log, vec![entry(1, 60, 3_000_000)]).await;
    let mut reader = log.reader();
    for start in [0, 30, 55] {
        let read = reader.limited_get_log_entries(start, 61).await.unwrap();
        let from = usize::try_from(start).unwrap();
        assert!(read.len() == 4 && read[..] == written[from..from + 4], "from {start}: {}", read.len());
    }
    assert_eq!(reader.limited_get_log_entries(60, 61).await.unwrap().len(), 1, "a large one comes alone");
    let streamed: Vec<Entry> = reader.entries_stream(0..60).await.try_collect().await.unwrap();
    assert!(streamed == written);
}

#[tokio::test]
async fn a_hole_is_refused() {
    let mut log = open(&SimDisk::default()).unwrap();
    append_and_wait(&mut log, vec![entry(1, 0, 10)]).await;
    log.append(vec![entry(1, 2, 10)], IOFlushed::noop()).await.unwrap_err();
}
