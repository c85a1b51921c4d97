//! Account records, found by limit and key values.

use std::{collections::HashMap, sync::Arc};

use super::{Ledger, rules::RuleState, slab::Slab};
use crate::slide::{Slide, Slot};

/// Looked at for each entry, and for each account it creates: so there are never many more idle records than live ones.
const SWEEP_PER_ENTRY: u32 = 32;
const SWEEP_PER_NEW_ACCOUNT: u32 = 2;

/// One combination of key values under one limit. All zero is the same as no record at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) rule: u32,
    /// Which window the figures are of; those of another than the rule's own count as zero.
    pub(super) epoch: u64,
    pub(super) used: u64,
    pub(super) held: u64,
    pub(super) overrun: u64,
    /// In the hands of open incarnations, held by their requests or not.
    pub(super) leased: u64,
    /// Was in the hands of incarnations that are gone.
    pub(super) suspense: u64,
    /// Nothing is leased out, and what was is called back (`leases.rs`).
    pub(super) central: bool,
    /// How often that has changed in this window.
    pub(super) generation: u32,
    /// The most that one request of this window asked for.
    pub(super) ask: u64,
    /// When it did, where no window turns.
    pub(super) ask_at: u64,
    /// Until when a recall waits for nodes that say nothing.
    pub(super) recall_until: u64,
    /// Of a sliding limit: what counts, by its age. `used` and `overrun` are in there, and what of `held` has not aged.
    pub(super) slide: Option<Box<Slide>>,
    /// Values joined by NUL, which no value contains.
    pub(super) key: Arc<str>,
}

impl Account {
    pub(super) fn new(rule: u32, epoch: u64, key: Arc<str>) -> Self {
        Self {
            rule,
            epoch,
            used: 0,
            held: 0,
            overrun: 0,
            leased: 0,
            suspense: 0,
            central: false,
            generation: 0,
            ask: 0,
            ask_at: 0,
            recall_until: 0,
            slide: None,
            key,
        }
    }

    /// What is used, held and overrun at `age`.
    pub(super) fn counts(&self, rule: &RuleState, age: u64) -> Slot {
        match (rule.rule.span(), self.slide.as_deref()) {
            (Some(span), Some(slide)) => slide.live(span, age),
            (Some(_), None) => Slot::default(),
            (None, _) => Slot { at: 0, used: self.used, held: self.held, overrun: self.overrun },
        }
    }

    /// What is neither used nor held nor out: signed, as the limit may have been lowered.
    pub(super) fn free(&self, rule: &RuleState, age: u64) -> i128 {
        let Slot { used, held, .. } = self.counts(rule, age);
        let out = i128::from(self.leased) + i128::from(self.suspense);
        i128::from(rule.rule.capacity) - i128::from(used) - i128::from(held) - out
    }

    /// Nothing was used in this window. What is held or out stays.
    pub(super) fn forget_use(&mut self) {
        (self.used, self.overrun) = (0, 0);
        if let Some(slide) = &mut self.slide {
            slide.forget_use();
        }
    }

    /// What may still be held or granted: less what was overrun.
    pub(super) fn available(&self, rule: &RuleState, age: u64) -> i128 {
        self.free(rule, age) - i128::from(self.counts(rule, age).overrun)
    }

    /// Nothing of it matters any more, where no window turns.
    pub(super) fn is_idle(&self, rule: &RuleState, age: u64) -> bool {
        let Slot { used, held, overrun, .. } = self.counts(rule, age);
        [used, held, overrun, self.held, self.leased, self.suspense].into_iter().all(|it| it == 0)
    }

    /// How long until `amount` is to be had, should nobody come and nothing end before; none if nobody knows.
    pub(super) fn wait_for(&self, rule: &RuleState, age: u64, amount: u64) -> Option<u64> {
        let missing = u128::try_from(i128::from(amount) - self.available(rule, age)).unwrap_or(0);
        match (missing, rule.rule.span(), self.slide.as_deref()) {
            (0, ..) => Some(0),
            (_, Some(span), Some(slide)) => slide.wait_for(span, age, missing),
            _ => None,
        }
    }
}

#[derive(Debug, Default)]
#[cfg_attr(any(test, feature = "seeded-bugs"), derive(Clone))]
pub(super) struct Accounts {
    pub(super) slab: Slab<Account>,
    /// By number of the rule, then by key. Never iterated.
    index: Vec<HashMap<Arc<str>, u32>>,
    created: u32,
}

impl Accounts {
    pub(super) fn find(&self, rule: u32, key: &str) -> Option<u32> {
        self.index.get(rule as usize)?.get(key).copied()
    }

    pub(super) fn get(&self, id: u32) -> Option<&Account> {
        self.slab.get(id)
    }

    /// Records of one limit.
    pub(super) fn count(&self, rule: u32) -> usize {
        self.index.get(rule as usize).map_or(0, HashMap::len)
    }

    pub(super) fn create(&mut self, rule: u32, epoch: u64, key: &str) -> u32 {
        let account = Account::new(rule, epoch, key.into());
        let key = Arc::clone(&account.key);
        let id = self.slab.insert(account);
        self.enter(rule, key, id);
        self.created += 1;
        id
    }

    fn enter(&mut self, rule: u32, key: Arc<str>, id: u32) {
        let at = rule as usize;
        if self.index.len() <= at {
            self.index.resize_with(at + 1, HashMap::new);
        }
        self.index[at].insert(key, id);
    }

    pub(super) fn restore(&mut self, id: u32, account: Account) {
        self.enter(account.rule, Arc::clone(&account.key), id);
        self.slab.put(id, account);
    }

    fn remove(&mut self, id: u32) {
        let Some(account) = self.slab.remove(id) else { return };
        if let Some(keys) = self.index.get_mut(account.rule as usize) {
            keys.remove(&account.key);
            if keys.is_empty() {
                *keys = HashMap::new();
            }
        }
    }
}

/// The key that all keys share once a limit has too many: one NUL more than any real key of `parts` values.
pub(super) fn overflow_key(parts: usize) -> String {
    "\0".repeat(parts)
}

impl Ledger {
    /// The account of `key`, should it have a record: its own, or the shared one if this window has overflowed.
    pub(super) fn find_account(&self, rule: u32, key: &str) -> Option<u32> {
        self.accounts.find(rule, key).or_else(|| self.overflow(rule).filter(|id| self.is_current(*id)))
    }

    /// Finds or makes the account of `key`, in the window that is open.
    ///
    /// Once a window has seen the overflow account, every key without a record of its own goes there until the window
    /// turns, even if there is room again: else a key could use the shared account's capacity and then its own.
    pub(super) fn obtain_account(&mut self, rule: u32, key: &str) -> u32 {
        let epoch = self.rules.get(rule).epoch;
        let id = match self.find_account(rule, key) {
            Some(id) => id,
            None if self.accounts.count(rule) < self.bounds.accounts as usize => self.create_account(rule, key),
            None => match self.overflow(rule) {
                Some(id) => id,
                None => self.create_account(rule, &self.overflow_key_of(rule)),
            },
        };
        let account = self.accounts.slab.get_mut(id).expect("it was just found or made");
        if account.epoch < epoch {
            *account = Account::new(rule, epoch, Arc::clone(&account.key));
            self.drop_leases(id);
        }
        self.dirty.accounts.push(id);
        id
    }

    /// Where no window turns, accounts come and go alone: each has an epoch of its own, so that a label of one that is gone
    /// never fits another that took over its number.
    fn create_account(&mut self, rule: u32, key: &str) -> u32 {
        let RuleState { rule: it, epoch, .. } = self.rules.get(rule);
        let epoch = if it.turns() { *epoch } else { self.next_epoch() };
        self.accounts.create(rule, epoch, key)
    }

    /// The shared account, when a key without a record would go there.
    pub(super) fn would_overflow(&self, rule: u32) -> Option<u32> {
        let full = self.accounts.count(rule) >= self.bounds.accounts as usize;
        self.overflow(rule).filter(|_| full)
    }

    fn overflow(&self, rule: u32) -> Option<u32> {
        self.accounts.find(rule, &self.overflow_key_of(rule))
    }

    fn overflow_key_of(&self, rule: u32) -> String {
        overflow_key(self.rules.get(rule).rule.per.len())
    }

    fn is_current(&self, id: u32) -> bool {
        self.accounts.get(id).is_some_and(|account| self.rules.get(account.rule).is_current(account.epoch))
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
        let is_kept = if rule.rule.turns() { now < rule.window_end } else { !account.is_idle(rule, self.age()) };
        if rule.is_current(account.epoch) && is_kept {
            return;
        }
        self.accounts.remove(id);
        self.drop_leases(id);
        self.dirty.accounts.push(id);
        self.forget_if_empty(now, rule_id);
    }
}
