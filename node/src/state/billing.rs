//! Rows of the billing ledger, out of what requests used: in the very log entries that say so.

use tollgate_billing::{PriceBook, ledger::Keeper};
use tollgate_model::{LogIndex, Name, Timestamp};
use tollgate_proto::state::v1::{LedgerOutcome, LedgerRow, PriceVersionRow, UsageSource};
use tollgate_quota::{Outcome, Told, Used};

use super::pricing::{Billed, admitted_at};

/// Rows that one entry can have: the number of a row is that of its entry, times this, and which one it is.
const ROWS_PER_ENTRY: u64 = 1 << 16;

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
    rows: Vec<(LedgerRow, Option<PriceVersionRow>)>,
}

impl<'a> Rows<'a> {
    pub(super) fn new(keeper: &'a Keeper, at: LogIndex, now: Timestamp) -> Self {
        Self { keeper, at, now, rows: Vec::new() }
    }

    /// The row of one request.
    pub(super) fn add(&mut self, used: &Used<'_>, billed: Option<&Billed>, prices: &PriceBook) {
        let n = self.rows.len() as u64;
        // An entry is smaller than the settlements of so many requests.
        debug_assert!(n < ROWS_PER_ENTRY, "entry {} has more rows than there are numbers for", self.at);
        let price = billed.and_then(|billed| billed.price.as_ref());
        let row = self.row(self.at.0 * ROWS_PER_ENTRY + n, used, billed);
        let is_new = |(name, version): &&(Name, LogIndex)| {
            let named = |row: &LedgerRow| row.price == name.as_str() && row.price_version == version.0;
            !self.rows.iter().any(|(row, _)| named(row)) && !self.keeper.look(|it| it.names(name.as_str(), version.0))
        };
        let version = price.filter(is_new).and_then(|(name, version)| prices.version(name, *version));
        self.rows.push((row, version));
    }

    fn row(&self, seq: u64, used: &Used<'_>, billed: Option<&Billed>) -> LedgerRow {
        let (attribution, usage) = (used.attribution, used.usage);
        let amount = billed.and_then(|billed| billed.bill.amount).unwrap_or_default().0;
        let (price, price_version) = billed.and_then(|billed| billed.price.clone()).unzip();
        LedgerRow {
            seq,
            corrects: 0,
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
            price: price.map(|name| name.to_string()).unwrap_or_default(),
            price_version: price_version.map_or(0, |version| version.0),
            currency: attribution.currency.clone(),
            amount: if amount == 0 { Vec::new() } else { amount.to_be_bytes().to_vec() }.into(),
            node: used.node,
            zone: self.keeper.look(|state| state.zone(used.node).to_owned()),
        }
    }

    pub(super) fn finish(self) -> Vec<(LedgerRow, Option<PriceVersionRow>)> {
        self.rows
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
