//! Instants, durations and time zones, as they are written and as they are kept.

use std::{fmt, time::Duration};

use jiff::tz::TimeZoneDatabase;

/// Microseconds since the Unix epoch, in UTC. Never before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The year 9000: calendars end in 9999, and nothing here is planned so far ahead.
    pub const MAX: Self = Self(221_845_392_000_000_000);

    /// Whole seconds since the epoch.
    #[must_use]
    pub const fn from_secs(seconds: u64) -> Self {
        Self(seconds * 1_000_000)
    }

    /// Reads an RFC 3339 instant: `2027-01-01T00:00:00Z`, or with an offset.
    ///
    /// # Errors
    /// A sentence that shows the right form.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not an RFC 3339 time such as 2027-01-01T00:00:00Z");
        let at: jiff::Timestamp = text.parse().map_err(|_| wrong())?;
        let at = u64::try_from(at.as_microsecond()).map_err(|_| format!("`{text}` is before 1970"))?;
        if at > Self::MAX.0 { Err(format!("`{text}` is after the year 8999")) } else { Ok(Self(at)) }
    }

    /// This much later, as far as there is a later.
    #[must_use]
    pub const fn saturating_add(self, by: Duration) -> Self {
        let micros = by.as_micros();
        #[expect(clippy::cast_possible_truncation, reason = "guarded: greater values saturate")]
        let micros = if micros > u64::MAX as u128 { u64::MAX } else { micros as u64 };
        Self(self.0.saturating_add(micros))
    }

    /// From `earlier` to this; zero when it is not earlier.
    #[must_use]
    pub const fn saturating_since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// For calendar arithmetic; times beyond [`Self::MAX`] count as it.
    pub(crate) fn to_jiff(self) -> jiff::Timestamp {
        let micros = i64::try_from(self.0.min(Self::MAX.0)).expect("the year 9000 fits");
        jiff::Timestamp::from_microsecond(micros).expect("the years 1970 to 9000 are within the calendar")
    }

    pub(crate) fn from_jiff(at: jiff::Timestamp) -> Self {
        Self(u64::try_from(at.as_microsecond()).unwrap_or(0))
    }
}

/// RFC 3339, UTC, without a fraction where there is none.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.to_jiff().to_string())
    }
}

/// A time zone of the IANA database that is built into the program: the same on every node, whatever its system has.
#[derive(Clone, PartialEq, Eq)]
pub struct TimeZone(jiff::tz::TimeZone);

impl TimeZone {
    /// Coordinated universal time.
    pub const UTC: Self = Self(jiff::tz::TimeZone::UTC);

    /// Finds a zone by its IANA name: `Europe/Berlin`.
    ///
    /// # Errors
    /// A sentence, with the nearest name there is.
    pub fn parse(name: &str) -> Result<Self, String> {
        let database = TimeZoneDatabase::bundled();
        if let Ok(zone) = database.get(name) {
            return Ok(Self(zone));
        }
        let names: Vec<String> = database.available().map(|known| known.to_string()).collect();
        let hint = crate::nearest::hint(name, names.iter().map(String::as_str));
        Err(format!("`{name}` is no IANA time zone{hint}"))
    }

    /// The IANA name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.iana_name().unwrap_or("UTC")
    }

    pub(crate) fn inner(&self) -> &jiff::tz::TimeZone {
        &self.0
    }
}

impl Default for TimeZone {
    fn default() -> Self {
        Self::UTC
    }
}

impl fmt::Display for TimeZone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl fmt::Debug for TimeZone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Units of a duration, in milliseconds, the greatest first.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// A hundred years: enough for everything, and no sum of two overflows.
const MAX_MILLIS: u64 = 36_500 * 86_400_000;

/// Reads one number with its unit, or several: `250ms`, `30s`, `5m`, `1h`, `90d`, `1h30m`, `1.5s`.
///
/// # Errors
/// A sentence that shows the right form.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a duration such as 250ms, 30s, 5m, 1h or 90d");
    let mut rest = text;
    let mut millis = 0_u64;
    let mut last = u64::MAX;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let (number, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let &(_, size) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
        if size >= last {
            return Err(wrong()); // twice, or a greater one after a smaller
        }
        last = size;
        let part = scaled(number, size).ok_or_else(wrong)?;
        millis = millis
            .checked_add(part)
            .filter(|&sum| sum <= MAX_MILLIS)
            .ok_or_else(|| format!("`{text}` is more than a hundred years"))?;
        rest = tail;
    }
    Ok(Duration::from_millis(millis))
}

/// `number` (digits, maybe with a fraction) times `size`, when that is a whole number.
fn scaled(number: &str, size: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.len() > 9 || fraction.contains('.') {
        return None;
    }
    let whole: u64 = whole.parse().ok()?;
    let scale = 10_u64.pow(u32::try_from(fraction.len()).ok()?);
    let part = fraction.parse::<u64>().ok()?.checked_mul(size)?;
    if part % scale != 0 {
        return None;
    }
    Some(whole.saturating_mul(size).saturating_add(part / scale))
}

/// Writes what [`parse_duration`] reads back, in the greatest units that fit.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let mut millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if millis == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for (unit, size) in UNITS {
        if millis >= size {
            text += &format!("{}{unit}", millis / size);
            millis %= size;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_read_with_their_units() {
        for (text, millis) in [
            ("250ms", 250),
            ("30s", 30_000),
            ("5m", 300_000),
            ("1h", 3_600_000),
            ("90d", 7_776_000_000),
            ("1h30m", 5_400_000),
            ("1.5s", 1_500),
            ("0s", 0),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused_with_an_example() {
        for text in [
            "",
            "30",
            "s",
            "-5s",
            "5 s",
            "5S",
            "1m1h",
            "5s5s",
            "1.s",
            ".5s",
            "0.5ms",
            "1..5s",
            "5sec",
            "٣s",
            "99999999999999999999s",
        ] {
            let error = parse_duration(text).unwrap_err();
            assert!(error.contains(&format!("`{text}`")), "{error}");
        }
        assert_eq!(parse_duration("40000d").unwrap_err(), "`40000d` is more than a hundred years");
    }

    #[test]
    fn an_instant_is_rfc_3339() {
        let at = Timestamp::parse("2027-01-01T01:00:00+01:00").unwrap();
        assert_eq!(at, Timestamp::from_secs(1_798_761_600));
        assert_eq!(at.to_string(), "2027-01-01T00:00:00Z");
        assert_eq!(Timestamp::MAX.to_string(), "9000-01-01T00:00:00Z");
        for text in ["", "2027-01-01", "2027-13-01T00:00:00Z", "1969-12-31T23:59:59Z", "9500-01-01T00:00:00Z", "soon"] {
            assert!(Timestamp::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_time_zone_is_found_or_the_nearest_is_named() {
        assert_eq!(TimeZone::parse("Europe/Berlin").unwrap().name(), "Europe/Berlin");
        assert_eq!(TimeZone::parse("UTC").unwrap(), TimeZone::UTC);
        let error = TimeZone::parse("Europe/Berln").unwrap_err();
        assert_eq!(error, "`Europe/Berln` is no IANA time zone (did you mean `Europe/Berlin`?)");
    }

    proptest! {
        #[test]
        fn a_duration_survives_being_written(millis in 0..MAX_MILLIS) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }

        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let _ = (parse_duration(&text), Timestamp::parse(&text));
        }
    }
}
