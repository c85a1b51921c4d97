//! From raw to checked: everything that is wrong with a resource, all at once.
//!
//! A field or a value of the contract whose behaviour is not built yet is refused as "not supported yet", with its
//! path: nothing is accepted and then ignored. Two exceptions are promised by the contract: what only later work reads
//! is stored and shown (zones, prices, billing), and `durability: memory` and `journal` run as `quorum`.
//!
//! Not here: what a resource refers to ([`crate::catalog`] knows what there is).

mod budget;
mod certificate;
mod context;
mod limit;
mod payer;
mod price;
mod rewrite;
mod route;
mod route_match;
mod spread;
mod text;
mod traffic;
mod upstream;
mod upstream_tls;

#[cfg(test)]
pub(crate) mod tests;

pub use budget::signing_key;
use tollgate_proto::v1::{self, resource::Kind as Raw};

use crate::{Checked, Kind, Problem, Problems};

/// What `apiVersion` must be.
pub(crate) const API_VERSION: &str = "tollgate/v1";

/// Checks one resource by itself: its fields, not what it refers to.
///
/// Total: whatever the resource holds, the answer is a checked resource or the reasons why there is none. Plain
/// secrets (`keys[].value`, `credentials[].apiKey`) are checked as well, and left out of the checked resource:
/// [`crate::secret::prepare`] replaces them before anything is stored.
///
/// # Errors
/// Everything that is wrong with it.
pub fn check(resource: &v1::Resource) -> Result<Checked, Problems> {
    let Some(kind) = &resource.kind else {
        let message = "is no resource: it has no kind".to_owned();
        let problem = Problem { kind: None, name: String::new(), field: String::new(), message, at: None };
        return Err(Problems(vec![problem]));
    };
    match kind {
        Raw::Service(it) => upstream::service(it),
        Raw::Provider(it) => upstream::provider(it),
        Raw::Route(it) => route::route(it),
        Raw::Tenant(it) => payer::tenant(it),
        Raw::Consumer(it) => payer::consumer(it),
        Raw::Limit(it) => limit::limit(it),
        Raw::Price(it) => price::price(it),
        Raw::Certificate(it) => certificate::certificate(it),
    }
}

/// What a raw resource is and what it is called; the name is empty where none was given.
#[must_use]
pub fn kind_and_name(resource: &v1::Resource) -> Option<(Kind, &str)> {
    identity(resource).map(|(kind, metadata)| (kind, metadata.map_or("", |metadata| metadata.name.as_str())))
}

/// The kind and the metadata of a raw resource, for whoever only needs to know what it is.
pub(crate) fn identity(resource: &v1::Resource) -> Option<(Kind, Option<&v1::Metadata>)> {
    Some(match resource.kind.as_ref()? {
        Raw::Service(it) => (Kind::Service, it.metadata.as_ref()),
        Raw::Provider(it) => (Kind::Provider, it.metadata.as_ref()),
        Raw::Route(it) => (Kind::Route, it.metadata.as_ref()),
        Raw::Tenant(it) => (Kind::Tenant, it.metadata.as_ref()),
        Raw::Consumer(it) => (Kind::Consumer, it.metadata.as_ref()),
        Raw::Limit(it) => (Kind::Limit, it.metadata.as_ref()),
        Raw::Price(it) => (Kind::Price, it.metadata.as_ref()),
        Raw::Certificate(it) => (Kind::Certificate, it.metadata.as_ref()),
    })
}

/// The metadata of a raw resource, made where there is none; nothing where there is no kind.
pub(crate) fn metadata_mut(resource: &mut v1::Resource) -> Option<&mut v1::Metadata> {
    let metadata = match resource.kind.as_mut()? {
        Raw::Service(it) => &mut it.metadata,
        Raw::Provider(it) => &mut it.metadata,
        Raw::Route(it) => &mut it.metadata,
        Raw::Tenant(it) => &mut it.metadata,
        Raw::Consumer(it) => &mut it.metadata,
        Raw::Limit(it) => &mut it.metadata,
        Raw::Price(it) => &mut it.metadata,
        Raw::Certificate(it) => &mut it.metadata,
    };
    Some(metadata.get_or_insert_default())
}
