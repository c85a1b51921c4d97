use std::{
    collections::VecDeque,
    sync::{Arc, atomic::AtomicU64},
};

use parking_lot::Mutex;
use tollgate_model::{KeyPart, LogIndex, Name, TimeZone, Timestamp, Unit, Window};
use tollgate_proto::state::v1::{Frame, FrameOutcome, NodeOpen, QuotaBatch};

mod journal;
mod leases;
mod lingering;
mod parts;
mod pockets;
mod present;
mod random;
mod standings;
mod touch;
mod unprotected;

use super::*;
use crate::{BoxFuture, Changes, HeldPart, InFlight, Ledger, Rule, UplinkError, journal::Forgetful, ledger::Query};

/// A log of one node: what is proposed is applied at once, unless it is told to fail.
#[derive(Default)]
struct Log {
    ledger: Mutex<Ledger>,
    faults: Mutex<VecDeque<Fault>>,
    used: Mutex<Vec<String>>,
    /// Desks that are shown every entry.
    followers: Mutex<Vec<Desk>>,
    index: AtomicU64,
    /// What log time is ahead of the index.
    ahead: AtomicU64,
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    /// Nothing happens.
    Unreachable,
    /// Who leads does not take it.
    Refused,
    /// It is applied, and the answer is lost.
    AnswerLost,
    /// It is applied, and no answer comes.
    Silent,
    /// Nothing happens, and no answer comes.
    Stuck,
}

fn rule(version: u64, capacity: u64) -> Rule {
    Rule {
        limit: Name::new("tpm"),
        version: LogIndex(version),
        unit: Unit::Tokens,
        per: vec![KeyPart::Consumer],
        capacity,
        window: Window::Minute,
        algorithm: tollgate_model::Algorithm::Fixed,
        time_zone: TimeZone::UTC,
        apart: false,
        shadow: false,
    }
}

impl Log {
    fn with_limit(capacity: u64) -> Arc<Self> {
        let log = Arc::new(Self::default());
        log.set_limit(1, capacity);
        log.open(1);
        log
    }

    fn with_rule(rule: Rule) -> Arc<Self> {
        let log = Arc::new(Self::default());
        log.set_rule(rule);
        log.open(1);
        log
    }

    fn set_limit(&self, version: u64, capacity: u64) {
        self.set_rule(rule(version, capacity));
    }

    fn set_rule(&self, rule: Rule) {
        self.ledger.lock().set_rule(Timestamp(0), rule, &mut Changes::new());
        self.show();
    }

    /// The next window begins.
    fn turn(&self) {
        self.ahead.store(60_000_000, std::sync::atomic::Ordering::Relaxed);
        self.apply(Frame::default());
    }

    /// Shows everyone what was applied.
    fn show(&self) {
        let mut ledger = self.ledger.lock();
        let news = ledger.take_news();
        self.followers.lock().iter().for_each(|desk| desk.follow(&ledger, &news));
    }

    fn open(&self, incarnation: u64) {
        let open = NodeOpen { node: 1, incarnation, ..NodeOpen::default() };
        self.ledger.lock().open(LogIndex(2), Timestamp(0), &open, &mut Changes::new());
    }

    fn apply(&self, frame: Frame) -> FrameOutcome {
        let index = 3 + self.index.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let batch = QuotaBatch { frames: vec![frame] };
        let mut ledger = self.ledger.lock();
        let time = index + self.ahead.load(std::sync::atomic::Ordering::Relaxed);
        let applied = ledger.apply(LogIndex(index), Timestamp(time), &batch, &mut Changes::new());
        self.used.lock().extend(applied.used.iter().map(|used| used.attribution.request_id.clone()));
        let outcome = applied.outcome.frames.into_iter().next().unwrap();
        ledger.audit().unwrap();
        drop(ledger);
        self.show();
        outcome
    }

    fn fail(&self, faults: &[Fault]) {
        self.faults.lock().extend(faults);
    }

    /// (used, held, overrun) of alice.
    fn alice(&self) -> (u64, u64, u64) {
        let page = self.ledger.lock().accounts(Timestamp(0), &Query::default());
        page.accounts.first().map_or((0, 0, 0), |view| (view.used, view.held, view.overrun))
    }
}

impl Uplink for Log {
    fn propose(&self, frame: Frame, _deadline: Instant) -> BoxFuture<'_, Result<FrameOutcome, UplinkError>> {
        let fault = self.faults.lock().pop_front();
        Box::pin(async move {
            match fault {
                None => Ok(self.apply(frame)),
                Some(Fault::Unreachable) => Err(UplinkError::NotDone("no leader".into())),
                Some(Fault::Refused) => Err(UplinkError::Refused("full".into())),
                Some(Fault::AnswerLost) => {
                    self.apply(frame);
                    Err(UplinkError::Unknown("reset".into()))
                }
                Some(Fault::Silent) => {
                    self.apply(frame);
                    std::future::pending().await
                }
                Some(Fault::Stuck) => std::future::pending().await,
            }
        })
    }
}

fn desk(log: &Arc<Log>) -> (Desk, TaskTracker) {
    desk_with(log, DeskConfig::new(NodeId(1), 1))
}

fn desk_with(log: &Arc<Log>, config: DeskConfig) -> (Desk, TaskTracker) {
    let tracker = TaskTracker::new();
    let uplink: Arc<dyn Uplink> = Arc::clone(log) as _;
    let desk = Desk::spawn(config, uplink, Arc::new(Forgetful::default()), &tracker);
    tracker.close();
    (desk, tracker)
}

fn charges(amount: u64) -> Vec<Charge> {
    vec![Charge { limit: Name::new("tpm"), version: LogIndex(1), key: vec!["alice".into()], amount }]
}

async fn reserve(desk: &Desk, amount: u64) -> Result<Reservation, ReserveError> {
    desk.reserve(
        charges(amount),
        Durability::Quorum,
        Instant::now() + Duration::from_secs(10),
        Duration::from_secs(600),
    )
    .await
}

fn named(id: &str) -> Attribution {
    Attribution { request_id: id.into(), ..Attribution::default() }
}

fn input(tokens: u64) -> Usage {
    Usage { input_tokens: tokens, ..Usage::default() }
}

async fn stopped(desk: &Desk, tracker: &TaskTracker) -> usize {
    let flushed = desk.stop(Duration::from_secs(5)).await;
    tracker.wait().await;
    flushed.unsettled
}

#[tokio::test(start_paused = true)]
async fn a_request_reserves_dispatches_and_settles() {
    let log = Log::with_limit(100);
    let (desk, tracker) = desk(&log);
    let reservation = reserve(&desk, 60).await.unwrap();
    assert_eq!((reservation.standings()[0].capacity, reservation.standings()[0].remaining), (100, 40));
    assert_eq!(log.alice(), (0, 60, 0));
    reservation.dispatch(named("r1")).settle(input(25), Outcome::Settled, named("r1"));
    assert_eq!(stopped(&desk, &tracker).await, 0);
    assert_eq!(log.alice(), (25, 0, 0));
    assert_eq!(*log.used.lock(), ["r1"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_dropped_is_voided_before_dispatch_and_settled_after() {
    let log = Log::with_limit(100);
    let (desk, tracker) = desk(&log);
    drop(reserve(&desk, 60).await.unwrap());
    let mut dropped = reserve(&desk, 30).await.unwrap().dispatch(named("r2"));
    dropped.count(input(10));
    drop(dropped);
    reserve(&desk, 5).await.unwrap().dispatch(named("r3")).void();
    assert_eq!(stopped(&desk, &tracker).await, 0);
    assert_eq!(log.alice(), (10, 0, 0));
    assert_eq!(*log.used.lock(), ["r2"]);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_names_the_limit_and_the_end_of_its_window() {
    let log = Log::with_limit(100);
    let (desk, _tracker) = desk(&log);
    let _held = reserve(&desk, 60).await.unwrap();
    let refused = reserve(&desk, 60).await.unwrap_err();
    let ReserveError::Exhausted { limit, capacity, remaining, retry_after, standings } = refused else {
        panic!("{refused:?}")
    };
    assert_eq!((&*limit, capacity, remaining, standings.len()), ("tpm", 100, 40, 1));
    assert!(retry_after > Duration::from_secs(59) && retry_after <= Duration::from_secs(60));
    let never = reserve(&desk, 101).await.unwrap_err();
    assert!(matches!(never, ReserveError::ExceedsLimit { capacity: 100, amount: 101, .. }), "{never:?}");
    let mut stale = charges(1);
    stale[0].version = LogIndex(0);
    let stale = desk
        .reserve(stale, Durability::Quorum, Instant::now() + Duration::from_secs(1), Duration::ZERO)
        .await
        .unwrap_err();
    assert!(matches!(stale, ReserveError::Stale { version: LogIndex(1), .. }), "{stale:?}");
}

#[tokio::test(start_paused = true)]
async fn requests_of_one_moment_share_a_frame() {
    let log = Log::with_limit(1_000);
    // Nobody asks twice, so that what is counted is who came.
    let (desk, _tracker) = desk_with(&log, DeskConfig { ends_within: Duration::ZERO, ..DeskConfig::new(NodeId(1), 1) });
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let desk = desk.clone();
        tasks.spawn(async move { reserve(&desk, 11).await });
    }
    let results = tasks.join_all().await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 90);
    assert_eq!(log.alice(), (0, 990, 0));
    assert_eq!(desk.stats().proposals, 1);
}

#[tokio::test(start_paused = true)]
async fn lost_answers_and_lost_leaders_change_nothing() {
    use Fault::{AnswerLost, Silent, Stuck, Unreachable};
    let log = Log::with_limit(100);
    let (desk, tracker) = desk(&log);
    log.fail(&[AnswerLost, Unreachable]);
    let first = reserve(&desk, 60).await.unwrap();
    log.fail(&[Silent, AnswerLost, Stuck]);
    let refused = reserve(&desk, 60).await;
    assert!(matches!(refused, Err(ReserveError::Exhausted { .. })), "{refused:?}");
    log.fail(&[AnswerLost, Unreachable, AnswerLost]);
    first.dispatch(named("r1")).settle(input(25), Outcome::Settled, named("r1"));
    desk.record(input(3), Outcome::Settled, named("r2"));
    assert_eq!(stopped(&desk, &tracker).await, 0);
    assert_eq!(log.alice(), (25, 0, 0));
    assert_eq!(*log.used.lock(), ["r1", "r2"]);
    assert_eq!(desk.stats().failed_proposals, 8);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_gave_up_leaves_nothing_held() {
    let log = Log::with_limit(100);
    let (desk, tracker) = desk(&log);
    log.fail(&[Fault::Silent]);
    let soon = Instant::now() + Duration::from_millis(100);
    let late = desk.reserve(charges(60), Durability::Quorum, soon, Duration::from_secs(600)).await.unwrap_err();
    assert!(matches!(late, ReserveError::Unavailable(Unavailable::Deadline)), "{late:?}");
    assert_eq!(log.alice(), (0, 60, 0), "it is held, and nobody knows yet");
    assert_eq!(stopped(&desk, &tracker).await, 0);
    assert_eq!(log.alice(), (0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_full_desk_sheds_and_a_settlement_always_has_room() {
    let log = Log::with_limit(100);
    let tracker = TaskTracker::new();
    let uplink: Arc<dyn Uplink> = Arc::clone(&log) as _;
    let config = DeskConfig { max_open: 2, ..DeskConfig::new(NodeId(1), 1) };
    let desk = Desk::spawn(config, uplink, Arc::new(Forgetful::default()), &tracker);
    tracker.close();
    let held = reserve(&desk, 10).await.unwrap();
    let unlimited = desk.reserve(Vec::new(), Durability::Journal, Instant::now(), Duration::ZERO).await.unwrap();
    let shed = reserve(&desk, 10).await.unwrap_err();
    assert!(matches!(shed, ReserveError::Unavailable(Unavailable::Overloaded)), "{shed:?}");
    desk.record(input(1), Outcome::Settled, named("lost"));
    held.dispatch(named("r1")).settle(input(4), Outcome::Settled, named("r1"));
    unlimited.dispatch(named("r2")).settle(input(5), Outcome::Settled, named("r2"));
    assert_eq!(stopped(&desk, &tracker).await, 0);
    assert_eq!(*log.used.lock(), ["r1", "r2"]);
    assert_eq!((desk.stats().dropped, desk.stats().open), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_fenced_desk_refuses_and_says_so() {
    let log = Log::with_limit(100);
    let (desk, tracker) = desk(&log);
    let held = reserve(&desk, 10).await.unwrap();
    log.open(2);
    let refused = reserve(&desk, 10).await.unwrap_err();
    assert!(matches!(refused, ReserveError::Unavailable(Unavailable::Fenced)), "{refused:?}");
    desk.fenced().await;
    drop(held);
    let refused = reserve(&desk, 10).await.unwrap_err();
    assert!(matches!(refused, ReserveError::Unavailable(Unavailable::Fenced)), "{refused:?}");
    assert_eq!(stopped(&desk, &tracker).await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_open_requests_but_not_beyond_its_time() {
    let log = Log::with_limit(100);
    let (desk, tracker) = desk(&log);
    let (open, stuck) = (reserve(&desk, 10).await.unwrap(), reserve(&desk, 10).await.unwrap());
    let stopping = {
        let desk = desk.clone();
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move { desk.stop(Duration::from_secs(5)).await });
        tasks
    };
    tokio::time::sleep(Duration::from_secs(1)).await;
    let refused = reserve(&desk, 10).await.unwrap_err();
    assert!(matches!(refused, ReserveError::Unavailable(Unavailable::Stopping)), "{refused:?}");
    open.dispatch(named("r1")).settle(input(4), Outcome::Settled, named("r1"));
    assert_eq!(stopping.join_all().await, [Flushed { unsettled: 1 }]);
    tracker.wait().await;
    assert_eq!(log.alice(), (4, 10, 0));
    drop(stuck);
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_a_proposal_that_hangs() {
    let log = Log::with_limit(100);
    let (desk, tracker) = desk(&log);
    let held = reserve(&desk, 10).await.unwrap();
    log.fail(&[Fault::Stuck; 10]);
    drop(held);
    let begun = Instant::now();
    assert_eq!(desk.stop(Duration::from_secs(1)).await, Flushed { unsettled: 1 });
    tracker.wait().await;
    assert!(begun.elapsed() < Duration::from_millis(1_100));
}
