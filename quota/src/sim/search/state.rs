//! A state: processes, frames under way, the log's ledger, and what was really sent out.

use std::{collections::BTreeMap, rc::Rc};

use tollgate_model::{Algorithm, KeyPart, LogIndex, Name, TimeZone, Timestamp, Unit, Window};
use tollgate_proto::state::v1::{
    Attribution, Frame, FrameOutcome, NodeOpen, Outcome, QuotaBatch, Settle, Usage, record::Kind,
};

use super::{
    Budget,
    digest::Digest,
    moves::Move,
    seen::{Seen, UNNUMBERED},
};
use crate::{
    Changes, Charge, Durability, Ledger, Rule,
    agent::{Agent, Answer},
    invariants::{Terminals, Violation, require, within_escrow},
    journal::OWN_NUMBERS,
    ledger::{Bounds, News, Shares},
    sim::{
        bugs::{Bug, Wrong},
        witness::Label,
    },
};

const SECOND: u64 = 1_000_000;
const MINUTE: u64 = 60 * SECOND;
/// A minute begins.
const START: u64 = 500_000 * 60 * MINUTE;
const LEAD: u64 = 2 * SECOND;
const LIMIT: &str = "a";
/// The greatest request.
pub(super) const GREATEST: u64 = 2;
/// An account this small is divided all the same, and one unit is kept back. Twice that may not be less than any request:
/// else a recall for it ends as soon as somebody has given back something, and begins anew for ever.
const KEPT: (u64, u64) = (0, GREATEST / 2);

/// One unit of four for each of two nodes.
const SHARES: Shares = Shares { short: (4, 5), long: (1, 2), least: (1, 1) };

pub(super) type Checked = Result<(), Violation>;

/// The log's ledger after some entry.
#[derive(Debug)]
struct Point {
    ledger: Ledger,
    news: News,
    digest: u128,
}

#[derive(Debug, Clone)]
pub(super) struct Process {
    node: u64,
    incarnation: u64,
    pub(super) agent: Rc<Agent>,
    /// Which point of the log its replica is at.
    at: usize,
    pub(super) alive: bool,
    pub(super) cut: bool,
    /// Asked, and not answered: with the units.
    pub(super) waiting: BTreeMap<u64, u64>,
    pub(super) flights: BTreeMap<u64, Vec<Label>>,
    ended: Vec<String>,
}

#[derive(Debug, Clone)]
pub(super) struct State {
    pub(super) left: Budget,
    wrong: Option<Wrong>,
    pub(super) now: u64,
    /// From the oldest point that a replica is at.
    log: Vec<Rc<Point>>,
    edits: u64,
    pub(super) processes: Vec<Process>,
    pub(super) under_way: Vec<Rc<Frame>>,
    /// What the log holds for requests, as it was granted.
    central: BTreeMap<(u64, u64, u64), Vec<Label>>,
    pub(super) seen: Seen,
    terminals: Terminals,
}

impl Process {
    pub(super) fn ended_requests(&self) -> usize {
        self.ended.len()
    }
}

impl State {
    pub(super) fn new(left: Budget, bug: Option<Bug>) -> Result<Self, Violation> {
        let wrong = bug.map(|bug| bug.0);
        let standing = left.standing.then_some(SHARES);
        let mut ledger = Ledger::with_bounds(Bounds { kept: KEPT, standing, ..Bounds::default() });
        ledger.bug = wrong.and_then(Wrong::ledger);
        let mut state = Self {
            left,
            wrong,
            now: START,
            log: vec![point(ledger)],
            edits: 0,
            processes: Vec::new(),
            under_way: Vec::new(),
            central: BTreeMap::new(),
            seen: Seen::default(),
            terminals: Terminals::default(),
        };
        if !left.standing {
            state.set(left.capacity)?;
        }
        state.start(1, 1)?;
        state.start(2, 1)?;
        if left.standing {
            // Who is there already is on the roster.
            state.set(left.capacity)?;
            state.catch_up(0, false);
            state.catch_up(1, false);
        }
        if left.warm {
            state.warm_up()?;
        }
        state.forget();
        Ok(state)
    }

    /// Node 1 asks the log, and is given a lease besides.
    fn warm_up(&mut self) -> Checked {
        self.reserve(0, 1)?;
        self.send(0);
        let frame = self.under_way.remove(0);
        self.deliver(&frame, true)?;
        self.catch_up(0, false);
        self.catch_up(1, false);
        Ok(())
    }

    /// Does one thing.
    pub(super) fn take(&mut self, it: Move) -> Checked {
        match it {
            Move::Begin => {}
            Move::Reserve { process, amount } => {
                self.left.requests -= 1;
                self.reserve(process, amount)?;
            }
            Move::End { process, request, used } => self.end(process, request, used),
            Move::Leave { process, request } => {
                self.left.cancels -= 1;
                self.processes[process].waiting.remove(&request);
                self.agent(process).cancel(request);
            }
            Move::Retry { process } => {
                self.left.retries -= 1;
                self.retry(process)?;
            }
            Move::Send { process } => self.send(process),
            Move::Deliver { frame, answered, again } => {
                self.left.losses -= u8::from(!answered);
                self.left.repeats -= u8::from(again);
                let sent = if again { Rc::clone(&self.under_way[frame]) } else { self.under_way.remove(frame) };
                self.deliver(&sent, answered)?;
            }
            Move::Lose { frame } => {
                self.left.losses -= 1;
                self.under_way.remove(frame);
            }
            Move::Apply { process, snapshot } => {
                self.left.snapshots -= u8::from(snapshot);
                self.catch_up(process, snapshot);
            }
            Move::Replace { process, dead } => {
                self.left.crashes -= 1;
                self.replace(process, dead)?;
            }
            Move::Edit => {
                self.left.edits -= 1;
                self.set(self.left.edited)?;
            }
            Move::Silence => {
                self.left.silences -= 1;
                self.now += 2 * SECOND;
            }
            Move::Turn => {
                self.left.turns -= 1;
                // The roster of the next window is settled some time before.
                let lead = if self.left.standing && self.now % MINUTE < MINUTE - LEAD { LEAD } else { 0 };
                self.now += MINUTE - lead - self.now % MINUTE;
            }
        }
        self.forget();
        Ok(())
    }

    /// What must hold after every step.
    pub(super) fn check(&self) -> Checked {
        let truth = self.truth();
        truth.audit()?;
        for it in self.processes.iter().filter(|it| it.alive && !it.agent.is_fenced()) {
            it.agent.audit()?;
            if truth.node(it.node).is_some_and(|(newest, _)| newest == it.incarnation) {
                let (open, counted) = (it.agent.open_requests(), truth.held_requests(it.node));
                require(within_escrow(&open, &counted), "I2", || format!("node {}: {open:?} of {counted:?}", it.node))?;
            }
        }
        Ok(())
    }

    pub(super) fn truth(&self) -> &Ledger {
        &self.log.last().expect("there is always one point").ledger
    }

    /// Node 2 has no clock but its replica's.
    pub(super) fn clock(&self, process: usize) -> Timestamp {
        let it = &self.processes[process];
        let applied = self.log[it.at].ledger.counters().last_time_us;
        Timestamp(if it.node == 2 { applied.max(START) } else { applied.max(self.now) })
    }

    pub(super) fn agent(&mut self, process: usize) -> &mut Agent {
        Rc::make_mut(&mut self.processes[process].agent)
    }

    /// Asks for some units; the number of the request, should the limit be known.
    pub(super) fn reserve(&mut self, process: usize, amount: u64) -> Result<Option<u64>, Violation> {
        let rules = self.log[self.processes[process].at].ledger.rules();
        let Some(rule) = rules.first() else { return Ok(None) };
        let charge = Charge { limit: rule.limit.clone(), version: rule.version, key: vec!["x".into()], amount };
        let now = self.clock(process);
        let (request, granted) = self.agent(process).reserve(&[charge], Durability::Journal, 600 * SECOND, now);
        self.processes[process].waiting.insert(request, amount);
        if granted.is_some() {
            self.send_out(process, request)?;
        }
        Ok(Some(request))
    }

    /// A request was granted: it holds what it asked for, once (I5), and goes out (I3).
    fn send_out(&mut self, process: usize, request: u64) -> Checked {
        let it = &mut self.processes[process];
        let Some(amount) = it.waiting.remove(&request) else { return Ok(()) };
        let mut labels = it.agent.drawn(request);
        labels.iter_mut().filter(|it| it.0 >= OWN_NUMBERS).for_each(|it| it.0 = UNNUMBERED);
        labels.extend(self.central.get(&(it.node, it.incarnation, request)).into_iter().flatten());
        let whole = matches!(labels[..], [(_, _, held)] if held == amount);
        require(whole, "I5", || format!("request {request} asked for {amount} and holds {labels:?}"))?;
        self.seen.send_out(&labels)?;
        it.flights.insert(request, labels);
        Ok(())
    }

    pub(super) fn end(&mut self, process: usize, request: u64, used: u64) {
        let it = &mut self.processes[process];
        let Some(labels) = it.flights.remove(&request) else { return };
        self.seen.end(&labels, used);
        let request_id = format!("{}/{}/{request}", it.node, it.incarnation);
        it.ended.push(request_id.clone());
        self.agent(process).settle(Settle {
            request,
            outcome: Outcome::Settled.into(),
            usage: Some(Usage { input_tokens: used, ..Usage::default() }),
            attribution: Some(Attribution { request_id, ..Attribution::default() }.into()),
            ..Settle::default()
        });
    }

    pub(super) fn retry(&mut self, process: usize) -> Checked {
        let now = self.clock(process);
        let answers = self.agent(process).retry(now);
        self.told(process, answers)
    }

    fn told(&mut self, process: usize, answers: Vec<Answer>) -> Checked {
        for Answer { request, outcome } in answers {
            if outcome.is_some_and(|said| said.granted) {
                self.send_out(process, request)?;
            } else {
                self.processes[process].waiting.remove(&request);
            }
        }
        Ok(())
    }

    /// Whether a process has a frame that is not under way.
    pub(super) fn can_send(&self, process: usize) -> bool {
        let next = Agent::clone(&self.processes[process].agent).next_frame(self.clock(process));
        next.is_some_and(|next| self.under_way.iter().all(|frame| **frame != next))
    }

    pub(super) fn send(&mut self, process: usize) {
        let now = self.clock(process);
        if let Some(frame) = self.agent(process).next_frame(now) {
            self.under_way.push(Rc::new(frame));
            self.under_way.sort_by_key(|frame| (frame.node, frame.incarnation, frame.first_seq));
        }
    }

    pub(super) fn deliver(&mut self, frame: &Frame, answered: bool) -> Checked {
        let batch = QuotaBatch { frames: vec![frame.clone()] };
        let mut ended = Vec::new();
        let mut outcome = FrameOutcome::default();
        self.append(|ledger, at, now, changes| {
            let applied = ledger.apply(at, now, &batch, changes);
            ended.extend(applied.used.iter().map(|used| used.attribution.request_id.clone()));
            outcome = applied.outcome.frames.into_iter().next().unwrap_or_default();
        })?;
        ended.iter().try_for_each(|id| self.terminals.count(id))?;
        self.note_holds(frame);
        let sender = self.processes.iter().position(|it| {
            (it.node, it.incarnation) == (frame.node, frame.incarnation) && it.alive && !it.cut && answered
        });
        let Some(process) = sender else { return Ok(()) };
        let now = self.clock(process);
        let answers = self.agent(process).applied(&outcome, now);
        self.processes[process].alive = !self.processes[process].agent.is_fenced();
        self.told(process, answers)
    }

    /// Keeps what the log has granted by its labels.
    fn note_holds(&mut self, frame: &Frame) {
        for record in &frame.records {
            let Some(Kind::Hold(hold)) = &record.kind else { continue };
            let newest = self.truth().node(frame.node).map(|(incarnation, _)| incarnation);
            let labels = self.truth().held_by(frame.node, hold.request);
            if newest == Some(frame.incarnation) && !labels.is_empty() {
                self.central.entry((frame.node, frame.incarnation, hold.request)).or_insert(labels);
            }
        }
    }

    pub(super) fn is_behind(&self, process: usize) -> bool {
        self.processes[process].at + 1 < self.log.len()
    }

    /// Applies what a replica lacks, entry by entry, or all at once with a snapshot.
    pub(super) fn catch_up(&mut self, process: usize, snapshot: bool) {
        let it = &mut self.processes[process];
        let agent = Rc::make_mut(&mut it.agent);
        if snapshot {
            it.at = self.log.len() - 1;
            agent.follow(&self.log[it.at].ledger, &News { all: true, ..News::default() });
        }
        while it.at + 1 < self.log.len() {
            it.at += 1;
            agent.follow(&self.log[it.at].ledger, &self.log[it.at].news);
        }
        let newest = self.log[it.at].ledger.node(it.node).map_or(0, |(incarnation, _)| incarnation);
        it.alive = newest <= it.incarnation;
    }

    /// A process dies, or is cut off and goes on; the next one of its node starts.
    fn replace(&mut self, process: usize, dead: bool) -> Checked {
        let Process { node, incarnation, .. } = self.processes[process];
        self.processes[process].alive = !dead;
        self.processes[process].cut = true;
        self.start(node, incarnation + u64::from(self.wrong != Some(Wrong::SameIncarnation)))
    }

    fn start(&mut self, node: u64, incarnation: u64) -> Checked {
        let open = NodeOpen { node, incarnation, ..NodeOpen::default() };
        self.append(|ledger, at, now, changes| {
            ledger.open(at, now, &open, changes);
        })?;
        let mut agent = Agent::new(node, incarnation);
        agent.set_bug(self.wrong.and_then(Wrong::book));
        agent.follow(self.truth(), &News { all: true, ..News::default() });
        self.processes.push(Process {
            node,
            incarnation,
            agent: Rc::new(agent),
            at: self.log.len() - 1,
            alive: true,
            cut: false,
            waiting: BTreeMap::new(),
            flights: BTreeMap::new(),
            ended: Vec::new(),
        });
        Ok(())
    }

    fn set(&mut self, capacity: u64) -> Checked {
        self.edits += 1;
        let rule = Rule {
            limit: Name::new(LIMIT),
            version: LogIndex(self.edits),
            unit: Unit::Tokens,
            per: vec![KeyPart::Consumer],
            capacity,
            window: Window::Minute,
            algorithm: Algorithm::Fixed,
            time_zone: TimeZone::UTC,
            apart: false,
            shadow: false,
        };
        self.append(|ledger, _, now, changes| ledger.set_rule(now, rule, changes))
    }

    /// Writes one entry. Its index says only how often the limit was changed: nothing else is ever made of it.
    fn append(&mut self, write: impl FnOnce(&mut Ledger, LogIndex, Timestamp, &mut Changes)) -> Checked {
        let mut ledger = self.truth().clone();
        write(&mut ledger, LogIndex(self.edits), Timestamp(self.now), &mut Changes::new());
        self.seen.look(&ledger);
        self.log.push(point(ledger));
        Ok(())
    }

    /// Lets go of points that no replica is at any more.
    fn forget(&mut self) {
        let used = self.processes.iter().filter(|it| it.alive).map(|it| it.at);
        let oldest = used.min().unwrap_or(self.log.len() - 1);
        self.log.drain(..oldest);
        for it in &mut self.processes {
            it.at = it.at.saturating_sub(oldest);
        }
    }

    /// I6 for those who are still there to say it: each end was counted, once.
    pub(super) fn everyone_was_counted(&self) -> Checked {
        for id in self.processes.iter().filter(|it| it.alive).flat_map(|it| &it.ended) {
            let times = self.terminals.of(id);
            require(times == 1, "I6", || format!("{id} was counted {times} times"))?;
        }
        Ok(())
    }

    pub(super) fn node_of(&self, process: usize) -> u64 {
        self.processes[process].node
    }

    /// What all that will ever come of this state follows from.
    pub(super) fn digest(&self) -> u128 {
        let mut digest = Digest::new();
        digest.say((self.left, self.now, self.edits, &self.under_way, &self.seen));
        self.log.iter().for_each(|point| digest.add(&point.digest.to_be_bytes()));
        for it in &self.processes {
            digest.say((it.node, it.incarnation, it.alive, it.cut));
            if it.alive {
                digest.say((it.at, &it.waiting, &it.flights, &it.ended));
                it.agent.digest(&mut digest).expect("a digest takes every text");
            }
        }
        digest.say((&self.central, &self.terminals));
        digest.end()
    }
}

fn point(mut ledger: Ledger) -> Rc<Point> {
    let news = ledger.take_news();
    let mut digest = Digest::new();
    ledger.digest(|bytes| digest.add(bytes));
    digest.say(&news);
    Rc::new(Point { ledger, news, digest: digest.end() })
}
