//! Which month of its tenant an instant is in.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tollgate_model::{Month, TimeZone, Timestamp};

use super::Period;

/// The months of one tenant, in order, without a gap.
pub type Months = BTreeMap<Month, Arc<Period>>;

/// A month of a tenant from its first instant to its last, begun or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// Its name.
    pub month: Month,
    /// From then on.
    pub start: Timestamp,
    /// And before then.
    pub end: Timestamp,
}

impl Span {
    fn by_calendar(at: Timestamp, zone: &TimeZone) -> Self {
        let month = Month::of(at, zone);
        Self { month, start: month.begins(zone), end: month.next().begins(zone) }
    }

    /// The month that follows on a zone's clock: it begins where this one ends, wherever that is.
    #[must_use]
    pub fn next(self, zone: &TimeZone) -> Self {
        let month = self.month.next();
        let end = month.next().begins(zone).max(self.end.saturating_add(Duration::from_micros(1)));
        Self { month, start: self.end, end }
    }

    /// Whether an instant is in it.
    #[must_use]
    pub fn has(&self, at: Timestamp) -> bool {
        self.start <= at && at < self.end
    }
}

/// The month that `at` is in: where it was begun, by the bounds that it has; before all that were begun by their clock, and
/// behind them as it would be begun now, by `zone`.
#[must_use]
pub fn month_at(months: &Months, zone: &TimeZone, at: Timestamp) -> Span {
    let at = at.min(Timestamp::MAX);
    let ends = (months.values().next(), months.values().next_back());
    let (Some(first), Some(last)) = ends else { return Span::by_calendar(at, zone) };
    if at < first.start {
        let before = Span::by_calendar(at, &first.zone);
        return Span { month: before.month.min(first.month.previous()), end: before.end.min(first.start), ..before };
    }
    let begun = months.values().rev().map(|period| period.span()).find(|span| span.has(at));
    begun.unwrap_or_else(|| {
        let mut span = last.span();
        while span.end <= at {
            span = span.next(zone);
        }
        span
    })
}
