//! Limit accounts out of the replicated ledger: a page for `limits show`, a look for the data plane.

use std::collections::BTreeSet;

use tollgate_admin::backplane::{AccountPage, AccountQuery};
use tollgate_gateway::Accounts;
use tollgate_model::{Catalog, KeyPart, Kind, Name, Timestamp};
use tollgate_proto::{admin::v1::LimitAccount, v1::resource};
use tollgate_quota::{
    Rule, Standing,
    ledger::{AccountView, Query},
};

use crate::{clock, state::Shared};

/// Between limit and account in a page token; no name of a limit holds it.
const TOKEN_SEPARATOR: char = '\n';

impl Accounts for Shared {
    fn standings(&self, accounts: &[(Name, Vec<String>)]) -> Vec<Standing> {
        let now = clock::now().max(self.log_time());
        self.ledger(|ledger| accounts.iter().filter_map(|(limit, key)| ledger.peek(now, limit, key)).collect())
    }
}

/// The accounts that `query` asks for. Works on an image, so that applying goes on meanwhile.
pub(crate) fn page(state: &Shared, now: Timestamp, query: &AccountQuery) -> AccountPage {
    let catalog = state.config().borrow().catalog.clone();
    let image = state.ledger(|ledger| ledger.image());
    let consumers = query.tenant.as_ref().map(|tenant| consumers_of(&catalog, tenant));
    let belongs = |rule: &Rule, key: &[&str]| match (&query.tenant, &consumers) {
        (Some(tenant), Some(consumers)) => belongs_to(rule, key, tenant, consumers, &catalog),
        _ => true,
    };
    let page = image.accounts(
        now,
        &Query {
            limit: query.limit.as_deref(),
            keep: Some(&belongs),
            after: query.after.split_once(TOKEN_SEPARATOR),
            max: query.max,
        },
    );
    let next = match page.accounts.last() {
        Some(last) if page.more => format!("{}{TOKEN_SEPARATOR}{}", last.limit, last.account),
        _ => String::new(),
    };
    AccountPage { accounts: page.accounts.into_iter().map(shown).collect(), next }
}

fn consumers_of(catalog: &Catalog, tenant: &str) -> BTreeSet<String> {
    let of_tenant = catalog.kind(Kind::Consumer).iter().filter(|(_, stored)| match &stored.resource.kind {
        Some(resource::Kind::Consumer(consumer)) => consumer.spec.as_ref().is_some_and(|spec| spec.tenant == tenant),
        _ => false,
    });
    of_tenant.map(|(name, _)| name.to_string()).collect()
}

/// By its key where the key says whose it is, else by whom the limit concerns.
fn belongs_to(rule: &Rule, key: &[&str], tenant: &str, consumers: &BTreeSet<String>, catalog: &Catalog) -> bool {
    let value = |part: KeyPart| rule.per.iter().position(|it| *it == part).and_then(|at| key.get(at));
    if let Some(value) = value(KeyPart::Tenant) {
        return *value == tenant;
    }
    if let Some(value) = value(KeyPart::Consumer) {
        return consumers.contains(*value);
    }
    catalog.get(Kind::Limit, &rule.limit).is_some_and(|stored| match &stored.resource.kind {
        Some(resource::Kind::Limit(limit)) => {
            let matched = limit.spec.as_ref().and_then(|spec| spec.r#match.as_ref());
            matched.is_some_and(|matched| matched.tenants == [tenant])
        }
        _ => false,
    })
}

fn shown(account: AccountView) -> LimitAccount {
    LimitAccount {
        limit: account.limit.to_string(),
        account: account.account,
        capacity: account.capacity,
        used: account.used,
        // What nobody can account for counts as held until the window turns.
        held: account.held.saturating_add(account.suspense),
        leased: account.leased,
        // Below zero after the limit was lowered: then nothing is free.
        free: u64::try_from(account.free).unwrap_or(0),
        window_start: account.window_start.to_string(),
        window_end: account.window_end.to_string(),
        overrun: account.overrun,
        unit: account.unit.to_string(),
    }
}
