//! What the desk's clones, tickets and task share: the agent, who waits for what, and the signals between them.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, timeout_at},
};
use tollgate_model::Timestamp;
use tollgate_proto::state::v1::{self as wire, Frame, FrameOutcome, HoldOutcome, Settle};

use super::{DeskConfig, DeskStats, Flushed, Signal, Ticket};
use crate::{
    Charge, ReserveError, Unavailable,
    agent::{Agent, MAX_FRAME_RECORDS},
};

/// What the waiting side of a hold gets: `None` once the incarnation is fenced.
pub(super) type Word = Option<HoldOutcome>;

#[derive(Debug)]
pub(crate) struct Shared {
    pub(super) config: DeskConfig,
    state: Mutex<State>,
    wake: Notify,
    fenced: Signal,
    /// The time to stop has come, whatever is on its way.
    overdue: Signal,
    ended: Signal,
    counters: Counters,
}

#[derive(Debug)]
struct State {
    agent: Agent,
    waiting: HashMap<u64, oneshot::Sender<Word>>,
    holds_since: Option<Instant>,
    settles_since: Option<Instant>,
    stop_by: Option<Instant>,
}

#[derive(Debug, Default)]
struct Counters {
    proposals: AtomicU64,
    failed_proposals: AtomicU64,
    records: AtomicU64,
    granted: AtomicU64,
    refused: AtomicU64,
    undecided: AtomicU64,
    dropped: AtomicU64,
}

/// What the task does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing is queued.
    Sleep,
    /// Something is queued; it goes out at this time.
    At(Instant),
    /// All is said, or the time for it is over.
    End,
}

impl Shared {
    pub(super) fn new(config: DeskConfig) -> Self {
        let agent = Agent::new(config.node.0, config.incarnation);
        Self {
            config,
            state: Mutex::new(State {
                agent,
                waiting: HashMap::new(),
                holds_since: None,
                settles_since: None,
                stop_by: None,
            }),
            wake: Notify::new(),
            fenced: Signal::new(),
            overdue: Signal::new(),
            ended: Signal::new(),
            counters: Counters::default(),
        }
    }

    /// A place for a request that holds nothing.
    pub(super) fn admit(&self, this: &Arc<Self>) -> Result<Ticket, ReserveError> {
        let mut state = self.state.lock();
        self.refuse_when_closed(&state)?;
        let request = state.agent.admit();
        Ok(Ticket::unheld(Arc::clone(this), request))
    }

    /// Queues a hold; the receiver gets the log's word on it.
    pub(super) fn hold(
        &self,
        this: &Arc<Self>,
        charges: &[Charge],
        hold_for: Duration,
    ) -> Result<(Ticket, oneshot::Receiver<Word>), ReserveError> {
        let hold = wire::Hold {
            request: 0,
            charges: charges.iter().map(to_wire).collect(),
            hold_for_us: u64::try_from(hold_for.as_micros()).unwrap_or(u64::MAX),
        };
        let (tell, told) = oneshot::channel();
        let mut state = self.state.lock();
        self.refuse_when_closed(&state)?;
        let request = state.agent.hold(hold);
        state.waiting.insert(request, tell);
        state.holds_since.get_or_insert_with(Instant::now);
        drop(state);
        self.wake.notify_one();
        Ok((Ticket::held(Arc::clone(this), request), told))
    }

    fn refuse_when_closed(&self, state: &State) -> Result<(), ReserveError> {
        let closed = if state.agent.is_fenced() {
            Unavailable::Fenced
        } else if state.stop_by.is_some() {
            Unavailable::Stopping
        } else if state.agent.load() >= self.config.max_open {
            Unavailable::Overloaded
        } else {
            return Ok(());
        };
        Err(self.undecided(closed))
    }

    pub(super) fn undecided(&self, why: Unavailable) -> ReserveError {
        self.counters.undecided.fetch_add(1, Relaxed);
        ReserveError::Unavailable(why)
    }

    pub(super) fn settle(&self, settle: Settle) {
        let mut state = self.state.lock();
        state.agent.settle(settle);
        state.settles_since.get_or_insert_with(Instant::now);
        drop(state);
        self.wake.notify_one();
    }

    /// Gives up a hold in whatever state it is.
    pub(super) fn cancel(&self, request: u64) {
        let mut state = self.state.lock();
        state.waiting.remove(&request);
        state.agent.cancel(request);
        if state.agent.queued().1 > 0 {
            state.settles_since.get_or_insert_with(Instant::now);
        }
        drop(state);
        self.wake.notify_one();
    }

    pub(super) fn release(&self) {
        self.state.lock().agent.release();
        self.wake.notify_one();
    }

    /// When the next frame goes out.
    pub(super) fn next(&self) -> Next {
        let state = self.state.lock();
        let (holds, settles) = state.agent.queued();
        if let Some(by) = state.stop_by {
            let over = state.agent.load() == 0 || state.agent.is_fenced() || Instant::now() >= by;
            return match (over, holds + settles > 0 || state.agent.is_sending()) {
                (true, _) => Next::End,
                (false, true) => Next::At(Instant::now()),
                (false, false) => Next::At(by),
            };
        }
        if state.agent.is_sending() || holds + settles >= MAX_FRAME_RECORDS {
            return Next::At(Instant::now());
        }
        let hold_at = state.holds_since.filter(|_| holds > 0).map(|since| since + self.config.hold_delay);
        let settle_at = state.settles_since.filter(|_| settles > 0).map(|since| since + self.config.settle_delay);
        hold_at.into_iter().chain(settle_at).min().map_or(Next::Sleep, Next::At)
    }

    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }

    pub(super) fn overdue(&self) -> &Signal {
        &self.overdue
    }

    pub(super) fn next_frame(&self) -> Option<Frame> {
        let mut state = self.state.lock();
        state.holds_since = None;
        state.settles_since = None;
        let frame = state.agent.next_frame(Timestamp(0));
        // What did not fit has waited already.
        let (holds, settles) = state.agent.queued();
        let now = Instant::now();
        state.holds_since = (holds > 0).then_some(now);
        state.settles_since = (settles > 0).then_some(now);
        self.counters.proposals.fetch_add(u64::from(frame.is_some()), Relaxed);
        frame
    }

    /// Hands the log's words to those who wait for them. Whether the frame is confirmed.
    pub(super) fn applied(&self, outcome: &FrameOutcome) -> bool {
        let mut state = self.state.lock();
        let answers = state.agent.applied(outcome, Timestamp(0));
        let confirmed = !state.agent.is_sending();
        let fenced = state.agent.is_fenced();
        if state.agent.queued().0 > 0 {
            state.holds_since.get_or_insert_with(Instant::now);
        }
        if state.agent.queued().1 > 0 {
            state.settles_since.get_or_insert_with(Instant::now);
        }
        let tell: Vec<_> = answers
            .into_iter()
            .filter_map(|answer| Some((state.waiting.remove(&answer.request)?, answer.outcome)))
            .collect();
        drop(state);
        for (waiting, word) in tell {
            self.count_word(word.as_ref());
            // Should the caller have gone just now, its ticket cancels the request when it is dropped.
            let _ = waiting.send(word);
        }
        if fenced {
            self.fenced.cancel();
        }
        confirmed
    }

    fn count_word(&self, word: Option<&HoldOutcome>) {
        let counter = match word {
            Some(said) if said.granted => &self.counters.granted,
            Some(_) => &self.counters.refused,
            None => &self.counters.undecided,
        };
        counter.fetch_add(1, Relaxed);
    }

    pub(super) fn count_confirmed(&self, records: usize) {
        self.counters.records.fetch_add(records as u64, Relaxed);
    }

    pub(super) fn count_failed(&self) {
        self.counters.failed_proposals.fetch_add(1, Relaxed);
    }

    pub(super) fn count_dropped(&self) {
        self.counters.dropped.fetch_add(1, Relaxed);
    }

    pub(super) fn fenced(&self) -> &Signal {
        &self.fenced
    }

    /// The task has ended: nobody is told anything any more.
    pub(super) fn end(&self) {
        self.state.lock().waiting.clear();
        self.ended.cancel();
    }

    pub(super) async fn stop(&self, by: Instant) -> Flushed {
        self.state.lock().stop_by = Some(by);
        self.wake.notify_one();
        if timeout_at(by, self.ended.cancelled()).await.is_err() {
            self.overdue.cancel();
            self.ended.cancelled().await;
        }
        Flushed { unsettled: self.state.lock().agent.load() }
    }

    pub(super) fn stats(&self) -> DeskStats {
        let count = |counter: &AtomicU64| counter.load(Relaxed);
        DeskStats {
            open: self.state.lock().agent.load(),
            proposals: count(&self.counters.proposals),
            failed_proposals: count(&self.counters.failed_proposals),
            records: count(&self.counters.records),
            granted: count(&self.counters.granted),
            refused: count(&self.counters.refused),
            undecided: count(&self.counters.undecided),
            dropped: count(&self.counters.dropped),
        }
    }
}

fn to_wire(charge: &Charge) -> wire::Charge {
    wire::Charge {
        limit: charge.limit.to_string(),
        key: charge.key.clone(),
        amount: charge.amount,
        limit_version: charge.version.0,
    }
}
