//! Ways for the ledger to be wrong, to prove that the checks would see it. Not in a build without `seeded-bugs`.

use tollgate_model::LogIndex;
use tollgate_proto::state::v1::{Frame, Hold, Report, record::Kind};

use super::{Ledger, leases::Lease};

/// Ways to be wrong, one for each invariant: each must be found by the check of that invariant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bug {
    /// I1: a voided hold leaves a unit behind.
    VoidLosesUnits,
    /// I2: a time-out refunds what nobody has reported.
    ExpiryFrees,
    /// I3: what is held is not counted when the next asks.
    IgnoresHolds,
    /// I4: what was used beyond the reservation is forgotten.
    ClampsTruth,
    /// I5: holds in the accounts that have enough, and calls it granted.
    HoldsWhatFits,
    /// I6: a repeated record counts again.
    RepeatsCount,
    /// What a lease reports is added up, as if it were what happened since the last time.
    ReportsAdd,
    /// What a dead incarnation had in hand is free at once.
    OpenFreesLeases,
    /// Says no while others still have to give back.
    RefusesWhileRecalling,
    /// A raise counts what is used, and forgets what is leased.
    RaiseForgetsLeases,
    /// A limit made again begins anew, whatever its tombstone says.
    RemadeBeginsAnew,
    /// Holds of an incarnation that is gone are still granted.
    FencedMayHold,
    /// Ends that an earlier incarnation had said itself count again when its journal tells them.
    RecoversTwice,
}

impl Ledger {
    /// See [`Bug::ExpiryFrees`].
    pub(super) fn free_instead(&mut self, id: u32) {
        let Some(hold) = self.holds.remove(id) else { return };
        for held in hold.charges {
            if let Some(account) = self.accounts.slab.get_mut(held.account).filter(|it| it.epoch == held.epoch) {
                account.held -= held.amount;
                self.dirty.accounts.push(held.account);
            }
        }
        self.release_place(hold.node);
    }
}

impl Lease {
    /// See [`Bug::ReportsAdd`].
    pub(super) fn plus(&self, report: &Report) -> Report {
        let (spent, returned) = (self.spent + report.spent, self.returned + report.returned);
        Report {
            spent: spent.min(self.granted),
            returned: returned.min(self.granted - spent.min(self.granted)),
            ..*report
        }
    }
}

impl Ledger {
    /// See [`Bug::RaiseForgetsLeases`] and [`Bug::RemadeBeginsAnew`].
    pub(super) fn go_wrong_after_an_edit(&mut self, rule: u32, remade: bool) {
        if self.bug == Some(Bug::RaiseForgetsLeases) {
            for id in self.leased_accounts(rule) {
                if let Some(account) = self.accounts.slab.get_mut(id) {
                    account.leased = 0;
                }
                self.drop_leases(id);
            }
        }
        if self.bug == Some(Bug::RemadeBeginsAnew) && remade {
            let epoch = self.next_epoch();
            if let Some(state) = self.rules.slab.get_mut(rule) {
                state.epoch = epoch;
            }
        }
    }

    /// See [`Bug::FencedMayHold`].
    pub(super) fn hold_for_the_fenced(&mut self, at: LogIndex, now: u64, frame: &Frame, fenced: bool) {
        let holds = frame.records.iter().filter_map(|record| match &record.kind {
            Some(Kind::Hold(hold)) => Some(hold),
            _ => None,
        });
        for hold in holds.filter(|_| fenced && self.bug == Some(Bug::FencedMayHold)).collect::<Vec<_>>() {
            // Out of the way of the living one's numbers.
            self.hold(at, now, frame.node, &Hold { request: hold.request | (1 << 63), ..hold.clone() });
        }
    }
}
