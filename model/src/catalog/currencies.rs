//! A tenant pays in one currency: a contract with it has no other, and a limit on what it costs counts in that.

use std::{cell::OnceCell, collections::BTreeMap, collections::BTreeSet, sync::Arc};

use tollgate_proto::{
    state::v1::ConfigChange,
    v1::{self, resource::Kind as Raw},
};

use super::{Catalog, Stored};
use crate::{Kind, check::kind_and_name};

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

/// Who pays, once a change is made: its own resources before those that are there. What it prunes still counts.
pub(super) struct Payers<'a> {
    catalog: &'a Catalog,
    /// What the change puts, and what it deletes.
    changed: BTreeMap<(Kind, &'a str), Option<&'a v1::Resource>>,
    /// Of all tenants.
    all: OnceCell<BTreeSet<&'a str>>,
}

impl<'a> Payers<'a> {
    pub(super) fn after(catalog: &'a Catalog, change: &'a ConfigChange) -> Self {
        let put = change.puts.iter().filter_map(|put| put.resource.as_ref());
        let put = put.filter_map(|resource| {
            let (kind, name) = kind_and_name(resource)?;
            Some(((kind, name), Some(resource)))
        });
        let gone = change.deletes.iter().filter_map(|it| Some(((it.kind.parse().ok()?, it.name.as_str()), None)));
        Self { catalog, changed: gone.chain(put).collect(), all: OnceCell::new() }
    }

    /// The limit with the currency that it counts in, where that is not written: the one in which those pay whom it is about.
    /// None where there is nothing to fill in; what is wrong with `spec.currency` where that is not one.
    pub(super) fn fill_in(&self, resource: &v1::Resource) -> Result<Option<v1::Resource>, String> {
        let Some(Raw::Limit(limit)) = &resource.kind else { return Ok(None) };
        let Some(spec) = limit.spec.as_ref().filter(|it| it.unit == "cost" && it.currency.is_empty()) else {
            return Ok(None);
        };
        let found = self.currencies(spec.r#match.as_ref());
        let mut codes = found.iter();
        match (codes.next(), codes.next()) {
            (Some(only), None) => {
                let mut limit = limit.clone();
                limit.spec.get_or_insert_default().currency = (*only).to_owned();
                Ok(Some(v1::Resource { kind: Some(Raw::Limit(limit)) }))
            }
            (None, _) => {
                Err("is missing: nobody whom the limit is about is billed yet, so say what to count in, such as \
                              `currency: USD`"
                    .to_owned())
            }
            (Some(one), Some(other)) => Err(format!(
                "is missing: those whom the limit is about pay in {one} and {other}; make a limit for each, with \
                 `currency: {one}` and `currency: {other}`"
            )),
        }
    }

    /// What those are billed in whom a limit is about.
    fn currencies(&self, matched: Option<&v1::LimitMatch>) -> BTreeSet<&'a str> {
        let Some(matched) = matched else { return self.of_all().clone() };
        let of = |tenant: &str| billed_in(self.there(Kind::Tenant, tenant)?);
        if !matched.tenants.is_empty() {
            return matched.tenants.iter().filter_map(|name| of(name)).collect();
        }
        if !matched.consumers.is_empty() {
            return matched
                .consumers
                .iter()
                .filter_map(|name| of(tenant_of(self.there(Kind::Consumer, name)?)?))
                .collect();
        }
        self.of_all().clone()
    }

    fn there(&self, kind: Kind, name: &str) -> Option<&'a v1::Resource> {
        match self.changed.get(&(kind, name)) {
            Some(changed) => *changed,
            None => self.catalog.get(kind, name).map(|stored| &stored.resource),
        }
    }

    fn of_all(&self) -> &BTreeSet<&'a str> {
        self.all.get_or_init(|| {
            let is_changed = |name: &str| self.changed.contains_key(&(Kind::Tenant, name));
            let stored = self.catalog.kind(Kind::Tenant).iter().filter(|(name, _)| !is_changed(name));
            let put = self.changed.iter().filter(|((kind, _), _)| *kind == Kind::Tenant).filter_map(|(_, put)| *put);
            stored.map(|(_, stored)| &stored.resource).chain(put).filter_map(billed_in).collect()
        })
    }
}

/// What a tenant is billed in, if it is billed.
fn billed_in(tenant: &v1::Resource) -> Option<&str> {
    let Some(Raw::Tenant(it)) = &tenant.kind else { return None };
    let mode = &it.spec.as_ref()?.billing.as_ref()?.mode;
    currency_of(tenant).filter(|_| mode == "prepaid" || mode == "postpaid")
}

fn tenant_of(consumer: &v1::Resource) -> Option<&str> {
    let Some(Raw::Consumer(consumer)) = &consumer.kind else { return None };
    consumer.spec.as_ref().map(|spec| spec.tenant.as_str())
}
