//! Rows of the billing ledger, out of what requests used: in the very log entries that say so.

use std::collections::BTreeSet;

use tollgate_billing::{
    PriceBook, amount_bytes as bytes,
    ledger::{Keeper, ROWS_PER_ENTRY},
};
use tollgate_model::{LogIndex, Name, Timestamp};
use tollgate_proto::state::v1::{LedgerCost, LedgerOutcome, LedgerPayment, LedgerRow, PriceVersionRow, UsageSource};
use tollgate_quota::{Attempt, Outcome, Told, Usage, Used};

use super::pricing::{self, Billed, admitted_at};

/// Whether a request makes a row: only those that an upstream that bills was asked for. A request that was refused, or that found
/// nobody to ask, makes none; of a request that was about to be sent when its process died nobody knows, so it makes one.
pub(super) fn makes_a_row(used: &Used<'_>) -> bool {
    let attribution = used.attribution;
    match used.told {
        Told::Nobody => !attribution.model.is_empty(),
        Told::Itself | Told::Journal => !attribution.provider.is_empty(),
    }
}

/// Makes the rows of one entry, in its order.
pub(super) struct Rows<'a> {
    keeper: &'a Keeper,
    at: LogIndex,
    now: Timestamp,
    rows: Vec<Named>,
    /// Versions that rows of this entry are the first to name.
    named: BTreeSet<(Name, LogIndex)>,
}

/// A row, with the versions of prices that it is the first to name.
pub(super) type Named = (LedgerRow, Vec<PriceVersionRow>);

impl<'a> Rows<'a> {
    pub(super) fn new(keeper: &'a Keeper, at: LogIndex, now: Timestamp) -> Self {
        Self { keeper, at, now, rows: Vec::new(), named: BTreeSet::new() }
    }

    /// The row of one request; its number.
    pub(super) fn add(&mut self, used: &Used<'_>, billed: Option<&Billed>, prices: &PriceBook) -> u64 {
        let n = self.rows.len() as u64;
        // An entry is smaller than the settlements of so many requests.
        debug_assert!(n < ROWS_PER_ENTRY, "entry {} has more rows than there are numbers for", self.at);
        let seq = self.at.0 * ROWS_PER_ENTRY + n;
        let mut row = self.row(seq, used, billed);
        let mut versions: Vec<_> = billed.and_then(|billed| billed.price.clone()).into_iter().collect();
        if let Some(list) = billed.and_then(|billed| pricing::on_list(prices, used, billed, self.at, self.now)) {
            (row.list_price, row.list_price_version) = (list.0.to_string(), list.1.0);
            versions.push(list);
        }
        row.costs = self.costs(used, prices, &mut versions);
        let new = versions.into_iter().filter(|version| self.is_new(version)).collect::<Vec<_>>();
        let new = new.iter().filter_map(|(name, version)| prices.version(name, *version)).collect();
        self.rows.push((row, new));
        seq
    }

    fn is_new(&mut self, (name, version): &(Name, LogIndex)) -> bool {
        let is_known = self.keeper.look(|it| it.names(name.as_str(), version.0));
        !is_known && self.named.insert((name.clone(), *version))
    }

    /// What upstreams bill for it: for each attempt that one did work for, or may have. Of what nobody can say the end of, nobody can
    /// say who worked for it either.
    fn costs(&self, used: &Used<'_>, prices: &PriceBook, versions: &mut Vec<(Name, LogIndex)>) -> Vec<LedgerCost> {
        let attribution = used.attribution;
        if used.told == Told::Nobody {
            return Vec::new();
        }
        let mut price = |cost: LedgerCost, (provider, model): (&str, &str), usage: &Usage| {
            let Some(tariff) = pricing::cost(prices, used, (provider, model), self.at, self.now) else { return cost };
            versions.push((tariff.name.clone(), tariff.version));
            LedgerCost {
                price: tariff.name.to_string(),
                price_version: tariff.version.0,
                currency: tariff.currency.to_string(),
                amount: bytes(tariff.amount(usage.into()).0),
                ..cost
            }
        };
        let mut costs = Vec::with_capacity(attribution.earlier.len() + 1);
        for attempt in attribution.earlier.iter().filter(|attempt| !attempt.provider.is_empty()) {
            let usage = attempt.usage.unwrap_or_default();
            costs.push(price(cost_of(attempt, &usage), (&attempt.provider, &attempt.provider_model), &usage));
        }
        if used.outcome != Outcome::Voided && !attribution.provider.is_empty() {
            let (input_at_most, output_at_most) = at_most(used.usage);
            let own = LedgerCost { input_at_most, output_at_most, ..LedgerCost::default() };
            costs.push(price(own, (&attribution.provider, &attribution.provider_model), used.usage));
        }
        costs
    }

    fn row(&self, seq: u64, used: &Used<'_>, billed: Option<&Billed>) -> LedgerRow {
        let (attribution, usage) = (used.attribution, used.usage);
        let amount = billed.and_then(|billed| billed.bill.amount).unwrap_or_default().0;
        let (price, price_version) = billed.and_then(|billed| billed.price.clone()).unzip();
        LedgerRow {
            seq,
            corrects: used.corrects,
            request_id: attribution.request_id.clone(),
            admitted_us: admitted_at(used, self.now).0,
            settled_us: self.now.0,
            tenant: attribution.tenant.clone(),
            consumer: attribution.consumer.clone(),
            route: attribution.route.clone(),
            provider: attribution.provider.clone(),
            model: attribution.model.clone(),
            provider_model: attribution.provider_model.clone(),
            status: attribution.status,
            outcome: outcome(used).into(),
            usage_source: source(used).into(),
            input_tokens: usage.input_tokens,
            cached_input_tokens: usage.cached_input_tokens,
            cache_write_tokens: usage.cache_write_tokens,
            output_tokens: usage.output_tokens,
            reasoning_tokens: usage.reasoning_tokens,
            audio_input_tokens: usage.audio_input_tokens,
            audio_output_tokens: usage.audio_output_tokens,
            price: price.map(|name| name.to_string()).unwrap_or_default(),
            price_version: price_version.map_or(0, |version| version.0),
            currency: attribution.currency.clone(),
            amount: bytes(amount),
            node: used.node,
            zone: self.keeper.look(|state| state.zone(used.node).to_owned()),
            costs: Vec::new(),
            list_price: String::new(),
            list_price_version: 0,
            // The ledger says on which bill it is.
            month: 0,
            late_for: 0,
            payment: payment(used).into(),
        }
    }

    pub(super) fn finish(self) -> Vec<Named> {
        self.rows
    }
}

/// What an attempt came to that is not the row's own.
fn cost_of(attempt: &Attempt, usage: &Usage) -> LedgerCost {
    let source = if usage.counted { UsageSource::Counted } else { UsageSource::Provider };
    let (input_at_most, output_at_most) = at_most(usage);
    LedgerCost {
        provider: attempt.provider.clone(),
        provider_model: attempt.provider_model.clone(),
        usage_source: source.into(),
        input_tokens: usage.input_tokens,
        cached_input_tokens: usage.cached_input_tokens,
        cache_write_tokens: usage.cache_write_tokens,
        output_tokens: usage.output_tokens,
        reasoning_tokens: usage.reasoning_tokens,
        audio_input_tokens: usage.audio_input_tokens,
        audio_output_tokens: usage.audio_output_tokens,
        input_at_most,
        output_at_most,
        upstream_request_id: attempt.upstream_request_id.clone(),
        ..LedgerCost::default()
    }
}

/// What the provider may say that it was. It has, where the figures are its own.
fn at_most(usage: &Usage) -> (u64, u64) {
    if usage.counted { (usage.input_at_most, usage.output_at_most) } else { (0, 0) }
}

fn payment(used: &Used<'_>) -> LedgerPayment {
    match used.attribution {
        nobody if nobody.currency.is_empty() => LedgerPayment::Unspecified,
        it if it.prepaid => LedgerPayment::Prepaid,
        _ => LedgerPayment::Postpaid,
    }
}

fn outcome(used: &Used<'_>) -> LedgerOutcome {
    match (used.told, used.outcome) {
        (Told::Nobody, _) => LedgerOutcome::Orphaned,
        (_, Outcome::Settled) => LedgerOutcome::Settled,
        (_, Outcome::Voided) => LedgerOutcome::Voided,
        (_, Outcome::Partial | Outcome::Unspecified) => LedgerOutcome::Partial,
    }
}

fn source(used: &Used<'_>) -> UsageSource {
    match used.told {
        Told::Journal | Told::Nobody => UsageSource::Recovered,
        Told::Itself if used.usage.counted => UsageSource::Counted,
        Told::Itself => UsageSource::Provider,
    }
}

#[cfg(test)]
mod tests;
