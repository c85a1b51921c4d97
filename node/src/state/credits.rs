//! Credit: what is granted, what requests cost of it, and what comes off, in the very log entries that say so.
//!
//! Each tenant that has credit, or pays in advance, has a purse in the quota ledger. Its capacity is always what is left of the
//! tenant's grants: whatever changes one changes the other in the same entry.

use std::collections::BTreeMap;

use tollgate_billing::{Came, Changes, CreditBook};
use tollgate_model::{
    Algorithm, Billing, BillingMode, Catalog, Checked, Currency, Kind, LogIndex, Money, TimeZone, Unit, Window,
    catalog::Change, purse_of, tenant_of_purse,
};
use tollgate_proto::state::v1::{CreditEventRow, CreditGrant, CreditGrantOutcome, LedgerLoss};
use tollgate_quota::{
    Ledger, Rule, Used,
    ledger::{Bearer, PurseBill, WrittenOff},
};

/// How a tenant pays, if it is declared.
fn billing(catalog: &Catalog, tenant: &str) -> Option<Billing> {
    match tollgate_model::check(&catalog.get(Kind::Tenant, tenant)?.resource) {
        Ok(Checked::Tenant(tenant)) => Some(tenant.billing.clone()),
        _ => None,
    }
}

/// A tenant's purse with all that is left of its grants, and `beside` that.
fn purse(book: &CreditBook, tenant: &str, currency: Currency, beside: Money) -> Rule {
    Rule {
        limit: purse_of(tenant),
        version: LogIndex(0),
        unit: unit(currency),
        per: Vec::new(),
        capacity: units(Money(book.rest(tenant).0 + beside.0)),
        window: Window::Month,
        algorithm: Algorithm::Never,
        time_zone: TimeZone::UTC,
        apart: false,
        shadow: false,
    }
}

fn unit(currency: Currency) -> Unit {
    Unit::Cost(currency)
}

/// Pico-units as the ledger counts them; grants are bounded so that they fit.
fn units(amount: Money) -> u64 {
    u64::try_from(amount.0.max(0)).unwrap_or(u64::MAX)
}

/// What the books have of credit that was written off.
fn loss(node: u64, event: CreditEventRow) -> LedgerLoss {
    let CreditEventRow { tenant, currency, amount, time_us, log_index, actor, .. } = event;
    LedgerLoss { tenant, currency, amount, node, time_us, log_index, actor }
}

/// Rows that a change of credit has made.
#[derive(Default)]
pub(super) struct Rows {
    pub(super) credits: Changes,
    pub(super) quota: Changes,
}

/// The two sides of credit, while both change.
pub(super) struct Both<'a> {
    pub(super) book: &'a mut CreditBook,
    pub(super) ledger: &'a mut Ledger,
    pub(super) came: Came,
    /// What the ledger ages by: it is told when it changes, and never otherwise, as its rows have to say so.
    pub(super) stamp: u64,
    pub(super) rows: &'a mut Rows,
}

impl Both<'_> {
    /// Grants, if the tenant can have any.
    pub(super) fn grant(&mut self, catalog: &Catalog, grant: &CreditGrant) -> CreditGrantOutcome {
        let refused = |problem| CreditGrantOutcome { problem, ..CreditGrantOutcome::default() };
        let tenant = &grant.tenant;
        let Some(billing) = billing(catalog, tenant) else {
            return refused(format!("tenant: there is no tenant `{tenant}`"));
        };
        let Some(currency) = billing.currency else {
            return refused(format!("tenant `{tenant}` has no spec.billing.currency: credit is in one"));
        };
        let owed = self.book.owed(tenant);
        let outcome = self.book.grant(self.came, currency, grant, &mut self.rows.credits);
        if outcome.problem.is_empty() && !outcome.known {
            let paid = Money(owed.0 - self.book.owed(tenant).0);
            self.fund(tenant, currency, paid);
            self.bill(&[PurseBill { limit: purse_of(tenant), by: None, cost: 0, burnt: units(paid) }]);
        }
        outcome
    }

    /// Makes the purse hold what is left, and `beside` that.
    fn fund(&mut self, tenant: &str, currency: Currency, beside: Money) {
        let purse = purse(self.book, tenant, currency, beside);
        self.ledger.stamp(self.stamp);
        self.ledger.put_purse(self.came.now, purse, &mut self.rows.quota);
    }

    fn bill(&mut self, bills: &[PurseBill]) {
        if bills.iter().any(|bill| bill.burnt > 0 || bill.by.is_some()) {
            self.ledger.stamp(self.stamp);
            self.ledger.bill_purses(self.came.now, bills, &mut self.rows.quota);
        }
    }

    /// Whoever pays in advance has a purse, with or without anything in it.
    pub(super) fn follow(&mut self, catalog: &Catalog, changed: &[Change]) {
        for change in changed.iter().filter(|change| change.kind == Kind::Tenant && change.after.is_some()) {
            let Some(billing) = billing(catalog, &change.name) else { continue };
            if let (BillingMode::Prepaid, Some(currency)) = (billing.mode, billing.currency) {
                self.fund(&change.name, currency, Money(0));
            }
        }
    }

    /// Takes what requests were billed off the credit of their tenants. Whoever pays in advance owes what is not there; of anybody
    /// else the rest is billed.
    pub(super) fn spend(&mut self, spent: &[(&Used<'_>, Currency, Money)]) {
        let mut bills = Vec::new();
        let mut others: BTreeMap<&str, (Currency, i128)> = BTreeMap::new();
        for (used, currency, cost) in spent {
            let (tenant, price) = (used.attribution.tenant.as_str(), (*currency, *cost));
            if used.attribution.prepaid {
                let burnt = self.book.spend(self.came, tenant, price, true, &mut self.rows.credits);
                let by = Some(Bearer { node: used.node, incarnation: used.incarnation });
                bills.push(PurseBill { limit: purse_of(tenant), by, cost: units(*cost), burnt: units(burnt) });
                continue;
            }
            let Some(purse) = self.ledger.purse(&purse_of(tenant)) else { continue };
            let (_, taken) = others.entry(tenant).or_insert((*currency, 0));
            let within = Money(cost.0.min(purse.free - *taken).max(0));
            *taken += self.book.spend(self.came, tenant, (*currency, within), false, &mut self.rows.credits).0;
        }
        self.bill(&bills);
        for (tenant, (currency, _)) in others.into_iter().filter(|(_, (_, taken))| *taken > 0) {
            self.fund(tenant, currency, Money(0));
        }
    }

    /// Takes off what has come to its end, and what corrections have to, as far as nobody holds it; calls the rest back.
    pub(super) fn take_off(&mut self) {
        for tenant in self.book.due(self.came.now) {
            let limit = purse_of(&tenant);
            let Some((currency, purse)) = self.book.bound_to(&tenant).map(|it| it.0).zip(self.ledger.purse(&limit))
            else {
                continue;
            };
            let taken = self.book.take(self.came, &tenant, Money(purse.free), &mut self.rows.credits);
            if taken.0 > 0 {
                self.fund(&tenant, currency, Money(0));
            }
            if purse.leased > 0 && self.book.due(self.came.now).contains(&tenant) {
                self.ledger.stamp(self.stamp);
                self.ledger.recall_purse(self.came.now, &limit, &mut self.rows.quota);
            }
        }
    }

    /// Frees what dead processes had of purses, once their journals have told all, and that is billed.
    pub(super) fn close(&mut self) {
        if self.ledger.is_closing_purses() {
            self.ledger.stamp(self.stamp);
            self.ledger.close_purses(self.came.now, &mut self.rows.quota);
        }
    }

    /// Tells tenants what is theirs again, as nobody will ever know what became of it; what is lost with that, for the books.
    pub(super) fn write_off(&mut self) -> Vec<LedgerLoss> {
        let mut losses = Vec::new();
        for WrittenOff { limit, node, amount, actor } in self.ledger.take_written_off() {
            let Some(tenant) = tenant_of_purse(&limit) else { continue };
            let why = format!("node {node}: what it may have spent and told nobody is free again");
            let told =
                self.book.write_off(self.came, tenant, Money(amount.into()), (why, actor), &mut self.rows.credits);
            losses.extend(told.map(|event| loss(node, event)));
        }
        losses
    }
}
