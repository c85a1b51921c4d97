//! What this node still has to say to the log: pure, no clock, no I/O.
//!
//! Every hold and every settlement becomes one record, numbered from 1 without a gap when it is put into a frame. One
//! frame is on its way at a time; it is kept, and given out again unchanged, until the log has confirmed it. So a lost
//! answer, a repeated message and a change of leader all look the same: say it again.
//!
//! What always holds:
//! 1. A number never stands for two different records.
//! 2. A request that was granted gets exactly one terminal record: settled, or voided when its caller was gone.
//! 3. `load` counts each request once, from its first mention until its terminal record is confirmed; it bounds
//!    everything kept here.

use std::collections::{HashMap, VecDeque};

use prost::Message as _;
use tollgate_proto::state::v1::{
    Frame, FrameOutcome, Hold, HoldOutcome, Outcome, Record, Refusal, Settle, record::Kind,
};

/// Records in one frame at most: 4,096 holds of two charges are some 400 KiB.
pub const MAX_FRAME_RECORDS: usize = 4_096;
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
    requests: HashMap<u64, Phase>,
    unheld: usize,
    /// Not numbered yet. Settlements go first: what they free may be what a hold needs.
    settles: VecDeque<Settle>,
    holds: VecDeque<Hold>,
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
    /// Waiting to be put into a frame.
    Queued,
    /// In a frame that is not confirmed.
    Sent,
    /// As `Sent`, but nobody waits any more: void it should it be granted.
    Abandoned,
    /// Granted and not ended.
    Open,
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
        self.requests.insert(request, Phase::Queued);
        self.queued += 1;
        self.holds.push_back(hold);
        request
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
    pub fn settle(&mut self, settle: Settle) {
        if self.fenced {
            return;
        }
        if settle.unheld {
            self.unheld = self.unheld.saturating_sub(1);
        } else if self.requests.remove(&settle.request) != Some(Phase::Open) {
            debug_assert!(false, "only a granted request is settled, and once");
            return;
        }
        self.settles.push_back(settle);
    }

    /// Forgets a request without charges: it used nothing.
    pub fn release(&mut self) {
        self.unheld = self.unheld.saturating_sub(1);
    }

    /// The caller is gone, or never sent the request anywhere: whatever it holds, or will be granted, is given back.
    pub fn cancel(&mut self, request: u64) {
        match self.requests.get_mut(&request) {
            Some(Phase::Queued) => {
                self.requests.remove(&request);
                self.queued -= 1;
                self.compact();
            }
            Some(phase @ Phase::Sent) => *phase = Phase::Abandoned,
            Some(Phase::Open) => self.void(request),
            Some(Phase::Abandoned) | None => {}
        }
    }

    /// Lets go of holds that nobody wants any more, once they are most of the queue.
    fn compact(&mut self) {
        if self.holds.len() > 64 + 2 * self.queued {
            let requests = &self.requests;
            self.holds.retain(|hold| requests.contains_key(&hold.request));
        }
    }

    fn void(&mut self, request: u64) {
        self.settle(Settle { request, outcome: Outcome::Voided.into(), ..Settle::default() });
    }

    /// The frame to send: the unconfirmed one again, or a new one of what is queued, or none.
    pub fn next_frame(&mut self) -> Option<Frame> {
        if self.in_flight.is_none() && !self.fenced {
            self.in_flight = self.build();
        }
        self.in_flight.as_ref().map(|sent| sent.frame.clone())
    }

    fn build(&mut self) -> Option<InFlightFrame> {
        let mut records = Vec::new();
        let mut bytes = 0;
        let mut settles = 0;
        while records.len() < MAX_FRAME_RECORDS && bytes < MAX_FRAME_BYTES {
            let kind = if let Some(settle) = self.settles.pop_front() {
                settles += 1;
                bytes += settle.encoded_len();
                Kind::Settle(settle)
            } else if let Some(hold) = self.holds.pop_front() {
                let Some(phase) = self.requests.get_mut(&hold.request) else { continue };
                *phase = Phase::Sent;
                self.queued -= 1;
                bytes += hold.encoded_len();
                Kind::Hold(hold)
            } else {
                break;
            };
            records.push(Record { kind: Some(kind) });
        }
        let first_seq = self.next_seq;
        self.next_seq += u64::try_from(records.len()).expect("a frame is bounded");
        let frame = Frame { node: self.node, incarnation: self.incarnation, first_seq, records };
        (!frame.records.is_empty()).then_some(InFlightFrame { frame, settles })
    }

    /// Takes in what the log made of the frame on its way, and returns the holds that are thereby decided.
    pub fn applied(&mut self, outcome: &FrameOutcome) -> Vec<Answer> {
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
        outcome.holds.iter().filter_map(|said| self.decide(said, holds.next()?)).collect()
    }

    fn decide(&mut self, said: &HoldOutcome, hold: Hold) -> Option<Answer> {
        let request = hold.request;
        let phase = self.requests.get(&request).copied();
        if said.granted {
            self.requests.insert(request, Phase::Open);
            if phase == Some(Phase::Abandoned) {
                self.void(request);
                return None;
            }
        } else if said.refusal() == Refusal::Again && phase == Some(Phase::Sent) {
            self.requests.insert(request, Phase::Queued);
            self.queued += 1;
            self.holds.push_front(hold);
            return None;
        } else {
            self.requests.remove(&request);
        }
        (phase == Some(Phase::Sent)).then(|| Answer { request, outcome: Some(said.clone()) })
    }

    /// Nothing that is said from here on counts: everyone who waits is told.
    fn fence(&mut self) -> Vec<Answer> {
        self.fenced = true;
        self.in_flight = None;
        self.settles.clear();
        self.holds.clear();
        self.queued = 0;
        self.unheld = 0;
        let mut waiting: Vec<u64> = self
            .requests
            .drain()
            .filter(|(_, phase)| matches!(phase, Phase::Queued | Phase::Sent))
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

    /// Whether a frame is out that the log has not confirmed.
    #[must_use]
    pub fn is_sending(&self) -> bool {
        self.in_flight.is_some()
    }

    /// Granted requests that have not ended, in order: what the ledger must hold for this incarnation (I2).
    #[must_use]
    pub fn open_requests(&self) -> Vec<u64> {
        let mut open: Vec<u64> =
            self.requests.iter().filter(|(_, phase)| **phase == Phase::Open).map(|(request, _)| *request).collect();
        open.sort_unstable();
        open
    }
}

/// Whether `outcome` speaks of the holds of `frame`, in their order.
fn answers(frame: &Frame, outcome: &FrameOutcome) -> bool {
    let asked = frame.records.iter().filter_map(|record| match &record.kind {
        Some(Kind::Hold(hold)) => Some(hold.request),
        Some(Kind::Settle(_)) | None => None,
    });
    asked.eq(outcome.holds.iter().map(|said| said.request))
}

fn into_hold(record: Record) -> Option<Hold> {
    match record.kind {
        Some(Kind::Hold(hold)) => Some(hold),
        Some(Kind::Settle(_)) | None => None,
    }
}

#[cfg(test)]
mod tests;
