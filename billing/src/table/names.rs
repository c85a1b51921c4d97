//! Who and what usage is summed up by, each kept once; and the rows of their sums.

use std::{collections::HashMap, sync::Arc};

use prost::{Message, bytes::Bytes};
use tollgate_model::Money;
use tollgate_proto::state::v1::{Attribution, UsageRow};

use super::{Bill, Totals};

const COLUMNS: usize = 7;

/// Texts of one combination: tenant, consumer, route, provider, model, the model that served it, and the currency, which is empty
/// where nothing is billed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Name<'a>([&'a str; COLUMNS]);

impl<'a> Name<'a> {
    pub(super) fn of(it: &'a Attribution, bill: Option<&'a Bill>) -> Self {
        let currency = bill.map_or("", |bill| bill.currency.as_str());
        Self([&it.tenant, &it.consumer, &it.route, &it.provider, &it.model, &it.provider_model, currency])
    }

    pub(super) fn of_row(row: &'a UsageRow) -> Self {
        Self([&row.tenant, &row.consumer, &row.route, &row.provider, &row.model, &row.provider_model, &row.currency])
    }

    /// What orders as the texts do: every text but the last is escaped, and ended so that a prefix comes first.
    fn key(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.0.iter().map(|text| text.len() + 2).sum());
        let [texts @ .., currency] = self.0;
        for text in texts {
            for byte in text.bytes() {
                bytes.push(byte);
                if byte == 0 {
                    bytes.push(0xff);
                }
            }
            bytes.extend([0, 0]);
        }
        bytes.extend(currency.bytes());
        bytes
    }
}

/// One combination, as it is kept.
#[derive(Debug)]
pub(crate) struct Named {
    key: Arc<[u8]>,
    texts: [Arc<str>; COLUMNS],
}

impl Named {
    pub(crate) fn tenant(&self) -> &Arc<str> {
        &self.texts[0]
    }

    pub(crate) fn consumer(&self) -> &Arc<str> {
        &self.texts[1]
    }

    pub(crate) fn route(&self) -> &Arc<str> {
        &self.texts[2]
    }

    pub(crate) fn provider(&self) -> &Arc<str> {
        &self.texts[3]
    }

    pub(crate) fn model(&self) -> &Arc<str> {
        &self.texts[4]
    }

    pub(crate) fn provider_model(&self) -> &Arc<str> {
        &self.texts[5]
    }

    /// Empty where nothing is billed.
    pub(crate) fn currency(&self) -> &Arc<str> {
        &self.texts[6]
    }
}

/// All combinations. Their numbers are this process's own: no row has them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Names {
    /// Never iterated.
    numbers: HashMap<Arc<[u8]>, u32>,
    list: Vec<Arc<Named>>,
}

impl Names {
    pub(super) fn find(&self, name: &Name<'_>) -> Option<u32> {
        self.numbers.get(&*name.key()).copied()
    }

    /// Takes in one that is not there yet.
    pub(super) fn add(&mut self, name: &Name<'_>) -> u32 {
        let number = u32::try_from(self.list.len()).expect("so many combinations fit into no memory");
        let named = Named { key: name.key().into(), texts: name.0.map(Arc::from) };
        self.numbers.insert(Arc::clone(&named.key), number);
        self.list.push(Arc::new(named));
        number
    }

    /// In the order of their numbers.
    pub(crate) fn all(&self) -> &[Arc<Named>] {
        &self.list
    }

    fn get(&self, number: u32) -> &Named {
        &self.list[usize::try_from(number).expect("a number is small")]
    }
}

/// The row of the sums of some hours of one combination, or that it is deleted.
pub(super) fn row(
    names: &Names,
    (start, hours): (u64, u64),
    number: u32,
    totals: Option<&Totals>,
) -> (Vec<u8>, Option<Vec<u8>>) {
    let name = names.get(number);
    let mut key = start.to_be_bytes().to_vec();
    key.extend_from_slice(&name.key);
    if hours > 1 {
        key.push(0); // a day's beside that of its first hour: no currency has it
    }
    (key, totals.map(|totals| value(name, (start, hours), totals)))
}

fn value(name: &Named, (start, hours): (u64, u64), totals: &Totals) -> Vec<u8> {
    UsageRow {
        requests: totals.requests,
        input_tokens: totals.input_tokens,
        cached_input_tokens: totals.cached_input_tokens,
        output_tokens: totals.output_tokens,
        reasoning_tokens: totals.reasoning_tokens,
        hour: start,
        tenant: name.tenant().to_string(),
        consumer: name.consumer().to_string(),
        route: name.route().to_string(),
        provider: name.provider().to_string(),
        model: name.model().to_string(),
        provider_model: name.provider_model().to_string(),
        currency: name.currency().to_string(),
        cost: if totals.cost.0 == 0 { Bytes::new() } else { totals.cost.0.to_be_bytes().to_vec().into() },
        unpriced: totals.unpriced,
        hours: if hours == 1 { 0 } else { hours },
    }
    .encode_to_vec()
}

/// The sums that a row has.
pub(super) fn totals(row: &UsageRow) -> Option<Totals> {
    let cost = if row.cost.is_empty() { 0 } else { i128::from_be_bytes((&*row.cost).try_into().ok()?) };
    Some(Totals {
        requests: row.requests,
        input_tokens: row.input_tokens,
        cached_input_tokens: row.cached_input_tokens,
        output_tokens: row.output_tokens,
        reasoning_tokens: row.reasoning_tokens,
        cost: Money(cost),
        unpriced: row.unpriced,
    })
}
