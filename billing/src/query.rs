//! Asking for usage: by any columns, over any hours.

use std::{collections::BTreeMap, ops::Range, str::FromStr, sync::Arc};

use tollgate_model::Timestamp;

use crate::{
    Totals, UsageTable,
    table::{DAY, Named, Names, Sums as Part, day_of},
};

const HOUR_US: u64 = 3_600_000_000;

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

    /// None where it is a time.
    fn value(self, of: &Named) -> Option<&Arc<str>> {
        Some(match self {
            Self::Tenant => of.tenant(),
            Self::Consumer => of.consumer(),
            Self::Route => of.route(),
            Self::Provider => of.provider(),
            Self::Model => of.model(),
            Self::ProviderModel => of.provider_model(),
            Self::Hour | Self::Day => return None,
        })
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
    /// Whoever asks takes no more lines: an answer with more than these may lack some.
    pub max: Option<usize>,
}

impl Query {
    /// The time by which sums are told apart; 0 for all where it is not asked for.
    fn time(&self, start: u64) -> u64 {
        let by = |column| self.by.contains(&column);
        match (by(Column::Hour), by(Column::Day)) {
            (true, _) => start,
            (false, true) => day_of(start),
            (false, false) => 0,
        }
    }
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
    ///
    /// Old hours are kept by day: these count where their day begins, and are shown as its first hour.
    #[must_use]
    pub fn query(&self, query: &Query) -> Vec<UsageLine> {
        let groups = Groups::new(self.names(), query);
        let mut sums = Sums::new(&groups);
        let mut time = None;
        for (start, part) in self.parts(query) {
            let at = query.time(start);
            if time.replace(at).is_some_and(|before| before != at) {
                sums.end();
                if query.max.is_some_and(|max| sums.lines > max) {
                    break;
                }
            }
            sums.add(at, part);
        }
        sums.end();
        lines(query, &groups, &sums.ended)
    }

    /// What is in the range, in the order of time: whole days where these are in it and nobody asks for hours.
    fn parts(&self, query: &Query) -> impl Iterator<Item = (u64, &Part)> {
        let first = query.from.map_or(0, |from| from.0 / HOUR_US);
        let end = query.to.map_or(u64::MAX, |to| to.0.div_ceil(HOUR_US)).max(first);
        let whole = if query.by.contains(&Column::Hour) {
            end..end
        } else {
            let days = first.next_multiple_of(DAY)..day_of(end);
            days.start.min(end)..days.end.clamp(days.start.min(end), end)
        };
        let (before, after) = (first..whole.start, whole.end..end);
        let hours = |range: Range<u64>| self.hours().range(range.clone()).chain(self.rolled().range(range));
        let parts = hours(before).chain(self.days().range(whole)).chain(hours(after));
        let mut parts: Vec<(u64, &Part)> = parts.map(|(start, part)| (*start, &**part)).collect();
        parts.sort_by_key(|(start, _)| *start);
        parts.into_iter()
    }
}

/// Which group a combination is in, and what it is called: found once for a query, not once for each hour.
struct Groups<'a> {
    /// By the number of the combination; [`NOBODY`] where it is of somebody else.
    of: Vec<usize>,
    /// Values, without those of time, and the currency; in this order.
    list: Vec<(Vec<&'a str>, &'a str)>,
}

/// No group.
const NOBODY: usize = usize::MAX;

impl<'a> Groups<'a> {
    fn new(names: &'a Names, query: &Query) -> Self {
        let is_of = |named: &Named| query.tenant.as_deref().is_none_or(|tenant| *tenant == **named.tenant());
        let group = |named: &'a Arc<Named>| {
            let values: Vec<&str> = query.by.iter().filter_map(|column| column.value(named)).map(|it| &**it).collect();
            is_of(named).then(|| (values, &**named.currency()))
        };
        let groups: Vec<_> = names.all().iter().map(|named| named.as_ref().and_then(group)).collect();
        let mut places: BTreeMap<_, usize> = groups.iter().flatten().map(|group| (group, NOBODY)).collect();
        places.values_mut().enumerate().for_each(|(at, place)| *place = at);
        let of = groups.iter().map(|group| group.as_ref().map_or(NOBODY, |group| places[group])).collect();
        Self { of, list: places.into_keys().cloned().collect() }
    }
}

/// What a group had at some time.
struct Ended {
    time: u64,
    group: usize,
    totals: Totals,
}

/// Sums of one time, and of those before it.
struct Sums<'a> {
    groups: &'a Groups<'a>,
    time: u64,
    all: Vec<Totals>,
    ended: Vec<Ended>,
    /// What `ended` makes; several currencies are one.
    lines: usize,
}

impl<'a> Sums<'a> {
    fn new(groups: &'a Groups<'a>) -> Self {
        Self { groups, time: 0, all: vec![Totals::default(); groups.list.len()], ended: Vec::new(), lines: 0 }
    }

    fn add(&mut self, time: u64, part: &Part) {
        self.time = time;
        for (number, totals) in part.iter() {
            let group = usize::try_from(number).ok().and_then(|number| self.groups.of.get(number));
            if let Some(sum) = group.and_then(|group| self.all.get_mut(*group)) {
                sum.add(totals);
            }
        }
    }

    /// Takes down what there is, and begins anew.
    fn end(&mut self) {
        let mut before = None;
        for (group, sum) in self.all.iter_mut().enumerate() {
            if *sum == Totals::default() {
                continue; // whatever was used has at least one request
            }
            let values = &self.groups.list[group].0;
            self.lines += usize::from(before.replace(values) != Some(values));
            self.ended.push(Ended { time: self.time, group, totals: std::mem::take(sum) });
        }
    }
}

/// Lines in the order of their values.
fn lines(query: &Query, groups: &Groups<'_>, ended: &[Ended]) -> Vec<UsageLine> {
    if ended.is_empty() && query.by.is_empty() {
        return vec![UsageLine { by: Vec::new(), currency: String::new(), totals: Totals::default() }];
    }
    let mut instants = BTreeMap::new();
    for time in ended.iter().flat_map(|sum| [sum.time, day_of(sum.time)]) {
        instants.entry(time).or_insert_with(|| instant(time));
    }
    let line = |sum: &Ended| {
        let (values, currency) = &groups.list[sum.group];
        let mut values = values.iter();
        let value = |column: &Column| match column {
            Column::Hour => &*instants[&sum.time],
            Column::Day => &*instants[&day_of(sum.time)],
            _ => values.next().copied().unwrap_or_default(),
        };
        let by: Vec<&str> = query.by.iter().map(value).collect();
        (by, *currency, sum.totals)
    };
    let mut sums: Vec<_> = ended.iter().map(line).collect();
    sums.sort_by(|one, other| (&one.0, one.1).cmp(&(&other.0, other.1)));
    sums.chunk_by(|one, other| one.0 == other.0).flat_map(in_one_currency).collect()
}

/// One line, if there is no more than one currency.
fn in_one_currency(sums: &[(Vec<&str>, &str, Totals)]) -> Vec<UsageLine> {
    let line = |(by, currency, totals): &(Vec<&str>, &str, Totals)| UsageLine {
        by: by.iter().map(ToString::to_string).collect(),
        currency: (*currency).to_owned(),
        totals: *totals,
    };
    match sums {
        // The empty one comes first.
        [not_billed, billed] if not_billed.1.is_empty() => {
            let mut line = line(billed);
            line.totals.add(&not_billed.2);
            vec![line]
        }
        sums => sums.iter().map(line).collect(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, sample::subsequence};
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
    fn an_hour_and_its_day_stand_side_by_side() {
        let by = vec![Column::Day, Column::Hour];
        let lines = said(&[
            ("1970-01-01T00:00:00Z,1970-01-01T00:00:00Z", 1),
            ("1970-01-01T00:00:00Z,1970-01-01T01:00:00Z", 110),
            ("1970-01-02T00:00:00Z,1970-01-02T00:00:00Z", 1_000),
        ]);
        assert_eq!(inputs(&Query { by, ..Query::default() }), lines);
    }

    #[test]
    fn an_answer_that_nobody_takes_is_not_made_to_its_end() {
        let by = vec![Column::Hour, Column::Model];
        assert_eq!(inputs(&Query { by: by.clone(), max: Some(4), ..Query::default() }).len(), 4);
        let cut = inputs(&Query { by, max: Some(2), ..Query::default() }).len();
        assert!(cut > 2 && cut < 4, "{cut}: enough to refuse it, and not all of it");
    }

    proptest! {
        /// Beside sums that are made anew from all that was used.
        #[test]
        fn whatever_was_rolled_up_the_sums_are_those_of_all_that_was_used(
            used in vec((0..4_000_u64, 0..3_usize, 0..3_usize, 1..100_u64), 0..80),
            (from, to) in (0..4_000_u64, 0..4_100_u64),
            by in subsequence(vec![Column::Tenant, Column::Model, Column::Day], 0..=3),
            tenant in proptest::option::of(0..3_usize),
        ) {
            const NAMES: [&str; 3] = ["a", "b", "c"];
            let mut table = UsageTable::new();
            for (hour, tenant, model, input) in &used {
                let attribution =
                    Attribution { tenant: NAMES[*tenant].into(), model: NAMES[*model].into(), ..Attribution::default() };
                let usage = Usage { input_tokens: *input, ..Usage::default() };
                table.record(Timestamp(hour * HOUR_US), &attribution, &usage, None, &mut Vec::new());
                table.tend(&mut Vec::new());
            }
            // Whole days, as that is all that is known of old ones.
            let (from, to) = (from / DAY * DAY, to / DAY * DAY);
            let mut expected: BTreeMap<Vec<String>, u64> = BTreeMap::new();
            for (hour, of, model, input) in &used {
                if (from..to).contains(hour) && tenant.is_none_or(|tenant| tenant == *of) {
                    let value = |column: &Column| match column {
                        Column::Tenant => NAMES[*of].to_owned(),
                        Column::Model => NAMES[*model].to_owned(),
                        _ => instant(day_of(*hour)),
                    };
                    *expected.entry(by.iter().map(value).collect()).or_default() += input;
                }
            }
            if by.is_empty() {
                expected.entry(Vec::new()).or_default();
            }
            let tenant = tenant.map(|tenant| NAMES[tenant].to_owned());
            let (from, to) = (Some(Timestamp(from * HOUR_US)), Some(Timestamp(to * HOUR_US)));
            let lines = table.query(&Query { by, from, to, tenant, max: None });
            let lines: BTreeMap<_, _> = lines.into_iter().map(|line| (line.by, line.totals.input_tokens)).collect();
            prop_assert_eq!(lines, expected);
        }
    }

    fn bill(n: usize) -> Option<Bill> {
        let (code, amount) = [("USD", Some(Money(7))), ("USD", None), ("EUR", Some(Money(9)))].get(n).copied()?;
        Some(Bill { currency: Currency::parse(code).unwrap(), amount })
    }

    proptest! {
        /// Beside lines that are made the plain way, in the order of their texts.
        #[test]
        fn lines_are_those_of_all_calls_in_order_whatever_they_are_grouped_by(
            used in vec((0..60_u64, 0..3_usize, 0..3_usize, 0..4_usize, 1..100_u64), 0..80),
            by in subsequence(vec![Column::Tenant, Column::Hour, Column::Model, Column::Day], 0..=4).prop_shuffle(),
            max in 0..40_usize,
        ) {
            const NAMES: [&str; 3] = ["a", "b", "ab"];
            let mut table = UsageTable::new();
            let mut plain: BTreeMap<Vec<String>, BTreeMap<&str, Totals>> = BTreeMap::new();
            if by.is_empty() {
                plain.entry(Vec::new()).or_default();
            }
            for (hour, tenant, model, billed, input) in used {
                let (tenant, model, bill) = (NAMES[tenant], NAMES[model], bill(billed));
                let attribution = Attribution { tenant: tenant.into(), model: model.into(), ..Attribution::default() };
                let usage = Usage { input_tokens: input, ..Usage::default() };
                table.record(Timestamp(hour * HOUR_US), &attribution, &usage, bill, &mut Vec::new());
                let value = |column: &Column| match column {
                    Column::Tenant => tenant.to_owned(),
                    Column::Model => model.to_owned(),
                    Column::Hour => instant(hour),
                    _ => instant(hour / DAY * DAY),
                };
                let sums = plain.entry(by.iter().map(value).collect()).or_default();
                let sum = sums.entry(["USD", "USD", "EUR", ""][billed]).or_default();
                sum.add(&Totals {
                    requests: 1,
                    input_tokens: input,
                    cost: bill.and_then(|bill| bill.amount).unwrap_or_default(),
                    unpriced: u64::from(billed == 1),
                    ..Totals::default()
                });
            }
            let mut expected = Vec::new();
            for (by, mut sums) in plain {
                if sums.len() < 2 || sums.len() == 2 && sums.contains_key("") {
                    let not_billed = sums.remove("").unwrap_or_default();
                    sums.entry(sums.keys().next().copied().unwrap_or_default()).or_default().add(&not_billed);
                }
                let line = |(currency, totals): (&str, Totals)| {
                    UsageLine { by: by.clone(), currency: currency.to_owned(), totals }
                };
                expected.extend(sums.into_iter().map(line));
            }
            let query = Query { by, ..Query::default() };
            prop_assert_eq!(&table.query(&query), &expected);
            let lines = table.query(&Query { max: Some(max), ..query });
            prop_assert!(lines.len() > max || lines == expected, "what is cut is seen to be");
        }
    }

    #[test]
    fn every_column_can_be_asked_for_by_its_name() {
        for column in Column::ALL {
            assert_eq!(column.as_str().parse(), Ok(column));
        }
        assert!("colour".parse::<Column>().unwrap_err().contains("providerModel"));
    }
}
