//! What the end of a segment is judged to be.

use super::*;
use crate::SegmentId;
use crate::record::{Stamp, encode};

/// Records that are `synced` in groups: each inner slice is one write with one sync after it.
struct Segment {
    header: SegmentHeader,
    bytes: Vec<u8>,
    /// Where each record begins; sequence numbers begin at 1.
    offsets: Vec<usize>,
    /// The space after the last record.
    end: usize,
}

fn segment(groups: &[&[usize]]) -> Segment {
    let header = SegmentHeader::new(SegmentId(1), 1, *b"scantest");
    let mut bytes = header.encode().to_vec();
    let (mut offsets, mut sequence) = (Vec::new(), 1);
    for group in groups {
        let synced = sequence;
        for len in *group {
            offsets.push(bytes.len());
            let offset = bytes.len() as u64;
            let stamp = Stamp { salt: header.salt, sequence, synced };
            encode(&mut bytes, offset, stamp, &vec![u8::try_from(sequence).unwrap(); *len]);
            sequence += 1;
        }
    }
    let end = bytes.len();
    bytes.resize(end + 4096, 0);
    Segment { header, bytes, offsets, end }
}

impl Segment {
    /// How many records are good, and the verdict, when everything before record `synced` is known to be synced.
    fn judge(&self, synced: u64) -> (u64, End) {
        self.judge_sealed(synced, None)
    }

    fn judge_sealed(&self, synced: u64, sealed_at: Option<u64>) -> (u64, End) {
        let mut scan = Scan::new(&self.bytes, &self.header, Known { synced, sealed_at });
        while scan.next().is_some() {}
        (scan.sequence - 1, scan.end())
    }
}

fn is_corrupt(end: &End) -> bool {
    matches!(end, End::Corrupt(_))
}

#[test]
fn zeros_after_the_last_record_are_a_clean_end() {
    assert_eq!(segment(&[&[10, 700], &[3]]).judge(0), (3, End::Clean));
    assert_eq!(segment(&[]).judge(0), (0, End::Clean));
}

#[test]
fn an_unsynced_group_is_cut_at_every_byte() {
    let whole = segment(&[&[10], &[700, 20]]);
    for cut in whole.offsets[1]..whole.end {
        let mut torn = segment(&[&[10], &[700, 20]]);
        torn.bytes[cut..].fill(0);
        let good = whole.offsets.iter().skip(1).filter(|start| **start < cut).count() as u64;
        let (records, end) = torn.judge(2);
        assert!(records == good || (records == 1 + good), "cut at {cut}");
        assert!(!is_corrupt(&end), "cut at {cut}: {end:?}");
        torn.bytes.truncate(cut);
        assert!(!is_corrupt(&torn.judge(2).1), "shortened to {cut}");
    }
}

#[test]
fn a_cut_below_the_watermark_is_corruption() {
    let mut cut = segment(&[&[10], &[700, 20]]);
    let (last, end) = (cut.offsets[2], cut.end);
    cut.bytes[end - 1..].fill(0);
    assert!(is_corrupt(&cut.judge(4).1));
    cut.bytes.truncate(last);
    assert!(is_corrupt(&cut.judge(4).1), "even a whole record that is simply not there");
    assert_eq!(cut.judge(3), (2, End::Clean));
}

#[test]
fn a_later_record_tells_that_a_damaged_one_was_synced() {
    let mut damaged = segment(&[&[100], &[100], &[100]]);
    let at = damaged.offsets[1];
    damaged.bytes[at + 32..at + 100].fill(0); // as if torn, but the third record was written after it was synced
    assert!(is_corrupt(&damaged.judge(0).1));
    damaged.bytes[at..at + 32].fill(0);
    assert!(is_corrupt(&damaged.judge(0).1), "its header, too");
}

#[test]
fn a_record_of_the_same_group_tells_nothing() {
    let mut torn = segment(&[&[100], &[2000, 100, 100]]);
    let sector = torn.offsets[1].next_multiple_of(512);
    torn.bytes[sector..sector + 512].fill(0);
    assert!(matches!(torn.judge(2), (1, End::Torn(_))), "{:?}", torn.judge(2));
}

#[test]
fn a_flipped_bit_in_the_last_record_is_no_torn_write_even_without_a_watermark() {
    let whole = segment(&[&[100], &[600]]);
    for bit in whole.offsets[1] * 8..whole.end * 8 {
        let mut flipped = segment(&[&[100], &[600]]);
        flipped.bytes[bit / 8] ^= 1 << (bit % 8);
        let (records, end) = flipped.judge(0);
        assert!(records == 1 && is_corrupt(&end), "bit {bit}: {end:?}");
    }
}

#[test]
fn a_flipped_bit_in_free_space_costs_nothing() {
    let whole = segment(&[&[100], &[600]]);
    for bit in (whole.end * 8..whole.bytes.len() * 8).step_by(7) {
        let mut flipped = segment(&[&[100], &[600]]);
        flipped.bytes[bit / 8] ^= 1 << (bit % 8);
        let (records, end) = flipped.judge(3);
        assert!(records == 2 && matches!(end, End::Torn(_)), "bit {bit}: {end:?}");
    }
}

#[test]
fn a_sealed_segment_has_to_be_whole() {
    let mut sealed = segment(&[&[100], &[600]]);
    assert_eq!(sealed.judge_sealed(0, Some(3)), (2, End::Clean));
    assert!(is_corrupt(&sealed.judge_sealed(0, Some(4)).1));
    let end = sealed.end;
    sealed.bytes[end - 1] = 0;
    assert!(is_corrupt(&sealed.judge_sealed(0, Some(3)).1));
}

#[test]
fn a_copy_of_another_segment_inside_a_record_is_not_taken_for_records() {
    let inner = segment(&[&[50], &[50], &[50]]);
    let header = SegmentHeader::new(SegmentId(1), 1, *b"scantest");
    let mut bytes = header.encode().to_vec();
    let stamp = Stamp { salt: header.salt, sequence: 1, synced: 1 };
    encode(&mut bytes, 64, stamp, &inner.bytes);
    let end = bytes.len();
    bytes[end - 1] = 0;
    let mut scan = Scan::new(&bytes, &header, Known { synced: 0, sealed_at: None });
    assert!(header.salt == inner.header.salt || scan.next().is_none() && matches!(scan.end(), End::Torn(_)));
}
