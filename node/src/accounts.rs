//! Limit accounts out of the replicated ledger: a page for `limits show`, a look for the data plane.

use std::collections::BTreeSet;

use tollgate_admin::backplane::{AccountPage, AccountQuery};
use tollgate_gateway::Accounts;
use tollgate_model::{Catalog, KeyPart, Kind, Mode, Name, Timestamp};
use tollgate_proto::{admin::v1::LimitAccount, v1::resource};
use tollgate_quota::{
    Ledger, Replica, Rule, Standing,
    ledger::{AccountView, Position, Query, Sort, title},
};

use crate::{clock, state::Shared};

/// Between limit and account in a page token; no name of a limit holds it.
const TOKEN_SEPARATOR: char = '\n';

impl Replica for Shared {
    fn show(&self, look: &mut dyn FnMut(&Ledger)) {
        self.ledger(look);
    }
}

impl Accounts for Shared {
    fn standings(&self, accounts: &[(Name, Vec<String>)]) -> Vec<Standing> {
        let now = clock::now().max(self.log_time());
        self.ledger(|ledger| accounts.iter().filter_map(|(limit, key)| ledger.peek(now, limit, key)).collect())
    }

    fn unused(&self, limit: &Name, key: &[String]) -> Option<u64> {
        let account = self.ledger(|ledger| ledger.account(clock::now().max(self.log_time()), limit, Some(key)))?;
        Some(account.capacity.saturating_sub(account.used))
    }

    fn log_time(&self) -> Option<Timestamp> {
        self.log_time_now()
    }
}

/// The accounts that `query` asks for. Works on an image, so that applying goes on meanwhile.
pub(crate) fn page(state: &Shared, now: Timestamp, query: &AccountQuery) -> AccountPage {
    let after = position(&query.after);
    if after.is_none() && !query.after.is_empty() {
        return AccountPage::default(); // no token of ours: nothing comes after it
    }
    let catalog = state.config().borrow().catalog.clone();
    let image = state.ledger(|ledger| ledger.image());
    let consumers = query.tenant.as_ref().map(|tenant| consumers_of(&catalog, tenant));
    let belongs = |rule: &Rule, key: &[&str]| match (&query.tenant, &consumers) {
        (Some(tenant), Some(consumers)) => belongs_to(rule, key, tenant, consumers, &catalog),
        _ => true,
    };
    let wanted = |rule: &Rule, key: &[&str]| {
        query.key.as_ref().is_none_or(|only| only == key)
            && query.account.as_ref().is_none_or(|name| *name == title(rule, key))
            && belongs(rule, key)
    };
    let page = image.accounts(
        now,
        &Query {
            limit: query.limit.as_deref(),
            keep: Some(&wanted),
            min_utilisation_percent: query.min_utilisation_percent,
            sort: if query.by_utilisation { Sort::Utilisation } else { Sort::Name },
            after,
            max: query.max,
        },
    );
    let next = page.next.map_or_else(String::new, |next| token(&next));
    let taking_effect = image.taking_effect(now).iter().map(ToString::to_string).collect();
    AccountPage { accounts: page.accounts.into_iter().map(shown).collect(), next, taking_effect }
}

fn token(at: &Position) -> String {
    format!("{}{TOKEN_SEPARATOR}{}{TOKEN_SEPARATOR}{}", at.rank, at.limit, at.key)
}

/// Reads what `token` has written; the key is last, as it may hold anything.
fn position(token: &str) -> Option<Position> {
    let mut parts = token.splitn(3, TOKEN_SEPARATOR);
    let (rank, limit, key) = (parts.next()?.parse().ok()?, parts.next()?, parts.next()?);
    Some(Position { rank, limit: Name::new(limit), key: key.into() })
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

pub(crate) fn shown(account: AccountView) -> LimitAccount {
    let mode = if account.shadow { Mode::Shadow } else { Mode::Enforce };
    LimitAccount {
        limit: account.limit.to_string(),
        account: account.account,
        capacity: account.capacity,
        used: account.used,
        held: account.held,
        leased: account.leased,
        free: i64::try_from(account.free).unwrap_or(i64::MIN),
        window_start: account.window_start.to_string(),
        window_end: account.window_end.to_string(),
        overrun: account.overrun,
        unit: account.unit.to_string(),
        currency: account.unit.currency().map(|currency| currency.to_string()).unwrap_or_default(),
        suspense: account.suspense,
        lost: account.lost,
        taking_effect: account.taking_effect,
        mode: mode.as_str().to_owned(),
        leased_by_node: account.leased_by_node.into_iter().collect(),
        key: account.key,
        overflow: account.overflow,
        unprotected_requests: account.unprotected.requests,
        unprotected: account.unprotected.units,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_says_where_to_go_on_whatever_the_key_holds() {
        for key in ["", "\0", "a/b\0c\nd\n1\n"] {
            let at = Position { rank: u64::MAX - 5, limit: Name::new("tpm"), key: key.into() };
            assert_eq!(position(&token(&at)), Some(at));
        }
        for wrong in ["", "tpm\nalice", "x\ntpm\nalice"] {
            assert_eq!(position(wrong), None, "{wrong:?}");
        }
    }
}
