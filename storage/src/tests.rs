//! The whole log against a model, on a disk that fails.

mod damage;
mod faults;
mod model;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::sim::SimDisk;
use crate::{OpenError, Opened, Options, Position, SegmentId, open};

const SEGMENT_BYTES: u64 = 4096;

fn options() -> Options {
    Options { owner: *b"testlog\0", segment_bytes: SEGMENT_BYTES, heal: "throw the test away" }
}

fn dir() -> &'static Path {
    Path::new("/log")
}

fn segment(id: u64) -> PathBuf {
    SegmentId(id).path(dir())
}

type Records = Vec<(Position, Vec<u8>)>;

/// Opens the log and returns what is in it.
fn reopen(disk: &SimDisk) -> Result<(Opened, Records), OpenError> {
    let mut records = Vec::new();
    let opened = open(Arc::new(disk.clone()), dir(), options(), &mut |at, payload| {
        records.push((at, payload.to_vec()));
        Ok(())
    })?;
    for (at, payload) in &records {
        assert_eq!(&opened.reader.read(*at).expect("just visited"), payload);
    }
    Ok((opened, records))
}

fn payloads(records: Records) -> Vec<Vec<u8>> {
    records.into_iter().map(|(_, payload)| payload).collect()
}

/// A payload that tells its number and is full of what could be mistaken: zeros.
fn payload(number: u32, len: usize) -> Vec<u8> {
    let mut payload = number.to_le_bytes().to_vec();
    payload.resize(len.max(4), 0);
    if number.is_multiple_of(2) {
        payload.iter_mut().skip(4).for_each(|byte| *byte = 0x5c);
    }
    payload
}
