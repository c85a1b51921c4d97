//! Random lives of a purse: nodes that draw and hold, crash and tell what they know, are given up and come back; grants,
//! corrections, and bills that come late. A witness of its own counts every unit that was sent out: never more than was paid
//! in, by none, and in the end not one is missing.

use std::collections::BTreeMap;

use tollgate_proto::state::v1::{Consumed, NodeLost, Recover, Report, Want, WriteOff};

use super::*;
use crate::{
    Rule,
    ledger::{Bearer, LeaseView, PurseBill, requests_of},
};

const LIMIT: &str = "credits:acme";

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % most
    }
}

/// One request in flight: what it holds, and whether the log does or the node.
#[derive(Debug, Clone, Copy)]
struct Flight {
    amount: u64,
    in_log: bool,
}

/// A process, as the log must be able to believe it.
#[derive(Debug, Default)]
struct Process {
    incarnation: u64,
    seq: u64,
    requests: u64,
    spent: u64,
    returned: u64,
    flights: BTreeMap<u64, Flight>,
}

struct Life {
    ledger: Ledger,
    now: u64,
    index: u64,
    dice: Dice,
    nodes: Vec<Process>,
    /// What is left of all grants, as the credit book has it.
    rest: u64,
    paid_in: u64,
    taken_off: u64,
    billed: u64,
    /// Used, and its bill comes with another entry: by node and incarnation.
    due: Vec<(Bearer, u64)>,
    /// What processes had in flight that are dead, and nobody has explained.
    unexplained: BTreeMap<(usize, u64), u64>,
}

impl Life {
    fn new(seed: u64, bug: Option<Bug>) -> Self {
        let mut life = Self {
            ledger: Ledger::with_bounds(Bounds::default()),
            now: NOON,
            index: 1,
            dice: Dice(seed),
            nodes: vec![Process::default(), Process::default(), Process::default()],
            rest: 0,
            paid_in: 0,
            taken_off: 0,
            billed: 0,
            due: Vec::new(),
            unexplained: BTreeMap::new(),
        };
        life.ledger.bug = bug;
        life.grant(2_000);
        (0..3).for_each(|node| life.open(node));
        life
    }

    fn at(&mut self) -> (LogIndex, Timestamp) {
        self.index += 1;
        self.now += 1_000;
        (LogIndex(self.index), Timestamp(self.now))
    }

    fn fund(&mut self) {
        let rule = Rule { per: Vec::new(), algorithm: Algorithm::Never, ..rule(LIMIT, 0, self.rest) };
        let (_, now) = self.at();
        self.ledger.put_purse(now, rule, &mut Changes::new());
    }

    fn grant(&mut self, amount: u64) {
        self.rest += amount;
        self.paid_in += amount;
        self.fund();
    }

    fn take_off(&mut self, amount: u64) {
        let free = u64::try_from(self.ledger.purse(LIMIT).unwrap().free).unwrap_or(0);
        let taken = amount.min(free).min(self.rest);
        self.rest -= taken;
        self.taken_off += taken;
        self.fund();
        if taken < amount {
            let (_, now) = self.at();
            self.ledger.recall_purse(now, LIMIT, &mut Changes::new());
        }
    }

    fn bill(&mut self) {
        let Some((by, cost)) = self.due.pop() else { return };
        let burnt = cost.min(self.rest);
        self.rest -= burnt;
        self.billed += cost;
        let bill = PurseBill { limit: Name::new(LIMIT), by: Some(by), cost, burnt };
        let (_, now) = self.at();
        self.ledger.bill_purses(now, &[bill], &mut Changes::new());
    }

    fn open(&mut self, node: usize) {
        let process = &mut self.nodes[node];
        let (next, in_flight) = (process.incarnation + 1, process.flights.values().map(|it| it.amount).sum::<u64>());
        if in_flight > 0 {
            *self.unexplained.entry((node, process.incarnation)).or_default() += in_flight;
        }
        let first = requests_of(next);
        *process = Process { incarnation: next, requests: first, ..Process::default() };
        let open = NodeOpen { node: node as u64, incarnation: next, predecessor_is_dead: true, ..NodeOpen::default() };
        let (at, now) = self.at();
        self.ledger.open(at, now, &open, &mut Changes::new());
    }

    fn say(&mut self, node: usize, kind: Kind) -> FrameOutcome {
        let process = &mut self.nodes[node];
        process.seq += 1;
        let (incarnation, first_seq) = (process.incarnation, process.seq);
        let frame = Frame {
            node: node as u64,
            incarnation,
            first_seq,
            records: vec![Record { kind: Some(kind) }],
            ..Frame::default()
        };
        let (at, now) = self.at();
        let batch = QuotaBatch { frames: vec![frame] };
        let applied = self.ledger.apply(at, now, &batch, &mut Changes::new());
        self.ledger.close_purses(now, &mut Changes::new());
        applied.outcome.frames.into_iter().next().unwrap()
    }

    fn lease(&self, node: usize) -> Option<LeaseView> {
        self.ledger.lease_of(node as u64, self.nodes[node].incarnation, LIMIT, &[])
    }

    fn in_hand(&self, node: usize) -> u64 {
        let process = &self.nodes[node];
        let held: u64 = process.flights.values().filter(|it| !it.in_log).map(|it| it.amount).sum();
        self.lease(node).map_or(0, |it| it.granted.saturating_sub(process.spent + process.returned + held))
    }

    fn report(&mut self, node: usize) {
        let Some(LeaseView { account, epoch, generation, central, .. }) = self.lease(node) else { return };
        if central || self.dice.below(4) == 0 {
            self.nodes[node].returned += self.in_hand(node);
        }
        let Process { spent, returned, flights, .. } = &self.nodes[node];
        let held = flights.values().filter(|it| !it.in_log).map(|it| it.amount).sum();
        let report = Report { account, epoch, generation, spent: *spent, returned: *returned, overrun: 0, held };
        self.say(node, Kind::Report(report));
    }

    fn send(&mut self, node: usize, amount: u64) {
        let request = self.nodes[node].requests + 1;
        self.nodes[node].requests = request;
        let leased = self.lease(node).is_some_and(|it| !it.central);
        if leased && self.in_hand(node) >= amount {
            self.nodes[node].flights.insert(request, Flight { amount, in_log: false });
            return;
        }
        let charges = vec![Charge { limit: LIMIT.into(), amount, ..Charge::default() }];
        let hold = Hold { request, charges, hold_for_us: 5 * SECOND, ..Hold::default() };
        if self.say(node, Kind::Hold(hold)).holds[0].granted {
            self.nodes[node].flights.insert(request, Flight { amount, in_log: true });
        }
    }

    /// A request ends, and is billed with it or later.
    fn end(&mut self, node: usize) {
        let Some((request, flight)) = self.nodes[node].flights.pop_first() else { return };
        let used = self.dice.below(flight.amount + 1);
        let by = Bearer { node: node as u64, incarnation: self.nodes[node].incarnation };
        if flight.in_log {
            let usage = Some(Usage { input_tokens: used, ..Usage::default() });
            let settle = Settle { request, outcome: Outcome::Settled.into(), usage, ..Settle::default() };
            self.say(node, Kind::Settle(settle));
        } else {
            self.nodes[node].spent += used;
        }
        self.due.push((by, used));
        // A bill is of the record that ends its request: it is in the log before anything else of that node.
        self.bill();
        if self.dice.below(2) == 0 {
            self.report(node);
        }
    }

    /// A process dies, and the next one tells of it out of its journal; or somebody gives the node up.
    fn die(&mut self, node: usize) {
        let Process { incarnation, spent, flights, .. } = &self.nodes[node];
        let (gone, drawn) = (*incarnation, flights.values().filter(|it| !it.in_log).map(|it| it.amount).sum::<u64>());
        let (spent, lease) = (*spent, self.lease(node));
        if self.dice.below(3) == 0 {
            let lost = NodeLost {
                node: node as u64,
                incarnation: gone,
                write_off: WriteOff::Consume.into(),
                ..NodeLost::default()
            };
            let (_, now) = self.at();
            self.ledger.lose(now, &lost, &mut Changes::new());
            self.now += 40 * SECOND;
            // What it had in flight it has sent out, and nobody will be billed for it.
            self.fund();
            self.nodes[node].flights.clear();
            self.open(node);
        } else {
            self.open(node);
            if self.dice.below(2) == 0 {
                self.now += 40 * SECOND;
                self.fund();
                self.check();
            }
        }
        let consumed = lease.map(|it| Consumed {
            account: it.account,
            epoch: it.epoch,
            spent: spent + drawn,
            ..Consumed::default()
        });
        let said = Recover { incarnation: gone, consumed: consumed.into_iter().collect(), ..Recover::default() };
        self.say(node, Kind::Recover(said));
        self.check();
        self.say(node, Kind::Recover(Recover { incarnation: gone, done: true, ..Recover::default() }));
        self.unexplained.remove(&(node, gone));
    }

    fn check(&self) {
        self.ledger.audit().unwrap();
        let out: u64 = self.nodes.iter().flat_map(|it| it.flights.values()).map(|it| it.amount).sum();
        let unexplained: u64 = self.unexplained.values().sum();
        let due: u64 = self.due.iter().map(|(_, cost)| cost).sum();
        let sent = self.billed + due + out + unexplained;
        assert!(
            sent + self.taken_off <= self.paid_in,
            "{sent} sent out and {} taken off of {}",
            self.taken_off,
            self.paid_in
        );
        let view = self.ledger.purse(LIMIT).unwrap();
        assert_eq!(view.capacity, self.rest, "what is left");
    }

    fn step(&mut self) {
        let node = usize::try_from(self.dice.below(3)).unwrap();
        let amount = 1 + self.dice.below(60);
        match self.dice.below(20) {
            0..=7 => self.send(node, amount),
            8..=12 => self.end(node),
            13 => {
                let want = Want { limit: LIMIT.into(), target: 8 * amount, need: amount, ..Want::default() };
                self.say(node, Kind::Want(want));
            }
            14 | 15 => self.report(node),
            16 => self.grant(amount * 4),
            17 => self.take_off(amount),
            18 => self.die(node),
            _ => self.now += self.dice.below(10 * SECOND),
        }
        self.check();
    }

    /// Everything ends: then what was paid in and not billed or taken off is free, to the unit.
    fn finish(mut self) {
        for node in 0..3 {
            while !self.nodes[node].flights.is_empty() {
                self.end(node);
            }
            self.nodes[node].returned += self.in_hand(node);
            self.report(node);
        }
        self.check();
        let view = self.ledger.purse(LIMIT).unwrap();
        assert_eq!(self.rest, self.paid_in - self.taken_off - self.billed);
        let figures = (view.free, view.held, view.leased, view.suspense, view.billed, view.overrun);
        assert_eq!(figures, (i128::from(self.rest), 0, 0, 0, 0, 0), "{view:?}");
    }
}

fn live(seed: u64, bug: Option<Bug>) {
    let mut life = Life::new(seed, bug);
    (0..400).for_each(|_| life.step());
    life.finish();
}

#[test]
fn whatever_happens_nothing_is_over_and_nothing_is_missing() {
    (0..200).for_each(|seed| live(seed, None));
}

#[test]
fn each_way_to_be_wrong_about_purses_is_seen() {
    for bug in [Bug::PurseTimesOut, Bug::PurseKeepsTheUnknown, Bug::OpenFreesLeases] {
        let seen = (0..50).any(|seed| std::panic::catch_unwind(|| live(seed, Some(bug))).is_err());
        assert!(seen, "{bug:?}");
    }
}
