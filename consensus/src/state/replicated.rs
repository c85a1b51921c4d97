//! The replicated state: the state machine, and what consensus keeps beside it.
//!
//! Pure: entries in, replies and changed rows out. Log time and age never go back, whatever clocks the leaders had.

use std::{collections::BTreeMap, io, iter, sync::Arc, time::Instant};

use bytes::Bytes;
use openraft::EntryPayload;
use serde::{Deserialize, Serialize};

use super::{
    dedup::{Dedup, Remembered},
    rows::{DEDUP_PREFIX, MACHINE_PREFIX, META_KEY, machine_key},
};
use crate::{
    ids::{incarnation_of, node_of},
    machine::{Applied, Changes, Files, Fingerprint, Image, Row, StateMachine},
    stamp::{Beginning, Times},
    types::{Asked, ChangeStep, Changed, Departure, Entry, LogId, Proposal, Reply, SnapshotMeta, StoredMembership},
};

/// What is known of the log up to which the state was applied.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Meta {
    pub(crate) applied: Option<LogId>,
    pub(crate) membership: StoredMembership,
    pub(crate) time_us: u64,
    /// The newest incarnation of each node that was ever a member: none may be given twice.
    pub(crate) incarnations: BTreeMap<u64, u16>,
    /// Rows of earlier versions have none: it stands behind what they have.
    #[serde(skip)]
    pub(crate) age_us: u64,
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

    fn times(&self) -> Times {
        Times { time_us: self.time_us, age_us: self.age_us }
    }

    /// Where the leadership begins that the last entry is of, if that was just applied.
    pub(crate) fn beginning(&self, at: Instant) -> Option<Beginning> {
        Some(Beginning { under: self.applied?.leader_id, times: self.times(), at })
    }

    fn row(&self) -> Row {
        let mut value = postcard::to_stdvec(self).expect("plain data always encodes");
        value.extend(self.age_us.to_le_bytes());
        (META_KEY.to_vec(), value)
    }

    fn parse(value: &[u8]) -> io::Result<Self> {
        let (meta, rest) = postcard::take_from_bytes::<Self>(value).map_err(io::Error::other)?;
        let age_us = match rest {
            [] => 0,
            rest => u64::from_le_bytes(rest.try_into().map_err(|_| io::Error::other("an age has another length"))?),
        };
        Ok(Self { age_us, ..meta })
    }
}

/// What is remembered of a membership change with a request id, in the place of a command's outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Begun {
    /// The newest incarnation of the node when the change was first asked for, 0 if it was never a member. A later one is
    /// not meant.
    pub(crate) newest: u16,
    /// Whether the node was a member then.
    pub(crate) member: bool,
    /// The Raft id of who led then.
    pub(crate) leader: u64,
    /// What it came to, once it was made.
    pub(crate) made: Option<Changed>,
}

impl Begun {
    fn encode(&self) -> Bytes {
        postcard::to_stdvec(self).expect("plain data always encodes").into()
    }

    pub(crate) fn decode(outcome: &[u8]) -> Option<Self> {
        postcard::from_bytes(outcome).ok()
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

    /// What the machine keeps beside its rows.
    pub(crate) fn files(&self) -> Arc<dyn Files> {
        self.machine.files()
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
            EntryPayload::Normal(proposal) => self.apply_proposal(entry.log_id, &proposal, changes),
        };
        let (key, value) = self.meta.row();
        changes.put(key, value);
        reply
    }

    fn apply_proposal(&mut self, log_id: LogId, proposal: &Proposal, changes: &mut Changes) -> Reply {
        let index = log_id.index;
        let Times { time_us, age_us } = self.meta.times().after(proposal.stamp, log_id.leader_id);
        (self.meta.time_us, self.meta.age_us) = (time_us, age_us);
        for key in self.dedup.expire(self.meta.time_us) {
            changes.delete(key);
        }
        match proposal.request {
            Asked::Once => Reply::Applied { index, outcome: self.apply_command(index, &proposal.command, changes) },
            Asked::Command(request_id) => {
                let fingerprint = self.machine.fingerprint(&proposal.command);
                self.once(request_id, fingerprint, index, changes, |state, changes| {
                    state.apply_command(index, &proposal.command, changes)
                })
            }
            Asked::Change { request_id, fingerprint, step: ChangeStep::Begin { node, leader } } => {
                self.once(request_id, fingerprint, index, changes, |state, _| state.begin(node, leader).encode())
            }
            Asked::Change { request_id, fingerprint, step: ChangeStep::Made(changed) } => {
                self.made(request_id, fingerprint, changed, changes)
            }
        }
    }

    /// Does what is asked for unless the request id is known: then the first outcome is given, if it is the same request.
    fn once(
        &mut self,
        request_id: [u8; 16],
        fingerprint: Fingerprint,
        index: u64,
        changes: &mut Changes,
        make: impl FnOnce(&mut Self, &mut Changes) -> Bytes,
    ) -> Reply {
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
        let outcome = make(self, changes);
        let (time_us, fingerprint) = (self.meta.time_us, Some(fingerprint));
        let first = Remembered { request_id, index, time_us, outcome: outcome.to_vec(), fingerprint };
        let (key, value) = self.dedup.remember(first);
        changes.put(key, value);
        Reply::Applied { index, outcome }
    }

    /// A membership change as of now: which incarnation of the node it is about.
    fn begin(&self, node: u64, leader: u64) -> Begun {
        let newest = self.meta.incarnations.get(&node).copied().unwrap_or(0);
        let member = self.meta.membership.nodes().any(|(id, _)| node_of(*id) == node);
        Begun { newest, member, leader, made: None }
    }

    /// The first outcome of a membership change that was begun stays.
    fn made(
        &mut self,
        request_id: [u8; 16],
        fingerprint: Fingerprint,
        changed: Changed,
        changes: &mut Changes,
    ) -> Reply {
        let Some(first) = self.dedup.find(&request_id) else {
            // Forgotten meanwhile: then there is nothing to keep it in.
            let (index, made) = (changed.index, Begun { made: Some(changed), ..self.begin(0, 0) });
            return Reply::Applied { index, outcome: made.encode() };
        };
        if first.fingerprint != Some(fingerprint) {
            return Reply::RequestIdUsed;
        }
        let index = first.index;
        let Some(mut begun) = Begun::decode(&first.outcome) else { return Reply::RequestIdUsed };
        begun.made.get_or_insert(changed);
        let outcome = begun.encode();
        if let Some((key, value)) = self.dedup.amend(&request_id, outcome.to_vec()) {
            changes.put(key, value);
        }
        Reply::Applied { index, outcome }
    }

    fn apply_command(&mut self, index: u64, command: &[u8], changes: &mut Changes) -> Bytes {
        let mut own = Changes::default();
        let at = Applied { index, time_us: self.meta.time_us, age_us: self.meta.age_us };
        let outcome = self.machine.apply(at, command, &mut own);
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
                meta = Some(Meta::parse(&value)?);
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
