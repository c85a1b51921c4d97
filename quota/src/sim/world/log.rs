//! The log: what is written, what it means, and who is told.

use super::*;

impl World {
    pub(super) fn append(&mut self, command: Command) -> Result<Option<FrameOutcome>, Violation> {
        let index = self.log.len() as u64 + 1;
        let entry = Entry { at: Timestamp(self.now + self.leader_skew), command };
        let mut changes = Changes::new();
        let (outcome, ended) = apply(&mut self.truth, index, &entry, &mut changes);
        self.keep(changes);
        self.trace(&entry);
        ended.iter().try_for_each(|id| self.witness.terminals.count(id))?;
        self.truth.audit()?;
        self.note_accounts(matches!(entry.command, Command::Set(_)));
        if let Command::Batch(batch) = &entry.command {
            self.note_holds(&batch.frames[0]);
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
            Command::Set(rule) => rule.capacity.to_be_bytes().to_vec(),
            Command::Remove(name) => name.as_bytes().to_vec(),
        };
        for byte in entry.at.0.to_be_bytes().into_iter().chain(bytes) {
            self.stats.trace = (self.stats.trace ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    pub(super) fn note_accounts(&mut self, all: bool) {
        let news = self.truth.take_news();
        let known: Vec<u32> = if all || news.all { (0..64).collect() } else { news.accounts };
        for account in known {
            if let Some((epoch, place, capacity)) = self.truth.place(account) {
                let [used, held, leased, suspense, _] = self.truth.figures(account).0;
                self.witness.see((account, epoch), &place, capacity, used + held + leased + suspense);
                self.stats.suspense += u64::from(suspense > 0);
            }
        }
    }

    pub(super) fn note_holds(&mut self, frame: &Frame) {
        for record in &frame.records {
            let Some(Kind::Hold(hold)) = &record.kind else { continue };
            if self.truth.node(frame.node).map(|(incarnation, _)| incarnation) != Some(frame.incarnation) {
                continue;
            }
            let labels = self.truth.held_by(frame.node, hold.request);
            if !labels.is_empty() {
                self.central.entry((frame.node, frame.incarnation, hold.request)).or_insert(labels);
            }
        }
    }

    pub(super) fn announce(&mut self, process: usize) {
        if self.processes[process].alive {
            let slow = self.plan.troubles && self.now < TROUBLES && self.dice.percent(3);
            let delay = self.dice.range(500, if slow { SECOND } else { 4 * MS });
            self.queue.at(self.now + delay, Event::Apply { process, upto: self.log.len() });
        }
    }

    pub(super) fn catch_up(&mut self, at: usize, upto: usize) {
        let process = &mut self.processes[at];
        if process.cut || process.lags || !process.alive {
            return;
        }
        while process.applied < upto {
            let entry = &self.log[process.applied];
            process.applied += 1;
            apply(&mut process.replica, process.applied as u64, entry, &mut Changes::new());
            let news = process.replica.take_news();
            process.agent.follow(&process.replica, &news);
        }
        let newest = process.replica.node(process.node).map_or(0, |(incarnation, _)| incarnation);
        process.alive = newest <= process.incarnation;
    }
}

/// Applies one entry; the outcome of a frame, and whose usage counted.
fn apply(ledger: &mut Ledger, index: u64, entry: &Entry, changes: &mut Changes) -> (Option<FrameOutcome>, Vec<String>) {
    match &entry.command {
        Command::Batch(batch) => {
            let applied = ledger.apply(LogIndex(index), entry.at, batch, changes);
            let ended = applied.used.iter().map(|used| used.attribution.request_id.clone()).collect();
            return (applied.outcome.frames.into_iter().next(), ended);
        }
        Command::Open(open) => drop(ledger.open(LogIndex(index), entry.at, open, changes)),
        Command::Set(rule) => ledger.set_rule(entry.at, rule.clone(), changes),
        Command::Remove(limit) => ledger.remove_rule(LogIndex(index), entry.at, limit, changes),
    }
    (None, Vec::new())
}
