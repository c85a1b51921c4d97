//! Amounts: tokens, bytes, money.

use std::fmt;

/// A number of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Tokens(pub u64);

impl fmt::Display for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Exact money, in millionths of a millionth of a currency unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Money(pub i128);

/// Decimal places that are kept.
const PLACES: usize = 12;

/// Digits before the point: far beyond any bill, and a million times that still fits in 128 bits.
const WHOLE_DIGITS: usize = 15;

impl Money {
    /// One currency unit.
    pub const ONE: Self = Self(1_000_000_000_000);

    /// Reads a decimal: `2.50`, `-0.000001`.
    ///
    /// # Errors
    /// A sentence that shows the right form.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a decimal such as 2.50");
        let (sign, digits) = text.strip_prefix('-').map_or((1, text), |digits| (-1, digits));
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
        let all_digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if !all_digits(whole) || !all_digits(fraction) {
            return Err(wrong());
        }
        let fraction = fraction.trim_end_matches('0');
        if fraction.len() > PLACES {
            return Err(format!("`{text}` has more than {PLACES} decimal places"));
        }
        if whole.trim_start_matches('0').len() > WHOLE_DIGITS {
            return Err(format!("`{text}` has more than {WHOLE_DIGITS} digits before the point"));
        }
        let units: i128 = whole.parse().map_err(|_| wrong())?;
        let pico: i128 = format!("{fraction:0<PLACES$}").parse().map_err(|_| wrong())?;
        Ok(Self(sign * (units * Self::ONE.0 + pico)))
    }
}

/// The shortest decimal that is exactly this.
impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let (one, value) = (Self::ONE.0.unsigned_abs(), self.0.unsigned_abs());
        let fraction = format!("{:0PLACES$}", value % one);
        match fraction.trim_end_matches('0') {
            "" => f.pad(&format!("{sign}{}", value / one)),
            fraction => f.pad(&format!("{sign}{}.{fraction}", value / one)),
        }
    }
}

/// An ISO 4217 code.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Currency([u8; 3]);

impl Currency {
    /// Three capital letters; that such a currency exists is not checked, for the list changes.
    ///
    /// # Errors
    /// A sentence that shows the right form.
    pub fn parse(text: &str) -> Result<Self, String> {
        match <[u8; 3]>::try_from(text.as_bytes()) {
            Ok(code) if code.iter().all(u8::is_ascii_uppercase) => Ok(Self(code)),
            _ => Err(format!("`{text}` is not a currency code of three capital letters such as USD")),
        }
    }

    /// The three letters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("a code is made of ASCII letters")
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Units of a size, the greatest first.
const SIZES: [(&str, u64); 7] = [
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("kB", 1_000),
    ("B", 1),
];

/// Reads a whole number of bytes with its unit: `10MiB`, `64KiB`, `500kB`, `512B`.
///
/// # Errors
/// A sentence that shows the right form.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is not a size such as 10MiB, 64KiB or 512B");
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(digits);
    let &(_, size) = SIZES.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(size).ok_or_else(wrong)
}

/// Writes what [`parse_size`] reads back, in the greatest unit that it is a whole number of.
#[must_use]
pub fn format_size(bytes: u64) -> String {
    let (unit, size) =
        SIZES.into_iter().find(|(_, size)| bytes != 0 && bytes.is_multiple_of(*size)).unwrap_or(("B", 1));
    format!("{}{unit}", bytes / size)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_read_with_their_units() {
        for (text, bytes) in [("10MiB", 10 << 20), ("64KiB", 64 << 10), ("512B", 512), ("1MB", 1_000_000), ("0B", 0)] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in
            ["", "10", "MiB", "10mib", "10 MiB", "-1B", "1.5MiB", "99999999999999999999B", "18446744073709551615GiB"]
        {
            assert_eq!(parse_size(text).unwrap_err(), format!("`{text}` is not a size such as 10MiB, 64KiB or 512B"));
        }
    }

    #[test]
    fn money_is_exact_to_twelve_places() {
        for (text, pico) in [
            ("2.50", 2_500_000_000_000),
            ("0.000000000001", 1),
            ("-0.5", -500_000_000_000),
            ("10", 10_000_000_000_000),
            ("1.0000000000000000", 1_000_000_000_000),
        ] {
            assert_eq!(Money::parse(text), Ok(Money(pico)), "{text}");
        }
        assert_eq!(Money(-500_000_000_000).to_string(), "-0.5");
        assert_eq!(Money(0).to_string(), "0");
    }

    #[test]
    fn what_is_no_money_is_refused() {
        for text in ["", ".", "1.", ".5", "1,5", "1e3", "+1", "--1", "0.0000000000001", "1234567890123456", "NaN", "١"]
        {
            assert!(Money::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_currency_is_three_capital_letters() {
        assert_eq!(Currency::parse("USD").unwrap().as_str(), "USD");
        for text in ["", "usd", "US", "USDT", "U$D", "€€€"] {
            assert!(Currency::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn money_and_sizes_survive_being_written(pico in -10_i128.pow(27)..10_i128.pow(27), bytes: u64) {
            prop_assert_eq!(Money::parse(&Money(pico).to_string()), Ok(Money(pico)));
            prop_assert_eq!(parse_size(&format_size(bytes)), Ok(bytes));
        }
    }
}
