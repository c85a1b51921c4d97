//! Whose row is it: one byte in front of a part's own keys, the same in sled and in snapshots.

use std::{error::Error, io};

use tollgate_consensus::{Changes, Row};

/// A part of the replicated state. The bytes are in every data directory: they never change their meaning.
#[derive(Clone, Copy)]
pub(super) enum Part {
    Alerts,
    Catalog,
    Credits,
    Ledger,
    Prices,
    Quota,
    Tokens,
    Usage,
    Zones,
}

impl Part {
    const fn prefix(self) -> u8 {
        match self {
            Part::Alerts => b'a',
            Part::Catalog => b'c',
            Part::Credits => b'k',
            Part::Ledger => b'l',
            Part::Prices => b'p',
            Part::Quota => b'q',
            Part::Tokens => b't',
            Part::Usage => b'u',
            Part::Zones => b'z',
        }
    }

    fn of(prefix: u8) -> Option<Part> {
        let money = [Part::Alerts, Part::Credits, Part::Ledger, Part::Prices, Part::Usage];
        let mut all = money.into_iter().chain([Part::Catalog, Part::Quota, Part::Tokens, Part::Zones]);
        all.find(|part| part.prefix() == prefix)
    }

    fn key(self, key: Vec<u8>) -> Vec<u8> {
        let mut prefixed = Vec::with_capacity(key.len() + 1);
        prefixed.push(self.prefix());
        prefixed.extend(key);
        prefixed
    }

    /// Hands the rows that a part changed on to consensus.
    pub(super) fn collect(self, rows: impl IntoIterator<Item = (Vec<u8>, Option<Vec<u8>>)>, changes: &mut Changes) {
        for (key, value) in rows {
            match value {
                Some(value) => changes.put(self.key(key), value),
                None => changes.delete(self.key(key)),
            }
        }
    }

    /// The rows of a part as they stand in an image.
    pub(super) fn prefixed(self, rows: impl Iterator<Item = Row> + Send + 'static) -> impl Iterator<Item = Row> + Send {
        rows.map(move |(key, value)| (self.key(key), value))
    }
}

/// The rows of every part, without the byte in front.
#[derive(Default)]
pub(super) struct Parts {
    pub(super) alerts: Vec<Row>,
    pub(super) catalog: Vec<Row>,
    pub(super) credits: Vec<Row>,
    pub(super) ledger: Vec<Row>,
    pub(super) prices: Vec<Row>,
    pub(super) quota: Vec<Row>,
    pub(super) tokens: Vec<Row>,
    pub(super) usage: Vec<Row>,
    pub(super) zones: Vec<Row>,
}

/// Sorts the rows of an image or a store by their part.
///
/// # Errors
/// When reading fails, or a row belongs to no part that this version knows.
pub(super) fn split(rows: &mut dyn Iterator<Item = io::Result<Row>>) -> io::Result<Parts> {
    let mut parts = Parts::default();
    for row in rows {
        let (mut key, value) = row?;
        let part = key.first().and_then(|prefix| Part::of(*prefix));
        let part = part.ok_or_else(|| invalid(format!("no part of the state has the row {}", hex::encode(&key))))?;
        key.remove(0);
        let list = match part {
            Part::Alerts => &mut parts.alerts,
            Part::Catalog => &mut parts.catalog,
            Part::Credits => &mut parts.credits,
            Part::Ledger => &mut parts.ledger,
            Part::Prices => &mut parts.prices,
            Part::Quota => &mut parts.quota,
            Part::Tokens => &mut parts.tokens,
            Part::Usage => &mut parts.usage,
            Part::Zones => &mut parts.zones,
        };
        list.push((key, value));
    }
    Ok(parts)
}

/// An error for what was read and is none of ours.
pub(super) fn invalid(error: impl Into<Box<dyn Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
