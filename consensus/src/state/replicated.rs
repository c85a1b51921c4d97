//! The replicated state: the state machine, and what consensus keeps beside it.
//!
//! Pure: entries in, replies and changed rows out. Log time never goes back, whatever clocks the leaders had.

use std::{collections::BTreeMap, io, iter};

use bytes::Bytes;
use openraft::EntryPayload;
use serde::{Deserialize, Serialize};

use super::{
    dedup::{Dedup, Remembered},
    rows::{DEDUP_PREFIX, MACHINE_PREFIX, META_KEY, machine_key},
};
use crate::{
    ids::{incarnation_of, node_of},
    machine::{Applied, Changes, Image, Row, StateMachine},
    types::{Departure, Entry, LogId, Proposal, Reply, SnapshotMeta, StoredMembership},
};

/// What is known of the log up to which the state was applied.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Meta {
    pub(crate) applied: Option<LogId>,
    pub(crate) membership: StoredMembership,
    pub(crate) time_us: u64,
    /// The newest incarnation of each node that was ever a member: none may be given twice.
    pub(crate) incarnations: BTreeMap<u64, u16>,
}

impl Meta {
    pub(crate) fn snapshot_meta(&self) -> SnapshotMeta {
        SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone() }
    }

    /// How an incarnation that was a member is one no more; `None` of one that is a member, or never was one.
    pub(crate) fn departure(&self, raft_id: u64) -> Option<Departure> {
        let node = node_of(raft_id);
        let newest_ever = self.incarnations.get(&node).copied().unwrap_or(0);
        let newest = self.membership.nodes().map(|(id, _)| *id).filter(|id| node_of(*id) == node).max();
        match newest {
            _ if newest_ever < incarnation_of(raft_id) => None,
            Some(newest) if newest == raft_id => None,
            Some(newest) if newest > raft_id => Some(Departure::Replaced),
            _ => Some(Departure::Removed),
        }
    }

    fn row(&self) -> Row {
        (META_KEY.to_vec(), postcard::to_stdvec(self).expect("plain data always encodes"))
    }
}

pub(crate) struct Replicated {
    machine: Box<dyn StateMachine>,
    dedup: Dedup,
    meta: Meta,
}

impl Replicated {
    pub(crate) fn new(machine: Box<dyn StateMachine>) -> Self {
        Self { machine, dedup: Dedup::default(), meta: Meta::default() }
    }

    pub(crate) fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Applies one entry; `changes` gets every row that it changed, with the applied id among them.
    pub(crate) fn apply(&mut self, entry: Entry, changes: &mut Changes) -> Reply {
        self.meta.applied = Some(entry.log_id);
        let reply = match entry.payload {
            EntryPayload::Blank => Reply::Nothing,
            EntryPayload::Membership(membership) => {
                self.note_incarnations(membership.nodes().map(|(id, _)| *id));
                self.meta.membership = StoredMembership::new(Some(entry.log_id), membership);
                Reply::Nothing
            }
            EntryPayload::Normal(proposal) => self.apply_proposal(entry.log_id.index, &proposal, changes),
        };
        let (key, value) = self.meta.row();
        changes.put(key, value);
        reply
    }

    fn apply_proposal(&mut self, index: u64, proposal: &Proposal, changes: &mut Changes) -> Reply {
        self.meta.time_us = self.meta.time_us.max(proposal.time_us);
        for key in self.dedup.expire(self.meta.time_us) {
            changes.delete(key);
        }
        let Some(request_id) = proposal.request_id else {
            return Reply::Applied { index, outcome: self.apply_command(index, &proposal.command, changes) };
        };
        let fingerprint = self.machine.fingerprint(&proposal.command);
        match self.dedup.find(&request_id) {
            Some(first) if first.is_of(fingerprint) => {
                return Reply::Applied { index: first.index, outcome: Bytes::copy_from_slice(&first.outcome) };
            }
            Some(_) => return Reply::RequestIdUsed,
            None => {}
        }
        if self.dedup.is_full() {
            return Reply::TooManyRequestIds;
        }
        let outcome = self.apply_command(index, &proposal.command, changes);
        let (time_us, fingerprint) = (self.meta.time_us, Some(fingerprint));
        let first = Remembered { request_id, index, time_us, outcome: outcome.to_vec(), fingerprint };
        let (key, value) = self.dedup.remember(first);
        changes.put(key, value);
        Reply::Applied { index, outcome }
    }

    fn apply_command(&mut self, index: u64, command: &[u8], changes: &mut Changes) -> Bytes {
        let mut own = Changes::default();
        let outcome = self.machine.apply(Applied { index, time_us: self.meta.time_us }, command, &mut own);
        for (key, value) in own.drain() {
            match value {
                Some(value) => changes.put(machine_key(&key), value),
                None => changes.delete(machine_key(&key)),
            }
        }
        outcome
    }

    fn note_incarnations(&mut self, raft_ids: impl Iterator<Item = u64>) {
        for id in raft_ids {
            let newest = self.meta.incarnations.entry(node_of(id)).or_default();
            *newest = incarnation_of(id).max(*newest);
        }
    }

    /// All rows, sorted, as of now.
    pub(crate) fn image(&self) -> Image {
        let machine = self.machine.image().map(|(key, value)| (machine_key(&key), value));
        Box::new(self.dedup.image().chain(iter::once(self.meta.row())).chain(machine))
    }

    /// Replaces everything by `rows`. After an error this must be restored again or thrown away.
    pub(crate) fn restore(&mut self, rows: &mut dyn Iterator<Item = io::Result<Row>>) -> io::Result<()> {
        self.dedup = Dedup::default();
        self.meta = Meta::default();
        let mut meta = None;
        let mut first_of_machine = None;
        for row in &mut *rows {
            let (key, value) = row?;
            if key.starts_with(&DEDUP_PREFIX) {
                self.dedup.restore_row(&value)?;
            } else if key == META_KEY {
                meta = Some(postcard::from_bytes(&value).map_err(io::Error::other)?);
            } else {
                first_of_machine = Some(Ok((key, value)));
                break;
            }
        }
        self.meta = meta.ok_or_else(|| io::Error::other("there is no row with the applied log id"))?;
        self.machine.restore(&mut first_of_machine.into_iter().chain(rows).map(|row| row.and_then(strip)))
    }

    /// Back to the state before the first entry.
    pub(crate) fn clear(&mut self) -> io::Result<()> {
        self.dedup = Dedup::default();
        self.meta = Meta::default();
        self.machine.restore(&mut iter::empty())
    }
}

fn strip((mut key, value): Row) -> io::Result<Row> {
    if key.first() != Some(&MACHINE_PREFIX) {
        return Err(io::Error::other("a row of an unknown kind"));
    }
    key.remove(0);
    Ok((key, value))
}
