//! The schema `focus`: charges as FinOps FOCUS has them, one for each hour, payer, caller, route, provider, model, price and
//! meter.
//!
//! Cost is exact: of every currency the sum of `EffectiveCost` of usage is the sum of the ledger's rows. A row whose price lines do
//! not add up to what it says, as those of a correction do not, is a charge without a unit price. What nobody is billed for is no
//! charge. What upstreams bill for it stands beside it, exactly, too: of every currency the sum of `x_ProviderCost` is the sum of the
//! attempts; what is in another currency than the answer's is a charge of nothing. Unit prices and quantities are for the same unit, so that their product is the cost to the last digit.
//!
//! Beside what a contract says stands what was on the list when the request was admitted; what only the list has, as its own minimum,
//! is a charge of nothing with a `ListCost`. Behind all usage comes what was bought, corrected and lost of credit, by tenant.
//!
//! Months, how a request was paid for, and what is written on a closed month's bill are the ledger's: an edit of a tenant changes
//! what is not closed alone (`payer.rs`).

mod charge;
mod credit;
mod payer;

use std::{collections::BTreeMap, collections::HashMap, sync::Arc};

use tollgate_model::{Money, Timestamp, Window};
use tollgate_proto::state::v1::{CreditEventRow, LedgerRow, UsageSource};

pub(super) use self::charge::columns;
use self::{charge::cells, payer::Payer};
use super::{
    ExportError,
    encode::Encode,
    groups::Groups,
    query::Query,
    source::{Source, Tenants},
    sums::{Sums, Took, add, add_money},
};
use crate::{
    ledger::{amount_of, attempts},
    period::Span,
    price::{Line, Meter, Quantities, Tariff},
};

/// Some 40 MB of keys and sums: each has some meters.
const MAX_GROUPS: usize = 32_768;
/// Price versions that are kept at hand, and tenants.
const MAX_KNOWN: usize = 1_024;

/// What the charges of one group have in common, in the order in which they come out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    /// The hour of UTC, within the month of the tenant.
    start: Timestamp,
    tenant: String,
    consumer: String,
    route: String,
    provider: String,
    model: String,
    provider_model: String,
    /// Name and version; no name where there was none.
    price: (String, u64),
    /// Of the price that was on the list, where another counts.
    list: (String, u64),
    currency: String,
    is_correction: bool,
    /// What is billed for it was billed before.
    is_prepaid: bool,
    /// What its upstream bills in; empty where that has no price.
    bills_in: String,
    /// It follows from the start and the tenant.
    end: Timestamp,
    /// The month whose bill it is on.
    bill: Span,
}

/// One of the price's lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Metered {
    meter: Meter,
    /// What one unit of it costs, in pico-units.
    rate: i128,
    /// And by the list.
    list_rate: i128,
}

/// None: not of a price.
type Part = Option<Metered>;

/// What a row has of a part.
#[derive(Debug, Clone, Copy)]
struct Share {
    part: Part,
    quantity: u64,
    cost: Money,
    list_cost: Money,
}

/// The sums of a charge.
#[derive(Debug, Default)]
struct Sum {
    quantity: u64,
    cost: i128,
    list_cost: i128,
    requests: u64,
    estimated: u64,
    seqs: Option<(u64, u64)>,
    provider_cost: i128,
}

/// The sums of one pass.
pub(super) struct Focus {
    source: Arc<dyn Source>,
    tenants: Arc<dyn Tenants>,
    issuer: String,
    groups: Groups<Key, BTreeMap<Part, Sum>>,
    tariffs: HashMap<(String, u64), Option<Arc<Tariff>>>,
    payers: HashMap<String, Payer>,
    /// What became of credit, and is not written yet.
    credit: std::vec::IntoIter<Arc<CreditEventRow>>,
}

impl Focus {
    pub(super) fn new(source: Arc<dyn Source>, tenants: Arc<dyn Tenants>, query: &Query) -> Self {
        let (groups, issuer) = (Groups::new(MAX_GROUPS), query.issuer.clone());
        let mut credit = tenants.credit(query.tenant.as_deref(), query.from, query.to);
        credit.retain(|event| credit::is_charge(event));
        let credit = credit.into_iter();
        Self { source, tenants, issuer, groups, tariffs: HashMap::new(), payers: HashMap::new(), credit }
    }

    fn payer(&mut self, tenant: &str) -> &mut Payer {
        if self.payers.len() >= MAX_KNOWN && !self.payers.contains_key(tenant) {
            self.payers.clear();
        }
        let tenants = &self.tenants;
        let known = self.payers.entry(tenant.to_owned());
        known.or_insert_with(|| Payer::new(tenants.terms(tenant), tenants.months(tenant)))
    }

    fn tariff(&mut self, price: &str, version: u64) -> Result<Option<Arc<Tariff>>, ExportError> {
        if price.is_empty() {
            return Ok(None);
        }
        let key = (price.to_owned(), version);
        if let Some(tariff) = self.tariffs.get(&key) {
            return Ok(tariff.clone());
        }
        let version = self.source.price(price, version)?;
        let tariff = version.and_then(|version| Tariff::of(&version).ok()).map(Arc::new);
        if self.tariffs.len() >= MAX_KNOWN {
            self.tariffs.clear();
        }
        self.tariffs.insert(key, tariff.clone());
        Ok(tariff)
    }

    fn key(&mut self, row: &LedgerRow) -> Key {
        let at = Timestamp(row.admitted_us).min(Timestamp::MAX);
        let payer = self.payer(&row.tenant);
        let month = payer.month(at);
        let hour = Window::Hour.bounds(at, &tollgate_model::TimeZone::UTC);
        Key {
            start: hour.0.max(month.start),
            end: hour.1.min(month.end),
            // What came too late for its own month's bill is on a later one.
            bill: payer.bill_of(row, month),
            is_prepaid: payer.is_prepaid(row),
            tenant: row.tenant.clone(),
            consumer: row.consumer.clone(),
            route: row.route.clone(),
            provider: row.provider.clone(),
            model: row.model.clone(),
            provider_model: row.provider_model.clone(),
            price: (row.price.clone(), row.price_version),
            list: (row.list_price.clone(), row.list_price_version),
            currency: row.currency.clone(),
            is_correction: row.corrects != 0 || row.late_for != 0,
            bills_in: String::new(),
        }
    }

    fn take_credit(&mut self, encoder: &mut dyn Encode, into: &mut Vec<u8>) -> Result<Took, ExportError> {
        let Some(event) = self.credit.next() else { return Ok(Took::All) };
        let payer = self.payer(&event.tenant);
        let month = payer.month(Timestamp(event.time_us).min(Timestamp::MAX));
        let bill = payer.bill(&event.tenant, month.month);
        encoder.row(&credit::cells(&self.issuer, &bill, month, &event), into)?;
        Ok(Took::Rows(1))
    }

    /// What upstreams bill for a request in the currency of its answer's, with the meter that it is for, where it is for one; and all
    /// that is in others.
    fn costs<'r>(&mut self, row: &'r LedgerRow, bills_in: &str) -> Result<Costs<'r>, ExportError> {
        let (mut same, mut others) = (Vec::new(), Vec::new());
        for attempt in attempts(row) {
            let (cost, Some(amount)) = (attempt.cost, attempt.amount()) else { continue };
            if cost.currency != bills_in {
                others.push((cost.currency.as_str(), amount));
                continue;
            }
            let tariff = self.tariff(&cost.price, cost.price_version)?;
            let lines = tariff.iter().flat_map(|tariff| tariff.lines((&attempt.usage).into()));
            let lines: Vec<_> = lines.map(|line| (Some(line.meter), line.amount)).collect();
            let sum = lines.iter().fold(0_i128, |sum, (_, amount)| sum.saturating_add(amount.0));
            if sum == amount.0 { same.extend(lines) } else { same.push((None, amount)) }
        }
        Ok(Costs { same, others })
    }
}

/// See [`Focus::costs`].
struct Costs<'r> {
    same: Vec<(Option<Meter>, Money)>,
    others: Vec<(&'r str, Money)>,
}

impl Sums for Focus {
    fn add(&mut self, row: &LedgerRow) -> Result<(), ExportError> {
        if row.currency.is_empty() {
            return Ok(());
        }
        let tariff = self.tariff(&row.price, row.price_version)?;
        let list = self.tariff(&row.list_price, row.list_price_version)?;
        let parts = parts(row, tariff.as_deref(), list.as_deref());
        let bills_in = attempts(row).find(|attempt| attempt.is_own).map_or("", |own| &own.cost.currency);
        let costs = self.costs(row, bills_in)?;
        let key = Key { bills_in: bills_in.to_owned(), ..self.key(row) };
        for (currency, amount) in costs.others {
            let key = Key { bills_in: currency.to_owned(), ..key.clone() };
            self.groups.add(key, |sums| sums.entry(None).or_default().add_cost(amount, row))?;
        }
        self.groups.add(key, |sums| {
            // With the charge for the same meter, or else the first.
            let first = parts.first().and_then(|share| share.part);
            for (meter, amount) in costs.same {
                let is_of = |part: &Part| part.is_some_and(|it| Some(it.meter) == meter);
                let part = parts.iter().map(|share| share.part).find(is_of).unwrap_or(first);
                sums.entry(part).or_default().add_cost(amount, row)?;
            }
            for share in parts {
                sums.entry(share.part).or_default().add(&share, row)?;
            }
            Ok(())
        })
    }

    fn take(&mut self, encoder: &mut dyn Encode, into: &mut Vec<u8>) -> Result<Took, ExportError> {
        let Some((key, sums)) = self.groups.take() else {
            return if self.groups.turn() { Ok(Took::Again) } else { self.take_credit(encoder, into) };
        };
        let bill = self.payer(&key.tenant).bill(&key.tenant, key.bill.month);
        for (part, sum) in &sums {
            encoder.row(&cells(&self.issuer, &bill, &key, *part, sum), into)?;
        }
        Ok(Took::Rows(sums.len() as u64))
    }
}

/// What a row charges, in parts that add up to it.
fn parts(row: &LedgerRow, tariff: Option<&Tariff>, list: Option<&Tariff>) -> Vec<Share> {
    let amount = amount_of(row).unwrap_or_default();
    let used = Quantities::from(row);
    let mut parts: Vec<_> = match tariff {
        Some(tariff) => tariff.lines_with_free(used).map(Share::of).collect(),
        None => used.meters().map(|(meter, quantity)| Share::free(meter, quantity)).collect(),
    };
    let sum = parts.iter().fold(0_i128, |sum, share| sum.saturating_add(share.cost.0));
    if row.corrects != 0 || sum != amount.0 || parts.is_empty() {
        let list_cost = list.filter(|_| row.corrects == 0).map_or(amount, |list| list.amount(used));
        return vec![Share { part: None, quantity: 0, cost: amount, list_cost }];
    }
    if let Some(list) = list {
        put_beside(&mut parts, list.lines_with_free(used));
    }
    parts
}

/// Puts what is on the list beside each part. What the list does not count apart costs nothing there.
fn put_beside(parts: &mut Vec<Share>, list: impl Iterator<Item = Line>) {
    for share in parts.iter_mut() {
        share.at_list(0, Money(0));
    }
    for line in list {
        let of_list = Share::of(line);
        let is_of =
            |share: &&mut Share| share.part.is_some_and(|it| it.meter == line.meter) && line.meter != Meter::Minimum;
        match parts.iter_mut().find(is_of) {
            Some(share) => share.at_list(line.rate.0, line.amount),
            // What lacks to the least is another amount in each table.
            None => parts.push(Share {
                part: of_list.part.map(|part| Metered { rate: 0, ..part }),
                cost: Money(0),
                ..of_list
            }),
        }
    }
}

impl Share {
    fn of(line: Line) -> Self {
        let (meter, cost) = (line.meter, line.amount);
        // What lacks to the least is another amount each time: it is told in the currency, at 1.
        let (rate, quantity) = match meter {
            Meter::Minimum => (Money::ONE.0, 0),
            _ => (line.rate.0, line.quantity),
        };
        Self { part: Some(Metered { meter, rate, list_rate: rate }), quantity, cost, list_cost: cost }
    }

    fn free(meter: Meter, quantity: u64) -> Self {
        let part = Some(Metered { meter, rate: 0, list_rate: 0 });
        Self { part, quantity, cost: Money(0), list_cost: Money(0) }
    }

    fn at_list(&mut self, rate: i128, cost: Money) {
        self.part = self.part.map(|part| Metered { list_rate: rate, ..part });
        self.list_cost = cost;
    }
}

impl Sum {
    fn add(&mut self, share: &Share, row: &LedgerRow) -> Result<(), ExportError> {
        let is_estimated = !matches!(row.usage_source(), UsageSource::Provider);
        add(&mut self.quantity, share.quantity, row)?;
        add_money(&mut self.cost, share.cost, row)?;
        add_money(&mut self.list_cost, share.list_cost, row)?;
        add(&mut self.requests, 1, row)?;
        add(&mut self.estimated, is_estimated.into(), row)?;
        self.is_of(row);
        Ok(())
    }

    fn add_cost(&mut self, amount: Money, row: &LedgerRow) -> Result<(), ExportError> {
        add_money(&mut self.provider_cost, amount, row)?;
        self.is_of(row);
        Ok(())
    }

    fn is_of(&mut self, row: &LedgerRow) {
        let (from, to) = self.seqs.unwrap_or((row.seq, row.seq));
        self.seqs = Some((from.min(row.seq), to.max(row.seq)));
    }
}
