//! What single entries do; `random.rs` has what long sequences of them never do.

mod apart;
mod audit;
mod change;
mod edits;
mod frames;
mod leases;
mod listing;
mod lost;
mod oracle;
mod peek;
mod present;
mod purse;
mod purses;
mod random;
mod recovered;
mod reset;
mod retry;
mod shadow;
mod slide;
mod standing;
mod undispatched;
mod unknown;
mod world;

use tollgate_model::{Algorithm, KeyPart, LogIndex, Name, TimeZone, Timestamp, Unit, Window};
use tollgate_proto::state::v1::{
    Attribution, Charge, Frame, FrameOutcome, Hold, HoldOutcome, NodeOpen, Outcome, QuotaBatch, Record, Settle, Usage,
    record::Kind,
};

use super::{Bounds, Changes, Ledger, bugs::Bug, show};
use crate::Rule;

pub(super) const SECOND: u64 = 1_000_000;
pub(super) const MINUTE: u64 = 60 * SECOND;
pub(super) const HOUR: u64 = 60 * MINUTE;
/// A time at which a minute and an hour begin.
pub(super) const NOON: u64 = 500_000 * HOUR;

pub(super) fn rule(limit: &str, version: u64, capacity: u64) -> Rule {
    Rule {
        limit: Name::new(limit),
        version: LogIndex(version),
        unit: Unit::Tokens,
        per: vec![KeyPart::Consumer],
        capacity,
        window: Window::Minute,
        algorithm: Algorithm::Fixed,
        time_zone: TimeZone::UTC,
        apart: false,
        shadow: false,
    }
}

/// A ledger, its time, and node 1 in its first incarnation.
pub(super) struct Bench {
    pub(super) ledger: Ledger,
    pub(super) now: u64,
    pub(super) index: u64,
    seq: u64,
    request: u64,
}

impl Bench {
    pub(super) fn with(rules: &[Rule]) -> Self {
        Self::bounded(Bounds::default(), rules)
    }

    pub(super) fn bounded(bounds: Bounds, rules: &[Rule]) -> Self {
        let mut bench = Self { ledger: Ledger::with_bounds(bounds), now: NOON, index: 100, seq: 0, request: 0 };
        rules.iter().for_each(|rule| bench.set(rule.clone()));
        bench.open(1, 1);
        bench
    }

    pub(super) fn set(&mut self, rule: Rule) {
        self.ledger.set_rule(Timestamp(self.now), rule, &mut Changes::new());
    }

    pub(super) fn remove(&mut self, limit: &str, at: u64) {
        self.ledger.remove_rule(LogIndex(at), Timestamp(self.now), &Name::new(limit), &mut Changes::new());
    }

    pub(super) fn open(&mut self, node: u64, incarnation: u64) -> u64 {
        self.open_as(NodeOpen { node, incarnation, ..NodeOpen::default() })
    }

    pub(super) fn open_as(&mut self, open: NodeOpen) -> u64 {
        if open.node == 1 {
            self.seq = 0;
        }
        self.ledger.open(LogIndex(self.index), Timestamp(self.now), &open, &mut Changes::new()).orphaned
    }

    pub(super) fn apply(&mut self, frame: &Frame) -> FrameOutcome {
        self.index += 1;
        let batch = QuotaBatch { frames: vec![frame.clone()] };
        let applied = self.ledger.apply(LogIndex(self.index), Timestamp(self.now), &batch, &mut Changes::new());
        self.ledger.audit().unwrap();
        // The one that always runs must see no less, and nothing that is not there.
        let audited = self.ledger.image().audit(0, u32::MAX);
        assert!(audited.unsound.is_empty() && audited.next.is_none(), "{audited:?}");
        applied.outcome.frames.into_iter().next().unwrap()
    }

    /// The next record of node 1.
    pub(super) fn frame(&mut self, kind: Kind) -> Frame {
        self.seq += 1;
        Frame {
            node: 1,
            incarnation: 1,
            first_seq: self.seq,
            records: vec![Record { kind: Some(kind) }],
            ..Frame::default()
        }
    }

    pub(super) fn hold(&mut self, charges: Vec<Charge>) -> HoldOutcome {
        self.request += 1;
        let hold = Hold { request: self.request, charges, hold_for_us: HOUR, ..Hold::default() };
        let frame = self.frame(Kind::Hold(hold));
        self.apply(&frame).holds.remove(0)
    }

    pub(super) fn settle(&mut self, request: u64, input: u64, outcome: Outcome) {
        let frame = self.frame(Kind::Settle(settle(request, input, outcome)));
        self.apply(&frame);
    }

    /// (used, held, overrun, free) of a consumer's account.
    pub(super) fn account(&self, limit: &str, account: &str) -> (u64, u64, u64, i128) {
        let query = show::Query { limit: Some(limit), ..show::Query::default() };
        let page = self.ledger.accounts(Timestamp(self.now), &query);
        let found = page.accounts.iter().find(|view| view.account == account);
        found.map_or((0, 0, 0, -1), |view| (view.used, view.held, view.overrun, view.free))
    }
}

pub(super) fn settle(request: u64, input: u64, outcome: Outcome) -> Settle {
    Settle {
        request,
        outcome: outcome.into(),
        usage: Some(Usage { input_tokens: input, ..Usage::default() }),
        attribution: Some(Attribution::default().into()),
        ..Settle::default()
    }
}

pub(super) fn charge(limit: &str, version: u64, key: &str, amount: u64) -> Charge {
    Charge { limit: limit.into(), key: vec![key.into()], amount, limit_version: version }
}
