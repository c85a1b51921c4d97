//! Frames: what is said next, and what the log makes of it.

use tollgate_proto::state::v1::{FrameOutcome, HoldOutcome, Refusal};

use super::*;

impl Agent {
    /// The frame to send: the unconfirmed one again, or a new one of what is queued, or none. It may be sent once the
    /// journal is durable up to what [`Agent::sends_after`] says.
    pub fn next_frame(&mut self, now: Timestamp) -> Option<Frame> {
        if self.in_flight.is_none() && !self.fenced {
            self.in_flight = self.build(now.0);
        }
        self.in_flight.as_ref().map(|sent| sent.frame.clone())
    }

    /// Up to where the journal must be durable before the frame on its way may be sent: what the log hears of an end
    /// must not be an end that the next process knows nothing of.
    #[must_use]
    pub fn sends_after(&self) -> u64 {
        self.in_flight.as_ref().map_or(0, |sent| sent.after)
    }

    fn build(&mut self, now: u64) -> Option<InFlightFrame> {
        // What was given back goes first, what is asked for last: a hold may need the one, and not suffer from the other.
        let mut bytes = 0;
        let mut settles = 0;
        let mut records = Vec::new();
        while let Some(recover) = self.recovers.pop_front_if(|_| bytes < MAX_FRAME_BYTES) {
            bytes += recover.encoded_len();
            records.push(Record { kind: Some(Kind::Recover(recover)) });
        }
        let reports = self.book.reports(MAX_FRAME_LEASES).into_iter().map(Kind::Report);
        records.extend(reports.map(|kind| Record { kind: Some(kind) }));
        let touches = self.book.touches(now, MAX_FRAME_LEASES).into_iter().map(Kind::Touch);
        records.extend(touches.map(|kind| Record { kind: Some(kind) }));
        records.extend(self.book.knows().into_iter().map(|knows| Record { kind: Some(Kind::Knows(knows)) }));
        let mut ends = !records.is_empty();
        let present = self.present.len().min(MAX_FRAME_LEASES);
        records.extend(self.present.drain(..present).map(|said| Record { kind: Some(Kind::Present(said)) }));
        let wants = self.book.wants(now, MAX_FRAME_LEASES);
        while records.len() + wants.len() < MAX_FRAME_RECORDS && bytes < MAX_FRAME_BYTES {
            let kind = if let Some(settle) = self.settles.pop_front() {
                settles += 1;
                ends = true;
                bytes += settle.encoded_len();
                Kind::Settle(settle)
            } else if let Some(hold) = self.holds.pop_front() {
                let queued = self.requests.get_mut(&hold.request).filter(|it| it.phase == Phase::Queued);
                let Some(request) = queued else { continue };
                (request.phase, request.in_log) = (Phase::Sent, true);
                request.attributed = hold.attribution.is_some();
                self.queued -= 1;
                bytes += hold.encoded_len();
                Kind::Hold(hold)
            } else {
                break;
            };
            records.push(Record { kind: Some(kind) });
        }
        self.ended_in_log &= !self.settles.is_empty();
        records.extend(wants.into_iter().map(|want| Record { kind: Some(Kind::Want(want)) }));
        if records.is_empty() && self.needs_contact() && self.contact.is_old() {
            records.push(Record::default()); // says nothing, and proves that somebody listens
        }
        if records.is_empty() {
            return None;
        }
        let first_seq = self.next_seq;
        self.next_seq += u64::try_from(records.len()).expect("a frame is bounded");
        self.contact.sends(self.next_seq - 1);
        let after = if ends { self.outbox.position() } else { 0 };
        let frame = Frame { node: self.node, incarnation: self.incarnation, first_seq, records, ..Frame::default() };
        Some(InFlightFrame { frame, settles, after })
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
            (known.phase, known.refused) = (Phase::Open, None);
            let path = known.path.take();
            #[cfg(any(test, feature = "seeded-bugs"))]
            if abandoned && self.book.bug == Some(Bug::ForgetsTheAbandoned) {
                return None;
            }
            if abandoned {
                self.void(request);
                return None;
            }
            self.book.go_out(&mut known.parts);
            self.granted_parked += u64::from(known.was_parked);
            let parts = self.requests.get(&request).map(|known| known.parts.clone()).unwrap_or_default();
            let outcome = self.whole(&parts, path.as_deref(), said, now.0);
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
                (known.phase, known.in_log, known.was_parked) = (Phase::Parked, false, true);
                known.path.get_or_insert_with(|| Box::new(Path { hold, drawn: 0 }));
                let parts = std::mem::take(&mut known.parts);
                self.give_back(&parts);
                self.parked.push(request);
                return None;
            }
            _ => {}
        }
        if self.linger(said, &hold, now.0) {
            return None;
        }
        if said.refusal() == Refusal::Expired {
            self.settles.push_back(Settle { request, outcome: Outcome::Voided.into(), ..Settle::default() });
        }
        let gone = self.requests.remove(&request)?;
        self.give_back(&gone.parts);
        let outcome = self.whole(&gone.parts, gone.path.as_deref(), said, now.0);
        (gone.phase == Phase::Sent).then_some(Answer { request, outcome: Some(outcome) })
    }

    /// The log's word on some of the charges as a word on all of them, of which `parts` were drawn: as the accounts stand now.
    pub(super) fn whole(&self, parts: &Parts, path: Option<&Path>, said: &HoldOutcome, now: u64) -> HoldOutcome {
        let mut outcome = said.clone();
        let Some(path) = path.filter(|path| path.drawn != 0) else { return outcome };
        outcome.refused_by = path.position(said.refused_by);
        if !said.standings.is_empty() {
            let mut parts = parts.iter();
            let mut told = said.standings.iter().cloned();
            let next = |at| match path.is_drawn(at) {
                true => parts.next().map(|part| self.book.standing(part, now)).unwrap_or_default(),
                false => told.next().unwrap_or_default(),
            };
            outcome.standings = (0..path.hold.charges.len()).map(next).collect();
        }
        outcome
    }
}

/// Whether `outcome` speaks of the holds of `frame`, in their order.
fn answers(frame: &Frame, outcome: &FrameOutcome) -> bool {
    let asked = frame.records.iter().filter_map(|record| match &record.kind {
        Some(Kind::Hold(hold)) => Some(hold.request),
        _ => None,
    });
    asked.eq(outcome.holds.iter().map(|said| said.request))
}

fn into_hold(record: Record) -> Option<Hold> {
    match record.kind {
        Some(Kind::Hold(hold)) => Some(hold),
        _ => None,
    }
}
