//! Listing accounts: what `limits show` shows.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use super::{Unprotected, accounts::Account, image::Image, leases::Lease, rules::RuleState};
use crate::Rule;
use tollgate_model::{LogIndex, Name, Timestamp, Unit};

/// What the shared account of a limit with too many keys is called.
const OVERFLOW: &str = "_OVERFLOW";

/// Whether an account is wanted, by its limit and key values.
pub type Keep<'a> = &'a dyn Fn(&Rule, &[&str]) -> bool;

/// Which accounts to list.
pub struct Query<'a> {
    /// Of this limit only.
    pub limit: Option<&'a str>,
    /// Only those that are wanted.
    pub keep: Option<Keep<'a>>,
    /// Only those of whose capacity at least this is used or held.
    pub min_utilisation_percent: u32,
    /// In which order.
    pub sort: Sort,
    /// Those after this one: where the page before ended, in the same order.
    pub after: Option<Position>,
    /// At most this many.
    pub max: usize,
}

/// The order of a listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sort {
    /// By limit, then by key.
    #[default]
    Name,
    /// The fullest first. Accounts that fill up between two pages may be missed or come twice.
    Utilisation,
}

/// A place in a listing. Keys, not titles: two accounts may look alike, as values may hold a slash.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Greater the less of the capacity is used or held; 0 for all when sorted by name.
    pub rank: u64,
    /// The limit.
    pub limit: Name,
    /// Key values joined by NUL, as the ledger has them.
    pub key: Arc<str>,
}

impl Default for Query<'_> {
    fn default() -> Self {
        Self { limit: None, keep: None, min_utilisation_percent: 0, sort: Sort::Name, after: None, max: 1_000 }
    }
}

/// Some accounts, in the order that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    /// The accounts.
    pub accounts: Vec<AccountView>,
    /// There are more after these, from here on.
    pub next: Option<Position>,
}

/// One account in the window that is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountView {
    /// The limit.
    pub limit: Name,
    /// Its version.
    pub version: LogIndex,
    /// It refuses nothing.
    pub shadow: bool,
    /// What is counted.
    pub unit: Unit,
    /// The key's values joined by `/`; `*` when the limit has one account in all.
    pub account: String,
    /// The key's values, in the order of the limit's `per`; empty for the overflow account too.
    pub key: Vec<String>,
    /// All keys without an account of their own share it.
    pub overflow: bool,
    /// What the account holds in all.
    pub capacity: u64,
    /// Settled.
    pub used: u64,
    /// Reserved by requests in flight.
    pub held: u64,
    /// With nodes, not yet used.
    pub leased: u64,
    /// How much of that each node has.
    pub leased_by_node: Vec<(u64, u64)>,
    /// Was with nodes that have started anew: nobody gets it until their journals tell, or the window turns.
    pub suspense: u64,
    /// Was with nodes that somebody has given up: it counts as used.
    pub lost: u64,
    /// `capacity - used - held - leased - suspense - lost`: below zero after the limit was lowered.
    pub free: i128,
    /// Used beyond what was reserved: blocks as much of `free`.
    pub overrun: u64,
    /// The limit was lowered, and somebody may spend by what it was before.
    pub taking_effect: bool,
    /// What the whole limit let through, as nobody could decide on it: in no account.
    pub unprotected: Unprotected,
    /// When the window began: a sliding one ends now, and one of concurrency is this moment.
    pub window_start: Timestamp,
    /// When it ends.
    pub window_end: Timestamp,
}

pub(super) fn accounts(image: &Image, (now, age): (u64, u64), query: &Query<'_>) -> Page {
    let Image { rules, accounts, keys, .. } = image;
    let by_utilisation = query.sort == Sort::Utilisation || query.min_utilisation_percent > 0;
    let taken = if by_utilisation { taken_of_leases(image) } else { HashMap::new() };
    let utilisation = |rule: &RuleState, id: u32, account: &Account| {
        let of_leases = taken.get(&(id, account.epoch)).copied().unwrap_or(0);
        utilisation(rule, account, of_leases, age)
    };
    let is_utilised = |rule: &RuleState, id: u32, account: &Account| {
        let least = u64::from(query.min_utilisation_percent) * 10_000;
        least == 0 || utilisation(rule, id, account) >= least
    };
    // The first `max + 1` of those wanted: whatever is beyond falls out again, so a page costs no more than its size.
    let mut first: BTreeMap<Position, (u32, &Account)> = BTreeMap::new();
    for (id, account) in accounts.iter() {
        let Some(rule) = rules.get(account.rule).filter(|rule| is_shown(rule, account, (now, age), query)) else {
            continue;
        };
        if !is_utilised(rule, id, account) {
            continue;
        }
        if query.keep.is_some_and(|keep| !keep(&rule.rule, &rule.rule.values(keys.get(account.key)))) {
            continue;
        }
        let rank = if query.sort == Sort::Name { 0 } else { u64::MAX - utilisation(rule, id, account) };
        let position = Position { rank, limit: rule.rule.limit.clone(), key: keys.shared(account.key) };
        if query.after.as_ref().is_some_and(|after| position <= *after) {
            continue;
        }
        first.insert(position, (id, account));
        if first.len() > query.max.saturating_add(1) {
            first.pop_last();
        }
    }
    let more = first.len() > query.max;
    let mut out = leases_of(image, first.values().map(|(id, account)| (*id, account.epoch)));
    let listed = || first.iter().take(query.max);
    let next = listed().next_back().map(|(position, _)| position.clone()).filter(|_| more);
    let views = listed().filter_map(|(_, (id, account))| {
        let rule = rules.get(account.rule)?;
        let out = out.remove(&(*id, account.epoch)).unwrap_or_default();
        Some(view(rule, account, keys.get(account.key), &out, (now, age)))
    });
    Page { accounts: views.collect(), next }
}

/// How much of its capacity is used or held, in millionths: of that, so much within leases. What nodes have in hand is
/// neither. Of nothing all is used.
fn utilisation(rule: &RuleState, account: &Account, of_leases: u64, age: u64) -> u64 {
    const WHOLE: u128 = 1_000_000;
    let capacity = rule.rule.capacity;
    let counts = account.counts(rule, age);
    let taken = [counts.used, counts.held, counts.overrun, of_leases].into_iter().map(u128::from).sum::<u128>();
    let share = (taken * WHOLE).checked_div(u128::from(capacity)).unwrap_or(WHOLE);
    u64::try_from(share).unwrap_or(u64::MAX)
}

/// What requests hold, and have used lately of what slides, of the leases of each account.
fn taken_of_leases(image: &Image) -> HashMap<(u32, u64), u64> {
    let mut taken: HashMap<_, u64> = HashMap::new();
    for (_, lease) in image.leases.iter().filter(|(_, lease)| image.is_open(lease)) {
        *taken.entry((lease.account, lease.epoch)).or_default() += lease.taken();
    }
    taken
}

/// What is out of one account.
#[derive(Debug, Clone, Default)]
pub(super) struct Out {
    /// What requests hold of it.
    pub(super) held: u64,
    /// What was used lately of what slides.
    pub(super) used: u64,
    /// What lost nodes had in hand.
    lost: u64,
    /// The oldest generation that somebody who has some in hand knows of.
    oldest: Option<u32>,
    by_node: BTreeMap<u64, u64>,
}

impl Out {
    /// Takes in one lease; `is_open` when its incarnation may speak.
    pub(super) fn take_in(&mut self, lease: &Lease, is_open: bool) {
        if is_open {
            self.add(lease);
        } else if lease.lost {
            self.lost += lease.outstanding();
        }
        if lease.outstanding() > 0 {
            self.oldest = Some(self.oldest.map_or(lease.generation, |oldest| oldest.min(lease.generation)));
        }
    }

    fn add(&mut self, lease: &Lease) {
        self.held += lease.held;
        self.used += lease.taken() - lease.held;
        let in_hand = lease.outstanding() - lease.taken();
        if in_hand > 0 {
            *self.by_node.entry(lease.node).or_default() += in_hand;
        }
    }
}

fn leases_of(image: &Image, of: impl Iterator<Item = (u32, u64)>) -> HashMap<(u32, u64), Out> {
    let mut found: HashMap<_, _> = of.map(|account| (account, Out::default())).collect();
    for (_, lease) in image.leases.iter() {
        let Some(out) = found.get_mut(&(lease.account, lease.epoch)) else { continue };
        out.take_in(lease, image.is_open(lease));
    }
    found
}

fn is_shown(rule: &RuleState, account: &Account, (now, age): (u64, u64), query: &Query<'_>) -> bool {
    rule.deleted_at.is_none()
        && !rule.rule.is_purse()
        && rule.is_open(account, now)
        && (rule.rule.turns() || !account.is_idle(rule, age))
        && query.limit.is_none_or(|limit| *limit == *rule.rule.limit)
}

/// What an account is called: its key's values joined by `/`. Two accounts of one limit may be called the same.
#[must_use]
pub fn title(rule: &Rule, values: &[&str]) -> String {
    match values {
        [] if rule.per.is_empty() => "*".to_owned(),
        [] => OVERFLOW.to_owned(),
        _ => values.join("/"),
    }
}

pub(super) fn view(rule: &RuleState, account: &Account, key: &str, out: &Out, (now, age): (u64, u64)) -> AccountView {
    let values = rule.rule.values(key);
    let title = title(&rule.rule, &values);
    let counts = account.counts(rule, age);
    let mut by_node = out.by_node.clone();
    for (node, share) in rule.members_by_rule(account) {
        *by_node.entry(node).or_default() += share;
    }
    let (window_start, window_end) = if rule.rule.turns() {
        rule.window_of(account)
    } else {
        (now.saturating_sub(rule.rule.span().map_or(0, |_| rule.rule.window.longest_us())), now)
    };
    AccountView {
        limit: rule.rule.limit.clone(),
        version: rule.rule.version,
        shadow: rule.rule.shadow,
        unit: rule.rule.unit,
        account: title,
        overflow: values.is_empty() && !rule.rule.per.is_empty(),
        key: values.into_iter().map(str::to_owned).collect(),
        capacity: rule.rule.capacity,
        used: counts.used + out.used,
        held: counts.held + out.held,
        leased: account.leased_in_all(rule) - out.held - out.used,
        leased_by_node: by_node.into_iter().collect(),
        suspense: account.suspense_in_all(rule) - out.lost,
        lost: out.lost,
        free: account.free(rule, age),
        overrun: counts.overrun,
        taking_effect: rule.changing.is_some() || is_taking_effect(rule, account, out.oldest, age),
        unprotected: rule.unprotected,
        window_start: Timestamp(window_start),
        window_end: Timestamp(window_end),
    }
}

/// Whether some of an account may still be spent by what its limit was before it was lowered (R2, I8): more is out than there is,
/// by somebody who knows only of the generation `oldest`. Not once everyone who has heard nothing spends nothing.
fn is_taking_effect(rule: &RuleState, account: &Account, oldest: Option<u32>, age: u64) -> bool {
    let untold = oldest.is_some_and(|oldest| oldest < account.rare().generation) || rule.by_rule(account).leased > 0;
    age < rule.lowered_until && untold && account.free(rule, age) < 0
}

/// The limits in force of which that is so, or that are to count in another way, in order of their names.
pub(super) fn taking_effect(image: &Image, age: u64) -> Vec<Name> {
    let Image { rules, .. } = image;
    let changing = rules.iter().filter(|(_, rule)| rule.changing.is_some());
    let changing = changing.map(|(_, rule)| rule.rule.limit.clone()).chain(lowered(image, age));
    changing.collect::<BTreeSet<Name>>().into_iter().collect()
}

fn lowered(image: &Image, age: u64) -> Vec<Name> {
    let Image { rules, accounts, leases, .. } = image;
    let is_lowered = |rule: &RuleState| rule.deleted_at.is_none() && age < rule.lowered_until;
    if !rules.iter().any(|(_, rule)| is_lowered(rule)) {
        return Vec::new();
    }
    let limit_of = |lease: &Lease| {
        let account = accounts.get(lease.account).filter(|it| it.epoch == lease.epoch && lease.outstanding() > 0)?;
        let rule = rules.get(account.rule).filter(|rule| is_lowered(rule) && rule.is_current(account.epoch))?;
        is_taking_effect(rule, account, Some(lease.generation), age).then(|| rule.rule.limit.clone())
    };
    let by_rule = rules.iter().filter(|(id, rule)| is_lowered(rule) && is_spent_by_rule(image, (*id, rule), age));
    let by_rule = by_rule.map(|(_, rule)| rule.rule.limit.clone());
    leases.iter().filter_map(|(_, lease)| limit_of(lease)).chain(by_rule).collect()
}

/// Whether more is out of some account of a limit than there is, and some of that with nodes by rule alone: those need not know.
fn is_spent_by_rule(image: &Image, (id, rule): (u32, &RuleState), age: u64) -> bool {
    if rule.by_rule_untouched().leased == 0 {
        return false;
    }
    let mut of_rule = image.accounts.iter().map(|(_, account)| account).filter(|account| account.rule == id);
    rule.free_untouched(age) < 0 || of_rule.any(|account| is_taking_effect(rule, account, None, age))
}
