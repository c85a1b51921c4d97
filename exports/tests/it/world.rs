//! A ledger in memory, and exports of it.

use std::{collections::BTreeMap, io, sync::Arc};

use proptest::prelude::*;
use tollgate_billing::{
    export::{Chunk, Export, ExportError, FocusVersion, Format, Query, Schema, Source, Tenants, Terms},
    period::Months,
    price::Tariff,
};
use tollgate_model::{TimeZone, Timestamp};
use tollgate_proto::{
    state::v1::{CreditEventKind, CreditEventRow, LedgerCost, LedgerOutcome, LedgerRow, PriceVersionRow, UsageSource},
    v1::{Metadata, Price, PriceSpec, PriceTier},
};

/// 2026-11-01T00:00:00Z, and the hour that everything is around.
pub(crate) const BEGIN: u64 = 1_793_491_200_000_000;
pub(crate) const HOUR: u64 = 3_600_000_000;
/// When something became of credit.
pub(crate) const CREDIT: u64 = BEGIN - 10_000 * HOUR;

#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) rows: Vec<LedgerRow>,
    pub(crate) prices: BTreeMap<(String, u64), Price>,
}

impl Source for Ledger {
    fn last(&self) -> u64 {
        self.rows.last().map_or(0, |row| row.seq)
    }

    fn before(&self, settled: Timestamp) -> io::Result<u64> {
        let earlier = self.rows.partition_point(|row| row.settled_us < settled.0);
        Ok(earlier.checked_sub(1).map_or(0, |last| self.rows[last].seq))
    }

    fn rows(&self, after_seq: u64, most: usize) -> io::Result<Vec<LedgerRow>> {
        let from = self.rows.partition_point(|row| row.seq <= after_seq);
        Ok(self.rows[from..].iter().take(most).cloned().collect())
    }

    fn price(&self, name: &str, version: u64) -> io::Result<Option<PriceVersionRow>> {
        let price = self.prices.get(&(name.to_owned(), version)).cloned();
        Ok(price.map(|price| PriceVersionRow { price: Some(price), ..PriceVersionRow::default() }))
    }
}

/// `acme` pays before, in Kolkata; all others afterwards, in UTC.
pub(crate) struct Payers;

impl Tenants for Payers {
    fn terms(&self, tenant: &str) -> Terms {
        let acme = tenant == "acme";
        let zone = if acme { TimeZone::parse("Asia/Kolkata").unwrap() } else { TimeZone::UTC };
        Terms { prepaid: acme, zone, tags: Arc::new([("team".to_owned(), "=x".to_owned())].into()) }
    }

    /// By the calendar.
    fn months(&self, _: &str) -> Months {
        Months::new()
    }

    fn credit(&self, tenant: Option<&str>, from: Timestamp, to: Timestamp) -> Vec<Arc<CreditEventRow>> {
        let asked = |event: &CreditEventRow| tenant.is_none_or(|it| it == event.tenant);
        let events = credit().into_iter().filter(|event| asked(event) && (from.0..to.0).contains(&event.time_us));
        events.map(Arc::new).collect()
    }
}

/// One of each kind: long before anything else, so that few exports are of that time.
pub(crate) fn credit() -> Vec<CreditEventRow> {
    use CreditEventKind::{Corrected, Expired, Granted, Spent, WrittenOff};
    let kinds = [(Granted, 100), (Spent, -30), (Corrected, -20), (Expired, -45), (WrittenOff, 5)];
    let event = |(n, (kind, amount)): (u64, (CreditEventKind, i128))| CreditEventRow {
        tenant: "acme".into(),
        event: n,
        time_us: CREDIT + n * HOUR,
        kind: kind.into(),
        amount: (amount * 1_000_000_000_000).to_be_bytes().to_vec(),
        currency: "USD".into(),
        reason: if n == 1 { "order 7".into() } else { String::new() },
        ..CreditEventRow::default()
    };
    (1..).zip(kinds).map(event).collect()
}

pub(crate) fn query(schema: Schema, format: Format) -> Query {
    let (from, to) = (Timestamp(BEGIN - HOUR), Timestamp(BEGIN + 40 * HOUR));
    Query { tenant: None, from, to, schema, format, issuer: "us".to_owned(), costs: true }
}

pub(crate) const SCHEMAS: [Schema; 5] = [
    Schema::Events,
    Schema::Summary,
    Schema::Focus(FocusVersion::V1_2),
    Schema::Focus(FocusVersion::V1_3),
    Schema::Cost,
];
pub(crate) const FORMATS: [Format; 3] = [Format::Csv, Format::Jsonl, Format::Parquet];

pub(crate) fn open(ledger: &Arc<Ledger>, query: &Query, cursor: &str) -> Result<Export, ExportError> {
    let source: Arc<dyn Source> = Arc::clone(ledger) as _;
    Export::open(source, Arc::new(Payers), query.clone(), cursor, tollgate_exports::encoder(query).unwrap())
}

pub(crate) fn chunks(ledger: &Arc<Ledger>, query: &Query, cursor: &str) -> Vec<Chunk> {
    open(ledger, query, cursor).unwrap().map(Result::unwrap).collect()
}

pub(crate) fn bytes(chunks: &[Chunk]) -> Vec<u8> {
    chunks.iter().flat_map(|chunk| chunk.data.iter().copied()).collect()
}

/// Two versions of a price: one with tiers, one with a fee and a minimum.
pub(crate) fn prices() -> BTreeMap<(String, u64), Price> {
    let metadata =
        |version| Some(Metadata { name: "p".into(), resource_version: Some(version), ..Metadata::default() });
    let spec = |input: &str, output: &str| PriceSpec {
        currency: "USD".into(),
        input: input.into(),
        output: output.into(),
        ..PriceSpec::default()
    };
    let above =
        PriceTier { above_input_tokens: Some(500), input: "5".into(), output: "15".into(), ..Default::default() };
    let first = PriceSpec { cached_input: "0".into(), tiers: vec![above], ..spec("2.5", "10") };
    let second = PriceSpec { request: "0.001".into(), minimum: "0.002".into(), ..spec("0.3", "0.000001") };
    let price = |version, spec| {
        let (api_version, kind) = ("tollgate/v1".into(), "Price".into());
        let price = Price { api_version, kind, metadata: metadata(version), spec: Some(spec) };
        (("p".to_owned(), version), price)
    };
    BTreeMap::from([price(7, first), price(9, second)])
}

/// What a row amounts to by its price.
pub(crate) fn reckon(row: &LedgerRow, price: &Price) -> i128 {
    let version = PriceVersionRow { price: Some(price.clone()), ..PriceVersionRow::default() };
    Tariff::of(&version).unwrap().amount(row.into()).0
}

/// An attempt as it comes: at its row's provider or one before that, with a price or without.
fn cost(input: u64, n: usize) -> LedgerCost {
    let (price, version, currency) = [("p", 7, "USD"), ("p", 9, "EUR"), ("", 0, ""), ("gone", 3, "CHF")][n % 4];
    let mut cost = LedgerCost {
        provider: ["first", "mock"][n % 2].into(),
        provider_model: "other".into(),
        usage_source: UsageSource::Counted.into(),
        input_tokens: input,
        output_at_most: 70,
        price: price.into(),
        price_version: version,
        currency: currency.into(),
        ..LedgerCost::default()
    };
    if !price.is_empty() {
        cost.amount = (i128::from(input) * 1_000_003 + 5).to_be_bytes().to_vec();
    }
    cost
}

/// The attempts of a row: some before it, and its own. Its own amount is by its price, so that it has lines.
fn costs(row: &LedgerRow, input: u64) -> Vec<LedgerCost> {
    let n = usize::try_from(input).unwrap();
    let earlier = (0..n % 3).map(|at| cost(input + at as u64, n / 3 + at));
    let mut own = LedgerCost { provider: String::new(), ..cost(0, n / 2) };
    if let Some(price) = prices().get(&(own.price.clone(), own.price_version)) {
        own.amount = reckon(row, price).to_be_bytes().to_vec();
    }
    earlier.chain((n % 5 > 0).then_some(own)).collect()
}

/// A row as it comes, its place in the ledger set later.
fn row() -> impl Strategy<Value = LedgerRow> {
    let names = (0usize..3, 0usize..3, 0usize..2, 0usize..4);
    let tokens = (0u64..1_000, 0u64..300, 0u64..200, 0u64..500, 0u64..100);
    let priced = 0u8..5;
    (names, tokens, priced, 0..48 * HOUR, 0u64..HOUR, prop::bool::weighted(0.1)).prop_map(
        |((tenant, consumer, provider, model), tokens, priced, at, took, corrects)| {
            let (input, cached, written, output, reasoning) = tokens;
            let at = BEGIN - 4 * HOUR + at;
            let (price, version, currency) = match priced {
                0 => ("", 0, ""),
                1 => ("", 0, "USD"),
                2 => ("gone", 3, "EUR"),
                3 => ("p", 7, "USD"),
                _ => ("p", 9, "USD"),
            };
            let mut row = LedgerRow {
                corrects: u64::from(corrects) * 5,
                request_id: format!("r-{at:x}"),
                admitted_us: at,
                settled_us: at + took,
                tenant: ["acme", "globex", "in,itech"][tenant].into(),
                consumer: ["alice", "=bob", ""][consumer].into(),
                route: "chat".into(),
                provider: ["openai", "mock"][provider].into(),
                model: ["m", "gpt-\"4o\"", "-m\r\nn", "ü 中"][model].into(),
                provider_model: "served".into(),
                status: 200,
                outcome: LedgerOutcome::Settled.into(),
                usage_source: if output % 2 == 0 { UsageSource::Provider } else { UsageSource::Counted }.into(),
                input_tokens: input,
                cached_input_tokens: cached,
                cache_write_tokens: written,
                output_tokens: output,
                reasoning_tokens: reasoning,
                price: price.into(),
                price_version: version,
                currency: currency.into(),
                node: 1,
                zone: "az-a".into(),
                ..LedgerRow::default()
            };
            let amount = match (corrects, prices().get(&(price.to_owned(), version))) {
                (true, _) if priced > 0 => -i128::from(input) * 1_000_003,
                (false, Some(price)) => reckon(&row, price),
                (false, None) if priced == 2 => 12_345,
                _ => 0,
            };
            row.amount = amount.to_be_bytes().to_vec();
            if currency == "USD" && output % 3 == 0 {
                (row.list_price, row.list_price_version) = ("p".into(), [9, 7][usize::from(version == 9)]);
            }
            row.costs = costs(&row, input);
            row
        },
    )
}

/// Some ledger.
pub(crate) fn ledger(rows: usize) -> impl Strategy<Value = Ledger> {
    prop::collection::vec(row(), 0..rows).prop_map(|mut rows| {
        rows.sort_by_key(|row| row.settled_us);
        for (at, row) in rows.iter_mut().enumerate() {
            row.seq = ((10 + at as u64 / 3) << 16) + at as u64 % 3;
        }
        Ledger { rows, prices: prices() }
    })
}

/// As long as one likes, quickly.
pub(crate) fn long(rows: u64) -> Ledger {
    let row = |at: u64| LedgerRow {
        seq: (at + 1) << 16,
        request_id: format!("0199-{at:012x}"),
        admitted_us: BEGIN + at * 1_000_000,
        settled_us: BEGIN + at * 1_000_000 + 500_000,
        tenant: "globex".into(),
        consumer: format!("c-{}", at % 50),
        route: "chat".into(),
        provider: "openai".into(),
        model: "gpt-4o".into(),
        provider_model: "gpt-4o-2026".into(),
        status: 200,
        outcome: LedgerOutcome::Settled.into(),
        usage_source: UsageSource::Provider.into(),
        input_tokens: 100 + at % 7,
        output_tokens: 10,
        price: "p".into(),
        price_version: 7,
        currency: "USD".into(),
        amount: (i128::from(100 + at % 7) * 2_500_000 + 100_000_000).to_be_bytes().to_vec(),
        costs: vec![LedgerCost::default()],
        node: 1 + at % 3,
        zone: "az-a".into(),
        ..LedgerRow::default()
    };
    Ledger { rows: (0..rows).map(row).collect(), prices: prices() }
}
