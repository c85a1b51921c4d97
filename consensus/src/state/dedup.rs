//! The request ids of the last ten minutes of log time and their first outcomes. Replicated: part of the state.
//!
//! What is remembered is bounded; when it is full, a command with a new id is refused rather than an id forgotten early.
//! These figures decide what `apply` answers, so they are the same on every node and may not be changed lightly.

use std::{
    collections::{HashMap, VecDeque},
    io,
    sync::Arc,
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::machine::Row;

/// How long an id is remembered, in log time.
pub(crate) const WINDOW_US: u64 = 15 * 60 * 1_000_000;

/// 290 new ids a second over the window, some 30 MB.
const MAX_IDS: usize = 262_144;

/// Of outcomes.
const MAX_BYTES: usize = 64 << 20;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Remembered {
    pub(crate) request_id: [u8; 16],
    pub(crate) index: u64,
    pub(crate) time_us: u64,
    pub(crate) outcome: Vec<u8>,
}

/// The ids and their outcomes, oldest first.
#[derive(Default)]
pub(crate) struct Dedup {
    oldest_first: VecDeque<Arc<Remembered>>,
    by_id: HashMap<[u8; 16], Arc<Remembered>>,
    bytes: usize,
}

impl Dedup {
    pub(crate) fn find(&self, request_id: &[u8; 16]) -> Option<&Remembered> {
        self.by_id.get(request_id).map(AsRef::as_ref)
    }

    pub(crate) fn is_full(&self) -> bool {
        self.oldest_first.len() >= MAX_IDS || self.bytes >= MAX_BYTES
    }

    pub(crate) fn remember(&mut self, request_id: [u8; 16], index: u64, time_us: u64, outcome: &Bytes) -> Row {
        let remembered = Remembered { request_id, index, time_us, outcome: outcome.to_vec() };
        let row = (key(index), postcard::to_stdvec(&remembered).expect("plain data always encodes"));
        self.push(remembered);
        row
    }

    /// Forgets what is older than the window; gives the keys of the rows that are gone.
    pub(crate) fn expire(&mut self, now_us: u64) -> Vec<Vec<u8>> {
        let mut gone = Vec::new();
        while let Some(oldest) = self.oldest_first.front().filter(|oldest| oldest.time_us + WINDOW_US < now_us) {
            gone.push(key(oldest.index));
            self.by_id.remove(&oldest.request_id);
            self.bytes -= oldest.outcome.len();
            self.oldest_first.pop_front();
        }
        gone
    }

    /// The rows, sorted, as of now. Cheap: pointers are copied, rows are made when asked for.
    pub(crate) fn image(&self) -> impl Iterator<Item = Row> + Send + use<> {
        let all: Vec<_> = self.oldest_first.iter().cloned().collect();
        all.into_iter().map(|one| (key(one.index), postcard::to_stdvec(&*one).expect("plain data always encodes")))
    }

    /// Takes one row back in. They come in the order of their keys, which is that of their age.
    pub(crate) fn restore_row(&mut self, value: &[u8]) -> io::Result<()> {
        let remembered = postcard::from_bytes(value).map_err(io::Error::other)?;
        self.push(remembered);
        Ok(())
    }

    fn push(&mut self, remembered: Remembered) {
        let remembered = Arc::new(remembered);
        self.bytes += remembered.outcome.len();
        self.by_id.insert(remembered.request_id, Arc::clone(&remembered));
        self.oldest_first.push_back(remembered);
    }
}

/// Sorted by index, which is by age.
fn key(index: u64) -> Vec<u8> {
    let mut key = super::rows::DEDUP_PREFIX.to_vec();
    key.extend_from_slice(&index.to_be_bytes());
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_outcome_is_kept_for_the_window_and_no_longer() {
        let mut dedup = Dedup::default();
        dedup.remember([1; 16], 5, 1_000, &Bytes::from_static(b"first"));
        assert!(dedup.expire(1_000 + WINDOW_US).is_empty());
        assert_eq!(dedup.find(&[1; 16]).unwrap().outcome, b"first");
        assert_eq!(dedup.expire(1_001 + WINDOW_US), [key(5)]);
        assert!(dedup.find(&[1; 16]).is_none());
        assert_eq!(dedup.bytes, 0);
    }

    #[test]
    fn an_image_restores_to_the_same() {
        let mut dedup = Dedup::default();
        for n in 0..10u8 {
            dedup.remember([n; 16], u64::from(n), u64::from(n), &Bytes::from(vec![n; 3]));
        }
        let mut copy = Dedup::default();
        for (_, value) in dedup.image() {
            copy.restore_row(&value).unwrap();
        }
        assert_eq!(copy.oldest_first, dedup.oldest_first);
        assert_eq!(copy.bytes, dedup.bytes);
    }

    #[test]
    fn it_is_full_rather_than_forgetful() {
        let mut dedup = Dedup::default();
        dedup.remember([1; 16], 1, 1, &Bytes::from(vec![0; MAX_BYTES]));
        assert!(dedup.is_full());
        dedup.expire(2 + WINDOW_US);
        assert!(!dedup.is_full());
    }
}
