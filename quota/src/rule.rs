//! A limit as the ledger knows it: what is counted, for whom, how much, and over which window.

use tollgate_model::{KeyPart, Limit, LogIndex, Mode, Name, TimeZone, Unit, Window};

/// What the ledger needs of a `Limit`. Whom it applies to is decided where charges are computed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The limit's name.
    pub limit: Name,
    /// Its resource version: the log index of its last change.
    pub version: LogIndex,
    /// What is counted. Together with `limit` and `per` this names the accounts: see [`crate::ledger`] for edits.
    pub unit: Unit,
    /// One account for each combination of these.
    pub per: Vec<KeyPart>,
    /// What each account holds in a window.
    pub capacity: u64,
    /// How long a window is; windows begin on the clock.
    pub window: Window,
    /// Where windows begin.
    pub time_zone: TimeZone,
    /// It counts what was used, and nothing is held for it or refused by it.
    pub shadow: bool,
}

impl Rule {
    /// The rule that a limit states, with windows on the clock of `time_zone`.
    #[must_use]
    pub fn of(limit: &Limit, time_zone: TimeZone) -> Self {
        Self {
            limit: limit.name.clone(),
            version: limit.version,
            unit: limit.unit,
            per: limit.per.clone(),
            capacity: limit.limit,
            window: limit.window,
            time_zone,
            shadow: limit.mode == Mode::Shadow,
        }
    }
}
