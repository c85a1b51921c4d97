//! The replicated accounts: pure, driven by the log alone.
//!
//! An account is one combination of key values of one limit. In each window it has `capacity = free + held + used`
//! (I1); `free` is signed, as a limit may be lowered below what is already out. What a request used beyond what it had
//! reserved is its `overrun`: kept apart, it blocks the account until the window turns.
//!
//! **Without a turn**: a sliding window has no end, and concurrency has no window. What is used of the one counts until it has
//! aged (`slide.rs`); a permit of the other is held until its request ends, or its incarnation can't use it any more.
//!
//! **Time** is log time, stamped by the leader and made monotone here. A window turns with the first entry at or after
//! its end. A hold is labelled with the window of its charge (its *epoch*); ending it after the window has turned moves
//! nothing in the new one.
//!
//! **Edits of a limit** (QUOTA.md R2, R3). Every edit counts for holds at its own entry; leases are called back by a lower:
//! - raised or lowered: `free` moves by the difference, and may become negative; nothing that is held is taken back;
//! - window or time zone changed, of a limit or of some of its accounts (`apart.rs`): in place. What the accounts hold and used in the window that is open then counts in
//!   the new window around that moment, so an edit never gives anything twice;
//! - fixed or sliding, or how long a sliding window is: once all that nodes have in hand is called in (`change.rs`);
//! - unit or `per` changed: other accounts. The old ones are left as by a deletion, amounts of two units cannot be
//!   compared. A charge computed for the old form is `Stale`; one computed for an older version of the same form is good;
//! - deleted: no new hold. The accounts are kept until their window ends, so that a limit created again in that time
//!   (same name, unit and `per`) goes on where it was: a raise of the tombstone.
//!
//! **Purses** (`purse.rs`): what is used is gone for good, and the capacity is what was paid in and is not spent. Each has one account.
//!
//! **Leases** (`leases.rs`): a part of an account may be in the hands of nodes, who spend it without asking. Then
//! `capacity = free + held + used + leased + suspense`. A hold takes what is free, whether or not there are leases; what it
//! is short of is called back before it is refused.
//!
//! **Frames** count once: records are numbered by (node, incarnation), known ones are skipped, and a repeated hold is
//! answered from what is held. [`Ledger::open`] fences older incarnations and consumes what they held; a hold whose
//! deadline has passed in log time is consumed too, and corrected once should its settlement still come; not so a permit. What
//! an earlier incarnation has journaled and not said is said by the next (`recover.rs`).
//!
//! **Bounds**: [`MAX_ACCOUNTS`] for each limit, beyond which all further keys of the window share one overflow account
//! (exact: what all of them use together stays within the capacity of one); [`MAX_HOLDS`] for each node; accounts whose
//! window has passed are collected, a few with every entry. Ids are interned, records are flat, images share memory
//! with the live ledger until it writes.
//!
//! Not here: which limits a request meets (`model`), who proposes (`agent.rs`, `desk.rs`), money (`billing`).

mod accounts;
mod apart;
mod apply;
mod audit;
mod audited;
#[cfg(any(test, feature = "seeded-bugs"))]
pub(crate) mod bugs;
mod central;
mod change;
#[cfg(any(test, feature = "seeded-bugs"))]
mod digest;
mod encode;
mod free;
mod holds;
mod image;
mod keys;
mod leases;
mod lost;
mod nodes;
mod peek;
mod present;
mod purse;
mod recover;
mod reset;
mod rows;
mod rules;
mod shadow;
mod show;
mod slab;
mod spread;
mod standing;
mod unknown;
mod unprotected;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use tollgate_model::{LogIndex, Name, Timestamp};
use tollgate_proto::state::v1::{
    Attribution, LedgerMetaRow, NodeOpen, NodeOpenOutcome, Outcome, QuotaBatch, QuotaOutcome, Usage,
};

use crate::Rule;

pub(crate) use accounts::overflow_key;
pub use apart::Zones;
pub use audited::{Audited, Sums, Unsound};
pub(crate) use holds::{actual, requests_of};
pub use image::Image;
pub use leases::LeaseView;
pub use nodes::Earlier;
pub use purse::{Bearer, PurseBill, PurseView, WrittenOff};
pub use rows::RestoreError;
pub use show::{AccountView, Keep, Page, Position, Query, Sort, title};
#[cfg(any(test, feature = "seeded-bugs"))]
pub(crate) use standing::WayView;
pub(crate) use standing::{MAX_UNRECORDED, ShareView, Shares};
pub use unknown::Unknown;
pub use unprotected::Unprotected;

/// Rows that changed: key, and value or `None` for a deletion.
pub type Changes = Vec<(Vec<u8>, Option<Vec<u8>>)>;

/// Accounts of one limit that have a record of their own: 64 MB each in the worst case.
pub const MAX_ACCOUNTS: u32 = 1_000_000;
/// Open holds of one node, the expired ones that may still be corrected included.
pub const MAX_HOLDS: u32 = 131_072;
/// Leases of all nodes, those in suspense included: beyond them every request asks the log.
pub const MAX_LEASES: usize = 1_000_000;
/// Below this an account is too small to be divided: two of its greatest requests for each node (QUOTA.md 3.3, θ).
const KEPT: (u64, u64) = (2, 0);
/// What nodes have by rule (QUOTA.md 3.3). A share that is too small for some usual requests would only have to be called back.
const STANDING: Option<Shares> = Some(Shares { short: (4, 5), long: (1, 2), least: (16, 16_384) });
/// Nodes that ever opened an incarnation.
pub const MAX_NODES: usize = 1_024;
/// How long a process that is cut off may go on spending what it has, unless its successor says how long.
pub(crate) const ISOLATION_US: u64 = 30_000_000;
/// Limits that one hold may charge.
pub const MAX_CHARGES: usize = 64;
/// Bytes of all key values of one charge together.
pub const MAX_KEY_BYTES: usize = tollgate_model::KEY_BYTES;

/// The replicated ledger.
#[derive(Debug)]
#[cfg_attr(any(test, feature = "seeded-bugs"), derive(Clone))]
pub struct Ledger {
    meta: LedgerMetaRow,
    rules: rules::Rules,
    accounts: accounts::Accounts,
    nodes: nodes::Nodes,
    holds: holds::Holds,
    leases: leases::Leases,
    /// Follows the catalog, as rules do; in no row of ours.
    zones: Arc<dyn Zones>,
    bounds: Bounds,
    dirty: rows::Dirty,
    news: News,
    /// What was written off of purses, until somebody takes it in.
    written_off: Vec<WrittenOff>,
    /// Incarnations of which this entry has brought the last word, until their purses are closed.
    closing: Vec<(u64, u64)>,
    /// Makes it wrong in one way, to prove that the checks would see it.
    #[cfg(any(test, feature = "seeded-bugs"))]
    pub(crate) bug: Option<bugs::Bug>,
    /// Hands out no rows: for a replica whose rows nobody keeps.
    #[cfg(any(test, feature = "seeded-bugs"))]
    pub(crate) silent: bool,
}

/// The bounds above, smaller in tests.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) accounts: u32,
    pub(crate) holds: u32,
    pub(crate) leases: usize,
    /// What is not granted away: so many of the greatest requests for each node, and so many units besides.
    pub(crate) kept: (u64, u64),
    /// What nodes have of each account by rule; none where that is switched off.
    pub(crate) standing: Option<Shares>,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { accounts: MAX_ACCOUNTS, holds: MAX_HOLDS, leases: MAX_LEASES, kept: KEPT, standing: STANDING }
    }
}

fn age(meta: &LedgerMetaRow) -> u64 {
    if meta.age_us > 0 { meta.age_us } else { meta.last_time_us }
}

/// What a batch did.
#[derive(Debug)]
pub struct Applied<'a> {
    /// The answer for those who proposed it.
    pub outcome: QuotaOutcome,
    /// Usage that counted now, and counts no second time: to be aggregated.
    pub used: Vec<Used<'a>>,
}

/// What one dispatched request used.
#[derive(Debug, Clone, Copy)]
pub struct Used<'a> {
    /// The node that served it.
    pub node: u64,
    /// For whom and by what.
    pub attribution: &'a Attribution,
    /// The incarnation of the node that served it.
    pub incarnation: u64,
    /// How much.
    pub usage: &'a Usage,
    /// How it ended. Voided: an upstream was asked and did no work for it.
    pub outcome: Outcome,
    /// Who said so.
    pub told: Told,
    /// The row of the billing ledger that has said before that nobody knows what it used; 0 if there is none.
    pub corrects: u64,
}

/// Who says how a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// The process that served it.
    Itself,
    /// The journal of that process, when it had died.
    Journal,
    /// Nobody: its process died with it, and the journal knows only that it went out.
    Nobody,
}

/// What has changed since it was last taken, for those who follow some accounts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct News {
    /// Limits were changed, or the whole ledger is another: look at everything again.
    pub all: bool,
    /// Accounts that have changed, or are gone.
    pub accounts: Vec<u32>,
    /// What nodes have by rule has changed: all of it is to be read anew.
    pub shares: bool,
}

/// Changed accounts that are named one by one; beyond them everything counts as changed. Also what bounds news that
/// nobody takes.
const MAX_NEWS: usize = 4_096;

impl News {
    fn add(&mut self, accounts: &[u32], shares: bool, all: bool) {
        self.shares |= shares;
        self.all |= all || self.accounts.len() + accounts.len() > MAX_NEWS;
        if self.all {
            self.accounts.clear();
        } else {
            self.accounts.extend_from_slice(accounts);
        }
    }
}

impl Default for Ledger {
    fn default() -> Self {
        Self::new()
    }
}

impl Ledger {
    /// A ledger without limits.
    #[must_use]
    pub fn new() -> Self {
        Self::with_bounds(Bounds::default())
    }

    pub(crate) fn with_bounds(bounds: Bounds) -> Self {
        Self {
            meta: LedgerMetaRow { next_epoch: 1, ..LedgerMetaRow::default() },
            rules: rules::Rules::default(),
            accounts: accounts::Accounts::default(),
            nodes: nodes::Nodes::default(),
            holds: holds::Holds::default(),
            leases: leases::Leases::default(),
            zones: Arc::new(apart::Nowhere),
            bounds,
            dirty: rows::Dirty::default(),
            news: News { all: true, ..News::default() },
            written_off: Vec::new(),
            closing: Vec::new(),
            #[cfg(any(test, feature = "seeded-bugs"))]
            bug: None,
            #[cfg(any(test, feature = "seeded-bugs"))]
            silent: false,
        }
    }

    /// Applies the frames of one log entry.
    pub fn apply<'a>(
        &mut self,
        at: LogIndex,
        now: Timestamp,
        batch: &'a QuotaBatch,
        changes: &mut Changes,
    ) -> Applied<'a> {
        let now = self.begin(now);
        let mut applied = Applied { outcome: QuotaOutcome::default(), used: Vec::new() };
        for frame in &batch.frames {
            let outcome = self.apply_frame(at, now, frame, &mut applied.used);
            applied.outcome.frames.push(outcome);
        }
        self.finish(now, changes);
        applied
    }

    /// Starts a new incarnation of a node: fences the older ones and consumes what they still held. Repeating it, or
    /// coming with an older incarnation, changes nothing.
    pub fn open(&mut self, at: LogIndex, now: Timestamp, open: &NodeOpen, changes: &mut Changes) -> NodeOpenOutcome {
        let now = self.begin(now);
        let outcome = self.open_node(at, now, open);
        self.finish(now, changes);
        outcome
    }

    /// Puts a limit into force, or changes it: called when its configuration change is applied.
    pub fn set_rule(&mut self, now: Timestamp, rule: Rule, changes: &mut Changes) {
        let now = self.begin(now);
        self.put_rule(now, rule);
        self.finish(now, changes);
    }

    /// Takes a limit out of force at `at`, the index of the change that deleted it.
    pub fn remove_rule(&mut self, at: LogIndex, now: Timestamp, limit: &Name, changes: &mut Changes) {
        let now = self.begin(now);
        self.bury_rules(at, now, limit);
        self.finish(now, changes);
    }

    /// The limits in force, in order of their names.
    #[must_use]
    pub fn rules(&self) -> Vec<Rule> {
        self.rules.in_force()
    }

    /// A limit in force.
    #[must_use]
    pub fn rule(&self, limit: &str) -> Option<&Rule> {
        self.rules.live(limit).map(|id| self.rules.get(id).accepted())
    }

    /// One page of the accounts that were touched in their window, as of `now` or the last entry, whichever is later.
    #[must_use]
    pub fn accounts(&self, now: Timestamp, query: &Query<'_>) -> Page {
        self.image().accounts(now, query)
    }

    /// What has happened since the beginning: replicated counters for metrics.
    #[must_use]
    pub fn counters(&self) -> &LedgerMetaRow {
        &self.meta
    }

    /// The incarnation of `node` that is open, and the last record of it that was applied.
    #[must_use]
    pub fn node(&self, node: u64) -> Option<(u64, u64)> {
        self.nodes.get(node).map(|state| (state.incarnation, state.last_seq))
    }

    /// What has changed since this was last called: with several changes in one entry, all of them.
    #[must_use]
    pub fn take_news(&mut self) -> News {
        std::mem::take(&mut self.news)
    }

    /// Open holds, expired ones included.
    #[must_use]
    pub fn open_holds(&self) -> usize {
        self.holds.len()
    }

    /// A point-in-time image for a snapshot, in some microseconds: memory is shared until the ledger writes to it.
    #[must_use]
    pub fn image(&self) -> Image {
        Image::new(&self.meta, &self.rules, &self.accounts, &self.nodes, &self.holds, &self.leases)
    }

    /// The ledger that these rows are of: behaves exactly as the one they were taken from.
    ///
    /// # Errors
    /// When a row is not one of ours, or refers to one that is missing.
    pub fn restore<E>(rows: impl IntoIterator<Item = Result<(Vec<u8>, Vec<u8>), E>>) -> Result<Self, RestoreError>
    where
        RestoreError: From<E>,
    {
        Self::restore_with(Bounds::default(), rows)
    }

    /// Gives a limit so many accounts at most, for tests of what comes then: the same on all nodes, from the first entry on.
    #[cfg(feature = "failpoints")]
    pub fn bound_accounts(&mut self, accounts: u32) {
        self.bounds.accounts = accounts;
    }

    /// Takes the stamp of the next entry by a clock that may begin anywhere, and never runs faster than real time: from the first
    /// on, the ledger ages by their differences. Without any, it is as old as log time says.
    pub fn stamp(&mut self, stamp_us: u64) {
        let meta = &mut self.meta;
        if meta.age_us == 0 {
            (meta.age_us, meta.stamp_us) = (meta.last_time_us.max(1), stamp_us);
        }
        meta.age_us = meta.age_us.saturating_add(stamp_us.saturating_sub(meta.stamp_us));
        meta.stamp_us = meta.stamp_us.max(stamp_us);
    }

    /// The time by which what was used ages: in sliding windows, and in suspense where no window turns.
    pub(crate) fn age(&self) -> u64 {
        age(&self.meta)
    }

    /// Makes time monotone, and does what is due by it.
    fn begin(&mut self, now: Timestamp) -> u64 {
        let now = now.0.max(self.meta.last_time_us);
        self.meta.last_time_us = now;
        #[cfg(any(test, feature = "seeded-bugs"))]
        if self.bug == Some(bugs::Bug::TimeOutFreesLeases) {
            self.free_what_is_late(now);
        }
        self.expire_holds(now);
        self.free_suspense();
        self.write_off_lost();
        now
    }

    /// Collects a few idle accounts and hands out the rows that changed.
    fn finish(&mut self, now: u64, changes: &mut Changes) {
        self.change_what_is_called_in(now);
        self.sweep(now);
        #[cfg(debug_assertions)]
        self.assert_conserved();
        self.drain_changes(changes);
    }

    /// I1 of every account that the entry has touched.
    #[cfg(debug_assertions)]
    fn assert_conserved(&self) {
        #[cfg(any(test, feature = "seeded-bugs"))]
        if self.bug.is_some() {
            return;
        }
        for id in &self.dirty.accounts {
            if let Err(violation) = self.audit_leases(*id) {
                panic!("{violation}");
            }
        }
    }
}
