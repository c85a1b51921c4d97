//! The limits: those in force, and those deleted within their window.

use std::collections::{BTreeSet, HashMap};

use super::{
    Ledger, Unprotected,
    accounts::Account,
    change::Changing,
    slab::Slab,
    standing::{NextWindow, Roster},
};
use crate::{Rule, slide::by_any_clock};
use tollgate_model::{LogIndex, Name, Timestamp};

/// A limit in one form: a change of unit or of `per` makes another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RuleState {
    pub(super) rule: Rule,
    /// The version from which on the form has been in force: charges computed for an older one are stale.
    pub(super) since: u64,
    /// The version from which on it has been in its mode: a hold or a lease from before is of the other one.
    pub(super) mode_since: u64,
    pub(super) window_start: u64,
    pub(super) window_end: u64,
    /// Names the window that accounts and holds are of. Unique in the ledger, so a label never fits another account
    /// that took over a number. Where no window turns, accounts have later ones of their own.
    pub(super) epoch: u64,
    /// Deleted at this index: no new hold.
    pub(super) deleted_at: Option<u64>,
    /// It was lowered: the age at which nobody spends by what it was, whether they hear of it or not; 0: it was not.
    pub(super) lowered_until: u64,
    /// What went past it while nobody could decide.
    pub(super) unprotected: Unprotected,
    /// Who has a standing share of each account in the window that is open.
    pub(super) roster: Roster,
    /// The window after it, once it is settled who has a share of that.
    pub(super) next: Option<Box<NextWindow>>,
    /// What nodes may have taken of accounts that had no record when the limit began to slide.
    pub(super) before: Option<Before>,
    /// Each account has a window of its own (`apart.rs`).
    pub(super) parted: bool,
    /// How it will count (`change.rs`); `rule` is what it is until then.
    pub(super) changing: Option<Box<Changing>>,
}

/// Use that is counted in accounts that are made later, as nobody knows where it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Before {
    pub(super) units: u64,
    /// The age as of which it counts, and at which it no longer does.
    pub(super) at: u64,
    pub(super) until: u64,
}

impl RuleState {
    /// The limit as it was last stated, in effect or not.
    pub(super) fn accepted(&self) -> &Rule {
        self.changing.as_ref().map_or(&self.rule, |changing| &changing.rule)
    }

    /// The oldest version that a charge may be computed for.
    pub(super) fn oldest(&self) -> u64 {
        self.since.max(self.mode_since)
    }

    /// Whether an account with this label is of the window that is open.
    pub(super) fn is_current(&self, epoch: u64) -> bool {
        epoch >= self.epoch
    }

    /// Whether an account is of a window that is open at `now`.
    pub(super) fn is_open(&self, account: &Account, now: u64) -> bool {
        self.is_current(account.epoch) && now < self.window_of(account).1
    }

    /// From when to when the window of an account is.
    pub(super) fn window_of(&self, account: &Account) -> (u64, u64) {
        if self.parted { account.rare().window } else { (self.window_start, self.window_end) }
    }

    /// When it is over with the limit, should it be deleted: where accounts come and go alone, with the last of them.
    fn ends_at(&self) -> Option<u64> {
        match (self.rule.turns(), self.parted) {
            (true, false) => Some(self.over_at()),
            (true, true) => self.has_old_shares().then_some(self.window_end),
            (false, _) => None,
        }
    }

    fn is_form_of(&self, rule: &Rule) -> bool {
        self.rule.unit == rule.unit && self.rule.per == rule.per
    }
}

#[derive(Debug, Default)]
#[cfg_attr(any(test, feature = "seeded-bugs"), derive(Clone))]
pub(super) struct Rules {
    pub(super) slab: Slab<RuleState>,
    by_limit: HashMap<String, Vec<u32>>,
    /// Deleted ones whose window is still open, by its end.
    pub(super) buried: BTreeSet<(u64, u32)>,
    /// Those that will count in another way.
    pub(super) changing: BTreeSet<u32>,
}

impl Rules {
    pub(super) fn get(&self, id: u32) -> &RuleState {
        self.slab.get(id).expect("accounts keep their rule")
    }

    fn forms(&self, limit: &str) -> impl Iterator<Item = (u32, &RuleState)> {
        self.by_limit.get(limit).into_iter().flatten().map(|id| (*id, self.get(*id)))
    }

    /// The form of the limit that is in force.
    pub(super) fn live(&self, limit: &str) -> Option<u32> {
        self.forms(limit).find(|(_, state)| state.deleted_at.is_none()).map(|(id, _)| id)
    }

    /// The form that was in force at `version`, deleted or not.
    pub(super) fn form_at(&self, limit: &str, version: u64) -> Option<u32> {
        let was = |state: &RuleState| (state.since..=state.rule.version.0).contains(&version);
        self.forms(limit).find(|(_, state)| was(state)).map(|(id, _)| id)
    }

    /// The form that this window is of: the one that is open, or the one after it.
    pub(super) fn of_epoch(&self, limit: &str, epoch: u64) -> Option<u32> {
        let is_of = |state: &RuleState| state.epoch == epoch || state.next.iter().any(|next| next.epoch == epoch);
        self.forms(limit).find(|(_, state)| is_of(state)).map(|(id, _)| id)
    }

    /// When the last form of the limit was deleted, if that is still known.
    pub(super) fn deleted_at(&self, limit: &str) -> Option<u64> {
        self.forms(limit).filter_map(|(_, state)| state.deleted_at).max()
    }

    fn form(&self, rule: &Rule) -> Option<u32> {
        self.forms(&rule.limit).find(|(_, state)| state.is_form_of(rule)).map(|(id, _)| id)
    }

    pub(super) fn in_force(&self) -> Vec<Rule> {
        let live = self.slab.iter().filter(|(_, state)| state.deleted_at.is_none());
        let mut rules: Vec<Rule> = live.map(|(_, state)| state.accepted().clone()).collect();
        rules.sort_by(|one, other| one.limit.cmp(&other.limit));
        rules
    }

    fn insert(&mut self, state: RuleState) -> u32 {
        let limit = state.rule.limit.to_string();
        let id = self.slab.insert(state);
        self.by_limit.entry(limit).or_default().push(id);
        id
    }

    /// Takes in a row; `now` is the time of the last entry.
    pub(super) fn restore(&mut self, id: u32, state: RuleState, now: u64) {
        if let Some(end) = state.ends_at().filter(|end| state.deleted_at.is_some() && *end > now) {
            self.buried.insert((end, id));
        }
        self.changing.extend(state.changing.is_some().then_some(id));
        self.by_limit.entry(state.rule.limit.to_string()).or_default().push(id);
        self.slab.put(id, state);
    }

    fn remove(&mut self, id: u32) {
        let Some(state) = self.slab.remove(id) else { return };
        self.changing.remove(&id);
        if let Some(ids) = self.by_limit.get_mut(&*state.rule.limit) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.by_limit.remove(&*state.rule.limit);
            }
        }
    }
}

/// Start and end of the window that `now` is in.
pub(super) fn window_around(now: u64, rule: &Rule) -> (u64, u64) {
    if !rule.turns() {
        return (now, u64::MAX);
    }
    let (start, end) = rule.window.bounds(Timestamp(now), &rule.time_zone);
    (start.0, end.0)
}

impl Ledger {
    pub(super) fn put_rule(&mut self, now: u64, rule: Rule) {
        let form = self.rules.form(&rule);
        if let Some(live) = self.rules.live(&rule.limit).filter(|live| Some(*live) != form) {
            self.bury(now, live, rule.version);
        }
        match form {
            Some(id) => self.change_rule(now, id, rule),
            None => self.create_rule(now, rule),
        }
    }

    fn create_rule(&mut self, now: u64, rule: Rule) {
        // Where each account has its own, the limit has none.
        let parted = rule.apart && rule.turns();
        let (window_start, window_end) = if parted { (now, u64::MAX) } else { window_around(now, &rule) };
        let since = rule.version.0;
        let epoch = self.next_epoch();
        let (mode_since, roster) = (since, self.freeze(now, &rule, 0));
        let state = RuleState {
            rule,
            since,
            mode_since,
            window_start,
            window_end,
            epoch,
            deleted_at: None,
            lowered_until: 0,
            unprotected: Unprotected::default(),
            roster,
            next: None,
            before: None,
            parted,
            changing: None,
        };
        let id = self.rules.insert(state);
        self.dirty.rules.push(id);
    }

    fn change_rule(&mut self, now: u64, id: u32, rule: Rule) {
        // In its old form first: what is of a window that has passed is not carried over.
        self.roll(now, id);
        let (age, until_known) = (self.age(), by_any_clock(self.nodes.longest_isolation()));
        let state = self.rules.slab.get_mut(id).expect("the form was just found");
        let lowered = rule.capacity < state.rule.capacity;
        if lowered || state.lowered_until > age {
            state.lowered_until = age.saturating_add(until_known); // of several edits the last becomes effective
        }
        let flipped = rule.shadow != state.rule.shadow;
        if flipped {
            state.mode_since = rule.version.0;
        }
        #[cfg(any(test, feature = "seeded-bugs"))]
        let remade = state.deleted_at.is_some();
        if state.deleted_at.take().is_some() {
            self.rules.buried.remove(&(state.ends_at().unwrap_or(now), id));
            state.since = rule.version.0;
        }
        let was = std::mem::replace(&mut state.rule, rule);
        let same_window = was.window == state.rule.window;
        let counts_alike = was.span() == state.rule.span();
        if counts_alike {
            state.changing = None;
            self.rules.changing.remove(&id);
        }
        if !counts_alike {
            self.begin_change(id, &was);
        } else if state.parted {
            self.change_windows_apart(now, id, &was);
        } else if !same_window || (was.time_zone != state.rule.time_zone && !state.rule.apart) {
            (state.window_start, state.window_end) = window_around(now, &state.rule);
            // Who does not know yet goes by the old one: what is drawn of the next window then counts in the one that follows.
            if let Some(next) = &mut state.next {
                (next.start, next.end) = window_around(state.window_end, &state.rule);
            }
            state.shut_rosters();
        }
        self.part_if_due(now, id, 0);
        self.dirty.rules.push(id);
        if lowered || flipped {
            self.rules.slab.get_mut(id).expect("it was there a line ago").shut_rosters();
            self.recall_rule(now, id);
        } else {
            self.reconsider_rule(id);
        }
        #[cfg(any(test, feature = "seeded-bugs"))]
        self.go_wrong_after_an_edit(id, remade);
        #[cfg(any(test, feature = "seeded-bugs"))]
        self.share_anew(id);
    }

    pub(super) fn bury_rules(&mut self, at: LogIndex, now: u64, limit: &Name) {
        if let Some(live) = self.rules.live(limit) {
            self.roll(now, live);
            self.bury(now, live, at);
        }
    }

    fn bury(&mut self, now: u64, id: u32, at: LogIndex) {
        let state = self.rules.slab.get_mut(id).expect("only what is in force is buried");
        state.deleted_at = Some(at.0);
        state.changing = None;
        self.rules.changing.remove(&id);
        state.shut_rosters();
        // Where no window turns, it goes with its last account.
        let end = state.ends_at().unwrap_or(now);
        self.rules.buried.insert((end, id));
        self.dirty.rules.push(id);
        self.recall_rule(now, id);
    }

    /// Turns the window of a limit when its end has come.
    pub(super) fn roll(&mut self, now: u64, id: u32) {
        if now < self.rules.get(id).window_end {
            return self.freeze_ahead(now, id);
        }
        if self.rules.get(id).parted && !self.rules.get(id).comes_together() {
            return self.end_old_shares(now, id);
        }
        let records = self.accounts.count(id);
        let state = self.rules.slab.get_mut(id).expect("it was there a line ago");
        let is_deleted = state.deleted_at.is_some();
        if is_deleted {
            self.rules.buried.remove(&(state.over_at(), id));
        }
        let next = state.next.take().filter(|next| now < next.end);
        let next = next.map_or_else(|| self.window_from(now, id, records), |next| *next);
        let state = self.rules.slab.get_mut(id).expect("it was there a line ago");
        (state.window_start, state.window_end) = (next.start, next.end);
        (state.epoch, state.roster, state.parted) = (next.epoch, next.roster, false);
        if is_deleted {
            self.rules.buried.insert((state.over_at(), id));
        }
        self.dirty.rules.push(id);
        self.part_if_due(now, id, 0);
    }

    fn window_from(&mut self, now: u64, id: u32, records: usize) -> NextWindow {
        let state = self.rules.get(id);
        let (start, end) = window_around(now, &state.rule);
        let roster = match state.deleted_at {
            None if state.changing.is_none() => self.freeze(now, &state.rule, records),
            _ => Roster::default(),
        };
        NextWindow { epoch: self.next_epoch(), start, end, roster }
    }

    pub(super) fn next_epoch(&mut self) -> u64 {
        let epoch = self.meta.next_epoch;
        self.meta.next_epoch += 1;
        epoch
    }

    /// Deleted limits whose window has ended go as soon as their last account has gone.
    pub(super) fn forget_buried(&mut self, now: u64) {
        while let Some(&(end, id)) = self.rules.buried.first().filter(|(end, _)| *end <= now) {
            self.rules.buried.remove(&(end, id));
            self.forget_if_empty(now, id);
        }
    }

    pub(super) fn forget_if_empty(&mut self, now: u64, id: u32) {
        let state = self.rules.get(id);
        let is_over = state.ends_at().is_none_or(|end| end <= now);
        if state.deleted_at.is_some() && is_over && self.accounts.count(id) == 0 {
            self.rules.remove(id);
            self.dirty.rules.push(id);
        }
    }
}
