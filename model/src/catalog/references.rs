//! Which resources a resource refers to, and from which field.

use tollgate_proto::v1::{self, resource::Kind as Raw};

use crate::{Field, Kind, nearest::hint};

/// A resource that another one refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Where from: `spec.backends[0].provider`.
    pub field: String,
    /// What must be there.
    pub kind: Kind,
    /// And what it must be called.
    pub name: String,
}

/// Every reference of a resource, in the order of its fields.
#[must_use]
pub fn references_of(resource: &v1::Resource) -> Vec<Reference> {
    let mut all = Vec::new();
    references(resource, &mut |field, kind, name| {
        all.push(Reference { field: field.to_string(), kind, name: name.to_owned() });
    });
    all
}

/// What is said of a reference to nothing, when `known` is all that there is of its kind.
pub fn missing<'a>(kind: Kind, name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    format!("there is no {} `{name}`{}", kind.singular(), hint(name, known))
}

/// Calls `found` with the field, the kind and the name of every reference.
pub(super) fn references(resource: &v1::Resource, found: &mut dyn FnMut(&Field<'_>, Kind, &str)) {
    let spec = Field::root("spec");
    match &resource.kind {
        Some(Raw::Route(it)) => it.spec.iter().for_each(|it| route(it, &spec, found)),
        Some(Raw::Consumer(it)) => {
            it.spec.iter().for_each(|it| named(&it.tenant, &spec.field("tenant"), Kind::Tenant, found));
        }
        Some(Raw::Limit(it)) => {
            let at = spec.field("match");
            for it in it.spec.iter().flat_map(|spec| &spec.r#match) {
                each(&it.tenants, &at.field("tenants"), Kind::Tenant, found);
                each(&it.consumers, &at.field("consumers"), Kind::Consumer, found);
                each(&it.routes, &at.field("routes"), Kind::Route, found);
            }
        }
        Some(Raw::Price(it)) => {
            let at = spec.field("match");
            for it in it.spec.iter().flat_map(|spec| &spec.r#match) {
                each(&it.providers, &at.field("providers"), Kind::Provider, found);
                each(&it.tenants, &at.field("tenants"), Kind::Tenant, found);
            }
        }
        Some(Raw::Service(_) | Raw::Provider(_) | Raw::Tenant(_) | Raw::Certificate(_)) | None => {}
    }
}

fn route(route: &v1::RouteSpec, spec: &Field<'_>, found: &mut dyn FnMut(&Field<'_>, Kind, &str)) {
    let (backends, fallbacks) = (spec.field("backends"), spec.field("fallbacks"));
    for (n, backend) in route.backends.iter().enumerate() {
        let at = backends.index(n);
        upstream(&backend.provider, &backend.service, &at, found);
        if let Some(when) = &backend.when {
            each(&when.consumers, &at.field("when").field("consumers"), Kind::Consumer, found);
        }
    }
    for (n, fallback) in route.fallbacks.iter().enumerate() {
        upstream(&fallback.provider, &fallback.service, &fallbacks.index(n), found);
    }
    if let Some(mirror) = &route.mirror {
        named(&mirror.service, &spec.field("mirror").field("service"), Kind::Service, found);
    }
    let auth = spec.field("auth");
    let at = auth.field("allow");
    for allow in route.auth.iter().flat_map(|auth| &auth.allow) {
        each(&allow.tenants, &at.field("tenants"), Kind::Tenant, found);
        each(&allow.consumers, &at.field("consumers"), Kind::Consumer, found);
    }
}

fn upstream(provider: &str, service: &str, at: &Field<'_>, found: &mut dyn FnMut(&Field<'_>, Kind, &str)) {
    named(provider, &at.field("provider"), Kind::Provider, found);
    named(service, &at.field("service"), Kind::Service, found);
}

/// What has no name refers to nothing: that it should is for the check to say.
fn named(name: &str, at: &Field<'_>, kind: Kind, found: &mut dyn FnMut(&Field<'_>, Kind, &str)) {
    if !name.is_empty() {
        found(at, kind, name);
    }
}

fn each(names: &[String], at: &Field<'_>, kind: Kind, found: &mut dyn FnMut(&Field<'_>, Kind, &str)) {
    for (n, name) in names.iter().enumerate() {
        named(name, &at.index(n), kind, found);
    }
}
