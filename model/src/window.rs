//! Windows: how long they are, and where fixed ones begin on the clock.
//!
//! The windows of one kind in one zone follow one another without a gap or an overlap, through every change of a
//! zone's offset: `bounds` of an instant and of any other instant in the same window are the same, and the next window
//! begins where this one ends.

use jiff::{Zoned, civil::Date, tz::Offset};

use crate::{TimeZone, Timestamp, nearest::hint};

/// How long a limit counts before it begins again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Window {
    /// `1s`
    Second,
    /// `1m`
    Minute,
    /// `1h`
    Hour,
    /// `1d`: from midnight to midnight.
    Day,
    /// `month`: from the first to the first.
    Month,
}

const SECOND: u64 = 1_000_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;

impl Window {
    /// Every window.
    pub const ALL: [Self; 5] = [Self::Second, Self::Minute, Self::Hour, Self::Day, Self::Month];

    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Second => "1s",
            Self::Minute => "1m",
            Self::Hour => "1h",
            Self::Day => "1d",
            Self::Month => "month",
        }
    }

    /// Reads what is written.
    ///
    /// # Errors
    /// A sentence that lists what there is.
    pub fn parse(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|window| window.as_str() == text).ok_or_else(|| {
            let hint = hint(text, Self::ALL.map(Self::as_str));
            format!("`{text}` is no window{hint}: 1s | 1m | 1h | 1d | month")
        })
    }

    /// How long it lasts at most, in microseconds: an hour may be cut short, a day may have 25 hours, a month 31 days.
    #[must_use]
    pub const fn longest_us(self) -> u64 {
        match self {
            Self::Second => SECOND,
            Self::Minute => MINUTE,
            Self::Hour => HOUR,
            Self::Day => 25 * HOUR,
            Self::Month => 31 * 24 * HOUR + HOUR,
        }
    }

    /// The window that `at` is in: `start <= at < end`. Times beyond [`Timestamp::MAX`] count as it.
    ///
    /// Seconds and minutes are the same in every zone. An hour begins on the zone's clock; where the clock is moved by
    /// part of an hour, the windows on both sides are cut off at that moment.
    #[must_use]
    pub fn bounds(self, at: Timestamp, zone: &TimeZone) -> (Timestamp, Timestamp) {
        let at = at.min(Timestamp::MAX);
        match self {
            Self::Second => aligned(at, SECOND),
            Self::Minute => aligned(at, MINUTE),
            Self::Hour if *zone == TimeZone::UTC => aligned(at, HOUR),
            Self::Hour => hour(at, zone),
            Self::Day => calendar(at, zone, |date| date, Date::tomorrow, Date::yesterday),
            Self::Month => {
                calendar(at, zone, Date::first_of_month, next_month, |date| date.first_of_month().yesterday())
            }
        }
    }
}

/// As it is written: `2026-11`.
#[must_use]
pub fn month_name(month: u32) -> String {
    format!("{:04}-{:02}", month / 12, month % 12 + 1)
}

impl std::fmt::Display for Window {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

fn aligned(at: Timestamp, size: u64) -> (Timestamp, Timestamp) {
    let start = at.0 - at.0 % size;
    (Timestamp(start), Timestamp(start + size))
}

/// The hour on the zone's clock, between the changes of its offset.
fn hour(at: Timestamp, zone: &TimeZone) -> (Timestamp, Timestamp) {
    let instant = at.to_jiff();
    let offset = micros(zone.inner().to_offset(instant));
    let hour = i128::from(HOUR);
    let local = i128::from(at.0) + offset;
    let start = local - local.rem_euclid(hour) - offset;
    let clamp = |micros: i128| Timestamp(u64::try_from(micros).unwrap_or(0));
    let (mut start, mut end) = (clamp(start), clamp(start + hour));
    // `preceding` is exclusive, so ask from just after `at`.
    let next = Timestamp(at.0 + 1).to_jiff();
    if let Some(change) = zone.inner().preceding(next).next() {
        start = start.max(Timestamp::from_jiff(change.timestamp()));
    }
    if let Some(change) = zone.inner().following(instant).next() {
        end = end.min(Timestamp::from_jiff(change.timestamp()));
    }
    (start, end)
}

fn micros(offset: Offset) -> i128 {
    i128::from(offset.seconds()) * i128::from(SECOND)
}

/// A window that begins at the first instant of a date. `floor` gives that date for any date in the window.
fn calendar(
    at: Timestamp,
    zone: &TimeZone,
    floor: impl Fn(Date) -> Date,
    next: impl Fn(Date) -> Result<Date, jiff::Error>,
    previous: impl Fn(Date) -> Result<Date, jiff::Error>,
) -> (Timestamp, Timestamp) {
    const WITHIN: &str = "the years 1970 to 9000 are within the calendar";
    let begins = |date: Date| first_instant(date, zone);
    let mut date = floor(Zoned::new(at.to_jiff(), zone.inner().clone()).date());
    // Where a clock was set back across midnight, the same date comes twice: what counts is the first.
    while begins(date) > at {
        date = floor(previous(date).expect(WITHIN));
    }
    loop {
        let following = floor(next(date).expect(WITHIN));
        let end = begins(following);
        if end > at {
            return (begins(date), end);
        }
        date = following;
    }
}

pub(crate) fn next_month(date: Date) -> Result<Date, jiff::Error> {
    date.last_of_month().tomorrow()
}

/// The first instant of a date; midnight, but where the zone has none that day. Dates before 1970 begin at the epoch.
pub(crate) fn first_instant(date: Date, zone: &TimeZone) -> Timestamp {
    let midnight = date.to_zoned(zone.inner().clone()).expect("the years 1970 to 9000 are within the calendar");
    Timestamp::from_jiff(midnight.timestamp())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    fn bounds(window: Window, time: &str, zone: &str) -> (String, String) {
        let (start, end) = window.bounds(at(time), &TimeZone::parse(zone).unwrap());
        (start.to_string(), end.to_string())
    }

    fn pair(start: &str, end: &str) -> (String, String) {
        (start.to_owned(), end.to_owned())
    }

    #[test]
    fn windows_begin_on_the_clock() {
        let time = "2026-11-21T08:16:23.5Z";
        assert_eq!(bounds(Window::Second, time, "UTC"), pair("2026-11-21T08:16:23Z", "2026-11-21T08:16:24Z"));
        assert_eq!(bounds(Window::Minute, time, "UTC"), pair("2026-11-21T08:16:00Z", "2026-11-21T08:17:00Z"));
        assert_eq!(bounds(Window::Hour, time, "UTC"), pair("2026-11-21T08:00:00Z", "2026-11-21T09:00:00Z"));
        assert_eq!(bounds(Window::Day, time, "UTC"), pair("2026-11-21T00:00:00Z", "2026-11-22T00:00:00Z"));
        assert_eq!(bounds(Window::Month, time, "UTC"), pair("2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z"));
        assert_eq!(bounds(Window::Month, "2026-12-31T23:59:59Z", "UTC").1, "2027-01-01T00:00:00Z");
    }

    #[test]
    fn a_day_in_berlin_has_23_24_or_25_hours() {
        let zone = "Europe/Berlin";
        assert_eq!(
            bounds(Window::Day, "2026-03-29T12:00:00Z", zone),
            pair("2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z")
        );
        assert_eq!(
            bounds(Window::Day, "2026-10-25T12:00:00Z", zone),
            pair("2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z")
        );
        assert_eq!(bounds(Window::Month, "2026-07-31T22:30:00Z", zone).0, "2026-07-31T22:00:00Z");
    }

    #[test]
    fn an_hour_in_kolkata_begins_at_half_past() {
        let got = bounds(Window::Hour, "2026-11-21T08:16:23Z", "Asia/Kolkata");
        assert_eq!(got, pair("2026-11-21T07:30:00Z", "2026-11-21T08:30:00Z"));
    }

    #[test]
    fn a_day_without_a_midnight_and_a_day_with_two_have_one_beginning() {
        // Cuba's clocks go from 0:00 to 1:00; Newfoundland's went from 0:01 back to 23:01 the day before.
        assert_eq!(bounds(Window::Day, "2026-03-08T12:00:00Z", "America/Havana").0, "2026-03-08T05:00:00Z");
        let twice = ["2010-11-07T02:30:30Z", "2010-11-07T02:31:30Z", "2010-11-07T03:31:30Z"];
        for time in twice {
            assert_eq!(bounds(Window::Day, time, "America/St_Johns").0, "2010-11-07T02:30:00Z", "{time}");
        }
    }

    #[test]
    fn the_ends_of_time_have_windows_too() {
        for window in Window::ALL {
            for zone in ["UTC", "Pacific/Apia", "America/New_York"] {
                let zone = TimeZone::parse(zone).unwrap();
                let (start, end) = window.bounds(Timestamp(0), &zone);
                assert!(start == Timestamp(0) && end > start);
                let (start, end) = window.bounds(Timestamp(u64::MAX), &zone);
                assert!(start <= Timestamp::MAX && end > Timestamp::MAX);
            }
        }
    }

    #[test]
    fn an_unknown_window_lists_what_there_is() {
        assert_eq!(Window::parse("month"), Ok(Window::Month));
        let error = Window::parse("months").unwrap_err();
        assert_eq!(error, "`months` is no window (did you mean `month`?): 1s | 1m | 1h | 1d | month");
        assert!(Window::parse("5m").is_err());
    }

    proptest! {
        #[test]
        fn windows_follow_one_another(
            seconds in 0..4_000_000_000_u64,
            window in prop::sample::select(Window::ALL.to_vec()),
            zone in prop::sample::select(vec![
                "UTC", "Europe/Berlin", "Asia/Kolkata", "Australia/Lord_Howe", "America/St_Johns", "America/Havana",
                "Pacific/Apia", "Africa/Casablanca", "Africa/Monrovia",
            ]),
        ) {
            let zone = TimeZone::parse(zone).unwrap();
            let at = Timestamp::from_secs(seconds);
            let (start, end) = window.bounds(at, &zone);
            prop_assert!(start <= at && at < end);
            prop_assert_eq!(window.bounds(start, &zone), (start, end));
            prop_assert_eq!(window.bounds(Timestamp(end.0 - 1), &zone), (start, end));
            prop_assert_eq!(window.bounds(end, &zone).0, end);
        }
    }
}
