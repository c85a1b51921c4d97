//! Ways for the ledger to be wrong, to prove that the checks would see it. Not in a build without `seeded-bugs`.

use tollgate_model::LogIndex;
use tollgate_proto::state::v1::{Frame, Hold, Outcome, Report, ShadowCharge, Usage, record::Kind};

use super::{Ledger, accounts::Account, apply::join, holds::actual, leases::Lease};

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
    /// Reports are what has happened since the last one, and a message that comes twice counts twice.
    AddsDeltas,
    /// What a node has in hand is free once it has said nothing for the time of a recall.
    TimeOutFreesLeases,
    /// What a dead incarnation had of a purse is free in time, as a permit is.
    PurseTimesOut,
    /// What nobody was billed for stays spent.
    PurseKeepsTheUnknown,
    /// What a dead incarnation held stays held.
    ForgetsOrphans,
    /// A hold that ends late moves what it held in the window that is open by then.
    SettlesIntoWhatIsOpen,
    /// A settlement that comes after the deadline changes nothing.
    LateSettlesAreLost,
    /// What a dead incarnation held is consumed twice.
    OrphansTwice,
    /// What a dead incarnation had in hand is free at once.
    OpenFreesLeases,
    /// Says no while others still have to give back.
    RefusesWhileRecalling,
    /// A raise counts what is used, and forgets what is leased.
    RaiseForgetsLeases,
    /// A limit made again begins anew, whatever its tombstone says.
    RemadeBeginsAnew,
    /// A sliding limit's use in the log is forgotten at the edge of a window on the clock.
    AgesAtTheEdge,
    /// What a dead incarnation had of a sliding limit, or of permits, is free before it can have aged.
    SuspenseAtOnce,
    /// What a journal tells was used of a sliding lease is fresh at once.
    RecoveredIsFresh,
    /// What a journal tells was used of a sliding lease has nearly aged when it is told.
    RecoveredIsOld,
    /// A permit is free at its deadline.
    PermitExpires,
    /// Holds of an incarnation that is gone are still granted.
    FencedMayHold,
    /// What its journal does not know never went out, whether or not the journal would know it.
    VoidsWhatIsNotJournaled,
    /// What a lost node had in hand is written off before it is proven dead.
    LostAtOnce,
    /// What nodes have by rule is computed from what the limit holds now.
    SharesFollowTheLimit,
    /// What nodes have by rule of an account is nothing once its requests are found to be great.
    SharesByDemand,
    /// What a dead incarnation had by rule is free at once.
    SuspendedShareIsFree,
    /// A dead incarnation keeps its place on the roster of the next window.
    NextRosterStays,
    /// Ends that an earlier incarnation had said itself count again when its journal tells them.
    RecoversTwice,
    /// What a ceiling says may have been spent counts whole, whatever was given back since.
    CeilingBesideReturns,
    /// What a journal tells of a sliding lease, or of permits, is moved as if a window turned.
    RecoversWhatSlides,
    /// What went past a limit is counted nowhere.
    ForgetsUnprotected,
    /// What went past a limit is counted as used of its account, too.
    ChargesUnprotected,
    /// What a voided request held of a sliding limit stays with its slot until that has aged.
    VoidKeepsItsSlot,
    /// A limit counts in another way at once, and what nodes have in hand counts as used.
    ChangesAtOnce,
    /// A window that moves with its tenant forgets what was used of it.
    MovingForgetsUse,
    /// A limit that parts forgets what nodes have by rule.
    PartingForgetsShares,
}

impl Ledger {
    /// See [`Bug::ExpiryFrees`].
    pub(super) fn free_instead(&mut self, id: u32) {
        let Some(hold) = self.holds.remove(id) else { return };
        for held in hold.charges {
            if let Some(account) = self.accounts.slab.get_mut(held.account).filter(|it| it.epoch == held.epoch) {
                account.held -= held.amount;
                account.give(held.amount);
                self.dirty.accounts.push(held.account);
            }
        }
        self.release_place(hold.node);
    }
}

impl Ledger {
    /// See [`Bug::AgesAtTheEdge`].
    pub(super) fn fits_since_the_edge(&self, account: &Account, amount: u64) -> bool {
        let rule = self.rules.get(account.rule);
        let window = rule.rule.window.longest_us();
        let slots = account.rare().slide.slots.iter();
        let since = slots.filter(|slot| slot.at > self.age() / window * window);
        let taken: u64 = since.map(|slot| slot.used + slot.held + slot.overrun).sum();
        taken + account.leased + account.rare().suspense + amount <= rule.rule.capacity
    }
}

impl Lease {
    /// See [`Bug::AddsDeltas`].
    pub(super) fn and(&self, report: &Report) -> Report {
        Report {
            spent: self.spent + report.spent,
            returned: self.returned + report.returned,
            overrun: self.overrun + report.overrun,
            ..*report
        }
    }

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
    /// See [`Bug::TimeOutFreesLeases`].
    pub(super) fn free_what_is_late(&mut self, now: u64) {
        let late: Vec<u32> = self
            .accounts
            .slab
            .iter()
            .filter(|(_, account)| account.rare().central && account.leased > 0 && now >= account.rare().recall_until)
            .map(|(id, _)| id)
            .collect();
        for id in late {
            if let Some(account) = self.accounts.slab.get_mut(id) {
                account.give(account.leased);
                account.leased = 0;
            }
            for lease in self.leases.of_account(id).filter(|lease| self.is_open(lease)).copied().collect::<Vec<_>>() {
                self.leases.forget(&lease);
            }
            self.dirty.accounts.push(id);
        }
    }

    /// See [`Bug::RaiseForgetsLeases`] and [`Bug::RemadeBeginsAnew`].
    pub(super) fn go_wrong_after_an_edit(&mut self, rule: u32, remade: bool) {
        if self.bug == Some(Bug::RaiseForgetsLeases) {
            for id in self.leased_accounts(rule) {
                if let Some(account) = self.accounts.slab.get_mut(id) {
                    account.give(account.leased);
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

    /// See [`Bug::SharesFollowTheLimit`].
    pub(super) fn share_anew(&mut self, rule: u32) {
        let state = self.rules.get(rule);
        let share = self.freeze(self.meta.last_time_us, &state.rule, 0).share;
        let follows = self.bug == Some(Bug::SharesFollowTheLimit) && state.roster.share > 0;
        if let Some(state) = self.rules.slab.get_mut(rule).filter(|_| follows) {
            state.roster.share = share;
        }
    }

    /// See [`Bug::SharesByDemand`].
    pub(super) fn doubt_shares(&mut self, id: u32) {
        let Some(account) = self.accounts.slab.get_mut(id) else { return };
        let share = self.rules.get(account.rule).roster.share;
        if self.bug == Some(Bug::SharesByDemand) && share > 0 && share < account.ask.saturating_mul(4) {
            account.rare_mut().made = u32::MAX;
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

impl Ledger {
    /// See [`Bug::ForgetsUnprotected`] and [`Bug::ChargesUnprotected`]. Whether it is not counted apart.
    pub(super) fn goes_wrong_with_unprotected(
        &mut self,
        rule: Option<u32>,
        charge: &ShadowCharge,
        usage: &Usage,
        outcome: Outcome,
    ) -> bool {
        if self.bug == Some(Bug::ChargesUnprotected) {
            let account = rule.zip(join(&charge.key)).and_then(|(rule, key)| self.find_account(rule, &key));
            let unit = rule.map(|rule| self.rules.get(rule).rule.unit);
            if let Some((id, unit)) = account.zip(unit) {
                let account = self.accounts.slab.get_mut(id).expect("it was just found");
                let actual = actual(unit, usage, outcome);
                account.used = account.used.saturating_add(actual);
                account.take(actual);
                self.dirty.accounts.push(id);
            }
        }
        self.bug == Some(Bug::ForgetsUnprotected)
    }
}
