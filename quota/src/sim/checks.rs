//! Which invariants a run looks at: all of them, unless it is to be shown what one of them alone is good for.

use crate::invariants::ignore;

/// All there are, and that replicas are the same to the bit.
const NAMES: [&str; 9] = ["I1", "I2", "I3", "I4", "I5", "I6", "I7", "I8", "same"];

/// Some invariants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checks(u16);

impl Checks {
    /// Every one.
    pub const ALL: Self = Self((1 << NAMES.len()) - 1);
    /// None at all.
    pub const NONE: Self = Self(0);

    /// Their names.
    pub fn names() -> impl Iterator<Item = &'static str> {
        NAMES.into_iter()
    }

    /// These, and the one of this name; none when there is no such.
    #[must_use]
    pub fn and(self, name: &str) -> Option<Self> {
        Some(Self(self.0 | Self::bit(name)?))
    }

    /// These, without the one of this name; none when there is no such.
    #[must_use]
    pub fn without(self, name: &str) -> Option<Self> {
        Some(Self(self.0 & !Self::bit(name)?))
    }

    fn bit(name: &str) -> Option<u16> {
        NAMES.iter().position(|known| *known == name).map(|at| 1 << at)
    }

    /// Runs something that looks at these alone.
    pub(super) fn while_running<T>(self, run: impl FnOnce() -> T) -> T {
        let off = NAMES.into_iter().enumerate().filter(|(at, _)| self.0 >> at & 1 == 0).map(|(_, name)| name);
        ignore(off.collect(), run)
    }
}
