//! Ways for the book to be wrong, to prove that the simulator would see it. Not in a build without `seeded-bugs`.

use tollgate_proto::state::v1::Report;

use super::cell::Cell;
use crate::ledger::LeaseView;

/// One way to be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bug {
    /// Goes on drawing from what was called back.
    DrawsWhenCentral,
    /// Gives back what requests hold too.
    ReturnsWhatIsHeld,
    /// Gives back what was used of a sliding lease before it has aged.
    ReturnsWhatIsUsed,
    /// Gives back, and goes on as if it had not.
    ReturnsAndKeeps,
    /// Moves the sums of a window that has turned.
    SettlesIntoTheNextWindow,
    /// Treats what was held by a lease as the log's when its account is central by the time it ends.
    SettlesByTheModeNow,
    /// Gives back once, when it is told to.
    ReturnsOnce,
    /// Takes what the ledger was last told for what it has done.
    BelievesTheReplica,
    /// Adds up grants as they are seen, and begins anew with a snapshot.
    SumsGrants,
    /// Holds the whole of a mixed path in the log, what was drawn included.
    HoldsTheWholePath,
    /// Leaves a hold alone that was granted after its caller had gone.
    ForgetsTheAbandoned,
    /// Reports what has happened since it last did, not all that has happened.
    ReportsDeltas,
    /// Lets go of the sums of a lease that it has nothing of in hand.
    ForgetsEmptyLeases,
    /// Goes on spending, however long nobody has answered.
    IgnoresIsolation,
    /// Spends above what the journal says may be spent.
    IgnoresCeilings,
    /// Spends its leases however long nobody has answered, where a limit says to go on.
    AllowsFromLeases,
    /// Draws as soon as half of it is there.
    DrawsOnCredit,
    /// Spends a standing share before the journal knows of which account it is.
    TouchesLater,
}

impl Cell {
    /// See [`Bug::ReportsDeltas`].
    pub(super) fn since_last(&mut self, report: Report) -> Report {
        let (spent, returned, overrun) =
            std::mem::replace(&mut self.reported, (report.spent, report.returned, report.overrun));
        Report {
            spent: report.spent.saturating_sub(spent), // what slides ages
            returned: report.returned - returned,
            overrun: report.overrun - overrun,
            ..report
        }
    }

    /// See [`Bug::ReturnsWhatIsUsed`].
    pub(super) fn let_go_of_used(&mut self, age: u64) -> u64 {
        let Some(span) = self.span() else { return 0 };
        let used = self.slide.live(span, age).used;
        self.slide.slots.iter_mut().for_each(|slot| slot.used = 0);
        used
    }

    pub(super) fn go_wrong(&mut self, bug: Option<Bug>, known: LeaseView, snapshot: bool) {
        let Some(view) = self.lease.as_mut() else { return };
        match bug {
            Some(Bug::BelievesTheReplica) if snapshot => {
                (self.held, self.spent) = (0, 0);
            }
            Some(Bug::SumsGrants) => {
                if snapshot {
                    self.missed = view.granted.saturating_sub(known.granted);
                }
                view.granted = view.granted.saturating_sub(self.missed);
            }
            _ => {}
        }
    }
}
