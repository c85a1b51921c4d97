//! Whether this node's cluster key is the one that the configuration's hashes and secrets were made under.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use crate::{
    Certificate, Consumer, Name, Provider, ProviderKey,
    secret::{ClusterKey, parse_sealed},
};

/// The id of the cluster key that most were made under, if that is another than `key`. One that a misled node made does
/// not count against all the others.
pub(super) fn other_key(
    consumers: &BTreeMap<Name, Arc<Consumer>>,
    providers: &BTreeMap<Name, Arc<Provider>>,
    certificates: &BTreeMap<Name, Arc<Certificate>>,
    key: Option<&ClusterKey>,
) -> Option<Arc<str>> {
    let hashes = consumers.values().flat_map(|consumer| &consumer.credentials).map(|credential| &*credential.key_id);
    let keys = providers.values().flat_map(|provider| &provider.keys);
    let keys = keys.chain(certificates.values().filter_map(|certificate| certificate.key.as_ref()));
    let sealed = keys.filter_map(|key| match key {
        ProviderKey::Sealed(text) => parse_sealed(text).ok().map(|(id, _)| id),
        ProviderKey::Env(_) | ProviderKey::File(_) => None,
    });
    let mut made: HashMap<&str, usize> = HashMap::new();
    for id in hashes.chain(sealed) {
        *made.entry(id).or_default() += 1;
    }
    let own = key.map(ClusterKey::id);
    let ours = own.and_then(|own| made.get(own)).copied().unwrap_or(0);
    let others = made.into_iter().filter(|(id, _)| Some(*id) != own);
    let (id, most) = others.max_by_key(|(id, count)| (*count, *id))?;
    (most > ours).then(|| id.into())
}
