//! A limit that is to count in another way: fixed or sliding, or sliding over another length (QUOTA.md R2, R3).
//!
//! Like a lower it is *accepted, then effective*. From its entry on nothing of the limit is granted, or drawn on by name, and all
//! that nodes have in hand goes back; until that is done everything counts as before, and every request asks the log. A node *knows*
//! once it has said all that it ever drew ([`Knows`] comes after that, in the order of its records). When all
//! of them know, and what they had admitted themselves has ended, nothing is out any more that was not said: the accounts begin to
//! count in the new way, with what was used of them, and with what requests hold.
//!
//! - What was used counts since it was used, rounded late, where that is known; else since the change.
//! - What the log holds stays held, and ends at what was really used; what had aged stays so.
//! - Who is not heard of is waited for until it can't spend anything any more, and a request in flight for [`IN_FLIGHT_US`]: what is
//!   out then counts as used.
//! - A window that turns meanwhile turns as ever.

use std::collections::HashMap;

use tollgate_proto::state::v1::Knows;

use super::{
    Ledger,
    accounts::Account,
    rules::{Before, RuleState, window_around},
    standing::{Roster, Stand},
};
use crate::{
    Rule,
    slide::{Slot, Span, by_any_clock},
};

/// A change waits for so long at most for requests that nodes had admitted themselves.
const IN_FLIGHT_US: u64 = 600_000_000;

/// What a limit will be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Changing {
    pub(super) rule: Rule,
    /// The version that brought it.
    pub(super) version: u64,
    /// The age at which nobody spends anything of it who does not know.
    pub(super) until: u64,
    /// The age at which it no longer waits for requests in flight.
    pub(super) latest: u64,
    /// Who knows: node and incarnation.
    pub(super) told: Vec<(u64, u64)>,
}

/// What requests hold of accounts that go over: of each account and window, who, since when, and how much.
type OpenHolds = HashMap<(u32, u64), Vec<OpenHold>>;

#[derive(Debug, Clone, Copy)]
struct OpenHold {
    hold: u32,
    at: u64,
    amount: u64,
    expired: bool,
}

impl Ledger {
    /// The limit was `was`, and is to count in another way: everything is called in first. Of several changes the last becomes
    /// effective.
    pub(super) fn begin_change(&mut self, id: u32, was: &Rule) {
        let (age, isolation) = (self.age(), by_any_clock(self.nodes.longest_isolation()));
        let state = self.rules.slab.get_mut(id).expect("only what is there changes");
        let rule = state.rule.clone();
        let Rule { window, algorithm, time_zone, apart, .. } = was.clone();
        state.rule = Rule { window, algorithm, time_zone, apart, ..rule.clone() };
        match &mut state.changing {
            Some(changing) => changing.rule = rule,
            None => {
                let (version, until) = (rule.version.0, age.saturating_add(isolation));
                let latest = age.saturating_add(IN_FLIGHT_US);
                state.changing = Some(Box::new(Changing { rule, version, until, latest, told: Vec::new() }));
            }
        }
        state.shut_rosters();
        self.rules.changing.insert(id);
        self.dirty.rules.push(id);
    }

    /// A node has said all that it ever drew of a limit that is to count in another way: what it has by rule beside that is free.
    pub(super) fn hear(&mut self, node: u64, incarnation: u64, knows: &Knows) {
        let Some(id) = self.rules.live(&knows.limit) else { return };
        let state = self.rules.slab.get_mut(id).expect("the index knows only what there is");
        let Some(changing) = state.changing.as_mut().filter(|it| it.version <= knows.version) else { return };
        if changing.told.contains(&(node, incarnation)) {
            return;
        }
        changing.told.push((node, incarnation));
        let members = state.rosters().flat_map(|roster| &mut roster.members);
        let own = members.filter(|it| (it.node, it.incarnation) == (node, incarnation) && it.stand == Stand::Active);
        own.for_each(|member| member.stand = Stand::Returned);
        self.dirty.rosters.push(id);
    }

    /// Limits of which an incarnation has to say that it knows, and the version to name.
    pub(crate) fn asks(&self, node: u64, incarnation: u64) -> Vec<(String, u64)> {
        let states = self.rules.changing.iter().map(|id| self.rules.get(*id));
        let is_told = |state: &RuleState| {
            state.changing.as_ref().is_none_or(|changing| changing.told.contains(&(node, incarnation)))
        };
        let untold = states.filter(|state| !is_told(state));
        untold.map(|state| (state.rule.limit.to_string(), state.rule.version.0)).collect()
    }

    /// Changes limits of which everything is called in.
    pub(super) fn change_what_is_called_in(&mut self, now: u64) {
        for id in self.rules.changing.iter().copied().collect::<Vec<_>>() {
            self.roll(now, id);
            if self.is_called_in(id) {
                self.change_now(now, id);
            }
        }
    }

    fn is_called_in(&self, id: u32) -> bool {
        let state = self.rules.get(id);
        let Some(changing) = &state.changing else { return false };
        let (age, told) = (self.age(), |who: (u64, u64)| changing.told.contains(&who));
        #[cfg(any(test, feature = "seeded-bugs"))]
        if self.bug == Some(super::bugs::Bug::ChangesAtOnce) {
            return true;
        }
        if age >= changing.latest {
            return true;
        }
        let is_late = age >= changing.until;
        let rosters = std::iter::once(&state.roster).chain(state.next.iter().map(|next| &next.roster));
        let mut members = rosters.filter(|roster| roster.share > 0).flat_map(|roster| &roster.members);
        if !is_late && members.any(|it| matches!(it.stand, Stand::Active | Stand::Suspense)) {
            return false;
        }
        let of_rule = |account: &Account| account.rule == id && state.is_current(account.epoch);
        let leases = self.leases.slab.iter().map(|(_, lease)| lease).filter(|lease| lease.outstanding() > 0);
        let mut of_rule = leases.filter(|lease| self.accounts.get(lease.account).is_some_and(of_rule));
        // Of a sliding lease what was used is still out, with whoever knows: that is said, and counts here from now on.
        !of_rule.any(|it| match told((it.node, it.incarnation)) && self.is_open(it) {
            true => it.unused() > 0,
            false => !is_late,
        })
    }

    /// The accounts of a limit begin to count in the new way.
    fn change_now(&mut self, now: u64, id: u32) {
        self.rules.changing.remove(&id);
        let (age, epoch) = (self.age(), self.next_epoch());
        let state = self.rules.slab.get_mut(id).expect("it was there a line ago");
        let Some(changing) = state.changing.take() else { return };
        let old = state.clone();
        state.rule = changing.rule;
        (state.epoch, state.parted) = (epoch, false);
        (state.window_start, state.window_end) = window_around(now, &state.rule);
        (state.roster, state.next) = (Roster::default(), None);
        let span = state.rule.span();
        let (unknown, unknown_next) = old.unknown();
        if unknown > 0 {
            let until = age.saturating_add(span.map_or(0, |span| span.longest()));
            state.before = Some(Before { units: unknown, at: age, until });
        }
        let mut holds = self.holds_to_move(id, &old);
        let of_rule = self.accounts.slab.iter().filter(|(_, it)| it.rule == id);
        let (open, over): (Vec<_>, Vec<_>) = of_rule.partition(|(_, it)| old.is_open(it, now));
        let [open, over] = [open, over].map(|accounts| accounts.into_iter().map(|(id, _)| id).collect::<Vec<_>>());
        // Whoever says something of a window that has passed is not to find a record that would take it for the new way's.
        over.into_iter().for_each(|account| self.remove_account(account));
        for account in open {
            let epoch = if span.is_some() { self.next_epoch() } else { epoch };
            let it = self.accounts.slab.get_mut(account).expect("it was there a line ago");
            let held = holds.remove(&(account, it.epoch)).unwrap_or_default();
            let out = it.out(&old).saturating_add(unknown_next);
            *it = counted_anew(it, &old, (epoch, span), (age, out), &held);
            self.relabel(account, epoch, span.is_some(), &held);
            self.drop_leases(account);
            self.accounts.called.remove(&account);
            self.dirty.accounts.push(account);
            self.recall_if_over(account);
        }
        self.part_if_due(now, id, 0);
        self.dirty.rules.push(id);
    }

    /// What requests hold of the accounts of a limit, but for what had aged.
    fn holds_to_move(&self, rule: u32, old: &RuleState) -> OpenHolds {
        let (age, span) = (self.age(), old.rule.span());
        let counts = |at: u64| span.is_none_or(|span| span.fresh_at(at) > age);
        let mut open = OpenHolds::new();
        for (hold, state) in self.holds.slab.iter().filter(|(_, state)| counts(state.at)) {
            let of_rule = |account: u32| self.accounts.get(account).is_some_and(|it| it.rule == rule);
            for held in state.charges.iter().filter(|held| of_rule(held.account)) {
                let it = OpenHold { hold, at: state.at, amount: held.amount, expired: state.expired };
                open.entry((held.account, held.epoch)).or_default().push(it);
            }
        }
        // Oldest first, as slots are let go of in that order.
        open.values_mut().for_each(|holds| holds.sort_by_key(|it| (it.at, it.hold)));
        open
    }

    /// What requests hold of an account is of its new window. What was consumed at a deadline stays so in a window that turns: how
    /// much of it counts there nobody knows.
    fn relabel(&mut self, account: u32, epoch: u64, slides: bool, held: &[OpenHold]) {
        for it in held.iter().filter(|it| slides || !it.expired) {
            let Some(hold) = self.holds.slab.get_mut(it.hold) else { continue };
            for charge in hold.charges.iter_mut().filter(|charge| charge.account == account) {
                charge.epoch = epoch;
            }
            self.dirty.holds.push(it.hold);
        }
    }
}

/// An account as it counts in the new way, of which so much was out, and requests hold so much.
fn counted_anew(
    it: &Account,
    old: &RuleState,
    (epoch, span): (u64, Option<Span>),
    (age, out): (u64, u64),
    held: &[OpenHold],
) -> Account {
    let mut fresh = Account::new(it.rule, epoch, it.key);
    let held = || held.iter().filter(|it| !it.expired);
    fresh.held = held().fold(0, |sum, it| sum.saturating_add(it.amount));
    match span {
        Some(span) => {
            let slide = &mut fresh.rare_mut().slide;
            used_by_time(it, old, age).for_each(|slot| {
                slide.count(span, slot.at, slot.used);
                slide.overrun(span, slot.at, slot.overrun);
            });
            slide.count(span, age, out);
            held().for_each(|it| slide.hold(span, it.at, it.amount));
        }
        None => {
            let counts = it.counts(old, age);
            fresh.used = counts.used.saturating_add(out);
            fresh.add_overrun(counts.overrun);
        }
    }
    fresh.count_anew();
    fresh
}

/// What was used, and until when it was at the latest: where no slots tell, until now.
fn used_by_time(it: &Account, old: &RuleState, age: u64) -> impl Iterator<Item = Slot> {
    let slots = match old.rule.span() {
        Some(span) => it.rare().slide.slots_at(span, age),
        None => vec![it.counts(old, age)],
    };
    slots.into_iter().map(move |slot| Slot { at: if slot.at == 0 { age } else { slot.at.min(age) }, ..slot })
}
