//! A limit as the ledger knows it: what is counted, for whom, how much, and over which window.

use tollgate_model::{Algorithm, KeyPart, Limit, LogIndex, Mode, Name, TimeZone, Unit, Window};

use crate::{ledger::overflow_key, slide::Span};

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
    /// How long a window is. Means nothing for concurrency.
    pub window: Window,
    /// Whether windows begin on the clock. Means nothing for concurrency.
    pub algorithm: Algorithm,
    /// Where windows begin.
    pub time_zone: TimeZone,
    /// Each account has windows of its own, in the zone of its tenant; `time_zone` is of those that have none. Only where windows
    /// are of the clock.
    pub apart: bool,
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
            algorithm: limit.algorithm,
            time_zone,
            apart: false,
            shadow: limit.mode == Mode::Shadow,
        }
    }

    /// The values of an account's key; none for the one that keys share.
    pub(crate) fn values<'a>(&self, key: &'a str) -> Vec<&'a str> {
        let parts = self.per.len();
        if parts == 0 || *key == *overflow_key(parts) { Vec::new() } else { key.split('\0').collect() }
    }

    /// Whether a window ends, and everything begins anew: what is of no fixed window goes on for ever.
    pub(crate) fn turns(&self) -> bool {
        self.unit != Unit::Concurrency && self.algorithm == Algorithm::Fixed
    }

    /// A purse: no window ends, what was used is gone, and what it holds in all is what was paid in.
    pub(crate) fn is_purse(&self) -> bool {
        self.unit != Unit::Concurrency && self.algorithm == Algorithm::Never
    }

    /// How long what was used counts, where that is not until a window turns.
    pub(crate) fn span(&self) -> Option<Span> {
        (self.unit != Unit::Concurrency && self.algorithm == Algorithm::Sliding).then(|| Span::of(self.window))
    }
}
