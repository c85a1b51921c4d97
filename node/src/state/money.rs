//! What entries come to in money: the rows, sums and credit of what they tell of, and what log time brings by itself.

use prost::Message;
use tollgate_billing::Came;
use tollgate_consensus::Changes;
use tollgate_model::Catalog;
use tollgate_proto::state::v1::{BudgetAlertOutcome, BudgetAlertTried, CreditGrant};
use tollgate_quota::{Ledger, Outcome, Told, Used, ledger::Unknown};
use tracing::info;

use super::{
    ReplicatedState, alerts, billing,
    credits::{self, Both},
    pricing,
    rows::Part,
};

impl ReplicatedState {
    /// Requests of which nobody will know the end, in entries that are about something else than quota: log time has no other clock.
    pub(super) fn tell_unknown(&self, came: Came, changes: &mut Changes) {
        if self.shared.ledger(Ledger::has_unknown) {
            let mut rows = Vec::new();
            let unknown = self.shared.change_ledger(|ledger| {
                ledger.stamp(self.stamp);
                ledger.take_unknown(came.now, &mut rows)
            });
            Part::Quota.collect(rows, changes);
            self.bill_all(came, &unknown, Vec::new(), changes);
        }
    }

    /// The rows of one entry: of requests of which nobody knows the end, who are told of theirs, and of those that have ended.
    pub(super) fn bill_all(&self, came: Came, unknown: &[Unknown], ended: Vec<Used<'_>>, changes: &mut Changes) {
        let all: Vec<Used<'_>> = unknown.iter().map(Unknown::used).chain(ended).collect();
        if all.is_empty() {
            return;
        }
        let seqs = self.bill(came, &all, changes);
        let told: Vec<_> = unknown.iter().zip(seqs).filter_map(|(it, seq)| Some((it, seq?))).collect();
        if !told.is_empty() {
            let mut rows = Vec::new();
            self.shared.change_ledger(|ledger| {
                ledger.stamp(self.stamp);
                ledger.note_unknown(came.now, &told, &mut rows);
            });
            Part::Quota.collect(rows, changes);
        }
    }

    /// What requests have used, and what that costs: a row each, sums, and what comes off the credit of their tenants. The numbers
    /// of their rows, of those that make one.
    fn bill(&self, came: Came, all: &[Used<'_>], changes: &mut Changes) -> Vec<Option<u64>> {
        let Came { at, now } = came;
        let (mut rows, mut spent, mut seqs) = (Vec::new(), Vec::new(), Vec::with_capacity(all.len()));
        let mut ledger = billing::Rows::new(&self.shared.books, at, now);
        let mut usage = self.shared.usage.write();
        for used in all {
            let billed = pricing::bill(&self.prices, used, at, now);
            seqs.push(billing::makes_a_row(used).then(|| ledger.add(used, billed.as_ref(), &self.prices)));
            let bill = billed.map(|billed| billed.bill);
            let cost = bill.and_then(|bill| Some((bill.currency, bill.amount.filter(|amount| amount.0 > 0)?)));
            spent.extend(cost.map(|(currency, amount)| (used, currency, amount)));
            if used.outcome != Outcome::Voided && used.told != Told::Nobody {
                usage.record(pricing::admitted_at(used, now), used.attribution, used.usage, bill, &mut rows);
            }
        }
        usage.tend(&mut rows);
        drop(usage);
        Part::Usage.collect(rows.drain(..), changes);
        self.shared.books.record(ledger.finish(), &mut rows);
        Part::Ledger.collect(rows.drain(..), changes);
        if !spent.is_empty() {
            let mut months = alerts::Months::new(&self.shared.books);
            for (used, currency, amount) in &spent {
                months.add(&used.attribution.tenant, pricing::admitted_at(used, now), (*currency, *amount));
            }
            self.shared.alerts.write().bill(came, months.sums(), &mut rows);
            Part::Alerts.collect(rows, changes);
            self.change_credit(came, changes, |both, _| both.spend(&spent));
        }
        seqs
    }

    pub(super) fn alert_tried(&mut self, came: Came, tried: &BudgetAlertTried, changes: &mut Changes) -> Vec<u8> {
        let mut rows = Vec::new();
        let taken = self.shared.alerts.write().outbox_mut().tried(came, tried, &mut rows);
        Part::Alerts.collect(rows, changes);
        BudgetAlertOutcome { taken }.encode_to_vec()
    }

    pub(super) fn grant_credit(&mut self, came: Came, grant: &CreditGrant, changes: &mut Changes) -> Vec<u8> {
        let outcome = self.change_credit(came, changes, |both, catalog| both.grant(catalog, grant));
        if outcome.problem.is_empty() && !outcome.known {
            info!(token = %grant.actor, tenant = %grant.tenant, key = %grant.key, index = came.at.0, "credit granted");
        }
        outcome.encode_to_vec()
    }

    /// Changes credit and purses together: whoever looks at both sees both as they were, or both as they are.
    pub(super) fn change_credit<T>(
        &self,
        came: Came,
        changes: &mut Changes,
        change: impl FnOnce(&mut Both<'_>, &Catalog) -> T,
    ) -> T {
        let (mut book, mut rows) = (self.shared.credits.write(), credits::Rows::default());
        let changed = self.shared.change_ledger(|ledger| {
            change(&mut Both { book: &mut book, ledger, came, stamp: self.stamp, rows: &mut rows }, &self.catalog)
        });
        Part::Credits.collect(rows.credits, changes);
        Part::Quota.collect(rows.quota, changes);
        changed
    }

    /// What every entry does, whatever it is about: log time has no other clock. Credit comes to its end.
    pub(super) fn tend_credit(&mut self, came: Came, changes: &mut Changes) {
        let is_due = self.shared.credits(|book| book.is_due(came.now));
        if is_due || self.shared.ledger(|ledger| ledger.has_written_off() || ledger.is_closing_purses()) {
            let losses = self.change_credit(came, changes, |both, _| {
                both.close();
                let mut losses = both.write_off();
                both.take_off();
                // That looks at the time again, which may have come for a lost node: what is told in memory alone ends with its entry.
                losses.extend(both.write_off());
                losses
            });
            let mut rows = Vec::new();
            self.shared.books.record_losses(losses, &mut rows);
            Part::Ledger.collect(rows, changes);
        }
    }

    /// And so is a month.
    pub(super) fn close_months(&mut self, came: Came, changes: &mut Changes) {
        let mut rows = Vec::new();
        self.shared.books.close_months(came, &mut rows);
        Part::Ledger.collect(rows, changes);
    }
}
