//! A tenant pays in one currency: a contract with it has no other.

use std::sync::Arc;

use tollgate_proto::v1::{self, resource::Kind as Raw};

use super::Stored;

/// The currency that a tenant pays in, if it says so.
pub(super) fn currency_of(tenant: &v1::Resource) -> Option<&str> {
    let Some(Raw::Tenant(tenant)) = &tenant.kind else { return None };
    let billing = tenant.spec.as_ref()?.billing.as_ref()?;
    Some(billing.currency.as_str()).filter(|currency| !currency.is_empty())
}

/// Of a contract price: each tenant that pays in another currency, with its place in the list, and what is wrong.
pub(super) fn mixed<'a>(
    price: &'a v1::Resource,
    tenant: impl Fn(&str) -> Option<&'a Arc<Stored>>,
) -> Vec<(String, String)> {
    let Some(Raw::Price(price)) = &price.kind else { return Vec::new() };
    let Some(spec) = &price.spec else { return Vec::new() };
    let tenants = spec.r#match.iter().flat_map(|it| &it.tenants).enumerate();
    let other = |(n, name): (usize, &String)| {
        let pays = currency_of(&tenant(name)?.resource)?;
        let message = format!("tenant `{name}` pays in {pays}, and this price is in {}", spec.currency);
        (pays != spec.currency).then(|| (format!("spec.match.tenants[{n}]"), message))
    };
    tenants.filter_map(other).collect()
}
