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
        let tenants = change.puts.iter().filter_map(|put| match put.resource.as_ref()?.kind.as_ref()? {
            Raw::Tenant(tenant) => Some(tenant),
            _ => None,
        });
        tenants.filter_map(|tenant| self.problem(tenant)).collect()
    }

    fn problem(&self, tenant: &Tenant) -> Option<ConfigProblem> {
        let name = &tenant.metadata.as_ref()?.name;
        let (currency, rest) = self.bound_to(name)?;
        let billing = tenant.spec.as_ref().and_then(|spec| spec.billing.as_ref());
        let pays = billing.map_or("", |billing| billing.currency.as_str());
        (pays != currency.as_str()).then(|| ConfigProblem {
            kind: Kind::Tenant.to_string(),
            name: name.clone(),
            field: "spec.billing.currency".into(),
            message: format!("credit of {rest} {currency} is there: it can't change before that is spent or taken off"),
        })
    }
}
