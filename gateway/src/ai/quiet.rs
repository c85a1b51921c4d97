//! Whether a provider is quiet, or this node has only not looked.
//!
//! Nothing read for some time means that nothing was written only if this node read all that time. On a machine that is
//! short of CPU it may not have: whoever reads the socket waits for its turn, as whoever waits for the bytes does. So the
//! time is taken in ticks, and one that was noticed late proves nothing.

use std::time::Duration;

/// One wait for bytes.
pub(super) const TICK: Duration = Duration::from_millis(5);
/// A provider that has written more is heard within so many ticks.
const QUIET_TICKS: u32 = 4;
/// A timer that fires this late was waited for by a node that does not get to its work.
const LATE: Duration = Duration::from_millis(5);

/// How one tick ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tick {
    /// Bytes came.
    Heard,
    /// None came, which was noticed so long after the tick's end.
    Silent { late: Duration },
}

/// The silence so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Silence {
    ticks: u32,
    is_blind: bool,
}

impl Silence {
    pub(super) fn and(self, tick: Tick) -> Self {
        match tick {
            Tick::Heard => Self::default(),
            Tick::Silent { late } if late > LATE => Self { ticks: 0, is_blind: true },
            Tick::Silent { .. } => Self { ticks: self.ticks.saturating_add(1), ..self },
        }
    }

    /// All that the provider has written was read.
    pub(super) fn is_quiet(self) -> bool {
        self.ticks >= QUIET_TICKS
    }

    /// Since bytes last came, this node has looked too late to tell anything.
    pub(super) fn is_blind(self) -> bool {
        self.is_blind
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEARD: Tick = Tick::Heard;
    const ON_TIME: Tick = Tick::Silent { late: Duration::from_millis(1) };
    const JUST_ON_TIME: Tick = Tick::Silent { late: LATE };
    const LATE_ONE: Tick = Tick::Silent { late: Duration::from_millis(6) };
    const STARVED: Tick = Tick::Silent { late: Duration::from_millis(400) };

    #[test]
    fn only_a_silence_that_was_watched_is_quiet() {
        let all = |ticks: &[Tick]| ticks.iter().fold(Silence::default(), |silence, tick| silence.and(*tick));
        for (ticks, quiet, blind) in [
            (&[][..], false, false),
            (&[ON_TIME; 3], false, false),
            (&[ON_TIME; 4], true, false),
            (&[JUST_ON_TIME; 4], true, false),
            (&[ON_TIME, ON_TIME, ON_TIME, HEARD], false, false),
            (&[ON_TIME, ON_TIME, ON_TIME, HEARD, ON_TIME], false, false),
            (&[HEARD, ON_TIME, ON_TIME, ON_TIME, ON_TIME], true, false),
            (&[STARVED; 9], false, true),
            (&[ON_TIME, ON_TIME, ON_TIME, LATE_ONE], false, true),
            (&[ON_TIME, ON_TIME, ON_TIME, LATE_ONE, ON_TIME], false, true),
            (&[LATE_ONE, ON_TIME, ON_TIME, ON_TIME, ON_TIME], true, true),
            (&[STARVED, HEARD], false, false),
        ] {
            let silence = all(ticks);
            assert_eq!((silence.is_quiet(), silence.is_blind()), (quiet, blind), "{ticks:?}");
        }
    }
}
