//! What goes wrong: crashes, zombies, partitions, outages, edits, and snapshots for those who lag.

use super::*;

/// Of crashes in runs of a kind of their own, those of whoever has been without an answer for longest.
const PERCENT_UNHEARD: u64 = 50;

impl World {
    pub(super) fn set(&mut self, limit: usize, capacity: u64) -> Checked {
        let algorithm = if LIMITS[limit] == SLIDING { Algorithm::Sliding } else { Algorithm::Fixed };
        let (unit, per, window) = match limit {
            0 if self.plan.zones => (Unit::Tokens, vec![KeyPart::Consumer], Window::Hour),
            0 => (Unit::Tokens, vec![KeyPart::Consumer], Window::Minute),
            1 | 3 => (Unit::Tokens, vec![KeyPart::Consumer], Window::Second),
            2 => (Unit::Requests, Vec::new(), Window::Minute),
            _ => (Unit::Concurrency, Vec::new(), Window::Minute),
        };
        let version = LogIndex(self.log.len() as u64 + 1);
        let (time_zone, apart) = if limit == 0 { self.clock_of_keys() } else { (TimeZone::UTC, false) };
        let limit = Name::new(LIMITS[limit]);
        let rule = Rule { limit, version, unit, per, capacity, window, algorithm, time_zone, apart, shadow: false };
        self.append(Command::Set(rule)).map(drop)
    }

    /// Starts the next process of a node, on the disk that an earlier one has left.
    pub(super) fn spawn(&mut self, node: u64, incarnation: u64, mut disk: Disk) -> Checked {
        let first = incarnation == 1 && !self.processes.iter().any(|it| it.node == node);
        let known = self.truth.node(node).map_or(0, |(incarnation, _)| incarnation);
        let remains = disk.start(incarnation);
        if first || self.wrong() != Some(Wrong::SameIncarnation) {
            let predecessor_is_dead = remains.iter().any(|it| it.incarnation() == known);
            let open =
                NodeOpen { node, incarnation, predecessor_is_dead, isolation_us: ISOLATION, ..NodeOpen::default() };
            if self.plan.purses {
                self.append(Command::TakeOff(0))?; // what is due by then is done before
            }
            self.append(Command::Open(open))?;
            for process in (0..self.processes.len()).filter(|at| self.processes[*at].node == node) {
                // By its own clock, which may be slow by one in a hundred.
                self.queue.at(self.now + ISOLATION * 100 / 99, Event::Isolated { process });
            }
        }
        let mut agent = Agent::new(node, incarnation);
        agent.isolate_after(ISOLATION, 0);
        agent.linger_for(if self.plan.lingers { LINGERS_FOR } else { 0 });
        agent.recover(self.recovery(node, remains)?);
        agent.set_bug(self.wrong().and_then(Wrong::book));
        let mut replica = self.snapshot();
        let news = replica.take_news();
        agent.follow(&replica, &news);
        let rules = replica.rules();
        self.tell(|_| format!("node {node}/{incarnation} starts"));
        let process = self.processes.len();
        self.processes.push(Process {
            node,
            incarnation,
            agent,
            replica,
            credit: self.credit.clone(),
            applied: self.log.len(),
            alive: true,
            cut: false,
            lags: false,
            skew: self.dice.range(0, 100 * MS),
            clock: 0,
            sent_at: 0,
            asked_since: None,
            retry_at: 0,
            rules,
            waiting: BTreeMap::new(),
            flights: BTreeMap::new(),
            streams: BTreeMap::new(),
            records: BTreeMap::new(),
            disk,
            outgoing: BTreeMap::new(),
            drawn_at: BTreeMap::new(),
            rate: self.dice.range(990, 1_011),
            began: self.now,
            heard: self.now,
        });
        self.queue.at(self.now + MS, Event::Tick { process });
        Ok(())
    }

    /// A newer incarnation was opened so long ago that this process, should it live, holds no permit any more: what has one is
    /// cut off, and what waits for the disk never goes out.
    pub(super) fn cut_off(&mut self, at: usize) {
        self.clock(at);
        let is_permit = |it: &Label| self.witness.place(it.0, it.1).is_some_and(|place| place.0 == PERMITS);
        let process = &self.processes[at];
        let flights = process.flights.iter().filter(|(_, labels)| labels.iter().any(is_permit));
        let flights: Vec<u64> = flights.map(|(request, _)| *request).collect();
        let outgoing: Vec<u64> = process.outgoing.keys().copied().collect();
        for request in flights {
            self.end(at, request);
        }
        for request in outgoing {
            self.give_up(at, request);
        }
    }

    pub(super) fn snapshot(&self) -> Ledger {
        let rows = self.truth.image().into_rows().map(Ok::<_, std::convert::Infallible>);
        let mut ledger = Ledger::restore_with(bounds(self.plan), rows).expect("it was just written");
        ledger.bug = self.ledger_bug();
        ledger.live_in(self.homes.clone());
        // What the log's own ledger writes is kept and looked at; replicas are compared with it in the end.
        ledger.silent = true;
        ledger
    }

    pub(super) fn trouble(&mut self) -> Checked {
        if self.now >= TROUBLES {
            return Ok(());
        }
        let soon = self.now + self.dice.range(100 * MS, 1_500 * MS);
        self.queue.at(soon, Event::Trouble);
        if self.dice.percent(50) && self.remake()? {
            return Ok(());
        }
        let Some(process) = self.anyone() else { return Ok(()) };
        let fault = match self.dice.range(0, 9) {
            0 => Fault::Crash,
            8 => Fault::LostDisk,
            1 => Fault::Zombie,
            2 => Fault::Partition,
            3 => Fault::LeaderOutage,
            4 | 5 => Fault::Edit,
            6 => Fault::Delete,
            _ => Fault::Snapshot,
        };
        if self.plan.faults.has(fault) { self.befall(fault, process) } else { Ok(()) }
    }

    fn befall(&mut self, fault: Fault, process: usize) -> Checked {
        match fault {
            Fault::Crash | Fault::LostDisk => self.crash(process, fault)?,
            Fault::Zombie => self.haunt(process)?,
            Fault::Partition => {
                self.report.faults.note(fault);
                self.cut(process);
                self.give_up_on(process)?;
            }
            Fault::LeaderOutage => {
                self.report.faults.note(fault);
                self.tell(|_| "nobody writes the log".into());
                self.leaderless = true;
                self.leader_skew = self.dice.range(0, 200 * MS);
                self.leader_rate = self.dice.range(990, 1_011);
                let elected = self.now + self.dice.range(100 * MS, 2 * SECOND);
                self.queue.at(elected, Event::Elected);
            }
            Fault::Edit => {
                self.remake()?;
                self.report.faults.note(fault);
                if self.plan.zones && self.orders.percent(50) {
                    return self.someone_moves();
                }
                if self.plan.flips && self.orders.percent(50) {
                    return self.flip();
                }
                let (limit, mut capacity) = (self.dice.index(LIMITS.len()), self.dice.range(50, 6_000));
                if LIMITS[limit] == PERMITS {
                    capacity = capacity % 20 + 2;
                }
                self.set(limit, capacity)?;
            }
            Fault::Delete => self.remove()?,
            _ => {
                self.tell(|it| format!("{} falls behind", it.named(process)));
                self.processes[process].lags = true;
                let installed = self.now + self.dice.range(0, 1_500 * MS);
                self.queue.at(installed, Event::Install { process });
            }
        }
        Ok(())
    }

    pub(super) fn remove(&mut self) -> Checked {
        let mut rules = self.truth.rules();
        rules.retain(|rule| LIMITS.contains(&&*rule.limit));
        if self.deleted.is_none() {
            let rule = rules[self.dice.index(rules.len())].clone();
            self.report.faults.note(Fault::Delete);
            self.append(Command::Remove(rule.limit.clone()))?;
            self.deleted = Some(rule);
        }
        Ok(())
    }

    /// Makes the limit again that was deleted.
    pub(super) fn remake(&mut self) -> Result<bool, Violation> {
        let Some(rule) = self.deleted.take() else { return Ok(false) };
        let limit = LIMITS.iter().position(|limit| **limit == *rule.limit).expect("it is one of them");
        self.set(limit, rule.capacity)?;
        Ok(true)
    }

    fn crash(&mut self, at: usize, fault: Fault) -> Checked {
        let unheard = !self.plan.is_plain() && self.sixth.percent(PERCENT_UNHEARD);
        let most = self.with_unrecorded_draws().or(self.with_the_slowest_disk());
        let at = self.unheard_for_longest().filter(|_| unheard).or(most).unwrap_or(at);
        self.report.faults.note(fault);
        self.tell(|it| format!("{} dies", it.named(at)));
        self.lose_power(at, fault == Fault::LostDisk)?;
        self.processes[at].alive = false;
        let back = self.now + self.dice.range(50 * MS, 3 * SECOND);
        self.queue.at(back, Event::Restart { process: at });
        self.give_up_on(at)
    }

    pub(super) fn restart(&mut self, dead: usize) -> Checked {
        let Process { node, incarnation, .. } = self.processes[dead];
        if self.processes.iter().any(|it| it.node == node && it.alive && !it.cut) {
            return Ok(());
        }
        let of_node = (0..self.processes.len()).filter(|at| self.processes[*at].node == node);
        let Some(at) = of_node.max_by_key(|at| self.processes[*at].incarnation) else { return Ok(()) };
        let disk = if self.processes[at].alive {
            // It goes on elsewhere, with its disk, and nobody listens to it any more.
            self.forget_unsaid(at, &BTreeSet::new());
            Disk::default()
        } else {
            std::mem::take(&mut self.processes[at].disk)
        };
        let next = self.processes[at].incarnation + 1;
        let same = self.wrong() == Some(Wrong::SameIncarnation);
        self.spawn(node, if same { incarnation } else { next }, disk)
    }

    /// A process is cut off, and goes on while the next one of its node starts.
    pub(super) fn haunt(&mut self, at: usize) -> Checked {
        self.report.faults.note(Fault::Zombie);
        self.cut(at);
        self.restart(at)
    }

    pub(super) fn cut(&mut self, process: usize) {
        self.tell(|it| format!("{} is cut off", it.named(process)));
        self.processes[process].cut = true;
        let healed = self.now + self.dice.range(100 * MS, 5 * SECOND);
        self.queue.at(healed, Event::Heal { process });
    }

    pub(super) fn heal(&mut self, process: usize) {
        self.tell(|it| format!("{} can be reached", it.named(process)));
        self.processes[process].cut = false;
        self.announce(process);
    }

    pub(super) fn install(&mut self, at: usize) {
        self.processes[at].lags = false;
        if self.processes[at].cut || !self.processes[at].alive {
            return;
        }
        self.report.faults.note(Fault::Snapshot);
        self.tell(|it| format!("{} is given a snapshot", it.named(at)));
        let replica = self.snapshot();
        let process = &mut self.processes[at];
        process.applied = self.log.len();
        (process.replica, process.credit) = (replica, self.credit.clone());
        process.rules = process.replica.rules();
        let news = process.replica.take_news();
        process.agent.follow(&process.replica, &news);
        process.alive = process.is_newest(&process.replica);
        self.write_down(at);
    }
}
