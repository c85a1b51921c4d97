//! Rounding: a line of a closed bill is the one place where it is done.

use tollgate_model::{Currency, Money};

/// Currencies whose smallest coin is no hundredth (ISO 4217), with its decimal places.
const PLACES: [(&str, u32); 26] = [
    ("BHD", 3),
    ("BIF", 0),
    ("CLF", 4),
    ("CLP", 0),
    ("DJF", 0),
    ("GNF", 0),
    ("IQD", 3),
    ("ISK", 0),
    ("JOD", 3),
    ("JPY", 0),
    ("KMF", 0),
    ("KRW", 0),
    ("KWD", 3),
    ("LYD", 3),
    ("OMR", 3),
    ("PYG", 0),
    ("RWF", 0),
    ("TND", 3),
    ("UGX", 0),
    ("UYI", 0),
    ("UYW", 4),
    ("VND", 0),
    ("VUV", 0),
    ("XAF", 0),
    ("XOF", 0),
    ("XPF", 0),
];

/// The nearest amount that can be paid; of two that are as near the even one.
#[must_use]
pub(crate) fn rounded(amount: Money, currency: Currency) -> Money {
    let places = PLACES.iter().find(|(code, _)| *code == currency.as_str()).map_or(2, |(_, places)| *places);
    let coin = Money::ONE.0 / 10_i128.pow(places);
    let (below, rest) = (amount.0.div_euclid(coin), amount.0.rem_euclid(coin));
    let is_up = match (rest * 2).cmp(&coin) {
        std::cmp::Ordering::Less => false,
        std::cmp::Ordering::Equal => below % 2 != 0,
        std::cmp::Ordering::Greater => true,
    };
    // An amount so great that it has no next coin stays what it is.
    Money(below.saturating_add(i128::from(is_up)).checked_mul(coin).unwrap_or(amount.0))
}

#[cfg(test)]
mod tests {
    use num_bigint::BigInt;
    use proptest::prelude::*;

    use super::*;

    fn of(amount: &str, currency: &str) -> String {
        rounded(Money::parse(amount).unwrap(), Currency::parse(currency).unwrap()).to_string()
    }

    #[test]
    fn halves_go_to_the_even_coin() {
        for (amount, wanted) in [
            ("0.005", "0"),
            ("0.015", "0.02"),
            ("0.025", "0.02"),
            ("0.025000000001", "0.03"),
            ("0.024999999999", "0.02"),
            ("-0.005", "0"),
            ("-0.015", "-0.02"),
            ("-0.025", "-0.02"),
            ("-0.025000000001", "-0.03"),
            ("12", "12"),
        ] {
            assert_eq!(of(amount, "USD"), wanted, "{amount}");
        }
        assert_eq!((of("2.5", "JPY"), of("3.5", "JPY"), of("0.0015", "KWD")), ("2".into(), "4".into(), "0.002".into()));
        let most = Money(i128::MAX);
        assert!((rounded(most, Currency::parse("USD").unwrap()).0 - most.0).abs() <= 10_000_000_000);
    }

    proptest! {
        #[test]
        fn it_is_never_off_by_more_than_half_a_coin(
            pico in any::<i128>().prop_map(|it| it / 4),
            code in prop::sample::select(vec![("USD", 2_u32), ("JPY", 0), ("KWD", 3), ("CLF", 4)]),
        ) {
            let coin = 10_i128.pow(12 - code.1);
            let is = rounded(Money(pico), Currency::parse(code.0).unwrap()).0;
            prop_assert_eq!(is % coin, 0);
            let off = BigInt::from(is) - BigInt::from(pico);
            let twice = if off < BigInt::from(0) { off * -2 } else { off * 2 };
            prop_assert!(twice <= BigInt::from(coin));
            if twice == BigInt::from(coin) {
                prop_assert_eq!(is / coin % 2, 0);
            }
        }
    }
}
