//! The ledger as key/value rows: what a snapshot carries and the state store keeps.
//!
//! Keys are a letter and a number, so their order is that of the records: `a` accounts, `h` holds, `l` leases, `m` the one row about
//! the whole, `n` nodes, `r` rules. Values are protobuf. What can be derived (indexes, counts, free numbers, what is due)
//! is not in them.

mod rule;

use std::io;

use prost::Message;
use tollgate_proto::state::v1::{
    AccountRow, EarlierIncarnation, HeldCharge, HoldRow, LeaseRow, LedgerMetaRow, LostNode, NodeRow, SlotRow,
};

pub(super) use self::rule::rule_row;
use self::rule::rule_state;
use super::{
    Bounds, Changes, Ledger,
    accounts::{Account, Kind, Rare},
    encode::account_row,
    holds::{Held, HoldState},
    keys::Key,
    leases::Lease,
    lost::Lost,
    nodes::{Earlier, NodeState},
    rules::RuleState,
};
use crate::slide::{Slide, Slot};

const ACCOUNT: u8 = b'a';
const HOLD: u8 = b'h';
const LEASE: u8 = b'l';
const META: u8 = b'm';
const NODE: u8 = b'n';
const RULE: u8 = b'r';

/// Rows that are no ledger.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// A key that the ledger does not write.
    #[error("row {0:?} is not one of the ledger's")]
    Key(Vec<u8>),
    /// A value that does not say what its key promises.
    #[error("row {key:?} cannot be read")]
    Value {
        /// The row's key.
        key: Vec<u8>,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An account without its rule, or a hold without its node.
    #[error("row {0:?} refers to a row that is missing")]
    Dangling(Vec<u8>),
    /// The rows could not be read.
    #[error("the rows cannot be read")]
    Source(#[from] io::Error),
}

impl From<std::convert::Infallible> for RestoreError {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

/// What an entry has touched; with repetitions.
#[derive(Debug, Default)]
#[cfg_attr(any(test, feature = "seeded-bugs"), derive(Clone))]
pub(super) struct Dirty {
    pub(super) rules: Vec<u32>,
    /// Rules of which only the rosters have changed.
    pub(super) rosters: Vec<u32>,
    /// Purses of which only the capacity has changed.
    pub(super) purses: Vec<u32>,
    pub(super) accounts: Vec<u32>,
    pub(super) holds: Vec<u32>,
    pub(super) leases: Vec<u32>,
    pub(super) nodes: Vec<u64>,
}

/// What a vector keeps for the next entry, at most: one large entry is not kept in memory for ever.
const KEPT: usize = 16_384;

impl Dirty {
    fn clear(&mut self) {
        let Self { rules, rosters, purses, accounts, holds, leases, nodes } = self;
        for ids in [rules, rosters, purses, accounts, holds, leases] {
            ids.clear();
            ids.shrink_to(KEPT);
        }
        nodes.clear();
        nodes.shrink_to(KEPT);
    }
}

pub(super) fn account_key(id: u32) -> Vec<u8> {
    numbered(ACCOUNT, &id.to_be_bytes())
}

pub(super) fn hold_key(id: u32) -> Vec<u8> {
    numbered(HOLD, &id.to_be_bytes())
}

pub(super) fn lease_key(id: u32) -> Vec<u8> {
    numbered(LEASE, &id.to_be_bytes())
}

pub(super) fn node_key(node: u64) -> Vec<u8> {
    numbered(NODE, &node.to_be_bytes())
}

pub(super) fn rule_key(id: u32) -> Vec<u8> {
    numbered(RULE, &id.to_be_bytes())
}

pub(super) fn meta_key() -> Vec<u8> {
    vec![META]
}

fn numbered(letter: u8, number: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + number.len());
    key.push(letter);
    key.extend_from_slice(number);
    key
}

impl Ledger {
    /// Rows of what was touched since the last call, each once, in order of their keys.
    pub(super) fn drain_changes(&mut self, changes: &mut Changes) {
        let mut dirty = std::mem::take(&mut self.dirty);
        #[cfg(any(test, feature = "seeded-bugs"))]
        if self.silent {
            self.news.add(once(&mut dirty.accounts), !dirty.rosters.is_empty(), !dirty.rules.is_empty());
            dirty.clear();
            self.dirty = dirty;
            return;
        }
        let mut scratch = Vec::new();
        let accounts = once(&mut dirty.accounts);
        changes.reserve(accounts.len() + dirty.holds.len() + dirty.leases.len() + 2);
        for &id in accounts {
            let row = |it: &Account| account_row(it, self.accounts.keys.text(it.key), &mut scratch);
            changes.push((account_key(id), self.accounts.get(id).map(row)));
        }
        for &id in once(&mut dirty.holds) {
            changes.push((hold_key(id), self.holds.slab.get(id).map(hold_row)));
        }
        for &id in once(&mut dirty.leases) {
            changes.push((lease_key(id), self.leases.slab.get(id).map(lease_row)));
        }
        changes.push((meta_key(), Some(self.meta.encode_to_vec())));
        for &node in once(&mut dirty.nodes) {
            changes.push((node_key(node), self.nodes.get(node).map(node_row)));
        }
        self.news.add(&dirty.accounts, !dirty.rosters.is_empty(), !dirty.rules.is_empty());
        dirty.rules.append(&mut dirty.rosters);
        dirty.rules.append(&mut dirty.purses);
        for &id in once(&mut dirty.rules) {
            changes.push((rule_key(id), self.rules.slab.get(id).map(rule_row)));
        }
        dirty.clear();
        self.dirty = dirty;
    }

    pub(crate) fn restore_with<E>(
        bounds: Bounds,
        rows: impl IntoIterator<Item = Result<(Vec<u8>, Vec<u8>), E>>,
    ) -> Result<Self, RestoreError>
    where
        RestoreError: From<E>,
    {
        let mut ledger = Self::with_bounds(bounds);
        let mut rules = Vec::new();
        for row in rows {
            let (key, value) = row?;
            ledger.restore_row(&key, &value, &mut rules)?;
        }
        for (id, state) in rules {
            ledger.rules.restore(id, state, ledger.meta.last_time_us);
        }
        ledger.check_references()?;
        Ok(ledger)
    }

    fn restore_row(&mut self, key: &[u8], value: &[u8], rules: &mut Vec<(u32, RuleState)>) -> Result<(), RestoreError> {
        let wrong = || RestoreError::Key(key.to_vec());
        let (letter, number) = key.split_first().ok_or_else(wrong)?;
        let id = || number.try_into().map(u32::from_be_bytes).map_err(|_| wrong());
        match *letter {
            ACCOUNT => {
                let mut row: AccountRow = decode(key, value)?;
                let text = std::mem::take(&mut row.key);
                self.accounts.restore(id()?, account(key, row)?, &text);
            }
            HOLD => self.holds.restore(id()?, hold(decode(key, value)?)),
            LEASE => self.leases.restore(id()?, lease(key, decode(key, value)?)?),
            META => self.meta = decode(key, value)?,
            NODE => {
                let node = number.try_into().map(u64::from_be_bytes).map_err(|_| wrong())?;
                self.nodes.put(node, state_of_node(decode(key, value)?));
            }
            RULE => rules.push((id()?, rule_state(key, decode(key, value)?)?)),
            _ => return Err(wrong()),
        }
        Ok(())
    }

    /// Counts the holds of each node, and makes sure that no record refers to nothing.
    fn check_references(&mut self) -> Result<(), RestoreError> {
        let orphan = self.accounts.slab.iter().find(|(_, account)| self.rules.slab.get(account.rule).is_none());
        if let Some((id, _)) = orphan {
            return Err(RestoreError::Dangling(account_key(id)));
        }
        for (id, hold) in self.holds.slab.iter() {
            let Some(node) = self.nodes.get_mut(hold.node) else { return Err(RestoreError::Dangling(hold_key(id))) };
            node.holds += 1;
        }
        self.count_leases()
    }

    /// What is leased and in suspense follows from the leases.
    fn count_leases(&mut self) -> Result<(), RestoreError> {
        for id in 0..self.leases.slab.end() {
            let Some(lease) = self.leases.slab.get_mut(id) else { continue };
            let rule = self.accounts.get(lease.account).map(|account| &self.rules.get(account.rule).rule);
            let open = self.nodes.get(lease.node).is_some_and(|node| node.is_open(lease.incarnation));
            lease.slides = open && rule.is_some_and(|rule| rule.span().is_some());
            let lease = *lease;
            let account = self.accounts.slab.get_mut(lease.account).filter(|it| it.epoch == lease.epoch);
            let Some(account) = account else { return Err(RestoreError::Dangling(lease_key(id))) };
            *(if open { &mut account.leased } else { &mut account.rare_mut().suspense }) += lease.outstanding();
            account.take(lease.outstanding());
        }
        Ok(())
    }
}

/// Each once, in order.
fn once<T: Ord>(touched: &mut Vec<T>) -> &[T] {
    touched.sort_unstable();
    touched.dedup();
    touched
}

fn decode<M: Message + Default>(key: &[u8], value: &[u8]) -> Result<M, RestoreError> {
    M::decode(value).map_err(|source| RestoreError::Value { key: key.to_vec(), source: source.into() })
}

pub(super) fn meta_row(meta: &LedgerMetaRow) -> Vec<u8> {
    meta.encode_to_vec()
}

fn slide(key: &[u8], rows: Vec<SlotRow>) -> Result<Slide, RestoreError> {
    if !rows.is_sorted_by_key(|row| row.at_us) {
        let source = "its slots are not in order".into();
        return Err(RestoreError::Value { key: key.to_vec(), source });
    }
    let slot = |SlotRow { at_us, used, held, overrun }| Slot { at: at_us, used, held, overrun };
    Ok(Slide::of(rows.into_iter().map(slot).collect()))
}

fn account(key: &[u8], row: AccountRow) -> Result<Account, RestoreError> {
    let rare = Rare {
        overrun: row.overrun,
        suspense: 0,
        central: row.central,
        generation: row.generation,
        ask_at: row.ask_at_us,
        recall_until: row.recall_until_us,
        slide: slide(key, row.slots)?,
        made: row.made,
        kind: match row.kind {
            1 => Kind::Late,
            2 => Kind::Shared,
            _ => Kind::Own,
        },
        window: (row.window_start_us, row.window_end_us),
        billed: row.billed,
    };
    let mut account = Account::new(row.rule, row.epoch, Key::NONE);
    (account.used, account.held, account.ask) = (row.used, row.held, row.ask);
    account.take(row.used.wrapping_add(row.held));
    Ok(account.with(rare))
}

pub(super) fn lease_row(lease: &Lease) -> Vec<u8> {
    LeaseRow {
        account: lease.account,
        epoch: lease.epoch,
        node: lease.node,
        incarnation: lease.incarnation,
        granted: lease.granted,
        returned: lease.returned,
        spent: lease.spent,
        overrun: lease.overrun,
        held: lease.held,
        generation: lease.generation,
        free_at_us: lease.free_at,
        lost: lease.lost,
        released: lease.released,
        unbilled: lease.unbilled,
    }
    .encode_to_vec()
}

fn lease(key: &[u8], row: LeaseRow) -> Result<Lease, RestoreError> {
    if row.returned.checked_add(row.spent).is_none_or(|sum| sum > row.granted) {
        let source = "more was spent and returned than was granted".into();
        return Err(RestoreError::Value { key: key.to_vec(), source });
    }
    Ok(Lease {
        account: row.account,
        epoch: row.epoch,
        node: row.node,
        incarnation: row.incarnation,
        granted: row.granted,
        returned: row.returned,
        spent: row.spent,
        overrun: row.overrun,
        held: row.held,
        generation: row.generation,
        free_at: row.free_at_us,
        slides: false, // as its account does: see `count_leases`
        lost: row.lost,
        released: row.released,
        unbilled: row.unbilled,
    })
}

pub(super) fn hold_row(hold: &HoldState) -> Vec<u8> {
    let charge = |&Held { account, epoch, amount }: &Held| HeldCharge { account, epoch, amount };
    HoldRow {
        node: hold.node,
        request: hold.request,
        deadline_us: hold.deadline_us,
        charges: hold.charges.iter().map(charge).collect(),
        expired: hold.expired,
        at_us: hold.at,
        journaled: hold.journaled,
        attribution: hold.attribution.clone(),
        orphaned_in: hold.orphaned_in,
        closed: hold.closed,
    }
    .encode_to_vec()
}

fn hold(row: HoldRow) -> HoldState {
    let charge = |HeldCharge { account, epoch, amount }| Held { account, epoch, amount };
    HoldState {
        node: row.node,
        request: row.request,
        deadline_us: row.deadline_us,
        at: row.at_us,
        expired: row.expired,
        journaled: row.journaled,
        attribution: row.attribution,
        orphaned_in: row.orphaned_in,
        closed: row.closed,
        charges: row.charges.into_iter().map(charge).collect(),
    }
}

pub(super) fn node_row(node: &NodeState) -> Vec<u8> {
    let row = |&Earlier { incarnation, last_terminal, last_orphan }: &Earlier| EarlierIncarnation {
        incarnation,
        last_terminal,
        last_orphan,
    };
    NodeRow {
        incarnation: node.incarnation,
        last_seq: node.last_seq,
        last_terminal: node.last_terminal,
        earlier: node.earlier.iter().map(row).collect(),
        isolation_us: node.isolation_us,
        lost: node.lost.as_ref().map(lost_row),
        heard_us: node.heard,
    }
    .encode_to_vec()
}

fn state_of_node(row: NodeRow) -> NodeState {
    let earlier = |EarlierIncarnation { incarnation, last_terminal, last_orphan }| Earlier {
        incarnation,
        last_terminal,
        last_orphan,
    };
    NodeState {
        incarnation: row.incarnation,
        last_seq: row.last_seq,
        last_terminal: row.last_terminal,
        earlier: row.earlier.into_iter().map(earlier).collect(),
        heard: row.heard_us,
        holds: 0,
        isolation_us: row.isolation_us,
        lost: row.lost.map(|it| Lost {
            write_off: it.write_off(),
            at: it.at_us,
            done: it.done,
            told: it.told,
            actor: it.actor,
        }),
    }
}

fn lost_row(lost: &Lost) -> LostNode {
    let &Lost { write_off, at: at_us, done, told, ref actor } = lost;
    LostNode { write_off: write_off.into(), at_us, done, actor: actor.clone(), told }
}
