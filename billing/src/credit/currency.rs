//! A tenant's currency can't change while it has credit.

use tollgate_model::Kind;
use tollgate_proto::{
    state::v1::{ConfigChange, ConfigProblem},
    v1::{Tenant, resource::Kind as Raw},
};

use super::CreditBook;

impl CreditBook {
    /// What is wrong with a change of the configuration, for the credit that is there.
    #[must_use]
    pub fn problems(&self, change: &ConfigChange) -> Vec<ConfigProblem> {
        tenants_put(change).filter_map(|tenant| self.problem(tenant)).collect()
    }

    fn problem(&self, tenant: &Tenant) -> Option<ConfigProblem> {
        let name = &tenant.metadata.as_ref()?.name;
        let (currency, rest) = self.bound_to(name)?;
        let billing = tenant.spec.as_ref().and_then(|spec| spec.billing.as_ref());
        let pays = billing.map_or("", |billing| billing.currency.as_str());
        (pays != currency.as_str()).then(|| {
            let has = format!("credit of {rest} {currency} is there");
            other_currency(name, format!("{has}: it can't change before that is spent or taken off"))
        })
    }
}

/// The tenants that a change puts.
pub(crate) fn tenants_put(change: &ConfigChange) -> impl Iterator<Item = &Tenant> {
    change.puts.iter().filter_map(|put| match put.resource.as_ref()?.kind.as_ref()? {
        Raw::Tenant(tenant) => Some(tenant),
        _ => None,
    })
}

/// Why a tenant can't pay in another currency than before.
pub(crate) fn other_currency(tenant: &str, message: String) -> ConfigProblem {
    let field = "spec.billing.currency".into();
    ConfigProblem { kind: Kind::Tenant.to_string(), name: tenant.to_owned(), field, message }
}
