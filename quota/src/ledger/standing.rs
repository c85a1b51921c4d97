//! Standing shares: a part of each account of a fixed window belongs to each node, without any record or message (QUOTA.md
//! 3.3, R1, R3, R4).
//!
//! Each window has a *roster*: the incarnations that were open and had been heard lately when it was frozen, and what each of
//! them has of every account, pinned then. It is frozen together with the epoch of its window: when the window begins, or by
//! the first entry about the limit within some time before, so that nodes know it when the window turns.
//!
//! **I1.** A member's share of an account is out until there is a lease of it, and then counted as any lease is: a bit of the
//! account says which of the two. So `free` is what is left beside `share × (members without a lease that are not returned)`,
//! whether or not the account has a record. A member in suspense is out too: until its journal has spoken, one record at a
//! time of the accounts that it has touched, and at last of all others by one mark in the roster.
//!
//! **No record, no name.** What a node draws before there is a record it says by limit and key, and the log makes the record.
//! There is always room for that: holds stop making records while a part of them is left, and shut the roster; a node has
//! only so many unrecorded accounts at once, and draws on no share of a roster that it knows to be shut.
//!
//! **Overflow.** The account that keys share keeps all shares back, for good: whatever a key that goes there was given by
//! nodes, with what it gets there it is within the capacity of one. A record that is made for such a key later only counts.

mod views;

use tollgate_model::{Unit, Window};
use tollgate_proto::state::v1::{Consumed, NamedConsumed, Report, Touch};

pub(crate) use self::views::ShareView;
#[cfg(any(test, feature = "seeded-bugs"))]
pub(crate) use self::views::WayView;
#[cfg(any(test, feature = "seeded-bugs"))]
use super::bugs::Bug;
use super::{
    Ledger,
    accounts::{Account, Kind, overflow_key},
    apply::join,
    leases::Lease,
    rules::{RuleState, window_around},
};
use crate::Rule;

/// Members of one roster: with more nodes than that nobody has a standing share.
pub(super) const MAX_MEMBERS: usize = 32;
/// Accounts of one limit that one node may have drawn on before there is a record of them.
pub(crate) const MAX_UNRECORDED: usize = super::MAX_ACCOUNTS as usize / (16 * MAX_MEMBERS);
/// One record of so many is kept for accounts that nodes have drawn on: twice what all members may have unrecorded, as two
/// windows may be drawn on at once.
const KEPT_RECORDS: u32 = 8;
/// Whoever has not been heard for so long is on no roster: log time.
const HEARD_WITHIN_US: u64 = 60_000_000;
/// A share of less money is none, as with fewer tokens: a quarter of a currency unit is some usual requests.
const LEAST_COST: u64 = 250_000_000_000;
const SECOND_US: u64 = 1_000_000;

/// How much of an account is given to nodes by rule.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shares {
    /// Of windows up to a minute, all shares together: numerator and denominator.
    pub(crate) short: (u64, u64),
    /// Of longer ones.
    pub(crate) long: (u64, u64),
    /// A share of fewer requests, or fewer tokens, is none: the account is too small to be divided for good.
    pub(crate) least: (u64, u64),
}

/// Where a member's share is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Stand {
    /// In the hands of an open incarnation.
    #[default]
    Active,
    /// The incarnation is over: its journal may still say what became of it.
    Suspense,
    /// It is over, and has drawn on accounts that can't be recorded now: nothing comes back before the window ends.
    Kept,
    /// What it had not touched is free.
    Returned,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) node: u64,
    pub(super) incarnation: u64,
    pub(super) stand: Stand,
}

/// Who has a share of each account of a limit in one window.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Roster {
    pub(super) share: u64,
    pub(super) members: Vec<Member>,
    /// Nobody draws on a share of an account that has no record any more.
    pub(super) shut: bool,
}

/// The window after the one that is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NextWindow {
    pub(super) epoch: u64,
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) roster: Roster,
}

/// What of an account is in the hands of members by rule alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct ByRule {
    pub(super) leased: u64,
    pub(super) suspense: u64,
}

impl ByRule {
    pub(super) fn sum(self) -> u64 {
        self.leased.saturating_add(self.suspense)
    }
}

impl Roster {
    pub(super) fn position(&self, node: u64, incarnation: u64) -> Option<usize> {
        self.members.iter().position(|it| (it.node, it.incarnation) == (node, incarnation))
    }

    /// Of an account without a record, what is in suspense.
    pub(super) fn kept_back(&self) -> u64 {
        self.by_rule(0).suspense
    }

    fn find(&mut self, node: u64, incarnation: u64) -> Option<&mut Member> {
        self.members.iter_mut().find(|it| (it.node, it.incarnation) == (node, incarnation))
    }

    /// What is out of an account by rule: of members that have no lease of it.
    fn by_rule(&self, made: u32) -> ByRule {
        let mut out = ByRule::default();
        for (at, member) in self.members.iter().enumerate().filter(|(at, _)| made >> at & 1 == 0) {
            match member.stand {
                Stand::Active => out.leased += self.share,
                Stand::Suspense | Stand::Kept => out.suspense += self.share,
                Stand::Returned => debug_assert!(at < MAX_MEMBERS),
            }
        }
        out
    }
}

impl RuleState {
    /// What is out by rule of an account of this limit.
    pub(super) fn by_rule(&self, account: &Account) -> ByRule {
        if account.epoch != self.epoch || self.roster.share == 0 {
            return ByRule::default();
        }
        match account.rare().kind {
            Kind::Own | Kind::Late => self.roster.by_rule(account.rare().made),
            Kind::Shared => ByRule { leased: 0, suspense: self.roster.share * self.roster.members.len() as u64 },
        }
    }

    /// What is out by rule of an account without a record.
    pub(super) fn by_rule_untouched(&self) -> ByRule {
        self.roster.by_rule(0)
    }

    /// Of an account without a record, what may be held.
    pub(super) fn free_untouched(&self, age: u64) -> i128 {
        let before = self.before.filter(|before| age < before.until).map_or(0, |before| before.units);
        let out = i128::from(self.by_rule_untouched().sum()) + i128::from(before);
        i128::from(self.rule.capacity) - out
    }

    /// Of an account without a record, what nobody may have that is there: in the window that is open, or the next.
    fn untouched_elsewhere(&self, epoch: u64, age: u64) -> u64 {
        let next = self.next.as_ref().filter(|next| next.epoch == epoch);
        let roster = next.map_or(&self.roster, |next| &next.roster);
        let before = self.before.filter(|before| age < before.until).map_or(0, |before| before.units);
        roster.kept_back().saturating_add(before)
    }

    /// Members that have a share of an account by rule alone.
    pub(super) fn members_by_rule(&self, account: &Account) -> impl Iterator<Item = (u64, u64)> {
        let is_of = account.epoch == self.epoch && account.rare().kind != Kind::Shared;
        let all = self.roster.members.iter().enumerate();
        let unmade =
            all.filter(move |(at, it)| is_of && account.rare().made >> at & 1 == 0 && it.stand == Stand::Active);
        unmade.map(|(_, it)| (it.node, self.roster.share)).filter(|(_, share)| *share > 0)
    }

    pub(super) fn rosters(&mut self) -> impl Iterator<Item = &mut Roster> {
        std::iter::once(&mut self.roster).chain(self.next.iter_mut().map(|next| &mut next.roster))
    }

    /// No share is drawn on by name any more, in this window and the one that is settled.
    pub(super) fn shut_rosters(&mut self) {
        self.rosters().for_each(|roster| roster.shut = true);
    }

    /// All that members may have taken of an account that nothing is known of: in this window and the one that is settled
    /// together, and in that one alone.
    pub(super) fn unknown(&self) -> (u64, u64) {
        let of = |roster: &Roster| roster.by_rule(0).sum();
        let next = self.next.as_ref().map(|next| of(&next.roster)).unwrap_or_default();
        (of(&self.roster).saturating_add(next), next)
    }

    /// How long before its end the next window's roster is frozen.
    fn lead(&self) -> u64 {
        let length = self.window_end.saturating_sub(self.window_start);
        (length / 10).clamp(2 * SECOND_US, 60 * SECOND_US).min(length / 2)
    }

    /// When the accounts of a buried limit mean nothing any more.
    pub(super) fn over_at(&self) -> u64 {
        self.next.as_ref().map_or(self.window_end, |next| next.end.max(self.window_end))
    }
}

impl Ledger {
    /// Who would have how much of each account of a limit from now on.
    pub(super) fn freeze(&self, now: u64, rule: &Rule, records: usize) -> Roster {
        let full = records >= self.room_for_holds() as usize;
        let Some(shares) = self.bounds.standing.filter(|_| rule.turns() && !rule.apart && !rule.shadow && !full) else {
            return Roster::default();
        };
        let open = self.nodes.iter().filter(|(_, it)| it.is_open(it.incarnation));
        let heard = open.filter(|(_, it)| it.heard.saturating_add(HEARD_WITHIN_US) > now);
        let members = heard.map(|(node, it)| (node, it.incarnation));
        let members: Vec<Member> =
            members.map(|(node, incarnation)| Member { node, incarnation, stand: Stand::Active }).collect();
        let nodes = members.len() as u64;
        let short = matches!(rule.window, Window::Second | Window::Minute);
        let (part, of) = if short { shares.short } else { shares.long };
        let share = u128::from(rule.capacity) * u128::from(part) / (u128::from(of) * u128::from(nodes)).max(1);
        let share = u64::try_from(share).unwrap_or(0);
        let least = match rule.unit {
            Unit::Requests => shares.least.0,
            Unit::Cost(_) => LEAST_COST,
            _ => shares.least.1,
        };
        if members.len() > MAX_MEMBERS || nodes == 0 || share < least.max(1) {
            return Roster::default();
        }
        Roster { share, members, shut: false }
    }

    /// Settles who will have a share of the next window, once its time has come. Called with every entry about the limit.
    pub(super) fn freeze_ahead(&mut self, now: u64, id: u32) {
        if self.bounds.standing.is_none() {
            return;
        }
        let state = self.rules.get(id);
        let is_time = now.saturating_add(state.lead()) >= state.window_end && now < state.window_end;
        let shares = state.rule.turns() && !state.rule.apart && !state.parted;
        if !is_time || state.next.is_some() || state.deleted_at.is_some() || state.changing.is_some() || !shares {
            return;
        }
        let (start, end) = window_around(state.window_end, &state.rule);
        let roster = self.freeze(now, &state.rule, self.accounts.count(id));
        if roster.share == 0 {
            return;
        }
        let epoch = self.next_epoch();
        let state = self.rules.slab.get_mut(id).expect("it was there a line ago");
        state.next = Some(Box::new(NextWindow { epoch, start, end, roster }));
        self.dirty.rosters.push(id);
    }

    /// Records of one limit that holds may make while nodes have standing shares: the others are for what nodes have drawn.
    fn room_for_holds(&self) -> u32 {
        self.bounds.accounts - self.bounds.accounts / KEPT_RECORDS
    }

    /// Records that may be made for a hold. Once they are all there nobody draws by name any more.
    pub(super) fn room(&mut self, id: u32) -> usize {
        let state = self.rules.get(id);
        if state.roster.share == 0 && state.next.is_none() {
            return self.bounds.accounts as usize;
        }
        let room = self.room_for_holds() as usize;
        if self.accounts.count(id) + 1 >= room && (!state.roster.shut || state.next.iter().any(|it| !it.roster.shut)) {
            self.rules.slab.get_mut(id).expect("it was there a line ago").shut_rosters();
            self.dirty.rosters.push(id);
        }
        room
    }

    /// As [`Ledger::room`], for whoever only looks.
    pub(super) fn room_now(&self, id: u32) -> usize {
        let state = self.rules.get(id);
        let shared = state.roster.share > 0 || state.next.is_some();
        (if shared { self.room_for_holds() } else { self.bounds.accounts }) as usize
    }

    /// The lease of an incarnation: the one there is, or one made of its standing share.
    pub(super) fn lease_on(&mut self, account: u32, node: u64, incarnation: u64) -> Option<u32> {
        self.leases.find(account, node, incarnation).or_else(|| self.make_lease(account, node, incarnation))
    }

    fn make_lease(&mut self, id: u32, node: u64, incarnation: u64) -> Option<u32> {
        let account = self.accounts.get(id)?;
        let state = self.rules.get(account.rule);
        let Roster { share, members, .. } = &state.roster;
        let at = state.roster.position(node, incarnation).filter(|at| account.rare().made >> at & 1 == 0)?;
        let is_of = account.epoch == state.epoch && account.rare().kind != Kind::Shared && *share > 0;
        let (stand, granted, epoch) = (members[at].stand, *share, account.epoch);
        if !is_of || stand == Stand::Returned {
            return None;
        }
        let account = self.accounts.slab.get_mut(id).expect("it was there a line ago");
        account.rare_mut().made |= 1 << at;
        *(if stand == Stand::Active { &mut account.leased } else { &mut account.rare_mut().suspense }) += granted;
        account.take(granted);
        let lease = self.leases.insert(Lease { account: id, epoch, node, incarnation, granted, ..Lease::default() });
        self.dirty.leases.push(lease);
        self.dirty.accounts.push(id);
        Some(lease)
    }

    /// What an incarnation has of an account by rule alone: drawn on, or not.
    pub(super) fn share_by_rule(&self, account: &Account, node: u64, incarnation: u64) -> u64 {
        let state = self.rules.get(account.rule);
        let at = state.roster.position(node, incarnation).filter(|at| account.rare().made >> at & 1 == 0);
        let at = at.filter(|_| account.epoch == state.epoch && account.rare().kind != Kind::Shared);
        at.filter(|at| state.roster.members[*at].stand == Stand::Active).map_or(0, |_| state.roster.share)
    }

    /// Takes in what a node says of a standing share, by the name of its account.
    pub(super) fn touch(&mut self, now: u64, node: u64, incarnation: u64, touch: &Touch) {
        let report = touch.report.unwrap_or_default();
        let Some(rule) = self.rules.of_epoch(&touch.limit, report.epoch) else { return };
        self.roll(now, rule);
        let state = self.rules.get(rule);
        if state.epoch != report.epoch || state.roster.position(node, incarnation).is_none() {
            return;
        }
        if let Some(account) = self.touched_account(rule, &touch.key) {
            self.report(node, incarnation, &Report { account, ..report });
        }
    }

    /// The account of a key that a node has drawn on, in the window that is open.
    fn touched_account(&mut self, rule: u32, key: &[String]) -> Option<u32> {
        let state = self.rules.get(rule);
        let (epoch, parts) = (state.epoch, state.rule.per.len());
        let key = join(key).filter(|_| key.len() == parts)?;
        let late = self.accounts.find(rule, &overflow_key(parts)).and_then(|id| self.accounts.get(id));
        let late = parts > 0 && late.is_some_and(|shared| shared.epoch == epoch);
        let known = self.accounts.find(rule, &key);
        let id = match known {
            Some(id) if self.accounts.get(id).is_some_and(|account| account.epoch == epoch) => return Some(id),
            _ if self.is_past_old_shares(rule, &key) => return None,
            Some(id) => {
                self.begin_anew(id);
                id
            }
            None if self.accounts.count(rule) < self.bounds.accounts as usize => self.create_account(rule, &key),
            None => return None,
        };
        if late {
            let account = self.accounts.slab.get_mut(id).expect("it was just found or made");
            let rare = account.rare_mut();
            (rare.kind, rare.central, rare.generation) = (Kind::Late, true, 1);
            self.accounts.called.insert(id);
        }
        self.dirty.accounts.push(id);
        Some(id)
    }

    /// A node starts anew: what its older incarnations have by rule is in suspense, in every roster there is.
    pub(super) fn suspend_shares(&mut self, node: u64) {
        for id in 0..self.rules.slab.end() {
            let Some(state) = self.rules.slab.get_mut(id) else { continue };
            #[cfg(any(test, feature = "seeded-bugs"))]
            let bug = self.bug;
            let mut any = false;
            for (nth, roster) in state.rosters().enumerate() {
                #[cfg(any(test, feature = "seeded-bugs"))]
                if nth > 0 && bug == Some(Bug::NextRosterStays) {
                    continue;
                }
                let _ = nth;
                for member in roster.members.iter_mut().filter(|it| it.node == node && it.stand == Stand::Active) {
                    member.stand = Stand::Suspense;
                    any = true;
                    #[cfg(any(test, feature = "seeded-bugs"))]
                    if bug == Some(Bug::SuspendedShareIsFree) {
                        member.stand = Stand::Returned;
                    }
                }
            }
            if any {
                self.dirty.rules.push(id);
            }
        }
    }

    /// All that was drawn on is known: what an incarnation had of all other accounts is free.
    pub(super) fn return_shares(&mut self, node: u64, incarnation: u64) {
        for id in 0..self.rules.slab.end() {
            let Some(state) = self.rules.slab.get_mut(id) else { continue };
            let mut any = false;
            for member in state.rosters().filter_map(|roster| roster.find(node, incarnation)) {
                any |= member.stand == Stand::Suspense;
                if member.stand == Stand::Suspense {
                    member.stand = Stand::Returned;
                }
            }
            if any {
                self.dirty.rules.push(id);
            }
        }
    }

    /// A journal names an account that its incarnation has drawn on by rule. One that can't be recorded keeps everything
    /// out that the incarnation had.
    pub(super) fn recover_share(&mut self, now: u64, node: u64, incarnation: u64, named: &NamedConsumed) {
        let consumed = named.consumed.unwrap_or_default();
        let Some(rule) = self.rules.of_epoch(&named.limit, consumed.epoch) else { return };
        self.roll(now, rule);
        let is_open = self.rules.get(rule).epoch == consumed.epoch;
        if is_open && join(&named.key).is_some_and(|key| self.is_past_old_shares(rule, &key)) {
            return;
        }
        if let Some(account) = is_open.then(|| self.touched_account(rule, &named.key)).flatten() {
            return self.recover_lease(node, incarnation, &Consumed { account, ..consumed });
        }
        let Some(state) = self.rules.slab.get_mut(rule) else { return };
        let roster = match &mut state.next {
            _ if state.epoch == consumed.epoch => &mut state.roster,
            Some(next) if next.epoch == consumed.epoch => &mut next.roster,
            _ => return,
        };
        if let Some(member) = roster.find(node, incarnation).filter(|it| it.stand == Stand::Suspense) {
            member.stand = Stand::Kept;
            self.dirty.rosters.push(rule);
        }
    }
}
