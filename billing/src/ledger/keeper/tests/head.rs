//! A ledger that nobody runs, held against the note of how far it was synced.

use std::fs;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::ledger::{chain::tests::of, verify_files};

/// A node that has stopped, its directory, and what was recorded.
fn stopped() -> (TempDir, Keeper, Vec<LedgerRow>) {
    let dir = tempfile::tempdir().unwrap();
    let keeper = Keeper::new(dir.path().into());
    small(&keeper);
    let recorded = record(&keeper, 1..=40);
    keeper.sync().unwrap();
    (dir, keeper, recorded)
}

fn path(dir: &TempDir, segment: u64) -> std::path::PathBuf {
    dir.path().join(format!("{segment:012}.seg"))
}

fn problems(dir: &TempDir) -> Vec<String> {
    verify_files(dir.path(), None).unwrap().problems
}

/// Where the records of a segment begin; and where the last one ends.
fn boundaries(bytes: &[u8]) -> Vec<usize> {
    let mut at = vec![52];
    while let Some(length) = bytes.get(at[at.len() - 1]..).and_then(|rest| rest.first_chunk::<4>()) {
        at.push(at[at.len() - 1] + 8 + usize::try_from(u32::from_le_bytes(*length)).unwrap());
    }
    at
}

#[test]
fn offline_a_tail_that_was_cut_off_between_two_records_is_missed() {
    let (dir, keeper, mut recorded) = stopped();
    for index in (41..).take_while(|_| keeper.look(|state| state.chain().open().records < 5)) {
        recorded.extend(record(&keeper, index..=index));
    }
    keeper.sync().unwrap();
    ok(&verify_files(dir.path(), None).unwrap(), recorded.len());
    let open = keeper.look(|state| *state.chain().open());
    let bytes = fs::read(path(&dir, open.segment)).unwrap();
    let boundaries = boundaries(&bytes);
    assert!(boundaries.len() > 3 && boundaries.last() == Some(&bytes.len()), "{boundaries:?}");
    for (n, cut) in boundaries[..boundaries.len() - 1].iter().enumerate() {
        fs::write(path(&dir, open.segment), &bytes[..*cut]).unwrap();
        let missing = boundaries.len() - 1 - n;
        let (at, last, segment) = (bytes.len(), open.last_seq, open.segment);
        let told = problems(&dir);
        let [broken, how_many] = &told[..] else { panic!("{told:?}") };
        assert!(broken.starts_with(&format!("segment {segment} of the ledger is broken at byte {cut}, after row ")));
        assert!(broken.ends_with("it ends there, and should go on"), "{broken}");
        let end = format!("the ledger was synced to row {last}, byte {at} of segment {segment}");
        assert_eq!(*how_many, format!("{missing} records are missing at the end: {end}"));
    }
    fs::write(path(&dir, open.segment), &bytes).unwrap();
    assert_eq!(problems(&dir), [""; 0]);
}

#[test]
fn offline_segments_that_are_gone_from_the_end_are_missed() {
    let (dir, keeper, recorded) = stopped();
    let (open, records) = keeper.look(|state| (*state.chain().open(), state.chain().records()));
    assert!(open.segment > 2);
    let mut gone = 0;
    for segment in (1..=open.segment).rev() {
        gone += keeper.look(|state| state.chain().extent(segment).unwrap().records);
        fs::remove_file(path(&dir, segment)).unwrap();
        let told = problems(&dir);
        let [which, how_many] = &told[..] else { panic!("{told:?}") };
        assert_eq!(which, &format!("segment {segment} is not there: it was removed, or is still to be fetched"));
        assert!(how_many.starts_with(&format!("{gone} records are missing at the end: ")), "{how_many}");
    }
    assert_eq!(gone, records);
    assert!(recorded.len() as u64 <= records);
}

#[test]
fn offline_another_ledger_that_is_in_order_is_not_this_one() {
    let (dir, keeper, _) = stopped();
    let other = tempfile::tempdir().unwrap();
    let others = Keeper::new(other.path().into());
    small(&others);
    // The same but for one request, which has another name of the same length.
    let named = |n: u64| LedgerRow { request_id: id(if n == 390 { 77 } else { n }), ..row(n / 10, n % 10) };
    for n in 1..=40 {
        others
            .record([(named(n * 10), (n == 1).then(|| price("0.5"))), (named(n * 10 + 1), None)], &mut Changes::new());
    }
    others.sync().unwrap();
    let segment = keeper.look(|state| state.chain().open().segment);
    assert_eq!(fs::metadata(path(&dir, segment)).unwrap().len(), fs::metadata(path(&other, segment)).unwrap().len());
    for segment in 1..=segment {
        fs::copy(path(&other, segment), path(&dir, segment)).unwrap();
    }
    let told = problems(&dir);
    assert!(told.len() == 1 && told[0].contains("it is not what the cluster wrote"), "{told:?}");
}

#[test]
fn offline_a_ledger_without_its_note_is_not_taken_for_whole() {
    let (dir, _, recorded) = stopped();
    let note = dir.path().join("head");
    let bytes = fs::read(&note).unwrap();
    // One slot is torn: the other one counts.
    let newest = usize::from(bytes[8] < bytes[512 + 8]) * 512;
    let mut torn = bytes.clone();
    torn[newest + 20] ^= 1;
    fs::write(&note, torn).unwrap();
    ok(&verify_files(dir.path(), None).unwrap(), recorded.len());
    for no_note in [&bytes[..0], &[0; 1_024][..], &[7; 2_000]] {
        fs::write(&note, no_note).unwrap();
        let told = problems(&dir);
        assert!(told.len() == 1 && told[0].starts_with("there is no note of how far"), "{told:?}");
    }
    fs::remove_file(&note).unwrap();
    assert_eq!(problems(&dir).len(), 1);
    // A process finds out by itself, and writes another one.
    assert_eq!(verify_files(tempfile::tempdir().unwrap().path(), None).unwrap().problems, [""; 0]);
}

#[derive(Debug, Clone)]
enum Step {
    Record(u64),
    Write,
    Sync,
    /// It fails, of which the process ends.
    NoSync {
        seed: u64,
    },
    /// The power goes; the next process has the state of the last sync, or of one before.
    Cut {
        seed: u64,
        back: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..6_u64).prop_map(Step::Record),
        2 => Just(Step::Write),
        2 => Just(Step::Sync),
        1 => any::<u64>().prop_map(|seed| Step::NoSync { seed }),
        1 => (any::<u64>(), 0..3_usize).prop_map(|(seed, back)| Step::Cut { seed, back }),
    ]
}

/// What the disk would have after a power cut, read without a process. What was never synced may be torn; nothing may be missing.
fn never_ahead(disk: &SimDisk, seed: u64) {
    let (cut, dir) = (disk.after_power_cut(seed), tempfile::tempdir().unwrap());
    for file in tollgate_storage::Disk::list(&cut, Path::new(DIR)).unwrap() {
        fs::write(dir.path().join(file.file_name().unwrap()), cut.bytes(&file).unwrap()).unwrap();
    }
    let told = problems(&dir);
    let is_wrong =
        |it: &&String| ["missing", "should go on", "no note", "not there", "not what"].iter().any(|no| it.contains(no));
    assert_eq!(told.iter().find(is_wrong), None, "{told:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn the_note_is_never_ahead_of_what_survives(steps in prop::collection::vec(step(), 1..40), seed: u64) {
        let disk = SimDisk::default();
        let mut keeper = keeper(&disk);
        keeper.restore(State::with(of(1_000)));
        let mut synced = vec![(keeper.look(State::clone), 0)];
        let mut last = 0;
        let cut = |keeper: &mut Keeper, synced: &mut Vec<(State, u64)>, (seed, back): (u64, usize)| {
            disk.power_cut(seed);
            synced.truncate(synced.len().saturating_sub(back).max(1));
            let (state, last) = synced.last().cloned().unwrap();
            *keeper = super::keeper(&disk);
            keeper.restore(state);
            last
        };
        for step in steps {
            match step {
                Step::Record(entries) => {
                    record(&keeper, last + 1..=last + entries);
                    last += entries;
                }
                Step::Write => keeper.write().unwrap(),
                Step::Sync => {
                    keeper.sync().unwrap();
                    synced.push((keeper.look(State::clone), last));
                }
                Step::NoSync { seed: of_cut } => {
                    keeper.write().unwrap();
                    disk.set_faults(Faults { syncs_fail: true, ..Faults::default() });
                    // Where nothing was written since, it has nothing to do.
                    let _ = keeper.sync();
                    disk.set_faults(Faults::default());
                    never_ahead(&disk, seed);
                    last = cut(&mut keeper, &mut synced, (of_cut, 0));
                }
                Step::Cut { seed, back } => last = cut(&mut keeper, &mut synced, (seed, back)),
            }
            never_ahead(&disk, seed);
        }
    }
}
