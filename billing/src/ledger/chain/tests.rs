use std::convert::Infallible;

use proptest::prelude::*;
use tollgate_proto::state::v1::LedgerRow;

use super::{
    super::segment::{Broken, Records, Why},
    *,
};

/// Segments as a node keeps them.
#[derive(Default, Clone)]
struct Files(BTreeMap<u64, Vec<u8>>);

impl Files {
    fn take(&mut self, piece: Piece) {
        let file = self.0.entry(piece.segment).or_default();
        assert_eq!(file.len() as u64, piece.offset);
        file.extend(piece.bytes);
    }

    /// All records, each segment read after the one before it.
    fn read(&self) -> Result<(Vec<LedgerRecord>, Hash), Broken> {
        let (mut all, mut hash, mut seq) = (Vec::new(), genesis(), 0);
        for (segment, bytes) in &self.0 {
            let mut records = Records::open(&**bytes, *segment, hash, seq)?;
            for record in &mut records {
                all.push(record?);
            }
            assert_eq!(records.offset(), bytes.len() as u64);
            (hash, seq) = (records.hash(), records.last_seq());
        }
        Ok((all, hash))
    }
}

fn record(seq: u64, request: &str) -> LedgerRecord {
    let row = LedgerRow { seq, request_id: request.to_owned(), input_tokens: seq, ..LedgerRow::default() };
    LedgerRecord { kind: Some(Kind::Row(row)) }
}

/// Entries, each of some rows: numbers grow.
pub(in crate::ledger) fn entries() -> impl Strategy<Value = Vec<Vec<LedgerRecord>>> {
    let rows = proptest::collection::vec("[a-z]{0,20}", 0..4);
    proptest::collection::vec(rows, 1..20).prop_map(|entries| {
        let entry = |(index, rows): (u64, Vec<String>)| {
            rows.iter().zip(0..).map(|(request, n)| record((index << 16) + n, request)).collect()
        };
        (1..).zip(entries).map(entry).collect()
    })
}

pub(in crate::ledger) fn small() -> Chain {
    of(200)
}

/// Segments of so many bytes.
pub(in crate::ledger) fn of(segment_bytes: u64) -> Chain {
    Chain { segment_bytes, ..Chain::default() }
}

fn written(chain: &mut Chain, entries: &[Vec<LedgerRecord>]) -> (Files, BTreeMap<Vec<u8>, Vec<u8>>) {
    let (mut files, mut rows) = (Files::default(), BTreeMap::new());
    for entry in entries {
        let mut changes = Changes::new();
        if let Some(piece) = chain.append(entry, &mut changes) {
            files.take(piece);
        }
        rows.extend(changes.into_iter().map(|(key, value)| (key, value.expect("nothing is deleted"))));
    }
    (files, rows)
}

proptest! {
    #[test]
    fn what_is_appended_is_read_back_and_the_state_agrees(entries in entries()) {
        let mut chain = small();
        let (files, rows) = written(&mut chain, &entries);
        let all: Vec<LedgerRecord> = entries.into_iter().flatten().collect();
        let (read, hash) = files.read().unwrap();
        prop_assert_eq!(read.len() as u64, chain.records());
        prop_assert_eq!(read, all);
        prop_assert_eq!(hash, chain.open().hash);
        for extent in chain.complete() {
            prop_assert_eq!(files.0[&extent.segment].len() as u64, extent.bytes);
            prop_assert!(extent.bytes >= 200);
            prop_assert_eq!(chain.before(extent.segment + 1), extent.hash);
        }
        let kept: Vec<_> = rows.into_iter().collect();
        prop_assert_eq!(chain.rows().collect::<Vec<_>>(), kept.clone());
        let restored = Chain::restore(kept.into_iter().map(Ok::<_, Infallible>)).unwrap();
        prop_assert_eq!(Chain { segment_bytes: 200, ..restored }, chain);
    }

    /// One changed byte anywhere is found, in its segment, and not before it.
    #[test]
    fn a_changed_byte_is_found(entries in entries(), at: prop::sample::Index, flip in 1..=255_u8) {
        let mut chain = small();
        let (mut files, _) = written(&mut chain, &entries);
        let total: usize = files.0.values().map(Vec::len).sum();
        prop_assume!(total > 0);
        let mut at = at.index(total);
        let mut of = 0;
        for (segment, bytes) in &mut files.0 {
            if at < bytes.len() {
                bytes[at] ^= flip;
                of = *segment;
                break;
            }
            at -= bytes.len();
        }
        let broken = files.read().unwrap_err();
        prop_assert_eq!(broken.segment, of);
        prop_assert!(broken.offset <= at as u64, "{}", broken);
    }

    /// So is an end that is missing, unless it is between two records: that the hash tells.
    #[test]
    fn a_missing_end_is_found(entries in entries(), cut in 1..60_usize) {
        let mut chain = small();
        let (mut files, _) = written(&mut chain, &entries);
        let Some(mut last) = files.0.last_entry() else { return Ok(()) };
        let keep = last.get().len().saturating_sub(cut);
        last.get_mut().truncate(keep);
        match files.read() {
            Ok((_, hash)) => prop_assert_ne!(hash, chain.open().hash),
            Err(broken) => prop_assert!(matches!(broken.why, Why::Torn), "{}", broken),
        }
    }
}

#[test]
fn a_segment_that_is_another_or_after_another_is_told() {
    let mut chain = small();
    let entries: Vec<_> = (1..30).map(|index| vec![record(index << 16, "some request")]).collect();
    let (files, _) = written(&mut chain, &entries);
    assert!(files.0.len() > 2);
    let mut swapped = files.clone();
    let (first, second) = (files.0[&1].clone(), files.0[&2].clone());
    swapped.0.insert(1, second);
    swapped.0.insert(2, first);
    assert!(matches!(swapped.read().unwrap_err().why, Why::Header));
    let mut missing = files.clone();
    missing.0.remove(&1);
    assert!(matches!(missing.read().unwrap_err().why, Why::Before));
    let mut twice = files;
    let again = twice.0[&1][52..].to_vec();
    twice.0.get_mut(&1).unwrap().extend(again);
    let broken = twice.read().unwrap_err();
    assert!(matches!(broken.why, Why::Order(seq) if seq == 1 << 16), "{broken}");
}

#[test]
fn rows_that_are_none_of_the_ledgers_are_refused() {
    for (key, value) in [(vec![0], vec![0xff]), (vec![1, 0], vec![8]), (vec![9], Vec::new())] {
        assert!(Chain::restore([Ok::<_, Infallible>((key, value))]).is_err());
    }
}
