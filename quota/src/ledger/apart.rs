//! Limits whose tenants live in several zones: each account has the windows of its own tenant's clock.
//!
//! **One account** stands for a key whatever the zone of its tenant is, so no edit of a zone, of a tenant or of a consumer ever
//! gives anything twice. What differs is when it turns: a record says from when to when its window is, and
//! begins anew with the first entry about it from its end on. As where no window turns, each has an epoch of its own, so the window
//! is not what names it. An edit of the zone moves both ends in place; what is used, held and out stays, and so does the epoch: leases
//! and holds go on, and end later or sooner.
//!
//! **No standing shares.** Those are of a window by its limit, and here a limit has none. A cold key costs one commit in its window.
//!
//! **Parting.** A limit whose tenants come to live in several zones parts: at its entry every account goes over to the window that its
//! zone has around then, in place, whether or not it has a record. Shares of before are shut, and may still be drawn on by
//! whoever does not know: they stay out of every account until its first own window is over. So a record that is made later for a
//! window that was open then has the label of before; and what it labels is kept until no such share is left, as
//! no key may have that label twice. A limit that has settled on shares of its next window parts when that begins, some moments later.
//!
//! **Coming together.** A limit whose tenants live in one zone again stays parted until the next turn of that zone: its accounts go over
//! to the window that is open there, each by itself, so that labels and old shares mean what they meant before. At a turn that finds no old
//! share, all of them are over, and the limit begins its window with a label that nobody has ever seen.

use std::{fmt, sync::Arc};

use tollgate_model::{KeyPart, TimeZone, Timestamp};

use super::{
    Changes, Ledger, Rule,
    accounts::{Account, overflow_key},
    rules::{RuleState, window_around},
    standing::{ByRule, Roster},
};

/// In which zones accounts live.
pub trait Zones: fmt::Debug + Send + Sync {
    /// The zone of the tenant that an account is of, by the limit's `per` and the values of its key. None where it has no tenant, or
    /// nobody knows it.
    fn zone(&self, per: &[KeyPart], key: &[&str]) -> Option<TimeZone>;

    /// Every zone that somebody lives in.
    fn all(&self) -> Vec<TimeZone>;
}

/// Everybody lives in UTC.
#[derive(Debug)]
pub(super) struct Nowhere;

impl Zones for Nowhere {
    fn zone(&self, _: &[KeyPart], _: &[&str]) -> Option<TimeZone> {
        None
    }

    fn all(&self) -> Vec<TimeZone> {
        Vec::new()
    }
}

/// The window that an account of its own has, or would have.
#[derive(Debug, Clone, Copy)]
pub(super) struct OwnWindow {
    pub(super) start: u64,
    pub(super) end: u64,
    /// It was open when the limit parted: nodes may have shares of it.
    pub(super) of_old: bool,
}

impl RuleState {
    /// Shares of before the limit parted may still be drawn on.
    pub(super) fn has_old_shares(&self) -> bool {
        self.parted && self.roster.share > 0
    }

    /// All accounts have windows of one zone: at the end of those the limit has one window again, if no old share is left.
    pub(super) fn comes_together(&self) -> bool {
        self.parted && !self.rule.apart && self.deleted_at.is_none() && !self.has_old_shares()
    }

    /// Whether a record whose window is over still tells that its label is taken.
    pub(super) fn keeps_label(&self, account: &Account, now: u64) -> bool {
        self.has_old_shares() && account.epoch == self.epoch && now < self.window_end
    }
}

impl Ledger {
    /// From here on accounts live in these zones: said with every change of who lives where, before accounts that have a window
    /// already are moved, and before limits are set.
    pub fn live_in(&mut self, zones: Arc<dyn Zones>) {
        self.zones = zones;
    }

    /// The accounts whose zone is another now, by `per` and key, go over to the windows of that at once, in place.
    pub fn move_accounts(
        &mut self,
        now: Timestamp,
        moved: &dyn Fn(&[KeyPart], &[&str]) -> bool,
        changes: &mut Changes,
    ) {
        let now = self.begin(now);
        let parted = |account: &Account| self.rules.slab.get(account.rule).filter(|rule| rule.parted);
        let has_moved = |account: &Account| {
            let rule = parted(account).filter(|rule| rule.is_open(account, now));
            rule.is_some_and(|rule| moved(&rule.rule.per, &rule.rule.values(self.accounts.keys.text(account.key))))
        };
        let accounts = self.accounts.slab.iter().filter(|(_, account)| has_moved(account));
        for account in accounts.map(|(id, _)| id).collect::<Vec<_>>() {
            self.begin_own_window(account, 0);
        }
        // Accounts without a record have moved as well.
        let with_shares = self.rules.slab.iter().filter(|(_, rule)| rule.has_old_shares()).map(|(id, _)| id);
        for rule in with_shares.collect::<Vec<_>>() {
            self.keep_old_shares(rule, self.last_old_end(now, rule));
        }
        self.finish(now, changes);
    }

    /// The window of an account's own that the last entry is in.
    pub(super) fn own_window(&self, id: u32, key: &str) -> OwnWindow {
        self.own_window_at(self.meta.last_time_us, id, key)
    }

    pub(super) fn own_window_at(&self, now: u64, id: u32, key: &str) -> OwnWindow {
        let state = self.rules.get(id);
        let shares_live = state.has_old_shares() && now < state.window_end;
        // All keys that share it may have been given something by name.
        if shares_live && !state.rule.per.is_empty() && *key == *overflow_key(state.rule.per.len()) {
            return OwnWindow { start: state.window_start, end: state.window_end, of_old: true };
        }
        let (start, end) = self.window_in_zone(state, key, now);
        let of_old = shares_live && start <= state.window_start && end <= state.window_end;
        OwnWindow { start, end, of_old }
    }

    fn window_in_zone(&self, state: &RuleState, key: &str, now: u64) -> (u64, u64) {
        let rule = &state.rule;
        let values = rule.values(key);
        let zone = (rule.apart && !values.is_empty()).then(|| self.zones.zone(&rule.per, &values)).flatten();
        let (start, end) = rule.window.bounds(Timestamp(now), zone.as_ref().unwrap_or(&rule.time_zone));
        (start.0, end.0)
    }

    /// When an account turns that may have no record, or one of a window that is over.
    pub(super) fn window_end_of(&self, now: u64, id: u32, account: Option<&Account>, key: &str) -> u64 {
        let state = self.rules.get(id);
        let open = account.filter(|account| state.is_open(account, now));
        match open {
            _ if !state.parted => state.window_end,
            Some(account) => state.window_of(account).1,
            None => self.own_window_at(now, id, key).end,
        }
    }

    /// Shares of before are of no window any more that is open for this key: what was drawn of one is of a window that is over.
    pub(super) fn is_past_old_shares(&self, id: u32, key: &str) -> bool {
        let state = self.rules.get(id);
        let known = self.accounts.find(id, key).and_then(|id| self.accounts.get(id));
        state.parted && (known.is_some_and(|it| it.epoch > state.epoch) || !self.own_window(id, key).of_old)
    }

    /// What is out by rule of an account without a record.
    pub(super) fn by_rule_untouched(&self, id: u32, key: &str) -> ByRule {
        let state = self.rules.get(id);
        if !state.has_old_shares() {
            return state.by_rule_untouched();
        }
        // Where there is no room for one more, it would be the account that keys share.
        let shares = self.accounts.find(id, key).is_none() && self.accounts.count(id) >= self.room_now(id);
        let shared = overflow_key(state.rule.per.len());
        let key = if shares { &*shared } else { key };
        if self.own_window(id, key).of_old { state.by_rule_untouched() } else { ByRule::default() }
    }

    /// Of an account without a record, what may be held.
    pub(super) fn free_untouched(&self, id: u32, key: &str) -> i128 {
        let state = self.rules.get(id);
        let (all, of_it) = (state.by_rule_untouched(), self.by_rule_untouched(id, key));
        state.free_untouched(self.age()) + i128::from(all.sum()) - i128::from(of_it.sum())
    }

    /// Gives each account a window of its own, once that is to be and nobody may draw on the window after this one by name.
    /// Windows end no sooner than the one that is open `ahead` from now.
    pub(super) fn part_if_due(&mut self, now: u64, id: u32, ahead: u64) {
        let state = self.rules.get(id);
        let is_due = state.rule.apart && state.rule.turns() && !state.parted && state.next.is_none();
        if !is_due || state.deleted_at.is_some() {
            return;
        }
        let last = self.last_end(now.saturating_add(ahead), id);
        let of_rule = self.accounts.slab.iter().filter(|(_, it)| it.rule == id && state.is_current(it.epoch));
        let accounts: Vec<u32> = of_rule.map(|(account, _)| account).collect();
        let state = self.rules.slab.get_mut(id).expect("it was there a line ago");
        state.shut_rosters();
        #[cfg(any(test, feature = "seeded-bugs"))]
        if self.bug == Some(super::bugs::Bug::PartingForgetsShares) {
            state.roster = Roster::default();
        }
        state.parted = true;
        state.window_start = now;
        state.window_end = if state.roster.share > 0 { last } else { u64::MAX };
        accounts.into_iter().for_each(|account| self.begin_own_window(account, ahead));
        self.dirty.rules.push(id);
    }

    /// An account goes over to the window that its zone has now, or has `ahead` from now, with all that is in it.
    fn begin_own_window(&mut self, id: u32, ahead: u64) {
        let Some(account) = self.accounts.get(id) else { return };
        let (now, rule, epoch) = (self.meta.last_time_us, account.rule, account.epoch);
        let (state, key) = (self.rules.get(rule), self.accounts.keys.text(account.key));
        let start = self.window_in_zone(state, key, now).0;
        let end = self.window_in_zone(state, key, now.saturating_add(ahead)).1;
        let account = self.accounts.slab.get_mut(id).expect("it was there a line ago");
        account.rare_mut().window = (start, end);
        #[cfg(any(test, feature = "seeded-bugs"))]
        if self.bug == Some(super::bugs::Bug::MovingForgetsUse) {
            let used = std::mem::take(&mut account.used);
            account.give(used);
        }
        self.dirty.accounts.push(id);
        // Shares stay out of it as long as it lasts.
        if self.rules.get(rule).epoch == epoch {
            self.keep_old_shares(rule, end);
        }
    }

    /// What nodes may have of before stays out until then, if it does not for longer.
    fn keep_old_shares(&mut self, id: u32, end: u64) {
        let state = self.rules.slab.get_mut(id).expect("only what is there has shares");
        if state.has_old_shares() && end > state.window_end {
            let before = std::mem::replace(&mut state.window_end, end);
            if self.rules.buried.remove(&(before, id)) {
                self.rules.buried.insert((end, id));
            }
            self.dirty.rules.push(id);
        }
    }

    /// When the last window ends that somebody is in, at this time.
    fn last_end(&self, at: u64, id: u32) -> u64 {
        self.windows_at(at, id).map(|(_, end)| end).max().unwrap_or(at)
    }

    /// Every window that somebody is in, at this time.
    fn windows_at(&self, at: u64, id: u32) -> impl Iterator<Item = (u64, u64)> {
        let rule = &self.rules.get(id).rule;
        let zones = if rule.apart { self.zones.all() } else { Vec::new() };
        let bounds = move |zone: TimeZone| {
            let (start, end) = rule.window.bounds(Timestamp(at), &zone);
            (start.0, end.0)
        };
        zones.into_iter().chain([rule.time_zone.clone()]).map(bounds)
    }

    /// When the last window ends that was open when the limit parted, of those that somebody is in, as zones are now.
    fn last_old_end(&self, now: u64, id: u32) -> u64 {
        let parted_at = self.rules.get(id).window_start;
        let open = self.windows_at(now, id).filter(|(start, _)| *start <= parted_at);
        open.map(|(_, end)| end).max().unwrap_or(now)
    }

    /// A limit that has parted is changed: accounts go over to windows of another length, of their zones, or of the limit's own.
    pub(super) fn change_windows_apart(&mut self, now: u64, id: u32, was: &Rule) {
        let rule = &self.rules.get(id).rule;
        if (rule.apart, rule.window, &rule.time_zone) != (was.apart, was.window, &was.time_zone) {
            self.keep_old_shares(id, self.last_old_end(now, id));
            let state = self.rules.get(id);
            let open = self.accounts.slab.iter().filter(|(_, it)| it.rule == id && state.is_open(it, now));
            let open: Vec<u32> = open.map(|(account, _)| account).collect();
            open.into_iter().for_each(|account| self.begin_own_window(account, 0));
        }
        if !self.rules.get(id).has_old_shares() {
            self.await_turn(now, id);
        }
    }

    /// The last window is over that was open when a limit parted: nothing of its shares matters any more.
    pub(super) fn end_old_shares(&mut self, now: u64, id: u32) {
        let state = self.rules.slab.get_mut(id).expect("only what is there turns");
        let end = state.window_end;
        state.roster = Roster::default();
        if state.deleted_at.is_some() && self.rules.buried.remove(&(end, id)) {
            self.rules.buried.insert((now, id));
        }
        self.await_turn(now, id);
    }

    /// A parted limit without old shares has nothing to turn, but for the turn at which it comes together.
    fn await_turn(&mut self, now: u64, id: u32) {
        let state = self.rules.slab.get_mut(id).expect("only what is there turns");
        state.window_end = if state.comes_together() { window_around(now, &state.rule).1 } else { u64::MAX };
        self.dirty.rules.push(id);
    }
}
