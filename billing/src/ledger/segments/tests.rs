use proptest::prelude::*;
use tollgate_proto::state::v1::{LedgerRecord, LedgerRow, ledger_record::Kind};
use tollgate_storage::sim::{Faults, SimDisk};

use super::{
    super::chain::tests::{entries, small},
    *,
};
use crate::Changes;

const DIR: &str = "/ledger";

fn open(disk: &SimDisk, chain: &Chain) -> Segments {
    Segments::open(Arc::new(disk.clone()), Path::new(DIR), chain).unwrap()
}

fn bytes(disk: &SimDisk, segment: u64) -> Vec<u8> {
    disk.bytes(&Path::new(DIR).join(format!("{segment:012}.seg"))).unwrap_or_default()
}

/// Brings a directory up to date with what another node has by the same chain.
fn fetch(segments: &mut Segments, chain: &Chain, other: &SimDisk) {
    for segment in segments.gaps().collect::<Vec<_>>() {
        let missing = Missing::of(chain, segment).unwrap();
        let mut all = bytes(other, segment);
        all.truncate(usize::try_from(missing.extent.bytes).unwrap());
        segments.put(&missing, &all).unwrap();
    }
}

proptest! {
    /// Whatever a power cut leaves, and whichever state comes back: what had been synced is there, what is missing is told, and
    /// with that fetched, sooner or later, all is as it was; what the log brings meanwhile is lost neither, but by another cut.
    #[test]
    fn after_a_power_cut_the_files_are_what_the_state_says(
        entries in entries(), synced in any::<prop::sample::Index>(), state in any::<prop::sample::Index>(),
        seed: u64, fetched in any::<prop::sample::Index>(), again: bool, short_writes: bool,
    ) {
        let (disk, whole) = (SimDisk::default(), SimDisk::default());
        disk.set_faults(Faults { short_writes, ..Faults::default() });
        let (synced, state) = (synced.index(entries.len() + 1), state.index(entries.len() + 1));
        let mut chain = small();
        let (mut segments, mut complete) = (open(&disk, &chain), open(&whole, &chain));
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
        let mut segments = open(&disk, &states[state]);
        if state <= synced {
            prop_assert_eq!(segments.gaps().count(), 0);
        }
        let fetched = state + fetched.index(entries.len() + 1 - state);
        for (n, states) in states.iter().enumerate().skip(state) {
            if n == fetched {
                fetch(&mut segments, states, &whole);
                prop_assert_eq!(segments.gaps().count(), 0);
            }
            for (_, piece) in pieces.iter().filter(|(of, _)| *of == n) {
                segments.write(piece).unwrap();
            }
        }
        segments.sync().unwrap();
        if again {
            drop(segments);
            disk.power_cut(seed);
            prop_assert_eq!(open(&disk, &chain).gaps().count(), 0);
        }
        for segment in pieces.iter().map(|(_, piece)| piece.segment) {
            prop_assert_eq!(bytes(&disk, segment), bytes(&whole, segment));
        }
    }

    /// A gap that nobody closes before the next power cut is still one, wherever the log has come to.
    #[test]
    fn a_gap_is_never_forgotten(count in 3..40_u64, lost in any::<prop::sample::Index>(), more in 0..40_u64, seed: u64) {
        let (disk, whole) = (SimDisk::default(), SimDisk::default());
        let mut chain = written(&disk, count);
        written(&whole, count);
        let lost = 1 + lost.index(usize::try_from(chain.extent(chain.open().segment).map_or(0, |it| it.segment).max(1)).unwrap()) as u64;
        disk.remove(&path(lost)).unwrap();
        disk.sync_dir(Path::new(DIR)).unwrap();
        let (mut segments, mut complete) = (open(&disk, &chain), open(&whole, &chain));
        prop_assert_eq!(segments.gaps().collect::<Vec<_>>(), [lost]);
        for index in count + 1..=count + more {
            let piece = chain.append(&[record(index)], &mut Changes::new()).unwrap();
            segments.write(&piece).unwrap();
            complete.write(&piece).unwrap();
        }
        segments.sync().unwrap();
        drop(segments);
        disk.power_cut(seed);
        let mut segments = open(&disk, &chain);
        prop_assert_eq!(segments.gaps().collect::<Vec<_>>(), [lost]);
        fetch(&mut segments, &chain, &whole);
        for segment in 1..=chain.open().segment {
            prop_assert_eq!(bytes(&disk, segment), bytes(&whole, segment));
        }
    }
}

fn path(segment: u64) -> PathBuf {
    Path::new(DIR).join(format!("{segment:012}.seg"))
}

fn record(index: u64) -> LedgerRecord {
    let row = LedgerRow { seq: index << 16, model: "some model".into(), ..LedgerRow::default() };
    LedgerRecord { kind: Some(Kind::Row(row)) }
}

fn written(disk: &SimDisk, count: u64) -> Chain {
    let mut chain = small();
    let mut segments = open(disk, &chain);
    for index in 1..=count {
        let piece = chain.append(&[record(index)], &mut Changes::new()).unwrap();
        segments.write(&piece).unwrap();
    }
    segments.sync().unwrap();
    chain
}

#[test]
fn other_bytes_than_the_clusters_are_refused() {
    let (disk, other) = (SimDisk::default(), SimDisk::default());
    let chain = written(&other, 3);
    let mut segments = open(&disk, &chain);
    let missing = Missing::of(&chain, 1).unwrap();
    let good = bytes(&other, 1);
    let mut forged = good.clone();
    *forged.last_mut().unwrap() ^= 1;
    let short = &good[..good.len() - 1];
    let long = [&good[..], &good[52..]].concat();
    for wrong in [&forged[..], short, &long, &good[..52], &[]] {
        assert_eq!(segments.put(&missing, wrong).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert!(bytes(&disk, 1).is_empty());
    }
    segments.put(&missing, &good).unwrap();
    assert_eq!((bytes(&disk, 1), segments.gaps().count()), (good, 0));
}

#[test]
fn what_the_state_knows_nothing_of_is_set_aside_not_removed() {
    let disk = SimDisk::default();
    let chain = written(&disk, 30);
    let last = chain.open().segment;
    assert!(last > 2);
    let before = bytes(&disk, last);
    assert_eq!(open(&disk, &small()).gaps().count(), 0);
    assert!(bytes(&disk, last).is_empty());
    let aside = disk.bytes(&Path::new(DIR).join(format!("aside/{last:012}.seg")));
    assert_eq!(aside.unwrap_or_default(), before);
}

#[test]
fn what_is_lost_is_not_read_until_it_is_back() {
    let disk = SimDisk::default();
    let chain = written(&disk, 30);
    let mut segments = open(&disk, &chain);
    let good = segments.read(1, 0, 1 << 20).unwrap();
    assert_eq!(good, bytes(&disk, 1));
    segments.lose(1);
    assert_eq!(segments.read(1, 0, 10).unwrap_err().kind(), io::ErrorKind::NotFound);
    segments.put(&Missing::of(&chain, 1).unwrap(), &good).unwrap();
    assert_eq!(segments.read(1, 8, 8).unwrap(), 1_u64.to_le_bytes());
}

#[test]
fn a_full_disk_is_told_and_the_same_piece_is_written_once_there_is_space() {
    let disk = SimDisk::default();
    let mut chain = written(&disk, 1);
    let mut segments = open(&disk, &chain);
    let piece = chain.append(&[record(2)], &mut Changes::new()).unwrap();
    disk.set_faults(Faults { capacity: Some(bytes(&disk, 1).len() as u64), ..Faults::default() });
    assert_eq!(segments.write(&piece).unwrap_err().kind(), io::ErrorKind::StorageFull);
    disk.set_faults(Faults::default());
    segments.write(&piece).unwrap();
    segments.sync().unwrap();
    assert_eq!(open(&disk, &chain).gaps().count(), 0);
}
