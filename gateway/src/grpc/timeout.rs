//! `grpc-timeout`: how long a caller waits (gRPC over HTTP/2, "Requests").

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

static GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// Of the number.
const MAX_DIGITS: usize = 8;

/// What the headers say. None of what is malformed: the upstream then says so.
pub(super) fn given(headers: &HeaderMap) -> Option<Duration> {
    parse(headers.get(&GRPC_TIMEOUT)?.to_str().ok()?)
}

fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > MAX_DIGITS || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(amount * 3_600),
        "M" => Duration::from_secs(amount * 60),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    })
}

/// Tells the upstream what is left, where the caller has said how long it waits.
pub(crate) fn set_timeout(headers: &mut HeaderMap, left: Duration) {
    if given(headers).is_some()
        && let Ok(value) = HeaderValue::try_from(text(left))
    {
        headers.insert(&GRPC_TIMEOUT, value);
    }
}

/// In the finest unit that its digits have room for; what is left over is not given away.
fn text(left: Duration) -> String {
    let fits = |amount: &u128| *amount < 10_u128.pow(8);
    let units = [(left.as_micros(), 'u'), (left.as_millis(), 'm'), (u128::from(left.as_secs()), 'S')];
    let hours = u128::from(left.as_secs() / 3_600).min(99_999_999);
    let (amount, unit) = units.into_iter().find(|(amount, _)| fits(amount)).unwrap_or((hours, 'H'));
    format!("{amount}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_a_number_of_eight_digits_and_a_unit() {
        for (said, millis) in [
            ("1H", Some(3_600_000)),
            ("2M", Some(120_000)),
            ("3S", Some(3_000)),
            ("99999999m", Some(99_999_999)),
            ("5000u", Some(5)),
            ("5000000n", Some(5)),
            ("0m", Some(0)),
            ("999999999m", None),
            ("m", None),
            ("", None),
            ("1", None),
            ("-1S", None),
            ("1.5S", None),
            ("1s", None),
            ("1é", None),
        ] {
            assert_eq!(parse(said), millis.map(Duration::from_millis), "{said:?}");
        }
    }

    #[test]
    fn what_is_told_is_what_is_left_and_no_more() {
        for (left, said) in [
            (Duration::from_micros(1_500), "1500u"),
            (Duration::from_secs(99), "99000000u"),
            (Duration::from_secs(100), "100000m"),
            (Duration::from_secs(200_000), "200000S"),
            (Duration::from_secs(u64::MAX), "99999999H"),
            (Duration::ZERO, "0u"),
        ] {
            assert_eq!(text(left), said);
            assert!(parse(said).is_some_and(|parsed| parsed <= left));
        }
        let mut none = HeaderMap::new();
        set_timeout(&mut none, Duration::from_secs(1));
        assert!(none.is_empty());
    }
}
