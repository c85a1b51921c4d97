//! Calendar months, as bills are named.

use std::fmt;

use jiff::{Zoned, civil::Date};

use crate::{
    TimeZone, Timestamp, Window,
    window::{first_instant, next_month},
};

/// A month of a year. In order of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Month(u32);

/// What calendars here can have, and a month beside it on both sides.
const YEARS: std::ops::RangeInclusive<u32> = 1969..=9001;

impl Month {
    /// The month that an instant is in, on a zone's clock.
    #[must_use]
    pub fn of(at: Timestamp, zone: &TimeZone) -> Self {
        let at = at.min(Timestamp::MAX);
        let (begin, _) = Window::Month.bounds(at, zone);
        // Where a clock was set back across midnight, the date of `at` may be of the month before once more.
        let date = Zoned::new(begin.to_jiff(), zone.inner().clone()).date();
        Self::from_date(date)
    }

    /// Its first instant, on a zone's clock. Months before 1970 begin at the epoch.
    #[must_use]
    pub fn begins(self, zone: &TimeZone) -> Timestamp {
        first_instant(self.date(), zone)
    }

    /// The month after it.
    #[must_use]
    pub fn next(self) -> Self {
        Self::from_date(next_month(self.date()).expect("the years here are within the calendar"))
    }

    /// The month before it.
    #[must_use]
    pub const fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// As it is stored: twelve times the year, and January is 0.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }

    /// What [`Month::number`] gave; none where it can't have.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        YEARS.contains(&(number / 12)).then_some(Self(number))
    }

    /// Reads `2026-11`.
    ///
    /// # Errors
    /// A sentence that shows the right form.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a month such as 2026-11");
        let (year, month) = text.split_once('-').ok_or_else(wrong)?;
        let number = |part: &str, digits: usize| {
            let all_digits = part.len() == digits && part.bytes().all(|byte| byte.is_ascii_digit());
            all_digits.then(|| part.parse::<u32>().ok()).flatten()
        };
        let (year, month) = (number(year, 4).ok_or_else(wrong)?, number(month, 2).ok_or_else(wrong)?);
        match (1..=12).contains(&month) && YEARS.contains(&year) {
            true => Ok(Self(year * 12 + month - 1)),
            false => Err(wrong()),
        }
    }

    fn from_date(date: Date) -> Self {
        let year = u32::from(date.year().unsigned_abs());
        Self(year * 12 + u32::from(date.month().unsigned_abs()) - 1)
    }

    fn date(self) -> Date {
        let year = i16::try_from(self.0 / 12).expect("a year has four digits");
        let month = i8::try_from(self.0 % 12 + 1).expect("there are twelve months");
        Date::new(year, month, 1).expect("every month has a first day")
    }
}

impl fmt::Display for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{:04}-{:02}", self.0 / 12, self.0 % 12 + 1))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ZONES: [&str; 8] = [
        "UTC",
        "Europe/Berlin",
        "Australia/Lord_Howe",
        "America/Sao_Paulo",
        "America/St_Johns",
        "Asia/Kolkata",
        "Pacific/Apia",
        "Africa/Monrovia",
    ];

    #[test]
    fn a_month_is_that_of_the_zones_clock() {
        let of = |time: &str, zone: &str| {
            Month::of(Timestamp::parse(time).unwrap(), &TimeZone::parse(zone).unwrap()).to_string()
        };
        assert_eq!(of("2026-11-30T22:59:59Z", "Europe/Berlin"), "2026-11");
        assert_eq!(of("2026-11-30T23:00:00Z", "Europe/Berlin"), "2026-12");
        assert_eq!(of("2026-12-01T04:59:59Z", "America/New_York"), "2026-11");
        // Half an hour of daylight saving, and a summer time that began at a midnight that there was not.
        assert_eq!(of("2026-09-30T13:29:59Z", "Australia/Lord_Howe"), "2026-09");
        assert_eq!(of("2026-09-30T13:30:00Z", "Australia/Lord_Howe"), "2026-10");
        assert_eq!(of("1999-10-01T02:59:59Z", "America/Sao_Paulo"), "1999-09");
        let begins =
            |month: &str, zone: &str| Month::parse(month).unwrap().begins(&TimeZone::parse(zone).unwrap()).to_string();
        assert_eq!(begins("2026-07", "Europe/Berlin"), "2026-06-30T22:00:00Z");
        assert_eq!(begins("2026-10", "Australia/Lord_Howe"), "2026-09-30T13:30:00Z");
        assert_eq!(begins("2026-11", "Australia/Lord_Howe"), "2026-10-31T13:00:00Z");
    }

    #[test]
    fn only_a_month_is_read_as_one() {
        assert_eq!(Month::parse("2026-11").unwrap().to_string(), "2026-11");
        for wrong in
            ["", "2026", "2026-13", "2026-00", "2026-1", "26-11", "2026-11-01", "+026-11", "9999-01", "-026-01"]
        {
            assert!(Month::parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!(Month::from_number(0), None);
        let month = Month::parse("2026-12").unwrap();
        assert_eq!(month.next().to_string(), "2027-01");
        assert_eq!((month.next().previous(), Month::from_number(month.number())), (month, Some(month)));
    }

    proptest! {
        #[test]
        fn months_are_the_windows_of_a_month(
            seconds in 0..4_000_000_000_u64,
            zone in prop::sample::select(ZONES.to_vec()),
        ) {
            let zone = TimeZone::parse(zone).unwrap();
            let at = Timestamp::from_secs(seconds);
            let month = Month::of(at, &zone);
            let (start, end) = Window::Month.bounds(at, &zone);
            prop_assert_eq!((month.begins(&zone), month.next().begins(&zone)), (start, end));
            prop_assert_eq!(Month::of(end, &zone), month.next());
            prop_assert_eq!(Month::parse(&month.to_string()).unwrap(), month);
        }
    }
}
