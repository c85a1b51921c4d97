//! The compiled configuration: what the hot path reads, swapped whole.
//!
//! Immutable. A view shares with the one before it whatever did not change, so that one change among ten thousand
//! resources costs a walk over pointers, and what was derived from a resource (a compiled pattern, a pool) can be told
//! to be still the same by its address.

mod callers;
mod certificate_keys;
mod compile;
mod fit;
mod keys;
mod limits;
#[cfg(test)]
mod tests;
mod upstream_keys;

use std::{collections::BTreeMap, sync::Arc};

pub use callers::Caller;
pub use certificate_keys::Certified;
pub use keys::{key_here, keys_missing_here};
pub use upstream_keys::Shown;

use self::{
    callers::Callers, certificate_keys::CertificateKeys, keys::Keys, limits::LimitIndex, upstream_keys::UpstreamKeys,
};
use crate::{
    Catalog, Certificate, Consumer, Kind, Limit, LogIndex, Name, Price, Problems, Provider, Route, Secret, Service,
    Subject, Tenant, Timestamp, secret::ClusterKey,
};

/// Everything that a request can meet.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ConfigView {
    /// The log index that this was compiled at.
    pub index: LogIndex,
    /// By name.
    pub routes: BTreeMap<Name, Arc<Route>>,
    /// By name.
    pub providers: BTreeMap<Name, Arc<Provider>>,
    /// By name.
    pub services: BTreeMap<Name, Arc<Service>>,
    /// By name.
    pub tenants: BTreeMap<Name, Arc<Tenant>>,
    /// By name.
    pub consumers: BTreeMap<Name, Arc<Consumer>>,
    /// By name.
    pub limits: BTreeMap<Name, Arc<Limit>>,
    /// By name.
    pub prices: BTreeMap<Name, Arc<Price>>,
    /// By name.
    pub certificates: BTreeMap<Name, Arc<Certificate>>,
    callers: Arc<Callers>,
    keys: Keys,
    certificate_keys: CertificateKeys,
    upstream_keys: UpstreamKeys,
    limit_index: Arc<LimitIndex>,
    has_critical: bool,
    has_priorities: bool,
    other_key: Option<Arc<str>>,
}

impl ConfigView {
    /// Compiles the catalog as of `index`. What did not change since `previous` is shared with it.
    ///
    /// What cannot be compiled is left out and told: it was accepted once, so it is for the caller to log, and for
    /// nothing to stop. A provider's key that cannot be had on this node is told as well; the provider stays. Keys in
    /// environment variables and files are read here, each time.
    #[must_use]
    pub fn compile(
        index: LogIndex,
        catalog: &Catalog,
        previous: Option<&Self>,
        key: Option<&ClusterKey>,
    ) -> (Self, Problems) {
        compile::compile(index, catalog, previous, key)
    }

    /// Who has this API key, if it is good at `now`.
    ///
    /// Takes the same time whatever the key has in common with another: only its keyed hash is compared, and that in
    /// constant time.
    #[must_use]
    pub fn authenticate(&self, api_key: &str, now: Timestamp) -> Option<Caller> {
        self.callers.find(api_key, now)
    }

    /// The id of the cluster key that most hashes and secrets were made under, when that is not this node's: then no API
    /// key that is unknown here can be told from one that is good.
    #[must_use]
    pub fn other_cluster_key(&self) -> Option<&str> {
        self.other_key.as_deref()
    }

    /// The `n`th key of a provider: opened, or read from where it said, when this was compiled.
    #[must_use]
    pub fn provider_key(&self, provider: &str, n: usize) -> Option<&Secret<String>> {
        self.keys.get(provider, n)
    }

    /// A certificate with its key, ready to be served: opened, or read from where it said, when this was compiled. The same one
    /// as long as neither has changed.
    #[must_use]
    pub fn certified(&self, certificate: &str) -> Option<&Arc<Certified>> {
        self.certificate_keys.get(certificate)
    }

    /// What a service or a provider is shown of us; nothing where it is shown nothing, or where its key cannot be had here. The
    /// same one as long as it has not changed.
    #[must_use]
    pub fn shown_to(&self, kind: Kind, upstream: &Name) -> Option<&Arc<Shown>> {
        self.upstream_keys.get(kind, upstream)
    }

    /// Whether any call can be critical, by its route or by who calls.
    #[must_use]
    pub fn has_critical(&self) -> bool {
        self.has_critical
    }

    /// Whether any call can be other than standard.
    #[must_use]
    pub fn has_priorities(&self) -> bool {
        self.has_priorities
    }

    /// Whether a limit asks for a header that may hold a credential: those are removed before limits are met.
    #[must_use]
    pub fn limits_by_credential(&self) -> bool {
        self.limit_index.by_credential
    }

    /// The limits that a request meets, each once.
    pub fn limits_for<'a>(&'a self, subject: Subject<'a>) -> impl Iterator<Item = &'a Arc<Limit>> {
        self.limit_index.candidates(&subject).filter(move |limit| limit.concerns(&subject))
    }
}
