//! Shares of requests.

/// From nothing to all, in hundredths of a percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Percent(u16);

impl Percent {
    /// Everything.
    pub const ALL: Self = Self(10_000);
    /// Rolls of the dice: [`Self::takes`] a number below this.
    pub const ROLLS: u16 = 10_000;

    /// Reads `0` to `100`, with up to two decimals.
    ///
    /// # Errors
    /// A sentence that shows the right form.
    pub fn parse(text: &str) -> Result<Self, String> {
        let share = hundredths(text).and_then(|it| u16::try_from(it).ok()).filter(|it| *it <= Self::ALL.0);
        share.map(Self).ok_or_else(|| format!("`{text}` is no percentage: 0 to 100, with up to two decimals"))
    }

    /// Whether a roll from 0 to [`Self::ROLLS`], which is not reached, is among them.
    #[must_use]
    pub const fn takes(self, roll: u16) -> bool {
        roll < self.0
    }
}

/// A number below 1,000 with up to two decimals, in hundredths.
pub(crate) fn hundredths(text: &str) -> Option<u32> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let is_number =
        |digits: &str, most| (1..=most).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    if !is_number(whole, 3) || !is_number(fraction, 2) {
        return None;
    }
    format!("{whole}{fraction:0<2}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentage_has_two_decimals_at_most() {
        for (text, hundredths) in
            [("0", 0), ("0.01", 1), ("0.5", 50), ("12.34", 1_234), ("100", 10_000), ("100.00", 10_000)]
        {
            assert_eq!(Percent::parse(text), Ok(Percent(hundredths)), "{text}");
        }
        for text in ["", ".", "1.", ".5", "-1", "+1", "100.01", "101", "1.234", "1e1", "0100", "5%", "\u{661}"] {
            assert!(Percent::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn so_many_rolls_are_taken() {
        let taken = |text: &str| (0..Percent::ROLLS).filter(|roll| Percent::parse(text).unwrap().takes(*roll)).count();
        assert_eq!((taken("0"), taken("0.01"), taken("12.5"), taken("100")), (0, 1, 1_250, 10_000));
    }
}
