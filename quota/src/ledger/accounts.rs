//! Account records, found by limit and key values.

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashMap},
    hash::BuildHasherDefault,
};

use super::{
    Ledger,
    keys::{Key, Keys},
    rules::RuleState,
    slab::Slab,
    spread::Spread,
};
use crate::{
    invariants::conserved,
    slide::{Slide, Slot},
};
use tollgate_model::MAX_KEY_PARTS;

/// Looked at for each entry, and for each account it creates: so there are never many more idle records than live ones.
const SWEEP_PER_ENTRY: u32 = 32;
const SWEEP_PER_NEW_ACCOUNT: u32 = 2;

/// Whose account it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Kind {
    /// Of its own key.
    #[default]
    Own,
    /// Of its own key, and only counts what nodes had drawn: its key shares the overflow account.
    Late,
    /// The overflow account, in a window with standing shares.
    Shared,
}

/// One combination of key values under one limit. All zero is the same as no record at all.
///
/// There are millions of them: a field that few accounts need belongs into [`Rare`].
#[derive(Debug, Clone)]
pub(super) struct Account {
    pub(super) rule: u32,
    pub(super) key: Key,
    /// Which window the figures are of; those of another than the rule's own count as zero.
    pub(super) epoch: u64,
    pub(super) used: u64,
    pub(super) held: u64,
    /// In the hands of open incarnations, held by their requests or not.
    pub(super) leased: u64,
    /// What is not free, by a count of its own: the sum of `used`, `held`, `leased` and suspense, kept whenever units move between
    /// them and what is free, and never read but by audits.
    pub(super) taken: u64,
    /// The most that one request of this window asked for.
    pub(super) ask: u64,
    /// None is the same as all zero.
    rare: Option<Box<Rare>>,
}

const _: () = assert!(size_of::<Option<Account>>() <= 64, "three million accounts are to fit");

/// What few accounts have: those that overran, were short, or have a window that does not turn.
#[derive(Debug, Clone)]
pub(super) struct Rare {
    pub(super) overrun: u64,
    /// Was in the hands of incarnations that are gone.
    pub(super) suspense: u64,
    /// Nothing is leased out, and what was is called back (`leases.rs`).
    pub(super) central: bool,
    /// How often that has changed in this window.
    pub(super) generation: u32,
    /// When the most was asked for, where no window turns.
    pub(super) ask_at: u64,
    /// Until when a recall waits for nodes that say nothing.
    pub(super) recall_until: u64,
    /// Of a sliding limit: what counts, by its age. `used` and `overrun` are in there, and what of `held` has not aged.
    pub(super) slide: Slide,
    /// Members of the roster that have a lease of it, or had: a bit for each (`standing.rs`).
    pub(super) made: u32,
    pub(super) kind: Kind,
    /// Its own window, where the limit's accounts have such: from when to when (`apart.rs`).
    pub(super) window: (u64, u64),
    /// Of a purse: what was billed, is off the capacity, and nobody has said yet to have spent (`purse.rs`).
    pub(super) billed: u64,
}

impl Rare {
    const NONE: Self = Self {
        overrun: 0,
        suspense: 0,
        central: false,
        generation: 0,
        ask_at: 0,
        recall_until: 0,
        slide: Slide::NONE,
        made: 0,
        kind: Kind::Own,
        window: (0, 0),
        billed: 0,
    };

    fn is_none(&self) -> bool {
        let figures =
            [self.overrun, self.suspense, self.ask_at, self.recall_until, self.generation.into(), self.billed];
        let is_plain = !self.central && self.made == 0 && self.kind == Kind::Own && self.window == (0, 0);
        is_plain && figures == [0; 6] && self.slide.slots.is_empty()
    }
}

impl Account {
    pub(super) fn new(rule: u32, epoch: u64, key: Key) -> Self {
        Self { rule, key, epoch, used: 0, held: 0, leased: 0, taken: 0, ask: 0, rare: None }
    }

    pub(super) fn rare(&self) -> &Rare {
        static NONE: Rare = Rare::NONE;
        self.rare.as_deref().unwrap_or(&NONE)
    }

    /// To be written to: not for what stays zero.
    pub(super) fn rare_mut(&mut self) -> &mut Rare {
        self.rare.get_or_insert_with(|| Box::new(Rare::NONE))
    }

    pub(super) fn with(mut self, rare: Rare) -> Self {
        self.rare = (!rare.is_none()).then(|| Box::new(rare));
        self
    }

    /// So much was free, and is used, held or out from here on.
    pub(super) fn take(&mut self, amount: u64) {
        self.taken = self.taken.wrapping_add(amount);
    }

    /// So much was used, held or out, and is free from here on.
    pub(super) fn give(&mut self, amount: u64) {
        self.taken = self.taken.wrapping_sub(amount);
    }

    /// What is not free is what it says it is.
    pub(super) fn count_anew(&mut self) {
        let parts = [self.used, self.held, self.leased, self.rare().suspense];
        self.taken = parts.into_iter().fold(0, u64::wrapping_add);
    }

    /// I1, by two counts: what is not free, and what it is.
    pub(super) fn adds_up(&self, capacity: u64) -> bool {
        let out = u128::from(self.leased) + u128::from(self.rare().suspense);
        conserved(capacity, i128::from(capacity) - i128::from(self.taken), self.held, self.used, out)
    }

    /// So much of a purse was spent: it meets what was billed, and the rest waits for a bill.
    pub(super) fn spend(&mut self, amount: u64) {
        let rare = self.rare_mut();
        let of_billed = amount.min(rare.billed);
        rare.billed -= of_billed;
        self.used += amount - of_billed;
        self.take(amount - of_billed);
    }

    /// So much of a purse was not spent after all. What of that a bill has met already, another has to meet.
    pub(super) fn unspend(&mut self, amount: u64) {
        let of_used = amount.min(self.used);
        self.used -= of_used;
        self.give(of_used);
        if amount > of_used {
            let rare = self.rare_mut();
            rare.billed = rare.billed.saturating_add(amount - of_used);
        }
    }

    /// Used beyond what was held, where a window turns.
    pub(super) fn add_overrun(&mut self, amount: u64) {
        if amount > 0 {
            let rare = self.rare_mut();
            rare.overrun = rare.overrun.saturating_add(amount);
        }
    }

    /// What is used, held and overrun at `age`.
    pub(super) fn counts(&self, rule: &RuleState, age: u64) -> Slot {
        let rare = self.rare();
        match rule.rule.span() {
            Some(span) => rare.slide.live(span, age),
            None => Slot { at: 0, used: self.used, held: self.held, overrun: rare.overrun },
        }
    }

    /// What is with nodes, or in suspense.
    pub(super) fn out(&self, rule: &RuleState) -> u64 {
        self.leased_in_all(rule).saturating_add(self.suspense_in_all(rule))
    }

    /// With open incarnations, by leases or by rule.
    pub(super) fn leased_in_all(&self, rule: &RuleState) -> u64 {
        self.leased.saturating_add(rule.by_rule(self).leased)
    }

    pub(super) fn suspense_in_all(&self, rule: &RuleState) -> u64 {
        self.rare().suspense.saturating_add(rule.by_rule(self).suspense)
    }

    /// What is neither used nor held nor out: signed, as the limit may have been lowered.
    pub(super) fn free(&self, rule: &RuleState, age: u64) -> i128 {
        self.free_beside(rule, self.counts(rule, age))
    }

    fn free_beside(&self, rule: &RuleState, Slot { used, held, .. }: Slot) -> i128 {
        let suspense = i128::from(self.rare().suspense);
        let out = i128::from(self.leased) + suspense + i128::from(rule.by_rule(self).sum());
        let capacity = i128::from(rule.rule.capacity) + i128::from(self.rare().billed);
        capacity - i128::from(used) - i128::from(held) - out
    }

    /// Nothing was used in this window. What is held or out stays.
    pub(super) fn forget_use(&mut self) {
        self.give(self.used);
        self.used = 0;
        if let Some(rare) = &mut self.rare {
            rare.overrun = 0;
            rare.slide.forget_use();
        }
    }

    /// What may still be held or granted: less what was overrun.
    pub(super) fn available(&self, rule: &RuleState, age: u64) -> i128 {
        let counts = self.counts(rule, age);
        self.free_beside(rule, counts) - i128::from(counts.overrun)
    }

    /// Nothing of it matters any more, where no window turns.
    pub(super) fn is_idle(&self, rule: &RuleState, age: u64) -> bool {
        let Slot { used, held, overrun, .. } = self.counts(rule, age);
        [used, held, overrun, self.held, self.leased, self.rare().suspense].into_iter().all(|it| it == 0)
    }

    /// How long until `amount` is to be had, should nobody come and nothing end before; none if nobody knows.
    pub(super) fn wait_for(&self, rule: &RuleState, age: u64, amount: u64) -> Option<u64> {
        let missing = u128::try_from(i128::from(amount) - self.available(rule, age)).unwrap_or(0);
        match (missing, rule.rule.span()) {
            (0, _) => Some(0),
            (_, Some(span)) => self.rare().slide.wait_for(span, age, missing),
            (_, None) => None,
        }
    }
}

#[derive(Debug, Default)]
#[cfg_attr(any(test, feature = "seeded-bugs"), derive(Clone))]
pub(super) struct Accounts {
    pub(super) slab: Slab<Account>,
    pub(super) keys: Keys,
    /// By number of the rule, then by that of the key. Never iterated.
    index: Vec<HashMap<u32, u32, BuildHasherDefault<Spread>>>,
    created: u32,
    /// Those that are called back, and perhaps some that no longer are.
    pub(super) called: BTreeSet<u32>,
}

impl Accounts {
    pub(super) fn find(&self, rule: u32, key: &str) -> Option<u32> {
        let keys = self.index.get(rule as usize).filter(|keys| !keys.is_empty())?;
        keys.get(&self.keys.find(key)?.id()).copied()
    }

    pub(super) fn get(&self, id: u32) -> Option<&Account> {
        self.slab.get(id)
    }

    /// Records of one limit.
    pub(super) fn count(&self, rule: u32) -> usize {
        self.index.get(rule as usize).map_or(0, HashMap::len)
    }

    pub(super) fn create(&mut self, mut account: Account, key: &str) -> u32 {
        let (rule, key) = (account.rule, self.keys.enter(key));
        account.key = key;
        let id = self.slab.insert(account);
        self.enter(rule, key, id);
        self.created += 1;
        id
    }

    fn enter(&mut self, rule: u32, key: Key, id: u32) {
        let at = rule as usize;
        if self.index.len() <= at {
            self.index.resize_with(at + 1, HashMap::default);
        }
        self.index[at].insert(key.id(), id);
    }

    /// Puts back the account of `key`; that of its record means nothing.
    pub(super) fn restore(&mut self, id: u32, mut account: Account, key: &str) {
        account.key = self.keys.enter(key);
        self.enter(account.rule, account.key, id);
        self.called.extend(account.rare().central.then_some(id));
        self.slab.put(id, account);
    }

    fn remove(&mut self, id: u32) {
        let Some(account) = self.slab.remove(id) else { return };
        self.called.remove(&id);
        if let Some(keys) = self.index.get_mut(account.rule as usize) {
            keys.remove(&account.key.id());
            if keys.is_empty() {
                *keys = HashMap::default();
            }
        }
        self.keys.leave(account.key);
    }
}

/// The key that all keys share once a limit has too many: one NUL more than any real key of `parts` values.
pub(crate) fn overflow_key(parts: usize) -> Cow<'static, str> {
    const MOST: &str = "\0\0\0\0\0\0\0\0";
    const { assert!(MOST.len() == MAX_KEY_PARTS) };
    MOST.get(..parts).map_or_else(|| "\0".repeat(parts).into(), Cow::Borrowed)
}

impl Ledger {
    /// The account of `key`, should it have a record: its own, or the shared one if this window has overflowed.
    pub(super) fn find_account(&self, rule: u32, key: &str) -> Option<u32> {
        let own = self.accounts.find(rule, key).filter(|id| !self.is_late(*id));
        own.or_else(|| self.overflow(rule).filter(|id| self.is_open_now(*id)))
    }

    /// Finds or makes the account of `key`, in the window that is open.
    ///
    /// Once a window has seen the overflow account, every key without a record of its own goes there until the window
    /// turns, even if there is room again: else a key could use the shared account's capacity and then its own.
    pub(super) fn obtain_account(&mut self, rule: u32, key: &str) -> u32 {
        let epoch = self.rules.get(rule).epoch;
        let id = match self.find_account(rule, key) {
            Some(id) => id,
            None if self.accounts.count(rule) < self.room(rule) => self.create_account(rule, key),
            None => match self.overflow(rule) {
                Some(id) => id,
                None => self.create_account(rule, &self.overflow_key_of(rule)),
            },
        };
        if self.accounts.get(id).is_some_and(|account| account.epoch < epoch) || !self.is_open_now(id) {
            self.begin_anew(id);
        }
        self.dirty.accounts.push(id);
        id
    }

    /// The record is one of a window that has passed: everything in it is of the one that is open from here on.
    pub(super) fn begin_anew(&mut self, id: u32) {
        let Some(account) = self.accounts.get(id) else { return };
        let (rule, key, was) = (account.rule, account.key, account.epoch);
        let text = self.accounts.keys.shared(key);
        let mut fresh = self.fresh_account(rule, &text, Some(was));
        fresh.key = key;
        if let Some(account) = self.accounts.slab.get_mut(id) {
            *account = fresh;
            self.accounts.called.remove(&id);
        }
        self.drop_leases(id);
        self.recall_if_over(id);
    }

    /// A record in which nothing has happened yet; of no key. `was` is the label of the one that it follows.
    ///
    /// Where no window turns, and where each account has its own, accounts come and go alone: each has an epoch of its own, so
    /// that a label of one that is gone never fits another that took over its number.
    fn fresh_account(&mut self, rule: u32, key: &str, was: Option<u64>) -> Account {
        let RuleState { rule: it, epoch, parted, .. } = self.rules.get(rule);
        let (epoch, together) = (*epoch, it.turns() && !parted);
        let own = parted.then(|| self.own_window(rule, key));
        let is_shared = together || own.is_some_and(|own| own.of_old && was != Some(epoch));
        let epoch = if is_shared { epoch } else { self.next_epoch() };
        let mut account = Account::new(rule, epoch, Key::NONE);
        if let Some(own) = own {
            account.rare_mut().window = (own.start, own.end);
        }
        let state = self.rules.get(rule);
        let parts = state.rule.per.len();
        if state.roster.share > 0 && parts > 0 && *key == *overflow_key(parts) {
            account.rare_mut().kind = Kind::Shared;
        }
        if let Some(before) = state.before.filter(|it| self.age() < it.until) {
            match state.rule.span() {
                Some(span) => account.rare_mut().slide.count(span, before.at, before.units),
                None => {
                    account.used = before.units;
                    account.take(before.units);
                }
            }
        }
        account
    }

    fn is_late(&self, id: u32) -> bool {
        self.accounts.get(id).is_some_and(|account| account.rare().kind == Kind::Late) && self.is_open_now(id)
    }

    pub(super) fn create_account(&mut self, rule: u32, key: &str) -> u32 {
        let account = self.fresh_account(rule, key, None);
        let id = self.accounts.create(account, key);
        self.recall_if_over(id);
        id
    }

    /// The shared account, when a key without a record would go there.
    pub(super) fn would_overflow(&self, rule: u32) -> Option<u32> {
        let full = self.accounts.count(rule) >= self.room_now(rule);
        self.overflow(rule).filter(|_| full)
    }

    fn overflow(&self, rule: u32) -> Option<u32> {
        self.accounts.find(rule, &self.overflow_key_of(rule))
    }

    fn overflow_key_of(&self, rule: u32) -> Cow<'static, str> {
        overflow_key(self.rules.get(rule).rule.per.len())
    }

    /// Its window is open at the time of the last entry.
    fn is_open_now(&self, id: u32) -> bool {
        let now = self.meta.last_time_us;
        self.accounts.get(id).is_some_and(|account| self.rules.get(account.rule).is_open(account, now))
    }

    /// Collects some records of windows that have passed: the next few after where the last sweep ended.
    pub(super) fn sweep(&mut self, now: u64) {
        self.forget_buried(now);
        let steps = SWEEP_PER_ENTRY + SWEEP_PER_NEW_ACCOUNT * std::mem::take(&mut self.accounts.created);
        for _ in 0..steps.min(self.accounts.slab.end()) {
            let id = if self.meta.sweep_cursor < self.accounts.slab.end() { self.meta.sweep_cursor } else { 0 };
            self.meta.sweep_cursor = id + 1;
            self.collect_if_idle(now, id);
        }
    }

    fn collect_if_idle(&mut self, now: u64, id: u32) {
        let Some(account) = self.accounts.get(id) else { return };
        let rule_id = account.rule;
        let rule = self.rules.get(rule_id);
        let is_kept = match rule.rule.turns() {
            true => rule.is_open(account, now) || rule.keeps_label(account, now),
            false => {
                let is_purse = rule.rule.is_purse() && rule.deleted_at.is_none();
                rule.is_current(account.epoch) && (is_purse || !account.is_idle(rule, self.age()))
            }
        };
        if !is_kept {
            self.remove_account(id);
            self.forget_if_empty(now, rule_id);
        }
    }

    /// Nothing of it matters any more.
    pub(super) fn remove_account(&mut self, id: u32) {
        self.accounts.remove(id);
        self.drop_leases(id);
        self.dirty.accounts.push(id);
    }
}
