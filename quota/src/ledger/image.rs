//! A ledger as it was at one entry.

use std::time::Duration;

use tollgate_proto::state::v1::LedgerMetaRow;

use super::{
    accounts::{Account, Accounts},
    encode,
    holds::{HoldState, Holds, is_tally},
    keys::Texts,
    leases::{Lease, Leases},
    nodes::{NodeState, Nodes},
    rows,
    rules::{RuleState, Rules},
    show::{self, Page, Query},
    slab::Shared,
};
use tollgate_model::{Name, Timestamp};

/// Everything that a snapshot or a listing needs, apart from the live ledger: read it wherever there is time.
#[derive(Debug, Clone)]
pub struct Image {
    pub(super) meta: LedgerMetaRow,
    pub(super) rules: Shared<RuleState>,
    pub(super) accounts: Shared<Account>,
    pub(super) keys: Texts,
    pub(super) nodes: Vec<(u64, NodeState)>,
    pub(super) holds: Shared<HoldState>,
    pub(super) leases: Shared<Lease>,
}

impl Image {
    pub(super) fn new(
        meta: &LedgerMetaRow,
        rules: &Rules,
        accounts: &Accounts,
        nodes: &Nodes,
        holds: &Holds,
        leases: &Leases,
    ) -> Self {
        Self {
            meta: *meta,
            rules: rules.slab.share(),
            accounts: accounts.slab.share(),
            keys: accounts.keys.share(),
            nodes: nodes.iter().map(|(node, state)| (node, state.clone())).collect(),
            holds: holds.slab.share(),
            leases: leases.slab.share(),
        }
    }

    /// Whether the incarnation that has a lease may speak.
    pub(super) fn is_open(&self, lease: &Lease) -> bool {
        self.nodes.iter().any(|(node, state)| *node == lease.node && state.is_open(lease.incarnation))
    }

    /// Every row, in order of the keys.
    pub fn into_rows(self) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> + Send + 'static {
        let Self { meta, rules, accounts, keys, nodes, holds, leases } = self;
        let mut scratch = Vec::new();
        let account = move |(id, it): (_, Account)| {
            (rows::account_key(id), encode::account_row(&it, keys.get(it.key), &mut scratch))
        };
        let accounts = accounts.into_records().map(account);
        let holds = holds.into_records().map(|(id, it)| (rows::hold_key(id), rows::hold_row(&it)));
        let leases = leases.into_records().map(|(id, it)| (rows::lease_key(id), rows::lease_row(&it)));
        let meta = std::iter::once((rows::meta_key(), rows::meta_row(&meta)));
        let nodes = nodes.into_iter().map(|(node, it)| (rows::node_key(node), rows::node_row(&it)));
        let rules = rules.into_records().map(|(id, it)| (rows::rule_key(id), rows::rule_row(&it)));
        accounts.chain(holds).chain(leases).chain(meta).chain(nodes).chain(rules)
    }

    /// As [`super::Ledger::accounts`].
    #[must_use]
    pub fn accounts(&self, now: Timestamp, query: &Query<'_>) -> Page {
        let now = now.0.max(self.meta.last_time_us);
        let age = super::age(&self.meta).saturating_add(now - self.meta.last_time_us);
        show::accounts(self, (now, age), query)
    }

    /// How long the oldest hold of the log is open by now whose deadline has not passed; none when nothing is held.
    #[must_use]
    pub fn oldest_hold(&self, now: Timestamp) -> Option<Duration> {
        let passed = now.0.saturating_sub(self.meta.last_time_us);
        let since = self
            .holds
            .iter()
            .filter(|(_, hold)| !hold.expired && !is_tally(hold.request))
            .map(|(_, hold)| hold.at)
            .min()?;
        Some(Duration::from_micros(super::age(&self.meta).saturating_add(passed).saturating_sub(since)))
    }

    /// The limits in force whose last change is accepted, and not effective everywhere: some node may spend by what they were
    /// before it.
    #[must_use]
    pub fn taking_effect(&self, now: Timestamp) -> Vec<Name> {
        let passed = now.0.saturating_sub(self.meta.last_time_us);
        show::taking_effect(self, super::age(&self.meta).saturating_add(passed))
    }
}
