//! What the records of the Raft log say: a tag, then postcard.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::types::{Entry, LogId, Vote};

const HEAD: u8 = 1;
const VOTE: u8 = 2;
const ENTRY: u8 = 3;
const TRUNCATE: u8 = 4;
const PURGE: u8 = 5;
const COMMITTED: u8 = 6;

/// What a segment begins with: all that is still needed of the segments before it, but for their entries.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) vote: Option<Vote>,
    pub(super) committed: Option<LogId>,
    pub(super) purged: Option<LogId>,
    /// The last log entry before this segment, if there is any that is not truncated.
    pub(super) last: Option<LogId>,
}

/// A record as it is read at the start. Entries are not decoded then: their id is enough.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Record {
    Head(Head),
    Vote(Vote),
    Entry(LogId),
    /// Entries after this one are gone.
    Truncate(Option<LogId>),
    /// Entries up to this one are gone.
    Purge(LogId),
    Committed(Option<LogId>),
}

impl Record {
    pub(super) fn decode(payload: &[u8]) -> Result<Self, String> {
        let (tag, body) = payload.split_first().ok_or("it is empty")?;
        match *tag {
            HEAD => whole(body).map(Self::Head),
            VOTE => whole(body).map(Self::Vote),
            ENTRY => split::<LogId>(body).map(|(log_id, _)| Self::Entry(log_id)),
            TRUNCATE => whole(body).map(Self::Truncate),
            PURGE => whole(body).map(Self::Purge),
            COMMITTED => whole(body).map(Self::Committed),
            tag => Err(format!("its kind, {tag}, is not known to this version")),
        }
    }
}

/// The entry of a record that is one.
pub(super) fn decode_entry(payload: &[u8]) -> Result<Entry, String> {
    match payload.split_first() {
        Some((&ENTRY, body)) => whole(split::<LogId>(body)?.1),
        _ => Err("it is no log entry".to_owned()),
    }
}

pub(super) fn encode_head(head: &Head) -> Vec<u8> {
    encode(HEAD, head)
}

pub(super) fn encode_vote(vote: &Vote) -> Vec<u8> {
    encode(VOTE, vote)
}

/// The id comes first, once more, so that a start need not decode what may be megabytes.
pub(super) fn encode_entry(entry: &Entry) -> Vec<u8> {
    extend(encode(ENTRY, &entry.log_id), entry)
}

pub(super) fn encode_truncate(after: Option<LogId>) -> Vec<u8> {
    encode(TRUNCATE, &after)
}

pub(super) fn encode_purge(up_to: LogId) -> Vec<u8> {
    encode(PURGE, &up_to)
}

pub(super) fn encode_committed(committed: Option<LogId>) -> Vec<u8> {
    encode(COMMITTED, &committed)
}

fn encode<T: Serialize>(tag: u8, value: &T) -> Vec<u8> {
    extend(vec![tag], value)
}

fn extend<T: Serialize>(bytes: Vec<u8>, value: &T) -> Vec<u8> {
    postcard::to_extend(value, bytes).expect("our types have known lengths, and a vector takes every byte")
}

fn split<T: DeserializeOwned>(body: &[u8]) -> Result<(T, &[u8]), String> {
    postcard::take_from_bytes(body).map_err(|error| format!("it cannot be decoded: {error}"))
}

fn whole<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    match split(body)? {
        (value, []) => Ok(value),
        (_, rest) => Err(format!("{} bytes follow it", rest.len())),
    }
}
