//! The request ids of the last ten minutes of log time and their first outcomes. Replicated: part of the state.
//!
//! What is remembered is bounded; when it is full, a command with a new id is refused rather than an id forgotten early.
//! These figures decide what `apply` answers, so they are the same on every node and may not be changed lightly.

use std::{
    collections::{HashMap, VecDeque},
    io,
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::machine::{Fingerprint, Row};

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
    /// Of the command that came first. Rows of earlier versions have none: it stands behind what they have.
    #[serde(skip)]
    pub(crate) fingerprint: Option<Fingerprint>,
}

impl Remembered {
    /// Whether a command with this fingerprint may be the one that came first.
    pub(crate) fn is_of(&self, fingerprint: Fingerprint) -> bool {
        self.fingerprint.is_none_or(|first| first == fingerprint)
    }

    fn row(&self) -> Row {
        let mut value = postcard::to_stdvec(self).expect("plain data always encodes");
        value.extend(self.fingerprint.iter().flatten());
        (key(self.index), value)
    }

    fn parse(value: &[u8]) -> io::Result<Self> {
        let (remembered, rest) = postcard::take_from_bytes::<Self>(value).map_err(io::Error::other)?;
        let fingerprint = match rest {
            [] => None,
            rest => Some(rest.try_into().map_err(|_| io::Error::other("a fingerprint has another length"))?),
        };
        Ok(Self { fingerprint, ..remembered })
    }
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

    pub(crate) fn remember(&mut self, remembered: Remembered) -> Row {
        let row = remembered.row();
        self.push(remembered);
        row
    }

    /// Puts another outcome in the place of the one that is remembered, for as long as that one is.
    pub(crate) fn amend(&mut self, request_id: &[u8; 16], outcome: Vec<u8>) -> Option<Row> {
        let first = self.by_id.get(request_id)?;
        let place = self.oldest_first.binary_search_by_key(&first.index, |one| one.index).ok()?;
        let amended = Arc::new(Remembered { outcome, ..Remembered::clone(first) });
        self.bytes = self.bytes - first.outcome.len() + amended.outcome.len();
        self.by_id.insert(*request_id, Arc::clone(&amended));
        let row = amended.row();
        self.oldest_first[place] = amended;
        Some(row)
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
        all.into_iter().map(|one| one.row())
    }

    /// Takes one row back in. They come in the order of their keys, which is that of their age.
    pub(crate) fn restore_row(&mut self, value: &[u8]) -> io::Result<()> {
        self.push(Remembered::parse(value)?);
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

    fn first(id: u8, index: u64, time_us: u64, outcome: &[u8]) -> Remembered {
        let (outcome, fingerprint) = (outcome.to_vec(), Some([id; 16]));
        Remembered { request_id: [id; 16], index, time_us, outcome, fingerprint }
    }

    #[test]
    fn the_first_outcome_is_kept_for_the_window_and_no_longer() {
        let mut dedup = Dedup::default();
        dedup.remember(first(1, 5, 1_000, b"first"));
        assert!(dedup.expire(1_000 + WINDOW_US).is_empty());
        assert_eq!(dedup.find(&[1; 16]).unwrap().outcome, b"first");
        assert_eq!(dedup.expire(1_001 + WINDOW_US), [key(5)]);
        assert!(dedup.find(&[1; 16]).is_none());
        assert_eq!(dedup.bytes, 0);
    }

    #[test]
    fn an_amended_outcome_stands_in_its_place_and_is_forgotten_in_its_turn() {
        let mut dedup = Dedup::default();
        for n in 1..4u8 {
            dedup.remember(first(n, u64::from(n) * 10, u64::from(n), b"first"));
        }
        let (row, value) = dedup.amend(&[2; 16], b"amended".to_vec()).unwrap();
        assert_eq!(row, key(20));
        assert_eq!(dedup.image().map(|(key, _)| key).collect::<Vec<_>>(), [key(10), key(20), key(30)]);
        assert!(dedup.image().any(|row| row == (key(20), value.clone())));
        assert_eq!(dedup.find(&[2; 16]).unwrap().outcome, b"amended");
        assert_eq!(dedup.amend(&[9; 16], Vec::new()), None);
        dedup.expire(4 + WINDOW_US);
        assert_eq!((dedup.bytes, dedup.by_id.len()), (0, 0));
    }

    #[test]
    fn an_image_restores_to_the_same() {
        let mut dedup = Dedup::default();
        for n in 0..10u8 {
            dedup.remember(first(n, u64::from(n), u64::from(n), &[n; 3]));
        }
        let mut copy = Dedup::default();
        for (_, value) in dedup.image() {
            copy.restore_row(&value).unwrap();
        }
        assert_eq!(copy.oldest_first, dedup.oldest_first);
        assert_eq!(copy.bytes, dedup.bytes);
    }

    #[test]
    fn a_row_of_an_earlier_version_is_read_and_written_as_it_was() {
        // What the first version wrote: id, index, time and outcome, and nothing behind them.
        let old = postcard::to_stdvec(&([7u8; 16], 5u64, 9u64, b"first".to_vec())).unwrap();
        let mut dedup = Dedup::default();
        dedup.restore_row(&old).unwrap();
        let found = dedup.find(&[7; 16]).unwrap();
        assert!(found.outcome == b"first" && found.is_of([1; 16]) && found.is_of([2; 16]));
        assert_eq!(dedup.image().collect::<Vec<_>>(), [(key(5), old.clone())]);
        let new = first(8, 6, 9, b"x");
        assert!(new.is_of([8; 16]) && !new.is_of([1; 16]));
        assert_eq!(Remembered::parse(&new.row().1).unwrap(), new);
        assert!(dedup.restore_row(&[old.as_slice(), &[0; 3]].concat()).is_err());
    }

    #[test]
    fn it_is_full_rather_than_forgetful() {
        let mut dedup = Dedup::default();
        dedup.remember(first(1, 1, 1, &vec![0; MAX_BYTES]));
        assert!(dedup.is_full());
        dedup.expire(2 + WINDOW_US);
        assert!(!dedup.is_full());
    }
}
