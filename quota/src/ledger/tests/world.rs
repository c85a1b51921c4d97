//! Two nodes, a network that repeats and reorders, a log, and a ledger that is checked after every entry.

use std::collections::BTreeMap;

use tollgate_model::{Algorithm, KeyPart, LogIndex, Name, TimeZone, Timestamp, Unit, Window};
use tollgate_proto::state::v1::{
    Attribution, Charge, Frame, FrameOutcome, Hold, LedgerMetaRow, NodeOpen, Outcome, QuotaBatch, Record, Settle,
    Usage, record::Kind,
};

use super::{Bug, HOUR, NOON, SECOND, oracle::Oracle, oracle::Verdict};
use crate::{
    Changes, Ledger, Rule,
    agent::Agent,
    invariants::{Terminals, Violation, all_or_nothing, require, safe, truthful, within_escrow},
    ledger::{Bounds, MAX_ACCOUNTS, MAX_HOLDS, MAX_LEASES, show},
};

pub(super) const LIMITS: [&str; 3] = ["a", "b", "c"];

/// Nodes have no leases here, so nothing by rule either: what is held is all that there is.
const UNSHARED: Bounds =
    Bounds { accounts: MAX_ACCOUNTS, holds: MAX_HOLDS, leases: MAX_LEASES, kept: (0, 0), standing: None };

/// One thing that happens.
#[derive(Debug, Clone)]
pub(super) enum Op {
    /// A request asks for some of the limits; `age` picks an older version of them.
    Hold {
        node: usize,
        limits: Vec<usize>,
        key: usize,
        amount: u64,
        age: usize,
        long: bool,
    },
    /// A request that meets no limit ends.
    Record {
        node: usize,
    },
    Settle {
        node: usize,
        pick: usize,
        input: u64,
        outcome: u8,
    },
    Cancel {
        node: usize,
        pick: usize,
    },
    /// The node's frame goes into the network; again, if it has not been confirmed.
    Send {
        node: usize,
    },
    /// One message of the network is applied, and may come again. Its answer may be lost.
    Deliver {
        pick: usize,
        answer: bool,
        again: bool,
    },
    Restart {
        node: usize,
    },
    Advance {
        by: usize,
    },
    SetRule {
        limit: usize,
        capacity: u64,
        form: usize,
    },
    RemoveRule {
        limit: usize,
    },
    /// The ledger is replaced by one that is restored from its rows.
    Restore,
}

pub(super) struct World {
    ledger: Ledger,
    /// The same log, never restored.
    original: Ledger,
    /// What a store has made of the rows that changed.
    store: BTreeMap<Vec<u8>, Vec<u8>>,
    oracle: Oracle,
    agents: Vec<Agent>,
    incarnations: Vec<u64>,
    network: Vec<Frame>,
    versions: BTreeMap<usize, Vec<(u64, usize)>>,
    now: u64,
    index: u64,
    terminals: Terminals,
    settled: Vec<(usize, u64, String)>,
    bug: Option<Bug>,
}

type Checked = Result<(), Violation>;

impl World {
    pub(super) fn new(bug: Option<Bug>) -> Self {
        let mut world = Self {
            ledger: Ledger::with_bounds(UNSHARED),
            original: Ledger::with_bounds(UNSHARED),
            store: BTreeMap::new(),
            oracle: Oracle::default(),
            agents: vec![Agent::new(0, 0), Agent::new(1, 0)],
            incarnations: vec![0, 0],
            network: Vec::new(),
            versions: BTreeMap::new(),
            now: NOON,
            index: 0,
            terminals: Terminals::default(),
            settled: Vec::new(),
            bug,
        };
        world.ledger.bug = bug;
        world.original.bug = bug;
        for limit in 0..LIMITS.len() {
            world.step(&Op::SetRule { limit, capacity: 60 + 20 * limit as u64, form: 0 }).unwrap();
        }
        for node in 0..2 {
            world.step(&Op::Restart { node }).unwrap();
        }
        world
    }

    pub(super) fn step(&mut self, op: &Op) -> Checked {
        match op {
            Op::Hold { node, limits, key, amount, age, long } => {
                let charges = self.charges(limits, *key, *amount, *age);
                let hold_for_us = if *long { 2 * HOUR } else { 10 * SECOND };
                self.agents[*node].hold(Hold { request: 0, charges, hold_for_us, ..Hold::default() });
            }
            Op::Record { node } => {
                let request = self.agents[*node].admit();
                self.end(*node, request, 7, Outcome::Settled, true);
            }
            Op::Settle { node, pick, input, outcome } => {
                let outcome = [Outcome::Settled, Outcome::Partial, Outcome::Voided][usize::from(*outcome) % 3];
                if let Some(request) = picked(&self.agents[*node].open_requests(), *pick) {
                    self.end(*node, request, *input, outcome, false);
                }
            }
            Op::Cancel { node, pick } => self.agents[*node].cancel(*pick as u64),
            Op::Send { node } => self.network.extend(self.agents[*node].next_frame(Timestamp(0))),
            Op::Deliver { pick, answer, again } => return self.deliver(*pick, *answer, *again),
            Op::Restart { node } => self.restart(*node),
            Op::Advance { by } => self.now += [1, SECOND, 9 * SECOND, 61 * SECOND, HOUR][*by % 5],
            Op::SetRule { limit, capacity, form } => self.set_rule(*limit, *capacity, *form),
            Op::RemoveRule { limit } => self.remove_rule(*limit),
            Op::Restore => self.restore(),
        }
        self.check()
    }

    fn charges(&self, limits: &[usize], key: usize, amount: u64, age: usize) -> Vec<Charge> {
        let charge = |limit: &usize| {
            let versions = &self.versions[limit];
            let (version, parts) = versions[versions.len() - 1 - age.min(versions.len() - 1)];
            let key = vec![["x", "y", "z"][key % 3].to_owned(); parts];
            Charge { limit: LIMITS[*limit].into(), key, amount, limit_version: version }
        };
        limits.iter().map(charge).collect()
    }

    fn end(&mut self, node: usize, request: u64, input: u64, outcome: Outcome, unheld: bool) {
        let id = format!("{node}/{}/{request}", self.incarnations[node]);
        if outcome != Outcome::Voided {
            self.settled.push((node, self.incarnations[node], id.clone()));
        }
        self.agents[node].settle(Settle {
            request,
            outcome: outcome.into(),
            usage: Some(Usage { input_tokens: input, output_tokens: input / 2, ..Usage::default() }),
            attribution: Some(Attribution { request_id: id, ..Attribution::default() }.into()),
            unheld,
            ..Settle::default()
        });
    }

    fn deliver(&mut self, pick: usize, answer: bool, again: bool) -> Checked {
        if self.network.is_empty() {
            return Ok(());
        }
        let at = pick % self.network.len();
        let frame = if again { self.network[at].clone() } else { self.network.swap_remove(at) };
        let outcome = self.apply(&frame)?;
        if answer {
            self.agents[usize::try_from(frame.node).unwrap()].applied(&outcome, Timestamp(0));
        }
        self.check()
    }

    fn apply(&mut self, frame: &Frame) -> Result<FrameOutcome, Violation> {
        let (at, now) = self.entry();
        let batch = QuotaBatch { frames: vec![frame.clone()] };
        let mut changes = Changes::new();
        let applied = self.ledger.apply(at, now, &batch, &mut changes);
        let ids: Vec<_> = applied.used.iter().map(|used| used.attribution.request_id.clone()).collect();
        let outcome = applied.outcome.frames[0].clone();
        let mut same = Changes::new();
        assert_eq!(self.original.apply(at, now, &batch, &mut same).outcome, applied.outcome, "as if never restored");
        self.stored(changes, same);
        ids.iter().try_for_each(|id| self.terminals.count(id))?;
        self.judge(frame, &outcome)?;
        Ok(outcome)
    }

    /// The perfect counter's view of the ledger's decisions.
    fn judge(&mut self, frame: &Frame, outcome: &FrameOutcome) -> Checked {
        if outcome.fenced || outcome.unopened || outcome.last_seq < frame.first_seq {
            return Ok(());
        }
        let granted: Vec<bool> = outcome.holds.iter().map(|said| said.granted).collect();
        for (verdict, said, request) in self.oracle.take(frame, &granted) {
            let asked = asked(frame, request);
            if self.oracle.is_held(frame.node, request) || !said {
                let taken = self.ledger.held_in(frame.node, request);
                require(all_or_nothing(said, asked, taken), "I5", || format!("{request}: {taken} of {asked}"))?;
            }
            if self.bug.is_none() {
                let refusal = outcome.holds.iter().find(|it| it.request == request).unwrap().refusal();
                let said = if said { Verdict::Granted } else { Verdict::Refused(refusal) };
                assert_eq!(said, verdict, "request {request} of node {}", frame.node);
            }
        }
        Ok(())
    }

    fn restart(&mut self, node: usize) {
        self.incarnations[node] += 1;
        let open = NodeOpen { node: node as u64, incarnation: self.incarnations[node], ..NodeOpen::default() };
        self.agents[node] = Agent::new(open.node, open.incarnation);
        let (at, now) = self.entry();
        self.oracle.open(open.node, open.incarnation);
        let (mut changes, mut same) = (Changes::new(), Changes::new());
        let outcome = self.ledger.open(at, now, &open, &mut changes);
        assert_eq!(self.original.open(at, now, &open, &mut same), outcome);
        self.stored(changes, same);
    }

    fn set_rule(&mut self, limit: usize, capacity: u64, form: usize) {
        let (LogIndex(version), now) = self.entry();
        let per: &[KeyPart] = if form % 4 == 3 { &[] } else { &[KeyPart::Consumer] };
        let rule = Rule {
            limit: Name::new(LIMITS[limit]),
            version: LogIndex(version),
            unit: if form % 4 == 2 { Unit::Requests } else { Unit::Tokens },
            per: per.to_vec(),
            capacity,
            window: if form % 4 == 1 { Window::Hour } else { Window::Minute },
            algorithm: Algorithm::Fixed,
            time_zone: TimeZone::UTC,
            apart: false,
            shadow: false,
        };
        self.versions.entry(limit).or_default().push((version, per.len()));
        self.oracle.set(&rule);
        let (mut changes, mut same) = (Changes::new(), Changes::new());
        self.ledger.set_rule(now, rule.clone(), &mut changes);
        self.original.set_rule(now, rule, &mut same);
        self.stored(changes, same);
    }

    fn remove_rule(&mut self, limit: usize) {
        let (at, now) = self.entry();
        self.oracle.remove(LIMITS[limit]);
        let (mut changes, mut same) = (Changes::new(), Changes::new());
        self.ledger.remove_rule(at, now, &Name::new(LIMITS[limit]), &mut changes);
        self.original.remove_rule(at, now, &Name::new(LIMITS[limit]), &mut same);
        self.stored(changes, same);
    }

    fn restore(&mut self) {
        let rows: Vec<_> = self.ledger.image().into_rows().collect();
        assert!(rows.is_sorted_by(|one, other| one.0 < other.0));
        assert_eq!(rows, self.store.clone().into_iter().collect::<Vec<_>>(), "what changed is what there is");
        let rows = rows.into_iter().map(Ok::<_, std::convert::Infallible>);
        self.ledger = Ledger::restore_with(UNSHARED, rows).unwrap();
        self.ledger.bug = self.bug;
    }

    pub(super) fn counters(&self) -> LedgerMetaRow {
        *self.ledger.counters()
    }

    /// The next log entry.
    fn entry(&mut self) -> (LogIndex, Timestamp) {
        self.index += 1;
        self.now += 1;
        self.oracle.at(self.now);
        (LogIndex(self.index), Timestamp(self.now))
    }

    fn stored(&mut self, changes: Changes, same: Changes) {
        assert_eq!(changes, same, "a restored ledger writes the same rows");
        for (key, value) in changes {
            match value {
                Some(value) => drop(self.store.insert(key, value)),
                None => drop(self.store.remove(&key)),
            }
        }
    }

    /// Everything that must hold at every moment.
    fn check(&self) -> Checked {
        self.ledger.audit()?;
        let audited = self.ledger.image().audit(0, u32::MAX);
        require(audited.unsound.is_empty(), "I1", || format!("the audit of an image differs: {audited:?}"))?;
        for (node, agent) in self.agents.iter().enumerate() {
            let (open, counted) = (agent.open_requests(), self.ledger.held_requests(node as u64));
            require(within_escrow(&open, &counted), "I2", || format!("node {node}: {open:?} of {counted:?}"))?;
        }
        for (place, it) in &self.oracle.figures {
            require(safe(it.most, it.held, it.used), "I3", || format!("{place:?}: {it:?}"))?;
        }
        let page = self.ledger.accounts(Timestamp(self.now), &show::Query::default());
        let mut shown = self.oracle.shown();
        for view in page.accounts {
            let truth = shown.remove(&(view.limit.to_string(), view.account.clone())).unwrap_or_default();
            if self.bug.is_none() {
                assert_eq!((view.used, view.held, view.overrun), (truth.used, truth.held, truth.overrun), "{view:?}");
            }
            require(truthful(truth.truth, view.used, view.overrun), "I4", || format!("{view:?}: {truth:?}"))?;
        }
        Ok(())
    }

    /// Everyone says what is left to say: then each request that ended was counted exactly once.
    pub(super) fn finish(mut self) -> Checked {
        for node in 0..2 {
            while self.agents[node].is_sending() || self.agents[node].queued() != (0, 0) {
                let frame = self.agents[node].next_frame(Timestamp(0)).expect("something is queued");
                let outcome = self.apply(&frame)?;
                self.agents[node].applied(&outcome, Timestamp(0));
                self.check()?;
            }
        }
        self.restore();
        for (node, incarnation, id) in &self.settled {
            let alive = self.incarnations[*node] == *incarnation;
            require(!alive || self.terminals.of(id) == 1, "I6", || format!("{id} was never counted"))?;
        }
        Ok(())
    }
}

fn asked(frame: &Frame, request: u64) -> usize {
    let charges = |record: &Record| match &record.kind {
        Some(Kind::Hold(hold)) if hold.request == request => Some(hold.charges.len()),
        _ => None,
    };
    frame.records.iter().find_map(charges).unwrap_or_default()
}

fn picked(of: &[u64], pick: usize) -> Option<u64> {
    (!of.is_empty()).then(|| of[pick % of.len()])
}
