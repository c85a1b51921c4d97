//! Admin-plane tokens: a pure, replicated table. A token's secret is known to its holder alone; here is a keyed hash.
//!
//! Time is log time where the table changes, and the asking node's clock where a token is looked up, so that a token
//! ends on time in a cluster that has nothing to log. Expired tokens are dropped with the next change.

mod role;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use prost::Message;
use subtle::ConstantTimeEq;
use tollgate_model::Timestamp;
use tollgate_proto::state::v1::{TokenChange, TokenOutcome, TokenRecord, token_change};

pub use role::{Role, UnknownRole};

/// Tokens at a time: far more than people and programs that steer one cluster.
pub const MAX_TOKENS: usize = 10_000;
/// Bytes of a keyed hash.
const HASH_BYTES: usize = 32;

/// Rows that changed: the token's id, and its record, or `None` when it is gone.
pub type Changes = Vec<(Vec<u8>, Option<Vec<u8>>)>;

/// Every token, by id and by hash.
#[derive(Debug, Clone, Default)]
pub struct TokenTable {
    by_id: BTreeMap<String, TokenRecord>,
    by_hash: BTreeMap<[u8; HASH_BYTES], String>,
}

/// A row that is none of ours.
#[derive(Debug, thiserror::Error)]
#[error("the row of token {id:?} is not readable")]
pub struct RestoreError {
    id: String,
}

impl TokenTable {
    /// Applies one change at log time `now`.
    pub fn apply(&mut self, now: Timestamp, change: &TokenChange, changes: &mut Changes) -> TokenOutcome {
        self.drop_expired(now, changes);
        let done = match &change.kind {
            Some(token_change::Kind::Create(record)) => self.create(now, record, changes),
            Some(token_change::Kind::Initial(_)) if !self.by_id.is_empty() => Err("there are tokens already".into()),
            Some(token_change::Kind::Initial(record)) => self.create(now, record, changes),
            Some(token_change::Kind::Revoke(id)) => self.revoke(id, changes),
            None => Err("the change is empty".into()),
        };
        match done {
            Ok(token) => TokenOutcome { done: true, problem: String::new(), token: Some(token) },
            Err(problem) => TokenOutcome { done: false, problem, token: None },
        }
    }

    fn create(&mut self, now: Timestamp, record: &TokenRecord, changes: &mut Changes) -> Result<TokenRecord, String> {
        let hash = hash_of(record).ok_or("the hash has not 32 bytes")?;
        record.role.parse::<Role>().map_err(|unknown| unknown.to_string())?;
        if record.id.is_empty() {
            return Err("the token has no id".into());
        }
        if self.by_id.contains_key(&record.id) || self.by_hash.contains_key(&hash) {
            return Err(format!("there is a token {} already", record.id));
        }
        if self.by_id.len() >= MAX_TOKENS {
            return Err(format!("there are {MAX_TOKENS} tokens already: revoke some"));
        }
        let record = TokenRecord { created_us: now.0, ..record.clone() };
        changes.push((record.id.clone().into_bytes(), Some(record.encode_to_vec())));
        self.insert(hash, record.clone());
        Ok(record)
    }

    fn revoke(&mut self, id: &str, changes: &mut Changes) -> Result<TokenRecord, String> {
        let record = self.by_id.get(id).ok_or_else(|| format!("there is no token {id}"))?;
        if is_admin(record) && self.by_id.values().filter(|other| is_admin(other)).count() == 1 {
            return Err(format!("{id} is the last admin token: create another one first"));
        }
        let record = record.clone();
        self.remove(&record, changes);
        Ok(record)
    }

    fn drop_expired(&mut self, now: Timestamp, changes: &mut Changes) {
        let expired: Vec<_> = self.by_id.values().filter(|record| is_expired(record, now)).cloned().collect();
        for record in expired {
            self.remove(&record, changes);
        }
    }

    fn insert(&mut self, hash: [u8; HASH_BYTES], record: TokenRecord) {
        self.by_hash.insert(hash, record.id.clone());
        self.by_id.insert(record.id.clone(), record);
    }

    fn remove(&mut self, record: &TokenRecord, changes: &mut Changes) {
        if let Some(hash) = hash_of(record) {
            self.by_hash.remove(&hash);
        }
        self.by_id.remove(&record.id);
        changes.push((record.id.clone().into_bytes(), None));
    }

    /// The token with this keyed hash, unless it has expired by `now`.
    ///
    /// How long it takes tells nothing of use: what is compared is a keyed hash, which a caller can't choose.
    #[must_use]
    pub fn find(&self, hash: &[u8; HASH_BYTES], now: Timestamp) -> Option<&TokenRecord> {
        let record = self.by_id.get(self.by_hash.get(hash)?)?;
        let same = record.hash.ct_eq(hash.as_slice());
        (bool::from(same) && !is_expired(record, now)).then_some(record)
    }

    /// The token of this id, unless it has expired by `now`.
    #[must_use]
    pub fn get(&self, id: &str, now: Timestamp) -> Option<&TokenRecord> {
        self.by_id.get(id).filter(|record| !is_expired(record, now))
    }

    /// Every token that has not expired by `now`, by id.
    pub fn list(&self, now: Timestamp) -> impl Iterator<Item = &TokenRecord> {
        self.by_id.values().filter(move |record| !is_expired(record, now))
    }

    /// Whether there was never a token, or none is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Every row, sorted by key.
    pub fn rows(&self) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> + '_ {
        self.by_id.values().map(|record| (record.id.clone().into_bytes(), record.encode_to_vec()))
    }

    /// The table that these rows are of.
    ///
    /// # Errors
    /// When a row is not one of ours.
    pub fn restore(rows: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>) -> Result<Self, RestoreError> {
        let mut table = Self::default();
        for (key, value) in rows {
            let unreadable = || RestoreError { id: String::from_utf8_lossy(&key).into_owned() };
            let record = TokenRecord::decode(value.as_slice()).map_err(|_| unreadable())?;
            let hash = hash_of(&record).ok_or_else(unreadable)?;
            if record.id.as_bytes() != key {
                return Err(unreadable());
            }
            table.insert(hash, record);
        }
        Ok(table)
    }
}

fn hash_of(record: &TokenRecord) -> Option<[u8; HASH_BYTES]> {
    <[u8; HASH_BYTES]>::try_from(record.hash.as_ref()).ok()
}

fn is_admin(record: &TokenRecord) -> bool {
    record.role == Role::Admin.as_str() && record.tenant.is_empty()
}

/// 0 never expires.
fn is_expired(record: &TokenRecord, now: Timestamp) -> bool {
    record.expires_us != 0 && record.expires_us <= now.0
}
