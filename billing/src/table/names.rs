//! Who and what usage is summed up by, each kept once.

use std::{collections::BTreeSet, sync::Arc};

use foldhash::HashMap;
use tollgate_proto::state::v1::{Attribution, UsageNameRow};

use super::Bill;

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

    pub(super) fn of_row(row: &'a UsageNameRow) -> Self {
        Self([&row.tenant, &row.consumer, &row.route, &row.provider, &row.model, &row.provider_model, &row.currency])
    }

    /// What no other combination has: each text ends with what UTF-8 never has.
    fn key(&self) -> Vec<u8> {
        const END: u8 = 0xff;
        let mut bytes = Vec::with_capacity(self.0.iter().map(|text| text.len() + 1).sum());
        for text in self.0 {
            bytes.extend_from_slice(text.as_bytes());
            bytes.push(END);
        }
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

    pub(super) fn row(&self) -> UsageNameRow {
        let [tenant, consumer, route, provider, model, provider_model, currency] =
            self.texts.each_ref().map(|it| it.to_string());
        UsageNameRow { tenant, consumer, route, provider, model, provider_model, currency }
    }
}

/// All combinations by their numbers. Rows have these, so they are a function of the log: a new one gets the least that is free.
#[derive(Debug, Clone, Default)]
pub(crate) struct Names {
    /// Never iterated.
    numbers: HashMap<Arc<[u8]>, u32>,
    /// None where a number is free.
    list: Vec<Option<Arc<Named>>>,
    free: BTreeSet<u32>,
}

impl Names {
    pub(super) fn find(&self, name: &Name<'_>) -> Option<u32> {
        self.numbers.get(&*name.key()).copied()
    }

    /// Takes in one that is not there yet.
    pub(super) fn add(&mut self, name: &Name<'_>) -> u32 {
        let number = self.free.first().copied().unwrap_or_else(|| self.end());
        self.put(number, name);
        number
    }

    /// Takes in one under the number that it has.
    pub(super) fn put(&mut self, number: u32, name: &Name<'_>) {
        let named = Named { key: name.key().into(), texts: name.0.map(Arc::from) };
        self.numbers.insert(Arc::clone(&named.key), number);
        let place = place(number);
        if place >= self.list.len() {
            self.free.extend(self.end()..number);
            self.list.resize(place + 1, None);
        }
        self.free.remove(&number);
        self.list[place] = Some(Arc::new(named));
    }

    /// Forgets one. Its number is free.
    pub(super) fn remove(&mut self, number: u32) {
        if let Some(named) = self.list.get_mut(place(number)).and_then(Option::take) {
            self.numbers.remove(&named.key);
            self.free.insert(number);
        }
    }

    fn end(&self) -> u32 {
        u32::try_from(self.list.len()).expect("so many combinations fit into no memory")
    }

    /// In the order of their numbers; none where a number is free.
    pub(crate) fn all(&self) -> &[Option<Arc<Named>>] {
        &self.list
    }

    pub(super) fn get(&self, number: u32) -> Option<&Named> {
        self.list.get(place(number))?.as_deref()
    }
}

/// Where a number is in a list.
pub(super) fn place(number: u32) -> usize {
    usize::try_from(number).expect("32 bits fit into an address")
}
