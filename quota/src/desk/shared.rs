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
    sync::{Notify, oneshot, watch},
    time::{Instant, timeout_at},
};
use tollgate_model::Timestamp;
use tollgate_proto::state::v1::{Frame, FrameOutcome, HoldOutcome, Settle};

use super::{
    DeskConfig, DeskStats, Flushed, Signal, Ticket,
    front::{Front, ROOM},
    locked::Locked,
    pockets::Pockets,
    quarantine::Quarantine,
};
use crate::{
    Charge, Durability, Ledger, Reservation, ReserveError, Standing, Unavailable,
    agent::{Agent, Answer, MAX_FRAME_RECORDS},
    journal::{Journal, Progress},
    ledger::News,
};

/// What requests have drawn is told to the log within this time, should nothing else be: for whoever looks at the accounts.
pub(super) const DRAWS_WITHIN: Duration = Duration::from_millis(200);
/// Between two attempts of a request that waits for others to give back: about what a recall takes.
const RETRY_AFTER: Duration = Duration::from_millis(20);

/// What the waiting side of a hold gets: `None` once the incarnation is fenced.
pub(super) type Word = Option<HoldOutcome>;

pub(crate) struct Shared {
    pub(super) config: DeskConfig,
    state: Mutex<State>,
    /// What requests touch that take from pockets.
    pub(super) front: Front,
    pub(super) journal: Arc<dyn Journal>,
    pub(super) progress: watch::Receiver<Progress>,
    pub(super) wake: Notify,
    fenced: Signal,
    /// The time to stop has come, whatever is on its way.
    overdue: Signal,
    ended: Signal,
    pub(super) counters: Counters,
    pub(super) quarantine: Quarantine,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) agent: Agent,
    pub(super) pockets: Pockets,
    /// Memory for settlements on their way to the agent.
    pub(super) spare: Vec<Settle>,
    /// When pockets have to be looked at.
    pub(super) sweep_at: Option<Instant>,
    waiting: HashMap<u64, oneshot::Sender<Word>>,
    /// Log time of the last entry that was shown to us, and when that was.
    clock: Option<(u64, Instant)>,
    /// When something about leases has to be said.
    leases_at: Option<Instant>,
    /// When what was drawn has to be said.
    draws_at: Option<Instant>,
    /// When those who wait for others to give back ask anew.
    retry_at: Option<Instant>,
    holds_since: Option<Instant>,
    pub(super) settles_since: Option<Instant>,
    pub(super) stop_by: Option<Instant>,
    /// Up to where the journal was when it was last restated.
    restated: u64,
    /// When the oldest settlement was made that the log has not confirmed.
    pub(super) unsaid_since: Option<Instant>,
    /// Since when the log was asked and nobody has answered.
    pub(super) asked_since: Option<Instant>,
    /// Something went on without some of its limits since then.
    pub(super) is_unprotected: bool,
    /// Who wants to know when this node is out of touch.
    pub(super) touches: usize,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("config", &self.config).field("state", &self.state).finish_non_exhaustive()
    }
}

impl State {
    /// Log time as far as this node knows: of the last entry, and what has passed since. Late by as much as the replica is,
    /// never early.
    pub(super) fn log_time(&self) -> Timestamp {
        let passed = |at: Instant| u64::try_from(at.elapsed().as_micros()).unwrap_or(u64::MAX);
        Timestamp(self.clock.map_or(0, |(time, at)| time.saturating_add(passed(at))))
    }

    pub(super) fn say_draws(&mut self) {
        if self.draws_at.is_none() && self.agent.has_unsaid_draws() {
            self.draws_at = Some(Instant::now() + DRAWS_WITHIN);
        }
    }

    /// How long an end waits for company.
    pub(super) fn end_delay(&self, config: &DeskConfig) -> Duration {
        let is_waited_for = self.agent.has_urgent_lease_news() || self.agent.has_ends_in_log();
        if is_waited_for { config.settle_delay } else { config.end_delay }
    }

    /// Has news of leases said, within the time that ends have.
    pub(super) fn say_leases(&mut self, config: &DeskConfig) {
        self.say_leases_within(self.end_delay(config));
    }

    /// The same, at once where somebody waits for them.
    pub(super) fn say_urgent_leases(&mut self, config: &DeskConfig) {
        let is_urgent = self.agent.has_urgent_lease_news();
        self.say_leases_within(if is_urgent { config.hold_delay } else { self.end_delay(config) });
    }

    fn say_leases_within(&mut self, delay: Duration) {
        if self.agent.has_lease_news() {
            let at = Instant::now() + delay;
            self.leases_at = Some(self.leases_at.map_or(at, |known| known.min(at)));
        }
    }
}

/// A reservation, made or under way.
pub(super) enum Reserved {
    Now(Reservation),
    Later(Ticket, oneshot::Receiver<Word>),
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) local: AtomicU64,
    journal_full: AtomicU64,
    proposals: AtomicU64,
    failed_proposals: AtomicU64,
    records: AtomicU64,
    granted: AtomicU64,
    refused: AtomicU64,
    undecided: AtomicU64,
    dropped: AtomicU64,
    pub(super) unprotected: AtomicU64,
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
    pub(super) fn lock(&self) -> Locked<'_> {
        Locked::new(self.state.lock(), &self.front)
    }

    pub(super) fn new(mut config: DeskConfig, journal: Arc<dyn Journal>) -> Self {
        let mut agent = Agent::new(config.node.0, config.incarnation);
        agent.isolate_after(micros(config.isolation), 0);
        agent.recover(std::mem::take(&mut config.recovers));
        let progress = journal.progress();
        Self {
            config,
            journal,
            progress,
            state: Mutex::new(State {
                agent,
                pockets: Pockets::default(),
                spare: Vec::with_capacity(ROOM),
                sweep_at: None,
                waiting: HashMap::new(),
                clock: None,
                leases_at: None,
                draws_at: None,
                retry_at: None,
                holds_since: None,
                settles_since: None,
                stop_by: None,
                restated: 0,
                unsaid_since: None,
                asked_since: None,
                is_unprotected: false,
                touches: 0,
            }),
            front: Front::new(),
            wake: Notify::new(),
            fenced: Signal::new(),
            overdue: Signal::new(),
            ended: Signal::new(),
            counters: Counters::default(),
            quarantine: Quarantine::default(),
        }
    }

    /// A place for a request that holds nothing.
    pub(super) fn admit(&self, this: &Arc<Self>, durability: Durability) -> Result<Ticket, ReserveError> {
        let mut state = self.lock();
        self.refuse_when_closed(&state, durability)?;
        let request = state.agent.admit();
        Ok(Ticket::unheld(Arc::clone(this), request, durability))
    }

    /// Draws on leases, or queues a hold: then the receiver gets the log's word on it.
    pub(super) fn reserve(
        &self,
        this: &Arc<Self>,
        charges: &[Charge],
        durability: Durability,
        hold_for: Duration,
    ) -> Result<Reserved, ReserveError> {
        if self.quarantine.refuses(charges) {
            return Err(self.undecided(Unavailable::Quarantined));
        }
        let mut state = self.lock();
        self.refuse_when_closed(&state, durability)?;
        let now = state.log_time();
        self.pass(&mut state);
        let known = &mut *state;
        known.pockets.make_room(&mut known.agent, now, charges);
        let (request, granted) = known.agent.reserve_now(charges, durability, micros(hold_for), now);
        let ticket = Ticket::held(Arc::clone(this), request, durability);
        if granted {
            let names = charges.iter().map(|charge| charge.limit.clone());
            let standings = names.zip(known.agent.figures(request, now)).map(|(limit, it)| Standing::of(limit, it));
            let mut standings: Vec<Standing> = standings.collect();
            let unnumbered = known.agent.unnumbered(request);
            self.serve(&mut state, request, charges, durability, now);
            self.write_down(&mut state);
            let before = (state.leases_at, state.draws_at);
            state.say_urgent_leases(&self.config);
            state.say_draws();
            let ask = (state.leases_at, state.draws_at) != before;
            drop(state);
            self.counters.local.fetch_add(1, Relaxed);
            if ask {
                self.wake.notify_one();
            }
            self.count_others(charges, &unnumbered, &mut standings);
            return Ok(Reserved::Now(Reservation::drawn(ticket, standings)));
        }
        let (tell, told) = oneshot::channel();
        state.waiting.insert(request, tell);
        state.holds_since.get_or_insert_with(Instant::now);
        drop(state);
        self.wake.notify_one();
        Ok(Reserved::Later(ticket, told))
    }

    /// Takes in what an entry has changed.
    pub(super) fn follow(&self, ledger: &Ledger, news: &News) {
        let mut state = self.lock();
        self.pass(&mut state);
        let (time, now) = (ledger.counters().last_time_us, Instant::now());
        if time > state.log_time().0 {
            state.clock = Some((time, now));
            self.front.set_clock(time, micros(now.duration_since(self.config.opened)));
        }
        state.agent.follow(ledger, news);
        let log_time = state.log_time();
        let changed = (!news.all && !state.agent.book().is_closed()).then_some(&*news.accounts);
        let known = &mut *state;
        known.pockets.follow(&mut known.agent, &self.front.index, log_time, changed);
        let known = state.leases_at;
        state.say_urgent_leases(&self.config);
        let wake = state.leases_at != known;
        drop(state);
        if wake {
            self.wake.notify_one();
        }
    }

    /// Tells the agent what time it is since this incarnation was opened.
    pub(super) fn pass(&self, state: &mut State) {
        state.agent.pass(self.age());
    }

    /// This node's own clock.
    pub(super) fn age(&self) -> u64 {
        micros(self.config.opened.elapsed())
    }

    pub(super) fn refuse_when_closed(&self, state: &State, durability: Durability) -> Result<(), ReserveError> {
        let closed = if state.agent.is_fenced() {
            Unavailable::Fenced
        } else if state.stop_by.is_some() {
            Unavailable::Stopping
        } else if state.agent.load() + self.front.open() >= self.config.max_open {
            Unavailable::Overloaded
        } else if durability != Durability::Memory && self.is_behind(state) {
            self.counters.journal_full.fetch_add(1, Relaxed);
            Unavailable::Journal
        } else {
            return Ok(());
        };
        Err(self.undecided(closed))
    }

    pub(super) fn undecided(&self, why: Unavailable) -> ReserveError {
        self.counters.undecided.fetch_add(1, Relaxed);
        ReserveError::Unavailable(why)
    }

    /// Up to where the journal must be written so that the end of this process does not lose it.
    pub(super) fn settle(&self, settle: Settle) -> u64 {
        let mut state = self.lock();
        state.agent.settle(settle);
        self.write_down(&mut state);
        let now = *state.settles_since.get_or_insert_with(Instant::now);
        state.unsaid_since.get_or_insert(now);
        state.say_leases(&self.config);
        let position = state.agent.journaled();
        drop(state);
        self.wake.notify_one();
        position
    }

    /// Gives up a hold in whatever state it is.
    pub(super) fn cancel(&self, request: u64) {
        let mut state = self.lock();
        state.waiting.remove(&request);
        state.agent.cancel(request);
        self.write_down(&mut state);
        if state.agent.queued().1 > 0 {
            state.settles_since.get_or_insert_with(Instant::now);
        }
        state.say_leases(&self.config);
        drop(state);
        self.wake.notify_one();
    }

    pub(super) fn release(&self, request: u64) {
        let mut state = self.lock();
        state.agent.release(request);
        self.write_down(&mut state);
        drop(state);
        self.wake.notify_one();
    }

    /// When the next frame goes out.
    pub(super) fn next(&self) -> Next {
        let mut state = self.lock();
        let sweep_at = self.sweep_at(&mut state);
        let (holds, settles) = state.agent.queued();
        if let Some(by) = state.stop_by {
            let leases = state.agent.has_lease_news() || self.front.seen().ended;
            let load = state.agent.load() + self.front.open();
            let said = load == 0 && !leases && !state.agent.is_sending();
            let over = said || state.agent.is_fenced() || Instant::now() >= by;
            return match (over, holds + settles > 0 || leases || state.agent.is_sending()) {
                (true, _) => Next::End,
                (false, true) => Next::At(Instant::now()),
                (false, false) => {
                    Next::At(state.retry_at.filter(|_| state.agent.is_waiting()).map_or(by, |at| at.min(by)))
                }
            };
        }
        let is_full = holds + settles >= MAX_FRAME_RECORDS;
        if state.agent.is_sending() || state.agent.has_to_recover() || is_full {
            return Next::At(Instant::now());
        }
        let hold_at = state.holds_since.filter(|_| holds > 0).map(|since| since + self.config.hold_delay);
        let ends_within = state.end_delay(&self.config);
        let settle_at = state.settles_since.filter(|_| settles > 0).map(|since| since + ends_within);
        let retry_at = state.retry_at.filter(|_| state.agent.is_waiting());
        let at = |us: u64| self.config.opened.checked_add(Duration::from_micros(us));
        let renew_at = state.agent.renew_at().and_then(at);
        let aged_at = state.agent.next_lease_news().and_then(at);
        let leases_at = [state.leases_at, state.draws_at, aged_at, sweep_at];
        let others = leases_at.into_iter().chain([settle_at, retry_at, renew_at]).flatten();
        hold_at.into_iter().chain(others).min().map_or(Next::Sleep, Next::At)
    }

    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }

    pub(super) fn overdue(&self) -> &Signal {
        &self.overdue
    }

    /// The frame to send, and up to where the journal must be durable before.
    pub(super) fn next_frame(&self) -> Option<(Frame, u64)> {
        let mut state = self.lock();
        let log_time = state.log_time();
        self.pass(&mut state);
        let Progress { is_long, durable, .. } = *self.progress.borrow();
        if is_long && durable >= state.restated {
            state.agent.restate();
            state.restated = state.agent.journaled();
        }
        if state.retry_at.take_if(|at| *at <= Instant::now()).is_some() {
            let answers = state.agent.retry(log_time);
            self.tell(&mut state, answers);
        }
        self.sweep_state(&mut state);
        (state.leases_at, state.draws_at) = (None, None);
        let frame = state.agent.next_frame(log_time);
        self.write_down(&mut state);
        let after = state.agent.sends_after();
        state.say_leases(&self.config);
        // What did not fit has waited already.
        let (holds, settles) = state.agent.queued();
        let now = Instant::now();
        state.holds_since = (holds > 0).then_some(now);
        state.settles_since = (settles > 0).then_some(now);
        self.counters.proposals.fetch_add(u64::from(frame.is_some()), Relaxed);
        frame.map(|frame| (frame, after))
    }

    /// Hands the log's words to those who wait for them. Whether the frame is confirmed.
    pub(super) fn applied(&self, outcome: &FrameOutcome) -> bool {
        let mut state = self.lock();
        let log_time = state.log_time();
        self.pass(&mut state);
        let answers = state.agent.applied(outcome, log_time);
        let confirmed = !state.agent.is_sending();
        let fenced = state.agent.is_fenced();
        if confirmed {
            // What was queued while the frame was on its way waits since then.
            state.unsaid_since = state.settles_since.filter(|_| state.agent.queued().1 > 0);
        }
        if state.agent.queued().0 > 0 {
            state.holds_since.get_or_insert_with(Instant::now);
        }
        if state.agent.queued().1 > 0 {
            state.settles_since.get_or_insert_with(Instant::now);
        }
        if state.agent.is_waiting() {
            state.retry_at.get_or_insert_with(|| Instant::now() + RETRY_AFTER);
        }
        state.say_leases(&self.config);
        self.tell(&mut state, answers);
        if fenced {
            self.close_pockets(&mut state);
        }
        drop(state);
        if fenced {
            self.fenced.cancel();
        }
        confirmed
    }

    fn tell(&self, state: &mut State, answers: Vec<Answer>) {
        for Answer { request, outcome } in answers {
            let Some(waiting) = state.waiting.remove(&request) else { continue };
            self.count_word(outcome.as_ref());
            // Should the caller have gone just now, its ticket cancels the request when it is dropped.
            let _ = waiting.send(outcome);
        }
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
        self.lock().waiting.clear();
        self.ended.cancel();
    }

    /// Gives back what is in hand, and reserves no more.
    fn close(&self, by: Instant) {
        let mut state = self.lock();
        state.stop_by = Some(by);
        self.pass(&mut state);
        self.close_pockets(&mut state);
        state.agent.close();
    }

    pub(super) async fn stop(&self, by: Instant) -> Flushed {
        self.close(by);
        self.wake.notify_one();
        if timeout_at(by, self.ended.cancelled()).await.is_err() {
            self.overdue.cancel();
            self.ended.cancelled().await;
        }
        let unsettled = self.lock().agent.load() + self.front.open();
        Flushed { unsettled }
    }

    pub(super) fn stats(&self) -> DeskStats {
        let count = |counter: &AtomicU64| counter.load(Relaxed);
        let mut state = self.lock();
        let unsaid_since = state.unsaid_since;
        self.pass(&mut state);
        let unjournaled = state.agent.journaled().saturating_sub(self.progress.borrow().durable);
        let (open, isolated) = (state.agent.load() + self.front.open(), state.agent.is_isolated());
        let pockets = state.pockets.len();
        drop(state);
        DeskStats {
            open,
            pockets,
            quarantined: self.quarantine.len(),
            settle_lag: unsaid_since.map_or(Duration::ZERO, |since| since.elapsed()),
            proposals: count(&self.counters.proposals),
            failed_proposals: count(&self.counters.failed_proposals),
            records: count(&self.counters.records),
            journal_full: count(&self.counters.journal_full),
            unjournaled,
            isolated,
            local: count(&self.counters.local) + self.front.served(),
            granted: count(&self.counters.granted),
            refused: count(&self.counters.refused),
            undecided: count(&self.counters.undecided),
            dropped: count(&self.counters.dropped),
            unprotected: count(&self.counters.unprotected),
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
