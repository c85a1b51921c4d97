//! Processes, one log, and everything that goes wrong between them.

mod drain;
mod log;
mod trouble;

use std::collections::BTreeMap;

use prost::Message;
use tollgate_model::{KeyPart, LogIndex, Name, TimeZone, Timestamp, Unit, Window};
use tollgate_proto::state::v1::{
    Attribution, Frame, FrameOutcome, NodeOpen, Outcome, QuotaBatch, Refusal, Settle, Usage, record::Kind,
};

use super::{
    net::{Dice, Event, MS, Queue},
    witness::{Label, Witness},
};
use crate::{
    Changes, Charge, Ledger, Rule,
    agent::{Agent, Answer},
    book::Bug as BookBug,
    invariants::{Violation, require},
    ledger::tests::Bug as LedgerBug,
};

const NODES: u64 = 3;
const SECOND: u64 = 1_000 * MS;
/// Ten seconds before a minute ends.
const START: u64 = 500_000 * 3_600 * SECOND + 50 * SECOND;
const TROUBLES: u64 = START + 18 * SECOND;
const LIMITS: [&str; 3] = ["a", "b", "c"];
/// How long a caller waits for a decision.
const PATIENCE: u64 = 3 * SECOND;

/// What is deliberately wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wrong {
    Nothing,
    Ledger(LedgerBug),
    Book(BookBug),
    /// A process that starts again goes on under its old number.
    SameIncarnation,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub(super) seed: u64,
    pub(super) troubles: bool,
    pub(super) wrong: Wrong,
}

impl Plan {
    pub(super) fn chaos(seed: u64) -> Self {
        Self { seed, troubles: true, wrong: Wrong::Nothing }
    }

    pub(super) fn calm(seed: u64) -> Self {
        Self { troubles: false, ..Self::chaos(seed) }
    }
}

/// What a run has reached.
#[derive(Debug, Clone, Default)]
pub(super) struct Stats {
    pub(super) admitted: u64,
    pub(super) local: u64,
    pub(super) mixed: u64,
    pub(super) refused: u64,
    pub(super) undecided: u64,
    pub(super) crashes: u64,
    pub(super) zombies: u64,
    pub(super) snapshots: u64,
    pub(super) edits: u64,
    pub(super) recalls: u64,
    pub(super) waited: u64,
    pub(super) suspense: u64,
    pub(super) drained: u64,
    pub(super) trace: u64,
}

impl Stats {
    pub(super) fn add(&mut self, other: &Self) {
        let Self { admitted, local, mixed, refused, undecided, crashes, zombies, .. } = *other;
        self.admitted += admitted;
        self.local += local;
        self.mixed += mixed;
        self.refused += refused;
        self.undecided += undecided;
        self.crashes += crashes;
        self.zombies += zombies;
        self.snapshots += other.snapshots;
        self.edits += other.edits;
        self.recalls += other.recalls;
        self.waited += other.waited;
        self.suspense += other.suspense;
        self.drained += other.drained;
    }
}

/// A command of the log.
#[derive(Debug)]
enum Command {
    Batch(QuotaBatch),
    Open(NodeOpen),
    Set(Rule),
    Remove(Name),
}

#[derive(Debug)]
struct Entry {
    at: Timestamp,
    command: Command,
}

#[derive(Debug)]
struct Process {
    node: u64,
    incarnation: u64,
    agent: Agent,
    replica: Ledger,
    applied: usize,
    alive: bool,
    cut: bool,
    /// Applies nothing until it is given a snapshot.
    lags: bool,
    skew: u64,
    clock: u64,
    sent_at: u64,
    retry_at: u64,
    /// Charges of those who wait for a decision.
    waiting: BTreeMap<u64, usize>,
    flights: BTreeMap<u64, Vec<Label>>,
}

/// What became of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decision {
    Granted,
    Refused(Refusal),
}

type Checked = Result<(), Violation>;

pub(super) struct World {
    plan: Plan,
    dice: Dice,
    queue: Queue,
    now: u64,
    log: Vec<Entry>,
    /// What the log says, applied as it is written.
    truth: Ledger,
    /// The rows of all its changes.
    store: BTreeMap<Vec<u8>, Vec<u8>>,
    processes: Vec<Process>,
    witness: Witness,
    /// What the log holds for requests, as it was granted.
    central: BTreeMap<(u64, u64, u64), Vec<Label>>,
    /// The last decision of each request that is asked for in `drain`.
    decided: BTreeMap<(usize, u64), Decision>,
    settled: Vec<(usize, String)>,
    leaderless: bool,
    leader_skew: u64,
    deleted: Option<Rule>,
    crashed_at: u64,
    draining: bool,
    stats: Stats,
}

impl World {
    pub(super) fn new(plan: Plan) -> Self {
        let mut world = Self {
            plan,
            dice: Dice(plan.seed),
            queue: Queue::default(),
            now: START,
            log: Vec::new(),
            truth: Ledger::new(),
            store: BTreeMap::new(),
            processes: Vec::new(),
            witness: Witness::default(),
            central: BTreeMap::new(),
            decided: BTreeMap::new(),
            settled: Vec::new(),
            leaderless: false,
            leader_skew: 0,
            deleted: None,
            crashed_at: 0,
            draining: false,
            stats: Stats::default(),
        };
        world.truth.bug = world.ledger_bug();
        world
    }

    fn ledger_bug(&self) -> Option<LedgerBug> {
        if let Wrong::Ledger(bug) = self.plan.wrong { Some(bug) } else { None }
    }

    pub(super) fn run(mut self) -> Result<Stats, Violation> {
        for limit in 0..LIMITS.len() {
            let least = if self.plan.troubles { 100 } else { 20_000 };
            let capacity = self.dice.range(least, 3 * least + 5_000);
            self.set(limit, capacity)?;
        }
        for node in 1..=NODES {
            self.spawn(node, 1)?;
        }
        self.queue.at(self.now, Event::Arrive);
        if self.plan.troubles {
            self.queue.at(self.now + SECOND, Event::Trouble);
        }
        self.run_until(TROUBLES)?;
        self.drain()?;
        self.stats.recalls = self.truth.counters().recalls;
        Ok(self.stats)
    }

    fn run_until(&mut self, end: u64) -> Checked {
        while let Some((time, event)) = self.queue.next() {
            if time > end {
                self.queue.at(time, event);
                break;
            }
            self.now = self.now.max(time);
            self.happen(event)?;
        }
        self.now = self.now.max(end);
        Ok(())
    }

    fn happen(&mut self, event: Event) -> Checked {
        match event {
            Event::Arrive => return self.arrive(),
            Event::Frame { process, frame } => return self.propose(process, frame),
            Event::Elected => self.leaderless = false,
            Event::Install { process } => {
                self.install(process);
                return self.check(process);
            }
            Event::Trouble => return self.trouble(),
            Event::Restart { process } => return self.restart(process),
            Event::Heal { process } => self.heal(process),
            Event::Tick { process } => self.tick(process)?,
            Event::Outcome { process, outcome } => {
                self.answered(process, &outcome)?;
                return self.check(process);
            }
            Event::Apply { process, upto } => {
                self.catch_up(process, upto);
                return self.check(process);
            }
            Event::End { process, request } => {
                self.end(process, request);
                return self.check(process);
            }
            Event::GiveUp { process, request } => {
                self.give_up(process, request);
                return self.check(process);
            }
        }
        Ok(())
    }

    /// What must hold on a node whenever something has happened to it; the log is looked at when it grows.
    fn check(&self, process: usize) -> Checked {
        let process = &self.processes[process];
        if process.alive && !process.agent.is_fenced() { process.agent.audit() } else { Ok(()) }
    }

    // ---- requests ----

    fn arrive(&mut self) -> Checked {
        if self.now < TROUBLES {
            let soon = self.now + self.dice.range(MS, 14 * MS);
            self.queue.at(soon, Event::Arrive);
        }
        let alive: Vec<usize> = (0..self.processes.len()).filter(|at| self.processes[*at].alive).collect();
        if alive.is_empty() {
            return Ok(());
        }
        let process = alive[self.dice.index(alive.len())];
        let amount = if self.dice.percent(5) { self.dice.range(50, 400) } else { self.dice.range(1, 20) };
        let key = if self.dice.percent(70) { "x" } else { "y" };
        let picked = self.dice.range(1, 8);
        let limits: Vec<usize> = (0..LIMITS.len()).filter(|limit| picked >> limit & 1 == 1).collect();
        let request = self.reserve(process, &limits, key, amount)?;
        let patience = if self.plan.troubles && self.dice.percent(10) { 3 * MS } else { SECOND };
        if let Some(request) = request {
            self.queue.at(self.now + patience, Event::GiveUp { process, request });
        }
        Ok(())
    }

    /// Asks for some limits; the number of the request, unless it was refused before it was asked.
    fn reserve(&mut self, at: usize, limits: &[usize], key: &str, amount: u64) -> Result<Option<u64>, Violation> {
        let charges = self.charges(at, limits, key, amount);
        let (Some(charges), false) = (charges, self.processes[at].agent.is_fenced()) else { return Ok(None) };
        let now = self.clock(at);
        let process = &mut self.processes[at];
        let (request, granted) = process.agent.reserve(&charges, 600 * SECOND, now);
        process.waiting.insert(request, charges.len());
        self.heeds(at, request)?;
        if let Some(standings) = granted {
            assert_eq!(standings.len(), charges.len());
            self.dispatch(at, request)?;
        }
        self.check(at)?;
        Ok(Some(request))
    }

    fn charges(&self, at: usize, limits: &[usize], key: &str, amount: u64) -> Option<Vec<Charge>> {
        let rules = self.processes[at].replica.rules();
        let charge = |limit: &usize| {
            let rule = rules.iter().find(|rule| *rule.limit == *LIMITS[*limit])?;
            let key = rule.per.iter().map(|_| key.to_owned()).collect();
            let amount = if rule.unit == Unit::Requests { 1 } else { amount };
            Some(Charge { limit: rule.limit.clone(), version: rule.version, key, amount })
        };
        limits.iter().map(charge).collect()
    }

    /// I8: what was applied counts at once. Nothing is drawn from an account that this node knows to be called back.
    fn heeds(&self, at: usize, request: u64) -> Checked {
        let process = &self.processes[at];
        for (account, epoch, _) in process.agent.drawn(request) {
            let view = process.replica.lease(process.node, process.incarnation, account);
            let called = view.filter(|view| view.epoch == epoch).is_none_or(|view| view.central || !view.in_force);
            require(!called, "I8", || format!("request {request} of {} draws from {account}", process.node))?;
        }
        Ok(())
    }

    /// A request was granted and goes out: it must hold its whole path, once.
    fn dispatch(&mut self, at: usize, request: u64) -> Checked {
        let process = &self.processes[at];
        let Some(charges) = process.waiting.get(&request).copied() else { return Ok(()) };
        let mut labels = process.agent.drawn(request);
        let drawn = labels.len();
        labels.extend(self.central.get(&(process.node, process.incarnation, request)).into_iter().flatten());
        require(labels.len() == charges, "I5", || format!("{labels:?} for {charges} charges"))?;
        self.stats.admitted += 1;
        self.stats.local += u64::from(drawn == labels.len());
        self.stats.mixed += u64::from(drawn > 0 && drawn < labels.len());
        self.witness.dispatch(&labels)?;
        self.decided.insert((at, request), Decision::Granted);
        let process = &mut self.processes[at];
        process.waiting.remove(&request);
        process.flights.insert(request, labels);
        if self.draining {
            return Ok(()); // `drain.rs` ends it itself
        }
        let over = self.now + if self.dice.percent(3) { 4 * SECOND } else { self.dice.range(0, 400 * MS) };
        self.queue.at(over, Event::End { process: at, request });
        Ok(())
    }

    fn end(&mut self, at: usize, request: u64) {
        let process = &mut self.processes[at];
        let Some(labels) = process.flights.get(&request).filter(|_| process.alive).cloned() else { return };
        process.flights.remove(&request);
        let most = labels.iter().map(|(_, _, amount)| *amount).max().unwrap_or_default();
        let outcome = if self.dice.percent(10) { Outcome::Voided } else { Outcome::Settled };
        let used =
            if self.dice.percent(3) { most + self.dice.range(0, 9) } else { self.dice.range(most / 2, most + 1) };
        self.finish(at, request, &labels, used, outcome);
    }

    fn finish(&mut self, at: usize, request: u64, labels: &[Label], used: u64, outcome: Outcome) {
        let voided = outcome == Outcome::Voided;
        self.witness.settle(labels, |place| match &*place.0 {
            _ if voided => 0,
            "c" => 1,
            _ => used,
        });
        let process = &mut self.processes[at];
        let id = format!("{}/{}/{request}", process.node, process.incarnation);
        if !voided {
            self.settled.push((at, id.clone()));
        }
        process.agent.settle(Settle {
            request,
            outcome: outcome.into(),
            usage: Some(Usage { input_tokens: used, ..Usage::default() }),
            attribution: Some(Attribution { request_id: id, ..Attribution::default() }),
            unheld: false,
        });
    }

    fn give_up(&mut self, at: usize, request: u64) {
        let process = &mut self.processes[at];
        if process.alive && process.waiting.remove(&request).is_some() {
            process.agent.cancel(request);
            self.stats.undecided += 1;
        }
    }

    fn told(&mut self, at: usize, answers: Vec<Answer>, drawn: bool) -> Checked {
        for Answer { request, outcome } in answers {
            match outcome {
                Some(said) if said.granted => {
                    if drawn {
                        self.heeds(at, request)?;
                    }
                    self.dispatch(at, request)?;
                }
                Some(said) => {
                    self.stats.refused += 1;
                    self.processes[at].waiting.remove(&request);
                    self.decided.insert((at, request), Decision::Refused(said.refusal()));
                }
                None => drop(self.processes[at].waiting.remove(&request)),
            }
        }
        Ok(())
    }

    // ---- the way up ----

    fn clock(&mut self, at: usize) -> Timestamp {
        let process = &mut self.processes[at];
        let own = (self.now + process.skew).max(process.replica.counters().last_time_us);
        process.clock = process.clock.max(own);
        Timestamp(process.clock)
    }

    fn tick(&mut self, at: usize) -> Checked {
        if !self.processes[at].alive {
            return Ok(());
        }
        self.queue.at(self.now + 4 * MS, Event::Tick { process: at });
        let now = self.clock(at);
        let process = &mut self.processes[at];
        if process.agent.is_waiting() && self.now >= process.retry_at {
            process.retry_at = self.now + 20 * MS;
            self.stats.waited += 1;
            let answers = process.agent.retry(now);
            self.told(at, answers, true)?;
        }
        let process = &mut self.processes[at];
        let (resend, cut) = (process.agent.is_sending(), process.cut);
        if cut || (resend && self.now < process.sent_at + 60 * MS) {
            return Ok(());
        }
        let Some(frame) = process.agent.next_frame(now) else { return Ok(()) };
        process.sent_at = self.now;
        self.send(at, &frame);
        self.check(at)
    }

    fn send(&mut self, process: usize, frame: &Frame) {
        let loses = self.plan.troubles && self.now < TROUBLES;
        let copies = if loses && self.dice.percent(8) { 0 } else { 1 + u64::from(loses && self.dice.percent(10)) };
        for copy in 0..copies {
            let late = if loses && self.dice.percent(3) { 2 * SECOND } else { 2 * MS };
            let delay = self.dice.range(200, late + 1) + copy * self.dice.range(0, SECOND);
            self.queue.at(self.now + delay, Event::Frame { process, frame: frame.clone() });
        }
    }

    fn propose(&mut self, process: usize, frame: Frame) -> Checked {
        if self.leaderless {
            return Ok(());
        }
        let outcome = self.append(Command::Batch(QuotaBatch { frames: vec![frame] }))?.expect("a batch has an outcome");
        let loses = self.plan.troubles && self.now < TROUBLES;
        if !(loses && self.dice.percent(8)) {
            let late = if loses && self.dice.percent(3) { 2 * SECOND } else { 5 * MS };
            let delay = self.dice.range(200, late);
            self.queue.at(self.now + delay, Event::Outcome { process, outcome });
        }
        Ok(())
    }

    fn answered(&mut self, at: usize, outcome: &FrameOutcome) -> Checked {
        let now = self.clock(at);
        let process = &mut self.processes[at];
        if !process.alive || process.cut {
            return Ok(());
        }
        let answers = process.agent.applied(outcome, now);
        process.alive = !process.agent.is_fenced();
        self.told(at, answers, false)
    }
}
