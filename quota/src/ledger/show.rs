//! Listing accounts: what `limits show` shows.

use std::collections::{BTreeMap, HashMap};

use super::{
    accounts::{Account, overflow_key},
    leases::Lease,
    rules::RuleState,
    slab::Shared,
};
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
    /// Those after this one: limit and account of the last that was listed.
    pub after: Option<(&'a str, &'a str)>,
    /// At most this many.
    pub max: usize,
}

impl Default for Query<'_> {
    fn default() -> Self {
        Self { limit: None, keep: None, after: None, max: 1_000 }
    }
}

/// Some accounts in order of limit and account.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    /// The accounts.
    pub accounts: Vec<AccountView>,
    /// There are more after these.
    pub more: bool,
}

/// One account in the window that is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountView {
    /// The limit.
    pub limit: Name,
    /// Its version.
    pub version: LogIndex,
    /// What is counted.
    pub unit: Unit,
    /// The key's values joined by `/`; `*` when the limit has one account in all.
    pub account: String,
    /// The key's values, in the order of the limit's `per`; empty for the overflow account too.
    pub key: Vec<String>,
    /// What the account holds in all.
    pub capacity: u64,
    /// Settled.
    pub used: u64,
    /// Reserved by requests in flight.
    pub held: u64,
    /// With nodes, not yet used.
    pub leased: u64,
    /// Was with nodes that have started anew: nobody gets it until the window turns.
    pub suspense: u64,
    /// `capacity - used - held - leased - suspense`: below zero after the limit was lowered.
    pub free: i128,
    /// Used beyond what was reserved: blocks as much of `free`.
    pub overrun: u64,
    /// When the window began.
    pub window_start: Timestamp,
    /// When it ends.
    pub window_end: Timestamp,
}

pub(super) fn accounts(
    rules: &Shared<RuleState>,
    accounts: &Shared<Account>,
    leases: &Shared<Lease>,
    now: u64,
    query: &Query<'_>,
) -> Page {
    // The first `max + 1` of those wanted: whatever is beyond falls out again, so a page costs no more than its size.
    let mut first: BTreeMap<(Name, String), (u32, &Account)> = BTreeMap::new();
    for (id, account) in accounts.iter() {
        let Some(rule) = rules.get(account.rule).filter(|rule| is_shown(rule, account, now, query)) else { continue };
        let values = values(rule, account);
        if query.keep.is_some_and(|keep| !keep(&rule.rule, &values)) {
            continue;
        }
        let name = (rule.rule.limit.clone(), title(rule, account, &values));
        if query.after.is_some_and(|after| (&*name.0, &*name.1) <= after) {
            continue;
        }
        first.insert(name, (id, account));
        if first.len() > query.max.saturating_add(1) {
            first.pop_last();
        }
    }
    let more = first.len() > query.max;
    let mut out = held_out(leases, first.values().map(|(id, account)| (*id, account.epoch)));
    let views = first.into_iter().take(query.max).filter_map(|((_, title), (id, account))| {
        view(rules, account, title, out.remove(&(id, account.epoch)).unwrap_or_default())
    });
    Page { accounts: views.collect(), more }
}

/// What requests hold of what is leased, by account and window.
fn held_out(leases: &Shared<Lease>, of: impl Iterator<Item = (u32, u64)>) -> HashMap<(u32, u64), u64> {
    let mut held: HashMap<_, _> = of.map(|account| (account, 0)).collect();
    for (_, lease) in leases.iter() {
        if let Some(sum) = held.get_mut(&(lease.account, lease.epoch)) {
            *sum += lease.held;
        }
    }
    held
}

fn is_shown(rule: &RuleState, account: &Account, now: u64, query: &Query<'_>) -> bool {
    rule.deleted_at.is_none()
        && rule.epoch == account.epoch
        && now < rule.window_end
        && query.limit.is_none_or(|limit| *limit == *rule.rule.limit)
}

fn values<'a>(rule: &RuleState, account: &'a Account) -> Vec<&'a str> {
    let parts = rule.rule.per.len();
    if parts == 0 || *account.key == *overflow_key(parts) { Vec::new() } else { account.key.split('\0').collect() }
}

fn title(rule: &RuleState, account: &Account, values: &[&str]) -> String {
    match values {
        [] if rule.rule.per.is_empty() => "*".to_owned(),
        [] => OVERFLOW.to_owned(),
        _ => {
            debug_assert_eq!(values.len(), rule.rule.per.len(), "{account:?}");
            values.join("/")
        }
    }
}

fn view(rules: &Shared<RuleState>, account: &Account, title: String, held_out: u64) -> Option<AccountView> {
    let rule = rules.get(account.rule)?;
    let capacity = rule.rule.capacity;
    Some(AccountView {
        limit: rule.rule.limit.clone(),
        version: rule.rule.version,
        unit: rule.rule.unit,
        account: title,
        key: values(rule, account).into_iter().map(str::to_owned).collect(),
        capacity,
        used: account.used,
        held: account.held + held_out,
        leased: account.leased - held_out,
        suspense: account.suspense,
        free: account.free(capacity),
        overrun: account.overrun,
        window_start: Timestamp(rule.window_start),
        window_end: Timestamp(rule.window_end),
    })
}
