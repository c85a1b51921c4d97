//! Accounts that do not add up: nothing is admitted on them until their window turns.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::Charge;

/// Accounts that are closed one by one; with more of them their limits are closed whole.
const MAX_CLOSED: usize = 10_000;

/// A limit, and the key of one account of it; without a key all of them.
type Name = (String, Option<Vec<String>>);

#[derive(Debug, Default)]
pub(super) struct Quarantine {
    /// So that nobody takes the lock while all is well.
    len: AtomicUsize,
    closed: Mutex<HashMap<Name, Instant>>,
}

impl Quarantine {
    /// Closes an account, or without a key all of the limit, until `until` or for longer if it was closed for longer.
    pub(super) fn close(&self, limit: &str, key: Option<&[String]>, until: Instant) {
        let mut closed = self.closed.lock();
        let now = Instant::now();
        closed.retain(|_, until| *until > now);
        let key = key.filter(|_| closed.len() < MAX_CLOSED).map(<[String]>::to_vec);
        let entry = closed.entry((limit.to_owned(), key)).or_insert(until);
        *entry = until.max(*entry);
        self.len.store(closed.len(), Relaxed);
    }

    /// Opens an account again, or without a key all of the limit that is closed whole; whether it was closed.
    pub(super) fn open(&self, limit: &str, key: Option<&[String]>) -> bool {
        let mut closed = self.closed.lock();
        let was = closed.remove(&(limit.to_owned(), key.map(<[String]>::to_vec)));
        self.len.store(closed.len(), Relaxed);
        was.is_some_and(|until| until > Instant::now())
    }

    /// Whether this account is closed.
    pub(super) fn closes(&self, limit: &str, key: &[String]) -> bool {
        let (closed, now) = (self.closed.lock(), Instant::now());
        let is_closed = |key| closed.get(&(limit.to_owned(), key)).is_some_and(|until| *until > now);
        is_closed(None) || is_closed(Some(key.to_vec()))
    }

    /// Whether one of these charges is of an account that is closed.
    pub(super) fn refuses(&self, charges: &[Charge]) -> bool {
        if self.len.load(Relaxed) == 0 {
            return false;
        }
        let (closed, now) = (self.closed.lock(), Instant::now());
        let is_closed = |name: &Name| closed.get(name).is_some_and(|until| *until > now);
        charges.iter().any(|charge| {
            let limit = charge.limit.to_string();
            is_closed(&(limit.clone(), None)) || is_closed(&(limit, Some(charge.key.clone())))
        })
    }

    pub(super) fn len(&self) -> usize {
        let now = Instant::now();
        self.closed.lock().values().filter(|until| **until > now).count()
    }
}
