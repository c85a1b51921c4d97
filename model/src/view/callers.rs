//! From an API key to who has it.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::Arc,
};

use crate::{Consumer, Kind, Name, Problem, Problems, Tenant, Timestamp, secret::ClusterKey};

/// Who a request was found to come from.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Who calls.
    pub consumer: Arc<Consumer>,
    /// Who pays.
    pub tenant: Arc<Tenant>,
}

/// Every credential, by the beginning of its keyed hash: without the cluster key nobody can choose what that is.
#[derive(Default)]
pub(super) struct Callers {
    key: Option<ClusterKey>,
    by_prefix: HashMap<[u8; 8], Vec<Entry>>,
}

struct Entry {
    /// Compares in constant time.
    hash: blake3::Hash,
    expires_at: Option<Timestamp>,
    caller: Caller,
}

impl Callers {
    pub(super) fn new(
        consumers: &BTreeMap<Name, Arc<Consumer>>,
        tenants: &BTreeMap<Name, Arc<Tenant>>,
        key: Option<&ClusterKey>,
        problems: &mut Problems,
    ) -> Self {
        let mut callers = Self { key: key.cloned(), by_prefix: HashMap::new() };
        for consumer in consumers.values() {
            match tenants.get(&consumer.tenant) {
                Some(tenant) => callers.add(consumer, tenant, problems),
                None => problems.push(problem(consumer, "spec.tenant", "there is no such tenant, so no key is good")),
            }
        }
        callers
    }

    /// Whether it was made with this key.
    pub(super) fn is_under(&self, key: Option<&ClusterKey>) -> bool {
        self.key.as_ref().map(ClusterKey::id) == key.map(ClusterKey::id)
    }

    fn add(&mut self, consumer: &Arc<Consumer>, tenant: &Arc<Tenant>, problems: &mut Problems) {
        for (n, credential) in consumer.credentials.iter().enumerate() {
            if self.key.as_ref().is_none_or(|key| key.id() != credential.key_id) {
                let message = "was made under another cluster key than this node's `[cluster] key_file`";
                problems.push(problem(consumer, &format!("spec.credentials[{n}].hash"), message));
                continue;
            }
            let entry = Entry {
                hash: blake3::Hash::from_bytes(credential.hash),
                expires_at: credential.expires_at,
                caller: Caller { consumer: Arc::clone(consumer), tenant: Arc::clone(tenant) },
            };
            self.by_prefix.entry(prefix(&credential.hash)).or_default().push(entry);
        }
    }

    pub(super) fn find(&self, api_key: &str, now: Timestamp) -> Option<Caller> {
        let hash = blake3::Hash::from_bytes(self.key.as_ref()?.hash_api_key(api_key));
        let entry = self.by_prefix.get(&prefix(hash.as_bytes()))?.iter().find(|entry| entry.hash == hash)?;
        let good = entry.expires_at.is_none_or(|expires_at| now < expires_at);
        good.then(|| entry.caller.clone())
    }
}

fn prefix(hash: &[u8; 32]) -> [u8; 8] {
    *hash.first_chunk().expect("a hash has 32 bytes")
}

fn problem(consumer: &Consumer, field: &str, message: &str) -> Problem {
    Problem {
        kind: Some(Kind::Consumer),
        name: consumer.name.to_string(),
        field: field.to_owned(),
        message: message.to_owned(),
        at: None,
    }
}

impl fmt::Debug for Callers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Callers({})", self.by_prefix.len())
    }
}
