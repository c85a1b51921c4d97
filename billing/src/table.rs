//! What was used: sums for each hour and each combination of who, where and by what.

mod names;
mod rows;
mod sums;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
};

use tollgate_model::{Currency, Money, Timestamp};
use tollgate_proto::state::v1::{Attribution, Usage};

use self::{
    names::{Name, place},
    rows::Read,
    sums::Added,
};
pub(crate) use self::{
    names::{Named, Names},
    sums::Sums,
};

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

/// The sums, by hour and by whom: by day where they are old, and not at all where they are very old. Which model names may appear
/// is decided by the caller: here every spelling is a row of its own.
///
/// Who and what come again in each hour: their texts are kept once, and sums are by number. A clone costs a pointer for each hour.
#[derive(Debug, Default, Clone)]
pub struct UsageTable {
    names: Arc<Names>,
    /// By number, the days that have sums of it: what has none is forgotten.
    days_of: Arc<Vec<u32>>,
    /// Shared with images until they are written to: only the newest is, as a rule.
    hours: BTreeMap<u64, Arc<Sums>>,
    /// By the first hour of a day, what was in its hours before they were rolled up.
    rolled: BTreeMap<u64, Arc<Sums>>,
    /// By the first hour of a day, all of it: no rows, as it follows from the others.
    days: BTreeMap<u64, Arc<Sums>>,
}

/// Hours are kept for so long: two months, with the days that both can have.
const HOURS: u64 = 62 * DAY;
/// Days are kept for so long, in hours: 13 months and some. The ledger has all of it for ever.
const DAYS: u64 = 400 * DAY;
pub(crate) const DAY: u64 = 24;

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
        let hour = at.0 / HOUR_US;
        let number = self.number(&Name::of(attribution, bill.as_ref()), changes);
        let (one, day) = (Totals::of_one(usage, bill), day_of(hour));
        let is_rolled = self.newest().is_some_and(|newest| hour.saturating_add(HOURS) < newest);
        self.add_to_day(day, number, &one);
        let (level, start, span) = if is_rolled { (&mut self.rolled, day, DAY) } else { (&mut self.hours, hour, 1) };
        let totals = add(level, start, number, &one).totals;
        changes.push(put(rows::sums((start, span), number, &totals)));
    }

    /// Rolls up at most one hour, and drops at most one day, that are too old by now. Once in each entry: the one hour that is due in
    /// each is little, and after a pause that was long no entry has to do it all.
    pub fn tend(&mut self, changes: &mut Changes) {
        let Some(newest) = self.newest() else { return };
        if let Some(first) = self.hours.first_entry().filter(|first| first.key().saturating_add(HOURS) < newest) {
            let (hour, sums) = first.remove_entry();
            self.roll_up(hour, &sums, changes);
        }
        let oldest = self.rolled.keys().next().copied();
        let dropped = oldest.filter(|day| day.saturating_add(DAYS) < newest && !self.has_hours(*day));
        if let Some((day, sums)) = dropped.and_then(|day| self.rolled.remove_entry(&day)) {
            self.days.remove(&day);
            sums.iter().for_each(|(number, _)| self.forget(day, number, changes));
        }
    }

    /// Of a day that is dropped, the sums of one number; and what that stands for, where no other day has it.
    fn forget(&mut self, day: u64, number: u32, changes: &mut Changes) {
        changes.push((rows::sums_key((day, DAY), number), None));
        let days = &mut Arc::make_mut(&mut self.days_of)[place(number)];
        *days -= 1;
        if *days == 0 {
            Arc::make_mut(&mut self.names).remove(number);
            changes.push((rows::name_key(number), None));
        }
    }

    fn add_to_day(&mut self, day: u64, number: u32, more: &Totals) {
        if add(&mut self.days, day, number, more).is_first {
            let days_of = Arc::make_mut(&mut self.days_of);
            let at = place(number);
            if at >= days_of.len() {
                days_of.resize(at + 1, 0);
            }
            days_of[at] += 1;
        }
    }

    fn roll_up(&mut self, hour: u64, sums: &Sums, changes: &mut Changes) {
        let day = day_of(hour);
        let rolled = self.rolled.entry(day).or_default();
        let all_of_day = Arc::make_mut(rolled);
        for (number, totals) in sums.iter() {
            let all = all_of_day.add(number, totals).totals;
            changes.push((rows::sums_key((hour, 1), number), None));
            changes.push(put(rows::sums((day, DAY), number, &all)));
        }
        let whole = Arc::clone(rolled);
        if !self.has_hours(day) {
            self.days.insert(day, whole);
        }
    }

    fn has_hours(&self, day: u64) -> bool {
        self.hours.range(day..day.saturating_add(DAY)).next().is_some()
    }

    fn newest(&self) -> Option<u64> {
        self.hours.last_key_value().map(|(hour, _)| *hour)
    }

    fn number(&mut self, name: &Name<'_>, changes: &mut Changes) -> u32 {
        self.names.find(name).unwrap_or_else(|| {
            let number = Arc::make_mut(&mut self.names).add(name);
            changes.extend(self.names.get(number).map(|named| put(rows::name(number, named))));
            number
        })
    }

    /// Sums there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.hours.values().chain(self.rolled.values()).map(|sums| sums.len()).sum()
    }

    /// Whether nothing was used yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.hours.is_empty() && self.rolled.is_empty()
    }

    pub(crate) fn names(&self) -> &Names {
        &self.names
    }

    pub(crate) fn hours(&self) -> &BTreeMap<u64, Arc<Sums>> {
        &self.hours
    }

    pub(crate) fn rolled(&self) -> &BTreeMap<u64, Arc<Sums>> {
        &self.rolled
    }

    pub(crate) fn days(&self) -> &BTreeMap<u64, Arc<Sums>> {
        &self.days
    }

    /// Every row, in order of the keys. Take it from a clone: that costs a pointer for each hour.
    pub fn into_rows(self) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> + Send + 'static {
        let Self { names, hours, rolled, days_of: _, days: _ } = self;
        let named = names.all().to_vec().into_iter().zip(0..);
        let named = named.filter_map(|(named, number)| Some(rows::name(number, named.as_deref()?)));
        let starts: BTreeSet<u64> = hours.keys().chain(rolled.keys()).copied().collect();
        named.chain(starts.into_iter().flat_map(move |start| {
            let of = |sums: Option<&Arc<Sums>>, span: u64| -> Vec<_> {
                let row = |(number, totals): (u32, &Totals)| rows::sums((start, span), number, totals);
                sums.into_iter().flat_map(|sums| sums.iter()).map(row).collect()
            };
            let mut rows = of(hours.get(&start), 1);
            rows.extend(of(rolled.get(&start), DAY));
            rows.sort_unstable();
            rows
        }))
    }

    /// The table that these rows are of, which come in the order of their keys.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn restore<E>(rows: impl IntoIterator<Item = Result<(Vec<u8>, Vec<u8>), E>>) -> Result<Self, RestoreError>
    where
        RestoreError: From<E>,
    {
        let mut table = Self::new();
        for read in rows {
            let (key, value) = read?;
            rows::read(&key, &value).and_then(|row| table.take(row)).ok_or(RestoreError::Value { key })?;
        }
        Ok(table)
    }

    /// Takes in a row; none where it is of a number that stands for nothing.
    fn take(&mut self, row: Read) -> Option<()> {
        match row {
            Read::Name(number, row) => Arc::make_mut(&mut self.names).put(number, &Name::of_row(&row)),
            Read::Sums(start, span, number, totals) => {
                self.names.get(number)?;
                let level = if span == DAY { &mut self.rolled } else { &mut self.hours };
                add(level, start, number, &totals);
                self.add_to_day(day_of(start), number, &totals);
            }
        }
        Some(())
    }
}

/// The first hour of its day.
pub(crate) const fn day_of(hour: u64) -> u64 {
    hour - hour % DAY
}

fn put((key, value): (Vec<u8>, Vec<u8>)) -> (Vec<u8>, Option<Vec<u8>>) {
    (key, Some(value))
}

/// Adds to one of the sums of a time.
fn add(level: &mut BTreeMap<u64, Arc<Sums>>, start: u64, number: u32, more: &Totals) -> Added {
    Arc::make_mut(level.entry(start).or_default()).add(number, more)
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
        let [named, first, second, third] = &changes[..] else { panic!("{changes:?}") };
        assert_eq!(named.0, rows::name_key(0));
        assert_eq!(first.0, second.0);
        assert_ne!(second.0, third.0);
        let Some(Read::Sums(1, 1, 0, sums)) = rows::read(&second.0, second.1.as_ref().unwrap()) else {
            panic!("no sums")
        };
        assert_eq!((sums.requests, sums.input_tokens, sums.output_tokens), (2, 11, 22));
    }

    #[test]
    fn what_is_old_is_kept_by_day_and_what_is_very_old_not_at_all() {
        let mut table = UsageTable::new();
        let mut used = |hour: u64, tends: u64| {
            let mut changes = Changes::new();
            table.record(Timestamp(hour * HOUR_US), &attribution("acme", "m"), &tokens(1, 0), None, &mut changes);
            (0..tends).for_each(|_| table.tend(&mut changes));
            (table.hours.len(), table.rolled.len(), table.len())
        };
        for hour in 0..DAY {
            used(hour, 1);
        }
        assert_eq!(used(HOURS, 99), (25, 0, 25), "two months are kept by the hour");
        assert_eq!(used(HOURS + 2, 1), (25, 1, 26), "each entry rolls up one hour");
        assert_eq!(used(HOURS + 2, 99), (24, 1, 25));
        assert_eq!(used(0, 1), (24, 1, 25), "what comes late is in its day");
        assert_eq!(used(HOURS + DAY, 99), (3, 1, 4));
        let rolled = table.rolled[&0].iter().next().unwrap().1.requests;
        assert_eq!((rolled, table.days[&0].iter().next().unwrap().1.requests), (25, 25));
        let mut changes = Changes::new();
        table.record(Timestamp((DAYS + 1) * HOUR_US), &attribution("acme", "m"), &tokens(1, 0), None, &mut changes);
        (0..9).for_each(|_| table.tend(&mut changes));
        assert!(!table.rolled.contains_key(&0) && !table.days.contains_key(&0));
    }

    #[test]
    fn a_sum_that_cannot_grow_stays_where_it_is() {
        let mut table = UsageTable::new();
        for _ in 0..2 {
            table.record(Timestamp(0), &attribution("a", "m"), &tokens(u64::MAX, 1), None, &mut Changes::new());
        }
        assert_eq!(table.hours()[&0].iter().next().unwrap().1.input_tokens, u64::MAX);
    }

    #[test]
    fn a_row_that_is_no_usage_is_refused() {
        let sums_of_nobody = rows::sums((7, 1), 3, &Totals::default());
        let short = (rows::sums_key((7, 1), 3)[..5].to_vec(), Vec::new());
        for row in [(vec![1], vec![0xff]), (rows::name_key(1), vec![0xff]), short, sums_of_nobody] {
            let refused = UsageTable::restore([Ok::<_, Infallible>(row.clone())]);
            assert!(matches!(refused, Err(RestoreError::Value { .. })), "{row:?}");
        }
    }

    #[test]
    fn a_number_that_stands_for_nothing_any_more_is_given_again() {
        let mut table = UsageTable::new();
        let mut changes = Changes::new();
        for (hour, model) in [(0, "old"), (1, "steady"), (DAY, "steady"), ((DAYS + 1) * 2, "steady")] {
            table.record(Timestamp(hour * HOUR_US), &attribution("acme", model), &tokens(1, 0), None, &mut changes);
        }
        changes.clear();
        (0..9).for_each(|_| table.tend(&mut changes));
        assert!(changes.contains(&(rows::name_key(0), None)), "nobody has used the old one for so long");
        changes.clear();
        table.record(
            Timestamp((DAYS + 1) * 2 * HOUR_US),
            &attribution("acme", "new"),
            &tokens(1, 0),
            None,
            &mut changes,
        );
        assert_eq!(changes[0].0, rows::name_key(0));
        assert_eq!(table.names.all().len(), 2);
    }

    fn bills() -> impl Strategy<Value = Option<Bill>> {
        let amount = proptest::option::of((0..i128::MAX).prop_map(Money));
        let currency = proptest::sample::select(vec!["USD", "EUR"]).prop_map(|code| Currency::parse(code).unwrap());
        proptest::option::of((currency, amount).prop_map(|(currency, amount)| Bill { currency, amount }))
    }

    proptest! {
        #[test]
        fn rows_are_sorted_restore_the_table_and_agree_with_what_was_reported(
            used in vec((0..5u64, "[a\0]{0,3}", "[ab\0]{0,3}", 0..1_000u64, bills()), 0..40),
            // Also of hours that are rolled up, and of days that are dropped.
            apart in proptest::sample::select(vec![1, 7, HOURS / 3, DAYS / 2]),
        ) {
            let mut table = UsageTable::new();
            let mut store = BTreeMap::new();
            for (hour, tenant, model, input, bill) in used {
                let mut changes = Changes::new();
                let at = Timestamp(hour * apart * HOUR_US);
                table.record(at, &attribution(&tenant, &model), &tokens(input, 1), bill, &mut changes);
                table.tend(&mut changes);
                for (key, value) in changes {
                    match value {
                        Some(value) => drop(store.insert(key, value)),
                        None => prop_assert!(store.remove(&key).is_some(), "nothing is deleted that is not there"),
                    }
                }
            }
            let rows: Vec<_> = table.clone().into_rows().collect();
            prop_assert!(rows.is_sorted());
            prop_assert_eq!(&rows, &store.into_iter().collect::<Vec<_>>());
            let restored = UsageTable::restore(rows.iter().cloned().map(Ok::<_, Infallible>)).unwrap();
            let days = |table: &UsageTable| -> Vec<_> {
                let of = |(number, totals): (u32, &Totals)| rows::sums((0, 1), number, totals);
                let day = |(day, sums): (&u64, &Arc<Sums>)| {
                    let mut sums: Vec<_> = sums.iter().map(of).collect();
                    sums.sort();
                    (*day, sums)
                };
                table.days.iter().map(day).collect()
            };
            prop_assert_eq!(days(&restored), days(&table), "days follow from rows");
            prop_assert_eq!(restored.into_rows().collect::<Vec<_>>(), rows);
        }
    }
}
