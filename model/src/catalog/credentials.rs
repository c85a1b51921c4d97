//! Who has which credential: no two consumers share one.

use std::collections::BTreeMap;

use tollgate_proto::v1;

use crate::{Field, Kind, check::kind_and_name};

/// A credential that another consumer has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedCredential {
    /// Where among the resources that were looked at its consumer is.
    pub resource: usize,
    /// Where it stands: `spec.credentials[0]`.
    pub field: String,
    /// What is said of it.
    pub message: String,
}

/// Every credential, plain or hashed, that a consumer before it has already. Consumers of one name are one.
#[must_use]
pub fn shared_credentials<'a>(resources: impl IntoIterator<Item = &'a v1::Resource>) -> Vec<SharedCredential> {
    let mut owners: BTreeMap<&str, &str> = BTreeMap::new();
    let mut shared = Vec::new();
    for (n, resource) in resources.into_iter().enumerate() {
        let Some((Kind::Consumer, name)) = kind_and_name(resource) else { continue };
        for (at, credential) in credentials(resource) {
            let text = if credential.api_key.is_empty() { &credential.hash } else { &credential.api_key };
            if text.is_empty() {
                continue;
            }
            let owner = *owners.entry(text).or_insert(name);
            if owner != name {
                shared.push(SharedCredential { resource: n, field: field(at), message: taken(owner) });
            }
        }
    }
    shared
}

/// The hashes of a resource's credentials, each with its place in the list.
pub(super) fn credential_hashes(resource: &v1::Resource) -> impl Iterator<Item = (usize, &str)> {
    credentials(resource).map(|(n, credential)| (n, credential.hash.as_str())).filter(|(_, hash)| !hash.is_empty())
}

fn credentials(resource: &v1::Resource) -> impl Iterator<Item = (usize, &v1::Credential)> {
    let consumer = match &resource.kind {
        Some(v1::resource::Kind::Consumer(consumer)) => consumer.spec.as_ref(),
        _ => None,
    };
    consumer.map_or(&[][..], |spec| &spec.credentials).iter().enumerate()
}

pub(super) fn field(n: usize) -> String {
    Field::root("spec").field("credentials").index(n).to_string()
}

pub(super) fn taken(owner: &str) -> String {
    format!("has an API key that consumer `{owner}` has")
}
