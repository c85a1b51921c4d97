//! The months of all tenants.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::Arc,
    time::Duration,
};

use tollgate_model::{Currency, Money, Month, Timestamp};
use tollgate_proto::state::v1::LedgerRow;

use super::{Closed, LineKey, Months, Period, Span, Terms, month_at, rows};
use crate::{Came, Changes, RestoreError, export, ledger::Extent};

/// Months that one entry closes, but for those of tenants that it has rows of: some milliseconds.
const MAX_CLOSED: usize = 256;
/// A tenant's months begin with its first row, though not longer ago than that.
const LOOK_BACK: Duration = Duration::from_hours(62 * 24);

/// Where an entry finds the ledger.
#[derive(Debug, Clone, Copy)]
pub struct Placed {
    /// The entry, and its log time.
    pub came: Came,
    /// The open segment, before what the entry brings.
    pub open: Extent,
}

/// What an entry has changed.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    periods: BTreeMap<String, BTreeMap<Month, BTreeSet<LineKey>>>,
    rounding: BTreeSet<Currency>,
}

impl Touched {
    fn period(&mut self, tenant: &str, month: Month) -> &mut BTreeSet<LineKey> {
        // Most entries have several rows of a tenant.
        if !self.periods.contains_key(tenant) {
            self.periods.insert(tenant.to_owned(), BTreeMap::new());
        }
        self.periods.get_mut(tenant).expect("it is there").entry(month).or_default()
    }

    fn line(&mut self, tenant: &str, month: Month, line: LineKey) {
        self.period(tenant, month).insert(line);
    }
}

/// The months of all tenants, those that are closed too.
#[derive(Debug, Clone, Default)]
pub struct Periods {
    tenants: BTreeMap<String, Months>,
    /// What the lines of closed months had too much, less what they had too little, in all.
    rounding: BTreeMap<Currency, Money>,
    /// Not a part of the rows: the configuration has them.
    terms: BTreeMap<String, Terms>,
    /// When the next month of a tenant closes.
    due: BTreeSet<(Timestamp, String)>,
}

impl PartialEq for Periods {
    fn eq(&self, other: &Self) -> bool {
        self.tenants == other.tenants && self.rounding == other.rounding
    }
}

impl Periods {
    /// By what the months of tenants go from here on. Whoever is not named keeps to the clock of its last month.
    pub fn set_terms(&mut self, terms: BTreeMap<String, Terms>) {
        self.terms = terms;
        self.due = self.tenants.keys().filter_map(|tenant| Some((self.closes(tenant)?, tenant.clone()))).collect();
    }

    /// The terms of one tenant, or that it is not declared any more.
    pub fn change_terms(&mut self, tenant: &str, terms: Option<Terms>) {
        self.due(tenant, |periods| match terms {
            Some(terms) => drop(periods.terms.insert(tenant.to_owned(), terms)),
            None => drop(periods.terms.remove(tenant)),
        });
    }

    /// Says on which bill a row is, and adds it to that. Its number and log time are those of the entry that brings it.
    pub(crate) fn take(&mut self, row: &mut LedgerRow, placed: &Placed, touched: &mut Touched) {
        if row.tenant.is_empty() {
            return;
        }
        let admitted = Timestamp(row.admitted_us).min(placed.came.now).min(Timestamp::MAX);
        if let Some(month) = self.in_time(&row.tenant, admitted, placed.came.now) {
            self.add(row, (month, None), placed, touched);
            return;
        }
        let tenant = row.tenant.clone();
        self.due(&tenant, |periods| {
            periods.begin(&tenant, admitted, placed.came.now, touched);
            periods.go_on(&tenant, admitted, placed, touched);
            let late = periods.late_for(&tenant, admitted);
            let goes_to = periods.open_at(&tenant, admitted).expect("months were begun until there is one");
            let late = late.filter(|_| admitted < goes_to.start);
            periods.add(row, (goes_to.month, late), placed, touched);
        });
    }

    /// The month that it was admitted in, where that is open and no month of this tenant is due: so it is of nearly every row.
    fn in_time(&self, tenant: &str, admitted: Timestamp, now: Timestamp) -> Option<Month> {
        let month = self.open_at(tenant, admitted).filter(|it| it.start <= admitted)?.month;
        self.closes(tenant).is_some_and(|due| due > now).then_some(month)
    }

    /// The first month that is open and ends after then.
    fn open_at(&self, tenant: &str, admitted: Timestamp) -> Option<&Period> {
        // All before the first that is not closed are, so it is among the last few.
        let open = self.tenants.get(tenant)?.values().rev().take_while(|it| it.closed.is_none());
        open.take_while(|it| admitted < it.end).last().map(|it| &**it)
    }

    fn add(
        &mut self,
        row: &mut LedgerRow,
        (month, late_for): (Month, Option<Month>),
        placed: &Placed,
        touched: &mut Touched,
    ) {
        row.month = month.number();
        row.late_for = late_for.map_or(0, Month::number);
        let period = self.tenants.get_mut(&row.tenant).and_then(|months| months.get_mut(&month));
        let line = Arc::make_mut(period.expect("it is one of them")).add(row, export::digest(row), placed.open.segment);
        touched.line(&row.tenant, month, line);
    }

    /// Closes what is due by now, some at a time: where there is more the next entry goes on.
    pub(crate) fn close_due(&mut self, placed: &Placed, touched: &mut Touched) {
        for _ in 0..MAX_CLOSED {
            let Some((_, tenant)) = self.due.first().filter(|(due, _)| *due <= placed.came.now).cloned() else {
                return;
            };
            self.due(&tenant, |periods| periods.close_next(&tenant, placed, touched));
        }
    }

    /// When the next month closes.
    #[must_use]
    pub fn next_close(&self) -> Option<Timestamp> {
        self.due.first().map(|(due, _)| *due)
    }

    /// A change of a tenant's months, after which it may be due at another time.
    fn due(&mut self, tenant: &str, change: impl FnOnce(&mut Self)) {
        let before = self.closes(tenant);
        change(self);
        let after = self.closes(tenant);
        if before != after {
            before.map(|due| self.due.remove(&(due, tenant.to_owned())));
            self.due.extend(after.map(|due| (due, tenant.to_owned())));
        }
    }

    fn terms(&self, tenant: &str) -> Terms {
        let last = || self.tenants.get(tenant)?.values().next_back();
        let as_before = || Terms { zone: last().map(|it| it.zone.clone()).unwrap_or_default(), ..Terms::default() };
        self.terms.get(tenant).cloned().unwrap_or_else(as_before)
    }

    /// When the first month that is not closed will be.
    fn closes(&self, tenant: &str) -> Option<Timestamp> {
        // All before the first that is not closed are, so it is among the last few.
        let open = self.tenants.get(tenant)?.values().rev().take_while(|it| it.closed.is_none()).last()?;
        let grace = self.terms.get(tenant).map_or(Terms::default().grace, |terms| terms.grace);
        Some(open.end.saturating_add(grace))
    }

    /// Makes the first month of a tenant, and the one before that for what comes while it would still be open.
    fn begin(&mut self, tenant: &str, admitted: Timestamp, now: Timestamp, touched: &mut Touched) {
        let terms = self.terms(tenant);
        let begun = self.tenants.get(tenant).and_then(|months| months.values().next());
        let new = match begun {
            None => {
                let oldest = Timestamp(now.0.saturating_sub(LOOK_BACK.as_micros().try_into().unwrap_or(u64::MAX)));
                let span = month_at(&Months::new(), &terms.zone, admitted.max(oldest));
                Some(Period::new(span, terms.zone))
            }
            Some(first) if admitted < first.start && now < first.start.saturating_add(terms.grace) => {
                let month = first.month.previous();
                let span = Span { month, start: month.begins(&terms.zone), end: first.start };
                (span.start <= admitted).then(|| Period::new(span, terms.zone))
            }
            Some(_) => None,
        };
        self.put(tenant, new, touched);
    }

    /// Closes what is due, and begins months until one takes what was admitted then.
    fn go_on(&mut self, tenant: &str, admitted: Timestamp, placed: &Placed, touched: &mut Touched) {
        loop {
            while self.closes(tenant).is_some_and(|due| due <= placed.came.now) {
                self.close_next(tenant, placed, touched);
            }
            let Some(last) = self.tenants.get(tenant).and_then(|months| months.values().next_back()) else { return };
            if last.closed.is_none() && admitted < last.end {
                return;
            }
            let zone = self.terms(tenant).zone;
            let next = Period::new(last.span().next(&zone), zone);
            self.put(tenant, Some(next), touched);
        }
    }

    fn put(&mut self, tenant: &str, new: Option<Period>, touched: &mut Touched) {
        if let Some(new) = new {
            touched.period(tenant, new.month);
            self.tenants.entry(tenant.to_owned()).or_default().insert(new.month, Arc::new(new));
        }
    }

    /// Closes the first month that is not closed.
    fn close_next(&mut self, tenant: &str, placed: &Placed, touched: &mut Touched) {
        let labels = Some(self.terms(tenant).labels);
        let months = self.tenants.entry(tenant.to_owned()).or_default();
        let Some(next) = months.values_mut().rev().take_while(|it| it.closed.is_none()).last() else { return };
        let period = Arc::make_mut(next);
        let open = placed.open;
        let is_open = period.segments.last().is_some_and(|(_, last)| *last == open.segment);
        let tail = is_open.then_some((open.bytes, open.hash));
        period.closed = Some(Closed { at: placed.came.at, now: placed.came.now, tail, labels });
        for (currency, total) in period.totals() {
            let sum = self.rounding.entry(currency).or_default();
            *sum = Money(sum.0.saturating_add(total.rounding().0));
            touched.rounding.insert(currency);
        }
        touched.period(tenant, period.month);
    }

    /// The month in which something was admitted.
    fn late_for(&self, tenant: &str, admitted: Timestamp) -> Option<Month> {
        let months = self.tenants.get(tenant)?;
        let known = months.values().find(|it| it.start <= admitted && admitted < it.end).map(|it| it.month);
        known.or_else(|| {
            // Before any that there is: by the calendar, and surely before the first.
            let first = *months.keys().next()?;
            Some(Month::of(admitted, &self.terms(tenant).zone).min(first.previous()))
        })
    }

    /// The first segment of the ledger with a row of a month that is not closed.
    #[must_use]
    pub fn first_open_segment(&self) -> Option<u64> {
        let open = |months: &'_ Months| {
            let open = months.values().rev().take_while(|it| it.closed.is_none());
            open.filter_map(|it| it.segments.first().map(|(first, _)| *first)).min()
        };
        self.tenants.values().filter_map(open).min()
    }

    /// The month of a tenant that an instant is in, begun or not: see [`month_at`].
    #[must_use]
    pub fn month_at(&self, tenant: &str, at: Timestamp) -> Span {
        let none = Months::new();
        month_at(self.tenants.get(tenant).unwrap_or(&none), &self.terms(tenant).zone, at)
    }

    /// The months of one tenant, or of all, as they are now.
    #[must_use]
    pub fn months(&self, tenant: Option<&str>) -> BTreeMap<String, Months> {
        let Some(tenant) = tenant else { return self.tenants.clone() };
        self.tenants.get_key_value(tenant).map(|(name, months)| (name.clone(), months.clone())).into_iter().collect()
    }

    /// A month of a tenant.
    #[must_use]
    pub fn get(&self, tenant: &str, month: Month) -> Option<&Arc<Period>> {
        self.tenants.get(tenant)?.get(&month)
    }

    /// All months, of one tenant or of all, in order; those behind `after` alone.
    pub fn list<'a>(
        &'a self,
        tenant: Option<&'a str>,
        after: Option<(&'a str, Month)>,
    ) -> impl Iterator<Item = (&'a str, &'a Arc<Period>)> {
        let from = tenant.or(after.map(|(tenant, _)| tenant)).unwrap_or_default();
        let tenants = self
            .tenants
            .range::<str, _>((Bound::Included(from), Bound::Unbounded))
            .take_while(move |(name, _)| tenant.is_none_or(|tenant| *name == tenant));
        let all = tenants.flat_map(|(name, months)| months.values().map(move |period| (name.as_str(), period)));
        all.filter(move |(name, period)| after.is_none_or(|after| after < (*name, period.month)))
    }

    /// What rounding the lines of closed months has added, in all.
    pub fn rounding(&self) -> impl Iterator<Item = (Currency, Money)> {
        self.rounding.iter().map(|(currency, amount)| (*currency, *amount))
    }

    /// Hands out the rows that were touched.
    pub(crate) fn changed(&self, touched: Touched, changes: &mut Changes) {
        let periods = touched.periods.iter().flat_map(|(tenant, months)| months.iter().map(move |it| (tenant, it)));
        for (tenant, (month, lines)) in periods {
            let Some(period) = self.get(tenant, *month) else { continue };
            changes.push(rows::put_period(tenant, period));
            for key in lines {
                let sums = period.lines.get(key).cloned().unwrap_or_default();
                changes.push(rows::put_line(tenant, *month, key, &sums));
            }
        }
        for currency in &touched.rounding {
            changes.push(rows::put_rounding(*currency, self.rounding.get(currency).copied().unwrap_or_default()));
        }
    }

    /// Every row of the state, in order of the keys.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> + Send + use<> {
        let tenants = self.tenants.clone();
        let lines = tenants.clone().into_iter().flat_map(|(tenant, months)| {
            let of = move |period: Arc<Period>| rows::lines(&tenant, &period);
            months.into_values().flat_map(of)
        });
        let periods = tenants.into_iter().flat_map(|(tenant, months)| {
            let of = move |period: Arc<Period>| rows::period(&tenant, &period);
            months.into_values().map(of)
        });
        let rounding = self.rounding.clone().into_iter().map(|(currency, amount)| rows::rounding(currency, amount));
        lines.chain(periods).chain(rounding)
    }

    /// The months that these rows are of, without anybody's terms.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub(crate) fn restore(rows: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>) -> Result<Self, RestoreError> {
        let (mut periods, mut lines) = (Self::default(), Vec::new());
        for (key, value) in rows {
            let known = match rows::read(&key, &value) {
                Some(rows::Read::Period(tenant, period)) => {
                    periods.tenants.entry(tenant).or_default().insert(period.month, Arc::new(period));
                    true
                }
                Some(rows::Read::Line(tenant, month, line, sums)) => {
                    lines.push((tenant, month, line, sums));
                    true
                }
                Some(rows::Read::Rounding(currency, amount)) => {
                    periods.rounding.insert(currency, amount);
                    true
                }
                None => false,
            };
            if !known {
                return Err(RestoreError::Value { key });
            }
        }
        for (tenant, month, line, sums) in lines {
            let of = periods.tenants.get_mut(&tenant).and_then(|months| months.get_mut(&month));
            let of = of.ok_or_else(|| RestoreError::Value { key: tenant.clone().into_bytes() })?;
            Arc::make_mut(of).lines.insert(line, sums);
        }
        periods.set_terms(BTreeMap::new());
        Ok(periods)
    }
}

#[cfg(test)]
mod tests;
