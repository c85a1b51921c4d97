//! Streams: what such a request holds grows in parts as it goes (QUOTA.md 3.5, R9), as the gateway's streams do.
//!
//! Its usage is recorded with a request that holds nothing; each part is charged as any request is. A part is drawn on
//! once it is durable, and not before: from then on the witness counts it as used. What more it asks for may be late,
//! refused, or on its way when the stream ends.

use super::*;
use crate::sim::world::requests::used;

/// How many of the requests that may be streams are.
const PERCENT: u64 = 15;
/// Times that a stream grows, at most.
const MOST_GROWTH: u64 = 4;
/// How long a stream waits for more before it is cut.
const WAITS: u64 = 500 * MS;
/// What a stream is charged for as it grows: tokens. A request is one, and has one permit, however long it is.
const GROWS_IN: u8 = 0b10_1011;

/// What a request is to a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// It is none.
    Whole,
    First,
    /// More, of the stream that began with this request.
    Of(u64),
}

/// One that has begun.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) row: u64,
    wanted: Wanted,
    /// What it draws on, in order, and since when.
    parts: Vec<(u64, u64)>,
    /// What it has asked for.
    asked: Option<u64>,
    /// How often it grows yet, and after how long each time.
    left: u64,
    pace: u64,
}

impl Stream {
    fn has(&self, part: u64) -> bool {
        self.parts.iter().any(|(request, _)| *request == part)
    }

    /// What it came to hold after it had begun.
    pub(super) fn later_parts(&self) -> impl Iterator<Item = u64> {
        self.parts.iter().skip(1).map(|(request, _)| *request)
    }
}

impl Wanted {
    pub(super) fn has(self, limit: usize) -> bool {
        self.limits >> limit & 1 == 1
    }
}

impl World {
    /// Whether a request that asks for these begins a stream.
    pub(super) fn begins_stream(&mut self, limits: u8) -> Part {
        let begins = limits & GROWS_IN != 0 && self.growth.percent(PERCENT);
        if begins { Part::First } else { Part::Whole }
    }

    pub(super) fn begin_stream(&mut self, at: usize, first: u64, wanted: Wanted, lasts: u64) {
        let left = self.growth.range(1, MOST_GROWTH + 1);
        let pace = lasts / (left + 1);
        let process = &mut self.processes[at];
        let Some(row) = process.records.remove(&first) else { return };
        let wanted = Wanted { limits: wanted.limits & GROWS_IN, part: Part::Of(first), ..wanted };
        let stream = Stream { row, wanted, parts: vec![(first, self.now)], asked: None, left, pace };
        process.streams.insert(first, stream);
        self.queue.at(self.now + pace, Event::Grow { process: at, stream: first });
    }

    /// A stream needs more, or has come to its end.
    pub(super) fn grow(&mut self, at: usize, first: u64) -> Checked {
        if !self.processes[at].alive {
            return Ok(());
        }
        let Some(stream) = self.processes[at].streams.get_mut(&first) else { return Ok(()) };
        if stream.left == 0 {
            self.end(at, first);
            return self.check(at);
        }
        stream.left -= 1;
        let wanted = stream.wanted;
        let amount = self.growth.range(1, 30);
        let asked = self.ask_for(at, Wanted { amount, ..wanted })?;
        if let Some(stream) = self.processes[at].streams.get_mut(&first) {
            match asked {
                Some(request) if !stream.has(request) => {
                    stream.asked = Some(request);
                    self.queue.at(self.now + WAITS, Event::GiveUp { process: at, request });
                }
                Some(_) => {}
                None => drop(self.end(at, first)),
            }
        }
        let leaves = self.may_fail() && self.growth.percent(20);
        if self.fails(Fault::LeftStream, leaves) {
            let soon = self.now + self.growth.range(0, 8 * MS);
            self.queue.at(soon, Event::End { process: at, request: first });
        }
        self.check(at)
    }

    /// A stream draws on one more part.
    pub(super) fn goes_on(&mut self, at: usize, first: u64, part: u64) {
        let Some(stream) = self.processes[at].streams.get_mut(&first) else { return };
        stream.asked = None;
        stream.parts.push((part, self.now));
        self.report.grown += 1;
        self.queue.at(self.now + stream.pace, Event::Grow { process: at, stream: first });
    }

    /// What was asked for will not come: a stream that asked for more is cut.
    pub(super) fn ends_undecided(&mut self, at: usize, part: Part) {
        if let Part::Of(first) = part
            && let Some(stream) = self.processes[at].streams.get_mut(&first)
        {
            stream.asked = None;
            self.end(at, first);
        }
    }

    /// Ends all that a stream holds: each part used what it held, in their order, and the last all the rest.
    pub(super) fn end_stream(&mut self, at: usize, stream: Stream) {
        let Stream { row, parts, asked, .. } = stream;
        if let Some(asked) = asked {
            self.let_go(at, asked);
        }
        let held: Vec<(u64, u64, Vec<Label>)> = parts
            .into_iter()
            .filter_map(|(part, since)| Some((part, since, self.processes[at].flights.remove(&part)?)))
            .collect();
        let tokens = |labels: &[Label]| labels.iter().map(|(.., amount)| *amount).max().unwrap_or_default();
        let last = held.last().map_or(0, |(.., labels)| tokens(labels));
        let (outcome, of_last) = used(&mut self.dice, last);
        let voided = outcome == Outcome::Voided;
        let of_last = if voided { 0 } else { of_last };
        let mut total = 0;
        for (nth, (part, since, labels)) in held.iter().enumerate() {
            let share = if voided || nth + 1 == held.len() { of_last } else { tokens(labels) };
            total += share;
            self.oracle.sent((at, *part), self.now - since);
            self.oracle.ended((at, *part), (!voided).then_some(share));
            self.close(at, *part, labels, (share, outcome), None);
        }
        let attribution = self.record(at, row, outcome);
        let usage = Some(Usage { input_tokens: total, ..Usage::default() });
        let process = &mut self.processes[at];
        match voided {
            true => process.agent.release(row),
            false => process.agent.settle(Settle {
                request: row,
                outcome: outcome.into(),
                usage,
                attribution: attribution.map(Into::into),
                unheld: true,
                ..Settle::default()
            }),
        }
        self.write_down(at);
    }
}
