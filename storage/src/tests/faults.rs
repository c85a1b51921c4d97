//! Full disks, failing syncs, two processes, dropped segments, real files.

use super::*;
use crate::sim::Faults;
use crate::{ReadError, RealDisk, WriteError};

#[test]
fn a_failed_sync_poisons_the_writer_for_good() {
    let disk = SimDisk::default();
    let (mut log, _) = reopen(&disk).unwrap();
    log.writer.append(b"one").unwrap();
    disk.set_faults(Faults { syncs_fail: true, ..Faults::default() });
    assert!(matches!(log.writer.commit(), Err(WriteError::SyncFailed(_))));
    disk.set_faults(Faults::default());
    let again = log.writer.commit().unwrap_err();
    assert!(matches!(again, WriteError::Poisoned) && again.is_fatal());
    assert!(matches!(log.writer.write(), Err(WriteError::Poisoned)));
    assert!(matches!(log.writer.roll(1), Err(WriteError::Poisoned)));
}

#[test]
fn a_full_disk_is_refused_cleanly_and_heals() {
    let disk = SimDisk::default();
    let (mut log, _) = reopen(&disk).unwrap();
    let capacity = Some(SEGMENT_BYTES + 2000);
    disk.set_faults(Faults { capacity, ..Faults::default() });
    let mut appended = Vec::new();
    let refused = loop {
        let payload = payload(u32::try_from(appended.len()).unwrap(), 500);
        match log.writer.append(&payload) {
            Ok(_) => appended.push(payload),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, WriteError::NoSpace(_)) && !refused.is_fatal());
    assert!(log.writer.append(&[1; 500]).is_err(), "still full");
    disk.set_faults(Faults::default());
    log.writer.append(b"healed").unwrap();
    log.writer.commit().unwrap();
    drop(log);
    appended.push(b"healed".to_vec());
    assert_eq!(payloads(reopen(&disk).unwrap().1), appended);
}

#[test]
fn a_write_that_a_full_disk_took_in_part_leaves_nothing_behind() {
    let disk = SimDisk::default();
    let (mut log, _) = reopen(&disk).unwrap();
    // A file system that cannot reserve: the file is as long as what was written.
    disk.tamper(&segment(1), |bytes| bytes.truncate(64));
    for number in 0..3 {
        log.writer.append(&payload(number, 400)).unwrap();
    }
    disk.set_faults(Faults { capacity: Some(64 + 1024 + 400), short_writes: true, ..Faults::default() });
    assert!(matches!(log.writer.commit(), Err(WriteError::NoSpace(_))));
    assert_eq!(disk.bytes(&segment(1)).unwrap().len(), 64);
    disk.set_faults(Faults::default());
    log.writer.commit().unwrap();
    drop(log);
    assert_eq!(reopen(&disk).unwrap().1.len(), 3);
}

#[test]
fn a_second_process_is_refused() {
    let disk = SimDisk::default();
    let (log, _) = reopen(&disk).unwrap();
    assert!(matches!(reopen(&disk), Err(OpenError::Locked { .. })));
    drop(log);
    reopen(&disk).unwrap();
}

#[test]
fn another_owner_is_refused() {
    let disk = SimDisk::default();
    drop(reopen(&disk).unwrap());
    let other = Options { owner: *b"journal\0", ..options() };
    let refused = open(Arc::new(disk), dir(), other, &mut |_, _| Ok(())).err().unwrap();
    assert!(refused.to_string().contains("testlog"), "{refused}");
}

#[test]
fn records_that_cannot_be_written_are_refused() {
    let (mut log, _) = reopen(&SimDisk::default()).unwrap();
    assert!(matches!(log.writer.append(&[]), Err(WriteError::Size(0))));
    log.writer.append(&[7; 100_000]).unwrap(); // larger than a segment
    log.writer.append(&[8; 10]).unwrap();
    log.writer.commit().unwrap();
}

#[test]
fn dropping_gives_space_back_and_readers_may_finish() {
    let disk = SimDisk::default();
    let (mut log, _) = reopen(&disk).unwrap();
    let first = log.writer.append(&[1; 1000]).unwrap();
    for _ in 0..20 {
        log.writer.append(&[2; 1000]).unwrap();
    }
    log.writer.commit().unwrap();
    let located = log.reader.locate(first).unwrap();
    let before = log.reader.disk_bytes();
    let active = log.writer.active_segment();
    let freed = log.writer.drop_before(SegmentId(u64::MAX)).unwrap();
    assert_eq!(log.writer.active_segment(), active);
    assert_eq!((log.reader.segment_count(), log.reader.disk_bytes()), (1, before - freed));
    assert_eq!(log.reader.disk_bytes(), SEGMENT_BYTES);
    assert_eq!(located.read().unwrap(), [1; 1000]);
    assert!(matches!(log.reader.read(first), Err(ReadError::Gone(SegmentId(1)))));
}

#[test]
fn an_error_of_the_owner_names_the_record() {
    let disk = SimDisk::default();
    let (mut log, _) = reopen(&disk).unwrap();
    log.writer.append(b"one").unwrap();
    log.writer.commit().unwrap();
    drop(log);
    let refused = open(Arc::new(disk), dir(), options(), &mut |_, _| Err("no such kind".to_owned())).err().unwrap();
    assert!(matches!(&refused, OpenError::Foreign { at, .. } if at.offset == 64), "{refused}");
}

#[test]
fn real_files_hold_what_was_committed() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("a/log");
    let mut found = Vec::new();
    for round in 0..5 {
        let mut records = Vec::new();
        let mut visit = |_: Position, payload: &[u8]| {
            records.push(payload.to_vec());
            Ok(())
        };
        let mut log = open(Arc::new(RealDisk), &dir, options(), &mut visit).unwrap();
        assert_eq!(records, found);
        let second = open(Arc::new(RealDisk), &dir, options(), &mut |_, _| Ok(())).err();
        assert!(matches!(second, Some(OpenError::Locked { .. })));
        for number in 0..30 {
            let payload = payload(round * 100 + number, 100 * number as usize);
            let at = log.writer.append(&payload).unwrap();
            log.writer.commit().unwrap();
            assert_eq!(log.reader.read(at).unwrap(), payload);
            found.push(payload);
        }
    }
}
