//! The replicated set of resources.
//!
//! Pure: a change and the log index it has decide alone what becomes of it, on every node the same. What always holds:
//! 1. every reference from one resource to another names one that is there;
//! 2. no two consumers share an API key;
//! 3. no secret is plain;
//! 4. a contract is in the currency that its tenants pay in;
//! 5. a limit on cost says in which currency it counts;
//! 6. a route rewrites the host only for services that can be told one;
//! 7. a change is made as a whole or not at all.
//!
//! Not here: whether a resource makes sense by itself. [`crate::check()`] decides that before a change is proposed, as
//! nodes of different versions may differ about it and must not differ about what was committed.

mod credentials;
mod currencies;
mod plan;
mod references;
mod rewrites;
mod rows;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc};

use credentials::credential_hashes;
pub use credentials::{SharedCredential, shared_credentials};
pub use references::{Reference, missing, references_of};
pub use rows::ROW_PREFIX;
use tollgate_proto::{
    state::v1::{ConfigChange, ConfigOutcome},
    v1,
};

use crate::{
    Kind, LogIndex, Name,
    check::{identity, metadata_mut},
};

/// Every resource, as it was committed. Cloning shares everything.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Catalog {
    version: LogIndex,
    /// One map for each of [`Kind::ALL`].
    kinds: [Arc<Resources>; 8],
    /// Who has which credential. Derived.
    hashes: Arc<BTreeMap<String, Name>>,
}

type Resources = BTreeMap<Name, Arc<Stored>>;

/// One stored resource.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// With its `metadata.resourceVersion`; secrets sealed and hashed.
    pub resource: v1::Resource,
    /// The log index of its last change.
    pub version: LogIndex,
    /// The applied set that it belongs to; empty when to none.
    pub apply_set: String,
}

/// What a change does, or would do.
#[derive(Debug, Clone, Default)]
pub struct Decision {
    /// What the caller is told.
    pub outcome: ConfigOutcome,
    /// What became different. Empty when the change was refused.
    pub changes: Vec<Change>,
    /// [`Catalog::version`] afterwards.
    pub version: LogIndex,
}

/// One resource before and after. Where both are there with one version, it only moved to another applied set.
#[derive(Debug, Clone)]
pub struct Change {
    /// What it is.
    pub kind: Kind,
    /// Its name.
    pub name: Name,
    /// Absent when it is new.
    pub before: Option<Arc<Stored>>,
    /// Absent when it is gone.
    pub after: Option<Arc<Stored>>,
}

impl Catalog {
    /// Makes the change as log entry `at`, or refuses all of it.
    pub fn apply(&mut self, at: LogIndex, change: &ConfigChange) -> Decision {
        let decision = self.plan(at, change);
        for change in &decision.changes {
            self.replace(change);
        }
        self.version = decision.version;
        decision
    }

    /// What [`Self::apply`] would do at `at`, without doing it.
    #[must_use]
    pub fn plan(&self, at: LogIndex, change: &ConfigChange) -> Decision {
        plan::plan(self, at, change)
    }

    /// The log index of the last change of any resource that is there or was; zero before the first.
    #[must_use]
    pub fn version(&self) -> LogIndex {
        self.version
    }

    /// One resource.
    #[must_use]
    pub fn get(&self, kind: Kind, name: &str) -> Option<&Arc<Stored>> {
        self.kind(kind).get(name)
    }

    /// All resources of a kind, by name.
    #[must_use]
    pub fn kind(&self, kind: Kind) -> &BTreeMap<Name, Arc<Stored>> {
        &self.kinds[slot(kind)]
    }

    /// How many resources there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.kinds.iter().map(|resources| resources.len()).sum()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The resources of a kind, or of all in export order, by name; only those with all of these labels.
    pub fn list<'a>(
        &'a self,
        kind: Option<Kind>,
        selector: &'a BTreeMap<String, String>,
    ) -> impl Iterator<Item = &'a Arc<Stored>> {
        Kind::EXPORT_ORDER
            .into_iter()
            .filter(move |known| kind.is_none_or(|kind| kind == *known))
            .flat_map(|kind| self.kind(kind).values())
            .filter(|stored| has_labels(&stored.resource, selector))
    }

    /// Everything in an order that applies cleanly to an empty cluster, without versions.
    #[must_use]
    pub fn export(&self) -> Vec<v1::Resource> {
        self.list(None, &BTreeMap::new()).map(|stored| without_version(&stored.resource)).collect()
    }

    fn replace(&mut self, change: &Change) {
        let hashes = Arc::make_mut(&mut self.hashes);
        for (_, hash) in change.before.iter().flat_map(|stored| credential_hashes(&stored.resource)) {
            if hashes.get(hash) == Some(&change.name) {
                hashes.remove(hash); // another consumer of the same change may have it by now
            }
        }
        for (_, hash) in change.after.iter().flat_map(|stored| credential_hashes(&stored.resource)) {
            hashes.insert(hash.to_owned(), change.name.clone());
        }
        let resources = Arc::make_mut(&mut self.kinds[slot(change.kind)]);
        match &change.after {
            Some(stored) => resources.insert(change.name.clone(), Arc::clone(stored)),
            None => resources.remove(&change.name),
        };
    }
}

fn slot(kind: Kind) -> usize {
    match kind {
        Kind::Service => 0,
        Kind::Provider => 1,
        Kind::Route => 2,
        Kind::Tenant => 3,
        Kind::Consumer => 4,
        Kind::Limit => 5,
        Kind::Price => 6,
        Kind::Certificate => 7,
    }
}

fn has_labels(resource: &v1::Resource, selector: &BTreeMap<String, String>) -> bool {
    let labels = identity(resource).and_then(|(_, metadata)| metadata).map(|metadata| &metadata.labels);
    selector.iter().all(|(name, value)| labels.is_some_and(|labels| labels.get(name) == Some(value)))
}

/// The resource without its `metadata.resourceVersion`.
#[must_use]
pub fn without_version(resource: &v1::Resource) -> v1::Resource {
    let mut resource = resource.clone();
    if let Some(metadata) = metadata_mut(&mut resource) {
        metadata.resource_version = None;
    }
    resource
}
