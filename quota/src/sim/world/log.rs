//! The log: what is written, what it means, and who is told.

use std::collections::btree_map;

use super::*;
use crate::{
    invariants::within_escrow,
    ledger::{News, Told, Used},
};

/// Between two looks at the whole ledger, in entries; in between what an entry has touched is looked at.
const FULL_AUDIT_EVERY: u64 = 64;

/// Between two looks at what nodes believe to hold in the log, in entries.
const ESCROW_EVERY: u64 = 16;

impl World {
    /// I2 for the log: what a node takes for granted is counted there.
    fn everyone_is_within_escrow(&self) -> Checked {
        for it in self.processes.iter().filter(|it| it.alive && !it.agent.is_fenced()) {
            if self.truth.node(it.node).is_some_and(|(newest, _)| newest == it.incarnation) {
                let (open, counted) = (it.agent.open_requests(), self.truth.held_requests(it.node));
                require(within_escrow(&open, &counted), "I2", || format!("node {}: {open:?} of {counted:?}", it.node))?;
            }
        }
        Ok(())
    }

    pub(super) fn append(&mut self, command: Command) -> Result<Option<FrameOutcome>, Violation> {
        let index = self.log.len() as u64 + 1;
        let (stamp, since) = self.stamped;
        // A clock may be fast by one in a hundred: so much is taken off.
        self.stamped = (stamp + (self.now - since) * self.leader_rate / 1_010, self.now);
        let entry = Entry { at: Timestamp(self.now + self.leader_skew), stamp: self.stamped.0, command };
        let mut changes = Changes::new();
        let (mut ended, mut rows) = (Vec::new(), Vec::new());
        match &entry.command {
            Command::Open(open) => self.book_gone(open.node, open.incarnation - 1),
            Command::Lose(lost) => self.book_gone(lost.node, lost.incarnation),
            Command::Set(rule) => self.oracle.limit(self.now, entry.at.0, &rule.limit, Some(rule)),
            Command::Remove(limit) => self.oracle.limit(self.now, entry.at.0, limit, None),
            Command::Grant(_) | Command::TakeOff(_) => self.pay(&entry),
            Command::Batch(_) | Command::Move(..) => {}
        }
        let closes = self.closes(&entry.command);
        let state = (&mut self.truth, &mut self.credit);
        let outcome = apply(state, index, &entry, &mut changes, |used| {
            let id = &used.attribution.request_id;
            // What a request without an end used nobody knows, so nobody counts it.
            if used.outcome != Outcome::Voided && used.told != Told::Nobody {
                ended.push(id.clone());
            }
            if !id.is_empty() {
                rows.push((id.clone(), used.corrects));
            }
        });
        self.keep(changes);
        self.trace(&entry);
        self.tell(|_| format!("entry {index}: {}", story::entry(&entry.command, outcome.as_ref())));
        ended.iter().try_for_each(|id| self.witness.terminals.count(id))?;
        rows.iter().try_for_each(|(id, corrects)| self.witness.terminals.row(id, *corrects))?;
        self.is_counted_apart(&ended)?;
        self.note_bills(&ended, &closes);
        let news = self.truth.take_news();
        if news.all || index.is_multiple_of(FULL_AUDIT_EVERY) {
            self.truth.audit()?;
        } else {
            self.truth.audit_accounts(&news.accounts)?;
        }
        if index.is_multiple_of(ESCROW_EVERY) {
            self.everyone_is_within_escrow()?;
        }
        if let (Command::Batch(batch), Some(outcome)) = (&entry.command, &outcome) {
            self.note_recovery(&batch.frames[0], outcome);
        }
        self.note_flip(&news);
        self.note_accounts(&news)?;
        self.note_released();
        self.nothing_sent_out_is_free(&news)?;
        self.no_credit_is_free_twice()?;
        if let Command::Batch(batch) = &entry.command {
            self.note_holds(&batch.frames[0]);
            self.note_ends(&batch.frames[0], outcome.as_ref());
            self.nothing_is_left(&batch.frames[0], outcome.as_ref())?;
        }
        if let Command::Open(NodeOpen { node: gone, .. }) | Command::Lose(NodeLost { node: gone, .. }) = &entry.command
        {
            self.promised.retain(|(node, ..), _| node != gone);
        }
        self.log.push(entry);
        for process in 0..self.processes.len() {
            self.announce(process);
        }
        Ok(outcome)
    }

    /// What a store makes of the rows that change.
    fn keep(&mut self, changes: Changes) {
        for (key, value) in changes {
            match value {
                Some(value) => drop(self.store.insert(key, value)),
                None => drop(self.store.remove(&key)),
            }
        }
    }

    pub(super) fn trace(&mut self, entry: &Entry) {
        let bytes = match &entry.command {
            Command::Batch(batch) => batch.encode_to_vec(),
            Command::Open(open) => open.encode_to_vec(),
            Command::Lose(lost) => lost.encode_to_vec(),
            Command::Set(rule) => rule.capacity.to_be_bytes().to_vec(),
            Command::Remove(name) => name.as_bytes().to_vec(),
            Command::Move(homes, key) => format!("{key} {homes:?}").into_bytes(),
            Command::Grant(amount) | Command::TakeOff(amount) => amount.to_be_bytes().to_vec(),
        };
        self.report.hash(&entry.at.0.to_be_bytes());
        self.report.hash(&bytes);
    }

    /// Shows them to the witness. I3: what was used within the last window of a sliding limit is in the books after a journal
    /// has spoken, whoever died.
    fn note_accounts(&mut self, news: &News) -> Checked {
        for account in changed(news) {
            if let Some((epoch, place, capacity)) = self.place(account) {
                let [used, held, leased, suspense, _] = self.truth.figures(account).0;
                let taken = used + held + leased + suspense;
                let by_rule = self.truth.window_of(&place.0, epoch).map_or(0, |(.., by_rule)| by_rule);
                self.witness.see(self.now, (account, epoch), &place, capacity, taken, by_rule);
                self.report.suspense += u64::from(suspense > 0);
                let is_told = self.recovered_at.is_some_and(|at| self.now < at + SECOND);
                let taken = if is_told && place.0 == SLIDING { self.witness.within(&place, self.now) } else { 0 };
                require(taken <= used + held + leased + suspense, "I3", || {
                    format!("{place:?}: {taken} were used, of {used} + {held} + {leased} + {suspense} in the books")
                })?;
            }
        }
        Ok(())
    }

    /// I3 from the log's side, of all nodes together: what was sent out is within what is not free there, but for what an operator
    /// has released. What an open node drew beyond its lease is for I2 to see, and not counted here.
    fn nothing_sent_out_is_free(&self, news: &News) -> Checked {
        for account in changed(news) {
            let Some((epoch, place, _)) = self.place(account) else { continue };
            if [SLIDING, PERMITS, PURSE, FLIPS].contains(&&*place.0) {
                continue; // what they hold is looked at elsewhere
            }
            let [used, held, leased, suspense, _] = self.truth.figures(account).0;
            let Some(seen) = self.witness.figures.get(&place) else { continue };
            let taken = used + held + leased + suspense + seen.lost;
            let sent = seen.held + seen.settled;
            let covered = sent <= taken || sent - self.drawn_beyond_leases(account, epoch) <= taken;
            require(covered, "I3", || format!("{place:?}: {seen:?} was sent out, and {taken} is not free"))?;
            self.nothing_of_the_gone_is_lost(account, epoch, used + held + suspense + seen.lost)?;
        }
        Ok(())
    }

    pub(super) fn note_holds(&mut self, frame: &Frame) {
        for record in &frame.records {
            let Some(Kind::Hold(hold)) = &record.kind else { continue };
            if self.truth.node(frame.node).map(|(incarnation, _)| incarnation) != Some(frame.incarnation) {
                continue;
            }
            let mut labels = self.truth.held_by(frame.node, hold.request);
            labels.iter_mut().for_each(|label| label.0 = self.common(label.0, label.1));
            if !labels.is_empty() {
                let name = (frame.node, frame.incarnation, hold.request);
                if let btree_map::Entry::Vacant(place) = self.central.entry(name) {
                    self.promised.insert(name, labels.clone());
                    self.granted_at.insert(name, self.now);
                    place.insert(labels);
                }
            }
        }
    }

    fn note_recovery(&mut self, frame: &Frame, outcome: &FrameOutcome) {
        let tells = |record: &wire::Record| matches!(record.kind, Some(Kind::Recover(_)));
        if !outcome.fenced && !outcome.unopened && frame.records.iter().any(tells) {
            self.recovered_at = Some(self.now);
        }
    }

    /// I7: once a journal has told everything, nothing of a sliding limit is withheld for its process.
    fn nothing_is_left(&self, frame: &Frame, outcome: Option<&FrameOutcome>) -> Checked {
        let heard = outcome.filter(|it| !it.fenced && !it.unopened).map_or(0, |it| it.last_seq);
        for (record, _) in frame.records.iter().zip(frame.first_seq..=heard) {
            let Some(Kind::Recover(told)) = record.kind.as_ref() else { continue };
            let leases = self.truth.leases_of(frame.node, told.incarnation).into_iter();
            let place = |account| self.truth.place(account).map(|(_, (limit, ..), _)| limit);
            let left = leases.filter(|(account, ..)| told.done && place(*account).is_some_and(|it| it == SLIDING));
            let left: u64 = left.map(|(.., units, _)| units).sum();
            require(left == 0, "I7", || format!("{left} of {}/{} are withheld", frame.node, told.incarnation))?;
        }
        Ok(())
    }

    /// What has ended is not to be sent out any more.
    fn note_ends(&mut self, frame: &Frame, outcome: Option<&FrameOutcome>) {
        let heard = outcome.filter(|it| !it.fenced && !it.unopened).map_or(0, |it| it.last_seq);
        for (record, seq) in frame.records.iter().zip(frame.first_seq..) {
            if let Some(Kind::Settle(settle)) = &record.kind {
                let name = (frame.node, frame.incarnation, settle.request);
                if let Some(labels) = self.promised.remove(&name) {
                    self.witness.let_go(self.now, &labels);
                }
                if seq <= heard {
                    self.book_told(name);
                }
            }
        }
    }

    pub(super) fn announce(&mut self, process: usize) {
        if self.processes[process].alive {
            let slow = self.strikes(Fault::LateMessage, 3);
            let delay = self.dice.range(500, if slow { SECOND } else { 4 * MS });
            self.queue.at(self.now + delay, Event::Apply { process, upto: self.log.len() });
        }
    }

    /// Applies entries to a replica; false when there is nothing new, or it can't.
    pub(super) fn catch_up(&mut self, at: usize, upto: usize) -> bool {
        let process = &mut self.processes[at];
        if process.cut || process.lags || !process.alive || process.applied >= upto {
            return false;
        }
        let mut changes = Changes::new();
        while process.applied < upto {
            let entry = &self.log[process.applied];
            process.applied += 1;
            let state = (&mut process.replica, &mut process.credit);
            apply(state, process.applied as u64, entry, &mut changes, |_| ());
            changes.clear();
            let news = process.replica.take_news();
            if news.all {
                process.rules = process.replica.rules();
            }
            process.agent.follow(&process.replica, &news);
        }
        self.write_down(at);
        let process = &mut self.processes[at];
        process.alive = process.is_newest(&process.replica);
        self.tell(|it| format!("{} applies the log up to entry {upto}", it.named(at)));
        true
    }
}

/// Applies one entry; the outcome of a frame. Tells of the requests that have ended, and of those of which nobody knows.
fn apply(
    (ledger, credit): (&mut Ledger, &mut Credit),
    index: u64,
    entry: &Entry,
    changes: &mut Changes,
    mut ended: impl FnMut(&Used<'_>),
) -> Option<FrameOutcome> {
    ledger.stamp(entry.stamp);
    let outcome = apply_command(ledger, credit, index, entry, changes, &mut ended);
    let unknown = ledger.take_unknown(entry.at, changes);
    if !unknown.is_empty() {
        unknown.iter().for_each(|it| ended(&it.used()));
        let rows: Vec<_> = unknown.iter().zip(index << 16..).collect();
        ledger.note_unknown(entry.at, &rows, changes);
    }
    credit.close(ledger, entry.at, changes);
    outcome
}

fn apply_command(
    ledger: &mut Ledger,
    credit: &mut Credit,
    index: u64,
    entry: &Entry,
    changes: &mut Changes,
    ended: impl FnMut(&Used<'_>),
) -> Option<FrameOutcome> {
    match &entry.command {
        Command::Batch(batch) => {
            let applied = ledger.apply(LogIndex(index), entry.at, batch, changes);
            credit.spend(ledger, entry.at, &applied.used, changes);
            applied.used.iter().for_each(ended);
            return applied.outcome.frames.into_iter().next();
        }
        Command::Open(open) => drop(ledger.open(LogIndex(index), entry.at, open, changes)),
        Command::Lose(lost) => drop(ledger.lose(entry.at, lost, changes)),
        Command::Set(rule) => ledger.set_rule(entry.at, rule.clone(), changes),
        Command::Remove(limit) => ledger.remove_rule(LogIndex(index), entry.at, limit, changes),
        Command::Move(homes, key) => {
            ledger.live_in(homes.clone());
            ledger.move_accounts(entry.at, &|_, of| of == [*key], changes);
        }
        Command::Grant(amount) => credit.grant(ledger, entry.at, *amount, changes),
        Command::TakeOff(amount) => credit.take_off(ledger, entry.at, *amount, changes),
    }
    None
}

/// Accounts that may have changed.
pub(super) fn changed(news: &News) -> impl Iterator<Item = u32> {
    let all = if news.all { 0..256 } else { 0..0 };
    all.chain(news.accounts.iter().copied())
}
