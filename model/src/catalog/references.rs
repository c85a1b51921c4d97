//! Which resources a resource refers to, and from which field.

use tollgate_proto::v1::{self, resource::Kind as Raw};

use crate::{Field, Kind};

/// Calls `found` with the field, the kind and the name of every reference.
pub(super) fn references(resource: &v1::Resource, found: &mut dyn FnMut(&Field<'_>, Kind, &str)) {
    let spec = Field::root("spec");
    match &resource.kind {
        Some(Raw::Route(it)) => it.spec.iter().for_each(|it| route(it, &spec, found)),
        Some(Raw::Consumer(it)) => it.spec.iter().for_each(|it| found(&spec.field("tenant"), Kind::Tenant, &it.tenant)),
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
        Some(Raw::Service(_) | Raw::Provider(_) | Raw::Tenant(_)) | None => {}
    }
}

fn route(route: &v1::RouteSpec, spec: &Field<'_>, found: &mut dyn FnMut(&Field<'_>, Kind, &str)) {
    let (backends, fallbacks) = (spec.field("backends"), spec.field("fallbacks"));
    for (n, backend) in route.backends.iter().enumerate() {
        upstream(&backend.provider, &backend.service, &backends.index(n), found);
    }
    for (n, fallback) in route.fallbacks.iter().enumerate() {
        upstream(&fallback.provider, &fallback.service, &fallbacks.index(n), found);
    }
    let auth = spec.field("auth");
    let at = auth.field("allow");
    for allow in route.auth.iter().flat_map(|auth| &auth.allow) {
        each(&allow.tenants, &at.field("tenants"), Kind::Tenant, found);
        each(&allow.consumers, &at.field("consumers"), Kind::Consumer, found);
    }
}

fn upstream(provider: &str, service: &str, at: &Field<'_>, found: &mut dyn FnMut(&Field<'_>, Kind, &str)) {
    if !provider.is_empty() {
        found(&at.field("provider"), Kind::Provider, provider);
    }
    if !service.is_empty() {
        found(&at.field("service"), Kind::Service, service);
    }
}

fn each(names: &[String], at: &Field<'_>, kind: Kind, found: &mut dyn FnMut(&Field<'_>, Kind, &str)) {
    for (n, name) in names.iter().enumerate() {
        found(&at.index(n), kind, name);
    }
}
