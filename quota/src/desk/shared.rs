//! What the desk's clones, tickets and task share: the agent, who waits for what, and the signals between them.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, timeout_at},
};
use tollgate_model::Timestamp;
use tollgate_proto::state::v1::{Attribution, Hold, HoldOutcome, Settle};

use super::{
    DeskConfig, Flushed, Signal, Ticket,
    counters::Counters,
    due::Next,
    front::{Front, ROOM},
    locked::Locked,
    pockets::Pockets,
    present::Presences,
    quarantine::Quarantine,
};
use crate::{
    Charge, Durability, Ledger, Reservation, ReserveError, Standing, Unavailable, Way,
    agent::Agent,
    journal::{Journal, Watermarks},
    ledger::News,
};

/// What the waiting side of a hold gets: `None` once the incarnation is fenced.
pub(super) type Word = Option<HoldOutcome>;

pub(crate) struct Shared {
    pub(super) config: DeskConfig,
    state: Mutex<State>,
    /// What requests touch that take from pockets.
    pub(super) front: Front,
    pub(super) journal: Arc<dyn Journal>,
    pub(super) progress: Watermarks,
    pub(super) wake: Notify,
    fenced: Signal,
    /// The time to stop has come, whatever is on its way.
    overdue: Signal,
    ended: Signal,
    pub(super) counters: Counters,
    pub(super) quarantine: Quarantine,
    pub(super) presences: Presences,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) agent: Agent,
    pub(super) pockets: Pockets,
    /// Memory for settlements on their way to the agent.
    pub(super) spare: Vec<Settle>,
    /// When pockets have to be looked at.
    pub(super) sweep_at: Option<Instant>,
    pub(super) waiting: HashMap<u64, oneshot::Sender<Word>>,
    /// Log time of the last entry that was shown to us, and when that was.
    clock: Option<(u64, Instant)>,
    /// When something about leases has to be said.
    pub(super) leases_at: Option<Instant>,
    /// When what was drawn has to be said.
    pub(super) draws_at: Option<Instant>,
    /// When those who wait for others to give back ask anew.
    pub(super) retry_at: Option<Instant>,
    pub(super) holds_since: Option<Instant>,
    pub(super) settles_since: Option<Instant>,
    pub(super) stop_by: Option<Instant>,
    /// What the task will do by itself.
    pub(super) plan: Next,
    /// Up to where the journal was when it was last restated.
    pub(super) restated: u64,
    /// When the oldest settlement was made that the log has not confirmed.
    pub(super) unsaid_since: Option<Instant>,
    /// Since when the log was asked and nobody has answered.
    pub(super) asked_since: Option<Instant>,
    /// Something went on without some of its limits since then.
    pub(super) is_unprotected: bool,
    /// Who wants to know when this node is out of touch.
    pub(super) touches: usize,
    /// How long it took until all was said that earlier incarnations had left; none while it is not.
    pub(super) recovered_in: Option<Duration>,
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
}

/// A reservation, made or under way.
pub(super) enum Reserved {
    Now(Reservation),
    Later(Ticket, oneshot::Receiver<Word>),
}

impl Shared {
    pub(super) fn lock(&self) -> Locked<'_> {
        Locked::new(self.state.lock(), &self.front)
    }

    pub(super) fn new(mut config: DeskConfig, journal: Arc<dyn Journal>) -> Self {
        let mut agent = Agent::new(config.node.0, config.incarnation);
        agent.isolate_after(micros(config.isolation), 0);
        agent.linger_for(micros(config.ends_within));
        let recovered_in = config.recovers.is_empty().then_some(Duration::ZERO);
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
                plan: Next::Sleep,
                restated: 0,
                unsaid_since: None,
                asked_since: None,
                is_unprotected: false,
                touches: 0,
                recovered_in,
            }),
            front: Front::new(),
            wake: Notify::new(),
            fenced: Signal::new(),
            overdue: Signal::new(),
            ended: Signal::new(),
            counters: Counters::default(),
            quarantine: Quarantine::default(),
            presences: Presences::default(),
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
        whose: Option<&Attribution>,
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
        let (request, granted) = known.agent.reserve_now(charges, durability, micros(hold_for), now, whose);
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
            return Ok(Reserved::Now(Reservation::new(ticket, standings, Way::Local)));
        }
        Ok(Reserved::Later(ticket, self.asked(state, request)))
    }

    /// A hold of nothing, that says whose the request is.
    pub(super) fn record_in_log(
        &self,
        this: &Arc<Self>,
        whose: &Attribution,
        hold_for: Duration,
    ) -> Result<Reserved, ReserveError> {
        let mut state = self.lock();
        self.refuse_when_closed(&state, Durability::Quorum)?;
        let (hold_for_us, attribution) = (micros(hold_for), Some(whose.clone().into()));
        let hold = Hold { hold_for_us, journaled: true, attribution, ..Hold::default() };
        let request = state.agent.hold(hold);
        let ticket = Ticket::held(Arc::clone(this), request, Durability::Quorum);
        Ok(Reserved::Later(ticket, self.asked(state, request)))
    }

    /// The log is asked for it: what it says will be told.
    fn asked(&self, mut state: Locked<'_>, request: u64) -> oneshot::Receiver<Word> {
        let (tell, told) = oneshot::channel();
        state.waiting.insert(request, tell);
        state.holds_since.get_or_insert_with(Instant::now);
        drop(state);
        self.wake.notify_one();
        told
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

    /// Up to where the journal must be written so that the end of this process does not lose it.
    pub(super) fn settle(&self, settle: Settle) -> u64 {
        let mut state = self.lock();
        state.agent.settle(settle);
        self.write_down(&mut state);
        let now = *state.settles_since.get_or_insert_with(Instant::now);
        state.unsaid_since.get_or_insert(now);
        state.say_leases(&self.config);
        let position = state.agent.journaled();
        self.unlock(state);
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
        self.unlock(state);
    }

    pub(super) fn release(&self, request: u64) {
        let mut state = self.lock();
        state.agent.release(request);
        self.write_down(&mut state);
        self.unlock(state);
    }

    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }

    pub(super) fn overdue(&self) -> &Signal {
        &self.overdue
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
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
