//! From when to when.

use jiff::tz::TimeZone;
use tollgate_model::Timestamp;

/// From `from` (the beginning of the month when empty) to `to` (now when empty).
///
/// # Errors
/// A sentence: a time that is none, or a range that ends before it begins.
pub(super) fn range(from: &str, to: &str, now: Timestamp) -> Result<(Timestamp, Timestamp), String> {
    let read = |field: &str, text: &str| Timestamp::parse(text).map_err(|wrong| format!("{field}: {wrong}"));
    let from = if from.is_empty() { month_of(now) } else { read("from", from)? };
    let to = if to.is_empty() { now } else { read("to", to)? };
    if from > to { Err(format!("from: {from} is after {to}")) } else { Ok((from, to)) }
}

/// When the month began, in UTC.
fn month_of(now: Timestamp) -> Timestamp {
    let now = i64::try_from(now.0).ok().and_then(|us| jiff::Timestamp::from_microsecond(us).ok());
    let first = now.and_then(|at| at.to_zoned(TimeZone::UTC).first_of_month().ok()?.start_of_day().ok());
    first.and_then(|at| u64::try_from(at.timestamp().as_microsecond()).ok()).map_or(Timestamp(0), Timestamp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_this_month_until_now_unless_it_says_otherwise() {
        let at = |text: &str| Timestamp::parse(text).unwrap();
        let now = at("2026-11-21T08:30:00.5Z");
        assert_eq!(range("", "", now).unwrap(), (at("2026-11-01T00:00:00Z"), now));
        let (from, to) = ("2026-11-20T10:59:59Z", "2026-11-20T11:00:00+01:00");
        assert_eq!(range(from, "2026-11-20T11:00:00Z", now).unwrap(), (at(from), at("2026-11-20T11:00:00Z")));
        assert!(range(from, to, now).unwrap_err().starts_with("from: 2026-11-20T10:59:59Z is after"));
        assert!(range("2026-11-22T00:00:00Z", "", now).is_err());
        assert!(range("", "tomorrow", now).unwrap_err().starts_with("to: `tomorrow`"));
    }
}
