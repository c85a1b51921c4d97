use proptest::prelude::*;
use tollgate_storage::sim::{Faults, SimDisk};

use super::{
    super::chain::tests::{entries, small},
    *,
};
use crate::Changes;

const DIR: &str = "/ledger";

fn open(disk: &SimDisk, chain: &Chain) -> (Segments, Vec<Missing>) {
    Segments::open(Arc::new(disk.clone()), Path::new(DIR), chain).unwrap()
}

fn bytes(disk: &SimDisk, segment: u64) -> Vec<u8> {
    disk.bytes(&Path::new(DIR).join(format!("{segment:012}.seg"))).unwrap_or_default()
}

/// Brings a directory up to date with what another node has.
fn fetch(segments: &mut Segments, missing: Vec<Missing>, other: &SimDisk, at_once: usize) {
    for mut missing in missing {
        loop {
            let from = usize::try_from(missing.has).unwrap();
            let all = bytes(other, missing.extent.segment);
            let some = all[from..].iter().copied().take(at_once).collect::<Vec<u8>>();
            let more = some.len() as u64;
            if segments.fill(&missing, some).unwrap() {
                break;
            }
            // What is checked at the end is checked from where it was good.
            missing.has += more;
        }
    }
}

proptest! {
    /// Whatever a power cut leaves, and whichever state comes back: what had been synced is there, what is missing is told to
    /// the byte, and with that fetched, all is as it was; then the log goes on.
    #[test]
    fn after_a_power_cut_the_files_are_what_the_state_says(
        entries in entries(), synced in any::<prop::sample::Index>(), state in any::<prop::sample::Index>(),
        seed: u64, at_once in 1..400_usize, short_writes: bool,
    ) {
        let (disk, whole) = (SimDisk::default(), SimDisk::default());
        disk.set_faults(Faults { short_writes, ..Faults::default() });
        let (synced, state) = (synced.index(entries.len() + 1), state.index(entries.len() + 1));
        let mut chain = small();
        let ((mut segments, _), (mut complete, _)) = (open(&disk, &chain), open(&whole, &chain));
        let mut states = vec![chain.clone()];
        let mut pieces = Vec::new();
        for (n, entry) in entries.iter().enumerate() {
            if n == synced {
                segments.sync().unwrap();
            }
            if let Some(piece) = chain.append(entry, &mut Changes::new()) {
                segments.write(&piece).unwrap();
                complete.write(&piece).unwrap();
                pieces.push((n, piece));
            }
            states.push(chain.clone());
        }
        if synced == entries.len() {
            segments.sync().unwrap();
        }
        drop(segments);
        disk.power_cut(seed);
        let (mut segments, missing) = open(&disk, &states[state]);
        if state <= synced {
            prop_assert_eq!(&missing, &[]);
        }
        for missing in &missing {
            let has = usize::try_from(missing.has).unwrap();
            prop_assert_eq!(&bytes(&disk, missing.extent.segment)[..], &bytes(&whole, missing.extent.segment)[..has]);
        }
        fetch(&mut segments, missing, &whole, at_once);
        for (_, piece) in pieces.iter().filter(|(n, _)| *n >= state) {
            segments.write(piece).unwrap();
        }
        segments.sync().unwrap();
        let numbers: Vec<u64> = pieces.iter().map(|(_, piece)| piece.segment).collect();
        for segment in numbers {
            prop_assert_eq!(bytes(&disk, segment), bytes(&whole, segment));
        }
        prop_assert_eq!(open(&disk, &chain).1, []);
    }
}

fn written(disk: &SimDisk, count: u64) -> Chain {
    let mut chain = small();
    let (mut segments, _) = open(disk, &chain);
    for index in 1..=count {
        let row =
            tollgate_proto::state::v1::LedgerRow { seq: index << 16, model: "some model".into(), ..Default::default() };
        let record = tollgate_proto::state::v1::LedgerRecord {
            kind: Some(tollgate_proto::state::v1::ledger_record::Kind::Row(row)),
        };
        let piece = chain.append(&[record], &mut Changes::new()).unwrap();
        segments.write(&piece).unwrap();
    }
    segments.sync().unwrap();
    chain
}

#[test]
fn other_bytes_than_the_clusters_are_refused() {
    let (disk, other) = (SimDisk::default(), SimDisk::default());
    let chain = written(&other, 3);
    let (mut segments, missing) = open(&disk, &chain);
    let [missing] = missing[..] else { panic!("{missing:?}") };
    let mut forged = bytes(&other, 1);
    *forged.last_mut().unwrap() ^= 1;
    assert_eq!(segments.fill(&missing, forged).unwrap_err().kind(), io::ErrorKind::InvalidData);
    drop(segments);
    let (mut segments, again) = open(&disk, &chain);
    assert!(again[0].has > 0, "what was good of it stays");
    fetch(&mut segments, again, &other, 1_000);
    assert_eq!(bytes(&disk, 1), bytes(&other, 1));
}

#[test]
fn what_the_state_knows_nothing_of_is_set_aside_not_removed() {
    let disk = SimDisk::default();
    let chain = written(&disk, 30);
    let last = chain.open().segment;
    assert!(last > 2);
    let before = bytes(&disk, last);
    let (_, missing) = open(&disk, &small());
    assert_eq!(missing, []);
    assert!(bytes(&disk, last).is_empty());
    let aside = disk.bytes(&Path::new(DIR).join(format!("aside/{last:012}.seg")));
    assert_eq!(aside.unwrap_or_default(), before);
}

#[test]
fn a_full_disk_is_told_and_the_same_piece_is_written_once_there_is_space() {
    let disk = SimDisk::default();
    let mut chain = written(&disk, 1);
    let (mut segments, _) = open(&disk, &chain);
    let row = tollgate_proto::state::v1::LedgerRow { seq: 2 << 16, ..Default::default() };
    let record = tollgate_proto::state::v1::LedgerRecord {
        kind: Some(tollgate_proto::state::v1::ledger_record::Kind::Row(row)),
    };
    let piece = chain.append(&[record], &mut Changes::new()).unwrap();
    disk.set_faults(Faults { capacity: Some(bytes(&disk, 1).len() as u64), ..Faults::default() });
    assert_eq!(segments.write(&piece).unwrap_err().kind(), io::ErrorKind::StorageFull);
    disk.set_faults(Faults::default());
    segments.write(&piece).unwrap();
    segments.sync().unwrap();
    assert_eq!(open(&disk, &chain).1, []);
}
