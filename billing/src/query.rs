//! Asking for usage: by any columns, over any hours.

use std::{collections::BTreeMap, str::FromStr};

use tollgate_model::Timestamp;

use crate::{
    Totals, UsageTable,
    table::{Hour, Key},
};

const HOUR_US: u64 = 3_600_000_000;
const HOURS_PER_DAY: u64 = 24;

/// What usage can be grouped by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Column {
    /// Who pays.
    Tenant,
    /// Who called.
    Consumer,
    /// The matched route.
    Route,
    /// Who served it.
    Provider,
    /// The model asked for.
    Model,
    /// The model that served it.
    ProviderModel,
    /// The hour of UTC, as RFC 3339.
    Hour,
    /// The day of UTC, as RFC 3339.
    Day,
}

impl Column {
    /// Every column.
    pub const ALL: [Self; 8] = [
        Self::Tenant,
        Self::Consumer,
        Self::Route,
        Self::Provider,
        Self::Model,
        Self::ProviderModel,
        Self::Hour,
        Self::Day,
    ];

    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::Consumer => "consumer",
            Self::Route => "route",
            Self::Provider => "provider",
            Self::Model => "model",
            Self::ProviderModel => "providerModel",
            Self::Hour => "hour",
            Self::Day => "day",
        }
    }

    fn value(self, key: &Key) -> String {
        match self {
            Self::Tenant => key.tenant.to_string(),
            Self::Consumer => key.consumer.to_string(),
            Self::Route => key.route.to_string(),
            Self::Provider => key.provider.to_string(),
            Self::Model => key.model.to_string(),
            Self::ProviderModel => key.provider_model.to_string(),
            Self::Hour => instant(key.hour),
            Self::Day => instant(key.hour - key.hour % HOURS_PER_DAY),
        }
    }
}

fn instant(hour: u64) -> String {
    Timestamp(hour.saturating_mul(HOUR_US)).to_string()
}

impl FromStr for Column {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|column| column.as_str() == text).ok_or_else(|| {
            let known = Self::ALL.map(Self::as_str).join(" | ");
            format!("`{text}` is no column of usage: {known}")
        })
    }
}

/// What to sum up, and by what.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// One line for each combination of these that was used; one in all when empty.
    pub by: Vec<Column>,
    /// From the hour that this is in.
    pub from: Option<Timestamp>,
    /// Before this; an hour that has begun before it counts as a whole.
    pub to: Option<Timestamp>,
    /// Of this tenant only.
    pub tenant: Option<String>,
}

/// One line of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageLine {
    /// Values of [`Query::by`], in its order.
    pub by: Vec<String>,
    /// What the cost is in; empty where nothing was billed.
    pub currency: String,
    /// The sums.
    pub totals: Totals,
}

impl UsageTable {
    /// Sums up usage. Lines are in order of their values; with nothing to group by there is always one. Currencies are never
    /// added up: values with several have a line for each, and one for what is not billed.
    #[must_use]
    pub fn query(&self, query: &Query) -> Vec<UsageLine> {
        let mut lines: BTreeMap<Vec<String>, BTreeMap<&str, Totals>> = BTreeMap::new();
        if query.by.is_empty() {
            lines.entry(Vec::new()).or_default();
        }
        for (key, totals) in self.within(query).flat_map(|hour| hour.iter()) {
            if query.tenant.as_deref().is_some_and(|tenant| *tenant != *key.tenant) {
                continue;
            }
            let by = query.by.iter().map(|column| column.value(key)).collect();
            lines.entry(by).or_default().entry(&*key.currency).or_default().add(totals);
        }
        lines.into_iter().flat_map(|(by, sums)| in_one_currency(by, sums)).collect()
    }

    fn within(&self, query: &Query) -> impl Iterator<Item = &Hour> {
        let first = query.from.map_or(0, |from| from.0 / HOUR_US);
        let end = query.to.map_or(u64::MAX, |to| to.0.div_ceil(HOUR_US));
        self.hours().range(first..end.max(first)).map(|(_, hour)| &**hour)
    }
}

/// One line, if there is no more than one currency.
fn in_one_currency(by: Vec<String>, mut sums: BTreeMap<&str, Totals>) -> Vec<UsageLine> {
    if sums.len() < 2 || sums.len() == 2 && sums.contains_key("") {
        let not_billed = sums.remove("").unwrap_or_default();
        let (currency, mut totals) = sums.pop_first().unwrap_or_default();
        totals.add(&not_billed);
        return vec![UsageLine { by, currency: currency.to_owned(), totals }];
    }
    let line = |(currency, totals): (&str, Totals)| UsageLine { by: by.clone(), currency: currency.to_owned(), totals };
    sums.into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use tollgate_model::{Currency, Money};
    use tollgate_proto::state::v1::{Attribution, Usage};

    use super::*;
    use crate::Bill;

    fn table() -> UsageTable {
        let mut table = UsageTable::new();
        let mut used = |hour: u64, tenant: &str, model: &str, input: u64| {
            let attribution = Attribution { tenant: tenant.into(), model: model.into(), ..Attribution::default() };
            let usage = Usage { input_tokens: input, output_tokens: 1, ..Usage::default() };
            table.record(Timestamp(hour * HOUR_US), &attribution, &usage, None, &mut Vec::new());
        };
        used(0, "acme", "big", 1);
        used(1, "acme", "small", 10);
        used(1, "globex", "big", 100);
        used(24, "acme", "big", 1_000);
        table
    }

    fn inputs(query: &Query) -> Vec<(String, u64)> {
        let lines = table().query(query);
        lines.into_iter().map(|line| (line.by.join(","), line.totals.input_tokens)).collect()
    }

    fn said(lines: &[(&str, u64)]) -> Vec<(String, u64)> {
        lines.iter().map(|(by, input)| ((*by).to_owned(), *input)).collect()
    }

    #[test]
    fn without_columns_there_is_one_line() {
        assert_eq!(inputs(&Query::default()), said(&[("", 1_111)]));
        assert_eq!(UsageTable::new().query(&Query::default()).len(), 1);
    }

    #[test]
    fn lines_are_grouped_and_sorted_by_the_columns_asked_for() {
        let by = vec![Column::Model, Column::Tenant];
        let lines = said(&[("big,acme", 1_001), ("big,globex", 100), ("small,acme", 10)]);
        assert_eq!(inputs(&Query { by, ..Query::default() }), lines);
        let by = vec![Column::Day];
        let lines = said(&[("1970-01-01T00:00:00Z", 111), ("1970-01-02T00:00:00Z", 1_000)]);
        assert_eq!(inputs(&Query { by, ..Query::default() }), lines);
    }

    #[test]
    fn only_the_hours_and_the_tenant_asked_for_count() {
        let from = Some(Timestamp(HOUR_US + 5));
        let to = Some(Timestamp(2 * HOUR_US));
        assert_eq!(inputs(&Query { from, to, ..Query::default() }), said(&[("", 110)]));
        let tenant = Some("acme".to_owned());
        assert_eq!(inputs(&Query { from, to, tenant, ..Query::default() }), said(&[("", 10)]));
        assert_eq!(inputs(&Query { from: to, to: from, ..Query::default() }), said(&[("", 0)]));
    }

    #[test]
    fn currencies_are_never_added_up() {
        let mut table = UsageTable::new();
        let mut used = |tenant: &str, bill: Option<(&str, Option<i128>)>| {
            let attribution = Attribution { tenant: tenant.into(), ..Attribution::default() };
            let bill =
                bill.map(|(code, amount)| Bill { currency: Currency::parse(code).unwrap(), amount: amount.map(Money) });
            table.record(Timestamp(0), &attribution, &Usage::default(), bill, &mut Vec::new());
        };
        used("a", Some(("USD", Some(5))));
        used("a", Some(("USD", None)));
        used("a", None);
        used("b", Some(("EUR", Some(7))));
        let lines = |by: Vec<Column>| -> Vec<(String, String, u64, i128, u64)> {
            let lines = table.query(&Query { by, ..Query::default() }).into_iter();
            let line = |it: UsageLine| {
                (it.by.join(","), it.currency, it.totals.requests, it.totals.cost.0, it.totals.unpriced)
            };
            lines.map(line).collect()
        };
        let said = |by: &str, currency: &str, figures: (u64, i128, u64)| {
            (by.to_owned(), currency.to_owned(), figures.0, figures.1, figures.2)
        };
        let by_tenant = [said("a", "USD", (3, 5, 1)), said("b", "EUR", (1, 7, 0))];
        assert_eq!(lines(vec![Column::Tenant]), by_tenant, "what is not billed is beside the only currency");
        let all = [said("", "", (1, 0, 0)), said("", "EUR", (1, 7, 0)), said("", "USD", (2, 5, 1))];
        assert_eq!(lines(Vec::new()), all);
    }

    #[test]
    fn every_column_can_be_asked_for_by_its_name() {
        for column in Column::ALL {
            assert_eq!(column.as_str().parse(), Ok(column));
        }
        assert!("colour".parse::<Column>().unwrap_err().contains("providerModel"));
    }
}
