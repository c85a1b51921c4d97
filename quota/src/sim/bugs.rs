//! Ways to be wrong that the simulator must find, by name.

use crate::{book::Bug as BookBug, ledger::bugs::Bug as LedgerBug};

/// What is deliberately wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bug(pub(super) Wrong);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wrong {
    Ledger(LedgerBug),
    Book(BookBug),
    /// A process that starts again goes on under its old number.
    SameIncarnation,
    /// Requests go out before the journal has them on the disk.
    SendsBeforeTheJournal,
    /// The log hears of ends before the journal has them on the disk.
    SaysBeforeTheJournal,
    /// What is not known to be spent is free again after a crash.
    RecoversNothing,
}

/// Its name, and the invariant that shows it.
const ALL: [(&str, Wrong, &str); 24] = [
    ("raise-forgets-leases", Wrong::Ledger(LedgerBug::RaiseForgetsLeases), "I1"),
    ("draws-when-central", Wrong::Book(BookBug::DrawsWhenCentral), "I8"),
    ("remade-begins-anew", Wrong::Ledger(LedgerBug::RemadeBeginsAnew), "I3"),
    ("returns-what-is-held", Wrong::Book(BookBug::ReturnsWhatIsHeld), "I2"),
    ("same-incarnation", Wrong::SameIncarnation, "I7"),
    ("returns-and-keeps", Wrong::Book(BookBug::ReturnsAndKeeps), "I3"),
    ("fenced-may-hold", Wrong::Ledger(LedgerBug::FencedMayHold), "I7"),
    ("forgets-the-abandoned", Wrong::Book(BookBug::ForgetsTheAbandoned), "I7"),
    ("settles-into-the-next-window", Wrong::Book(BookBug::SettlesIntoTheNextWindow), "I2"),
    ("settles-by-the-mode-now", Wrong::Book(BookBug::SettlesByTheModeNow), "I5"),
    ("returns-once", Wrong::Book(BookBug::ReturnsOnce), "I7"),
    ("refuses-while-recalling", Wrong::Ledger(LedgerBug::RefusesWhileRecalling), "I7"),
    ("holds-the-whole-path", Wrong::Book(BookBug::HoldsTheWholePath), "I5"),
    ("sums-grants", Wrong::Book(BookBug::SumsGrants), "I7"),
    ("believes-the-replica", Wrong::Book(BookBug::BelievesTheReplica), "I5"),
    ("forgets-empty-leases", Wrong::Book(BookBug::ForgetsEmptyLeases), "I5"),
    ("open-frees-leases", Wrong::Ledger(LedgerBug::OpenFreesLeases), "I3"),
    ("reports-add", Wrong::Ledger(LedgerBug::ReportsAdd), "I4"),
    ("recovers-twice", Wrong::Ledger(LedgerBug::RecoversTwice), "I6"),
    ("sends-before-the-journal", Wrong::SendsBeforeTheJournal, "I3"),
    ("says-before-the-journal", Wrong::SaysBeforeTheJournal, "I6"),
    ("recovers-nothing", Wrong::RecoversNothing, "I3"),
    ("ignores-isolation", Wrong::Book(BookBug::IgnoresIsolation), "I8"),
    ("ignores-ceilings", Wrong::Book(BookBug::IgnoresCeilings), "I3"),
];

impl Bug {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        ALL.into_iter().map(|(_, wrong, _)| Self(wrong))
    }

    /// The one of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::all().find(|bug| bug.name() == name)
    }

    /// What it is called.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.entry().0
    }

    /// The invariant that shows it, sooner or later; others may be seen before.
    #[must_use]
    pub fn breaks(self) -> &'static str {
        self.entry().2
    }

    fn entry(self) -> (&'static str, Wrong, &'static str) {
        ALL.into_iter().find(|(_, wrong, _)| *wrong == self.0).expect("only what is listed is made")
    }
}
