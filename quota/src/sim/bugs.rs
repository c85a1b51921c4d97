//! Ways to be wrong that the simulator must find, by name.
//!
//! Which of them stand for which variant of QUOTA.md §3.9 and §3.14 is in `tests/variants.rs`, row by row, with those that
//! are not here and why.

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
    /// Reports are differences: each is of what has happened since the last.
    Deltas,
    /// Requests go out before the journal has them on the disk.
    SendsBeforeTheJournal,
    /// The log hears of ends before the journal has them on the disk.
    SaysBeforeTheJournal,
    /// What is not known to be spent is free again after a crash.
    RecoversNothing,
    /// An incarnation is closed before what its journal tells is said.
    ClosesBeforeItRecovers,
    /// A stream draws on more of its hold before the journal has that on the disk.
    GrowsBeforeTheJournal,
    /// A stream that a crash has ended counts as it had grown when its progress was last written: by its first part.
    OrphansAtTheCheckpoint,
    /// The first part of a long recovery says already that this is all.
    DoneFirst,
    /// What nobody was billed for is free before the bills of its entry are taken in.
    ClosesBeforeItBills,
    /// Bills don't say who has spent what they are for.
    BillsNobody,
    /// A correction takes off what is in the hands of nodes, too.
    TakesWhatIsHeld,
}

impl Wrong {
    pub(super) fn ledger(self) -> Option<LedgerBug> {
        match self {
            Self::Ledger(bug) => Some(bug),
            Self::Deltas => Some(LedgerBug::AddsDeltas),
            _ => None,
        }
    }

    pub(super) fn book(self) -> Option<BookBug> {
        match self {
            Self::Book(bug) => Some(bug),
            Self::Deltas => Some(BookBug::ReportsDeltas),
            _ => None,
        }
    }
}

/// Its name, and the invariant that shows it.
const ALL: [(&str, Wrong, &str); 68] = [
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
    ("time-out-frees-leases", Wrong::Ledger(LedgerBug::TimeOutFreesLeases), "I2"),
    ("deltas", Wrong::Deltas, "I4"),
    ("orphans-twice", Wrong::Ledger(LedgerBug::OrphansTwice), "I1"),
    ("forgets-orphans", Wrong::Ledger(LedgerBug::ForgetsOrphans), "I7"),
    ("settles-into-what-is-open", Wrong::Ledger(LedgerBug::SettlesIntoWhatIsOpen), "I1"),
    ("late-settles-are-lost", Wrong::Ledger(LedgerBug::LateSettlesAreLost), "I6"),
    ("void-loses-units", Wrong::Ledger(LedgerBug::VoidLosesUnits), "I1"),
    ("expiry-frees", Wrong::Ledger(LedgerBug::ExpiryFrees), "I2"),
    ("ignores-holds", Wrong::Ledger(LedgerBug::IgnoresHolds), "I3"),
    ("clamps-truth", Wrong::Ledger(LedgerBug::ClampsTruth), "I4"),
    ("holds-what-fits", Wrong::Ledger(LedgerBug::HoldsWhatFits), "I5"),
    ("repeats-count", Wrong::Ledger(LedgerBug::RepeatsCount), "I6"),
    ("reports-add", Wrong::Ledger(LedgerBug::ReportsAdd), "I4"),
    ("recovers-twice", Wrong::Ledger(LedgerBug::RecoversTwice), "I6"),
    ("sends-before-the-journal", Wrong::SendsBeforeTheJournal, "I4"),
    ("says-before-the-journal", Wrong::SaysBeforeTheJournal, "I6"),
    ("recovers-nothing", Wrong::RecoversNothing, "I3"),
    ("ignores-isolation", Wrong::Book(BookBug::IgnoresIsolation), "I8"),
    ("ignores-ceilings", Wrong::Book(BookBug::IgnoresCeilings), "I3"),
    ("ages-at-the-edge", Wrong::Ledger(LedgerBug::AgesAtTheEdge), "I3"),
    ("suspense-at-once", Wrong::Ledger(LedgerBug::SuspenseAtOnce), "I3"),
    ("recovered-is-fresh", Wrong::Ledger(LedgerBug::RecoveredIsFresh), "I3"),
    ("recovered-is-old", Wrong::Ledger(LedgerBug::RecoveredIsOld), "I3"),
    ("moves-used-share", Wrong::Book(BookBug::ReturnsWhatIsUsed), "I3"),
    ("permit-expires", Wrong::Ledger(LedgerBug::PermitExpires), "I3"),
    ("voids-what-is-not-journaled", Wrong::Ledger(LedgerBug::VoidsWhatIsNotJournaled), "I4"),
    ("lost-at-once", Wrong::Ledger(LedgerBug::LostAtOnce), "I3"),
    ("void-keeps-its-slot", Wrong::Ledger(LedgerBug::VoidKeepsItsSlot), "I1"),
    ("draws-on-credit", Wrong::Book(BookBug::DrawsOnCredit), "I2"),
    ("ceiling-beside-returns", Wrong::Ledger(LedgerBug::CeilingBesideReturns), "I1"),
    ("closes-before-it-recovers", Wrong::ClosesBeforeItRecovers, "I6"),
    ("recovers-what-slides", Wrong::Ledger(LedgerBug::RecoversWhatSlides), "I3"),
    ("forgets-unprotected", Wrong::Ledger(LedgerBug::ForgetsUnprotected), "I6"),
    ("charges-unprotected", Wrong::Ledger(LedgerBug::ChargesUnprotected), "I4"),
    ("allows-from-leases", Wrong::Book(BookBug::AllowsFromLeases), "I8"),
    ("grows-before-the-journal", Wrong::GrowsBeforeTheJournal, "I4"),
    ("orphans-at-the-checkpoint", Wrong::OrphansAtTheCheckpoint, "I4"),
    ("shares-follow-the-limit", Wrong::Ledger(LedgerBug::SharesFollowTheLimit), "I4"),
    ("shares-by-demand", Wrong::Ledger(LedgerBug::SharesByDemand), "I2"),
    ("touches-later", Wrong::Book(BookBug::TouchesLater), "I4"),
    ("suspended-share-is-free", Wrong::Ledger(LedgerBug::SuspendedShareIsFree), "I3"),
    ("next-roster-stays", Wrong::Ledger(LedgerBug::NextRosterStays), "I1"),
    ("done-first", Wrong::DoneFirst, "I3"),
    ("purse-times-out", Wrong::Ledger(LedgerBug::PurseTimesOut), "I4"),
    ("purse-keeps-the-unknown", Wrong::Ledger(LedgerBug::PurseKeepsTheUnknown), "I4"),
    ("closes-before-it-bills", Wrong::ClosesBeforeItBills, "I4"),
    ("bills-nobody", Wrong::BillsNobody, "I3"),
    ("takes-what-is-held", Wrong::TakesWhatIsHeld, "I3"),
    ("changes-at-once", Wrong::Ledger(LedgerBug::ChangesAtOnce), "I3"),
    ("moving-forgets-use", Wrong::Ledger(LedgerBug::MovingForgetsUse), "I3"),
    ("parting-forgets-shares", Wrong::Ledger(LedgerBug::PartingForgetsShares), "I2"),
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
