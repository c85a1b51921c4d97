//! What was served: counters, and one record for each request, in bounded memory.
//!
//! Tokens are counted when the bytes that carry them were written to the socket: event by event in a stream, with the last
//! byte of any other answer. What the usage block claims is kept apart.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};

use crate::clock;

/// How many requests are kept with their headers and bodies.
const LATEST: usize = 32;
/// How much of a body is kept.
const LATEST_BODY_BYTES: usize = 64 << 10;

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It is still being answered.
    Active,
    /// Everything was written.
    Finished,
    /// Answered with an error status.
    Refused,
    /// The answer was spoilt or cut, as a knob wanted.
    Spoilt,
    /// The client left first.
    Aborted,
}

/// One request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Counts up from 1 since the server began, through every reset.
    pub sequence: u64,
    /// `x-request-id`, as it arrived.
    pub request_id: Option<String>,
    /// The path.
    pub path: String,
    /// The model asked for.
    pub model: String,
    /// Whether the answer is a stream.
    pub stream: bool,
    /// The status written; 0 while there is none.
    pub status: u16,
    /// Input tokens by the usage rule; 0 for a request that was refused.
    pub input_tokens: u64,
    /// Output tokens whose bytes were written to the socket.
    pub output_tokens: u64,
    /// Output tokens of the whole answer, had it been written to its end.
    pub planned_tokens: u64,
    /// Microseconds since the epoch.
    pub started_us: u64,
    /// When the first byte of the answer was written; 0 while there is none.
    pub first_byte_us: u64,
    /// When it was over; 0 while it is not.
    pub ended_us: u64,
    /// How it ended.
    pub outcome: Outcome,
}

/// Sums over requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// All that arrived and could be read, the refused ones included.
    pub requests: u64,
    /// Being answered now.
    pub active: u64,
    /// Answered to the end.
    pub finished: u64,
    /// Answered with an error status.
    pub refused: u64,
    /// Spoilt or cut.
    pub spoilt: u64,
    /// Left by the client.
    pub aborted: u64,
    /// Input tokens of all but the refused.
    pub input_tokens: u64,
    /// Output tokens written to sockets.
    pub output_tokens: u64,
    /// Output tokens of whole answers.
    pub planned_tokens: u64,
}

/// What `GET /__mock/witness` answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Connections accepted.
    pub connections: u64,
    /// Requests that were not HTTP or not readable.
    pub unreadable: u64,
    /// The sequence of the newest request.
    pub sequence: u64,
    /// Records that bounded memory has dropped.
    pub dropped_records: u64,
    /// All requests.
    pub total: Counters,
    /// By model asked for.
    pub models: BTreeMap<String, Counters>,
}

/// A request as it arrived.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Latest {
    pub(crate) sequence: u64,
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

/// Shared by all connections of a server.
#[derive(Debug)]
pub(crate) struct Witness {
    capacity: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    summary: Summary,
    /// By sequence; what is active is never dropped.
    records: BTreeMap<u64, Record>,
    latest: VecDeque<Latest>,
    /// Sequences up to this one were forgotten by a reset: what still runs of them counts no more.
    forgotten: u64,
}

impl Witness {
    pub(crate) fn new(capacity: usize) -> Arc<Witness> {
        Arc::new(Witness { capacity: capacity.max(1), state: Mutex::default() })
    }

    pub(crate) fn connected(&self) {
        self.state().summary.connections += 1;
    }

    pub(crate) fn unreadable(&self) {
        self.state().summary.unreadable += 1;
    }

    /// Gives a request its number and keeps how it came.
    pub(crate) fn arrived(&self, latest: impl FnOnce(u64) -> Latest) -> u64 {
        let mut state = self.state();
        state.summary.sequence += 1;
        let mut latest = latest(state.summary.sequence);
        let cut = latest.body.floor_char_boundary(LATEST_BODY_BYTES);
        latest.body.truncate(cut);
        if state.latest.len() == LATEST {
            state.latest.pop_front();
        }
        state.latest.push_back(latest);
        state.summary.sequence
    }

    /// Opens the record of a request; dropping the ticket means that the client left.
    pub(crate) fn begin(self: &Arc<Witness>, record: Record) -> Ticket {
        let mut state = self.state();
        let sequence = record.sequence;
        let (input, planned) = (record.input_tokens, record.planned_tokens);
        state.count(&record.model, |counters| {
            counters.requests += 1;
            counters.active += 1;
            counters.input_tokens += input;
            counters.planned_tokens = counters.planned_tokens.saturating_add(planned);
        });
        state.records.insert(sequence, record);
        state.make_room(self.capacity);
        Ticket { witness: Arc::clone(self), sequence, ended: false }
    }

    pub(crate) fn summary(&self) -> Summary {
        self.state().summary.clone()
    }

    pub(crate) fn records(&self, since: u64, limit: usize) -> Vec<Record> {
        let state = self.state();
        state.records.range(since.saturating_add(1)..).take(limit).map(|(_, record)| record.clone()).collect()
    }

    pub(crate) fn latest(&self) -> Vec<Latest> {
        self.state().latest.iter().cloned().collect()
    }

    /// Forgets everything but the numbering; what is being answered now counts no more.
    pub(crate) fn reset(&self) {
        let mut state = self.state();
        let sequence = state.summary.sequence;
        *state = State { forgotten: sequence, ..State::default() };
        state.summary.sequence = sequence;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn count(&mut self, model: &str, change: impl Fn(&mut Counters)) {
        change(&mut self.summary.total);
        if !self.summary.models.contains_key(model) && self.summary.models.len() >= 1_000 {
            return;
        }
        change(self.summary.models.entry(model.to_owned()).or_default());
    }

    /// Changes a record and the counters together.
    fn update(&mut self, sequence: u64, record: impl FnOnce(&mut Record), counters: impl Fn(&mut Counters)) {
        if sequence <= self.forgotten {
            return;
        }
        if let Some(found) = self.records.get_mut(&sequence) {
            record(found);
            let model = found.model.clone();
            self.count(&model, counters);
        }
    }

    fn make_room(&mut self, capacity: usize) {
        while self.records.len() > capacity {
            let ended = self.records.iter().find(|(_, record)| record.outcome != Outcome::Active);
            let Some(oldest) = ended.map(|(&sequence, _)| sequence) else { return };
            self.records.remove(&oldest);
            self.summary.dropped_records += 1;
        }
    }
}

/// An open record.
#[derive(Debug)]
pub(crate) struct Ticket {
    witness: Arc<Witness>,
    sequence: u64,
    ended: bool,
}

impl Ticket {
    /// The first byte of an answer is written.
    pub(crate) fn answered(&self, status: u16) {
        let note = |record: &mut Record| (record.status, record.first_byte_us) = (status, clock::now_us());
        self.witness.state().update(self.sequence, note, |_| ());
    }

    /// Bytes that carry so many tokens were written.
    pub(crate) fn wrote(&self, tokens: u64) {
        let note = |record: &mut Record| record.output_tokens += tokens;
        self.witness.state().update(self.sequence, note, |counters| counters.output_tokens += tokens);
    }

    /// It is over.
    pub(crate) fn end(mut self, outcome: Outcome) {
        self.close(outcome);
    }

    fn close(&mut self, outcome: Outcome) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let note = |record: &mut Record| (record.outcome, record.ended_us) = (outcome, clock::now_us());
        self.witness.state().update(self.sequence, note, |counters| {
            counters.active -= 1;
            match outcome {
                Outcome::Active => counters.active += 1,
                Outcome::Finished => counters.finished += 1,
                Outcome::Refused => counters.refused += 1,
                Outcome::Spoilt => counters.spoilt += 1,
                Outcome::Aborted => counters.aborted += 1,
            }
        });
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.close(Outcome::Aborted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(sequence: u64) -> Record {
        Record {
            sequence,
            request_id: None,
            path: "/v1/chat/completions".into(),
            model: "m".into(),
            stream: false,
            status: 0,
            input_tokens: 3,
            output_tokens: 0,
            planned_tokens: 10,
            started_us: 1,
            first_byte_us: 0,
            ended_us: 0,
            outcome: Outcome::Active,
        }
    }

    #[test]
    fn tokens_are_counted_as_they_are_written_and_a_dropped_ticket_is_an_aborted_call() {
        let witness = Witness::new(10);
        let ticket = witness.begin(record(1));
        ticket.answered(200);
        ticket.wrote(4);
        assert_eq!(witness.summary().total.active, 1);
        assert_eq!(witness.summary().total.output_tokens, 4);
        drop(ticket);
        let total = witness.summary().models["m"];
        assert_eq!((total.active, total.aborted, total.input_tokens, total.output_tokens), (0, 1, 3, 4));
        assert_eq!(witness.records(0, 10)[0].outcome, Outcome::Aborted);
    }

    #[test]
    fn memory_is_bounded_and_counters_go_on() {
        let witness = Witness::new(2);
        let open = witness.begin(record(1));
        for sequence in 2..=5 {
            witness.begin(record(sequence)).end(Outcome::Finished);
        }
        let kept: Vec<u64> = witness.records(0, 10).iter().map(|record| record.sequence).collect();
        assert_eq!(kept, [1, 5]);
        assert_eq!(witness.summary().dropped_records, 3);
        assert_eq!(witness.summary().total.finished, 4);
        open.end(Outcome::Finished);
    }

    #[test]
    fn what_runs_through_a_reset_counts_no_more() {
        let witness = Witness::new(10);
        let sequence = witness.arrived(|sequence| Latest {
            sequence,
            method: "POST".into(),
            target: "/".into(),
            headers: Vec::new(),
            body: String::new(),
        });
        let ticket = witness.begin(record(sequence));
        witness.reset();
        ticket.wrote(5);
        ticket.end(Outcome::Finished);
        assert_eq!(witness.summary(), Summary { sequence: 1, ..Summary::default() });
    }
}
