//! Processes, one log, and everything that goes wrong between them.

mod books;
#[cfg(test)]
mod by_hand;
mod credit;
mod disk;
mod drain;
mod flips;
mod log;
mod lost;
mod names;
mod requests;
mod room;
mod story;
mod streams;
mod trouble;
mod unprotected;
mod up;
mod zones;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use prost::Message;
use tollgate_model::{Algorithm, KeyPart, LogIndex, Name, TimeZone, Timestamp, Unit, Window};
use tollgate_proto::state::v1::{
    self as wire, Attribution, Frame, FrameOutcome, Hold, NodeLost, NodeOpen, Outcome, QuotaBatch, Refusal, Settle,
    Usage, record::Kind,
};

use credit::Credit;
use disk::Disk;
use streams::{Part, Stream};

use super::{
    Failure, Fault, Plan, Report,
    bugs::Wrong,
    net::{Dice, Event, MS, Queue},
    oracle::{Compared, Oracle},
    witness::{Label, Witness},
};
use crate::{
    Changes, Charge, Durability, Ledger, Rule,
    agent::{Agent, Answer},
    invariants::{Violation, require},
    ledger::{Bounds, Shares, bugs::Bug as LedgerBug},
};

const SECOND: u64 = 1_000 * MS;
/// Ten seconds before a minute ends, and in some zones an hour.
const START: u64 = 500_000 * 3_600 * SECOND + 29 * 60 * SECOND + 50 * SECOND;
const TROUBLES: u64 = START + 18 * SECOND;
/// In windows of the clock, one that slides, and one of what is in flight.
const LIMITS: [&str; 5] = ["a", "b", "c", SLIDING, PERMITS];
pub(super) const SLIDING: &str = "d";
pub(super) use credit::PURSE;
pub(super) use flips::FLIPS;
pub(super) const PERMITS: &str = "e";
/// The one more that some plans have.
const SIXTH: usize = LIMITS.len();
/// How long a caller waits for a decision.
const PATIENCE: u64 = 3 * SECOND;
/// How long a process may spend its leases without an answer, and what it has in flight may last after that.
const ISOLATION: u64 = 2 * SECOND;
/// How long requests ask once more that are short of what others hold.
const LINGERS_FOR: u64 = 80 * MS;

/// A command of the log.
#[derive(Debug)]
enum Command {
    Batch(QuotaBatch),
    Open(NodeOpen),
    Lose(NodeLost),
    Set(Rule),
    Remove(Name),
    /// A key lives elsewhere from here on.
    Move(Arc<zones::Homes>, &'static str),
    /// So much is paid in.
    Grant(u64),
    /// So much is taken off what was paid in, as far as nobody holds it.
    TakeOff(u64),
}

#[derive(Debug)]
struct Entry {
    at: Timestamp,
    /// By a clock that never runs faster than real time.
    stamp: u64,
    command: Command,
}

#[derive(Debug)]
struct Process {
    node: u64,
    incarnation: u64,
    agent: Agent,
    replica: Ledger,
    credit: Credit,
    applied: usize,
    alive: bool,
    cut: bool,
    /// Applies nothing until it is given a snapshot.
    lags: bool,
    skew: u64,
    clock: u64,
    sent_at: u64,
    /// Since when it waits for an answer.
    asked_since: Option<u64>,
    retry_at: u64,
    /// The limits in force, as its replica knows them.
    rules: Vec<Rule>,
    waiting: BTreeMap<u64, Waiting>,
    flights: BTreeMap<u64, Vec<Label>>,
    /// Streams whose first part is on its way, by its number.
    streams: BTreeMap<u64, Stream>,
    /// What the usage of a stream is recorded with, by the number of its first part, until that goes out.
    records: BTreeMap<u64, u64>,
    disk: Disk,
    /// Granted, and waiting for the disk: up to where it must be durable.
    outgoing: BTreeMap<u64, u64>,
    /// When they were granted.
    drawn_at: BTreeMap<u64, u64>,
    /// How fast its own clock goes, in thousandths of true time; and when it began.
    rate: u64,
    began: u64,
    /// When the log last took a frame of it.
    heard: u64,
}

/// What a request asks for.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    /// One bit for each of `LIMITS`.
    limits: u8,
    key: &'static str,
    amount: u64,
    part: Part,
}

/// A request that waits for a decision.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    charges: usize,
    durability: Durability,
    wanted: Wanted,
}

/// What became of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decision {
    Granted,
    Refused(Refusal),
}

type Checked = Result<(), Violation>;

/// Of limits that are not all too small to be shared.
const SHARES: Shares = Shares { short: (4, 5), long: (1, 2), least: (5, 60) };

fn bounds(plan: Plan) -> Bounds {
    Bounds { standing: plan.standing.then_some(SHARES), ..Bounds::default() }
}

pub(super) struct World {
    plan: Plan,
    dice: Dice,
    /// Of what operators do.
    orders: Dice,
    /// Of how streams grow.
    growth: Dice,
    /// Of whether requests ask for the sixth limit, and what is paid in.
    sixth: Dice,
    queue: Queue,
    now: u64,
    log: Vec<Entry>,
    /// What the log says, applied as it is written.
    truth: Ledger,
    credit: Credit,
    /// The rows of all its changes.
    store: BTreeMap<Vec<u8>, Vec<u8>>,
    processes: Vec<Process>,
    witness: Witness,
    /// What went out against credit.
    served: credit::Served,
    flips: flips::Flips,
    /// What the log holds for requests, as it was granted.
    central: BTreeMap<(u64, u64, u64), Vec<Label>>,
    /// When it was.
    granted_at: BTreeMap<(u64, u64, u64), u64>,
    /// Of those, granted and not yet sent out: a perfect counter has them in its books already.
    promised: BTreeMap<(u64, u64, u64), Vec<Label>>,
    /// The last decision of each request that is asked for in `drain`.
    decided: BTreeMap<(usize, u64), Decision>,
    settled: Vec<(usize, String)>,
    /// Ends that were neither in the log nor on a disk when their process died.
    forgotten: BTreeSet<String>,
    books: books::Books,
    apart: unprotected::Apart,
    /// What came, for one who would have known all of it at once.
    oracle: Oracle,
    numbers: names::Numbers,
    /// Where keys live, and whether their limit goes by that.
    homes: Arc<zones::Homes>,
    parted: bool,
    leaderless: bool,
    leader_skew: u64,
    /// Of the leader's monotonic clock, in thousandths.
    leader_rate: u64,
    /// The last stamp, and when that was.
    stamped: (u64, u64),
    deleted: Option<Rule>,
    /// Since when others have what a lost incarnation had in hand.
    released: BTreeMap<(u64, u64), u64>,
    /// The leases of these: node, incarnation, account, window.
    written_off: BTreeSet<(u64, u64, u32, u64)>,
    released_units: u64,
    /// When a journal was last heard.
    recovered_at: Option<u64>,
    draining: bool,
    /// What is in flight ends when whoever made the run says so.
    by_hand: bool,
    report: Report,
    /// The last lines of what happened, when they are wanted.
    story: Option<VecDeque<String>>,
}

impl World {
    /// What a limit is called, by its place.
    fn name_of(&self, limit: usize) -> &'static str {
        let sixth = if self.plan.flips { FLIPS } else { PURSE };
        LIMITS.get(limit).copied().unwrap_or(sixth)
    }

    pub(super) fn new(plan: Plan, story: Option<VecDeque<String>>) -> Self {
        let mut world = Self {
            plan,
            dice: Dice(plan.seed),
            orders: Dice(!plan.seed),
            growth: Dice(plan.seed.rotate_left(32)),
            sixth: Dice(!plan.seed.rotate_left(16)),
            queue: Queue::default(),
            now: START,
            log: Vec::new(),
            truth: Ledger::with_bounds(bounds(plan)),
            credit: Credit::of(plan),
            store: BTreeMap::new(),
            processes: Vec::new(),
            witness: Witness::default(),
            served: credit::Served::default(),
            flips: flips::Flips::default(),
            central: BTreeMap::new(),
            granted_at: BTreeMap::new(),
            promised: BTreeMap::new(),
            decided: BTreeMap::new(),
            settled: Vec::new(),
            forgotten: BTreeSet::new(),
            books: books::Books::default(),
            apart: unprotected::Apart::default(),
            oracle: Oracle::default(),
            numbers: names::Numbers::default(),
            homes: Arc::default(),
            parted: false,
            leaderless: false,
            leader_skew: 0,
            leader_rate: 1_000,
            stamped: (0, START),
            deleted: None,
            released: BTreeMap::new(),
            written_off: BTreeSet::new(),
            released_units: 0,
            recovered_at: None,
            draining: false,
            by_hand: false,
            report: Report::default(),
            story,
        };
        world.truth.bug = world.ledger_bug();
        world
    }

    fn ledger_bug(&self) -> Option<LedgerBug> {
        self.wrong().and_then(Wrong::ledger)
    }

    fn wrong(&self) -> Option<Wrong> {
        self.plan.bug.map(|bug| bug.0)
    }

    pub(super) fn run(mut self) -> Result<Report, Box<Failure>> {
        let done = self.live();
        self.report.recalls = self.truth.counters().recalls;
        (self.report.billed_units, self.report.lost_units) = self.served.sums();
        self.report.flips = self.flips.changes();
        self.compare();
        let Self { plan, report, story, .. } = self;
        match done {
            Ok(()) => Ok(report),
            Err(violation) => {
                let story = story.into_iter().flatten().collect();
                Err(Box::new(Failure { plan, violation, report, story }))
            }
        }
    }

    fn live(&mut self) -> Checked {
        if self.plan.zones {
            self.settle_down()?;
        }
        for (limit, name) in LIMITS.into_iter().enumerate() {
            let least = if self.plan.scarce { 100 } else { 20_000 };
            let few = name == PERMITS && self.plan.scarce;
            let capacity = if few { self.dice.range(4, 20) } else { self.dice.range(least, 3 * least + 5_000) };
            self.set(limit, capacity)?;
        }
        if self.plan.purses {
            self.append(Command::Grant(2_000))?;
        }
        if self.plan.flips {
            self.flip()?;
        }
        for node in 1..=self.plan.nodes {
            self.spawn(node, 1, Disk::default())?;
        }
        self.queue.at(self.now, Event::Arrive);
        if self.may_fail() {
            self.queue.at(self.now + SECOND, Event::Trouble);
        }
        self.run_until(TROUBLES)?;
        self.drain()
    }

    /// Whether anything may go wrong now.
    fn may_fail(&self) -> bool {
        self.plan.scarce && self.now < TROUBLES
    }

    /// Whether a limit may be edited now, beside the edits that come with other trouble.
    fn may_be_edited(&self) -> bool {
        self.may_fail() && !self.leaderless && self.plan.faults.has(Fault::Edit)
    }

    /// Whether this goes wrong now: `dice` says so, and it may. Counts it.
    fn fails(&mut self, fault: Fault, dice: bool) -> bool {
        let fails = dice && self.plan.faults.has(fault);
        if fails {
            self.report.faults.note(fault);
        }
        fails
    }

    fn run_until(&mut self, end: u64) -> Checked {
        while let Some((time, event)) = self.queue.next() {
            if time > end {
                self.queue.at(time, event);
                break;
            }
            self.now = self.now.max(time);
            self.report.events += 1;
            self.happen(event)?;
        }
        self.now = self.now.max(end);
        Ok(())
    }

    fn happen(&mut self, event: Event) -> Checked {
        match event {
            Event::Arrive => return self.arrive(),
            Event::Frame { process, frame } => return self.propose(process, *frame),
            Event::Elected => self.leaderless = false,
            Event::Synced { process, position } => return self.synced(process, position),
            Event::Install { process } => {
                self.install(process);
                return self.check(process);
            }
            Event::Trouble => return self.trouble(),
            Event::Restart { process } => return self.restart(process),
            Event::Heal { process } => self.heal(process),
            Event::Isolated { process } => {
                self.cut_off(process);
                return self.check(process);
            }
            Event::Tick { process } => self.tick(process)?,
            Event::Outcome { process, outcome } => {
                self.answered(process, &outcome)?;
                return self.check(process);
            }
            Event::Apply { process, upto } => {
                if self.catch_up(process, upto) {
                    return self.check(process);
                }
            }
            Event::End { process, request } => {
                if self.end(process, request) {
                    return self.check(process);
                }
            }
            Event::GiveUp { process, request } => return self.lose_patience(process, request),
            Event::Grow { process, stream } => return self.grow(process, stream),
        }
        Ok(())
    }

    /// What must hold on a node whenever something has happened to it; the log is looked at when it grows.
    fn check(&self, process: usize) -> Checked {
        let process = &self.processes[process];
        if process.alive && !process.agent.is_fenced() { process.agent.audit() } else { Ok(()) }
    }
}
