//! Journals, and what is left of them when a process dies.

use tollgate_proto::state::v1::{JournalEntry, Recover, journal_entry};

use super::*;
use crate::journal::{Remains, Replay};

/// After so many entries the journal is long enough to be restated.
const LONG: usize = 200;

/// What one process has written, in order. What is not durable is there in part after a crash, or not at all.
#[derive(Debug, Default)]
pub(super) struct Disk {
    entries: Vec<Vec<u8>>,
    /// Of `entries`, those that are there whatever happens.
    safe: usize,
    /// Entries that this process has written, and those that are durable.
    written: u64,
    durable: u64,
    since_image: usize,
    /// Where the last image begins, and where those that are whole begin and end.
    begun: usize,
    images: VecDeque<(usize, usize)>,
    /// When all that was written so far is durable: one sync after the other.
    busy_until: u64,
}

impl Disk {
    /// What earlier processes have left. What is written from here on is of this incarnation.
    pub(super) fn start(&mut self, incarnation: u64) -> Vec<Remains> {
        let mut replay = Replay::default();
        self.entries.iter().for_each(|entry| replay.entry(entry).expect("it was written by an outbox"));
        let start = JournalEntry { kind: Some(journal_entry::Kind::Start(incarnation)) };
        self.entries.push(start.encode_to_vec());
        self.safe = self.entries.len();
        (self.written, self.durable, self.busy_until) = (0, 0, 0);
        replay.finish()
    }

    fn append(&mut self, entries: &[JournalEntry]) -> u64 {
        for (at, entry) in (self.entries.len()..).zip(entries) {
            match entry.kind {
                Some(journal_entry::Kind::Image(_)) => self.begun = at,
                Some(journal_entry::Kind::ImageEnd(_)) => self.images.push_back((self.begun, at)),
                _ => {}
            }
        }
        self.entries.extend(entries.iter().map(Message::encode_to_vec));
        self.written += entries.len() as u64;
        self.since_image += entries.len();
        self.written
    }

    fn is_durable(&self, position: u64) -> bool {
        position <= self.durable
    }

    fn sync(&mut self, position: u64) {
        self.safe += usize::try_from(position.saturating_sub(self.durable)).expect("it fits in memory");
        self.durable = self.durable.max(position);
    }

    /// Drops what an image that is durable has restated.
    fn recycle(&mut self) {
        let Some((begin, _)) = self.images.pop_front_if(|(_, end)| *end < self.safe) else { return };
        self.entries.drain(..begin);
        self.safe -= begin;
        self.begun -= begin.min(self.begun);
        for (first, last) in &mut self.images {
            (*first, *last) = (*first - begin, *last - begin);
        }
    }

    /// What was not durable is there in part, or not at all.
    fn lose(&mut self, kept: usize) {
        self.entries.truncate(kept);
        self.images.retain(|(_, end)| *end < kept);
    }
}

impl World {
    /// What a process says of earlier ones, by what their disk has left. That knows every end that the log has heard of (I6).
    pub(super) fn recovery(&mut self, node: u64, remains: Vec<Remains>) -> Result<Vec<Recover>, Violation> {
        let earlier = self.truth.earlier(node);
        let known = |it: &Remains| earlier.iter().find(|known| known.incarnation == it.incarnation()).copied();
        for (it, known) in remains.iter().filter_map(|it| Some((it, known(it)?))) {
            let knows = it.clone().recover(known.last_terminal);
            require(knows.is_ok(), "I6", || format!("node {node}: {knows:?}"))?;
        }
        let twice = self.ledger_bug() == Some(LedgerBug::RecoversTwice);
        let said = |it: &Remains| known(it).map(|known| if twice { 0 } else { known.last_terminal });
        let held = |it: &Remains| self.truth.orphans_of(node, it.incarnation());
        let remains = remains.into_iter().map(|it| self.at_its_checkpoint(node, it));
        let recovers = remains.filter_map(|it| Some((said(&it)?, it.clone().with_held(held(&it)))));
        let async_journal = self.wrong() == Some(Wrong::RecoversNothing);
        let recovers = recovers.flat_map(|(last_terminal, it)| it.recover(last_terminal).unwrap_or_default());
        let mut recovers: Vec<Recover> = recovers.filter(|it| !async_journal || it.done).collect();
        if self.wrong() == Some(Wrong::ClosesBeforeItRecovers) {
            recovers.sort_by_key(|it| !it.done);
        }
        if self.wrong() == Some(Wrong::DoneFirst) {
            done_first(&mut recovers);
        }
        recovers.iter().try_for_each(|it| self.never_went_out(node, it))?;
        Ok(recovers)
    }

    /// See [`Wrong::OrphansAtTheCheckpoint`].
    fn at_its_checkpoint(&self, node: u64, remains: Remains) -> Remains {
        if self.wrong() != Some(Wrong::OrphansAtTheCheckpoint) {
            return remains;
        }
        let dead = self.processes.iter().find(|it| (it.node, it.incarnation) == (node, remains.incarnation()));
        let streams = dead.into_iter().flat_map(|it| it.streams.values());
        let later: BTreeSet<u64> = streams.flat_map(|stream| stream.later_parts()).collect();
        remains.forgetting(|request| later.contains(&request))
    }

    /// I4: of what a process is said to have never sent out, none is in flight.
    fn never_went_out(&self, node: u64, said: &Recover) -> Checked {
        let dead = self.processes.iter().filter(|it| (it.node, it.incarnation) == (node, said.incarnation));
        let sent = dead.flat_map(|it| it.flights.keys()).find(|request| said.undispatched.contains(request));
        require(sent.is_none(), "I4", || format!("request {sent:?} of node {node} went out, and is given back"))
    }

    /// Takes what a process journals; after a while it is durable.
    pub(super) fn write_down(&mut self, at: usize) {
        let entries = self.processes[at].agent.take_entries();
        if entries.is_empty() {
            return;
        }
        let position = self.processes[at].disk.append(&entries);
        let slow = self.strikes(Fault::SlowDisk, 1);
        let delay = self.dice.range(100, if slow { SECOND } else { MS });
        let disk = &mut self.processes[at].disk;
        disk.busy_until = disk.busy_until.max(self.now + delay);
        self.queue.at(disk.busy_until, Event::Synced { process: at, position });
    }

    pub(super) fn synced(&mut self, at: usize, position: u64) -> Checked {
        if !self.processes[at].alive {
            return Ok(());
        }
        let disk = &mut self.processes[at].disk;
        disk.sync(position);
        if disk.since_image > LONG {
            disk.since_image = 0;
            self.processes[at].agent.restate();
            self.write_down(at);
        }
        self.processes[at].disk.recycle();
        let due: Vec<u64> =
            self.processes[at].outgoing.iter().filter(|(_, it)| **it <= position).map(|it| *it.0).collect();
        due.into_iter().try_for_each(|request| {
            self.processes[at].outgoing.remove(&request);
            self.dispatch(at, request)
        })
    }

    /// A granted request is journaled, and goes out as soon as that is durable.
    pub(super) fn granted(&mut self, at: usize, request: u64) -> Checked {
        let process = &mut self.processes[at];
        let Some(waiting) = process.waiting.get(&request).copied() else { return Ok(()) };
        let prepaid = self.plan.purses && waiting.wanted.has(SIXTH);
        let named = |id| Attribution { request_id: id, prepaid, ..Attribution::default() };
        let attribution = match waiting.wanted.part {
            Part::Whole => named(id_of(process, request)),
            Part::First => {
                let row = process.agent.admit();
                let attribution = named(id_of(process, row));
                process.agent.dispatch(row, attribution, Durability::Journal);
                process.records.insert(request, row);
                Attribution::default()
            }
            Part::Of(_) => Attribution::default(),
        };
        let position = process.agent.dispatch(request, attribution, waiting.durability);
        self.write_down(at);
        let early = match self.wrong() {
            Some(Wrong::SendsBeforeTheJournal) => true,
            Some(Wrong::GrowsBeforeTheJournal) => matches!(waiting.wanted.part, Part::Of(_)),
            _ => false,
        };
        if early || self.processes[at].disk.is_durable(position) {
            return self.dispatch(at, request);
        }
        self.processes[at].outgoing.insert(request, position);
        self.processes[at].drawn_at.insert(request, self.now);
        Ok(())
    }

    pub(super) fn may_send(&self, at: usize) -> bool {
        let process = &self.processes[at];
        self.wrong() == Some(Wrong::SaysBeforeTheJournal) || process.disk.is_durable(process.agent.sends_after())
    }

    /// Who has drawn on most accounts that the log has not heard of: only its journal can tell of them.
    pub(super) fn with_unrecorded_draws(&self) -> Option<usize> {
        let unsaid = self.processes.iter().enumerate().filter(|(_, it)| it.alive && it.agent.unrecorded() > 0);
        unsaid.max_by_key(|(at, it)| (it.agent.unrecorded(), *at)).map(|(at, _)| at)
    }

    /// Who has been without an answer for longest: the log has not heard of most that it did.
    pub(super) fn unheard_for_longest(&self) -> Option<usize> {
        let alive = self.processes.iter().enumerate().filter(|(_, it)| it.alive);
        alive.min_by_key(|(at, it)| (it.heard, *at)).map(|(at, _)| at)
    }

    /// Whose disk has most to do: a crash hurts most there.
    pub(super) fn with_the_slowest_disk(&self) -> Option<usize> {
        let busy = self.processes.iter().enumerate().filter(|(_, it)| it.alive && it.disk.busy_until > self.now);
        busy.max_by_key(|(at, it)| (it.disk.busy_until, *at)).map(|(at, _)| at)
    }

    /// A process is gone, and with it what was not durable, or all of its disk. What it has sent out is on the disk, or its
    /// next process would give it to others (I4).
    pub(super) fn lose_power(&mut self, at: usize, disk: bool) -> Checked {
        let process = &self.processes[at];
        let safe: BTreeSet<u64> =
            process.disk.entries[..process.disk.safe].iter().filter_map(|it| admitted(it)).collect();
        let sent = process.flights.keys().filter(|request| process.agent.is_journaled(**request));
        for request in sent {
            require(safe.contains(request), "I4", || format!("request {request} went out, and no disk knows of it"))?;
        }
        let torn = self.processes[at].disk.entries.len() - self.processes[at].disk.safe;
        let kept = self.processes[at].disk.safe + self.dice.index(torn + 1);
        let lost = &mut self.processes[at].disk;
        if disk {
            *lost = Disk::default();
        }
        lost.lose(kept);
        let known: BTreeSet<String> = lost.entries.iter().filter_map(|entry| ended(entry)).collect();
        self.forget_unsaid(at, &known);
        Ok(())
    }

    /// Of what a process and those before it have ended and not said, this much is known elsewhere.
    pub(super) fn forget_unsaid(&mut self, at: usize, known: &BTreeSet<String>) {
        let node = self.processes[at].node;
        let of_node = self.settled.iter().filter(|(process, _)| self.processes[*process].node == node);
        let unsaid = of_node.filter(|(_, id)| self.witness.terminals.of(id) == 0 && !known.contains(id));
        self.forgotten.extend(unsaid.map(|(_, id)| id.clone()));
    }
}

/// See [`Wrong::DoneFirst`].
fn done_first(recovers: &mut [Recover]) {
    let mut said = BTreeSet::new();
    recovers.iter_mut().for_each(|it| it.done = said.insert(it.incarnation));
}

pub(super) fn id_of(process: &Process, request: u64) -> String {
    format!("{}/{}/{request}", process.node, process.incarnation)
}

/// The request that an entry says is about to go out.
fn admitted(entry: &[u8]) -> Option<u64> {
    match JournalEntry::decode(entry).ok()?.kind? {
        journal_entry::Kind::Admit(admit) => Some(admit.request),
        _ => None,
    }
}

/// The request whose end an entry tells.
fn ended(entry: &[u8]) -> Option<String> {
    match JournalEntry::decode(entry).ok()?.kind? {
        journal_entry::Kind::End(end) => Some(end.settle?.attribution?.request_id.clone()),
        _ => None,
    }
}
