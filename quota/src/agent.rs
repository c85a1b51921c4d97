//! What this node still has to say to the log: pure, no clock, no I/O.
//!
//! Every hold and every settlement becomes one record, numbered from 1 without a gap when it is put into a frame. One
//! frame is on its way at a time; it is kept, and given out again unchanged, until the log has confirmed it. So a lost
//! answer, a repeated message and a change of leader all look the same: say it again.
//!
//! A request first draws on the leases of this node (`book.rs`). What they cover needs no record before the request ends;
//! what they don't becomes one hold, for exactly the rest of its path (QUOTA.md R8). Each charge ends where it began:
//! in the lease it was drawn from, or in the log. When the log has to call leases back first, the request lets go of what
//! it has drawn, waits, and begins anew: nobody holds anything while waiting for others to give back.
//!
//! What always holds:
//! 1. A number never stands for two different records.
//! 2. A request that was granted gets exactly one terminal record: settled, or voided when its caller was gone.
//! 3. A request holds every charge on its path or none (I5).
//! 4. `load` counts each request once, from its first mention until its terminal record is confirmed; it bounds
//!    everything kept here.

mod path;

use std::collections::{HashMap, VecDeque};

use prost::Message as _;
use tollgate_model::Timestamp;
use tollgate_proto::state::v1::{
    Frame, FrameOutcome, Hold, HoldOutcome, Outcome, Record, Refusal, Settle, Standing, Usage, record::Kind,
};

#[cfg(any(test, feature = "seeded-bugs"))]
use crate::book::Bug;
use crate::{
    Charge,
    book::{Ask, Book, Parts},
    invariants::Violation,
    ledger::{Ledger, News},
};
use path::{Path, asked, draw, to_wire};

/// Records in one frame at most: 4,096 holds of two charges are some 400 KiB.
pub const MAX_FRAME_RECORDS: usize = 4_096;
/// Leases reported, and leases asked for, in one frame at most: the rest follows with the next.
const MAX_FRAME_LEASES: usize = 1_024;
/// Encoded records in one frame at most, give or take the last one: half a log entry, which may carry several frames.
pub const MAX_FRAME_BYTES: usize = 512 * 1024;

/// One incarnation of this node, as its own records tell it.
#[derive(Debug)]
pub struct Agent {
    node: u64,
    incarnation: u64,
    next_request: u64,
    next_seq: u64,
    /// Requests that hold, or may hold, something; those without charges are only counted.
    requests: HashMap<u64, Request>,
    book: Book,
    unheld: usize,
    /// Not numbered yet. Settlements go first: what they free may be what a hold needs.
    settles: VecDeque<Settle>,
    holds: VecDeque<Hold>,
    /// Told to ask anew in a moment; in order.
    parked: Vec<u64>,
    /// Of `holds`, those that are still wanted.
    queued: usize,
    in_flight: Option<InFlightFrame>,
    fenced: bool,
}

#[derive(Debug)]
struct InFlightFrame {
    frame: Frame,
    settles: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Waiting until others have given back.
    Parked,
    /// Waiting to be put into a frame.
    Queued,
    /// In a frame that is not confirmed.
    Sent,
    /// As `Sent`, but nobody waits any more: void it should it be granted.
    Abandoned,
    /// Granted and not ended.
    Open,
}

#[derive(Debug)]
struct Request {
    phase: Phase,
    /// What it has drawn from leases.
    parts: Parts,
    /// The whole path, while the log has to decide on some of it.
    path: Option<Box<Path>>,
    /// The log holds something for it, or may.
    in_log: bool,
}

/// The log's word on a hold.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The request that asked.
    pub request: u64,
    /// What the log said; `None` when this incarnation was fenced and nothing will be said any more.
    pub outcome: Option<HoldOutcome>,
}

impl Agent {
    /// An incarnation that has said nothing yet.
    #[must_use]
    pub fn new(node: u64, incarnation: u64) -> Self {
        Self {
            node,
            incarnation,
            next_request: 1,
            next_seq: 1,
            requests: HashMap::new(),
            book: Book::new(node, incarnation),
            parked: Vec::new(),
            unheld: 0,
            settles: VecDeque::new(),
            holds: VecDeque::new(),
            queued: 0,
            in_flight: None,
            fenced: false,
        }
    }

    /// Queues a hold; its number is in the answer to come. `hold.request` is set here.
    pub fn hold(&mut self, mut hold: Hold) -> u64 {
        hold.request = self.number();
        let request = hold.request;
        self.requests.insert(request, Request { phase: Phase::Queued, parts: Parts::new(), path: None, in_log: false });
        self.queued += 1;
        self.holds.push_back(hold);
        request
    }

    /// Draws every charge from leases, or asks the log for those that they can't cover. With the standings of the accounts
    /// when the request is granted at once, at `now`.
    pub fn reserve(&mut self, charges: &[Charge], hold_for_us: u64, now: Timestamp) -> (u64, Option<Vec<Standing>>) {
        let request = self.number();
        let asks = charges.iter().map(|charge| Ask {
            limit: &charge.limit,
            version: charge.version.0,
            key: &charge.key,
            amount: charge.amount,
        });
        let (parts, drawn) = draw(&mut self.book, asks, now.0);
        if parts.len() == charges.len() {
            let standings = parts.iter().map(|part| self.book.standing(part, now.0)).collect();
            self.requests.insert(request, Request { phase: Phase::Open, parts, path: None, in_log: false });
            return (request, Some(standings));
        }
        let charges = charges.iter().map(to_wire).collect();
        let path = Path { hold: Hold { request, charges, hold_for_us }, drawn };
        self.ask(request, parts, path);
        (request, None)
    }

    /// Leaves to the log what was not drawn.
    fn ask(&mut self, request: u64, parts: Parts, path: Path) {
        #[cfg(any(test, feature = "seeded-bugs"))]
        let path = if self.book.bug == Some(Bug::HoldsTheWholePath) { Path { drawn: 0, ..path } } else { path };
        self.holds.push_back(path.rest());
        self.queued += 1;
        let path = Some(Box::new(path));
        self.requests.insert(request, Request { phase: Phase::Queued, parts, path, in_log: false });
    }

    /// Begins anew with the requests that were told to wait; those that can be granted from leases by now are.
    pub fn retry(&mut self, now: Timestamp) -> Vec<Answer> {
        let parked = std::mem::take(&mut self.parked);
        parked.into_iter().filter_map(|request| self.try_again(request, now.0)).collect()
    }

    fn try_again(&mut self, request: u64, now: u64) -> Option<Answer> {
        let known = self.requests.get_mut(&request).filter(|known| known.phase == Phase::Parked)?;
        let mut path = known.path.take()?;
        let (parts, drawn) = draw(&mut self.book, path.hold.charges.iter().map(asked), now);
        path.drawn = drawn;
        if parts.len() < path.hold.charges.len() {
            self.ask(request, parts, *path);
            return None;
        }
        let standings = parts.iter().map(|part| self.book.standing(part, now)).collect();
        self.requests.insert(request, Request { phase: Phase::Open, parts, path: None, in_log: false });
        let outcome = HoldOutcome { request, granted: true, standings, ..HoldOutcome::default() };
        Some(Answer { request, outcome: Some(outcome) })
    }

    /// Whether somebody waits for others to give back.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        !self.parked.is_empty()
    }

    /// Takes in what has changed in this node's own replica.
    pub fn follow(&mut self, ledger: &Ledger, news: &News) {
        self.book.follow(ledger, news);
    }

    /// Draws on no lease any more, and gives back what is in hand.
    pub fn close(&mut self) {
        self.book.close();
    }

    /// Opens a request that holds nothing, so that its settlement has a place.
    pub fn admit(&mut self) -> u64 {
        self.unheld += 1;
        self.number()
    }

    fn number(&mut self) -> u64 {
        let request = self.next_request;
        self.next_request += 1;
        request
    }

    /// Ends an open request. One that was not granted, or has ended, is left alone.
    pub fn settle(&mut self, mut settle: Settle) {
        if self.fenced {
            return;
        }
        if settle.unheld {
            self.unheld = self.unheld.saturating_sub(1);
        } else {
            let Some(ended) = self.requests.remove(&settle.request).filter(|it| it.phase == Phase::Open) else {
                debug_assert!(false, "only a granted request is settled, and once");
                return;
            };
            let (usage, outcome) = (settle.usage.unwrap_or_default(), settle.outcome());
            self.end_parts(&ended.parts, &usage, outcome);
            settle.unheld = !ended.in_log;
            if settle.unheld && outcome == Outcome::Voided {
                return; // the log has never heard of it
            }
        }
        self.settles.push_back(settle);
    }

    fn end_parts(&mut self, parts: &Parts, usage: &Usage, outcome: Outcome) {
        parts.iter().for_each(|part| self.book.finish(*part, usage, outcome));
    }

    fn give_back(&mut self, parts: &Parts) {
        self.end_parts(parts, &Usage::default(), Outcome::Voided);
    }

    /// Forgets a request without charges: it used nothing.
    pub fn release(&mut self) {
        self.unheld = self.unheld.saturating_sub(1);
    }

    /// The caller is gone, or never sent the request anywhere: whatever it holds, or will be granted, is given back.
    pub fn cancel(&mut self, request: u64) {
        let Some(known) = self.requests.get_mut(&request) else { return };
        match known.phase {
            Phase::Open => return self.void(request),
            Phase::Abandoned => return,
            Phase::Sent => {
                known.phase = Phase::Abandoned;
                let parts = std::mem::take(&mut known.parts);
                return self.give_back(&parts);
            }
            Phase::Queued => self.queued -= 1,
            Phase::Parked => self.parked.retain(|parked| *parked != request),
        }
        if let Some(gone) = self.requests.remove(&request) {
            self.give_back(&gone.parts);
        }
        self.compact();
    }

    /// Lets go of holds that nobody wants any more, once they are most of the queue.
    fn compact(&mut self) {
        if self.holds.len() > 64 + 2 * self.queued {
            let requests = &self.requests;
            self.holds.retain(|hold| requests.get(&hold.request).is_some_and(|it| it.phase == Phase::Queued));
        }
    }

    fn void(&mut self, request: u64) {
        self.settle(Settle { request, outcome: Outcome::Voided.into(), ..Settle::default() });
    }

    /// The frame to send: the unconfirmed one again, or a new one of what is queued, or none.
    pub fn next_frame(&mut self, now: Timestamp) -> Option<Frame> {
        if self.in_flight.is_none() && !self.fenced {
            self.in_flight = self.build(now.0);
        }
        self.in_flight.as_ref().map(|sent| sent.frame.clone())
    }

    fn build(&mut self, now: u64) -> Option<InFlightFrame> {
        // What was given back goes first, what is asked for last: a hold may need the one, and not suffer from the other.
        let reports = self.book.reports(MAX_FRAME_LEASES).into_iter().map(Kind::Report);
        let mut records: Vec<Record> = reports.map(|kind| Record { kind: Some(kind) }).collect();
        let wants = self.book.wants(now, MAX_FRAME_LEASES);
        let mut bytes = 0;
        let mut settles = 0;
        while records.len() + wants.len() < MAX_FRAME_RECORDS && bytes < MAX_FRAME_BYTES {
            let kind = if let Some(settle) = self.settles.pop_front() {
                settles += 1;
                bytes += settle.encoded_len();
                Kind::Settle(settle)
            } else if let Some(hold) = self.holds.pop_front() {
                let queued = self.requests.get_mut(&hold.request).filter(|it| it.phase == Phase::Queued);
                let Some(request) = queued else { continue };
                (request.phase, request.in_log) = (Phase::Sent, true);
                self.queued -= 1;
                bytes += hold.encoded_len();
                Kind::Hold(hold)
            } else {
                break;
            };
            records.push(Record { kind: Some(kind) });
        }
        records.extend(wants.into_iter().map(|want| Record { kind: Some(Kind::Want(want)) }));
        let first_seq = self.next_seq;
        self.next_seq += u64::try_from(records.len()).expect("a frame is bounded");
        let frame = Frame { node: self.node, incarnation: self.incarnation, first_seq, records };
        (!frame.records.is_empty()).then_some(InFlightFrame { frame, settles })
    }

    /// Takes in what the log made of the frame on its way, and returns the holds that are thereby decided.
    pub fn applied(&mut self, outcome: &FrameOutcome, now: Timestamp) -> Vec<Answer> {
        if outcome.node != self.node || outcome.incarnation != self.incarnation || outcome.unopened {
            return Vec::new();
        }
        let last_sent = self.next_seq - 1;
        if outcome.fenced || outcome.last_seq > last_sent {
            return self.fence();
        }
        if outcome.last_seq < last_sent {
            return Vec::new(); // an older outcome, or one of a leader that lacks what went before: send again
        }
        let Some(sent) = self.in_flight.take_if(|sent| answers(&sent.frame, outcome)) else { return Vec::new() };
        let mut holds = sent.frame.records.into_iter().filter_map(into_hold);
        outcome.holds.iter().filter_map(|said| self.decide(said, holds.next()?, now)).collect()
    }

    fn decide(&mut self, said: &HoldOutcome, hold: Hold, now: Timestamp) -> Option<Answer> {
        let request = hold.request;
        let known = self.requests.get_mut(&request)?;
        if said.granted {
            let abandoned = known.phase == Phase::Abandoned;
            known.phase = Phase::Open;
            let path = known.path.take();
            #[cfg(any(test, feature = "seeded-bugs"))]
            if abandoned && self.book.bug == Some(Bug::ForgetsTheAbandoned) {
                return None;
            }
            if abandoned {
                self.void(request);
                return None;
            }
            let outcome = self.whole(request, path.as_deref(), said, now.0);
            return Some(Answer { request, outcome: Some(outcome) });
        }
        match said.refusal() {
            Refusal::Again if known.phase == Phase::Sent => {
                known.phase = Phase::Queued;
                self.queued += 1;
                self.holds.push_front(hold);
                return None;
            }
            Refusal::Recalling if known.phase == Phase::Sent => {
                (known.phase, known.in_log) = (Phase::Parked, false);
                known.path.get_or_insert_with(|| Box::new(Path { hold, drawn: 0 }));
                let parts = std::mem::take(&mut known.parts);
                self.give_back(&parts);
                self.parked.push(request);
                return None;
            }
            _ => {}
        }
        let path = known.path.take();
        let sent = known.phase == Phase::Sent;
        let outcome = self.whole(request, path.as_deref(), said, now.0);
        let gone = self.requests.remove(&request)?;
        self.give_back(&gone.parts);
        sent.then_some(Answer { request, outcome: Some(outcome) })
    }

    /// The log's word on some of the charges as a word on all of them.
    fn whole(&self, request: u64, path: Option<&Path>, said: &HoldOutcome, now: u64) -> HoldOutcome {
        let mut outcome = said.clone();
        let Some(path) = path.filter(|path| path.drawn != 0) else { return outcome };
        outcome.refused_by = path.position(said.refused_by);
        if !said.standings.is_empty() {
            let mut parts = self.requests.get(&request).into_iter().flat_map(|it| &it.parts);
            let mut told = said.standings.iter().cloned();
            let next = |at| match path.is_drawn(at) {
                true => parts.next().map(|part| self.book.standing(part, now)).unwrap_or_default(),
                false => told.next().unwrap_or_default(),
            };
            outcome.standings = (0..path.hold.charges.len()).map(next).collect();
        }
        outcome
    }

    /// Nothing that is said from here on counts: everyone who waits is told.
    fn fence(&mut self) -> Vec<Answer> {
        self.fenced = true;
        self.in_flight = None;
        self.settles.clear();
        self.holds.clear();
        self.parked.clear();
        self.book.close();
        self.queued = 0;
        self.unheld = 0;
        let mut waiting: Vec<u64> = self
            .requests
            .drain()
            .filter(|(_, it)| matches!(it.phase, Phase::Queued | Phase::Sent | Phase::Parked))
            .map(|(request, _)| request)
            .collect();
        waiting.sort_unstable();
        waiting.into_iter().map(|request| Answer { request, outcome: None }).collect()
    }

    /// A newer incarnation was opened, or another process speaks as this one.
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        self.fenced
    }

    /// Requests open or not yet confirmed as ended.
    #[must_use]
    pub fn load(&self) -> usize {
        self.requests.len() + self.unheld + self.settles.len() + self.in_flight.as_ref().map_or(0, |sent| sent.settles)
    }

    /// What waits to be put into a frame: (holds, settlements).
    #[must_use]
    pub fn queued(&self) -> (usize, usize) {
        (self.queued, self.settles.len())
    }

    /// Whether there is something to say of leases that should not wait.
    #[must_use]
    pub fn has_lease_news(&self) -> bool {
        self.book.is_due()
    }

    /// I2 and I5 of this node: what its leases hold is what its requests hold of them.
    ///
    /// # Errors
    /// The first violation.
    pub fn audit(&self) -> Result<(), Violation> {
        self.book.audit(self.requests.values().flat_map(|request| &request.parts))
    }

    #[cfg(any(test, feature = "seeded-bugs"))]
    pub(crate) fn set_bug(&mut self, bug: Option<Bug>) {
        self.book.bug = bug;
    }

    /// What an open request has drawn: account, window, amount.
    #[cfg(any(test, feature = "seeded-bugs"))]
    pub(crate) fn drawn(&self, request: u64) -> Vec<(u32, u64, u64)> {
        let parts = self.requests.get(&request).into_iter().flat_map(|request| &request.parts);
        parts.map(|part| (part.account, part.epoch, part.amount)).collect()
    }

    /// Whether a frame is out that the log has not confirmed.
    #[must_use]
    pub fn is_sending(&self) -> bool {
        self.in_flight.is_some()
    }

    /// Granted requests that have not ended, in order: what the ledger must hold for this incarnation (I2).
    #[must_use]
    pub fn open_requests(&self) -> Vec<u64> {
        let open = self.requests.iter().filter(|(_, it)| it.phase == Phase::Open && it.in_log);
        let mut open: Vec<u64> = open.map(|(request, _)| *request).collect();
        open.sort_unstable();
        open
    }
}

/// Whether `outcome` speaks of the holds of `frame`, in their order.
fn answers(frame: &Frame, outcome: &FrameOutcome) -> bool {
    let asked = frame.records.iter().filter_map(|record| match &record.kind {
        Some(Kind::Hold(hold)) => Some(hold.request),
        Some(Kind::Settle(_) | Kind::Report(_) | Kind::Want(_)) | None => None,
    });
    asked.eq(outcome.holds.iter().map(|said| said.request))
}

fn into_hold(record: Record) -> Option<Hold> {
    match record.kind {
        Some(Kind::Hold(hold)) => Some(hold),
        Some(Kind::Settle(_) | Kind::Report(_) | Kind::Want(_)) | None => None,
    }
}

#[cfg(test)]
mod tests;
