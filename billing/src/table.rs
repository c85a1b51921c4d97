//! What was used: sums for each hour and each combination of who, where and by what.

use std::{collections::BTreeMap, io, sync::Arc};

use prost::{Message, bytes::Bytes};
use tollgate_model::{Currency, Money, Timestamp};
use tollgate_proto::state::v1::{Attribution, Usage, UsageRow};

/// Rows that changed: key, and value or `None` for a deletion.
pub type Changes = Vec<(Vec<u8>, Option<Vec<u8>>)>;

const HOUR_US: u64 = 3_600_000_000;

/// Sums of requests, tokens and money.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Requests that were dispatched.
    pub requests: u64,
    /// Input tokens, cached ones too.
    pub input_tokens: u64,
    /// Of these, read from a cache.
    pub cached_input_tokens: u64,
    /// Output tokens, reasoning too.
    pub output_tokens: u64,
    /// Of these, reasoning.
    pub reasoning_tokens: u64,
    /// What they cost, in the currency that they are billed in.
    pub cost: Money,
    /// Requests to be billed that there was no price for.
    pub unpriced: u64,
}

/// What a request is billed at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bill {
    /// What its tenant pays in.
    pub currency: Currency,
    /// None where there is no price for it.
    pub amount: Option<Money>,
}

impl Totals {
    /// Adds other sums. Sums stay at the greatest number there is rather than begin again.
    pub(crate) fn add(&mut self, other: &Self) {
        let add = |sum: &mut u64, more: u64| *sum = sum.saturating_add(more);
        add(&mut self.requests, other.requests);
        add(&mut self.input_tokens, other.input_tokens);
        add(&mut self.cached_input_tokens, other.cached_input_tokens);
        add(&mut self.output_tokens, other.output_tokens);
        add(&mut self.reasoning_tokens, other.reasoning_tokens);
        add(&mut self.unpriced, other.unpriced);
        self.cost = Money(self.cost.0.saturating_add(other.cost.0));
    }
}

impl Totals {
    fn of_one(usage: &Usage, bill: Option<Bill>) -> Self {
        Self {
            cost: bill.and_then(|bill| bill.amount).unwrap_or_default(),
            unpriced: u64::from(bill.is_some_and(|bill| bill.amount.is_none())),
            requests: 1,
            input_tokens: usage.input_tokens,
            cached_input_tokens: usage.cached_input_tokens,
            output_tokens: usage.output_tokens,
            reasoning_tokens: usage.reasoning_tokens,
        }
    }
}

/// What usage is summed up by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    /// Hours since the epoch, of UTC.
    pub(crate) hour: u64,
    pub(crate) tenant: Arc<str>,
    pub(crate) consumer: Arc<str>,
    pub(crate) route: Arc<str>,
    pub(crate) provider: Arc<str>,
    pub(crate) model: Arc<str>,
    pub(crate) provider_model: Arc<str>,
    /// Empty where nothing is billed.
    pub(crate) currency: Arc<str>,
}

/// The sums, ordered by hour and then by whom. Which model names may appear is decided by the caller: here every
/// spelling is a row of its own.
#[derive(Debug, Default, Clone)]
pub struct UsageTable {
    hours: BTreeMap<u64, Arc<Hour>>,
}

/// Shared with images until it is written to: only the newest hour is, as a rule.
pub(crate) type Hour = BTreeMap<Key, Totals>;

/// Rows that are no usage.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// A value that cannot be read.
    #[error("usage row {key:?} cannot be read")]
    Value {
        /// The row's key.
        key: Vec<u8>,
    },
    /// The rows could not be read.
    #[error("the usage rows cannot be read")]
    Source(#[from] io::Error),
}

impl UsageTable {
    /// Nothing used yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds what one request used that was admitted at `at`, and what it is billed at, if it is.
    pub fn record(
        &mut self,
        at: Timestamp,
        attribution: &Attribution,
        usage: &Usage,
        bill: Option<Bill>,
        changes: &mut Changes,
    ) {
        let key = key(at.0 / HOUR_US, attribution, bill);
        let hour = Arc::make_mut(self.hours.entry(key.hour).or_default());
        let row_key = row_key(&key);
        let totals = hour.entry(key.clone()).or_default();
        totals.add(&Totals::of_one(usage, bill));
        changes.push((row_key, Some(row(&key, totals))));
    }

    /// Combinations there are sums for.
    #[must_use]
    pub fn len(&self) -> usize {
        self.hours.values().map(|hour| hour.len()).sum()
    }

    /// Whether nothing was used yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.hours.is_empty()
    }

    pub(crate) fn hours(&self) -> &BTreeMap<u64, Arc<Hour>> {
        &self.hours
    }

    /// Every row, in order of the keys. Take it from a clone: that costs a pointer for each hour.
    pub fn into_rows(self) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> + Send + 'static {
        self.hours
            .into_values()
            .flat_map(|hour| hour.iter().map(|(key, totals)| (row_key(key), row(key, totals))).collect::<Vec<_>>())
    }

    /// The table that these rows are of.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn restore<E>(rows: impl IntoIterator<Item = Result<(Vec<u8>, Vec<u8>), E>>) -> Result<Self, RestoreError>
    where
        RestoreError: From<E>,
    {
        let mut table = Self::new();
        for read in rows {
            let (row_key, value) = read?;
            let row = UsageRow::decode(&*value).ok().and_then(from_row);
            let (key, totals) = row.ok_or(RestoreError::Value { key: row_key })?;
            Arc::make_mut(table.hours.entry(key.hour).or_default()).insert(key, totals);
        }
        Ok(table)
    }
}

fn key(hour: u64, attribution: &Attribution, bill: Option<Bill>) -> Key {
    Key {
        hour,
        tenant: attribution.tenant.as_str().into(),
        consumer: attribution.consumer.as_str().into(),
        route: attribution.route.as_str().into(),
        provider: attribution.provider.as_str().into(),
        model: attribution.model.as_str().into(),
        provider_model: attribution.provider_model.as_str().into(),
        currency: bill.as_ref().map_or("", |bill| bill.currency.as_str()).into(),
    }
}

/// Orders as [`Key`] does: the hour, then every text escaped and ended so that a prefix comes first.
fn row_key(key: &Key) -> Vec<u8> {
    let mut bytes = key.hour.to_be_bytes().to_vec();
    for text in [&key.tenant, &key.consumer, &key.route, &key.provider, &key.model, &key.provider_model] {
        for byte in text.bytes() {
            bytes.push(byte);
            if byte == 0 {
                bytes.push(0xff);
            }
        }
        bytes.extend([0, 0]);
    }
    bytes.extend(key.currency.bytes());
    bytes
}

fn row(key: &Key, totals: &Totals) -> Vec<u8> {
    UsageRow {
        requests: totals.requests,
        input_tokens: totals.input_tokens,
        cached_input_tokens: totals.cached_input_tokens,
        output_tokens: totals.output_tokens,
        reasoning_tokens: totals.reasoning_tokens,
        hour: key.hour,
        tenant: key.tenant.to_string(),
        consumer: key.consumer.to_string(),
        route: key.route.to_string(),
        provider: key.provider.to_string(),
        model: key.model.to_string(),
        provider_model: key.provider_model.to_string(),
        currency: key.currency.to_string(),
        cost: if totals.cost.0 == 0 { Bytes::new() } else { totals.cost.0.to_be_bytes().to_vec().into() },
        unpriced: totals.unpriced,
    }
    .encode_to_vec()
}

fn from_row(row: UsageRow) -> Option<(Key, Totals)> {
    let cost = if row.cost.is_empty() { 0 } else { i128::from_be_bytes((&*row.cost).try_into().ok()?) };
    let key = Key {
        hour: row.hour,
        tenant: row.tenant.into(),
        consumer: row.consumer.into(),
        route: row.route.into(),
        provider: row.provider.into(),
        model: row.model.into(),
        provider_model: row.provider_model.into(),
        currency: row.currency.into(),
    };
    let totals = Totals {
        requests: row.requests,
        input_tokens: row.input_tokens,
        cached_input_tokens: row.cached_input_tokens,
        output_tokens: row.output_tokens,
        reasoning_tokens: row.reasoning_tokens,
        cost: Money(cost),
        unpriced: row.unpriced,
    };
    Some((key, totals))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::{collection::vec, prelude::*};

    use super::*;

    impl From<Infallible> for RestoreError {
        fn from(never: Infallible) -> Self {
            match never {}
        }
    }

    fn attribution(tenant: &str, model: &str) -> Attribution {
        Attribution { tenant: tenant.into(), model: model.into(), ..Attribution::default() }
    }

    fn tokens(input: u64, output: u64) -> Usage {
        Usage { input_tokens: input, output_tokens: output, ..Usage::default() }
    }

    #[test]
    fn usage_of_one_hour_is_summed_up_and_changes_one_row() {
        let mut table = UsageTable::new();
        let mut changes = Changes::new();
        table.record(Timestamp(HOUR_US), &attribution("acme", "m"), &tokens(1, 2), None, &mut changes);
        table.record(Timestamp(2 * HOUR_US - 1), &attribution("acme", "m"), &tokens(10, 20), None, &mut changes);
        table.record(Timestamp(2 * HOUR_US), &attribution("acme", "m"), &tokens(100, 200), None, &mut changes);
        assert_eq!(table.len(), 2);
        assert_eq!(changes[0].0, changes[1].0);
        assert_ne!(changes[1].0, changes[2].0);
        let first = UsageRow::decode(&**changes[1].1.as_ref().unwrap()).unwrap();
        assert_eq!((first.requests, first.input_tokens, first.output_tokens), (2, 11, 22));
    }

    #[test]
    fn a_sum_that_cannot_grow_stays_where_it_is() {
        let mut table = UsageTable::new();
        for _ in 0..2 {
            table.record(Timestamp(0), &attribution("a", "m"), &tokens(u64::MAX, 1), None, &mut Changes::new());
        }
        assert_eq!(table.hours()[&0].values().next().unwrap().input_tokens, u64::MAX);
    }

    #[test]
    fn a_row_that_is_no_usage_is_refused() {
        let rows = [Ok::<_, Infallible>((vec![1], vec![0xff]))];
        assert!(matches!(UsageTable::restore(rows), Err(RestoreError::Value { .. })));
    }

    fn bills() -> impl Strategy<Value = Option<Bill>> {
        let amount = proptest::option::of((0..i128::MAX).prop_map(Money));
        let currency = proptest::sample::select(vec!["USD", "EUR"]).prop_map(|code| Currency::parse(code).unwrap());
        proptest::option::of((currency, amount).prop_map(|(currency, amount)| Bill { currency, amount }))
    }

    proptest! {
        #[test]
        fn rows_are_sorted_restore_the_table_and_agree_with_what_was_reported(
            used in vec((0..5u64, "[a\0]{0,3}", "[ab\0]{0,3}", 0..1_000u64, bills()), 0..40)
        ) {
            let mut table = UsageTable::new();
            let mut store = BTreeMap::new();
            for (hour, tenant, model, input, bill) in used {
                let mut changes = Changes::new();
                table.record(Timestamp(hour * HOUR_US), &attribution(&tenant, &model), &tokens(input, 1), bill, &mut changes);
                store.extend(changes.into_iter().map(|(key, value)| (key, value.unwrap())));
            }
            let rows: Vec<_> = table.clone().into_rows().collect();
            prop_assert!(rows.is_sorted());
            prop_assert_eq!(&rows, &store.into_iter().collect::<Vec<_>>());
            let restored = UsageTable::restore(rows.iter().cloned().map(Ok::<_, Infallible>)).unwrap();
            prop_assert_eq!(restored.into_rows().collect::<Vec<_>>(), rows);
        }
    }
}
