//! Alerts that were raised, and what became of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tollgate_model::{LogIndex, Timestamp};
use tollgate_proto::state::v1::{BudgetAlertRow, BudgetAlertState, BudgetAlertTried};

use super::rows;
use crate::{Came, Changes};

/// What waits of one tenant, at most: a budget has ten thresholds, so more come only of budgets that are edited again and again.
const MAX_PENDING: usize = 32;
/// What is kept of one tenant, at most, told or not.
const MAX_KEPT: usize = 128;
/// Months for which an alert stays in the list.
const KEPT_MONTHS: u32 = 13;
/// Between the first try and the second; doubled from there on.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(3_600);
/// Tries go on for so long, by log time.
const GIVE_UP: Duration = Duration::from_secs(72 * 3_600);
const MAX_PROBLEM_CHARS: usize = 300;
const SEQS_PER_ENTRY: u64 = 65_536;

/// How many alerts there are in each state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AlertCounts {
    /// Waiting to be delivered.
    pub pending: u64,
    /// Delivered.
    pub delivered: u64,
    /// Given up.
    pub failed: u64,
    /// Of budgets without a webhook.
    pub listed: u64,
}

/// Alerts in the order in which they were raised.
#[derive(Debug, Clone, Default)]
pub struct Outbox {
    alerts: BTreeMap<u64, Arc<BudgetAlertRow>>,
    by_tenant: BTreeMap<String, BTreeSet<u64>>,
    pending: BTreeSet<u64>,
}

/// When an alert is to be tried next, that has not been delivered: at once, and then after pauses of one second to one hour, each
/// twice the last, and up to a quarter longer, by alert, so that not all come at once.
#[must_use]
pub fn next_try(alert: &BudgetAlertRow) -> Timestamp {
    let Some(doubled) = alert.tries.checked_sub(1) else { return Timestamp(alert.raised_us) };
    let pause = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(doubled)).min(LONGEST_PAUSE);
    let apart = pause / 64 * u32::try_from(alert.seq % 16).unwrap_or(0);
    Timestamp(alert.tried_us).saturating_add(pause + apart)
}

impl Outbox {
    /// Those to be tried by now, the oldest first and one of each tenant, without tenants that are `busy`.
    #[must_use]
    pub fn due(&self, now: Timestamp, busy: &BTreeSet<String>, most: usize) -> Vec<Arc<BudgetAlertRow>> {
        let mut taken = BTreeSet::new();
        let waiting = self.pending.iter().filter_map(|seq| self.alerts.get(seq));
        let due = waiting.filter(|alert| next_try(alert) <= now && !busy.contains(&alert.tenant));
        due.filter(|alert| taken.insert(alert.tenant.as_str())).take(most).cloned().collect()
    }

    /// Takes down what became of a try; whether it was the next one.
    pub fn tried(&mut self, came: Came, tried: &BudgetAlertTried, changes: &mut Changes) -> bool {
        let Some(alert) = self.alerts.get(&tried.seq).filter(|alert| alert.state() == BudgetAlertState::Pending) else {
            return false;
        };
        if tried.number != alert.tries.saturating_add(1) {
            return false;
        }
        let waited = came.now.saturating_since(Timestamp(alert.raised_us));
        let state = match tried {
            _ if tried.delivered => BudgetAlertState::Delivered,
            _ if tried.gone || waited >= GIVE_UP => BudgetAlertState::Failed,
            _ => BudgetAlertState::Pending,
        };
        let problem = tried.problem.chars().take(MAX_PROBLEM_CHARS).collect();
        let alert = BudgetAlertRow {
            tries: tried.number,
            tried_us: came.now.0,
            problem: if tried.delivered { String::new() } else { problem },
            ..(**alert).clone()
        };
        self.put(BudgetAlertRow { state: state.into(), ..alert }, changes);
        true
    }

    /// Alerts, the newest first: of a tenant or of all, before this one or from the newest on.
    #[must_use]
    pub fn list(&self, tenant: Option<&str>, before: Option<u64>, max: usize) -> Vec<Arc<BudgetAlertRow>> {
        let before = before.unwrap_or(u64::MAX);
        let of = |seq: &u64| self.alerts.get(seq).cloned();
        match tenant {
            None => self.alerts.range(..before).rev().map(|(_, alert)| Arc::clone(alert)).take(max).collect(),
            Some(tenant) => {
                let own = self.by_tenant.get(tenant).into_iter();
                own.flat_map(|own| own.range(..before).rev()).filter_map(of).take(max).collect()
            }
        }
    }

    /// How many there are.
    #[must_use]
    pub fn counts(&self) -> AlertCounts {
        let mut counts = AlertCounts::default();
        for alert in self.alerts.values() {
            match alert.state() {
                BudgetAlertState::Pending => counts.pending += 1,
                BudgetAlertState::Delivered => counts.delivered += 1,
                BudgetAlertState::Failed => counts.failed += 1,
                BudgetAlertState::Listed | BudgetAlertState::Unspecified => counts.listed += 1,
            }
        }
        counts
    }

    /// The number of the next alert.
    pub(super) fn next_seq(&self, at: LogIndex) -> u64 {
        let last = self.alerts.keys().next_back().map_or(0, |last| last + 1);
        last.max(at.0.saturating_mul(SEQS_PER_ENTRY))
    }

    /// A new one. Where too many are there, the oldest one makes room.
    pub(super) fn add(&mut self, alert: BudgetAlertRow, changes: &mut Changes) {
        let tenant = alert.tenant.clone();
        self.put(alert, changes);
        let own = self.by_tenant.get(&tenant).cloned().unwrap_or_default();
        let waiting: Vec<u64> = own.iter().copied().filter(|seq| self.pending.contains(seq)).collect();
        if waiting.len() > MAX_PENDING {
            self.fail(
                waiting[0],
                &format!("newer ones took its place: {MAX_PENDING} of a tenant wait at most"),
                changes,
            );
        }
        if own.len() > MAX_KEPT
            && let Some(oldest) = own.iter().copied().find(|seq| !self.pending.contains(seq))
        {
            self.remove(oldest, changes);
        }
    }

    /// Gives up what waits of a tenant.
    pub(super) fn give_up(&mut self, tenant: &str, why: &str, changes: &mut Changes) {
        let own = self.by_tenant.get(tenant).into_iter().flatten();
        for seq in own.copied().filter(|seq| self.pending.contains(seq)).collect::<Vec<_>>() {
            self.fail(seq, why, changes);
        }
    }

    /// Forgets what is long over.
    pub(super) fn forget(&mut self, month: u32, changes: &mut Changes) {
        let is_old = |alert: &BudgetAlertRow| alert.month.saturating_add(KEPT_MONTHS) <= month;
        let over = self.alerts.iter().filter(|(seq, alert)| is_old(alert) && !self.pending.contains(seq));
        for seq in over.map(|(seq, _)| *seq).collect::<Vec<_>>() {
            self.remove(seq, changes);
        }
    }

    /// As a row says.
    pub(super) fn take(&mut self, alert: BudgetAlertRow) {
        let seq = alert.seq;
        if alert.state() == BudgetAlertState::Pending {
            self.pending.insert(seq);
        } else {
            self.pending.remove(&seq);
        }
        self.by_tenant.entry(alert.tenant.clone()).or_default().insert(seq);
        self.alerts.insert(seq, Arc::new(alert));
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<BudgetAlertRow>> {
        self.alerts.values()
    }

    fn put(&mut self, alert: BudgetAlertRow, changes: &mut Changes) {
        changes.push(rows::alert(alert.seq, Some(&alert)));
        self.take(alert);
    }

    fn fail(&mut self, seq: u64, why: &str, changes: &mut Changes) {
        if let Some(alert) = self.alerts.get(&seq) {
            let alert = BudgetAlertRow { problem: why.to_owned(), ..(**alert).clone() };
            self.put(BudgetAlertRow { state: BudgetAlertState::Failed.into(), ..alert }, changes);
        }
    }

    fn remove(&mut self, seq: u64, changes: &mut Changes) {
        let Some(alert) = self.alerts.remove(&seq) else { return };
        self.pending.remove(&seq);
        if let Some(own) = self.by_tenant.get_mut(&alert.tenant) {
            own.remove(&seq);
            if own.is_empty() {
                self.by_tenant.remove(&alert.tenant);
            }
        }
        changes.push(rows::alert(seq, None));
    }
}
