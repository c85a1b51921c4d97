//! Flipped bits, cut files, missing files: an error, or everything that was acknowledged. Never less.

use proptest::prelude::*;

use super::*;
use crate::sim::Random;
use crate::watermark::WATERMARK_FILE;

/// A log of three segments with 40 committed records, perhaps followed by a group that was written but not synced.
fn log(unsynced: u32) -> (SimDisk, Vec<Vec<u8>>) {
    let disk = SimDisk::default();
    let (mut log, _) = reopen(&disk).unwrap();
    let mut committed = Vec::new();
    for number in 1..=40 {
        let payload = payload(number, number as usize * 10);
        log.writer.append(&payload).unwrap();
        if number % 3 == 0 || number == 40 {
            log.writer.commit().unwrap();
        }
        committed.push(payload);
    }
    for number in 41..41 + unsynced {
        log.writer.append(&payload(number, 300)).unwrap();
    }
    log.writer.write().unwrap();
    assert_eq!(log.reader.segment_count(), 3);
    (disk, committed)
}

/// What is found is an error that tells how to heal, or begins with everything that was committed.
fn assert_nothing_is_lost(disk: &SimDisk, committed: &[Vec<u8>], what: &str) -> bool {
    match reopen(disk) {
        Ok((_, found)) => {
            let found = payloads(found);
            assert!(found.starts_with(committed), "{what}: {} of {} records", found.len(), committed.len());
            true
        }
        Err(error @ OpenError::Corrupt { .. }) => {
            assert!(error.to_string().contains("To heal: throw the test away"), "{what}: {error}");
            false
        }
        Err(error) => panic!("{what}: {error}"),
    }
}

fn files() -> [PathBuf; 4] {
    [segment(1), segment(2), segment(3), dir().join(WATERMARK_FILE)]
}

fn flip(disk: &SimDisk, file: &Path, random: &mut Random) -> u64 {
    let mut bit = 0;
    disk.tamper(file, |bytes| {
        bit = random.below(bytes.len() as u64 * 8);
        bytes[crate::index(bit / 8)] ^= 1 << (bit % 8);
    });
    bit
}

proptest! {
    #[test]
    fn a_flipped_bit_is_never_silent(seed in any::<u64>(), file in 0..4usize, unsynced in 0..4u32) {
        let (disk, committed) = log(unsynced);
        let file = &files()[file];
        let bit = flip(&disk, file, &mut Random(seed));
        assert_nothing_is_lost(&disk, &committed, &format!("bit {bit} of {}", file.display()));
    }

    /// The hardest case: the power cut undid the watermark, too, and then a bit flips.
    #[test]
    fn a_flipped_bit_is_not_silent_without_the_watermark_either(seed in any::<u64>(), file in 0..3usize) {
        let (disk, committed) = log(0);
        disk.lose(&dir().join(WATERMARK_FILE));
        let file = &files()[file];
        let bit = flip(&disk, file, &mut Random(seed));
        assert_nothing_is_lost(&disk, &committed, &format!("bit {bit} of {}", file.display()));
    }

    #[test]
    fn two_flips_and_a_power_cut_are_not_silent(seed in any::<u64>(), first in 0..4usize, second in 0..3usize) {
        let (disk, committed) = log(3);
        disk.power_cut(seed);
        let mut random = Random(seed);
        flip(&disk, &files()[first], &mut random);
        flip(&disk, &files()[second], &mut random);
        assert_nothing_is_lost(&disk, &committed, "two flips");
    }
}

#[test]
fn a_file_cut_at_every_byte_loses_nothing_that_was_acknowledged() {
    let (disk, committed) = log(2);
    let whole = disk.bytes(&segment(3)).unwrap();
    let used = whole.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let mut opened = 0;
    for cut in 0..=used {
        for zeroed in [false, true] {
            let disk = disk.copy();
            disk.tamper(&segment(3), |bytes| {
                bytes.truncate(cut);
                bytes.resize(if zeroed { whole.len() } else { cut }, 0);
            });
            opened += u32::from(assert_nothing_is_lost(&disk, &committed, &format!("cut at {cut}")));
        }
    }
    // Exactly the cuts within the two records that were never acknowledged.
    let unacknowledged = 2 * crate::record::record_len(300);
    assert_eq!(u64::from(opened), 2 * (unacknowledged + 1));
}

#[test]
fn a_torn_tail_is_cut_reported_and_written_over() {
    let (disk, committed) = log(1);
    disk.tamper(&segment(3), |bytes| {
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        bytes[used - 100..].fill(0);
    });
    let (mut log, found) = reopen(&disk).unwrap();
    assert_eq!(payloads(found), committed);
    assert!(log.recovery.torn_bytes > 0, "{:?}", log.recovery);
    assert_eq!(log.recovery.torn_at.as_ref().unwrap().0, segment(3));
    log.writer.append(b"after").unwrap();
    log.writer.commit().unwrap();
    drop(log);
    let (log, found) = reopen(&disk).unwrap();
    assert_eq!(log.recovery.torn_bytes, 0);
    assert_eq!(payloads(found).last().unwrap(), b"after");
}

#[test]
fn a_missing_segment_is_noticed() {
    for missing in 1..=3 {
        let (disk, _) = log(0);
        disk.lose(&segment(missing));
        assert!(matches!(reopen(&disk), Err(OpenError::Corrupt { .. })), "segment {missing}");
    }
    let (disk, _) = log(0);
    (1..=3).for_each(|id| disk.lose(&segment(id)));
    assert!(matches!(reopen(&disk), Err(OpenError::Corrupt { .. })), "all of them");
}

#[test]
fn a_renamed_segment_is_noticed() {
    let (disk, _) = log(0);
    let third = disk.bytes(&segment(3)).unwrap();
    disk.tamper(&segment(2), |bytes| *bytes = third);
    assert!(matches!(reopen(&disk), Err(OpenError::Corrupt { .. })));
}

#[test]
fn a_record_damaged_while_the_log_is_open_is_not_served() {
    let (disk, _) = log(0);
    let (log, found) = reopen(&disk).unwrap();
    let at = found[5].0;
    disk.tamper(&at.segment.path(dir()), |bytes| bytes[crate::index(at.offset) + 40] ^= 4);
    assert!(matches!(log.reader.read(at), Err(crate::ReadError::Corrupt { .. })));
}
